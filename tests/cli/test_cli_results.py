"""Tables, files and pictures of a result made by hand."""

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opennpe.cli import pictures, results, tables
from opennpe.cli.results import Checked, LayerRow, Result, Run
from rich.console import Console


def layer(name: str, cycles: int = 40) -> LayerRow:
    return LayerRow(name, "Conv", ("posit8",), "fp4", "posit8", 1000, cycles, 50, 9, 0.5, 0.01,
                    "int16", 0.02)  # fmt: skip


def run(name: str, value: float = 0.75, **changes: object) -> Run:
    values = {"out/0": np.array([[0.5, -1.0], [2.0, 0.25]])}
    made = Run(name, value, value - 0.8, 2_000_000, 12_345, 678, 4.0,
               {"out/0": np.array([[1, 2], [3, 4]], np.uint8)}, values, {"out/0": 0.01},
               {"out/0": 0.999}, (layer("conv/1"), layer("shape", 0)), {"out/0": "posit8"},
               {"out/0": -3})  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def result(metric: str = "top1") -> Result:
    checked = Checked({"conv/1": 3}, 96, 1200, {"Reshape": 1})
    reference = run("fp32", 0.8, layers=(), codes={})
    runs = (run("fp4", 0.6, checked=checked), run("posit8"), run("mixed", 0.7))
    return Result("net.onnx", "EDGE_4X4", "zero", metric, 2, reference, runs)


def text(*parts: object) -> str:
    console = Console(width=120, record=True)
    for part in parts:
        console.print(part)
    return console.export_text()


def test_the_table_has_a_line_for_every_run() -> None:
    lines = text(tables.run_table(result())).splitlines()
    (fp4,) = [line for line in lines if line.strip().startswith("fp4")]
    assert fp4.split() == "fp4 60.00 % -20.00 1.00e-02 2.00 M 12.3 k 678 4 3".split()
    assert [line.split()[0] for line in lines[4:8]] == ["fp32", "fp4", "posit8", "mixed"]
    assert "top-1" in text(tables.run_table(result()))
    assert "cosine" in text(tables.run_table(result("l2")))
    (line,) = tables.check_lines(result())
    assert line.startswith("RTL fp4: 3 tiles of 1 layers, 96 outputs in 1200 cycles")
    assert line.endswith("identical; not replayed: 1 Reshape")


def test_counts_read_as_three_digits() -> None:
    shown = [tables.count(v) for v in (7, 999, 1000, 12345, 999_999, 1.5e6, 23.4e9)]
    assert shown == ["7", "999", "1.00 k", "12.3 k", "1000 k", "1.50 M", "23.4 G"]


def test_files(tmp_path: Path) -> None:
    made = result()
    broken = run("posit4", math.nan, values={"out/0": np.array([[np.nan, 1.0], [0.0, 0.0]])})
    results.write(replace(made, runs=(*made.runs, broken)), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["runs"]) == ["fp4", "posit8", "mixed", "posit4"]
    assert summary["runs"]["posit4"]["top1"] is None
    assert summary["runs"]["posit4"]["nar_outputs"] == 1
    assert summary["runs"]["fp4"]["rtl_replay"]["tiles"] == 3
    assert summary["fp32"]["top1"] == 0.8
    rows = list(csv.DictReader((tmp_path / "layers.csv").open()))
    assert len(rows) == 8 and rows[0]["rtl_tiles_replayed"] == "3"
    assert rows[0]["engine_cycles_per_sample"] == "40" and rows[2]["rtl_tiles_replayed"] == ""
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as held:
        assert held["fp4/out/0/codes"].dtype == np.uint8
        np.testing.assert_array_equal(held["posit8/out/0/values"], [[0.5, -1], [2, 0.25]])
        assert "fp32/out/0/values" in held


@pytest.mark.parametrize("metric", ["top1", "l2", "cosine"])
def test_pictures(tmp_path: Path, metric: str) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=500)
    grid = {"fp4": np.array([0, 0.5, 1, 2]), "mixed": np.geomspace(1e-3, 4, 400)}
    spread = pictures.Spread("conv/1", reference, grid, {n: np.rint(reference) for n in grid})
    names = pictures.draw(result(metric), spread, tmp_path)
    assert names == ["metric.png", "cycles.png", "error.png", "values.png"]
    for name in names:
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert 5_000 < (tmp_path / name).stat().st_size < 200_000


def test_pictures_without_data_are_left_out(tmp_path: Path) -> None:
    bare = result()
    bare = replace(bare, runs=tuple(replace(r, layers=()) for r in bare.runs))
    assert pictures.draw(bare, None, tmp_path) == ["metric.png"]
    nan = replace(bare, metric="l2", runs=(run("fp4", math.nan, layers=()),))
    assert pictures.draw(nan, None, tmp_path) == ["metric.png"]


def test_the_terminal_picture_is_self_contained() -> None:
    picture = tables.svg("opennpe sim", tables.run_table(result()), ["a [line]"])
    ElementTree.fromstring(picture)
    assert "posit8" in picture and "@font-face" not in picture
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")
