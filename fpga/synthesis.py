"""Designs to netlists of library cells, by Yosys and ABC, kept in the user's cache."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from opennpe.fpga import boxes, liberty_text, netlist, recipes
from opennpe.fpga.kept import kept
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.recipes import Recipe
from opennpe.golden.errors import TechError, ToolError
from opennpe.rtl import verilog, yosys
from opennpe.tech.cells import CellLibrary

__all__ = ["VERSION", "library_files", "mapping", "synthesise", "to_keep", "verilog_of"]

VERSION = 1
"""Of what the cache holds; another number forgets it."""


def verilog_of(design: wiring.Component | str | Path, top: str) -> str:
    """A design as Verilog text: a component's, a text as it is, or a file's.

    Raises:
        ToolError: the file cannot be read, or pyosys is missing.
    """
    if isinstance(design, Path):
        try:
            return design.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ToolError(f"{design} cannot be read as Verilog: {error}") from None
    if isinstance(design, str):
        return design
    return verilog.convert(design, top)


def synthesise(
    design: wiring.Component | str | Path,
    library: CellLibrary,
    *,
    top: str,
    recipe: Recipe | str = "stock",
    parameters: Mapping[str, int] | None = None,
    outside: bool = False,
) -> Netlist:
    """A design flattened and mapped to a library's cells.

    Args:
        design: a component; or Verilog, as text or as a path.
        library: of :func:`opennpe.fpga.liberty.load`.
        top: the module that becomes the netlist; a component is named so.
        recipe: or its name.
        parameters: of the top module, if it has any.
        outside: black boxes and memories of lines are left out, what leads to them and comes from
            them being ports (:mod:`opennpe.fpga.boxes`).

    Raises:
        ToolError: Yosys refuses the design or is missing.
        TechError: the library lacks what the design needs; its message names it.
    """
    chosen = recipes.get(recipe) if isinstance(recipe, str) else recipe
    if not re.fullmatch(r"[A-Za-z_]\w*", top):
        raise ToolError(f"'{top}' is no name of a Verilog module")
    text = verilog_of(design, top)
    sets = [f"chparam -set {name} {int(value)} {top}" for name, value in (parameters or {}).items()]

    def make() -> dict[str, Any]:
        return _map(text, library, top, chosen, sets, outside)

    parts = text, _identity(library), repr(chosen), top, repr(sets), *("outside",) * outside
    return netlist.from_json(kept("gates", make, *parts, str(VERSION)), top, library)


def _identity(library: CellLibrary) -> str:
    return f"{library.name} {library.sha256} {len(library.files)}"


def _map(
    text: str,
    library: CellLibrary,
    top: str,
    recipe: Recipe,
    parameters: Sequence[str],
    outside: bool,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="opennpe-gates-") as name:
        folder = Path(name)
        source, mapped, before = folder / "top.v", folder / "mapped.json", folder / "before.json"
        source.write_text(text, encoding="utf-8")
        liberty = library_files(library, folder)
        synth = f"synth -top {top} -flatten{' -booth' if recipe.booth else ''}"
        log = _passes(
            library,
            top,
            f"read_verilog -sv {source}",
            *parameters,
            *(
                (f"{synth} -run :fine", *boxes.OUTSIDE, f"{synth} -run fine:check")
                if outside
                else (synth,)
            ),
            *clock_gating(library, recipe),
            f"write_json -noscopeinfo {before}",
            f"dfflibmap {liberty}",
            *mapping(library, liberty, recipe, folder),
            f"write_json -noscopeinfo {mapped}",
        )
        modules = json.loads(mapped.read_text(encoding="utf-8"))["modules"]
        names = register_names(json.loads(before.read_text(encoding="utf-8"))["modules"][top])
    module = modules[top]
    if outside:
        boxes.cut(modules, top)
    check_mapped(module, library, top)
    return to_keep(module, log, names)


def mapping(library: CellLibrary, liberty: str, recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Passes from logic to a library's cells, their script put into a folder.

    Args:
        liberty: options that name the library: :func:`library_files`.
    """
    script = folder / "abc.script"
    script.write_text(recipe.abc.replace(";", "\n") + "\n", encoding="utf-8")
    return (
        f"abc {liberty} -script {script}{constraints(library, recipe, folder)}",
        *ties(library),
        "opt_clean -purge",
    )


