"""``opennpe run``: a network on the co-processor: by gates, by the simulator, by definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe import quant
from opennpe.cli import cost_quick, graphs
from opennpe.cli import data as datasets
from opennpe.cli.errors import CheckFailed, OutputError
from opennpe.cli.files import output_file
from opennpe.cli.progress import Progress, Silent
from opennpe.cli.simulate import engine_spec
from opennpe.cli.study import CALIBRATION_SAMPLES
from opennpe.golden import program as programs
from opennpe.golden import storage
from opennpe.golden.errors import DataError, PolicyError, ToolError
from opennpe.golden.network import Network
from opennpe.golden.program import Program
from opennpe.golden.registers import Counters, MemorySettings
from opennpe.golden.serial_frames import DEFAULT_BAUD, MEMORY_SETTINGS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host import driver
from opennpe.host.backends import Backend, Golden, Run, Sim, Verilator
from opennpe.host.compile import compile
from opennpe.host.serial_board import OnBoard, SerialBoard
from opennpe.host.serial_link import SerialLink, Transport
from opennpe.host.serial_port import SIMULATED, SerialPort
from opennpe.host.sparse import Choice
from opennpe.quant.policy import Policy
from opennpe.sim.coprocessor import Timing, cycles
from opennpe.sim.trace_events import Span, layer_spans, timeline, write
from opennpe.sim.workload import parts_of, widest

__all__ = ["BACKENDS", "LayerCycles", "Report", "run"]

BACKENDS = ("rtl", "sim", "golden", "serial")
DEFAULT_SPEC, DEFAULT_FORMAT = "EDGE_4X4", "posit8"
Codes = NDArray[Any]


@dataclass(frozen=True)
class LayerCycles:
    """A layer's share of a run by the cycle model, and of the array's peak; None is unknown."""

    span: Span
    macs: int | None
    utilisation: float | None


@dataclass(frozen=True)
class Report:
    """What a run found.

    Attributes:
        model: file name.
        backend: what ran.
        settings: of the memory.
        samples: how many ran, one after the other.
        counters: of one sample, the back-end's own; None where nothing counts.
        cycles: of one sample by the cycle model.
        layers: shares of ``cycles``.
        seconds: wall time of all samples.
        checked: tensors and codes compared, None where ``check`` was not asked for.
        outputs: codes (samples, ...) by name.
        values: the same as real numbers.
        cost: of one sample, or why there is none; None where the network or inputs are not known.
    """

    model: str
    spec: str
    backend: str
    settings: MemorySettings
    samples: int
    counters: Counters | None
    cycles: int
    layers: tuple[LayerCycles, ...]
    seconds: float
    checked: tuple[int, int] | None = None
    outputs: Mapping[str, Codes] = field(default_factory=dict, repr=False)
    values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    cost: Any = None

    def summary(self) -> dict[str, Any]:
        """JSON-ready summary, units in names."""
        return {
            "schema": "opennpe.run/1",
            "model": self.model,
            "spec": self.spec,
            "backend": self.backend,
            "memory_cycles": dataclasses.asdict(self.settings),
            "samples": self.samples,
            "counters": None if self.counters is None else dataclasses.asdict(self.counters),
            "model_cycles": self.cycles,
            "seconds": self.seconds,
            "checked": None
            if self.checked is None
            else dict(zip(("tensors", "codes"), self.checked, strict=True)),
            "cost": cost_quick.summary(self.cost),
            "layers": [
                {**dataclasses.asdict(row.span), "macs": row.macs, "utilisation": row.utilisation}
                for row in self.layers
            ],
            "outputs": {
                name: [float(x) if np.isfinite(x) else None for x in values.ravel()]
                for name, values in self.values.items()
                if values.size <= 10_000
            },
        }


@dataclass(frozen=True)
class _Job:
    """What is to run: a program, the network it is of, and inputs."""

    program: Program
    spec: CoprocessorSpec
    network: Network | None
    data: datasets.Data | None


def run(
    source: str | Path,
    data: str | Path | None = None,
    *,
    backend: str = "sim",
    spec: str | None = None,
    formats: Sequence[str] = (),
    policy: str | Path | None = None,
    underflow: str | None = None,
    calibration: str | Path | None = None,
    method: str = "mse",
    samples: int = 1,
    latency: int = 20,
    interval: int = 1,
    check: bool = False,
    sparse: Choice = "auto",
    trace: str | Path | None = None,
    waves: str | Path | None = None,
    port: str | None = None,
    baud: int | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run a model, a network file or a program on the co-processor.

    Args:
        source: an ONNX model, a network file (.npz) or a program file.
        data: npz file of inputs; only counting a program's cycles does without.
        backend: one of ``BACKENDS``.
        spec: name in the catalog; EDGE_4X4, or a program's own, unless given.
        formats: at most one, for a model; posit8 unless given.
        policy: a format policy instead.
        samples: how many of the first samples run, one after the other.
        latency, interval: of the memory outside, for reads and writes; a board has its own.
        sparse: which layers run sparse, as :func:`opennpe.host.compile.compile` takes it.
        check: compare every tensor with another back-end, and counters with the cycle model.
        trace: file for the timeline of the cycle model.
        waves: file for waveforms of the first sample, .fst or .vcd.
        port: of the board, for the backend serial; ``serial_port.SIMULATED`` for its simulation.
        baud: of that port.
        out: npz file for the outputs' codes and values.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
        CheckFailed: a tensor or a counter differs.
    """
    progress = progress or Silent()
    settings = MemorySettings(latency, interval, latency, interval)
    _refuse(source, backend, formats, policy, waves, trace)
    _refuse_port(backend, port, baud)
    if backend == "serial":
        settings = MEMORY_SETTINGS
    wanted = formats, policy, underflow, calibration, method, check, sparse
    job = _job(source, data, spec, *wanted, progress)
    if job.data is None and (backend != "sim" or check):
        raise DataError(f"the {backend} backend runs on inputs: give them by --data FILE.npz")
    cable = None if port is None else (port, baud)
    timing = cycles(job.spec, job.program, settings)
    total = timing.counters.cycles
    given = None if job.data is None else job.data.first(samples)
    runs = _samples(job, given, backend, settings, timing, waves, cable, threads, progress)
    compared = _check(job, given, runs, backend, timing, settings, progress) if check else None
    events = timeline(timing, job.program.layers)
    if trace is not None:
        write(events, total, trace, f"{Path(source).name} on {job.spec.name}")
    outputs, values = _outputs(job, runs)
    if out is not None:
        _write_outputs(out, outputs, values)
    return Report(
        model=Path(source).name,
        spec=job.spec.name,
        backend=backend,
        settings=settings,
        samples=len(runs),
        counters=runs[0].counters,
        cycles=total,
        layers=_layers(job, layer_spans(events, total)),
        seconds=sum(one.seconds for one in runs),
        checked=compared,
        outputs=outputs,
        values=values,
        cost=None
        if job.network is None or given is None
        else cost_quick.of_run(job.spec, job.network, job.program, timing, given.take(0, 1)),
    )


