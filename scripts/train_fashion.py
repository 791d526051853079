"""Train the shipped network, a small classifier of Fashion-MNIST, and cut its test images.

Writes ``fashion.onnx``, ``test.npz`` and ``calibration.npz`` into ``quant/zoo``. Two phases: plain
training with batch normalisation, then, with the normalisation folded into the weights, a shorter
one in which batches see weights and activations rounded to one of the narrow formats or not at
all, so that one set of weights serves every format. About ten minutes on one core; the seed
is fixed, but another PyTorch or CPU may round differently and end a few images off.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from opennpe.cli.networks import Op, Plan, to_onnx
from opennpe.cli.torch_networks import PlanModule, load
from opennpe.golden import formats
from torch import nn
from torch.nn import functional as F

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CURE = "apt-get install dataset-fashion-mnist (Debian), or give the folder of the four .gz files"
ZOO = Path(__file__).resolve().parents[1] / "quant" / "zoo"

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


class Normalised(PlanModule):
    """Phase one: a batch normalisation after every convolution."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        convolutions = [op for op in plan.ops if op.kind == "conv"]
        self.norms = nn.ModuleDict(
            {op.name.replace(".", "_"): nn.BatchNorm2d(op.channels[1]) for op in convolutions}
        )

    def written(self, op: Op, value: torch.Tensor) -> torch.Tensor:
        if op.kind != "conv":
            return value
        return self.norms[op.name.replace(".", "_")](value)

    def folded(self) -> dict[str, np.ndarray]:
        """Weights in which the normalisations are scales and offsets."""
        weights = self.weights()
        for op in self.plan.ops:
            if op.kind != "conv":
                continue
            norm = self.norms[op.name.replace(".", "_")]
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
            mean, beta = norm.running_mean.numpy(), norm.bias.detach().numpy()
            weights[f"{op.name}.weight"] *= scale[:, None, None, None]
            weights[f"{op.name}.bias"] = (weights[f"{op.name}.bias"] - mean) * scale + beta
        return weights


