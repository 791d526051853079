"""Proofs: the emitted engine's decode, multiply, align and add are golden's table of products.

Every pair of codes of the 4-bit and 8-bit formats, in every lane, with any operands in the other
lanes. Planted faults, in the table and in the engine, are found.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from formal_aig import Aig
from formal_miter import Case, Miter
from formal_table import decision_graph
from opennpe.golden import mac
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import verilog

NARROW = [Case(a, b) for a in ("fp4", "posit4") for b in ("fp4", "posit4")]
POSIT8 = Case("posit8", "posit8")
MUTANTS = Path(__file__).parents[1] / "benches" / "mutants.py"

pytestmark = pytest.mark.rtl


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return verilog.emit(EngineSpec(), tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def posit8(engine: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Aig:
    folder = tmp_path_factory.mktemp("posit8")
    return Aig.read(Miter(POSIT8, *engine, POSIT8.rows(), folder).aiger())


def mutant(name: str, folder: Path) -> list[Path]:
    """Verilog and manifest of an engine with a planted bug."""
    subprocess.run([sys.executable, str(MUTANTS), "--emit", str(folder), name], check=True)
    return [next(iter(folder.glob("*.v"))), folder / "manifest.json"]


def counter_example(aig: Aig, case: Case, lane: int) -> tuple[int, int] | None:
    """Codes of the lane's operands for which it differs, by cases of the first operand."""
    operand = [aig.word(name, lane * case.bits, case.bits) for name in ("a", "b")]
    for code in range(1 << case.bits):
        fixed = {literal: code >> i & 1 for i, literal in enumerate(operand[0])}
        found = aig.find(lane, fixed)
        if found is not None:
            assert aig.evaluate(found)[lane] == 1, "z3's answer is none"
            one, two = (sum(found[x] << i for i, x in enumerate(word)) for word in operand)
            return one, two
    return None


@pytest.mark.parametrize("case", NARROW, ids=lambda c: f"{c.a}-{c.b}")
def test_4_bit_products_are_the_table(case: Case, engine: list[Path], tmp_path: Path) -> None:
    assert Miter(case, *engine, case.rows(), tmp_path).prove_by_sat()


@pytest.mark.parametrize("case", NARROW[1:3], ids=lambda c: f"{c.a}-{c.b}")
def test_4_bit_products_by_cases(case: Case, engine: list[Path], tmp_path: Path) -> None:
    """The other prover agrees."""
    aig = Aig.read(Miter(case, *engine, case.rows(), tmp_path).aiger())
    assert [counter_example(aig, case, lane) for lane in range(case.lanes)] == [None] * case.lanes


@pytest.mark.parametrize("lane", range(POSIT8.lanes))
def test_posit8_products_are_the_table(lane: int, posit8: Aig) -> None:
    assert counter_example(posit8, POSIT8, lane) is None


@pytest.mark.parametrize("case", [NARROW[3], POSIT8], ids=lambda c: f"{c.a}-{c.b}")
def test_a_fault_in_the_table_is_found(case: Case, engine: list[Path], tmp_path: Path) -> None:
    rows = case.rows()
    pair = (3 << case.bits) | 5
    rows[pair, 2] ^= 1
    miter = Miter(case, *engine, rows, tmp_path)
    if case is not POSIT8:
        assert not miter.prove_by_sat()
    aig = Aig.read(miter.aiger())
    assert counter_example(aig, case, case.lanes - 1) == (3, 5)


@pytest.mark.parametrize(
    ("case", "name"),
    [(NARROW[2], "mixed formats"), (NARROW[0], "lane products"), (POSIT8, "regime")],
    ids=lambda x: x if isinstance(x, str) else f"{x.a}-{x.b}",
)
def test_a_fault_in_the_engine_is_found(case: Case, name: str, tmp_path: Path) -> None:
    miter = Miter(case, *mutant(name, tmp_path), case.rows(), tmp_path)
    if case is not POSIT8:
        assert not miter.prove_by_sat()
    aig = Aig.read(miter.aiger())
    assert any(counter_example(aig, case, lane) is not None for lane in range(case.lanes))


def test_table_rows_are_golden() -> None:
    rows = POSIT8.rows()
    graph = decision_graph(rows)
    assert len(graph.bit) < 10_000
    weights = 1 << np.arange(POSIT8.product_bits, dtype=np.int64)
    weights[-1] *= -1
    for a, b in ((0x40, 0x40), (0x7F, 0x81), (1, 0xFF), (0x80, 3)):
        product, nan = mac.multiply("posit8", "posit8", a, b)
        row = rows[a << 8 | b]
        assert bool(row[-1]) == nan
        assert int(row[:-1] @ weights) == product
