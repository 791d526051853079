"""``opennpe cost``: what it prints and writes, its errors in a line, its page in a browser."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from browser import needs_browser, said
from opennpe.cli import cost_page, cost_tables
from opennpe.cli.cost import Report, SpecCost, _at_28, of_area
from opennpe.cli.cost_files import write
from opennpe.cli.main import main
from opennpe.golden import catalog
from opennpe.tech import areas
from opennpe.tech.areas import Block, SpecArea

pytestmark = pytest.mark.fast

AREA = SpecArea(
    "EDGE_4X4", "ihp130", 130.0, 1.2, "key", 30.0,
    (Block("engines", 16, 1.8e6, 16_000, 20_000.0, 5_500.0, "n"),
     Block("load", 1, 5e4, 500, 600.0, 4_000.0, "x")),
)  # fmt: skip
ONE = SpecCost(
    catalog.EDGE_4X4, AREA, {}, _at_28(AREA), {"fp4": 23.2}, ("no clock tree and no wires",)
)


def test_units_are_in_the_names_and_every_figure_has_a_label():
    found = Report((ONE,)).summary()["specs"][0]
    assert {"clock_mhz", "node_nm", "peak_gops"} < set(found)
    assert all("area_um2" in row and "slowest_stage_ps" in row for row in found["blocks"])
    for figures in found["at_28_nm"].values():
        assert len(figures) == 3
        assert {f["label"] for f in figures.values()} == {"scaled", "calibrated"}


def test_files_appear_whole(tmp_path):
    write(Report((ONE,)), tmp_path / "csv", tmp_path / "page.html")
    rows = list(csv.DictReader((tmp_path / "csv" / "blocks.csv").open()))
    assert [row["block"] for row in rows] == ["engines", "load"]
    assert all(row["label"] == "measured" for row in rows)
    compared = (tmp_path / "csv" / "comparison.csv").read_text()
    assert compared.startswith("design,what,node_nm,label,by,source,area_um2")
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?://|<script", text), "the page fetches or runs something"
    assert text.count('role="img" aria-label=') == text.count("<svg")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--spec", "NOPE"], "unknown spec 'NOPE'"),
        (["--liberty", "nowhere.lib"], "no cell library 'nowhere.lib'"),
        (["--external", "-1"], "external memory takes"),
        (["--network", "x.onnx"], "give them by --data"),
    ],
)
def test_errors_are_a_line(arguments, text, capsys):
    assert main(["cost", *arguments]) == 2
    out, err = capsys.readouterr()
    assert text in err and err.count("\n") == 1 and not out


def measured(path, width, folder):
    """Width of the document and of its window, in a frame as wide as a screen."""
    say = "parent.postMessage(document.documentElement.scrollWidth+' '+innerWidth,'*')"
    return tuple(map(int, said(path.read_text(encoding="utf-8"), say, width, folder).split()))


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(width, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(cost_page.page(Report((ONE,))))
    document, window = measured(path, width, tmp_path)
    assert window == width and document <= window
    wide = tmp_path / "wide.html"
    wide.write_text(path.read_text().replace("<h1>", "<h1 style='width:2000px'>"))
    assert measured(wide, width, tmp_path)[0] > window, "the check sees no overflow"


def test_json_is_json(tmp_path):
    assert json.loads(json.dumps(Report((ONE,)).summary()))["schema"] == "opennpe.cost/1"


def test_docs_are_the_areas_kept():
    text = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
    stored = areas.stored()
    assert len(stored) == 12, "six specs in two libraries"
    for entry in stored.values():
        engine = next(b for b in entry.blocks if b.name == "engines")
        um2, cells = engine.area_um2 / engine.copies, entry.area_um2 / 1e6
        row = f"| {entry.spec} | {entry.library} | {cells:.4g} | "
        own = [line for line in text.splitlines() if line.startswith(row)]
        assert len(own) == 1, f"docs/cost.md has no row '{row}': run `make cost`"
        assert f" | {um2:.4g} | {engine.stage_ps / 1000:.3g} | " in own[0]
    shown = [of_area(catalog.get(e.spec), e) for e in stored.values() if e.spec == "EDGE_4X4"]
    assert len(shown) == 2
    shown.sort(key=lambda one: one.area.library != "ihp130")
    assert cost_tables.peak_markdown(shown) in text, "run `make cost`"
    assert cost_tables.comparison_markdown(Report(tuple(shown)).comparison()) in text
