"""Cell libraries by name or from Liberty files, as :class:`~opennpe.tech.cells.CellLibrary`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from opennpe.fpga import functions
from opennpe.fpga.liberty_cells import Units, convert_cell
from opennpe.fpga.liberty_parser import Group, parse_file
from opennpe.golden.errors import TechError
from opennpe.tech import libraries
from opennpe.tech.cells import Cell, CellLibrary

__all__ = ["check_cells", "inverter", "load", "read_files"]

NODES = {
    "sg13g2": 130.0,
    "sky130": 130.0,
    "gf180": 180.0,
    "nangate": 45.0,
    "freepdk45": 45.0,
    "asap7": 7.0,
}
"""Feature sizes, nm, by what names of public libraries contain: Liberty does not say."""
PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
FAN_OUT = 4
"""Inverters that the smallest one drives when it makes the library's typical slew."""


def load(source: str | Path) -> CellLibrary:
    """A library by the name of a shipped one, or from Liberty files.

    Args:
        source: "ihp130" or "asap7"; else a ``.lib`` or ``.lib.gz`` file, a folder of them, or
            several with commas between.

    Raises:
        TechError: no such library or file; not Liberty; cut short; a table of the wrong size; no
            inverter, no buffer, no two-input nand or nor, or no flip-flop.
    """
    text = str(source)
    if text in libraries.NAMES:
        return libraries.shipped(text)
    paths: list[Path] = []
    for part in text.split(","):
        path = Path(part.strip()).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.name.endswith((".lib", ".lib.gz")))
            if not found:
                raise TechError(f"folder {path} holds no .lib or .lib.gz file")
            paths += found
        elif path.is_file():
            paths.append(path)
        else:
            raise TechError(
                f"no cell library '{part.strip()}': expected {' or '.join(libraries.NAMES)}, a "
                "Liberty file (.lib, .lib.gz), or a folder of them"
            )
    library = read_files(paths)
    check_cells(library)
    return library


