"""Ours beside the published designs, XR-NPE's abstract first: one table, every figure labelled.

A row is one design in one way of knowing it: ours as measured, then as every method carries it to
28 nm; theirs as their authors give it. So a row's label, node and source are those of each of its
figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opennpe.golden.errors import DataError
from opennpe.sim.cost_peak import OPERANDS, Peak
from opennpe.sim.cost_types import OPERATIONS, Cost
from opennpe.tech.areas import SpecArea
from opennpe.tech.figures import Figure, Label, worst
from opennpe.tech.published import DESIGNS, XR_NPE, Design
from opennpe.tech.scaling import TARGET_NM, Quantity, band

__all__ = ["FIGURES", "HEADS", "OURS", "Entry", "comparison", "notes", "number", "span"]

OURS, THEIRS = "this project", "its authors"
HEADS = {
    "design": "design",
    "what": "what",
    "node_nm": "nm",
    "label": "label",
    "by": "by",
    "area_um2": "um2",
    "delay_ns": "ns",
    "clock_ghz": "GHz",
    "power_mw": "mW",
    "energy_pj": "pJ",
    "gops_per_w": "GOPS/W",
    "gops_per_mm2": "GOPS/mm2",
}
"""Columns of the table with their headings; where a table is shown, sources are numbered."""
FIGURES = tuple(HEADS)[5:]
"""Those of figures."""


@dataclass(frozen=True)
class Entry:
    """A row; None where a figure is not known.

    Attributes:
        node_nm: of the process; None where its authors do not state it.
        label: of every figure in the row. by: who measured, scaled or calibrated.
        area_um2: of what the row is about. delay_ns: of a combinational design, or of the slowest
            stage. power_mw: at that clock. energy_pj: of ``energy_of``.
        gops_per_w, gops_per_mm2: text where they are several, ``per_format`` says of what.
        operations_per_mac: what a multiply-accumulate counts as in them; None where not stated.
    """

    design: str
    what: str
    node_nm: float | None
    label: Label
    by: str
    source: str
    area_um2: float | None = None
    delay_ns: float | None = None
    clock_ghz: float | None = None
    power_mw: float | None = None
    energy_pj: float | None = None
    energy_of: str = ""
    gops_per_w: str = ""
    gops_per_mm2: str = ""
    per_format: str = ""
    operations_per_mac: int | None = None

    def cells(self) -> list[str]:
        """As text, by :data:`HEADS`; a blank where there is no figure."""
        held = (getattr(self, name) for name in HEADS)
        return [number(value) if isinstance(value, float | int) else value or "" for value in held]

    def summary(self) -> dict[str, Any]:
        """JSON-ready, units in names."""
        return dict(vars(self))


def number(value: float, digits: int = 4) -> str:
    """So many digits, without an exponent above a thousand."""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def span(text: str) -> str:
    """Several figures as the least and the largest: "3 / 9 / 5" is "3-9"."""
    found = [float(value) for value in re.findall(r"[0-9.]+", text)]
    return text if len(found) < 2 else f"{min(found):g}-{max(found):g}"


def notes(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Sources in the order of their numbers, from 1; and what else a reader has to know."""
    sources = list(dict.fromkeys(entry.source for entry in entries))
    others = [
        f"pJ of {entry.design}: {entry.energy_of}"
        for entry in {(e.design, e.energy_of): e for e in entries if e.energy_of}.values()
    ]
    others += [
        f"several figures in a cell of ours: {order}"
        for order in dict.fromkeys(entry.per_format for entry in entries if entry.per_format)
    ]
    others += [
        "a multiply-accumulate is two operations in our rows, one in PDPU's; others as published",
        "scopes differ: a MAC engine, a dot product, a whole chip in a run",
    ]
    return sources, others


def comparison(
    specs: Sequence[tuple[str, SpecArea, Figure, float, tuple[Peak, ...]]],
    run: Cost | None = None,
) -> tuple[Entry, ...]:
    """XR-NPE, then ours, then the others.

    Args:
        specs: name, areas, one engine's area, its slowest stage in ns, peaks; engines that are the
            same in a library are shown once.
        run: a network's, shown as a row of the whole co-processor.
    """
    found = [_theirs(XR_NPE)]
    seen: set[tuple[str, float, float]] = set()
    for name, area, engine, stage, peaks in specs:
        key = area.library, round(engine.value, 3), round(stage, 6)
        if key not in seen:
            seen.add(key)
            found += _engine(name, area, engine, stage, peaks)
    if run is not None:
        node = next((area.node_nm for _, area, *_ in specs if area.library == run.library), None)
        found += _whole(run, node)
    return (*found, *(_theirs(one) for one in DESIGNS if one is not XR_NPE))


def _theirs(one: Design) -> Entry:
    return Entry(
        one.name,
        one.what,
        one.node_nm,
        one.label,
        THEIRS,
        one.source,
        area_um2=one.area_um2,
        delay_ns=one.delay_ns,
        clock_ghz=one.clock_ghz,
        power_mw=one.power_mw,
        energy_pj=one.energy_pj,
        energy_of="an operation that is not stated" if one.energy_pj else "",
        gops_per_w=one.gops_per_w,
        operations_per_mac=1 if one.macs else None,
    )


