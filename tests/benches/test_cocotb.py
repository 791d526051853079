"""The engine's Verilog under cocotb and Verilator: runs ``cocotb_engine.py``.

``make test`` runs every test of the bench once; ``make regress`` runs it again with another seed,
all batches of the standard campaign and more posit16 pairs.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from bench_coverage import Coverage
from bench_runner import BenchFailure, EngineBench
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import verilog

pytestmark = pytest.mark.rtl

SMALL = {"campaign": "standard", "mixture": 300, "posit16_pairs": 1_000_000, "seed": 1}
LARGE = {"campaign": "full", "mixture": 3_000, "posit16_pairs": 4_000_000, "seed": 20}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> EngineBench:
    folder = tmp_path_factory.mktemp("cocotb")
    return EngineBench.build(*verilog.emit(EngineSpec(), folder), folder / "build")


def run(bench: EngineBench, sizes: dict[str, Any]) -> None:
    ran = bench.run(sizes)
    print((bench.folder / "coverage.txt").read_text())
    for name, count in json.loads((bench.folder / "counts.json").read_text()).items():
        print("{:32} {sums:9} sums {words:9} words {cycles:9} cycles".format(name, **count))
    print(f"{len(ran)} cocotb tests, {sum(ran.values()):.0f} s")
    cover = pickle.loads((bench.folder / "coverage.pickle").read_bytes())
    assert isinstance(cover, Coverage) and cover.sums > sizes["posit16_pairs"]
    assert cover.underflows == {"minpos", "zero"}
    assert not cover.holes()


def test_engine_under_cocotb(bench: EngineBench) -> None:
    run(bench, SMALL)


@pytest.mark.regress
@pytest.mark.timeout(1800)
def test_engine_under_cocotb_at_length(bench: EngineBench) -> None:
    run(bench, LARGE)


def test_no_test_is_a_failure(bench: EngineBench) -> None:
    with pytest.raises(BenchFailure, match="no cocotb test ran"):
        bench.run(SMALL, "no_such_test")


def test_holes_are_a_failure(bench: EngineBench) -> None:
    """With one test alone the coverage has holes, and the judge of it fails."""
    with pytest.raises(BenchFailure, match="coverage holes"):
        bench.run(SMALL, "every_mode_follows_every_mode|coverage_is_complete")
    with pytest.raises(BenchFailure, match="no sum was driven"):
        bench.run(SMALL, "coverage_is_complete")
