"""Train the shipped network, a small classifier of Fashion-MNIST, and cut its test images.

Writes ``fashion.onnx``, ``test.npz`` and ``calibration.npz`` into ``quant/zoo``. One set of weights
has to serve every format without retraining, so two things are unlike plain training. The first
layer, whose nine weights a filter are what four bits hurt most, holds only values that all formats
share. And now and then an image, a tensor or a layer's weights are rounded to a 4-bit format, as a
kind of noise. About ten minutes on one idle core; the seed is fixed, but another PyTorch or CPU may
round differently and end a few images off.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from opennpe import quant, sim
from opennpe.cli.networks import Op, Plan, to_onnx
from opennpe.cli.torch_networks import PlanModule
from opennpe.golden import catalog, formats
from opennpe.golden.errors import DataError
from opennpe.quant import float_eval
from opennpe.quant.workloads import fashion
from opennpe.quant.workloads.images import mirrored
from torch import nn
from torch.nn import functional as F

ZOO = Path(__file__).resolve().parents[1] / "quant" / "zoo"

BATCH, RATE = 128, 6e-3
INPUT_NOISE = 0.6
"""Share of batches whose images are rounded to four bits."""
NOISE = 0.1
"""The same for each tensor between layers, and for each layer's weights."""

PLAN = Plan(
    "fashion",
    (1, 28, 28),
    (
        Op("stem", "conv", ("x",), channels=(1, 16), kernel=3),
        Op("stem.relu6", "relu6", ("stem",)),
        Op("stem.pool", "max_pool", ("stem.relu6",), kernel=2, stride=2),
        Op("first.conv1", "conv", ("stem.pool",), channels=(16, 16), kernel=3),
        Op("first.relu1", "relu", ("first.conv1",)),
        Op("first.conv2", "conv", ("first.relu1",), channels=(16, 16), kernel=3),
        Op("first.add", "add", ("first.conv2", "stem.pool")),
        Op("first.relu2", "relu", ("first.add",)),
        Op("down.expand", "conv", ("first.relu2",), channels=(16, 48)),
        Op("down.swish", "hard_swish", ("down.expand",)),
        Op("down.depthwise", "conv", ("down.swish",), channels=(48, 48), kernel=3, stride=2,
           groups=48),
        Op("down.relu6", "relu6", ("down.depthwise",)),
        Op("down.project", "conv", ("down.relu6",), channels=(48, 32)),
        Op("second.conv1", "conv", ("down.project",), channels=(32, 32), kernel=3),
        Op("second.relu1", "relu", ("second.conv1",)),
        Op("second.conv2", "conv", ("second.relu1",), channels=(32, 32), kernel=3),
        Op("second.add", "add", ("second.conv2", "down.project")),
        Op("head", "conv", ("second.add",), channels=(32, 96)),
        Op("head.relu6", "relu6", ("head",)),
        Op("average", "average", ("head.relu6",)),
        Op("fc", "linear", ("average",), channels=(96, 10)),
    ),
)  # fmt: skip