def _refuse(
    source: str | Path,
    backend: str,
    formats: Sequence[str],
    policy: str | Path | None,
    waves: str | Path | None,
    trace: str | Path | None,
) -> None:
    """Contradictions among the options, before any work."""
    if backend not in BACKENDS:
        raise ToolError(f"unknown backend '{backend}': expected one of {', '.join(BACKENDS)}")
    if len(formats) > 1 or (formats and policy is not None):
        given = [*formats, *([] if policy is None else [str(policy)])]
        raise PolicyError(f"run takes one format or policy, got {', '.join(given)}")
    if waves is not None and backend != "rtl":
        raise ToolError(
            f"waveforms come from the gates: --waves needs --backend rtl, not {backend}"
        )
    if waves is not None and Path(waves).suffix not in (".fst", ".vcd"):
        raise ToolError(f"waveforms go to a .fst or a .vcd file, not '{waves}'")
    for path in (waves, trace):
        # Waveforms of a run that fails are wanted most of all, so they are written in place.
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise OutputError(f"cannot write '{path}': its folder does not exist")
    if Path(source).suffix != ".onnx" and (formats or policy is not None):
        raise PolicyError(f"'{source}' has its formats already: --format and --policy are for ONNX")


def _refuse_port(backend: str, port: str | None, baud: int | None) -> None:
    """A back-end without its port, or a port without its back-end."""
    if backend == "serial" and port is None:
        raise ToolError(
            "the serial backend needs a port: give --port, for instance /dev/ttyUSB0, or "
            f"'{SIMULATED}'"
        )
    if backend != "serial" and (port is not None or baud is not None):
        raise ToolError(f"--port and --baud go with --backend serial, not {backend}")
    if baud is not None and baud < 1:
        raise ToolError(f"a baud rate is above 0, got {baud}")


