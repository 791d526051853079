"""The cost page of a run: a roofline that can be read, one table of designs, at two widths."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from browser import needs_browser, said
from opennpe.cli import cost_files, cost_page, cost_tables
from opennpe.cli.cost import Report, of_area
from opennpe.cli.cost_roofline import NARROW, WIDE, Roofline, drawing, standalone
from opennpe.golden import catalog
from opennpe.golden.errors import DataError
from opennpe.sim.cost_peak import peaks, word_fj
from opennpe.sim.cost_types import COMPONENTS, OPERATIONS, Cost, LayerCost
from opennpe.tech import areas, coefficients, scaling
from opennpe.tech.figures import LABELS, Band, Figure
from opennpe.tech.published import DESIGNS

pytestmark = pytest.mark.fast

SPEC = catalog.EDGE_4X4
CLOCK = 100e6


def layer(number, macs=40_000, cycles=2_000, traffic=400.0, form="posit8"):
    """One that reaches less than its roof."""
    peak = OPERATIONS * SPEC.array.macs_per_cycle(form) * CLOCK / 1e9
    bus = SPEC.memory.bus_bits / 8 * CLOCK / 1e9
    roof = min(peak, OPERATIONS * macs / traffic * bus) if traffic else peak
    energy = {name: 1e3 * (place + 1) for place, name in enumerate(COMPONENTS)}
    bound = "compute" if roof == peak else "memory"
    return LayerCost(f"a_layer_of_some_length_{number}", form, cycles, cycles / CLOCK, macs, 0.5,
                     energy, traffic, roof, bound)  # fmt: skip


def report(count):
    """A run of so many layers, crowded in one corner, and two without a point."""
    rows = [layer(n, 30_000 + 700 * n, 2_200 + 11 * n, 300.0 * (1 + n % 7)) for n in range(count)]
    rows += [layer(98, macs=0), layer(99, traffic=0.0)]
    total = layer("total", sum(r.macs for r in rows), sum(r.cycles for r in rows), 9_000.0)
    one = of_area(SPEC, areas.load("ihp130", SPEC.name))
    band = Band("area", {m: Figure(0.4, "mm2", "scaled", f"paper {m}") for m in "AB"})
    run = Cost(
        SPEC.name, "ihp130", "a run", CLOCK, CLOCK, "a stage", tuple(rows), total,
        dict.fromkeys(COMPONENTS, "measured"),
        {"engines": Figure(1.8e6, "um2", "measured", "gates")}, False, {}, {"area_mm2": band},
    )  # fmt: skip
    return Report((one,), run)


def test_roofs_are_the_array_and_the_bus_and_no_layer_is_above():
    held = report(12).roofline()
    assert held.roofs_gops == {
        name: OPERATIONS * SPEC.array.macs_per_cycle(name) * CLOCK / 1e9
        for name in SPEC.mac.formats
    }
    assert held.gb_per_s == SPEC.memory.bus_bits / 8 * CLOCK / 1e9
    assert len(held.points) == 12 and len(held.absent) == 2 and held.used == ("posit8",)
    for _, _, form, intensity, gops, _ in held.points:
        assert gops <= min(held.roofs_gops[form], intensity * held.gb_per_s)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_drawing_holds_every_layer_inside_its_axes(size):
    held = report(60).roofline()
    tree = ElementTree.fromstring(drawing(held, size))
    dots = tree.findall("circle")
    assert len(dots) == 60
    for dot, point in zip(dots, held.points, strict=True):
        assert 0 < float(dot.get("cx")) < size[0] and 0 < float(dot.get("cy")) < size[1]
        assert point[1] in dot.find("title").text and "GOPS at" in dot.find("title").text
    # Higher is up, more operations a byte is right.
    fast = max(range(60), key=lambda i: held.points[i][4])
    assert float(dots[fast].get("cy")) == min(float(dot.get("cy")) for dot in dots)
    words = " ".join(text.text or "" for text in tree.findall("text"))
    assert "operations per byte" in words and "GOPS (10^9" in words and "GB/s" in words
    for gops in set(held.roofs_gops.values()):
        assert f"{gops:.3g} GOPS" in words


def test_a_picture_of_its_own(tmp_path):
    path = tmp_path / "roof.svg"
    cost_files.write(report(4), picture=path)
    tree = ElementTree.fromstring(path.read_text())
    assert tree.tag == "{http://www.w3.org/2000/svg}svg" and tree.get("width") == str(WIDE[0])
    assert "var(--ink)" in path.read_text() and "--ink:" in path.read_text()
    with pytest.raises(DataError, match="a roofline is that of a network's run"):
        cost_files.write(Report(report(1).specs), picture=path)


def test_one_network_of_one_layer_is_drawn():
    lone = Roofline(0.8, {"posit8": 6.4}, ("posit8",), ((1, "<x>", "posit8", 2.0, 1.0, "memory"),),
                    ())  # fmt: skip
    assert "&lt;x&gt;" in drawing(lone, WIDE) and "<x>" not in standalone(lone, "one")


def test_every_row_beside_the_published_has_a_label_a_source_and_a_node():
    entries = report(3).comparison()
    assert entries[0].design == "XR-NPE" and "not stated" in entries[0].energy_of
    assert {entry.design for entry in entries} >= {design.name for design in DESIGNS}
    assert {entry.label for entry in entries if entry.by == "this project"} == set(LABELS)
    for entry in entries:
        assert entry.label in LABELS and entry.source and entry.by
        assert entry.node_nm or entry.by == "its authors"
        assert entry.by == "its authors" or entry.operations_per_mac == OPERATIONS
    engine = [e for e in entries if e.design == f"OpenNPE engine of {SPEC.name}"]
    assert [e.label for e in engine] == ["measured", "scaled", "scaled", "calibrated"]
    assert engine[0].clock_ghz == pytest.approx(1 / engine[0].delay_ns)
    assert engine[3].energy_pj is None, "no energy is calibrated"
    held = scaling.CALIBRATION["ihp130"][areas.RECIPE]
    assert all(f"x {one.factor:g}" in engine[3].source for one in held.values())


def test_peaks_follow_lanes_area_and_energy():
    energies = coefficients.load("ihp130")
    whole, engines = (Figure(um2, "um2", "measured", "gates") for um2 in (4e6, 2e6))
    found = {peak.format: peak for peak in peaks(SPEC, CLOCK, whole, engines, energies)}
    assert set(found) == set(SPEC.mac.formats)
    assert found["fp4"].gops.value == 4 * found["posit16"].gops.value == OPERATIONS * 64 * 0.1
    for name, peak in found.items():
        assert peak.gops_per_engine_mm2.value == 2 * peak.gops_per_mm2.value
        step = word_fj(energies, name, CLOCK) / 1000
        assert step > energies.clock_fj / 1000, "a word costs more than the clock"
        operations = OPERATIONS * SPEC.array.engine.lanes(name)
        assert peak.engine_tops_per_w.value == pytest.approx(operations / step)
    none = peaks(SPEC, CLOCK, whole, engines, None)
    assert all(peak.engine_tops_per_w is None and len(peak.figures()) == 3 for peak in none)


def test_files_name_their_units(tmp_path):
    cost_files.write(report(5), tmp_path / "csv")
    tables = {p.stem: list(csv.DictReader(p.open())) for p in (tmp_path / "csv").iterdir()}
    assert set(tables) == {
        "bands", "blocks", "comparison", "energy", "layers", "peaks", "roofline",
    }  # fmt: skip
    assert [row["format"] for row in tables["peaks"]] == list(SPEC.mac.formats)
    assert all(row["label"] for name in ("peaks", "bands", "comparison") for row in tables[name])
    assert {row["kind"] for row in tables["roofline"]} == {"memory_roof", "compute_roof", "layer"}
    found = json.loads(json.dumps(report(5).summary()))
    assert len(found["comparison"]) == len(tables["comparison"])
    assert found["specs"][0]["peaks"]["fp4"]["engine_tops_per_w"]["label"] == "measured"


def test_a_terminal_shows_designs_with_labels():
    grid, below = cost_tables.comparison_table(report(2).comparison())
    labels = list(grid.columns[2].cells)
    assert set(labels) == {"measured", "measured*", "scaled", "calibrated"}
    assert any("by its authors" in line for line in below)


# -- in a browser ---------------------------------------------------------------------------------
LOOK = """
const hits = [], small = [];
for (const svg of document.querySelectorAll('svg')) {
  if (getComputedStyle(svg).display === 'none') continue;
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(t => t.getBoundingClientRect());
  const dots = [...svg.querySelectorAll('circle')].map(c => c.getBoundingClientRect());
  boxes.forEach((a, i) => {
    if (dots.some(b => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4))
      hits.push(texts[i].textContent + ' under a dot');
    if (a.height < 9) small.push(texts[i].textContent);
    boxes.slice(i + 1).forEach((b, j) => {
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
        hits.push(texts[i].textContent + ' / ' + texts[i + 1 + j].textContent);
    });
  });
}
const shown = [...document.querySelectorAll('svg.roofline')]
  .filter(s => getComputedStyle(s).display !== 'none').length;
const page = document.documentElement;
parent.postMessage(JSON.stringify(
  {page: page.scrollWidth, window: innerWidth, hits, small, shown}), '*')"""


def looked(text, width, folder):
    """What a frame of a width shows."""
    return json.loads(said(text, LOOK, width, folder))


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_run_can_be_read(width, tmp_path):
    text = cost_page.page(report(30))
    found = looked(text, width, tmp_path)
    assert found["window"] == width and found["page"] <= width, "the page is wider than its window"
    assert found["shown"] == 1, "one roofline for each width"
    assert not found["hits"], "texts lie on each other"
    assert not found["small"], "texts too small to read"
    # The checks see what they are for.
    piled = re.sub(r'<text class="on" x="[^"]*" y="[^"]*"', '<text class="on" x="80" y="80"', text)
    wide = piled.replace("<h1>", "<h1 style='width:2000px'>")
    spoilt = looked(wide, width, tmp_path)
    assert spoilt["hits"] and spoilt["page"] > width
