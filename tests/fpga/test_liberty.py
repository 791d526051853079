"""Liberty files: what is read is what stands there, and each fault has its one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from opennpe.fpga import functions, liberty
from opennpe.golden.errors import TechError
from small_liberty import SMALL

pytestmark = pytest.mark.fast


def written(folder: Path, text: str, name: str = "small.lib") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_small_library_reads_in_our_units(tmp_path: Path) -> None:
    library = liberty.load(written(tmp_path, SMALL))
    nand = library.cells["NAND2"]
    assert nand.area_um2 == 2.0
    assert nand.leakage_nw == pytest.approx(0.5)
    assert nand.pins["A"].capacitance_ff == pytest.approx(2.0)
    assert [arc.sense for arc in nand.arcs] == ["negative", "negative"]
    # Between the points and beyond them: 10 ps + slew / 10 + 5 ps a fF.
    assert nand.arcs[0].delay["rise"].at(50.0, 4.0) == pytest.approx(35.0)
    assert nand.arcs[0].delay["rise"].at(200.0, 20.0) == pytest.approx(130.0)
    flop = library.cells["DFF"].sequential
    assert flop is not None
    assert (flop.kind, flop.clock, flop.next_state) == ("flop", "CK", "D")
    assert flop.setup_ps == pytest.approx(30.0)
    assert library.typical_slew_ps > 0


def test_energies_come_without_the_load(tmp_path: Path) -> None:
    """The file counts half C V^2 of the load at 1 V: 3 fJ + 0.5 fJ a fF."""
    energy = liberty.load(written(tmp_path, SMALL)).cells["NAND2"].arcs[0].energy["rise"]
    assert energy.at(50.0, 1.0) == pytest.approx(3.0)
    assert energy.at(50.0, 9.0) == pytest.approx(3.0)


def test_packed_and_several_files_are_one_library(tmp_path: Path) -> None:
    head, _, tail = SMALL.partition("  cell (DFF)")
    first = written(tmp_path, head + "}\n", "a.lib")
    opening = head[: head.index("  cell (INV)")]
    second = tmp_path / "b.lib.gz"
    second.write_bytes(gzip.compress((opening + "  cell (DFF)" + tail).encode()))
    whole = liberty.load(written(tmp_path, SMALL))
    both = liberty.load(f"{first},{second}")
    assert sorted(both.cells) == sorted(whole.cells)
    with pytest.raises(TechError, match="has no flip-flop: give all files"):
        liberty.load(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "module top(input a); endmodule\n", "is not a Liberty file: line 1"),
        (lambda text: "", "is not a Liberty file"),
        (
            lambda text: text.replace('"20, 60", "30, 70"', '"20, 60", "30"', 1),
            "has 3 values, expected 2 x 2",
        ),
        (lambda text: text.replace('"20, 60"', '"20, sixty"', 1), "expected numbers"),
        (
            lambda text: text.replace(
                "cell (INV)", "cell (INV) { dont_use : true; }\n cell (X)", 1
            ).replace('"!A"', '"A"'),
            "has no inverter",
        ),
        (lambda text: text.replace('"!(A*B)"', '"!(A*B"'), "lacks a closing bracket"),
        (lambda text: text.replace('"!(A*B)"', '"!(A*C)"'), "uses what is no input"),
        (lambda text: text.replace('"0.001ns"', '"1parsec"'), "unit '1parsec'"),
    ],
)
def test_each_fault_has_its_line(tmp_path: Path, change, message: str) -> None:
    changed = change(SMALL)
    assert changed != SMALL
    with pytest.raises(TechError, match=message) as caught:
        liberty.load(written(tmp_path, changed))
    assert "\n" not in str(caught.value)


def test_a_packed_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "small.lib.gz"
    path.write_bytes(gzip.compress(SMALL.encode())[:-40])
    with pytest.raises(TechError, match="cut short or damaged: fetch it again"):
        liberty.load(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(TechError, match="no cell library 'nothing.lib': expected ihp130 or asap7"):
        liberty.load("nothing.lib")


def test_truth_tables() -> None:
    cases = {
        "!(A*B)": 0b0111,
        "A B'": 0b0010,
        "A ^ B": 0b0110,
        "A + !B * 1": 0b1011,
        "(A' | 0) & B": 0b0100,
    }
    for text, table in cases.items():
        assert functions.truth_table(text, ("A", "B")) == table, text
    for wrong in ("A +", "A @ B", "(A", "!" * 200 + "A"):
        with pytest.raises(TechError):
            functions.truth_table(wrong, ("A", "B"))


@pytest.mark.parametrize("name", ["ihp130", "asap7"])
def test_what_comes_along_is_whole(name: str) -> None:
    library = liberty.load(name)
    liberty.check_cells(library)
    assert library.licence and library.sha256 and "condense" in library.notes["command"]
    kinds = {cell.sequential.kind for cell in library.cells.values() if cell.sequential}
    assert kinds == {"flop", "latch", "gate"}