def _job(
    source: str | Path,
    data: str | Path | None,
    spec: str | None,
    formats: Sequence[str],
    policy: str | Path | None,
    underflow: str | None,
    calibration: str | Path | None,
    method: str,
    check: bool,
    sparse: Choice,
    progress: Progress,
) -> _Job:
    keep: Any = "all" if check else ()
    path = Path(source)
    if path.suffix not in (".onnx", ".npz"):
        program = programs.load(path)
        chosen = engine_spec(spec or program.spec, underflow)
        shapes = {symbol.name: symbol.shape for symbol in program.of("input")}
        return _Job(program, chosen, None, _data(data, shapes))
    chosen = engine_spec(spec or DEFAULT_SPEC, underflow)
    chosen.check_coprocessor()
    if path.suffix == ".npz":
        network = storage.load(path)
        shapes = {name: network.tensors[name].shape for name in network.inputs}
        given = _data(data, shapes)
    else:
        if data is None:
            raise DataError("a model is calibrated by inputs: give them by --data FILE.npz")
        graph = quant.load_onnx(path)
        shapes = graphs.input_shapes(graph)
        given = _data(data, shapes)
        held = _data(calibration or data, shapes)
        assert held is not None
        sets = held if calibration is not None else held.first(CALIBRATION_SAMPLES)
        wanted = Policy.uniform(*(formats or [DEFAULT_FORMAT]))
        if policy is not None:
            wanted = Policy.load(policy)
        progress.stage("calibrating", 1)
        network = quant.calibrate(graph, sets.inputs, wanted, method=method)
        progress.advance()
    progress.stage("compiling", 1)
    program = compile(network, chosen, keep, sparse)
    progress.advance()
    return _Job(program, chosen, network, given)


def _data(path: str | Path | None, shapes: Mapping[str, tuple[int, ...]]) -> datasets.Data | None:
    if path is None:
        return None
    return datasets.fit(datasets.load_npz(path), shapes, Path(path).name)


Cable = tuple[str, int | None]


def _on_board(job: _Job, cable: Cable, progress: Progress) -> OnBoard:
    """The co-processor behind a port, or in a simulation of a board's top."""
    name, baud = cable
    transport: Transport
    if name == SIMULATED:
        from opennpe.host import simulated_board

        progress.stage("building the board's top", 1)
        memory = simulated_board.board_memory(job.program.size)
        transport = simulated_board.simulated_port(
            job.spec, memory, baud=baud or simulated_board.BAUD
        )
    else:
        progress.stage("asking the board", 1)
        transport = SerialPort(name, baud or DEFAULT_BAUD)
    try:
        found = OnBoard(job.spec, SerialBoard(SerialLink(transport)))
    except BaseException:
        transport.close()
        raise
    progress.advance()
    return found


def _backend(
    name: str,
    job: _Job,
    waves: str | Path | None,
    cable: Cable | None,
    threads: int | None,
    progress: Progress,
) -> Backend:
    if cable is not None:
        return _on_board(job, cable, progress)
    if name == "golden":
        return Golden(job.spec)
    if name == "sim":
        return Sim(job.spec, job.network, threads)
    progress.stage("building the RTL", 1)
    engine = Verilator(job.spec, waves, advance=progress.advance)
    progress.advance()
    return engine


