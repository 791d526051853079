"""What ``opennpe cost`` prints, and the tables of docs/cost.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opennpe.cli.cost import Report, SpecCost
from opennpe.cli.cost_compare import FIGURES, HEADS, OURS, Entry, notes, number, span
from opennpe.cli.tables import table
from opennpe.sim.cost import ENGINES
from opennpe.sim.cost_peak import Peak
from opennpe.sim.cost_types import COMPONENTS, Cost
from opennpe.tech.figures import Figure, worst
from rich.table import Table

__all__ = [
    "achieved",
    "band_text",
    "block_cells",
    "block_markdown",
    "block_table",
    "comparison_markdown",
    "labelled",
    "lines",
    "peak_markdown",
    "recipe_markdown",
    "run_table",
    "spec_markdown",
]  # fmt: skip

DIGITS = 4


def band_text(figures: Mapping[str, Figure], digits: int = DIGITS) -> str:
    """Every method's figure with its name and label."""
    return ", ".join(
        f"{number(figure.value, digits)} {figure.unit} {name}"
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
    rows.append(["all", "", f"{one.total_um2:.0f}", str(held.registers), ""])
    title = (
        f"{one.spec.name} on {held.library}, {held.node_nm:g} nm, recipe {held.recipe}, measured"
    )
    return table(title, columns, rows)


def block_cells(one: SpecCost) -> list[list[str]]:
    """A row a block, then a memory: name, copies, um2, share, registers, slowest stage, its end."""
    rows = []
    for b in one.area.blocks:
        stage = f"{b.stage_ps / 1000:.2f}" if b.stage_ps else ""
        share = f"{100 * b.area_um2 / one.total_um2:.1f} %"
        rows.append([b.name, str(b.copies), f"{b.area_um2:.0f}", share, str(b.registers), stage,
                     b.stage])  # fmt: skip
    for name, held in one.memories.items():
        share = f"{100 * held.value / one.total_um2:.1f} %"
        rows.append([f"memory: {name}", "", f"{held.value:.0f}", share, "", "", ""])
    return rows


def spec_lines(one: SpecCost) -> list[str]:
    """Clock, peak, 28 nm, cautions."""
    held = one.area
    peak = ", ".join(f"{name} {gops:.3g}" for name, gops in one.peak_gops.items())
    found = [
        f"clock {1e6 / held.period_ps:.1f} MHz (measured, recipe {held.recipe}; {held.limit})",
        f"peak GOPS at that clock, two operations a MAC (measured): {peak}",
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
        [r.name, str(r.cycles), f"{r.seconds * 1e6:.1f}", number(r.chip_pj / 1000, 3),
         f"{r.energy_pj['external'] / 1000:.3g}", f"{r.tops_per_w:.3g}", f"{r.gops:.3g}", r.bound]
        for r in (*run.layers, run.total)
    ]  # fmt: skip
    return table(f"{run.spec} on {run.library}: {run.scope}", columns, rows)


def run_lines(run: Cost) -> list[str]:
    """Energy by component with its label, and the band."""
    total = run.total
    found = [
        f"{COMPONENTS[name].title}: {value / 1000:.4g} nJ ({run.labels[name]})"
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
        if one.peaks:
            parts.append(peak_table(one, report.run))
    if report.run is not None:
        parts += [run_table(report.run), run_lines(report.run)]
    grid, below = comparison_table(report.comparison())
    return [*parts, grid, below]


def spec_markdown(specs: list[SpecCost]) -> str:
    """The table of specs in docs/cost.md."""
    head = (
        "| spec | library | cells mm2 | memories mm2 | registers | clock MHz | limited by | "
        "engine um2 | engine's stage ns | engine at 28 nm |"
    )
    rows = [head, "|---|" + "---|" * 9]
    for one in specs:
        um2, _, stage = one.engine
        memories = one.memory_um2 / 1e6
        rows.append(
            f"| {one.spec.name} | {one.area.library} | {one.area.area_um2 / 1e6:.4g} | "
            f"{memories:.3g} | {one.area.registers} | {1e6 / one.area.period_ps:.4g} | "
            f"{one.area.limit} | {um2:.4g} | {stage / 1000:.3g} | "
            f"{'; '.join(band_text(f, 3) for n, f in one.at_28_nm.items() if n != 'cells_mm2')} |"
        )
    return "\n".join(rows)


def block_markdown(specs: Sequence[SpecCost]) -> str:
    """The table of blocks in docs/cost.md."""
    heads = ["spec", "library", "block", "copies", "um2", "share of all", "registers",
             "slowest stage ns", "it ends at"]  # fmt: skip
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in specs:
        start = [one.spec.name, one.area.library]
        rows += [f"| {' | '.join([*start, *cells])} |" for cells in block_cells(one)]
    return "\n".join(rows)


def recipe_markdown(specs: Sequence[SpecCost]) -> str:
    """The table of one engine by every recipe in docs/cost.md."""
    heads = ["library", "recipe", "engine um2", "registers", "slowest stage ns"]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in specs:
        um2, registers, stage = one.engine
        cells = [one.area.library, one.area.recipe, f"{um2:.0f}", f"{registers:.0f}",
                 f"{stage / 1000:.2f}"]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def comparison_table(entries: Sequence[Entry]) -> tuple[Table, list[str]]:
    """A line a design, node and label, and the sources that its last column numbers."""
    sources, others = notes(entries)
    columns = {"design": "left", "nm": "right", "label": "left"}
    columns |= {HEADS[name]: "right" for name in FIGURES} | {"from": "right"}
    rows = [
        [
            entry.design,
            cells["node_nm"],
            labelled(entry),
            *(span(cells[name]) for name in FIGURES),
            str(sources.index(entry.source) + 1),
        ]
        for entry in entries
        for cells in (dict(zip(HEADS, entry.cells(), strict=True)),)
    ]
    below = [
        *(f"from {place}: {source}" for place, source in enumerate(sources, 1)),
        "measured*: by its authors, as published",
        *others,
    ]
    return table("beside published designs", columns, rows), below


def labelled(entry: Entry) -> str:
    """The label, with a star where it is not ours."""
    return entry.label if entry.by == OURS else f"{entry.label}*"


def peak_table(one: SpecCost, run: Cost | None = None) -> Table:
    """A line a format, and what a run of this spec achieves."""
    columns = dict.fromkeys(("GOPS", "GOPS/mm2", "GOPS/mm2 of engines", "TOPS/W of engines",
                             "pJ an engine's cycle"), "right")  # fmt: skip
    rows = [[peak.format, *(_figure(f) for f in _in_order(peak))] for peak in one.peaks]
    if run is not None and run.spec == one.spec.name:
        rows.append(achieved(run))
    title = f"peak of {one.spec.name} at {one.area.node_nm:g} nm, every lane at work"
    return table(title, {"format": "left", **columns}, rows)


def achieved(run: Cost) -> list[str]:
    """The run's figures in the columns of the peaks; its TOPS/W count the whole chip."""
    total = run.total
    engines = total.gops / (run.area[ENGINES].value / 1e6)
    label = worst(*(run.labels[n] for n, v in total.energy_pj.items() if v and n != "external"))
    return [
        "achieved by the run",
        f"{total.gops:.3g} measured",
        f"{run.gops_per_mm2:.3g} measured",
        f"{engines:.3g} measured",
        f"{total.tops_per_w:.3g} {label}, whole chip",
        "",
    ]


def _in_order(p: Peak) -> tuple[Figure | None, ...]:
    return (p.gops, p.gops_per_mm2, p.gops_per_engine_mm2, p.engine_tops_per_w,
            p.engine_pj_per_step)  # fmt: skip


def _figure(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.3g} {figure.label}"


def comparison_markdown(entries: Sequence[Entry]) -> str:
    """The table of ours and the published designs in docs/cost.md."""
    heads = ["design", "what", "nm", "label", *(HEADS[name] for name in FIGURES), "from"]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for entry in entries:
        cells = dict(zip(HEADS, entry.cells(), strict=True))
        text = [entry.design, entry.what, cells["node_nm"], labelled(entry)]
        text += [cells[name] for name in FIGURES]
        rows.append(f"| {' | '.join([*text, entry.source])} |")
    return "\n".join(rows)


def peak_markdown(specs: Sequence[SpecCost]) -> str:
    """The table of peaks in docs/cost.md."""
    heads = ["spec", "library", "nm", "format", "GOPS", "GOPS/mm2", "GOPS/mm2 of engines",
             "TOPS/W of engines", "pJ an engine's cycle"]  # fmt: skip
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in specs:
        for peak in one.peaks:
            cells = [one.spec.name, one.area.library, f"{one.area.node_nm:g}", peak.format]
            rows.append(f"| {' | '.join([*cells, *map(_figure, _in_order(peak))])} |")
    return "\n".join(rows)
