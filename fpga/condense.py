"""Full libraries to the tables that come along: a few points of each surface, four digits.

``python -m opennpe.fpga.condense cells ihp130 sg13g2_stdcell_typ_1p20V_25C.lib --licence ...``
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import functions, liberty
from opennpe.fpga.liberty_parser import Group, parse_file
from opennpe.golden.errors import OpenNPEError, TechError
from opennpe.tech.cells import Cell, CellLibrary, Edge, Surface
from opennpe.tech.libraries import SCHEMA

__all__ = ["condense", "main", "sram"]

DELAY_POINTS = (0, 2, 4, 6), (0, 3, 6)
"""Of seven slews and seven loads: delay bends with the slew, hardly with the load."""
ENERGY_POINTS = (0, 2, 4), (0, 6)
DIGITS = 4
READ, WRITE = "A_MEN&!A_WEN&A_REN", "A_MEN&A_WEN&!A_REN"
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


def sram(paths: Iterable[Path]) -> dict[str, Any]:
    """Facts of memory macros by name, one a file: IHP's single-port memories.

    Energies are of the clock's rising edge while a read or a write is asked for; access time is the
    clock to the output at the middle of its table, the worse edge.

    Raises:
        TechError: not such a macro.
    """
    return {name: facts for name, facts in map(_macro, paths)}


def _macro(path: Path) -> tuple[str, dict[str, Any]]:
    tree = parse_file(path)
    shape = re.search(r"_(\d+)x(\d+)_", path.name)
    cells = list(tree.named("cell"))
    if shape is None or len(cells) != 1:
        raise TechError(f"{path.name} is not one memory macro of words x bits")
    (cell,) = cells
    clocks = [pin for pin in _pins(cell) if pin.first == "A_CLK"]
    if not clocks:
        raise TechError(f"{path.name} has no pin A_CLK")
    energies: dict[str, float] = {}
    for power in clocks[0].named("internal_power"):
        when = re.sub(r"\s", "", power.values.get("when", ""))
        for table in power.named("rise_power"):
            energies[when] = float(table.lists["values"].strip(' "'))
    delays = [
        np.median([float(word) for word in re.findall(r"[\d.eE+-]+", table.lists["values"])])
        for pin in _pins(cell)
        for timing in pin.named("timing")
        if timing.values.get("timing_type", "") == "rising_edge"
        for table in timing.named("cell_rise", "cell_fall")
    ]
    try:
        return cell.first, {
            "words": int(shape[1]),
            "bits": int(shape[2]),
            "area_um2": float(cell.values["area"]),
            "read_pj": energies[READ],
            "write_pj": energies[WRITE],
            "access_ns": round(float(max(delays)), 4),
            "leakage_nw": float(cell.values["cell_leakage_power"]),
            "source": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    except (KeyError, ValueError) as error:
        raise TechError(f"{path.name} lacks a fact of a memory macro: {error}") from None


def _pins(group: Group) -> Iterable[Group]:
    for inner in group.groups:
        if inner.name == "pin":
            yield inner
        elif inner.name in ("bus", "bundle"):
            yield inner
            yield from _pins(inner)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m opennpe.fpga.condense")
    parser.add_argument("what", choices=("cells", "sram"))
    parser.add_argument("name", help="of the table")
    parser.add_argument("files", help="Liberty files, a folder, or several with commas between")
    parser.add_argument("--licence", default="")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    names = ",".join(Path(part).name for part in chosen.files.split(","))
    command = f"python -m opennpe.fpga.condense {chosen.what} {chosen.name} {names}"
    try:
        if chosen.what == "cells":
            table = condense(liberty.load(chosen.files), chosen.name, chosen.licence, command)
            text = json.dumps(table, separators=(",", ":")).encode()
            chosen.out.write_bytes(gzip.compress(text, 9, mtime=0))
        else:
            facts = {
                "schema": {"name": "opennpe.tech.memories", "version": 1},
                "licence": chosen.licence,
                "command": command,
                "macros": sram(sorted(Path(chosen.files).glob("RM_*.lib"))),
            }
            chosen.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OpenNPEError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
