"""A mapped netlist as the gate-level simulator takes it: truth tables, delays, energies as arrays.

Every output of a combinational cell is a gate of its own. Delays are those of the instance's own
arcs at the slews and loads that static timing found, in whole ticks. A toggle of a net costs the
driving cell's own energy of that arc, ``1/2 C V^2`` of the net's load, and what its edge costs in
the data pins of flops it leads to.

Not in it, and to be said with every figure: the clock's tree (its pins are there), wires unless
the timing had a capacitance a fan-out, and slews that differ from edge to edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga.functions import names, parse, truth_table
from opennpe.fpga.netlist import CONSTANTS, Netlist
from opennpe.fpga.timing import Timing
from opennpe.golden.errors import TechError
from opennpe.tech.cells import Cell, CellLibrary, Sequential

__all__ = ["MAX_INPUTS", "WHEEL", "Delays", "GateModel", "Gates", "model"]

Delays = Literal["library", "unit", "zero"]
MAX_INPUTS = 6
"""Of a gate: its truth table is a word of 64 bits."""
WHEEL = 4096
"""Slots of the time wheel: no delay is longer, in ticks."""


class Gates(NamedTuple):
    """Arrays of the simulator. Sources are gates, then outputs of flops.

    Attributes:
        table: uint64 (gates,); bit i is the output where input j is bit j of i.
        first: int32 (gates + 1,); inputs of gate g are ``first[g]:first[g + 1]``.
        input: int32 (inputs,), nets.
        output: int32 (sources,), nets.
        delay: int32 (inputs + flop outputs, 2) in ticks, by the output's edge, 0 rise, 1 fall.
        cost: float64 (inputs + flop outputs, 2) fJ of such an edge.
        fan_first: int32 (nets + 1,); readers of net n are ``fan_first[n]:fan_first[n + 1]``.
        fan: int32 (readers,), inputs of gates (places in ``input``). fan_gate, fan_bit: int32
            (readers,), the gate and the place there: neighbours in memory, as they are met.
        order: int32 (gates,), drivers before readers.
        net_cost: float64 (nets,) fJ of an edge that comes from outside.
        flop_table: uint64 (flops,), next state. flop_first, flop_input: as ``first``, ``input``.
        flop_domain: int32 (flops,). flop_out: int32 (flop outputs,), flop of each.
        flop_invert: uint8 (flop outputs,), whether the output is the state's inverse.
        domain_table, domain_first, domain_input: enable of each clock domain; domain 0 is always
            on. domain_parent: int32. domain_cost: float64, fJ of both edges of the clock there.
        gate_cost: float64 (domains,), fJ a cycle at the clock pin of the domain's own gate.
    """

    table: NDArray[np.uint64]
    first: NDArray[np.int32]
    input: NDArray[np.int32]
    output: NDArray[np.int32]
    delay: NDArray[np.int32]
    cost: NDArray[np.float64]
    fan_first: NDArray[np.int32]
    fan: NDArray[np.int32]
    fan_gate: NDArray[np.int32]
    fan_bit: NDArray[np.int32]
    order: NDArray[np.int32]
    net_cost: NDArray[np.float64]
    flop_table: NDArray[np.uint64]
    flop_first: NDArray[np.int32]
    flop_input: NDArray[np.int32]
    flop_domain: NDArray[np.int32]
    flop_out: NDArray[np.int32]
    flop_invert: NDArray[np.uint8]
    domain_table: NDArray[np.uint64]
    domain_first: NDArray[np.int32]
    domain_input: NDArray[np.int32]
    domain_parent: NDArray[np.int32]
    domain_cost: NDArray[np.float64]
    gate_cost: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GateModel:
    """What :func:`model` makes.

    Attributes:
        gates: the arrays. nets: how many nets. ports: nets by port, lowest bit first.
        tick_ps: unit of the delays. delays: which ones they are.
        clock_fj: of a cycle in which every domain is on. leakage_nw: of all cells.
        sources: instance and pin of every source, for reports.
    """

    gates: Gates
    nets: int
    ports: dict[str, NDArray[np.int32]]
    tick_ps: float
    delays: Delays
    clock_fj: float
    leakage_nw: float
    sources: tuple[str, ...]


@dataclass
class _Lists:
    """What grows while instances are read."""

    table: list[int]
    inputs: list[list[int]]
    output: list[int]
    delay: list[list[tuple[float, float]]]
    cost: list[list[tuple[float, float]]]
    names: list[str]


def model(
    netlist: Netlist, timing: Timing, delays: Delays = "library", clock: str = "clk"
) -> GateModel:
    """The simulator's arrays of a netlist.

    Args:
        delays: "library" as timing found them; "unit", one tick every gate; "zero", none.

    Raises:
        TechError: a latch, a gate of too many inputs, a loop, a clock that is no clock.
    """
    return _Builder(netlist, timing, delays, clock).build()


class _Builder:
    def __init__(self, netlist: Netlist, timing: Timing, delays: Delays, clock: str) -> None:
        self.netlist, self.timing, self.delays = netlist, timing, delays
        self.library: CellLibrary = netlist.library
        self.half_cv2 = 0.5 * self.library.voltage_v**2  # fF times V^2 is fJ
        if clock not in netlist.ports:
            raise TechError(f"{netlist.top} has no clock '{clock}'")
        self.clock = int(netlist.ports[clock].nets[0])
        self.logic = _Lists([], [], [], [], [], [])
        self.flop_out = _Lists([], [], [], [], [], [])
        self.flops: list[tuple[int, list[int], int]] = []
        self.flop_of_out: list[int] = []
        self.invert: list[int] = []
        self.pin_cost = np.zeros(len(netlist.nets))
        self.domains: list[tuple[int, list[int], int]] = [(1, [], 0)]
        self.domain_cost = [0.0]
        self.gate_cost = [0.0]
        self.domain_of = {self.clock: 0}
        self.tied: dict[int, int] = {}

    def build(self) -> GateModel:
        cells = [self.library.cells[name] for name in self.netlist.kinds]
        self.tied = self._tied(cells)
        self._clock_nets(cells)
        for index, kind in enumerate(self.netlist.kind):
            cell = cells[kind]
            if cell.sequential is None:
                self._combinational(index, cell)
            elif cell.sequential.kind == "flop":
                self._flop(index, cell, cell.sequential)
            elif cell.sequential.kind == "latch":
                raise TechError(f"{self.netlist.instances[index]} is a latch: only flops are run")
        return self._finish()

    def _pins(self, index: int, cell: Cell) -> dict[str, int]:
        first = self.netlist.first_pin[index]
        return {name: int(self.netlist.pin_net[first + j]) for j, name in enumerate(cell.pins)}

    def _arcs(self, index: int, cell: Cell) -> dict[tuple[str, str], tuple[Any, Any]]:
        """Delay and energy by edge of each (input, output); the first of several."""
        found: dict[tuple[str, str], tuple[Any, Any]] = {}
        for j, arc in enumerate(cell.arcs):
            at = self.timing.first_arc[index] + j
            if arc.kind in ("logic", "clock"):
                key = (arc.input, arc.output)
                found.setdefault(key, (self.timing.delay_ps[at], self.timing.energy_fj[at]))
        return found

    def _tied(self, cells: list[Cell]) -> dict[int, int]:
        """Nets that never change: the constants, and those that tie cells drive."""
        found = {net: net for net in range(CONSTANTS)}
        for index, kind in enumerate(self.netlist.kind):
            (pin, *more) = cells[kind].pins.values()
            if not more and pin.function in ("0", "1"):
                found[self._pins(index, cells[kind])[pin.name]] = int(pin.function)
        return found

    def _clock_nets(self, cells: list[Cell]) -> None:
        """Follow the clock through gates (and what only repeats it) to its domains."""
        netlist = self.netlist
        waiting = []
        for index, kind in enumerate(netlist.kind):
            cell = cells[kind]
            if cell.sequential is not None and cell.sequential.kind == "gate":
                waiting.append((index, cell))
        while waiting:
            rest = []
            for index, cell in waiting:
                pins = self._pins(index, cell)
                if not self._clock_gate(index, cell, pins):
                    rest.append((index, cell))
            if len(rest) == len(waiting):
                name = netlist.instances[rest[0][0]]
                raise TechError(f"the clock of gate {name} does not come from the clock's port")
            waiting = rest

    def _clock_gate(self, index: int, cell: Cell, pins: dict[str, int]) -> bool:
        state = cell.sequential
        assert state is not None
        clock = next((p for p in cell.pins.values() if p.clock), None)
        if clock is None or pins[clock.name] not in self.domain_of:
            return False
        inputs = _inputs(state.next_state)
        table = truth_table(state.next_state, inputs)
        parent = self.domain_of[pins[clock.name]]
        output = next(p.name for p in cell.pins.values() if p.direction == "output")
        domain = len(self.domains)
        self.domains.append((table, [pins[n] for n in inputs], parent))
        self.domain_of[pins[output]] = domain
        own = self._arcs(index, cell).get((clock.name, output))
        self.domain_cost.append(0.0 if own is None else float(own[1][0] + own[1][1]))
        # The gate's own clock pin moves with the clock that feeds it.
        self.gate_cost.append(0.0)
        self.domain_cost[parent] += clock.cycle_fj(self.library.voltage_v)
        return True

    def _combinational(self, index: int, cell: Cell) -> None:
        pins, arcs = self._pins(index, cell), self._arcs(index, cell)
        for pin in cell.pins.values():
            if pin.direction != "output" or pins[pin.name] < 0:
                continue
            inputs = _inputs(pin.function or "")
            if len(inputs) > MAX_INPUTS:
                raise TechError(f"cell {cell.name} has {len(inputs)} inputs: at most {MAX_INPUTS}")
            own = [arcs.get((n, pin.name), (np.zeros(2), np.zeros(2))) for n in inputs]
            self.logic.table.append(truth_table(pin.function or "0", inputs))
            self.logic.inputs.append([pins[n] for n in inputs])
            self.logic.output.append(pins[pin.name])
            self.logic.delay.append([(float(d[0]), float(d[1])) for d, _ in own])
            self.logic.cost.append([(float(e[0]), float(e[1])) for _, e in own])
            self.logic.names.append(f"{self.netlist.instances[index]}/{pin.name}")

    def _flop(self, index: int, cell: Cell, state: Sequential) -> None:
        pins, arcs = self._pins(index, cell), self._arcs(index, cell)
        name = self.netlist.instances[index]
        clock = next((p for p in cell.pins.values() if p.clock), None)
        if clock is None or _inputs(state.clock) != [clock.name]:
            raise TechError(f"flop {name} has no clock pin that the simulator knows")
        if truth_table(state.clock, [clock.name]) != 0b10:
            raise TechError(f"flop {name} takes the falling edge: only the rising one is run")
        net = pins[clock.name]
        if net not in self.domain_of:
            raise TechError(f"the clock of flop {name} comes through logic")
        for expression in (state.clear, state.preset):
            self._never(name, expression, pins)
        inputs = [n for n in _inputs(state.next_state) if n not in (state.state,)]
        table = truth_table(state.next_state, inputs)
        domain = self.domain_of[net]
        self.domain_cost[domain] += clock.cycle_fj(self.library.voltage_v)
        for held in inputs:
            if pins[held] >= 0:
                self.pin_cost[pins[held]] += cell.pins[held].energy_fj
        self.flops.append((table, [pins[n] for n in inputs], domain))
        for pin in cell.pins.values():
            if pin.direction != "output" or pins[pin.name] < 0:
                continue
            variables = [state.state, state.state_inverted]
            # Bits of the table: (state, inverse) = (1, 0) is case 1, (0, 1) is case 2.
            value = truth_table(pin.function or state.state, variables)
            own = arcs.get((clock.name, pin.name), (np.zeros(2), np.zeros(2)))
            self.flop_of_out.append(len(self.flops) - 1)
            self.invert.append(0 if value >> 1 & 1 else 1)
            self.flop_out.output.append(pins[pin.name])
            self.flop_out.delay.append([(float(own[0][0]), float(own[0][1]))])
            self.flop_out.cost.append([(float(own[1][0]), float(own[1][1]))])
            self.flop_out.names.append(f"{name}/{pin.name}")

    def _never(self, name: str, expression: str, pins: dict[str, int]) -> None:
        """A clear or preset that is tied off."""
        if not expression:
            return
        inputs = _inputs(expression)
        values = [pins[n] for n in inputs]
        if any(v not in self.tied for v in values):
            raise TechError(f"flop {name} has an asynchronous reset that is not tied off")
        case = sum(self.tied[v] << j for j, v in enumerate(values))
        if truth_table(expression, inputs) >> case & 1:
            raise TechError(f"flop {name} is held in reset")

    def _finish(self) -> GateModel:
        logic, out = self.logic, self.flop_out
        count = len(self.netlist.nets)
        load = np.asarray(self.timing.load_ff, dtype=np.float64)
        net_cost = self.half_cv2 * load + self.pin_cost
        output = np.array([*logic.output, *out.output], dtype=np.int32)
        first = _starts(logic.inputs)
        inputs = _flat(logic.inputs)
        pairs_delay = np.array(
            [p for own in (*logic.delay, *out.delay) for p in own] or [(0.0, 0.0)], dtype=np.float64
        )
        pairs_cost = np.array(
            [p for own in (*logic.cost, *out.cost) for p in own] or [(0.0, 0.0)], dtype=np.float64
        )
        sizes = [len(own) for own in (*logic.delay, *out.delay)]
        pairs_cost = pairs_cost + np.repeat(net_cost[output], sizes)[:, None]
        ticks, tick = self._ticks(pairs_delay)
        owner = np.repeat(np.arange(len(logic.inputs)), np.diff(first)).astype(np.int32)
        bit = (1 << (np.arange(len(inputs)) - first[owner])).astype(np.int32)
        fan_order = np.argsort(inputs, kind="stable").astype(np.int32)
        fan_first = np.searchsorted(inputs[fan_order], np.arange(count + 1)).astype(np.int32)
        gates = Gates(
            table=np.array(logic.table, dtype=np.uint64),
            first=first,
            input=inputs,
            output=output,
            delay=ticks,
            cost=pairs_cost,
            fan_first=fan_first,
            fan=fan_order,
            fan_gate=owner[fan_order],
            fan_bit=bit[fan_order],
            order=_order(first, inputs, output, fan_first, fan_order, owner),
            net_cost=net_cost,
            flop_table=np.array([f[0] for f in self.flops], dtype=np.uint64),
            flop_first=_starts([f[1] for f in self.flops]),
            flop_input=_flat([f[1] for f in self.flops]),
            flop_domain=np.array([f[2] for f in self.flops], dtype=np.int32),
            flop_out=np.array(self.flop_of_out, dtype=np.int32),
            flop_invert=np.array(self.invert, dtype=np.uint8),
            domain_table=np.array([d[0] for d in self.domains], dtype=np.uint64),
            domain_first=_starts([d[1] for d in self.domains]),
            domain_input=_flat([d[1] for d in self.domains]),
            domain_parent=np.array([d[2] for d in self.domains], dtype=np.int32),
            domain_cost=np.array(self.domain_cost),
            gate_cost=np.array(self.gate_cost),
        )
        ports = {p.name: np.asarray(p.nets, np.int32) for p in self.netlist.ports.values()}
        return GateModel(
            gates,
            count,
            ports,
            tick,
            self.delays,
            float(sum(self.domain_cost)),
            self.netlist.leakage_nw,
            (*logic.names, *out.names),
        )

    def _ticks(self, delay_ps: NDArray[np.float64]) -> tuple[NDArray[np.int32], float]:
        """Whole ticks, as fine as the wheel allows; no gate is faster than one tick."""
        if self.delays != "library":
            return np.ones(delay_ps.shape, dtype=np.int32), 1.0
        longest = float(delay_ps.max(initial=0.0))
        tick = 2.0 ** np.ceil(np.log2(max(longest, 1e-3) / (WHEEL - 2)))
        return np.maximum(np.rint(delay_ps / tick), 1).astype(np.int32), float(tick)


def _inputs(expression: str) -> list[str]:
    return list(names(parse(expression))) if expression else []


def _starts(lists: list[list[int]]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int32)


def _flat(lists: list[list[int]]) -> NDArray[np.int32]:
    return np.array([n for x in lists for n in x], dtype=np.int32)


def _order(
    first: NDArray[np.int32],
    inputs: NDArray[np.int32],
    output: NDArray[np.int32],
    fan_first: NDArray[np.int32],
    fan: NDArray[np.int32],
    owner: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Gates, each after those that drive it (Kahn's algorithm).

    Raises:
        TechError: a combinational loop.
    """
    count = len(first) - 1
    driven = np.zeros(len(fan_first) - 1, dtype=bool)
    driven[output[:count]] = True
    open_inputs = np.bincount(owner, weights=driven[inputs], minlength=count).astype(np.int64)
    ready = [int(g) for g in np.flatnonzero(open_inputs == 0)]
    for gate in ready:
        net = output[gate]
        for reader in fan[fan_first[net] : fan_first[net + 1]]:
            other = int(owner[reader])
            open_inputs[other] -= 1
            if open_inputs[other] == 0:
                ready.append(other)
    if len(ready) != count:
        raise TechError(f"{count - len(ready)} gates form a loop without a flop")
    return np.array(ready, dtype=np.int32)
