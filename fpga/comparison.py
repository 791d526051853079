"""One unit in every family of FPGAs: the engine, and separate MACs that it replaces."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring
from opennpe.fpga import families, utilisation
from opennpe.fpga.progress import Progress
from opennpe.golden.errors import SpecError
from opennpe.golden.spec import CoprocessorSpec, EngineSpec

__all__ = ["UNITS", "compare", "notes", "unit"]

UNITS = ("engine", "separate", "just-exact", "window-48", "one-lane")
"""The engine; separate MACs as wide as its accumulator, as is exact, as a window, of one lane."""


def unit(spec: EngineSpec, name: str) -> wiring.Component:
    """One of :data:`UNITS`."""
    if name == "engine":
        from opennpe.rtl.engine import Engine

        return Engine(spec)
    from opennpe.rtl.separate import Separate
    from opennpe.rtl.windowed import units

    if name == "separate":
        return Separate(spec)
    bits = 48 if name == "window-48" else spec.accumulator_bits
    return Separate(spec, units(spec, bits, 1 if name == "one-lane" else None))


def compare(
    spec: CoprocessorSpec,
    names: list[str] | None,
    progress: Progress,
    others: tuple[str, ...] = UNITS[1:],
) -> list[dict[str, Any]]:
    """Cells of the engine and others of :data:`UNITS` in the families named, or in all.

    Raises:
        ToolError: an unknown family, or pyosys is missing.
        SpecError: an unknown unit.
    """
    for name in others:
        if name not in UNITS[1:]:
            raise SpecError(f"unknown unit '{name}': expected some of {', '.join(UNITS[1:])}")
    chosen = [families.get(name) for name in names or families.FAMILIES]
    rows = []
    for family in chosen:
        progress.stage(family.title, 1 + len(others))
        for name in (UNITS[0], *others):
            counted = utilisation.count(family, unit(spec.engine, name))
            rows.append(
                {
                    "family": family.name,
                    "unit": name,
                    "estimate": counted.estimate,
                    **counted.kinds,
                    "cells": dict(counted.cells),
                }
            )
            progress.advance()
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the figures are, and ratios of the others to the engine."""
    lines = []
    guessed = sorted({row["family"] for row in rows if row["estimate"]})
    if guessed:
        lines.append(f"{', '.join(guessed)}: estimates, the maker's own tool packs closer")
    for name in dict.fromkeys(row["family"] for row in rows):
        mine = {row["unit"]: row for row in rows if row["family"] == name}
        for other in list(mine)[1:]:
            luts, ffs = (mine[other][kind] / mine["engine"][kind] for kind in ("luts", "ffs"))
            lines.append(
                f"{name}: {other} takes {luts:.2f} x the engine's LUTs, {ffs:.2f} x its registers"
            )
    return lines