def read_files(paths: Iterable[Path]) -> CellLibrary:
    """Liberty files joined to one library, whatever cells they hold.

    Raises:
        TechError: as :func:`load`, but for missing cells.
    """
    files = [Path(path) for path in paths]
    trees = [(path, parse_file(path)) for path in files]
    units = [_units(tree, path.name) for path, tree in trees]
    slew = _typical_slew(list(zip((tree for _, tree in trees), units, strict=True)))
    cells: dict[str, Cell] = {}
    logic: list[int] = []
    for (_, tree), unit in zip(trees, units, strict=True):
        unit.typical_slew_ps = slew
        found: set[str | None] = set()
        for group in tree.named("cell"):
            cell = convert_cell(group, unit)
            if any(pin.direction == "output" for pin in cell.pins.values()):
                cells[cell.name] = cell
                if cell.sequential is None:
                    found |= {pin.function for pin in cell.pins.values()}
        logic.append(len(found))
    # ABC drops a file of inverters and buffers alone, and all its cells, if it comes first.
    richest = sorted(range(len(files)), key=lambda number: -logic[number])
    first = trees[0][1]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    name = re.sub(r"\.lib(\.gz)?$", "", files[0].name)
    return CellLibrary(
        name,
        next((node for key, node in NODES.items() if key in first.first.lower()), 0.0),
        units[0].volts,
        float(first.values.get("nom_temperature", "25")),
        cells,
        slew,
        source=", ".join(path.name for path in files),
        sha256=digests[0] if len(digests) == 1 else _digest(" ".join(digests)),
        files=tuple(str(files[number].resolve()) for number in richest),
        notes={path.name: digest for path, digest in zip(files, digests, strict=True)},
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _units(tree: Group, where: str) -> Units:
    volts = _quantity(tree.values.get("voltage_unit", "1V"), "V", where)
    farads = re.fullmatch(
        r"\s*([\d.eE+-]+)\s*,\s*\"?\s*([a-zA-Z]+)\s*\"?\s*",
        tree.lists.get("capacitive_load_unit", "1,pf"),
    )
    if farads is None:
        raise TechError(f"{where}: capacitive_load_unit is not '(number, unit)'")
    farad = _quantity(farads[1] + farads[2], "F", where)
    try:
        supply = float(tree.values.get("nom_voltage", "1")) * volts
    except ValueError:
        raise TechError(f"{where}: nom_voltage is '{tree.values['nom_voltage']}'") from None
    return Units(
        ps=_quantity(tree.values.get("time_unit", "1ns"), "s", where) / 1e-12,
        ff=farad / 1e-15,
        nw=_quantity(tree.values.get("leakage_power_unit", "1nW"), "W", where) / 1e-9,
        fj=farad * volts * volts / 1e-15,
        volts=supply,
        templates={
            group.first: group for group in tree.groups if group.name.endswith(("_template",))
        },
        where=where,
    )


def _quantity(text: str, unit: str, where: str) -> float:
    found = re.fullmatch(rf"\s*([\d.eE+-]+)\s*([fpnum]?){unit}\s*", text, re.IGNORECASE)
    if found is None:
        raise TechError(f"{where}: unit '{text}' is not a number and a unit of {unit}")
    return float(found[1]) * PREFIXES[found[2].lower()]


def inverter(cells: Iterable[Cell]) -> Cell | None:
    """The smallest, None if there is none."""
    return min(
        (cell for cell in cells if not cell.dont_use and _table(cell, 1) == 0b01),
        key=lambda cell: cell.area_um2,
        default=None,
    )


def _table(cell: Cell, inputs: int) -> int | None:
    """Truth table of a cell of one output and so many inputs."""
    if cell.sequential is not None or len(cell.pins) != inputs + 1:
        return None
    outputs = [pin for pin in cell.pins.values() if pin.direction == "output"]
    if len(outputs) != 1 or outputs[0].function is None:
        return None
    names = [name for name, pin in cell.pins.items() if pin.direction == "input"]
    return functions.truth_table(outputs[0].function, names)


def _typical_slew(trees: list[tuple[Group, Units]]) -> float:
    """Mean of both edges behind the smallest inverter that drives four, fed by its like."""
    candidates = [
        convert_cell(group, units)
        for tree, units in trees
        for group in tree.named("cell")
        if sum(1 for pin in group.named("pin")) == 2
        and not any(True for _ in group.named("ff", "latch", "statetable"))
    ]
    cell = inverter(candidates)
    if cell is None or not cell.arcs:
        return 0.0
    arc = cell.arcs[0]
    load = FAN_OUT * cell.pins[arc.input].capacitance_ff
    slew = float(arc.slew["rise"].slews[0])
    for _ in range(20):
        slew = sum(surface.at(slew, load) for surface in arc.slew.values()) / len(arc.slew)
    return slew


def check_cells(library: CellLibrary) -> None:
    """Refuse a library that nothing can be mapped to.

    Raises:
        TechError: it lacks an inverter, a buffer (ABC ends without a word if there is none), a
            two-input nand or nor, or a flip-flop.
    """
    usable = [cell for cell in library.cells.values() if not cell.dont_use]
    missing = []
    if inverter(usable) is None:
        missing.append("inverter")
    if not any(_table(cell, 1) == 0b10 for cell in usable):
        missing.append("buffer")
    if not any(_table(cell, 2) in (0b0111, 0b0001) for cell in usable):
        missing.append("two-input nand or nor")
    if not any(_plain_flop(cell) for cell in usable):
        missing.append("flip-flop")
    if missing:
        raise TechError(
            f"library {library.source or library.name} has no {' and no '.join(missing)}: give all "
            "files of the library, with commas between"
        )


def _plain_flop(cell: Cell) -> bool:
    state = cell.sequential
    if state is None or state.kind != "flop":
        return False
    inputs = [name for name, pin in cell.pins.items() if pin.direction == "input"]
    return functions.names(functions.parse(state.next_state))[0] in inputs and len(inputs) <= 3
