"""Areas of a spec by block: each distinct block mapped once, memories left to their macros.

Area, registers and leakage of a block are those of all its copies, without what leads nowhere once
the blocks are together: a block mapped on its own cannot know what nobody outside takes. Its
stage is the longest path within a copy that begins at a register or at what a memory read, and
ends at a register or at a memory's pin; paths across blocks are found on all of them together.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.fpga import area_blocks, area_paths, boxes, synthesis, timing
from opennpe.fpga.area_blocks import Unit
from opennpe.fpga.kept import kept
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.progress import Progress, Silent
from opennpe.golden.errors import DataError, OpenNPEError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.tech.areas import Block, SpecArea
from opennpe.tech.cells import CellLibrary
from opennpe.tech.memories import Shape, memory

__all__ = ["VERSION", "design_key", "macros_of", "measure", "units_of"]

VERSION = 1
"""Of how blocks are measured; another number forgets what is kept."""
ENGINE = "opennpe_engine"
ENGINES = "engines"
COPROCESSOR = Path(__file__).resolve().parents[1] / "rtl" / "coprocessor.py"
SAID = re.compile(r'^[ \t]*(?:#.*|"""(?:.|\n)*?""")[ \t]*\n', re.MULTILINE)
IMPORT = re.compile(r"^[ \t]*from (opennpe[\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)


def units_of(spec: CoprocessorSpec) -> tuple[Unit, ...]:
    """The blocks of a spec's design; of an array without memories its engines.

    Raises:
        ToolError: pyosys is missing.
    """
    from opennpe.rtl import verilog
    from opennpe.rtl.coprocessor import Coprocessor
    from opennpe.rtl.engine import Engine

    try:
        spec.check_coprocessor()
    except OpenNPEError:
        (engine,) = area_blocks.cut(verilog.convert(Engine(spec.engine), ENGINE), ENGINE)
        return (replace(engine, copies=spec.array.rows * spec.array.columns),)
    return area_blocks.cut(verilog.convert(Coprocessor(spec), area_blocks.TOP))


def design_key(spec: CoprocessorSpec, library: CellLibrary, recipe: str) -> str:
    """A hash of everything that areas rest on, without a design being made: 16 digits.

    Of the design it takes the spec and the statements of all modules below the co-processor's.
    """
    digest = hashlib.sha256()
    for part in (VERSION, synthesis.VERSION, recipe, library.name, library.sha256, repr(spec)):
        digest.update(f"{part}\n".encode())
    for text in _statements(COPROCESSOR):
        digest.update(text.encode())
    return digest.hexdigest()[:16]


@lru_cache
def _statements(first: Path) -> tuple[str, ...]:
    """A module and every module of this project below it, in the order of their names.

    Without comments on lines of their own and docstrings, which change no gate.
    """
    root, found, todo = first.parents[1], {first: ""}, [first]
    while todo:
        path = todo.pop()
        found[path] = text = SAID.sub("", path.read_text(encoding="utf-8"))
        for package, names in IMPORT.findall(text):
            below = [package, *(f"{package}.{name}" for name in re.findall(r"\w+", names))]
            for other in (root.joinpath(*b.split(".")[1:]).with_suffix(".py") for b in below):
                if other not in found and other.is_file():
                    found[other] = ""
                    todo.append(other)
    return tuple(f"{path.relative_to(root)}\n{found[path]}" for path in sorted(found))


def measure(
    spec: CoprocessorSpec,
    library: CellLibrary,
    recipe: str,
    progress: Progress | None = None,
) -> SpecArea:
    """Areas of a spec in a library, by synthesis; blocks once mapped are in the user's cache.

    Raises:
        TechError: a library that lacks what a block needs.
        ToolError: Yosys is missing or refuses.
        SpecError: no such recipe.
    """
    progress = progress or Silent()
    progress.stage(f"gates of {spec.name} as Verilog", 1)
    units = units_of(spec)
    progress.advance()
    progress.stage(f"synthesis of {spec.name} in {library.name}, {recipe}", len(units))
    rows = []
    for unit in units:
        rows.append((unit, _one(unit, library, recipe)))
        progress.advance()
    progress.stage("all blocks together", 1)
    together = _together(units, library, recipe)
    progress.advance()
    return combined(spec, library, recipe, rows, together)


def _together(units: Sequence[Unit], library: CellLibrary, recipe: str) -> dict[str, Any]:
    """What shows on all blocks put together, if there is more than one."""
    if len(units) == 1:
        return {}

    def make() -> dict[str, Any]:
        netlists = {unit.name: netlist_of(unit, library, recipe) for unit in units}
        return joined(units, netlists)

    texts = [unit.text for unit in units]
    return kept("areas", make, *texts, library.name, library.sha256, recipe, f"all {VERSION}")


def joined(units: Sequence[Unit], netlists: Mapping[str, Netlist]) -> dict[str, Any]:
    """All blocks together: what of each leads anywhere, and the longest path across them.

    Engines are kept whole: an engine is the same wherever it stands.

    Args:
        units: the outermost last, as :func:`opennpe.fpga.area_blocks.cut` gives them.
        netlists: one a block.
    """
    top, placed = units[-1].name, {unit.name: unit.placed for unit in units}
    whole = area_paths.assembled(top, netlists, placed)
    names, block = area_paths.blocks_of(whole, top, placed)
    is_engine = np.array([name == ENGINES for name in names])
    held = area_paths.live(whole, is_engine[block])
    flops = np.zeros(len(whole.instances))
    flops[list(whole.registers)] = 1
    cells = [whole.library.cells[kind] for kind in whole.kinds]
    quantities = {
        "area_um2": np.array([cell.area_um2 for cell in cells])[whole.kind],
        "leakage_nw": np.array([cell.leakage_nw for cell in cells])[whole.kind],
        "registers": flops,
    }
    sums = {
        what: np.bincount(block, weights=values * held, minlength=len(names)).tolist()
        for what, values in quantities.items()
    }
    found: dict[str, Any] = {
        "blocks": {name: {what: sums[what][at] for what in sums} for at, name in enumerate(names)}
    }
    path = stage(whole)
    if path is not None:
        start, end = (area_paths.place_of(name).split("/")[-1] for name in (path.start, path.end))
        found |= {"across_ps": path.total_ps, "across": f"from {start} to {end}"}
    return found


def combined(
    spec: CoprocessorSpec,
    library: CellLibrary,
    recipe: str,
    rows: Sequence[tuple[Unit, Mapping[str, Any]]],
    together: Mapping[str, Any] | None = None,
) -> SpecArea:
    """Blocks as measured, to a spec's areas: largest first.

    Args:
        rows: one copy of each block.
        together: of :func:`joined`; without it every copy counts as it was mapped.
    """
    whole = (together or {}).get("blocks", {})
    blocks = []
    for unit, found in rows:
        own = {what: unit.copies * found[what] for what in ("area_um2", "registers", "leakage_nw")}
        own = whole.get(unit.name, own)
        held = int(own["registers"])
        area, leakage = own["area_um2"], own["leakage_nw"]
        stage_ps, end = found["stage_ps"], found["stage"]
        if area:
            blocks.append(Block(unit.name, unit.copies, area, held, leakage, stage_ps, end))
    flops = sum(unit.copies * found["registers"] for unit, found in rows)
    clock = sum(unit.copies * found["clock_fj"] for unit, found in rows)
    macros: Counter[str] = Counter()
    for unit, found in rows:
        macros.update({size: unit.copies * count for size, count in found["macros"].items()})
    return SpecArea(
        spec.name,
        library.name,
        library.node_nm,
        library.voltage_v,
        design_key(spec, library, recipe),
        clock / flops if flops else 0.0,
        tuple(sorted(blocks, key=lambda block: -block.area_um2)),
        recipe,
        dict(sorted(macros.items())),
        (together or {}).get("across_ps", 0.0),
        (together or {}).get("across", ""),
    )


def macros_of(shapes: Iterable[Shape]) -> dict[str, int]:
    """Memories by size, as :attr:`SpecArea.macros` counts them."""
    found: Counter[str] = Counter()
    for shape in shapes:
        found[f"{shape.words}x{shape.bits}"] += shape.copies
    return dict(sorted(found.items()))


def _one(unit: Unit, library: CellLibrary, recipe: str) -> dict[str, Any]:
    """A copy of a block, from the cache or mapped and timed."""

    def make() -> dict[str, Any]:
        return _measured(netlist_of(unit, library, recipe))

    return kept("areas", make, unit.text, library.name, library.sha256, recipe, str(VERSION))


def netlist_of(unit: Unit, library: CellLibrary, recipe: str) -> Netlist:
    """A block in a library's cells, blocks within it and memories left out."""
    return synthesis.synthesise(unit.text, library, top=unit.top, recipe=recipe, outside=True)


