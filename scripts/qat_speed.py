"""What a training step costs: the prepared module against the float module, in one run.

Both take the same batches in turn; the figure is the ratio of the fastest steps.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.quant.qat import prepare
from opennpe.quant.workloads import registry
from torch import nn


def step(model: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor) -> float:
    """CPU seconds of a forward pass, a backward pass and an update: other work does not count."""
    targets = torch.arange(len(x)) % 10
    begun = time.process_time()
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x), targets).backward()
    optimiser.step()
    return time.process_time() - begun


def ratio(name: str, workload: str, batch: int, steps: int) -> tuple[float, float]:
    """Fastest float step in seconds, and how many times as long a rounded one takes."""
    work = registry.get(workload)
    example = work.example()
    x = torch.rand((batch, *example[0].shape[1:]), generator=torch.Generator().manual_seed(0))
    plain = work.model().to(memory_format=torch.channels_last).train()
    rounded = prepare(work.model().eval(), example, name, x[:32]).train()
    sides = [
        (model, torch.optim.SGD(model.parameters(), 1e-3), x.contiguous(memory_format=form))
        for model, form in ((plain, torch.channels_last), (rounded, torch.contiguous_format))
    ]
    seconds: list[list[float]] = [[], []]
    for number in range(steps + 3):
        for held, side in zip(seconds, sides, strict=True):
            taken = step(*side)
            if number >= 3:
                held.append(taken)
    fastest = [min(held) for held in seconds]
    return fastest[0], fastest[1] / fastest[0]


def main() -> int:
    """A line a format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="fashion", help="fashion or mobilenet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ENGINE_FORMATS:
        base, times = ratio(name, options.workload, options.batch, options.steps)
        print(f"{options.workload} {name}: {times:.2f} x the float step of {1000 * base:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
