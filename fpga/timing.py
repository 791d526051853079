"""Static timing of a mapped netlist: arrivals, slews, the delay of every arc, worst paths.

Edges are numbered 0 rise, 1 fall. No wires unless a capacitance a fan-out is given; the clock
arrives everywhere at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import arc_tables, timing_kernels
from opennpe.fpga.arc_tables import ENDS, Arcs, Surfaces
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.timing_kernels import Gates, Run
from opennpe.golden.errors import TechError

__all__ = ["EDGES", "FALL", "RISE", "NoPathsError", "Path", "Step", "Timing", "analyse"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
RISE, FALL = 0, 1
EDGES = ("rise", "fall")


class NoPathsError(TechError):
    """No gate leads from where signals start to where paths end."""


@dataclass(frozen=True)
class Step:
    """One arc of a path: through ``instance`` from ``input`` to ``output``, onto ``net``."""

    instance: str
    cell: str
    input: str
    output: str
    net: str
    edge: str
    delay_ps: float
    arrival_ps: float


@dataclass(frozen=True)
class Path:
    """From a register or an input to a register or an output.

    Attributes:
        start, end: names of the register bits or ports; "" for a constant.
        stage: of the end.
        steps: the gates between.
        clock_to_output_ps: of the register it starts at; when it arrives at a port.
        setup_ps: of the register it ends at; 0 at a port.
    """

    start: str
    end: str
    stage: str
    steps: tuple[Step, ...]
    clock_to_output_ps: float
    setup_ps: float

    @property
    def logic_ps(self) -> float:
        """Between the registers."""
        return sum(step.delay_ps for step in self.steps)

    @property
    def total_ps(self) -> float:
        """With the registers at both ends."""
        return self.clock_to_output_ps + self.logic_ps + self.setup_ps


@dataclass(frozen=True, eq=False)
class Timing:
    """What :func:`analyse` finds.

    Attributes:
        netlist: what was timed.
        load_ff: float64 (nets,): input pins and wire of each net.
        arrival_ps, slew_ps: float64 (nets, 2), by edge; -inf and 0 where no path leads.
        first_arc: int32 (instances + 1,): arcs of instance i are
            ``first_arc[i]:first_arc[i + 1]``, in the order of its cell's ``arcs``.
        delay_ps: float64 (arcs, 2), by the output's edge, at the slews and loads found; of an
            "either" arc the worse of the two input edges.
        energy_fj: float64 (arcs, 2), the cell's own energy of such an edge.
        worst: the longest path, registers at both ends counted.
        worst_between_registers: the longest that begins and ends in one; None without registers.
        worst_logic: longest of all when register outputs and ports start at 0 with the input
            slew: what ABC prints, register outputs and inputs being its inputs and outputs.
        stages, stages_logic: worst path by stage, which is what the captured register's name
            begins with ("m" of ``m_product``), and "output" for ports; counted either way.
    """

    netlist: Netlist
    load_ff: Floats
    arrival_ps: Floats
    slew_ps: Floats
    first_arc: Ints
    delay_ps: Floats
    energy_fj: Floats
    worst: Path
    worst_between_registers: Path | None
    worst_logic: Path
    stages: dict[str, Path]
    stages_logic: dict[str, Path]


def analyse(
    netlist: Netlist,
    *,
    input_slew_ps: float = 0.0,
    clock_slew_ps: float | None = None,
    wire_ff_per_fanout: float = 0.0,
    output_load_ff: float = 0.0,
    arrival_ps: Mapping[str, float] | None = None,
) -> Timing:
    """Static timing of a netlist.

    Args:
        netlist: mapped; its library gives the tables.
        input_slew_ps: of ports, which arrive at 0; and of registers in ``worst_logic``.
        clock_slew_ps: of every clock pin; the library's typical slew if None.
        wire_ff_per_fanout: wire of a net, for each pin it leads to.
        output_load_ff: of output ports.
        arrival_ps: at input ports, by name, where it is not 0.

    Raises:
        TechError: a loop of gates, or nothing to time.
    """
    arcs, tables = arc_tables.pack(netlist)
    counts = np.diff(arcs.first)[netlist.kind]
    first_arc = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    gates = Gates(netlist.kind, netlist.first_pin, netlist.pin_net, first_arc)
    load = _loads(netlist, arcs, wire_ff_per_fanout, output_load_ff)
    sequence = timing_kernels.order(gates, arcs, len(netlist.nets))
    if len(sequence) < len(netlist.instances):
        stuck = set(range(len(netlist.instances))) - set(sequence.tolist())
        name = netlist.instances[min(stuck)]
        raise TechError(f"{netlist.top}: {len(stuck)} gates hang on a loop, {name} among them")
    slew = netlist.library.typical_slew_ps if clock_slew_ps is None else clock_slew_ps
    timed, paths = _run(
        netlist, gates, arcs, tables, load, sequence, slew, input_slew_ps, arrival_ps or {}
    )
    _, inner = _run(netlist, gates, arcs, tables, load, sequence, slew, None)
    _, logic = _run(netlist, gates, arcs, tables, load, sequence, -1.0, input_slew_ps)
    if not paths:
        raise NoPathsError(f"{netlist.top} has no paths: no gate leads to an output or a register")
    inner = [path for path in inner if path.stage != "output"]
    return Timing(
        netlist,
        load,
        timed.arrival,
        timed.slew,
        first_arc,
        timed.delay,
        timed.energy,
        max(paths, key=lambda path: path.total_ps),
        max(inner, key=lambda path: path.total_ps, default=None),
        max(logic, key=lambda path: path.logic_ps),
        {path.stage: path for path in paths},
        {path.stage: path for path in logic},
    )


def _run(
    netlist: Netlist,
    gates: Gates,
    arcs: Arcs,
    tables: Surfaces,
    load: Floats,
    sequence: Ints,
    clock_slew: float,
    input_slew: float | None,
    late: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Run, list[Path]]:
    """One propagation, and the latest path of each stage. ``input_slew`` None: no ports start."""
    run = _empty(len(netlist.nets), int(gates.first_arc[-1]))
    for port in netlist.ports.values():
        if port.direction == "input" and input_slew is not None:
            run.arrival[port.nets] = late.get(port.name, 0.0)
            run.slew[port.nets] = input_slew
    start = input_slew or 0.0
    timing_kernels.propagate(gates, arcs, tables, load, sequence, run, clock_slew, start)
    return run, _paths(_Walker(netlist, gates, arcs, run, launched=clock_slew >= 0))


def _empty(nets: int, arcs: int) -> Run:
    return Run(
        np.full((nets, 2), -np.inf),
        np.zeros((nets, 2)),
        np.full((nets, 2), -1, np.int32),
        np.full((nets, 2), -1, np.int32),
        np.full((nets, 2), -1, np.int32),
        np.zeros((arcs, 2)),
        np.zeros((arcs, 2)),
    )


def _loads(netlist: Netlist, arcs: Arcs, wire_ff: float, output_ff: float) -> Floats:
    kinds = netlist.kind
    widths = np.diff(netlist.first_pin)
    number = np.arange(len(netlist.pin_net)) - np.repeat(netlist.first_pin[:-1], widths)
    pin = np.repeat(arcs.pin_first[kinds], widths) + number
    drawn = arcs.capacitance[pin] + wire_ff * (arcs.capacitance[pin] > 0)
    wired = netlist.pin_net >= 0
    load = np.bincount(
        netlist.pin_net[wired], weights=drawn[wired], minlength=len(netlist.nets)
    ).astype(np.float64)
    for port in netlist.ports.values():
        if port.direction == "output":
            np.add.at(load, port.nets, output_ff + wire_ff * (output_ff > 0))
    return load


class _Walker:
    """Paths of one propagation, from their ends back."""

    def __init__(
        self, netlist: Netlist, gates: Gates, arcs: Arcs, run: Run, *, launched: bool
    ) -> None:
        self.netlist, self.gates, self.arcs, self.run = netlist, gates, arcs, run
        self.launched = launched
        self.ports = {
            int(net): f"{port.name}[{bit}]" if len(port.nets) > 1 else port.name
            for port in netlist.ports.values()
            if port.direction == "input"
            for bit, net in enumerate(port.nets)
        }

    def ends(self) -> Iterator[tuple[str, str, int, float]]:
        """Stage, name, net and setup of all places where paths end."""
        netlist, arcs = self.netlist, self.arcs
        for name, port in netlist.ports.items():
            if port.direction == "output":
                for bit, net in enumerate(port.nets):
                    yield "output", f"{name}[{bit}]" if len(port.nets) > 1 else name, int(net), 0.0
        stateful = np.array(
            [netlist.library.cells[kind].sequential is not None for kind in netlist.kinds]
        )
        for instance in np.flatnonzero(stateful[netlist.kind]):
            kind = netlist.kind[instance]
            first = netlist.first_pin[instance]
            for number in range(netlist.first_pin[instance + 1] - first):
                net = int(netlist.pin_net[first + number])
                if arcs.pin_role[arcs.pin_first[kind] + number] == ENDS and net >= 0:
                    name = netlist.instances[instance]
                    setup = float(arcs.setup[kind]) if self.launched else 0.0
                    yield stage_of(name), name, net, setup

    def path(self, stage: str, end: str, net: int, setup: float) -> Path:
        """The latest path to a net."""
        run, netlist = self.run, self.netlist
        edge = int(np.argmax(run.arrival[net]))
        steps: list[Step] = []
        while run.arc[net, edge] >= 0:
            instance, arc = int(run.instance[net, edge]), int(run.arc[net, edge])
            arrival, before = float(run.arrival[net, edge]), int(run.edge[net, edge])
            if before < 0:
                return Path(
                    netlist.instances[instance], end, stage, tuple(steps[::-1]), arrival, setup
                )
            kind = netlist.kind[instance]
            local = self.arcs.first[kind] + arc - self.gates.first_arc[instance]
            pin_in, pin_out = (int(pin) for pin in self.arcs.pins[local])
            source = int(netlist.pin_net[netlist.first_pin[instance] + pin_in])
            cell = netlist.library.cells[netlist.kinds[kind]]
            names = tuple(cell.pins)
            steps.append(
                Step(
                    netlist.instances[instance],
                    cell.name,
                    names[pin_in],
                    names[pin_out],
                    netlist.nets[net],
                    EDGES[edge],
                    arrival - float(run.arrival[source, before]),
                    arrival,
                )
            )
            net, edge = source, before
        began = max(0.0, float(run.arrival[net, edge]))
        return Path(self.ports.get(net, ""), end, stage, tuple(steps[::-1]), began, setup)


def _paths(walker: _Walker) -> list[Path]:
    """The latest path of each stage."""
    worst: dict[str, tuple[float, str, int, float]] = {}
    arrival = walker.run.arrival.max(axis=1)
    for stage, name, net, setup in walker.ends():
        late = float(arrival[net]) + setup
        if late > worst.get(stage, (-np.inf,))[0]:
            worst[stage] = (late, name, net, setup)
    return [walker.path(stage, name, net, setup) for stage, (_, name, net, setup) in worst.items()]


def stage_of(register: str) -> str:
    """What a register's own name begins with: "m" of ``engine.m_product[3]``."""
    own = register.replace("\\", "").rsplit(".", 1)[-1]
    return own.split("[")[0].split("_")[0]