class Rounding:
    """A format's rounding for PyTorch: nearest, zero among the codes, straight-through gradient.

    Scales are powers of two with the least squared error, as calibration chooses them.
    """

    def __init__(self, name: str) -> None:
        self.format = formats.get(name)
        positive = np.unique(self.format.values[self.format.values >= 0])
        self.steps = [
            (self._boundary(float(low), float(high)), float(high - low))
            for low, high in itertools.pairwise(positive)
        ]

    def _boundary(self, low: float, high: float) -> float:
        """Where rounding goes from one value to the next, by bisection on the format itself."""
        below = low
        for _ in range(30):
            middle = (low + high) / 2
            if float(self.format.decode(self.format.encode(middle, "zero"))) == below:
                low = middle
            else:
                high = middle
        return low

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        magnitude = x.abs()
        total = torch.zeros_like(x)
        for bound, step in self.steps:  # few enough to beat a search
            total.add_(magnitude > bound, alpha=step)
        return total.copysign_(x)

    def unit(self, values: torch.Tensor) -> torch.Tensor:
        """2**-scale for each row of ``values`` (R, n), as (R, 1)."""
        top = torch.frexp(values.abs().amax(1, keepdim=True).clamp_min(1e-12))[1]
        tries = top - int(np.log2(self.format.maxpos)) + torch.arange(-1, 4)
        units = torch.exp2(-tries.float())[:, :, None]  # (R, tries, 1)
        scaled = values[:, None, :] * units
        errors = (((self.nearest(scaled) - scaled) / units) ** 2).sum(2)
        return torch.gather(units[:, :, 0], 1, errors.argmin(1, keepdim=True))

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            flat = x.reshape(1, -1)
            unit = self.unit(flat[:, :: max(1, flat.shape[1] // 2048)])[0, 0]
            rounded = self.nearest(x * unit) / unit
        return x + (rounded - x).detach()

    def channels(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            flat = weight.reshape(len(weight), -1)
            unit = self.unit(flat)
            rounded = (self.nearest(flat * unit) / unit).reshape(weight.shape)
        return weight + (rounded - weight).detach()


class Rounded(PlanModule):
    """Phase two: every tensor and weight rounded as ``rounding`` says, or not at all."""

    rounding: Rounding | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if self.rounding is None else self.rounding.tensor(x))

    def run(self, op: Op, given: list[torch.Tensor]) -> torch.Tensor:
        if self.rounding is None or not op.weight_shape:
            return super().run(op, given)
        layer = self.products[op.name.replace(".", "_")]
        weight = self.rounding.channels(layer.weight)
        if op.kind == "linear":
            return F.linear(given[0], weight, layer.bias)
        return F.conv2d(given[0], weight, layer.bias, op.stride, op.padding, groups=op.groups)

    def written(self, op: Op, value: torch.Tensor) -> torch.Tensor:
        if self.rounding is None or op.name in self.fused or op.kind == "max_pool":
            return value
        return self.rounding.tensor(value)

    @property
    def fused(self) -> set[str]:
        """Operations whose output meets a relu before it is rounded."""
        relus = [op for op in self.plan.ops if op.kind in ("relu", "relu6")]
        return {name for op in relus for name in op.inputs}


# -- data ----------------------------------------------------------------------------------------


def read(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,) of "train" or "t10k"."""
    arrays = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        file = folder / f"{part}-{kind}-ubyte.gz"
        if not file.is_file():
            sys.exit(f"no '{file}': {CURE} with --data")
        arrays.append(np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header))
    images = torch.from_numpy(arrays[0].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return images, torch.from_numpy(arrays[1].astype(np.int64))


def batches(
    images: torch.Tensor, labels: torch.Tensor, size: int, rng: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch in random order: images mirrored half the time and shifted by up to two pixels."""
    order = torch.randperm(len(images), generator=rng)
    for chosen in order.split(size)[: len(images) // size]:
        x = F.pad(images[chosen], (2, 2, 2, 2))
        down, right, mirror = torch.randint(0, 5, (3, len(chosen)), generator=rng)
        rows = (down[:, None] + torch.arange(28))[:, :, None]
        columns = (right[:, None] + torch.arange(28))[:, None, :]
        x = x[torch.arange(len(chosen))[:, None, None], 0, rows, columns][:, None]
        flip = (mirror > 2)[:, None, None, None]
        yield torch.where(flip, x.flip(3), x), labels[chosen]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest score is the label."""
    model.eval()
    with torch.no_grad():
        hits = [
            (model(x).argmax(1) == y).float().sum()
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    return float(sum(hits)) / len(images)


# -- training ------------------------------------------------------------------------------------


def train(
    model: PlanModule,
    data: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    rate: float,
    roundings: list[Rounding | None],
    rng: torch.Generator,
) -> None:
    """AdamW on a one-cycle schedule; every batch draws one of the roundings."""
    size = 128
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    total = epochs * (len(data[0]) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total, pct_start=0.15)
    for epoch in range(epochs):
        begun, losses = time.perf_counter(), []
        model.train()
        for x, y in batches(*data, size, rng):
            if isinstance(model, Rounded):
                drawn = int(torch.randint(len(roundings), (), generator=rng))
                model.rounding = roundings[drawn]
            loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - begun
        print(
            f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.0f} s", flush=True
        )


def main() -> int:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four .gz files")
    parser.add_argument("--out", type=Path, default=ZOO, help="folder for the results")
    parser.add_argument("--epochs", type=int, nargs=2, default=(11, 6), help="of the two phases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = torch.Generator().manual_seed(options.seed)
    data, test = read(options.data, "train"), read(options.data, "t10k")

    first = Normalised(PLAN).to(memory_format=torch.channels_last)  # twice as fast here
    train(first, data, options.epochs[0], 6e-3, [None], rng)
    print(f"phase one: {100 * accuracy(first, *test):.2f} % of the test images", flush=True)

    second = Rounded(PLAN).to(memory_format=torch.channels_last)
    second.load_state_dict(load(PLAN, first.folded()).state_dict())
    narrow = [Rounding("fp4"), Rounding("posit4")]
    train(second, data, options.epochs[1], 1e-3, [None, *narrow], rng)
    for rounding in (None, *narrow):
        second.rounding = rounding
        name = "fp32" if rounding is None else rounding.format.name
        print(f"phase two, {name}: {100 * accuracy(second, *test):.2f} %", flush=True)
    write(options.out, second, data, test)
    return 0


def write(
    folder: Path,
    model: PlanModule,
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


if __name__ == "__main__":
    sys.exit(main())
