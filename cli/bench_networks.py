"""``opennpe bench --networks``: whole networks against PyTorch's float32, both in one run."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from opennpe import quant, sim
from opennpe.cli import metrics, networks
from opennpe.cli.bench import Claim, Report, interleaved
from opennpe.cli.errors import CheckFailed
from opennpe.cli.networks import Plan
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import catalog
from opennpe.golden.errors import DataError, ToolError
from opennpe.quant import emulate, float_eval

__all__ = ["TARGETS", "NetworkTiming", "bench_networks"]

TARGETS: Mapping[str, Mapping[str, float]] = {
    "resnet18": {"fp4": 0.6, "posit8": 1.2, "posit16": 2.5},
    "mobilenet_v2": {"fp4": 1.2},
}
"""Most time relative to torch's float32, by network and format."""
IMAGE = 224
"""The targets are stated for images of this size, one at a time, on one thread."""
AGREE = 1e-3
"""Relative L2 distance within which the timed outputs must lie of a slower evaluator's."""
SPEC = "EDGE_4X4"


@dataclass(frozen=True)
class NetworkTiming:
    """One network by one implementation.

    Attributes:
        network: the plan's name.
        kernel: "torch" and the way it runs, or a format.
        milliseconds: median of the rounds, one image, values in to scores out.
        ratio: time relative to torch's fastest way in the same run.
    """

    network: str
    kernel: str
    milliseconds: float
    ratio: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def bench_networks(
    names: tuple[str, ...] = (),
    size: int = IMAGE,
    repeat: int = 9,
    threads: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Time ResNet-18 and MobileNetV2 with random weights on one random image.

    Args:
        names: formats instead of those that have targets.
        size: side of the image.
        repeat: rounds; every implementation runs once a round.
        threads: threads of both sides.

    Raises:
        ToolError: torch is missing.
        FormatError: an unknown format.
        CheckFailed: the two sides do not compute the same network.
    """
    if importlib.util.find_spec("torch") is None:
        raise ToolError(
            "bench --networks needs PyTorch: pip install 'opennpe[qat]' (in a checkout: "
            ".venv/bin/pip install -e '.[qat]')"
        )
    if size < 32 or repeat < 1:
        raise DataError(f"networks take images of at least 32 pixels, got {size}, {repeat} rounds")
    progress = progress or Silent()
    rows: list[NetworkTiming] = []
    notes = ["random weights, batch normalisation folded on both sides, one image at a time"]
    for plan in (networks.resnet18(size), networks.mobilenet_v2(size)):
        case = _Case(plan)
        progress.stage(f"{plan.name}: preparing", 1)
        calls: dict[str, Callable[[], Any]] = {
            f"torch {way}": call for way, call in case.torch(threads).items()
        }
        for name in names or tuple(TARGETS[plan.name]):
            calls[name] = case.ours(name, threads)
        progress.stage(f"{plan.name}: timing", (repeat + 1) * len(calls))
        seconds = dict(
            zip(calls, interleaved(list(calls.values()), repeat, threads, progress), strict=True)
        )
        best = min(t for name, t in seconds.items() if name.startswith("torch "))
        rows += [NetworkTiming(plan.name, n, 1e3 * t, t / best) for n, t in seconds.items()]
        notes.append(case.note)
    stated = size == IMAGE and threads == 1
    claims = [
        Claim(f"{row.network}, {row.kernel}, x torch's time", row.ratio, target, at_least=False)
        for row in rows
        if stated and (target := TARGETS[row.network].get(row.kernel)) is not None
    ]
    if not stated:
        notes.append(f"targets are stated for {IMAGE}x{IMAGE} images on one thread")
    return Report(tuple(rows), tuple(claims), tuple(notes))


class _Case:
    """One plan with weights and an image, as ONNX for us and as a module for torch."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.weights = networks.random_weights(plan)
        rng = np.random.default_rng(1)
        self.image = rng.normal(size=(1, *plan.shape)).astype(np.float32)
        with tempfile.TemporaryDirectory(prefix="opennpe-") as folder:
            path = Path(folder) / f"{plan.name}.onnx"
            onnx.save(networks.to_onnx(plan, self.weights), path)
            self.graph = quant.load_onnx(path)
        self.scores = float_eval.evaluate(self.graph, {"x": self.image})["scores"]
        macs = sum(_macs(layer, self.graph.shapes[layer.output]) for layer in self.graph.layers)
        self.note = f"{plan.name}: {macs / 1e6:.0f} M multiply-accumulates an image"

    def torch(self, threads: int) -> dict[str, Callable[[], Any]]:
        """The ways PyTorch may run it, checked against our float graph."""
        from opennpe.cli import torch_networks

        ways = torch_networks.ways(self.plan, self.weights, self.image, threads)
        for name, call in ways.items():
            _agree(f"{self.plan.name}: torch {name}", call(), self.scores)
        return ways

    def ours(self, name: str, threads: int) -> Callable[[], Any]:
        """The simulator in one format, checked against the float64 emulation of it."""
        network = quant.calibrate(self.graph, {"x": self.image}, name)
        spec = catalog.get(SPEC)

        def run() -> NDArray[np.float64]:
            outputs, _ = sim.run(spec, network, {"x": self.image}, threads=threads)
            return network.tensors["scores"].decode(outputs["scores"])

        wanted = emulate.emulate(network, {"x": self.image}, spec.underflow)["scores"]
        _agree(f"{self.plan.name} in {name}", run(), wanted)
        return run


def _agree(what: str, got: Any, wanted: Any) -> None:
    error = metrics.relative_l2(np.asarray(got, np.float64), np.asarray(wanted, np.float64))
    if not error <= AGREE:
        raise CheckFailed(f"{what} is {error:.1e} away from the same network evaluated slowly")


def _macs(layer: Any, shape: tuple[int, ...]) -> int:
    weights = getattr(layer, "weights", None)
    return 0 if weights is None else int(np.prod(shape)) * int(np.prod(weights.shape[1:]))
