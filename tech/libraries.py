"""The cell libraries that come along: condensed facts of public ones, one file each.

A file holds areas, leakages, capacitances, functions, and delays, slews and energies at a few of
the library's own points, rounded to four digits; whence, under what licence and by which command
stands in it. :mod:`opennpe.fpga.condense` writes them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import TechError
from opennpe.tech.cells import Arc, Cell, CellLibrary, Edge, Pin, Sequential, Surface

__all__ = ["NAMES", "SCHEMA", "read", "shipped"]

NAMES = ("ihp130", "asap7")
SCHEMA = {"name": "opennpe.tech.cells", "version": 1}
EDGES: tuple[Edge, ...] = get_args(Edge)


@cache
def shipped(name: str) -> CellLibrary:
    """A library that comes along.

    Raises:
        TechError: none of that name, or its file is damaged.
    """
    if name not in NAMES:
        raise TechError(f"no table of cells '{name}': expected {' or '.join(NAMES)}")
    return read(Path(__file__).with_name(f"{name}.json.gz"))


def read(path: Path) -> CellLibrary:
    """A library from a file of condensed facts.

    Raises:
        TechError: the file is missing, damaged, or something else.
    """
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TechError(f"{path.name} is no readable table of cells: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise TechError(f"{path.name} is not a table of cells of version {SCHEMA['version']}")
    try:
        axes = [np.array(axis, np.float64) for axis in found["axes"]]
        cells = {name: _cell(name, cell, axes) for name, cell in found["cells"].items()}
        return CellLibrary(
            found["name"],
            found["node_nm"],
            found["voltage_v"],
            found["temperature_c"],
            cells,
            found["typical_slew_ps"],
            found["source"],
            found["licence"],
            found["sha256"],
            (),
            found["notes"],
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TechError(f"{path.name} is a damaged table of cells: {error!r}") from None


def _cell(name: str, found: dict[str, Any], axes: list[NDArray[np.float64]]) -> Cell:
    pins = {pin[0]: Pin(*pin) for pin in found["pins"]}
    arcs = tuple(
        Arc(
            arc["from"],
            arc["to"],
            arc["sense"],
            delay=_surfaces(arc["delay"], axes),
            slew=_surfaces(arc["slew"], axes),
            energy=_surfaces(arc["energy"], axes),
            kind=arc["kind"],
        )
        for arc in found["arcs"]
    )
    state = Sequential(*found["state"]) if found["state"] else None
    return Cell(name, found["area"], found["leakage"], pins, arcs, state, found["dont_use"])


def _surfaces(found: dict[Edge, Any], axes: list[NDArray[np.float64]]) -> dict[Edge, Surface]:
    result: dict[Edge, Surface] = {}
    for edge in EDGES:
        if edge in found:
            slews, loads = (axes[number] for number in found[edge][:2])
            values = np.array(found[edge][2], np.float64).reshape(len(slews), len(loads))
            result[edge] = Surface(slews, loads, values)
    return result