def _samples(
    job: _Job,
    given: datasets.Data | None,
    backend: str,
    settings: MemorySettings,
    timing: Timing,
    waves: str | Path | None,
    cable: Cable | None,
    threads: int | None,
    progress: Progress,
) -> list[Run]:
    """A run of each sample, one after the other on the same machine."""
    engine = _backend(backend, job, waves, cable, threads, progress)
    count = 1 if given is None else given.samples
    gates = isinstance(engine, Verilator)
    progress.stage(f"{backend}: running", count * (timing.counters.cycles if gates else 1))
    runs = []
    try:
        for index in range(count):
            inputs = {} if given is None else given.take(index, index + 1)
            runs.append(_one(job, inputs, engine, settings, timing))
            if isinstance(engine, Verilator):
                engine.waves = None
            else:
                progress.advance()
    finally:
        if isinstance(engine, Verilator | OnBoard):
            engine.close()
    return runs


def _one(
    job: _Job, inputs: Mapping[str, Any], engine: Backend, settings: MemorySettings, timing: Timing
) -> Run:
    if inputs:
        return driver.run(job.program, inputs, engine, settings)
    return Run({}, timing.counters, 0.0, timing)  # a program alone: its cycles are all there is


def _check(
    job: _Job,
    given: datasets.Data | None,
    runs: Sequence[Run],
    backend: str,
    timing: Timing,
    settings: MemorySettings,
    progress: Progress,
) -> tuple[int, int]:
    """Compare all tensors with those of another back-end, and counters with the model's."""
    assert given is not None
    judge: Backend = Golden(job.spec)
    if backend != "sim" and job.network is not None:
        judge = Sim(job.spec, job.network)
    name = type(judge).__name__.lower()
    progress.stage(f"checking against {name}", len(runs))
    tensors = codes = 0
    for index, one in enumerate(runs):
        right = driver.run(job.program, given.take(index, index + 1), judge, settings)
        common = [tensor for tensor in right.tensors if tensor in one.tensors]
        if not common:
            raise CheckFailed(f"{backend} and {name} have no tensor in common")
        for tensor in common:
            _same(tensor, one.tensors[tensor], right.tensors[tensor], backend, name)
            tensors += index == 0
            codes += one.tensors[tensor].size
        if one.counters is not None and one.counters != timing.counters:
            raise CheckFailed(
                f"{backend} counted {one.counters}, the cycle model {timing.counters}"
            )
        progress.advance()
    return tensors, codes


def _same(tensor: str, found: Codes, expected: Codes, who: str, judge: str) -> None:
    if found.shape != expected.shape:
        raise CheckFailed(f"tensor '{tensor}' of {who} is {found.shape}, not {expected.shape}")
    wrong = np.argwhere(found != expected)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise CheckFailed(
            f"tensor '{tensor}' differs in {len(wrong)} of {found.size} codes, first at {at}: "
            f"{who} has {int(found[at]):#x}, {judge} {int(expected[at]):#x}"
        )


def _layers(job: _Job, spans: Sequence[Span]) -> tuple[LayerCycles, ...]:
    """Each layer's multiply-accumulates and utilisation, where the network is known."""
    network, rows = job.network, []
    for span in spans:
        parts = [] if network is None else parts_of(network, span.name)[1]
        if network is None or not parts:
            rows.append(LayerCycles(span, None, None))
            continue
        macs = sum(network.macs(layer) for layer in parts)
        peak = span.cycles * job.spec.array.macs_per_cycle(widest(network, parts[0]))
        rows.append(LayerCycles(span, macs, macs / peak if macs and peak else None))
    return tuple(rows)


def _outputs(
    job: _Job, runs: Sequence[Run]
) -> tuple[dict[str, Codes], dict[str, NDArray[np.float64]]]:
    codes: dict[str, Codes] = {}
    values: dict[str, NDArray[np.float64]] = {}
    for output in job.program.outputs:
        name = output.tensor.name
        if all(name in one.tensors for one in runs):
            codes[name] = np.stack([one.tensors[name] for one in runs])
            values[name] = output.tensor.decode(codes[name])
    return codes, values


def _write_outputs(
    path: str | Path, codes: Mapping[str, Codes], values: Mapping[str, NDArray[np.float64]]
) -> None:
    arrays = {f"{name}/codes": array for name, array in codes.items()}
    arrays |= {f"{name}/values": array for name, array in values.items()}
    with output_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
