"""A standard-cell library as data: what a mapper, a timer and a gate-level simulator need of it.

Units everywhere: area um2, time ps, capacitance fF, energy fJ, leakage nW, voltage V.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arc", "Cell", "CellLibrary", "Edge", "Pin", "Sequential", "Surface"]

Floats = NDArray[np.float64]
Edge = Literal["rise", "fall"]


@dataclass(frozen=True, eq=False)
class Surface:
    """A quantity over input slew and output load, bilinear between its points and beyond them.

    A linear model is a surface of two by two points, a constant one of one by one.

    Attributes:
        slews: float64 (S,), ps, ascending.
        loads: float64 (L,), fF, ascending.
        values: float64 (S, L).
    """

    slews: Floats
    loads: Floats
    values: Floats

    def at(self, slew_ps: float, load_ff: float) -> float:
        """The value between the four points around, or beyond the outermost."""
        i, u = _place(self.slews, slew_ps)
        j, v = _place(self.loads, load_ff)
        rows, columns = (min(k + 1, n - 1) for k, n in zip((i, j), self.values.shape, strict=True))
        table = self.values
        low = table[i, j] + v * (table[i, columns] - table[i, j])
        high = table[rows, j] + v * (table[rows, columns] - table[rows, j])
        return float(low + u * (high - low))


def _place(points: Floats, value: float) -> tuple[int, float]:
    """The interval a value belongs to, and how far along it lies."""
    if len(points) == 1:
        return 0, 0.0
    at = min(max(int(np.searchsorted(points, value, side="right")) - 1, 0), len(points) - 2)
    return at, float((value - points[at]) / (points[at + 1] - points[at]))


@dataclass(frozen=True, eq=False)
class Arc:
    """From one input pin to one output pin.

    Conditions of a library (``when``) are gone: delays and slews are the worst of them, energies
    their mean.

    Attributes:
        input, output: names of pins.
        kind: "logic"; of what keeps a state, by what changes it: "clock" (a flop's edge, a latch's
            enable), "data" (through an open latch), "set" or "clear". Timing follows "logic" and
            starts paths at "clock".
        sense: how the output follows the input. "either" for exclusive-or and the like.
        delay, slew, energy: surfaces by the output's edge, ps, ps and fJ a transition; energy is
            the cell's own, without the load's.
    """

    input: str
    output: str
    sense: Literal["positive", "negative", "either"]
    delay: dict[Edge, Surface]
    slew: dict[Edge, Surface]
    energy: dict[Edge, Surface]
    kind: Literal["logic", "clock", "data", "set", "clear"] = "logic"


@dataclass(frozen=True)
class Pin:
    """A pin.

    Attributes:
        capacitance_ff: of an input; 0 for outputs.
        function: of an output, in Liberty's syntax over input pins (or the flop's state).
        max_load_ff: of an output, None where the library says nothing.
        energy_fj: what an edge of this input costs without the output moving, mean of both edges
            (a clock pin's, above all), at the library's typical slew.
    """

    name: str
    direction: Literal["input", "output"]
    capacitance_ff: float = 0.0
    function: str | None = None
    max_load_ff: float | None = None
    energy_fj: float = 0.0
    clock: bool = False

    def cycle_fj(self, voltage_v: float) -> float:
        """What both edges of a cycle cost at this pin: the cell's own part, and its capacitance.

        A rise charges the pin and a fall does not: C V^2 once, fF and V to fJ.
        """
        return 2 * self.energy_fj + self.capacitance_ff * voltage_v**2


@dataclass(frozen=True)
class Sequential:
    """What a cell keeps.

    Attributes:
        kind: "flop", "latch", or "gate" for an integrated clock gate.
        clock: the clock or enable expression; next_state, clear, preset: expressions, "" if none.
            A clock gate's latch takes next_state while its clock is low ("CLK" rises with the
            enable held), and its output is a function of the clock pin and the state.
        state, state_inverted: names of the state variables in output functions.
        setup_ps, hold_ps: of the data pins, worst edge, where both slews are the library's typical.
    """

    kind: Literal["flop", "latch", "gate"]
    clock: str
    next_state: str
    clear: str = ""
    preset: str = ""
    state: str = "IQ"
    state_inverted: str = "IQN"
    setup_ps: float = 0.0
    hold_ps: float = 0.0


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell: one or more outputs, at most one state."""

    name: str
    area_um2: float
    leakage_nw: float
    pins: dict[str, Pin]
    arcs: tuple[Arc, ...]
    sequential: Sequential | None = None
    dont_use: bool = False


@dataclass(frozen=True, eq=False)
class CellLibrary:
    """A library at one corner.

    Attributes:
        name: short, as a user names it ("ihp130", "asap7", or a file's stem).
        typical_slew_ps: of the smallest inverter that drives four of its kind.
        node_nm, voltage_v, temperature_c: of the corner.
        source, licence, sha256: where its facts come from; of the files they were read from.
        files: the Liberty files it was read from, for tools that read them themselves; none if it
            came from a table of ours.
    """

    name: str
    node_nm: float
    voltage_v: float
    temperature_c: float
    cells: dict[str, Cell]
    typical_slew_ps: float = 0.0
    source: str = ""
    licence: str = ""
    sha256: str = ""
    files: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
