"""What ``opennpe cost`` prints, and the tables of docs/cost.md."""

from __future__ import annotations

from collections.abc import Mapping

from opennpe.cli.cost import Report, SpecCost
from opennpe.cli.tables import count, table
from opennpe.sim.cost_types import COMPONENTS, Cost
from opennpe.tech.figures import Figure
from opennpe.tech.published import DESIGNS, Design
from rich.table import Table

__all__ = ["band_text", "block_table", "lines", "published_markdown", "run_table", "spec_markdown"]

DIGITS = 4


def band_text(figures: Mapping[str, Figure], digits: int = DIGITS) -> str:
    """Every method's figure with its name and label."""
    return ", ".join(
        f"{figure.value:.{digits}g} {figure.unit} {name}"
        + ("" if name == figure.label else f" ({figure.label})")
        for name, figure in figures.items()
    )


def block_table(one: SpecCost) -> Table:
    """A line a block."""
    columns = {"block": "left", "copies": "right", "um2": "right", "registers": "right",
               "slowest stage ns": "right"}  # fmt: skip
    rows = [
        [b.name, str(b.copies), f"{b.area_um2:.0f}", str(b.registers), f"{b.stage_ps / 1000:.2f}"]
        for b in one.area.blocks
    ]
    rows += [[f"memory: {n}", "", f"{f.value:.0f}", "", ""] for n, f in one.memories.items()]
    held = one.area
    return table(f"{one.spec.name} on {held.library}, {held.node_nm:g} nm, measured", columns, rows)


def spec_lines(one: SpecCost) -> list[str]:
    """Clock, peak, 28 nm, cautions."""
    held = one.area
    peak = ", ".join(f"{name} {gops:.3g}" for name, gops in one.peak_gops.items())
    found = [
        f"clock {1e6 / held.slowest.stage_ps:.1f} MHz (measured; {held.slowest.name})",
        f"peak GOPS at that clock, two operations a MAC: {peak}",
    ]
    names = {"engine_um2": "one engine", "cells_mm2": "all cells",
             "engine_clock_ghz": "engine's clock"}  # fmt: skip
    found += [f"28 nm, {names[what]}: {band_text(f)}" for what, f in one.at_28_nm.items()]
    return [*found, *(f"not included: {text}" for text in one.cautions)]


def run_table(run: Cost) -> Table:
    """A line a layer."""
    numbers = ("cycles", "us", "nJ chip", "nJ external", "TOPS/W", "GOPS")
    columns = {"layer": "left", **dict.fromkeys(numbers, "right"), "bound": "left"}
    rows = [
        [r.name, str(r.cycles), f"{r.seconds * 1e6:.1f}", f"{r.chip_pj / 1000:.3g}",
         f"{r.energy_pj['external'] / 1000:.3g}", f"{r.tops_per_w:.3g}", f"{r.gops:.3g}", r.bound]
        for r in (*run.layers, run.total)
    ]  # fmt: skip
    return table(f"{run.spec} on {run.library}: {run.scope}", columns, rows)


def run_lines(run: Cost) -> list[str]:
    """Energy by component with its label, and the band."""
    total = run.total
    found = [
        f"{COMPONENTS[name].title}: {count(value)} pJ ({run.labels[name]})"
        for name, value in total.energy_pj.items()
        if value
    ]
    found += [f"28 nm, {held.what}: {band_text(held.figures)}" for held in run.bands.values()]
    return [*found, *(f"note: {text}" for text in run.cautions)]


def lines(report: Report) -> list[Table | list[str]]:
    """Everything, to be shown in order."""
    parts: list[Table | list[str]] = []
    for one in report.specs:
        parts += [block_table(one), spec_lines(one)]
    if report.run is not None:
        parts += [run_table(report.run), run_lines(report.run)]
    return parts


def spec_markdown(specs: list[SpecCost]) -> str:
    """The table of specs in docs/cost.md."""
    head = (
        "| spec | library | cells mm2 | memories mm2 | engine um2 | engine's stage ns | "
        "engine at 28 nm |"
    )
    rows = [head, "|---|---|---|---|---|---|---|"]
    for one in specs:
        um2, _, stage = one.engine
        memories = sum(figure.value for figure in one.memories.values()) / 1e6
        rows.append(
            f"| {one.spec.name} | {one.area.library} | {one.area.area_um2 / 1e6:.4g} | "
            f"{memories:.3g} | {um2:.4g} | {stage / 1000:.3g} | "
            f"{'; '.join(band_text(f, 3) for n, f in one.at_28_nm.items() if n != 'cells_mm2')} |"
        )
    return "\n".join(rows)


def published_markdown() -> str:
    """The table of published designs in docs/cost.md."""
    rows = ["| design | what | nm | um2 | ns | GHz | mW | pJ | GOPS/W | label |",
            "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    rows += [_published(design) for design in DESIGNS]
    return "\n".join(rows)


def _published(d: Design) -> str:
    numbers = (d.node_nm, d.area_um2, d.delay_ns, d.clock_ghz, d.power_mw, d.energy_pj)
    cells = ["" if n is None else f"{n:g}" for n in numbers]
    return f"| {d.name} | {d.what} | " + " | ".join(cells) + f" | {d.gops_per_w} | {d.label} |"
