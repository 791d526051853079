"""A co-processor's Verilog cut into the blocks whose areas are told apart.

Every module of the hierarchy is either a block of its own or part of the block around it, so that
nothing is left out; :func:`check_whole` counts again, instance by instance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from opennpe.golden.errors import ToolError

__all__ = ["BLOCKS", "TOP", "Unit", "check_whole", "cut", "module_of"]

TOP = "opennpe"
"""Module name of the whole, which blocks within it begin with."""
BLOCKS: dict[str, str] = {
    "engines": r"opennpe_engine",
    "array": r"opennpe\.execute\.array|opennpe_array",
    "array_rows": r"opennpe_engine_row",
    "parameters": r"opennpe\.execute\.array\.parameters",
    "rows": r"opennpe\.execute\.row\d+",
    "weights": r"opennpe\.execute\.weights",
    "sparse_decode": r"opennpe\.execute\.weights(\$\d+)?\.microops",
    "results": r"opennpe\.execute\.results",
    "transpose": r"opennpe\.execute\.transpose",
    "sequence": r"opennpe\.execute\.sequence",
    "rowwise": r"opennpe\.execute\.rowwise",
    "softmax": r"opennpe_softmax",
    "norm": r"opennpe_layer_norm",
    "execute": r"opennpe\.execute",
    "load": r"opennpe\.load",
    "fill": r"opennpe\.fill",
    "store": r"opennpe\.store",
    "dispatcher": r"opennpe\.dispatcher",
    "registers": r"opennpe\.registers",
    "top": TOP,
}
"""Blocks by the modules that they are; Amaranth numbers names that come twice: ``name$192``."""

MODULE = re.compile(r"^module (\\\S+ |\w+) ?\((.*?)\);\n(.*?)^endmodule$", re.MULTILINE | re.DOTALL)
INSTANCE = re.compile(r"^  (\\\S+ |\w+) +(\\\S+ |\w+) \($", re.MULTILINE)
PORT = re.compile(r"^  (?:input|output) (?:signed )?(?:\[[^\]]*\] )?(?:\\\S+ |\w+);$", re.MULTILINE)


@dataclass(frozen=True)
class Unit:
    """A block, each of its copies alike.

    Attributes:
        name: in :data:`BLOCKS`. copies: in the whole.
        text: Verilog of one: its modules, and blocks within it as black boxes.
        inside: instances of each module in one, black boxes included, its own once.
        placed: the blocks in one, by instance.
    """

    name: str
    copies: int
    text: str
    inside: Mapping[str, int]
    placed: Mapping[str, str] = field(default_factory=dict)

    @property
    def top(self) -> str:
        """Name of the module in the text."""
        return module_of(self.name)


def module_of(name: str) -> str:
    """The module that a block is in its own text."""
    return f"block_{name}"


@dataclass(frozen=True)
class _Module:
    header: str
    body: str
    placed: tuple[tuple[str, str], ...]

    @property
    def instances(self) -> Counter[str]:
        return Counter(module for _, module in self.placed)

    def text(self, name: str) -> str:
        return f"module {name} ({self.header});\n{self.body}endmodule\n"

    def box(self, name: str) -> str:
        """Ports alone."""
        ports = "\n".join(PORT.findall(self.body))
        return f"(* blackbox *)\nmodule {name} ({self.header});\n{ports}\nendmodule\n"


def block_of(module: str, top: str = TOP) -> str | None:
    """The block that a module of a design is, None where it is part of another's."""
    plain = re.sub(r"\$\d+$", "", module)
    own = next((name for name, form in BLOCKS.items() if re.fullmatch(form, plain)), None)
    return own or ("top" if module == top else None)


