"""``opennpe bench --coprocessor``: the simulator against the Verilated gates, and cycles alone."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from opennpe import quant, sim
from opennpe.cli import networks
from opennpe.cli.bench import Claim, Report, interleaved
from opennpe.cli.errors import CheckFailed
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import catalog
from opennpe.golden.errors import CompileError
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.network import Network, encode_inputs
from opennpe.golden.program import Program
from opennpe.golden.registers import MemorySettings
from opennpe.host.backends import Verilator
from opennpe.host.compile import compile
from opennpe.sim.coprocessor import cycles

__all__ = ["RunTiming", "bench_coprocessor", "resnet18"]

SPEC = "EDGE_8X8"
LEAST_RATIO, MOST_SECONDS = 400.0, 1.0
"""How much faster the simulator is than the gates, and how long ResNet-18's cycles may take."""
IMAGE = 224


@dataclass(frozen=True)
class RunTiming:
    """One way to run, or to count, a network.

    Attributes:
        network: its name.
        kernel: format, and "gates", "bits and cycles" or "cycles".
        milliseconds: wall time of the gates, else median of the rounds.
        cycles: of the co-processor.
        ratio: how many times faster than the gates.
    """

    network: str
    kernel: str
    milliseconds: float
    cycles: int
    ratio: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def bench_coprocessor(
    names: tuple[str, ...] = (),
    size: int = IMAGE,
    repeat: int = 9,
    progress: Progress | None = None,
) -> Report:
    """Run the shipped network on the gates and in the simulator; count ResNet-18's cycles.

    Args:
        names: formats instead of the engine's four.
        size: side of ResNet-18's image.
        repeat: rounds of what is quick; medians count.

    Raises:
        FormatError: an unknown format.
        ToolError: Verilator or the compiler is missing.
        CheckFailed: gates and simulator differ in a bit or a counter.
    """
    progress = progress or Silent()
    chosen = names or ENGINE_FORMATS
    progress.stage("building the gates", 1)
    gates = Verilator(catalog.get(SPEC))
    progress.advance()
    rows: list[RunTiming] = []
    claims, notes = [], [f"{SPEC}, a memory of 20 cycles latency and a beat a cycle; one image"]
    for name in chosen:
        try:
            found = _shipped(name, gates, repeat, progress)
        except CompileError as error:
            notes.append(f"the shipped network in {name} is left out: {error}")
            continue
        rows += found
        what = f"shipped network, {name}: bits and cycles, times faster than the gates"
        claims.append(Claim(what, found[1].ratio, LEAST_RATIO))
    for name in chosen:
        try:
            row = _counted(name, size, repeat, progress)
        except CompileError as error:
            notes.append(f"ResNet-18 in {name} is left out: {error}")
            continue
        rows.append(row)
        if size == IMAGE:
            what = f"ResNet-18, {name}: seconds for cycles alone"
            claims.append(Claim(what, row.milliseconds / 1e3, MOST_SECONDS, at_least=False))
    gates.close()
    if size != IMAGE:
        notes.append(f"the target for ResNet-18 is stated for {IMAGE}x{IMAGE} images")
    return Report(tuple(rows), tuple(claims), tuple(notes))


def _shipped(name: str, gates: Verilator, repeat: int, progress: Progress) -> list[RunTiming]:
    """The shipped network in one format: the gates once, the simulator before and after."""
    spec, settings = catalog.get(SPEC), MemorySettings()
    zoo = Path(quant.__file__).parent / "zoo"
    graph = quant.load_onnx(zoo / "fashion.onnx")
    with np.load(zoo / "calibration.npz") as held:
        images = {key: held[key] for key in graph.inputs}
    network = quant.calibrate(graph, images, name)
    inputs = encode_inputs(network, {k: v[:1] for k, v in images.items()}, spec.underflow)
    program = compile(network, spec)

    def simulate() -> Any:
        outputs, _ = sim.run(spec, network, inputs)
        return outputs, cycles(spec, program, settings).counters

    progress.stage(f"shipped network, {name}", 2 * (repeat + 1) + 1)
    before = interleaved([simulate], repeat, 2, progress)[0]
    run = gates.run(program, inputs, settings)
    progress.advance()
    seconds = max(before, interleaved([simulate], repeat, 2, progress)[0])
    outputs, counters = simulate()
    if run.counters != counters:
        raise CheckFailed(f"{name}: the gates count {run.counters}, the cycle model {counters}")
    for key, codes in outputs.items():
        if not np.array_equal(np.ravel(codes), np.ravel(run.tensors[key])):
            raise CheckFailed(f"{name}: '{key}' of the gates is not the simulator's")
    count = counters.cycles
    return [
        RunTiming(network.name, f"{name}, gates", 1e3 * run.seconds, count, 1.0),
        RunTiming(
            network.name, f"{name}, bits and cycles", 1e3 * seconds, count, run.seconds / seconds
        ),
    ]


def resnet18(name: str, size: int = IMAGE) -> Network:
    """ResNet-18 with random weights in one format."""
    plan = networks.resnet18(size)
    with tempfile.TemporaryDirectory(prefix="opennpe-") as folder:
        path = Path(folder) / "resnet18.onnx"
        onnx.save(networks.to_onnx(plan, networks.random_weights(plan)), path)
        graph = quant.load_onnx(path)
    image = np.random.default_rng(1).normal(size=(1, *plan.shape)).astype(np.float32)
    network: Network = quant.calibrate(graph, {"x": image}, name, method="maxabs")
    return network


def _counted(name: str, size: int, repeat: int, progress: Progress) -> RunTiming:
    """Cycles of ResNet-18 without its tensors; compiling it is not part of the time."""
    spec = catalog.get(SPEC)
    progress.stage(f"ResNet-18, {name}", repeat + 2)
    program: Program = compile(resnet18(name, size), spec)
    progress.advance()
    counters = cycles(spec, program).counters
    seconds = interleaved([lambda: cycles(spec, program)], repeat, 2, progress)[0]
    return RunTiming("resnet18", f"{name}, cycles", 1e3 * seconds, counters.cycles, float("nan"))
