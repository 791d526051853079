"""``opennpe cost``: what it prints and writes, its errors in a line, its page in a browser."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from browser import needs_browser, said
from opennpe.cli import cost_measure, cost_page, cost_tables
from opennpe.cli.cost import Report, SpecCost, _at_28, of_area
from opennpe.cli.cost_files import write
from opennpe.cli.main import main
from opennpe.fpga import area, liberty
from opennpe.golden import catalog
from opennpe.golden.errors import TechError
from opennpe.sim.accesses import memory_shapes
from opennpe.sim.cost import ENGINES, MOVING, is_whole
from opennpe.tech import areas
from opennpe.tech.areas import Block, SpecArea

pytestmark = pytest.mark.fast

SPECS = ("EDGE_1X1", "FPGA_1X1", "EDGE_2X2", "EDGE_4X4", "EDGE_8X8", "STRICT_4X4", "ULX3S_4X4")
LIBRARIES = ("ihp130", "asap7")

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


DOCUMENT = Path(__file__).parents[2] / "docs" / "cost.md"
RAN = "run `make cost`"


def kept_specs():
    """What came along by the default recipe, IHP's first."""
    held = [e for e in areas.stored().values() if e.recipe == areas.RECIPE]
    held.sort(key=lambda e: e.library != "ihp130")
    return [of_area(catalog.get(entry.spec), entry) for entry in held]


def test_areas_of_every_supported_spec_come_along():
    found = {(one.area.library, one.spec.name) for one in kept_specs()}
    assert found == {(library, name) for library in LIBRARIES for name in SPECS}, RAN
    for one in kept_specs():
        # A whole co-processor has each block once, and every memory is a macro.
        names = [block.name for block in one.area.blocks]
        assert len(set(names)) == len(names)
        if is_whole(one.spec):
            around = {"rows", "results", "dispatcher", "registers", "load", "store", "top"}
            assert around < set(names)
            assert ("softmax" in names) is not one.spec.lacks("softmax")
            shapes = memory_shapes(one.spec).values()
            assert sum(one.area.macros.values()) == sum(shape.copies for shape in shapes)
            assert one.area.across_ps > 0


def test_every_block_has_its_component_of_energy():
    """A block that is not named counts as control: these three, and no other by mistake."""
    names = {block.name for one in kept_specs() for block in one.area.blocks}
    assert names - set(MOVING) == {ENGINES, "execute", "registers", "top"}
    assert ENGINES == area.ENGINES


def test_areas_that_leave_out_other_memories_are_refused():
    whole = next(one for one in kept_specs() if is_whole(one.spec))
    sizes = dict(whole.area.macros)
    size = next(iter(sizes))
    for count in (sizes[size] + 1, sizes[size] - 1):
        wrong = dataclasses.replace(whole.area, macros={**sizes, size: count})
        with pytest.raises(TechError, match=f"leave out the memories .*{count} of {size}"):
            of_area(whole.spec, wrong)


def test_what_came_along_takes_no_synthesis(monkeypatch):
    """The key is that of the design as it stands; another design is mapped again."""
    cells = liberty.load("ihp130")

    def mapped(*_):
        raise TechError("mapped again")

    monkeypatch.setattr(area, "measure", mapped)
    own = areas.load("ihp130", "EDGE_4X4")
    key = area.design_key(catalog.EDGE_4X4, cells, areas.RECIPE)
    kept = {own.name: dataclasses.replace(own, key=key)}
    assert cost_measure.measure(catalog.EDGE_4X4, cells, kept) is kept[own.name]
    kept = {own.name: dataclasses.replace(own, key="of another design")}
    with pytest.raises(TechError, match="mapped again"):
        cost_measure.measure(catalog.EDGE_4X4, cells, kept)


def test_docs_are_the_areas_kept():
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = [one for one in kept_specs() if one.spec.name == "EDGE_4X4"]
    assert len(shown) == len(LIBRARIES)
    for one in kept_specs():
        (row,) = cost_tables.spec_markdown([one]).splitlines()[2:]
        assert row in text.splitlines(), f"docs/cost.md has no row '{row}': {RAN}"
    assert cost_tables.block_markdown(shown) in text, RAN
    assert cost_tables.peak_markdown(shown) in text, RAN
    assert cost_tables.comparison_markdown(Report(tuple(shown)).comparison()) in text, RAN


def test_a_recipe_that_is_none_is_a_line(capsys):
    assert main(["cost", "--recipe", "nope"]) == 2
    out, err = capsys.readouterr()
    assert "unknown recipe 'nope': expected one of stock" in err
    assert err.count("\n") == 1 and not out


def test_the_recipe_stands_beside_the_figures(tmp_path):
    one = of_area(catalog.EDGE_4X4, areas.load("ihp130", "EDGE_4X4"))
    found = Report((one,)).summary()["specs"][0]
    assert found["recipe"] == areas.RECIPE and found["clock_limited_by"] == one.area.limit
    assert found["clock_mhz"] == pytest.approx(1e6 / one.area.period_ps)
    assert any(f"recipe {areas.RECIPE}" in line for line in cost_tables.spec_lines(one))
    assert f"recipe {areas.RECIPE}" in cost_page.page(Report((one,)))
    write(Report((one,)), tmp_path / "csv")
    rows = list(csv.DictReader((tmp_path / "csv" / "blocks.csv").open()))
    assert {row["recipe"] for row in rows} == {areas.RECIPE}
    total = sum(float(row["area_um2"]) for row in rows)
    assert total == pytest.approx(one.area.area_um2)


def test_a_path_across_blocks_sets_the_clock():
    inside = dataclasses.replace(AREA, across_ps=5_501.0, across="from load to engines")
    assert inside.limit == "a stage of engines that ends at n", "it is that of the block"
    across = dataclasses.replace(inside, across_ps=9_000.0)
    assert across.period_ps == 9_000.0 and across.limit == "a path from load to engines"