def to_keep(
    module: Mapping[str, Any], log: str, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A mapped module of Yosys's JSON as :func:`opennpe.fpga.netlist.from_json` takes it.

    Args:
        names: of registers, by instance.
    """
    called = names or {}
    cells = {
        called.get(instance, instance): [cell["type"], cell["connections"]]
        for instance, cell in module["cells"].items()
    }
    return {
        "cells": cells,
        "ports": {n: [p["direction"], p["bits"]] for n, p in module["ports"].items()},
        "nets": {n: net["bits"] for n, net in module["netnames"].items() if not net["hide_name"]},
        "abc": [line for line in log.splitlines() if "Delay =" in line][-3:],
    }


def _passes(library: CellLibrary, top: str, *commands: str) -> str:
    """Run passes; Yosys refuses by itself a flop or latch that no cell can hold.

    Raises:
        TechError: the library lacks such a cell.
        ToolError: anything else.
    """
    try:
        return yosys.run(*commands)
    except ToolError as error:
        found = re.search(r"\(type (\$_\w+)\) cannot be legalized: (.*)", str(error))
        if found is None:
            raise
        raise TechError(
            f"library {library.name} has no cell for {found[1]} of {top}: {found[2]}"
        ) from None


def library_files(library: CellLibrary, folder: Path) -> str:
    """Options that name a library to Yosys, its files or their text put into a folder."""
    options = []
    for index, file in enumerate(library.files):
        # By a plain name, whatever the user's is.
        link = folder / f"library{index}.lib{'.gz' if file.endswith('.gz') else ''}"
        link.symlink_to(file)
        options.append(f"-liberty {link}")
    if not library.files:
        path = folder / "library.lib"
        path.write_text(liberty_text.write(library), encoding="utf-8")
        options.append(f"-liberty {path}")
    return " ".join(options)


def constraints(library: CellLibrary, recipe: Recipe, folder: Path) -> str:
    """Option that tells ABC what drives the inputs and loads the outputs, its file in a folder.

    The buffer of middle size drives: ``sg13g2_buf_4`` of five in IHP's library.

    Raises:
        TechError: the library has no buffer.
    """
    if not recipe.constrained:
        return ""
    buffers = []
    for cell in library.cells.values():
        pins = cell.pins.values()
        inputs = [pin.name for pin in pins if pin.direction == "input"]
        functions = [pin.function for pin in pins if pin.direction == "output"]
        # Delay cells and clock buffers have the function but not the purpose.
        plain = "buf" in cell.name.lower() and "clkbuf" not in cell.name.lower()
        repeats = len(inputs) == 1 and [str(f).strip("() ") for f in functions] == inputs
        if plain and repeats and not cell.dont_use:
            buffers.append(cell)
    if not buffers:
        raise TechError(
            f"library {library.name} has no buffer to drive inputs: choose a recipe that needs "
            "none, such as stock"
        )
    buffers.sort(key=lambda cell: (cell.area_um2, cell.name))
    drive = buffers[(len(buffers) - 1) // 2].name
    path = folder / "constraints"
    path.write_text(f"set_driving_cell {drive}\nset_load {recipes.LOAD_FF} [all_outputs]\n")
    return f" -constr {path}"


def clock_gating(library: CellLibrary, recipe: Recipe) -> list[str]:
    """The pass that puts registers behind clock gates.

    Raises:
        TechError: the library has none.
    """
    if not recipe.clock_gates:
        return []
    gates = [
        cell
        for cell in library.cells.values()
        if cell.sequential is not None and cell.sequential.kind == "gate"
    ]
    if not gates:
        raise TechError(f"library {library.name} has no clock gate: choose a recipe without +gated")
    cell = min(gates, key=lambda gate: (len(gate.pins), gate.area_um2))
    state = cell.sequential
    assert state is not None
    enable, *tests = re.findall(r"\w+", state.next_state)
    output = next(name for name, pin in cell.pins.items() if pin.direction == "output")
    low = "".join(f" -tie_lo {pin}" for pin in tests)
    sizes = f"-min_net_size {recipe.clock_gates}"
    return [f"clockgate -pos {cell.name} {enable}:{state.clock}:{output}{low} {sizes}"]


def ties(library: CellLibrary) -> list[str]:
    """The pass that drives constants, if the library has cells for it."""
    found: dict[str, tuple[str, str]] = {}
    for cell in library.cells.values():
        if len(cell.pins) == 1 and not cell.dont_use:
            (pin,) = cell.pins.values()
            if pin.function in ("0", "1"):
                found.setdefault(pin.function, (cell.name, pin.name))
    if len(found) < 2:
        return []
    (high, high_pin), (low, low_pin) = found["1"], found["0"]
    return [f"hilomap -singleton -hicell {high} {high_pin} -locell {low} {low_pin}"]


def register_names(module: Mapping[str, Any]) -> dict[str, str]:
    """What the flops of a module hold, by instance: the register and the bit.

    A wire of the module itself before one of a block inside, a plain wire before a port: the
    register's own name, not that of what it drives.
    """
    ports = set(module["ports"])
    known: dict[int, tuple[tuple[bool, int, int], str]] = {}
    for name, net in module["netnames"].items():
        if net["hide_name"]:
            continue
        rank = (name in ports, name.count("."), len(name))
        for bit, number in enumerate(net["bits"]):
            if isinstance(number, int) and (number not in known or rank < known[number][0]):
                known[number] = rank, f"{name}[{bit}]" if len(net["bits"]) > 1 else name
    names: dict[str, str] = {}
    for instance, cell in module["cells"].items():
        out = cell["connections"].get("Q")
        if cell["type"].startswith("$_") and out and len(out) == 1 and out[0] in known:
            names[instance] = known[out[0]][1]
    return names


def check_mapped(module: Mapping[str, Any], library: CellLibrary, top: str) -> None:
    """Refuse a netlist in which something is not a cell of the library.

    Raises:
        TechError: one line that names what was left.
    """
    odd = {cell["type"] for cell in module["cells"].values()} - set(library.cells)
    if odd:
        what = ", ".join(sorted(odd)[:3])
        raise TechError(
            f"library {library.name} has no cell for {what} of {top}: a latch, a flip-flop with "
            "such a reset, or a gate is missing"
        )
