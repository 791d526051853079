"""Verilog to the cells of a family of FPGAs, and how many of each kind."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amaranth.lib import wiring
from opennpe.fpga.families import Family
from opennpe.fpga.kept import kept
from opennpe.golden.errors import ToolError
from opennpe.rtl import verilog, yosys

__all__ = ["Counts", "cells", "count", "synthesise"]

TOP = "opennpe_counted"
REPEATED = ("opennpe_engine",)
"""Modules that large designs repeat: synthesised once, whatever stands around them."""
LOGIC_SHARE = 0.4
"""Of a clock's period, what logic may take: wires take the rest, as routed designs show."""


@dataclass(frozen=True)
class Counts:
    """Cells of a design in a family.

    Attributes:
        family: its name.
        kinds: look-up tables, registers and so on, by ``families.KINDS``.
        cells: by the maker's names.
        estimate: no place and route stands behind it.
    """

    family: str
    kinds: Mapping[str, float]
    cells: Mapping[str, int]
    estimate: bool


def cells(log: str) -> dict[str, int]:
    """Cells by name, from the last count that Yosys printed with ``stat -json``.

    Raises:
        ToolError: there is no such count.
    """
    start = log.rfind('\n{\n   "creator"')
    if start < 0:
        raise ToolError("Yosys did not count the cells: see its log")
    found, _ = json.JSONDecoder().raw_decode(log[start + 1 :])
    return {name: int(n) for name, n in found["design"]["num_cells_by_type"].items()}


def passes(
    family: Family, source: Path, top: str, target: Path | None, mhz: float | None = None
) -> list[str]:
    """Yosys' passes: blocks that repeat are synthesised by themselves, then all is made flat.

    Args:
        mhz: what the design has to reach; without it, logic as fast as there is.
    """
    text = source.read_text(encoding="utf-8")
    repeated = [name for name in REPEATED if len(re.findall(rf"^\s+{name} ", text, re.M)) > 1]
    found = [f"read_verilog {source}", f"hierarchy -top {top}"]
    found += [f"setattr -mod -set keep_hierarchy 1 {name}" for name in repeated]
    if mhz is not None:
        found += [command.format(ps=round(LOGIC_SHARE * 1e6 / mhz)) for command in family.paced]
    found += [f"{family.synthesis} -top {top}"]
    if repeated:
        found += ["setattr -mod -unset keep_hierarchy", "flatten", "opt_clean"]
    told = " ".join(f'-set {k} "{v}"' for k, v in (family.attributes or {}).items())
    if told:
        found.append(f"setattr {told} t:{family.pll}")
    found += ["delete t:$scopeinfo", "stat -json"]
    return [*found, f"write_json {target}"] if target is not None else found


def synthesise(
    family: Family,
    text: str,
    top: str,
    target: Path | None = None,
    log: Path | None = None,
    mhz: float | None = None,
) -> Counts:
    """Synthesise Verilog; write what nextpnr reads to ``target``, what Yosys said to ``log``.

    Args:
        mhz: what the design has to reach; without it, logic as fast as there is.

    Raises:
        ToolError: pyosys is missing, or a pass failed.
    """
    with tempfile.TemporaryDirectory(prefix="opennpe-") as folder:
        source = Path(folder, "design.v")
        source.write_text(text, encoding="utf-8")
        said = yosys.run(*passes(family, source, top, target, mhz))
    if log is not None:
        log.write_text(said, encoding="utf-8")
    return _counts(family, cells(said))


def _counts(family: Family, found: dict[str, int]) -> Counts:
    return Counts(family.name, family.count(found), found, not family.placed)


def count(family: Family, block: wiring.Component) -> Counts:
    """Cells of a block by itself, from the cache if it is there.

    Raises:
        ToolError: pyosys is missing, or a pass failed.
    """
    return count_verilog(family, verilog.convert(block, TOP), TOP)


def count_verilog(family: Family, text: str, top: str) -> Counts:
    """Cells of Verilog by itself, from the cache if it is there.

    Raises:
        ToolError: pyosys is missing, or a pass failed.
    """
    found = kept(
        "fpga", lambda: dict(synthesise(family, text, top).cells), text, top, family.synthesis
    )
    return _counts(family, found)
