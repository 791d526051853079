"""The AXI side's Verilog under cocotb and cocotbext-axi: runs ``bench_axi_tests.py``."""

from __future__ import annotations

import pytest
from bench_axi_top import AxiBench
from bench_runner import BenchFailure
from opennpe.golden import catalog

pytestmark = pytest.mark.rtl

SMALL = {"seed": 1, "cases": 6}
LARGE = {"seed": 20, "cases": 60}
SPECS = ("EDGE_2X2", "EDGE_8X8")
"""One beat a line, and two."""
COUNTED = ("loads", "stores", "both", "boundaries", "load errors", "store errors", "refusals",
           "load resets", "store resets", "settings", "places", "registers", "ar bursts",
           "aw bursts", "r beats", "w beats", "ar waits", "r waits", "aw waits", "w waits",
           "r errors", "b errors", "ar at 4 KiB", "aw at 4 KiB")  # fmt: skip
"""What a run must have come by."""


@pytest.fixture(scope="module", params=SPECS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AxiBench:
    folder = tmp_path_factory.mktemp(f"axi_{request.param}")
    return AxiBench(catalog.get(request.param), folder)


def judge(counts: dict[str, int], cases: int) -> None:
    print(counts)
    missing = [what for what in COUNTED if not counts.get(what)]
    assert not missing, f"never came by: {', '.join(missing)}"
    assert counts["loads"] >= 9 * cases and counts["stores"] >= 9 * cases


def test_axi_side_under_cocotb(bench: AxiBench) -> None:
    judge(bench.run(SMALL), SMALL["cases"])
    with pytest.raises(BenchFailure, match="no cocotb test ran"):
        bench.run(SMALL, "no_such_test")


@pytest.mark.regress
@pytest.mark.timeout(1800)
def test_axi_side_under_cocotb_at_length(bench: AxiBench) -> None:
    judge(bench.run(LARGE), LARGE["cases"])
