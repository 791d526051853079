"""Faults planted in the AXI side: a text of a module's source exchanged."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from opennpe.rtl import axi


def planted(unit: str, module: str, old: str, new: str) -> ModuleType:
    """The module ``unit`` of rtl/ with one text of ``module`` (itself, or axi) exchanged.

    Raises:
        ValueError: the text is not there, or more than once.
    """
    source = _source(module)
    if source.count(old) != 1:
        raise ValueError(f"{source.count(old)} places in {module}.py read {old!r}, expected one")
    changed = _module(module, source.replace(old, new))
    if module == unit:
        return changed
    using = _module(unit, _source(unit))
    setattr(using, module, changed)
    return using


def _source(module: str) -> str:
    return Path(axi.__file__).with_name(f"{module}.py").read_text()


def _module(name: str, source: str) -> ModuleType:
    module = ModuleType(f"opennpe.rtl.{name}")
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module
