"""The report as one self-contained page: no script, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from opennpe.cli.cost import Report, SpecCost
from opennpe.cli.cost_compare import FIGURES, HEADS, OURS, notes, number
from opennpe.cli.cost_roofline import NARROW, WIDE, Roofline, drawing
from opennpe.cli.cost_roofline import STYLE as ROOFLINE
from opennpe.cli.cost_tables import achieved, block_cells
from opennpe.sim.cost_peak import OPERANDS
from opennpe.sim.cost_types import COMPONENTS, Cost, LayerCost
from opennpe.tech.figures import LABELS, Figure, worst

__all__ = ["page"]

COLOURS = ("#1b9e77", "#66a61e", "#e6ab02", "#a6761d", "#386cb0", "#7570b3", "#e7298a", "#d95f02",
           "#80b1d3", "#999999", "#555555")  # fmt: skip
"""Of components, in their order; the blocks take them in turn."""
WIDTH, BAR = 420, 22

STYLE = """
:root{--ink:#1d2129;--soft:#5b6470;--paper:#fff;--line:#d8dde3;--box:#f5f7f9}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a3adb8;--paper:#14181d;
--line:#363d46;--box:#1d232a}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;font:16px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.75rem}
.card{background:var(--box);border:1px solid var(--line);border-radius:.5rem;padding:.75rem}
.card b{display:block;font-size:1.35rem}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.5rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
.how td:last-child,.how th:last-child{text-align:left;white-space:normal;min-width:18rem}
.long{font-size:.85rem}.long td,.long th{padding:.3rem .45rem}
.long td:first-child,.long th:first-child{position:sticky;left:0;background:var(--paper);
white-space:normal;width:15rem;min-width:8.5rem}
.long td:nth-child(3),.long td:nth-last-child(-n+3){white-space:normal}
.long td:nth-child(3){min-width:6rem}
.long small{display:block;color:var(--soft)}.long .ours td{background:var(--box)}
h3{font-size:1rem;margin:1rem 0 .25rem}ol.soft,ul.soft{font-size:.9rem;overflow-wrap:anywhere}
@media (max-width:40rem){.long small{display:none}.how thead{display:none}
.how tr{display:grid;grid-template-columns:1fr auto auto}.how td{border:0}
.how tr{border-bottom:1px solid var(--line)}
.how td:last-child{grid-column:1/-1;min-width:0;color:var(--soft)}}
.narrow{display:none!important}
@media (max-width:40rem){.wide{display:none!important}.narrow{display:block!important}}
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:13px system-ui,sans-serif}
.key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem}
"""


def page(report: Report) -> str:
    """The page of a report, HTML."""
    names = ", ".join(one.spec.name for one in report.specs)
    parts = [f"<h1>What {escape(names)} costs in silicon</h1>"]
    parts += [_labels(), *(_spec(one, report.run) for one in report.specs)]
    roofs = report.roofline()
    if report.run is not None and roofs is not None:
        parts.append(_run(report.run, roofs))
    parts.append(_comparison(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Cost of {escape(names)}</title><style>{STYLE}{ROOFLINE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _labels() -> str:
    rows = "".join(f"<li><b>{name}</b>: {escape(text)}</li>" for name, text in LABELS.items())
    return (
        "<p>Every figure says how it came about. A multiply-accumulate counts as two operations."
        f"</p><ul class=soft>{rows}</ul>"
    )


def _card(value: str, what: str) -> str:
    return f"<div class=card><b>{escape(value)}</b>{escape(what)}</div>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], about: str, kind: str = "") -> str:
    """A table that scrolls inside its box; ``kind`` "how" wraps its last column."""
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return _framed(heads, body, about, kind)


def _framed(heads: Sequence[str], body: str, about: str, kind: str) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="{escape(about)}">'
        f'<table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bars(parts: Mapping[str, float], unit: str, about: str) -> str:
    """A bar a part, its name and value above it."""
    most = max(parts.values(), default=0.0) or 1.0
    rows = []
    for index, (name, value) in enumerate(parts.items()):
        top, width = index * 2 * BAR, WIDTH * value / most
        rows.append(
            f'<text x="0" y="{top + 15}">{escape(name)}: {value:.4g} {unit}</text>'
            f'<rect x="0" y="{top + 20}" width="{width:.1f}" height="{BAR - 6}" '
            f'fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
    height = 2 * BAR * len(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" style="max-width:600px" role="img" '
        f'aria-label="{escape(about)}">{"".join(rows)}</svg>'
    )


def _band(figures: Mapping[str, Figure]) -> list[list[str]]:
    return [
        [name, f"{number(figure.value)} {figure.unit}", figure.label, figure.source]
        for name, figure in figures.items()
    ]


def _spec(one: SpecCost, run: Cost | None) -> str:
    held, (um2, registers, stage) = one.area, one.engine
    memories = one.memory_um2 / 1e6
    cards = [
        _card(f"{one.total_um2 / 1e6:.4g} mm2", "cells and memories below"),
        _card(
            f"{1e6 / held.period_ps:.4g} MHz",
            f"clock, measured; recipe {held.recipe}; {held.limit}",
        ),
        _card(f"{um2:.0f} um2", f"one engine, {held.node_nm:g} nm, measured"),
        _card(f"{stage / 1000:.2f} ns", "its slowest stage, measured"),
        _card(f"{registers:.0f}", "its registers, measured"),
    ]
    if memories:
        cards.append(_card(f"{memories:.3g} mm2", "memories, by the library's macros or scaled"))
    parts = {f"{b.name} x {b.copies}": b.area_um2 / 1e6 for b in held.blocks}
    parts |= {f"memory: {n}": f.value / 1e6 for n, f in one.memories.items()}
    name = escape(one.spec.name)
    html = f"<h2>{name} on {escape(held.library)}</h2><div class=cards>{''.join(cards)}</div>"
    html += f"<h2>{name}: area by block</h2>" + _bars(parts, "mm2", f"area by block of {name}")
    html += _blocks(one) + _peaks(one, run)
    titles = {"engine_um2": "area of one engine", "cells_mm2": "area of all cells measured",
              "engine_clock_ghz": "clock of the engine"}  # fmt: skip
    for what, figures in one.at_28_nm.items():
        html += f"<h2>{name}: {titles[what]} at 28 nm</h2>"
        html += _table(["method", "figure", "label", "how"], _band(figures), titles[what], "how")
    notes = "".join(f"<li>{escape(text)}</li>" for text in one.cautions)
    return html + f"<h2>{name}: not included</h2><ul class=soft>{notes}</ul>"


def _blocks(one: SpecCost) -> str:
    """A row a block, then the total."""
    heads = ["block", "copies", "um2", "share", "registers", "slowest stage ns", "ends at"]
    rows = block_cells(one)
    for cells, figure in zip(rows[len(one.area.blocks) :], one.memories.values(), strict=True):
        cells[-1] = figure.label
    rows.append(["all", "", f"{one.total_um2:.0f}", "", str(one.area.registers), "", ""])
    return (
        f"<p class=soft>Gates by recipe {escape(one.area.recipe)}, measured; a stage is the "
        "longest path inside a block between registers, or from a memory to one.</p>"
        + _table(heads, rows, f"blocks of {one.spec.name}")
    )


def _run(run: Cost, roofs: Roofline) -> str:
    total = run.total
    label = worst(*(run.labels[n] for n, v in total.energy_pj.items() if v and n != "external"))
    cards = [
        _card(f"{total.seconds * 1e6:.4g} us", f"at {run.clock_hz / 1e6:.4g} MHz, measured"),
        _card(f"{total.chip_pj / 1e6:.4g} uJ", f"on the chip, {label}"),
        _card(f"{total.tops_per_w:.3g} TOPS/W", f"on the chip, {run.library}, {label}"),
        _card(f"{total.gops:.3g} GOPS", "of the run, measured"),
        _card(f"{run.gops_per_mm2:.3g} GOPS/mm2", "of the run and the area above, measured"),
    ]
    html = f"<h2>The run: {escape(run.scope)}</h2><div class=cards>{''.join(cards)}</div>"
    parts = {
        f"{COMPONENTS[n].title} ({run.labels[n]})": v / 1e6 for n, v in total.energy_pj.items() if v
    }
    html += "<h2>Energy by component</h2>" + _bars(parts, "uJ", "energy by component")
    html += "<h2>Energy by layer</h2>" + _stacked(run.layers) + _roofline(roofs)
    heads = ["layer", "format", "cycles", "us", "nJ on chip", "nJ external", "TOPS/W", "GOPS",
             "roof GOPS", "operations a byte", "bound"]  # fmt: skip
    names = [*(f"{number} {row.name}" for number, row in enumerate(run.layers, 1)), total.name]
    rows = [
        [name, r.format, str(r.cycles), f"{r.seconds * 1e6:.4g}", number(r.chip_pj / 1e3),
         f"{r.energy_pj['external'] / 1e3:.4g}", f"{r.tops_per_w:.3g}", f"{r.gops:.3g}",
         "" if r.roof_gops is None else f"{r.roof_gops:.3g}",
         f"{r.intensity:.3g}" if r.intensity else "", r.bound]
        for name, r in zip(names, (*run.layers, total), strict=True)
    ]  # fmt: skip
    html += "<h2>Layers</h2>" + _table(heads, rows, "layers")
    for held in run.bands.values():
        html += f"<h2>At 28 nm: {escape(held.what)}</h2>"
        html += _table(["method", "figure", "label", "how"], _band(held.figures), held.what, "how")
    return html + "".join(f"<p class=soft>{escape(text)}</p>" for text in run.cautions)


def _stacked(layers: Sequence[LayerCost]) -> str:
    most = max((row.total_pj for row in layers), default=0.0) or 1.0
    marks = []
    for index, row in enumerate(layers):
        top, left = index * 2 * BAR, 0.0
        marks.append(f'<text x="0" y="{top + 15}">{escape(row.name[:48])}: '
                     f"{number(row.total_pj / 1000)} nJ</text>")  # fmt: skip
        for place, value in enumerate(row.energy_pj.values()):
            width = WIDTH * value / most
            marks.append(f'<rect x="{left:.1f}" y="{top + 20}" width="{width:.2f}" '
                         f'height="{BAR - 6}" fill="{COLOURS[place]}"/>')  # fmt: skip
            left += width
    key = "".join(
        f'<span><span class=key style="background:{COLOURS[i]}"></span>{escape(c.title)}</span> '
        for i, c in enumerate(COMPONENTS.values())
    )
    height = 2 * BAR * len(layers)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" style="max-width:600px" role="img" '
        f'aria-label="energy of each layer by component">{"".join(marks)}</svg><p>{key}</p>'
    )


def _roofline(held: Roofline) -> str:
    """The plot twice, for a wide and for a narrow window; the style shows one of them."""
    absent = ""
    if held.absent:
        absent = f" Without products or traffic, so not shown: {', '.join(held.absent)}."
    about = (
        "Each dot is a layer, numbered as in the table of layers (its name and figures show when "
        "the pointer rests on it). No layer can be above the lines: the slope is what external "
        "memory delivers over the bus, the levels are what the array computes with every lane at "
        "work, a dashed one for formats that this network does not use. Orange dots are held back "
        "by the bus, violet ones by the array. Memory traffic is counted, roofs and throughput "
        "are of the cycle model at the measured clock." + absent
    )
    drawn = drawing(held, WIDE, "wide") + drawing(held, NARROW, "narrow")
    return f"<h2>Roofline</h2><p class=soft>{escape(about)}</p>{drawn}"


def _peaks(one: SpecCost, run: Cost | None) -> str:
    """Peak of each format, and what a run achieves."""
    heads = ["format", "MACs a cycle", "GOPS", "GOPS/mm2, all of it", "GOPS/mm2, engines",
             "TOPS/W, engines", "pJ an engine's cycle"]  # fmt: skip
    rows = [
        [p.format, str(p.macs_per_cycle), *(_with_label(f) for f in (
            p.gops, p.gops_per_mm2, p.gops_per_engine_mm2, p.engine_tops_per_w,
            p.engine_pj_per_step))]
        for p in one.peaks
    ]  # fmt: skip
    if not rows:
        return ""
    if run is not None and run.spec == one.spec.name:
        name, *rest = achieved(run)
        rows.append([name, "", *rest])
    name = escape(one.spec.name)
    return (
        f"<h2>{name}: peak of each format at {one.area.node_nm:g} nm</h2><p class=soft>Every lane "
        "at work in every cycle, two operations a multiply-accumulate. Energy is that of the "
        f"engines with their clock and leakage ({OPERANDS}); memories and what moves operands "
        "come on top in a run.</p>" + _table(heads, rows, f"peaks of {name}")
    )


def _with_label(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.3g} {figure.label}"


def _comparison(report: Report) -> str:
    """A row a design, node and label; sources are numbered and stand below."""
    entries = report.comparison()
    sources, others = notes(entries)
    heads = ["design", "nm", "label", *(HEADS[name] for name in FIGURES), "from"]
    body = []
    for entry in entries:
        cells = dict(zip(HEADS, entry.cells(), strict=True))
        texts = [
            cells["node_nm"] or "not stated",
            entry.label if entry.by == OURS else f"{entry.label} by {entry.by}",
            *(cells[name] for name in FIGURES),
            f"[{sources.index(entry.source) + 1}]",
        ]
        body.append(
            f"<tr{' class=ours' if entry.by == OURS else ''}><td><b>{escape(entry.design)}</b>"
            f"<small>{escape(entry.what)}</small></td>"
            + "".join(f"<td>{escape(text)}</td>" for text in texts)
            + "</tr>"
        )
    listed = "".join(f"<li>{escape(text)}</li>" for text in sources)
    said = "".join(f"<li>{escape(text)}</li>" for text in others)
    return (
        "<h2>Beside published designs</h2><p class=soft>A row is a design at one node, and its "
        "label says what kind all its figures are of. Shaded rows are ours. Scaled and calibrated "
        "rows carry ours to 28 nm: the methods differ, so read them together, as a band.</p>"
        + _framed(heads, "".join(body), "designs beside each other", "long")
        + f"<h3>From</h3><ol class=soft>{listed}</ol><h3>Note</h3><ul class=soft>{said}</ul>"
    )
