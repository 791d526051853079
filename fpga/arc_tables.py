"""The arcs of a netlist's cells as arrays, for kernels: surfaces packed end to end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga.netlist import Netlist
from opennpe.tech.cells import Surface

__all__ = ["ENDS", "KINDS", "SENSES", "STARTS", "Arcs", "Surfaces", "pack"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
SENSES = ("positive", "negative", "either")
KINDS = ("logic", "clock", "data", "set", "clear")
STARTS, ENDS = 1, 2
"""Roles of pins: where paths start (outputs of what keeps a state), where they end."""


class Surfaces(NamedTuple):
    """Surfaces end to end.

    Attributes:
        shape: int32 (surfaces, 2), points of slew and load.
        axis: int32 (surfaces, 2), where they begin in ``points``.
        begin: int32 (surfaces,), where a surface begins in ``values``.
    """

    shape: Ints
    axis: Ints
    begin: Ints
    points: Floats
    values: Floats


class Arcs(NamedTuple):
    """Arcs by kind of cell; those of kind k are ``first[k]:first[k + 1]``.

    Attributes:
        pins: int32 (arcs, 2), input and output as numbers of the cell's pins.
        sense, role: int32 (arcs,), indices into SENSES and KINDS.
        delay, slew, energy: int32 (arcs, 2), surfaces by the output's edge, -1 for none.
        pin_first: int32 (kinds + 1,), begin of each kind's pins in what follows.
        capacitance: float64 (pins,), fF.
        pin_role: int8 (pins,), STARTS, ENDS or 0.
        setup: float64 (kinds,), ps.
    """

    first: Ints
    pins: Ints
    sense: Ints
    role: Ints
    delay: Ints
    slew: Ints
    energy: Ints
    pin_first: Ints
    capacitance: Floats
    pin_role: NDArray[np.int8]
    setup: Floats


class _Packer:
    def __init__(self) -> None:
        self.shape: list[tuple[int, int]] = []
        self.axis: list[tuple[int, int]] = []
        self.begin: list[int] = []
        self.points: list[float] = []
        self.values: list[float] = []
        self.axes: dict[bytes, int] = {}

    def place(self, points: Floats) -> int:
        key = points.tobytes()
        if key not in self.axes:
            self.axes[key] = len(self.points)
            self.points += points.tolist()
        return self.axes[key]

    def add(self, surface: Surface | None) -> int:
        if surface is None:
            return -1
        self.shape.append((len(surface.slews), len(surface.loads)))
        self.axis.append((self.place(surface.slews), self.place(surface.loads)))
        self.begin.append(len(self.values))
        self.values += surface.values.ravel().tolist()
        return len(self.begin) - 1

    def done(self) -> Surfaces:
        return Surfaces(
            np.array(self.shape, np.int32).reshape(-1, 2),
            np.array(self.axis, np.int32).reshape(-1, 2),
            np.array(self.begin, np.int32),
            np.array(self.points),
            np.array(self.values),
        )


def pack(netlist: Netlist) -> tuple[Arcs, Surfaces]:
    """The arcs and surfaces of the cells a netlist uses, numbered as its ``kinds``."""
    packer = _Packer()
    first, pin_first = [0], [0]
    pins: list[tuple[int, int]] = []
    sense: list[int] = []
    role: list[int] = []
    surfaces: dict[str, list[tuple[int, int]]] = {"delay": [], "slew": [], "energy": []}
    capacitance: list[float] = []
    pin_role: list[int] = []
    setup: list[float] = []
    for name in netlist.kinds:
        cell = netlist.library.cells[name]
        state = cell.sequential
        order = {pin: index for index, pin in enumerate(cell.pins)}
        for arc in cell.arcs:
            pins.append((order[arc.input], order[arc.output]))
            sense.append(SENSES.index(arc.sense))
            role.append(KINDS.index(arc.kind))
            for what, by_edge in (("delay", arc.delay), ("slew", arc.slew), ("energy", arc.energy)):
                surfaces[what].append(
                    (packer.add(by_edge.get("rise")), packer.add(by_edge.get("fall")))
                )
        clocks = {arc.input for arc in cell.arcs if arc.kind == "clock"}
        if state is not None and state.kind == "gate":
            clocks.add(state.clock)
        for pin in cell.pins.values():
            capacitance.append(pin.capacitance_ff if pin.direction == "input" else 0.0)
            if state is None or pin.name in clocks:
                pin_role.append(0)
            elif pin.direction == "input":
                pin_role.append(ENDS)
            else:
                pin_role.append(0 if state.kind == "gate" else STARTS)
        setup.append(state.setup_ps if state else 0.0)
        first.append(len(pins))
        pin_first.append(len(capacitance))
    arcs = Arcs(
        np.array(first, np.int32),
        np.array(pins, np.int32).reshape(-1, 2),
        np.array(sense, np.int32),
        np.array(role, np.int32),
        np.array(surfaces["delay"], np.int32).reshape(-1, 2),
        np.array(surfaces["slew"], np.int32).reshape(-1, 2),
        np.array(surfaces["energy"], np.int32).reshape(-1, 2),
        np.array(pin_first, np.int32),
        np.array(capacitance),
        np.array(pin_role, np.int8),
        np.array(setup),
    )
    return arcs, packer.done()
