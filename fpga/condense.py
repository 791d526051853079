"""Full libraries to the tables that come along: a few points of each surface, four digits.

``python -m opennpe.fpga.condense ihp130 FILE.lib --licence ... --out tech/ihp130.json.gz``
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import functions, liberty
from opennpe.golden.errors import OpenNPEError
from opennpe.tech.cells import Cell, CellLibrary, Edge, Surface
from opennpe.tech.libraries import SCHEMA

__all__ = ["condense", "faults", "main"]

DELAY_POINTS = (0, 2, 4, 6), (0, 3, 6)
"""Of seven slews and seven loads: delay bends with the slew, hardly with the load."""
ENERGY_POINTS = (0, 2, 4), (0, 6)
DIGITS = 4
ROUNDED = 0.5 * 10.0 ** (1 - DIGITS) * 1.02
"""How far four digits may be off, with a little for the binary."""
PLAIN = 4
"""Inputs of a flop or latch that a mapper may use; scan cells have more."""


def condense(library: CellLibrary, name: str, licence: str, command: str) -> dict[str, Any]:
    """A library's facts as JSON, without cells that no mapper uses."""
    axes: list[list[float]] = []
    cells = {cell.name: _cell(cell, axes) for cell in library.cells.values() if _kept(cell)}
    return {
        "schema": SCHEMA,
        "name": name,
        "node_nm": library.node_nm,
        "voltage_v": library.voltage_v,
        "temperature_c": library.temperature_c,
        "typical_slew_ps": _round(library.typical_slew_ps),
        "source": library.source,
        "licence": licence,
        "sha256": library.sha256,
        "notes": {**library.notes, "command": command},
        "axes": axes,
        "cells": cells,
    }


def _kept(cell: Cell) -> bool:
    state = cell.sequential
    if state is not None and state.kind == "gate":
        return True
    inputs = sum(pin.direction == "input" for pin in cell.pins.values())
    if cell.dont_use or (state is not None and inputs > PLAIN):
        return False
    return state is None or len(functions.names(functions.parse(state.next_state))) == 1


def faults(full: CellLibrary, table: CellLibrary) -> list[str]:
    """What of a table is not what the full library says, a line a cell; nothing if all is well.

    Areas and functions are to be the same, capacitances, leakages and the points of surfaces that
    a table kept are to be within the rounding to four digits.
    """
    found = []
    for name, cell in full.cells.items():
        if not _kept(cell):
            continue
        wrong = _differences(cell, table.cells[name]) if name in table.cells else ["missing"]
        found += [f"cell {name}: {', '.join(wrong)}"] if wrong else []
    found += [f"cell {name}: not in the files" for name in table.cells.keys() - full.cells.keys()]
    return found


def _differences(full: Cell, ours: Cell) -> list[str]:
    wrong = []
    if full.area_um2 != ours.area_um2:
        wrong.append(f"area {ours.area_um2:g} um2, not {full.area_um2:g}")
    if _off(full.leakage_nw, ours.leakage_nw):
        wrong.append(f"leakage {ours.leakage_nw:g} nW, not {full.leakage_nw:g}")
    for name, pin in full.pins.items():
        held = ours.pins.get(name)
        if held is None or (pin.direction, pin.function) != (held.direction, held.function):
            wrong.append(f"pin {name}")
        elif _off(pin.capacitance_ff, held.capacitance_ff):
            wrong.append(f"pin {name} {held.capacitance_ff:g} fF, not {pin.capacitance_ff:g}")
    arcs = [[(arc.input, arc.output, arc.kind) for arc in cell.arcs] for cell in (full, ours)]
    if arcs[0] != arcs[1]:
        return [*wrong, "arcs"]
    for arc, held_arc in zip(full.arcs, ours.arcs, strict=True):
        for what in ("delay", "slew", "energy"):
            surfaces, held_surfaces = getattr(arc, what), getattr(held_arc, what)
            if surfaces.keys() != held_surfaces.keys() or any(
                _surface_off(surfaces[edge], held_surfaces[edge]) for edge in surfaces
            ):
                wrong.append(f"{what} from {arc.input} to {arc.output}")
    return wrong


def _off(full: float, ours: float) -> bool:
    return abs(ours - full) > ROUNDED * abs(full)


def _surface_off(full: Surface, ours: Surface) -> bool:
    """Whether a surface is anything but points of the full one."""
    rows, columns = (
        [int(np.argmin(np.abs(points - point))) for point in held]
        for points, held in ((full.slews, ours.slews), (full.loads, ours.loads))
    )
    pairs = (
        (full.slews[rows], ours.slews),
        (full.loads[columns], ours.loads),
        (full.values[np.ix_(rows, columns)], ours.values),
    )
    return any(bool((np.abs(held - said) > ROUNDED * np.abs(said)).any()) for said, held in pairs)


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _cell(cell: Cell, axes: list[list[float]]) -> dict[str, Any]:
    state = cell.sequential
    return {
        "area": cell.area_um2,
        "leakage": _round(cell.leakage_nw),
        "dont_use": cell.dont_use,
        "pins": [
            [
                pin.name,
                pin.direction,
                _round(pin.capacitance_ff),
                pin.function,
                None if pin.max_load_ff is None else _round(pin.max_load_ff),
                _round(pin.energy_fj),
                pin.clock,
            ]
            for pin in cell.pins.values()
        ],
        "state": state
        and [
            *(state.kind, state.clock, state.next_state, state.clear, state.preset),
            *(state.state, state.state_inverted),
            *(_round(state.setup_ps), _round(state.hold_ps)),
        ],
        "arcs": [
            {
                "from": arc.input,
                "to": arc.output,
                "kind": arc.kind,
                "sense": arc.sense,
                "delay": _thinned(arc.delay, DELAY_POINTS, axes),
                "slew": _thinned(arc.slew, DELAY_POINTS, axes),
                "energy": _thinned(arc.energy, ENERGY_POINTS, axes),
            }
            for arc in cell.arcs
        ],
    }


def _thinned(
    surfaces: dict[Edge, Surface],
    points: tuple[Sequence[int], Sequence[int]],
    axes: list[list[float]],
) -> dict[Edge, Any]:
    result: dict[Edge, Any] = {}
    for edge, surface in surfaces.items():
        rows, columns = (
            [number for number in picked if number < count] if count >= 7 else list(range(count))
            for picked, count in zip(points, surface.values.shape, strict=True)
        )
        values = surface.values[np.ix_(rows, columns)]
        result[edge] = [
            _axis(surface.slews[rows], axes),
            _axis(surface.loads[columns], axes),
            [_round(value) for value in values.ravel()],
        ]
    return result


def _axis(points: NDArray[np.float64], axes: list[list[float]]) -> int:
    values = [float(f"{point:.6g}") for point in points]
    if values not in axes:
        axes.append(values)
    return axes.index(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m opennpe.fpga.condense")
    parser.add_argument("name", help="of the table")
    parser.add_argument("files", help="Liberty files, a folder, or several with commas between")
    parser.add_argument("--licence", default="")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    names = ",".join(Path(part).name for part in chosen.files.split(","))
    command = f"python -m opennpe.fpga.condense {chosen.name} {names}"
    try:
        table = condense(liberty.load(chosen.files), chosen.name, chosen.licence, command)
        text = json.dumps(table, separators=(",", ":")).encode()
        chosen.out.write_bytes(gzip.compress(text, 9, mtime=0))
    except OpenNPEError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