def _modules(text: str) -> dict[str, _Module]:
    found = {}
    parsed = [(_plain(m[1]), m[2], m[3]) for m in MODULE.finditer(text)]
    names = {name for name, _, _ in parsed}
    for name, header, body in parsed:
        used = tuple((_plain(m[2]), _plain(m[1])) for m in INSTANCE.finditer(body))
        found[name] = _Module(header, body, used)
        odd = {module for _, module in used} - names
        if odd:
            raise ToolError(f"{name} places {', '.join(sorted(odd)[:3])}, which is no module")
    if text.count("\nendmodule") != len(found):
        raise ToolError(f"{text.count('endmodule')} modules of Verilog, {len(found)} understood")
    return found


def _plain(name: str) -> str:
    return name.strip().lstrip("\\")


def _escaped(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"\\{name} "


def cut(text: str, top: str = TOP) -> tuple[Unit, ...]:
    """The blocks of a design in Verilog, as :func:`opennpe.rtl.verilog.convert` writes it.

    Copies of a module under several names (a row of the array has a name of its own) are one block.

    Raises:
        ToolError: Verilog of another form, or copies that differ.
    """
    modules = _modules(text)
    if top not in modules:
        raise ToolError(f"the design has no module '{top}'")
    copies = _instances(modules, top)
    found: dict[str, Unit] = {}
    for module in modules:
        name = block_of(module, top)
        if name is None or not copies[module]:
            continue
        unit = _unit(name, module, copies[module], modules)
        before = found.get(name)
        if before is not None:
            if before.text != unit.text:
                raise ToolError(f"copies of block '{name}' differ: {module} is not like the others")
            unit = replace(unit, copies=before.copies + unit.copies)
        found[name] = unit
    units = tuple(found[name] for name in BLOCKS if name in found)
    check_whole(text, units, top)
    return units


def _instances(modules: Mapping[str, _Module], top: str) -> Counter[str]:
    """How often each module is in the whole."""
    total: Counter[str] = Counter()

    def walk(name: str, times: int) -> None:
        total[name] += times
        for inner, count in modules[name].instances.items():
            walk(inner, times * count)

    walk(top, 1)
    return total


def _unit(name: str, module: str, copies: int, modules: Mapping[str, _Module]) -> Unit:
    inside: Counter[str] = Counter()
    boxed: set[str] = set()
    placed: dict[str, str] = {}

    def walk(one: str, path: str) -> None:
        inside[one] += 1
        for instance, inner in modules[one].placed:
            block = block_of(inner)
            if block is None:
                walk(inner, f"{path}{instance}.")
            else:
                boxed.add(inner)
                inside[inner] += 1
                placed[f"{path}{instance}"] = block

    walk(module, "")
    parts = [modules[module].text(module_of(name))]
    for inner in sorted(inside):
        if inner in boxed:
            parts.append(modules[inner].box(_escaped(inner)))
        elif inner != module:
            parts.append(modules[inner].text(_escaped(inner)))
    return Unit(name, copies, "\n".join(parts), dict(inside), placed)


def check_whole(text: str, units: Sequence[Unit], top: str = TOP) -> None:
    """Refuse blocks that together are not the design: one that is missing, or counted twice.

    Every module has as many instances in all blocks as in the hierarchy below the top.

    Raises:
        ToolError: one line that names a module.
    """
    names = [unit.name for unit in units]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ToolError(f"block '{twice[0]}' is listed {names.count(twice[0])} times")
    copies = Counter({unit.name: unit.copies for unit in units})
    parts: Counter[str] = Counter()
    for unit in units:
        for module, count in unit.inside.items():
            if block_of(module, top) is None:
                parts[module] += unit.copies * count
    blocks: Counter[str] = Counter()
    for module, count in _instances(_modules(text), top).items():
        own = block_of(module, top)
        if own is not None:
            blocks[own] += count
        elif parts[module] != count:
            raise ToolError(f"{module} is {count} times in the design, {parts[module]} in blocks")
    for name in sorted(set(blocks) | set(copies)):
        if blocks[name] != copies[name]:
            raise ToolError(
                f"block '{name}' is {blocks[name]} times in the design, {copies[name]} in its areas"
            )
