"""Train the small odometry network in float32 and print what its inputs are worth.

``python -m opennpe.quant.workloads.vio_fit`` prints a table; ``--save FILE`` keeps the weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.errors import ModelError, OpenNPEError
from opennpe.golden.whole import replacing
from opennpe.quant.workloads.base import Predict, Split, Workload
from opennpe.quant.workloads.vio import Vio
from torch import nn

__all__ = ["EPOCHS", "fit", "main", "predictor"]

EPOCHS = 16
BATCH = 32
RATE = 3e-3
DECAY = 1e-4
WARM = 0.1
"""Share of the steps in which the rate of learning rises; then it falls along a cosine."""
Report = Callable[[int, float], None]


def fit(
    workload: Workload,
    model: nn.Module,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    rate: float = RATE,
    seed: int = 0,
    report: Report | None = None,
) -> nn.Module:
    """Train a network in place by AdamW; returned in eval mode. The same seed, the same bits.

    Args:
        workload: whose training split and loss are used.
        model: of the workload.
        epochs, batch, rate: passes, samples a step, the largest rate of learning.
        seed: of the order and of what augmentation draws.
        report: called with the epoch from 1 and its mean loss.

    Raises:
        DataError: no training data.
        ModelError: the loss became NaN or infinite.
    """
    rng = torch.Generator().manual_seed(seed)
    steps = epochs * sum(1 for _ in workload.batches("train", batch, torch.Generator()))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _share(s, steps))
    for epoch in range(1, epochs + 1):
        model.train()
        losses: list[float] = []
        for part in workload.batches("train", batch, rng):
            loss = workload.loss(model(*part.inputs), part)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise ModelError(
                    f"the loss is {losses[-1]} at step {len(losses)} of epoch {epoch}: "
                    f"train with a smaller rate than {rate:g}"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        if report is not None:
            report(epoch, float(np.mean(losses)))
    return model.eval()


def _share(step: int, steps: int) -> float:
    warm = max(1, int(WARM * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def predictor(model: nn.Module, blank: tuple[int, ...] = ()) -> Predict:
    """A network as metrics call it; the inputs numbered in ``blank`` are replaced by zeros."""

    def predict(inputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
        given = [
            torch.zeros(x.shape) if i in blank else torch.from_numpy(x)
            for i, x in enumerate(inputs)
        ]
        with torch.inference_mode():
            return np.asarray(model(*given), dtype=np.float32)

    return predict


def mean_motion(inputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """The training split's mean, whatever the inputs: standardised outputs of 0."""
    return np.zeros((len(inputs[0]), 6), dtype=np.float32)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Train the small odometry network in float32.")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--save", type=Path, help="a file for the trained weights")
    given = parser.parse_args(arguments)
    try:
        _run(given.epochs, given.seed, given.split, given.save)
    except OpenNPEError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(epochs: int, seed: int, split: Split, save: Path | None) -> None:
    torch.set_num_threads(1)
    workload = Vio()
    begun = time.process_time()
    workload.calibration()
    print(f"drawn in {time.process_time() - begun:.1f} s of a core", flush=True)
    begun = time.process_time()
    model = fit(
        workload,
        workload.model(seed),
        epochs,
        seed=seed,
        report=lambda epoch, loss: print(f"epoch {epoch}: loss {loss:.5f}", flush=True),
    )
    print(f"trained in {time.process_time() - begun:.0f} s of a core")
    rows = {
        "mean motion": mean_motion,
        "network": predictor(model),
        "network, images blank": predictor(model, blank=(0,)),
        "network, inertial blank": predictor(model, blank=(1,)),
    }
    for name, predict in rows.items():
        found = workload.metrics(predict, split)
        print(f"{name:24s}" + "".join(f" {key} {value:.3f}" for key, value in found.items()))
    if save is not None:
        with replacing(save) as part:
            torch.save(model.state_dict(), part)


if __name__ == "__main__":
    sys.exit(main())
