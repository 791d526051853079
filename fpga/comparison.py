"""One unit in every family of FPGAs: the engine, and the separate MACs that it replaces."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring
from opennpe.fpga import families, utilisation
from opennpe.fpga.progress import Progress
from opennpe.golden.spec import CoprocessorSpec, EngineSpec

__all__ = ["compare", "notes", "units"]


def units(spec: EngineSpec) -> dict[str, wiring.Component]:
    """The engine, and the separate MACs."""
    from opennpe.rtl.engine import Engine
    from opennpe.rtl.separate import Separate

    return {"engine": Engine(spec), "separate": Separate(spec)}


def compare(
    spec: CoprocessorSpec, names: list[str] | None, progress: Progress
) -> list[dict[str, Any]]:
    """Cells of every unit in the families named, or in all.

    Raises:
        ToolError: an unknown family, or pyosys is missing.
    """
    chosen = [families.get(name) for name in names or families.FAMILIES]
    rows = []
    for family in chosen:
        built = units(spec.engine)
        progress.stage(family.title, len(built))
        for unit, block in built.items():
            counted = utilisation.count(family, block)
            rows.append(
                {
                    "family": family.name,
                    "unit": unit,
                    "estimate": counted.estimate,
                    **counted.kinds,
                    "cells": dict(counted.cells),
                }
            )
            progress.advance()
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the figures are, and ratios of separate MACs to the engine."""
    lines = []
    guessed = sorted({row["family"] for row in rows if row["estimate"]})
    if guessed:
        lines.append(f"{', '.join(guessed)}: estimates, the maker's own tool packs closer")
    for name in dict.fromkeys(row["family"] for row in rows):
        mine = {row["unit"]: row for row in rows if row["family"] == name}
        ratios = [mine["separate"][kind] / mine["engine"][kind] for kind in ("luts", "ffs")]
        lines.append(
            f"{name}: separate MACs take {ratios[0]:.2f} x the LUTs and {ratios[1]:.2f} x the "
            "registers"
        )
    return lines