def _engine(
    name: str, area: SpecArea, engine: Figure, stage: float, peaks: tuple[Peak, ...]
) -> list[Entry]:
    """One engine as measured and by every method at 28 nm."""
    step, of = _dearest(peaks)
    where = area.library, area.node_nm, area.voltage_v, area.recipe
    own: dict[str, dict[str, Figure]] = {"": {"area": engine}}
    own[""]["delay"] = Figure(stage, "ns", "measured", engine.source)
    if step is not None:
        own[""]["energy"] = Figure(step, "pJ", "measured", engine.source)
    try:
        quantities: tuple[Quantity, ...] = ("area", "delay", "energy")
        for quantity in quantities:
            if quantity not in own[""]:
                continue
            carried = band(quantity, own[""][quantity], *where)
            for method, there in carried.items():
                own.setdefault(method, {})[quantity] = there
    except DataError:
        own = {"": own[""]}  # a node that no method starts from
    formats = " / ".join(peak.format for peak in peaks)
    rows = []
    for method, figures in own.items():
        first = next(iter(figures.values()))
        um2, ns, pj = (
            figures[q].value if q in figures else None for q in ("area", "delay", "energy")
        )
        efficient, dense = _per_format(peaks, um2, ns, pj, step)
        rows.append(
            Entry(
                f"OpenNPE engine of {name}",
                f"SIMD MAC engine with an exact accumulator: {formats.replace(' /', ',')}",
                TARGET_NM if method else area.node_nm,
                first.label,
                OURS,
                _sources(figures),
                area_um2=um2,
                delay_ns=ns,
                clock_ghz=1 / ns if ns else None,
                power_mw=pj / ns if pj and ns else None,
                energy_pj=pj,
                energy_of=of if pj else "",
                gops_per_w=efficient,
                gops_per_mm2=dense,
                per_format=formats if efficient or dense else "",
                operations_per_mac=OPERATIONS,
            )
        )
    return rows


def _sources(figures: Mapping[str, Figure]) -> str:
    """One where they agree, else each with what it is of."""
    found: dict[str, list[str]] = {}
    for name, figure in figures.items():
        found.setdefault(figure.source, []).append(name.split("_")[0])
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in found.items())


def _dearest(peaks: tuple[Peak, ...]) -> tuple[float | None, str]:
    """pJ of a step of the format that takes most, and what that is."""
    known = [(p.engine_pj_per_step.value, p.format) for p in peaks if p.engine_pj_per_step]
    if not known:
        return None, ""
    most, name = max(known)
    return most, f"a cycle in {name}, the format that takes most; {OPERANDS}"


def _per_format(
    peaks: tuple[Peak, ...],
    um2: float | None,
    ns: float | None,
    pj: float | None,
    measured_pj: float | None,
) -> tuple[str, str]:
    """GOPS/W and GOPS/mm2 of one engine in each format, every lane at work."""
    efficient = dense = ""
    if pj and measured_pj and all(p.engine_tops_per_w for p in peaks):
        # Energies of all formats go by one factor.
        gops = [
            1000 * p.engine_tops_per_w.value * measured_pj / pj
            for p in peaks
            if p.engine_tops_per_w
        ]
        efficient = " / ".join(number(value, 3) for value in gops)
    if um2 and ns:
        values = [OPERATIONS * p.lanes / ns / (um2 / 1e6) for p in peaks]
        dense = " / ".join(number(value, 3) for value in values)
    return efficient, dense


def _whole(run: Cost, node: float | None) -> list[Entry]:
    """The co-processor in a network's run: what it achieves, all its area and energy counted."""
    design, total = f"OpenNPE {run.spec} in a run", run.total
    what = f"{run.scope}: achieved, not peak; memories included"
    per_mac = "a mean multiply-accumulate of the run, with everything on the chip"
    rows = [
        Entry(
            design,
            what,
            node,
            worst(*(run.labels[n] for n, v in total.energy_pj.items() if v and n != "external")),
            OURS,
            f"our netlist and memories on {run.library}, events of the run; the label is that "
            "of the energy, area and clock are measured",
            area_um2=run.area_mm2 * 1e6,
            clock_ghz=run.clock_hz / 1e9,
            power_mw=run.milliwatts,
            energy_pj=total.chip_pj / total.macs if total.macs else None,
            energy_of=per_mac,
            gops_per_w=number(1000 * total.tops_per_w, 3),
            gops_per_mm2=f"{run.gops_per_mm2:.3g}",
            operations_per_mac=OPERATIONS,
        )
    ]
    methods = dict.fromkeys(name for held in run.bands.values() for name in held.figures)
    for method in methods:
        held = {q: b.figures[method] for q, b in run.bands.items() if method in b.figures}
        first = next(iter(held.values()))
        value = {q: figure.value for q, figure in held.items()}
        energy = value.get("energy_uj")
        rows.append(
            Entry(
                design,
                what,
                TARGET_NM,
                first.label,
                OURS,
                _sources(held),
                area_um2=value["area_mm2"] * 1e6 if "area_mm2" in value else None,
                clock_ghz=value.get("clock_ghz"),
                energy_pj=energy * 1e6 / total.macs if energy and total.macs else None,
                energy_of=per_mac if energy and total.macs else "",
                gops_per_w=number(1000 * value["tops_per_w"], 3) if "tops_per_w" in value else "",
                gops_per_mm2=f"{value['gops_per_mm2']:.3g}" if "gops_per_mm2" in value else "",
                operations_per_mac=OPERATIONS,
            )
        )
    return rows