def _measured(netlist: Netlist) -> dict[str, Any]:
    path = stage(netlist)
    return {
        "area_um2": netlist.area_um2,
        "registers": len(netlist.registers),
        "leakage_nw": netlist.leakage_nw,
        "clock_fj": _clock_fj(netlist),
        "stage_ps": path.total_ps if path is not None else 0.0,
        "stage": _title(path) if path is not None else "",
        "macros": {f"{w}x{b}": n for (w, b), n in boxes.memories(netlist.ports).items()},
    }


def _title(path: timing.Path) -> str:
    """Where a path ends, and that it begins at a memory."""
    end = boxes.memory_name(path.end) or path.end.replace("\\", "").split("[")[0]
    start = boxes.memory_name(path.start)
    return f"{end} from {start}" if start else end


def stage(netlist: Netlist) -> timing.Path | None:
    """The longest path between registers and memories; None where there are none.

    What a memory read arrives when its macro gives it, at once where that time is not known.
    """
    ports = {n: port for n, port in netlist.ports.items() if boxes.memory_name(n)}
    inner = replace(netlist, ports=ports)
    node = netlist.library.node_nm
    late = {name: _access_ps(name, node) for name in ports if name.endswith(boxes.READ)}
    try:
        return timing.analyse(inner, arrival_ps=late).worst
    except timing.NoPathsError:
        return None


def _access_ps(port: str, node: float) -> float:
    try:
        return memory(Shape(port, *boxes.memory_size(port)), node).access_ps
    except DataError:
        return 0.0


def _clock_fj(netlist: Netlist) -> float:
    """A cycle at all flops' clock pins: both edges inside the cell, and its capacitance once."""
    library, total = netlist.library, 0.0
    for name, instances in netlist.counts.items():
        cell = library.cells[name]
        if cell.sequential is None or cell.sequential.kind != "flop":
            continue
        for pin in cell.pins.values():
            if pin.clock:
                total += instances * pin.cycle_fj(library.voltage_v)
    return total