class Rounding:
    """Rounding to a set of values for PyTorch, with a straight-through gradient.

    Scales are powers of two with the least squared error, as calibration chooses them.
    """

    def __init__(self, name: str, values: np.ndarray, bounds: list[float]) -> None:
        """``values`` ascend from zero; ``bounds`` lie between neighbours."""
        self.name, self.largest = name, float(values[-1])
        self.steps = list(zip(bounds, np.diff(values).tolist(), strict=True))

    @classmethod
    def of(cls, name: str) -> Rounding:
        """A format's own rounding, zero among the codes."""
        fmt = formats.get(name)
        values = np.unique(fmt.values[fmt.values >= 0])
        bounds = []
        for low, high in itertools.pairwise(values.tolist()):
            below = low
            for _ in range(30):  # bisection on the format itself
                middle = (low + high) / 2
                if float(fmt.decode(fmt.encode(middle, "zero"))) == below:
                    low = middle
                else:
                    high = middle
            bounds.append(low)
        return cls(name, values, bounds)

    @classmethod
    def common(cls) -> Rounding:
        """To the nearest value that every format of the engine has."""
        sets = [set(formats.get(name).values.tolist()) for name in formats.ENGINE_FORMATS]
        values = np.array(sorted(v for v in set.intersection(*sets) if v >= 0))
        return cls("common", values, ((values[:-1] + values[1:]) / 2).tolist())

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Each value at scale 1."""
        magnitude = x.abs()
        total = torch.zeros_like(x)
        for bound, step in self.steps:  # few enough to beat a search
            total.add_(magnitude > bound, alpha=step)
        return total.copysign_(x)

    def unit(self, values: torch.Tensor) -> torch.Tensor:
        """2**-scale for each row of ``values`` (R, n), as (R, 1)."""
        top = torch.frexp(values.abs().amax(1, keepdim=True).clamp_min(1e-12))[1]
        tries = top - int(np.log2(self.largest)) + torch.arange(-1, 4)
        units = torch.exp2(-tries.float())[:, :, None]  # (R, tries, 1)
        scaled = values[:, None, :] * units
        errors = (((self.nearest(scaled) - scaled) / units) ** 2).sum(2)
        return torch.gather(units[:, :, 0], 1, errors.argmin(1, keepdim=True))

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` at one scale."""
        with torch.no_grad():
            flat = x.reshape(1, -1)
            unit = self.unit(flat[:, :: max(1, flat.shape[1] // 2048)])[0, 0]
            rounded = self.nearest(x * unit) / unit
        return x + (rounded - x).detach()

    def channels(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights at a scale an output channel."""
        with torch.no_grad():
            flat = weight.reshape(len(weight), -1)
            unit = self.unit(flat)
            rounded = (self.nearest(flat * unit) / unit).reshape(weight.shape)
        return weight + (rounded - weight).detach()


class Trained(PlanModule):
    """The plan with batch normalisation after all convolutions but the first, and with noise."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.first = plan.ops[0]
        self.shared = Rounding.common()
        self.narrow = [Rounding.of("fp4"), Rounding.of("posit4")]
        normalised = [op for op in plan.ops if op.kind == "conv" and op != self.first]
        self.norms = nn.ModuleDict({_key(op): nn.BatchNorm2d(op.channels[1]) for op in normalised})
        # What a relu follows is not rounded before it, and a maximum is rounded already.
        relus = [op for op in plan.ops if op.kind in ("relu", "relu6")]
        self.unrounded = {name for op in relus for name in op.inputs}
        self.unrounded |= {op.name for op in plan.ops if op.kind == "max_pool"}

    def _noise(self, chance: float) -> Rounding | None:
        if not self.training or torch.rand(()).item() >= chance:
            return None
        return self.narrow[int(torch.randint(2, ()))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = self._noise(INPUT_NOISE)
        return super().forward(x if noise is None else noise.tensor(x))

    def run(self, op: Op, given: list[torch.Tensor]) -> torch.Tensor:
        if not op.weight_shape:
            return super().run(op, given)
        layer = self.products[_key(op)]
        rounding = self.shared if op == self.first else self._noise(NOISE)
        weight = layer.weight if rounding is None else rounding.channels(layer.weight)
        if op.kind == "linear":
            return F.linear(given[0], weight, layer.bias)
        return F.conv2d(given[0], weight, layer.bias, op.stride, op.padding, groups=op.groups)

    def written(self, op: Op, value: torch.Tensor) -> torch.Tensor:
        if _key(op) in self.norms:
            value = self.norms[_key(op)](value)
        noise = None if op.name in self.unrounded else self._noise(NOISE)
        return value if noise is None else noise.tensor(value)

    def weights(self) -> dict[str, np.ndarray]:
        """What is exported: normalisations folded, the first layer's weights as they are used."""
        weights = super().weights()
        name = f"{self.first.name}.weight"
        weights[name] = self.shared.channels(torch.from_numpy(weights[name])).numpy()
        for op in self.plan.ops:
            if _key(op) not in self.norms:
                continue
            norm = self.norms[_key(op)]
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
            mean, beta = norm.running_mean.numpy(), norm.bias.detach().numpy()
            weights[f"{op.name}.weight"] *= scale[:, None, None, None]
            weights[f"{op.name}.bias"] = (weights[f"{op.name}.bias"] - mean) * scale + beta
        return weights


def _key(op: Op) -> str:
    return op.name.replace(".", "_")


# -- data ----------------------------------------------------------------------------------------


def read(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,) of "train" or "t10k"."""
    images, labels = fashion.read(folder, part)
    real = torch.from_numpy(images.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return real, torch.from_numpy(labels)


def batches(
    images: torch.Tensor, labels: torch.Tensor, size: int, rng: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch in random order, images mirrored half the time."""
    order = torch.randperm(len(images), generator=rng)
    for chosen in order.split(size)[: len(images) // size]:
        yield mirrored(images[chosen], rng), labels[chosen]


# -- training ------------------------------------------------------------------------------------


def train(
    model: Trained,
    data: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    rng: torch.Generator,
) -> None:
    """AdamW on a one-cycle schedule."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    total = epochs * (len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total, pct_start=0.15)
    for epoch in range(epochs):
        begun, losses = time.process_time(), []
        model.train()
        for x, y in batches(*data, BATCH, rng):
            loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.process_time() - begun
        print(
            f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.0f} s", flush=True
        )


def main() -> int:
    """Train, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=fashion.folder(), help="folder of the four .gz files"
    )
    parser.add_argument("--out", type=Path, default=ZOO, help="folder for the results")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = torch.Generator().manual_seed(options.seed)
    try:
        data, test = read(options.data, "train"), read(options.data, "t10k")
    except DataError as error:
        sys.exit(str(error))
    model = Trained(PLAN).to(memory_format=torch.channels_last)  # twice as fast here
    train(model, data, options.epochs, rng)
    write(options.out, model, data, test)
    report(options.out, test)
    return 0


def write(
    folder: Path,
    model: Trained,
    data: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """The three files: the model, the first 1,000 test images, 128 training images."""
    folder.mkdir(parents=True, exist_ok=True)
    model_bytes = to_onnx(PLAN, model.weights()).SerializeToString(deterministic=True)
    (folder / "fashion.onnx").write_bytes(model_bytes)
    images, labels = (side[:1000].numpy() for side in test)
    np.savez_compressed(folder / "test.npz", x=images, y=labels)
    np.savez_compressed(folder / "calibration.npz", x=data[0][:128].numpy())
    for name in ("fashion.onnx", "test.npz", "calibration.npz"):
        print(f"{folder / name}: {(folder / name).stat().st_size / 1000:.0f} kB")


def report(folder: Path, test: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Top-1 of the written model over all test images, float and in every format."""
    images, labels = (side.numpy() for side in test)
    graph = quant.load_onnx(folder / "fashion.onnx")
    with np.load(folder / "calibration.npz") as held:
        shown = held["x"]
    spec = catalog.get("EDGE_4X4")
    for name in ("fp32", *formats.ENGINE_FORMATS):
        network = None if name == "fp32" else quant.calibrate(graph, shown, name)
        hits = 0
        for start in range(0, len(images), 500):
            x, y = images[start : start + 500], labels[start : start + 500]
            if network is None:
                scores = float_eval.evaluate(graph, {"x": x})["scores"]
            else:
                codes, _ = sim.run(spec, network, {"x": x})
                scores = network.tensors["scores"].decode(codes["scores"])
            hits += int((scores.argmax(1) == y).sum())
        print(f"{name}: {100 * hits / len(images):.2f} % of {len(images)} test images", flush=True)


if __name__ == "__main__":
    sys.exit(main())
