"""Condensed tables are what the files say, and what is not is noticed: by cell and by block."""

from __future__ import annotations

import gzip
import json
import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from opennpe.fpga import condense, liberty, liberty_text
from opennpe.fpga.condense import condense as condensed
from opennpe.tech import libraries

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import compare_cells

pytestmark = pytest.mark.rtl

BLOCK = "decode"


@lru_cache
def full():
    """Stands for the files: a library that condensing has to keep as it is."""
    return libraries.shipped("ihp130")


def table_of(library, tmp_path, change=lambda found: None):
    """What condensing gives, written and read again."""
    found = condensed(library, "planted", "none", "condense")
    change(found)
    path = tmp_path / "planted.json.gz"
    path.write_bytes(gzip.compress(json.dumps(found).encode()))
    return libraries.read(path)


def scaled(library, name, area=1.0, delay=1.0):
    """A library whose cells of that name (all, if it is None) are larger or slower."""
    cells = dict(library.cells)
    for cell in list(cells.values()):
        if name in (None, cell.name):
            arcs = tuple(
                replace(arc, delay={e: replace(s, values=s.values * delay)
                                    for e, s in arc.delay.items()})
                for arc in cell.arcs
            )  # fmt: skip
            cells[cell.name] = replace(cell, area_um2=cell.area_um2 * area, arcs=arcs)
    return replace(library, cells=cells, name=f"planted {name} {area} {delay}")


def test_a_table_keeps_points_of_the_files(tmp_path):
    table = table_of(full(), tmp_path)
    assert condense.faults(full(), table) == []
    assert len(table.cells) == len(full().cells) > 60


def test_its_text_is_read_back(tmp_path):
    """What mappers read holds every area, capacitance, delay and setup."""
    path = tmp_path / "text.lib"
    path.write_text(liberty_text.write(full()))
    back = liberty.load(path)
    assert len(back.cells) > 60
    for cell in back.cells.values():
        ours = full().cells[cell.name]
        assert cell.area_um2 == pytest.approx(ours.area_um2, rel=1e-6)
        for name, pin in cell.pins.items():
            assert pin.capacitance_ff == pytest.approx(ours.pins[name].capacitance_ff, rel=1e-5)
            assert pin.function == ours.pins[name].function
        for arc, own in zip(cell.arcs, ours.arcs, strict=True):
            assert (arc.input, arc.kind, arc.sense) == (own.input, own.kind, own.sense)
            for edge, surface in arc.delay.items():
                assert surface.values == pytest.approx(own.delay[edge].values, rel=1e-5)
        if ours.sequential is not None and ours.sequential.kind == "flop":
            assert cell.sequential.setup_ps == pytest.approx(ours.sequential.setup_ps, rel=1e-5)
            assert cell.sequential.hold_ps == pytest.approx(ours.sequential.hold_ps, rel=1e-5)


def one_area(found):
    found["cells"]["sg13g2_nand3_1"]["area"] *= 1.08


def one_delay(found):
    values = found["cells"]["sg13g2_nor2_1"]["arcs"][0]["delay"]["rise"][2]
    values[3] *= 1.15


def one_axis(found):
    axes = found["axes"]
    place = found["cells"]["sg13g2_inv_1"]["arcs"][0]["slew"]["fall"][1]
    axes[place] = [point * 1.1 for point in axes[place]]


def one_function(found):
    pins = found["cells"]["sg13g2_nand2_1"]["pins"]
    next(pin for pin in pins if pin[1] == "output")[3] = "!(A+B)"


def one_capacitance(found):
    found["cells"]["sg13g2_inv_1"]["pins"][1][2] *= 1.01
    found["cells"]["sg13g2_inv_1"]["pins"][0][2] *= 1.01


def one_lost(found):
    del found["cells"]["sg13g2_xor2_1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_area, "cell sg13g2_nand3_1: area"),
        (one_delay, "cell sg13g2_nor2_1: delay from"),
        (one_axis, "slew from"),
        (one_function, "cell sg13g2_nand2_1: pin Y"),
        (one_capacitance, "cell sg13g2_inv_1: pin A"),
        (one_lost, "cell sg13g2_xor2_1: missing"),
    ],
)
def test_a_planted_fault_in_one_cell_is_named(tmp_path, change, message):
    faults = condense.faults(full(), table_of(full(), tmp_path, change))
    assert any(message in fault for fault in faults), faults


def test_blocks_are_compared_within_limits():
    """No fault between a library and itself; areas 8 %, delays 15 % off are beyond the limits."""
    whole = full()
    assert compare_cells.compared(BLOCK, whole, whole, "stock").faults() == []
    large = compare_cells.compared(BLOCK, whole, scaled(whole, None, area=1.08), "stock")
    assert large.faults() == ["decode: area is +8.0% off, at most 5% allowed"]
    slow = compare_cells.compared(BLOCK, whole, scaled(whole, None, delay=1.15), "stock")
    assert any("path is" in fault for fault in slow.faults()), slow
    assert any("same gates" in fault for fault in slow.faults()), slow


FILES = os.environ.get("OPENNPE_EXTRA")
HAVE = FILES is not None and all(
    Path(FILES, "tech", f).exists() for f in compare_cells.FILES.values()
)


@pytest.mark.extra
@pytest.mark.skipif(not HAVE, reason="no full Liberty files in OPENNPE_EXTRA/tech")
@pytest.mark.parametrize("name", ["ihp130", pytest.param("asap7", marks=pytest.mark.regress)])
def test_shipped_tables_are_made_again_as_they_are(name):
    files, table = liberty.load(Path(FILES, "tech", compare_cells.FILES[name])), liberty.load(name)
    shipped = json.loads(
        gzip.decompress(Path(libraries.__file__).with_name(f"{name}.json.gz").read_bytes())
    )
    assert condensed(files, name, table.licence, table.notes["command"]) == shipped
    assert condense.faults(files, table) == []


@pytest.mark.extra
@pytest.mark.regress
@pytest.mark.skipif(not HAVE, reason="no full Liberty files in OPENNPE_EXTRA/tech")
@pytest.mark.parametrize("name", list(compare_cells.FILES))
@pytest.mark.parametrize("recipe", ["stock", "timing"])
def test_shipped_tables_agree_with_the_full_files(name, recipe):
    files = liberty.load(Path(FILES, "tech", compare_cells.FILES[name]))
    table = liberty.load(name)
    for block in ("decode", "round"):
        assert compare_cells.compared(block, files, table, recipe).faults() == []
