"""Cells of a Liberty tree as :mod:`opennpe.tech.cells`, in its units, conditions resolved."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import functions
from opennpe.fpga.liberty_parser import Group
from opennpe.golden.errors import TechError
from opennpe.tech.cells import Arc, Cell, Edge, Pin, Sequential, Surface

__all__ = ["Units", "convert_cell"]

Floats = NDArray[np.float64]
EDGES: tuple[Edge, Edge] = ("rise", "fall")
SLEWS = ("input_net_transition", "input_transition_time", "constrained_pin_transition")
LOADS = ("total_output_net_capacitance", "related_pin_transition")
"""What tables are indexed by: rows, then columns. Constraints use the same two places."""
KINDS: dict[str, Literal["logic", "clock", "set", "clear"]] = {
    "": "logic",
    "combinational": "logic",
    "combinational_rise": "logic",
    "combinational_fall": "logic",
    "rising_edge": "clock",
    "falling_edge": "clock",
    "preset": "set",
    "clear": "clear",
}
SENSES: dict[str, Literal["positive", "negative", "either"]] = {
    "positive_unate": "positive",
    "negative_unate": "negative",
}
NUMBER = re.compile(r"[\s,\"\\]+")


@dataclass
class Units:
    """What a file's numbers count in ps, fF, nW and fJ, and its table templates.

    Attributes:
        where: the file's name, for messages.
        axes: indices seen so far, each once.
        typical_slew_ps: where what depends on slews alone is taken.
    """

    ps: float
    ff: float
    nw: float
    fj: float
    volts: float
    templates: dict[str, Group]
    where: str
    axes: dict[str, Floats] = field(default_factory=dict)
    typical_slew_ps: float = 0.0

    def numbers(self, text: str, what: str) -> Floats:
        """The numbers of a list, however it is quoted."""
        words = [word for word in NUMBER.split(text) if word]
        try:
            return np.array(words, dtype=np.float64)
        except ValueError:
            raise TechError(f"{self.where}: {what} holds '{text[:30]}', expected numbers") from None

    def axis(self, text: str, scale: float, what: str) -> Floats:
        """An index, the same object for the same text."""
        key = f"{scale} {text}"
        if key not in self.axes:
            found = self.numbers(text, what) * scale
            if not len(found) or np.any(np.diff(found) <= 0):
                raise TechError(f"{self.where}: {what} has an index that does not ascend: {text}")
            self.axes[key] = found
        return self.axes[key]

    def surface(self, table: Group, scale: float, what: str) -> Surface:
        """A table over slew and load (or over the two slews of a constraint).

        Raises:
            TechError: its size is not that of its index.
        """
        template = self.templates.get(table.first)
        axes: dict[str, Floats] = {}
        order: list[str] = []
        for number in (1, 2):
            variable = template.values.get(f"variable_{number}", "") if template else ""
            if not variable:
                continue
            if variable not in SLEWS + LOADS:
                raise TechError(f"{self.where}: {what} is indexed by {variable}: not supported")
            key = f"index_{number}"
            text = table.lists.get(key) or (template.lists.get(key, "") if template else "")
            rows = variable in SLEWS
            units = self.ff if variable == LOADS[0] else self.ps
            axes["rows" if rows else "columns"] = self.axis(
                text, units, f"{what} (line {table.line})"
            )
            order.append("rows" if rows else "columns")
        values = self.numbers(table.lists.get("values", ""), what) * scale
        shape = tuple(len(axes[name]) for name in order)
        if values.size != int(np.prod(shape, dtype=np.int64)):
            raise TechError(
                f"{self.where}, line {table.line}: {what} has {values.size} values, expected "
                f"{' x '.join(map(str, shape)) or 1}: the file is damaged, fetch it again"
            )
        grid = values.reshape(shape or (1, 1))
        if order == ["columns", "rows"]:
            grid = grid.T
        elif len(order) == 1:
            grid = grid.reshape((-1, 1) if order == ["rows"] else (1, -1))
        zero = np.zeros(1)
        return Surface(
            axes.get("rows", zero), axes.get("columns", zero), np.ascontiguousarray(grid)
        )


def combine(surfaces: list[Surface], reduce: Callable[[Floats], Floats]) -> Surface:
    """One surface for several conditions, on the points of the largest."""
    if len(surfaces) == 1:
        return surfaces[0]
    base = max(surfaces, key=lambda surface: surface.values.size)
    stack = np.stack([resample(surface, base.slews, base.loads) for surface in surfaces])
    return Surface(base.slews, base.loads, reduce(stack))


def resample(surface: Surface, slews: Floats, loads: Floats) -> Floats:
    """Its values at other points."""
    if surface.slews is slews and surface.loads is loads:
        return surface.values
    return np.array([[surface.at(float(slew), float(load)) for load in loads] for slew in slews])


def convert_cell(group: Group, units: Units) -> Cell:
    """A cell. What the flow cannot use (buses, three-state, odd clocks) is marked ``dont_use``.

    Raises:
        TechError: a table of the wrong size, a function that is none, a number that is none.
    """
    name = group.first
    what = f"cell {name}"
    area = _number(group.values.get("area", "0"), units, f"{what}, area")
    pins: dict[str, Pin] = {}
    groups: dict[str, Group] = {}
    odd = group.values.get("dont_use", "").lower() == "true"
    odd = odd or any(True for _ in group.named("bus", "bundle", "ff_bank", "latch_bank"))
    for pin_group in group.named("pin"):
        for pin_name in pin_group.args:
            direction = pin_group.values.get("direction", "").lower()
            if direction == "input":
                pins[pin_name] = _input(pin_name, pin_group, units, what)
            elif direction == "output":
                pins[pin_name] = _output(pin_name, pin_group, units, what)
                odd = odd or "three_state" in pin_group.values
            elif direction != "internal":
                odd = True
            if pin_name in pins:
                groups[pin_name] = pin_group
    state = _state(group, pins, groups, units, what)
    if state is None:
        odd = odd or any(True for _ in group.named("statetable", "ff", "latch"))
        odd = odd or not _functional(name, pins, units)
    arcs = [
        arc
        for pin_name, pin in pins.items()
        if pin.direction == "output"
        for arc in _arcs(pin_name, groups[pin_name], state, units, f"{what}, pin {pin_name}")
        if arc.input in pins
    ]
    return Cell(name, area, _leakage(group, units, what), pins, tuple(arcs), state, odd)


def _functional(cell: str, pins: dict[str, Pin], units: Units) -> bool:
    """Whether every output of a cell without state is a function of its inputs."""
    for pin in pins.values():
        if pin.direction == "output":
            if pin.function is None:
                return False
            used = functions.names(functions.parse(pin.function))
            known = [name for name, other in pins.items() if other.direction == "input"]
            if not set(used) <= set(known):
                raise TechError(
                    f"{units.where}: cell {cell}, pin {pin.name}: function '{pin.function}' uses "
                    f"what is no input ({', '.join(known)})"
                )
            if len(used) > functions.MAX_INPUTS:
                return False
    return True


def _state(
    group: Group, pins: dict[str, Pin], groups: dict[str, Group], units: Units, what: str
) -> Sequential | None:
    times = {
        check: max(
            (
                units.surface(table, units.ps, f"{what}, pin {name}, {check}").at(
                    units.typical_slew_ps, units.typical_slew_ps
                )
                for name, pin in groups.items()
                if pins[name].direction == "input"
                for timing in pin.named("timing")
                if timing.values.get("timing_type", "").startswith(f"{check}_")
                for table in timing.named("rise_constraint", "fall_constraint")
            ),
            default=0.0,
        )
        for check in ("setup", "hold")
    }
    both = (times["setup"], times["hold"])
    words = {"flop": ("clocked_on", "next_state"), "latch": ("enable", "data_in")}
    for kind, name in (("flop", "ff"), ("latch", "latch")):
        for found in group.named(name):
            clock, data, clear, preset = (
                found.values.get(word, "") for word in (*words[kind], "clear", "preset")
            )
            state, inverted = (*found.args, "IQ", "IQN")[:2]
            return Sequential(
                "flop" if kind == "flop" else "latch",
                clock,
                data,
                clear,
                preset,
                state,
                inverted,
                *both,
            )
    return _clock_gate(group, groups, pins, both)


def _clock_gate(
    group: Group, groups: dict[str, Group], pins: dict[str, Pin], times: tuple[float, float]
) -> Sequential | None:
    """A latch that holds the enable while the clock is high, and the gate behind it."""
    if not group.values.get("clock_gating_integrated_cell", "").startswith("latch_posedge"):
        return None
    roles: dict[str, list[str]] = defaultdict(list)
    for name, pin in groups.items():
        for role in ("clock", "enable", "test"):
            if pin.values.get(f"clock_gate_{role}_pin", "").lower() == "true":
                roles[role].append(name)
    internal = [pin.first for pin in group.named("pin") if pin.values.get("internal_node")]
    if len(roles["clock"]) != 1 or not roles["enable"] or len(internal) != 1:
        return None
    for name, pin in groups.items():
        if pins[name].direction == "output":
            pins[name] = replace(pins[name], function=pin.values.get("state_function"))
    opened = " + ".join(roles["enable"] + roles["test"])
    return Sequential("gate", roles["clock"][0], opened, "", "", internal[0], "", *times)


def _number(text: str, units: Units, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TechError(f"{units.where}: {what} is '{text}', expected a number") from None


def _input(name: str, group: Group, units: Units, what: str) -> Pin:
    values = group.values
    edges = [values[key] for key in ("rise_capacitance", "fall_capacitance") if key in values]
    texts = [values["capacitance"]] if "capacitance" in values else edges or ["0"]
    found = [_number(text, units, f"{what}, pin {name}, capacitance") for text in texts]
    return Pin(
        name,
        "input",
        float(np.mean(found)) * units.ff,
        energy_fj=_passive_energy(group, units, f"{what}, pin {name}"),
        clock=values.get("clock", "").lower() == "true",
    )


def _output(name: str, group: Group, units: Units, what: str) -> Pin:
    text = group.values.get("max_capacitance")
    limit = None if text is None else _number(text, units, f"{what}, pin {name}") * units.ff
    return Pin(name, "output", 0.0, group.values.get("function"), limit)


def _leakage(group: Group, units: Units, what: str) -> float:
    if "cell_leakage_power" in group.values:
        return _number(group.values["cell_leakage_power"], units, f"{what}, leakage") * units.nw
    rails: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for part in group.named("leakage_power"):
        value = _number(part.values.get("value", "0"), units, f"{what}, leakage")
        rails[part.values.get("related_pg_pin", "")].append(("when" in part.values, value))
    return units.nw * sum(
        float(np.mean([v for c, v in found if not c] or [v for _, v in found]))
        for found in rails.values()
    )


def _arcs(
    output: str,
    group: Group,
    state: Sequential | None,
    units: Units,
    what: str,
) -> Iterable[Arc]:
    latch = state is not None and state.kind == "latch"
    found: dict[str, list[Group]] = defaultdict(list)
    for timing in group.named("timing"):
        if timing.values.get("timing_type", "") in KINDS:
            for pin in timing.values.get("related_pin", "").split():
                found[pin].append(timing)
    energies = _energies(group, units, what)
    for pin, timings in found.items():
        delay: dict[Edge, Surface] = {}
        slew: dict[Edge, Surface] = {}
        for edge in EDGES:
            for store, key in ((delay, f"cell_{edge}"), (slew, f"{edge}_transition")):
                tables = [
                    units.surface(table, units.ps, f"{what}, {key} from {pin}")
                    for timing in timings
                    for table in timing.named(key)
                ]
                if tables:
                    store[edge] = combine(tables, lambda stack: stack.max(axis=0))
        if not delay:
            continue
        if delay.keys() != slew.keys():
            raise TechError(f"{units.where}: {what} from {pin} lacks a table of its transition")
        kinds = {KINDS[timing.values.get("timing_type", "")] for timing in timings}
        senses = {SENSES.get(timing.values.get("timing_sense", ""), "either") for timing in timings}
        kind: Literal["logic", "clock", "data", "set", "clear"]
        kind = "logic" if "logic" in kinds else sorted(kinds)[0]
        if latch and kind == "logic":
            kind = "data"
        sense = next(iter(senses)) if len(senses) == 1 else "either"
        yield Arc(pin, output, sense, delay, slew, energies.get(pin, {}), kind)


def _energies(group: Group, units: Units, what: str) -> dict[str, dict[Edge, Surface]]:
    """By related pin: the mean over conditions of each rail, summed over rails, without loads."""
    found: dict[str, dict[Edge, dict[str, list[Surface]]]] = {}
    for power in group.named("internal_power"):
        for pin in power.values.get("related_pin", "").split():
            for edge, table in _power_tables(power):
                surface = units.surface(table, units.fj, f"{what}, energy from {pin}")
                rails = found.setdefault(pin, {}).setdefault(edge, defaultdict(list))
                rails[power.values.get("related_pg_pin", "")].append(surface)
    result: dict[str, dict[Edge, Surface]] = {}
    for pin, edges in found.items():
        summed: dict[Edge, Surface] = {}
        for edge, rails in edges.items():
            means = [combine(list(r), lambda stack: stack.mean(axis=0)) for r in rails.values()]
            summed[edge] = combine(means, lambda stack: stack.sum(axis=0))
        result[pin] = _without_load(summed, units.volts)
    return result


def _power_tables(power: Group) -> Iterable[tuple[Edge, Group]]:
    for edge in EDGES:
        for table in power.named(f"{edge}_power"):
            yield edge, table
    for table in power.named("power"):
        for edge in EDGES:
            yield edge, table


def _without_load(edges: dict[Edge, Surface], volts: float) -> dict[Edge, Surface]:
    """Some libraries count what the load takes: then energy grows by half C V^2 an edge."""
    unit = 0.5 * volts * volts
    slopes: dict[Edge, float] = {}
    for edge, surface in edges.items():
        if len(surface.loads) > 1:
            rise = surface.values[:, -1] - surface.values[:, 0]
            slopes[edge] = float(np.median(rise)) / (surface.loads[-1] - surface.loads[0]) / unit
    if not slopes or not 0.7 < float(np.mean(list(slopes.values()))) < 1.3:
        return edges
    return {
        edge: Surface(
            surface.slews,
            surface.loads,
            surface.values - round(slopes.get(edge, 0.0)) * unit * surface.loads,
        )
        for edge, surface in edges.items()
    }


def _passive_energy(group: Group, units: Units, what: str) -> float:
    """Of an input pin whose edge moves no output, mean of both edges at the typical slew, fJ."""
    rails: dict[str, list[float]] = defaultdict(list)
    for power in group.named("internal_power"):
        if "related_pin" in power.values:
            continue
        for _, table in _power_tables(power):
            surface = units.surface(table, units.fj, f"{what}, energy")
            rails[power.values.get("related_pg_pin", "")].append(
                surface.at(units.typical_slew_ps, 0.0)
            )
    return float(sum(np.mean(found) for found in rails.values()))
