"""The softmax unit's Verilog under cocotb and Verilator: runs ``cocotb_stream_softmax.py``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from bench_runner import BenchFailure, TopPortsRunner, build, run
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.rtl.softmax import Softmax
from opennpe.rtl.verilog import convert

pytestmark = pytest.mark.rtl

TOP = "opennpe_softmax"
BENCH = "cocotb_stream_softmax"
SPECS = {
    "exact": SoftmaxSpec(lanes=4, fixed=True),
    "truncating": SoftmaxSpec(lanes=2, mode="truncating", fixed=True),
}
SIZES = {"settings": 4, "rows": 12, "seed": 1, "at_least": 16 * 4 * 12}


def built(name: str, folder: Path) -> TopPortsRunner:
    unit = Softmax(SPECS[name])
    source = folder / f"{TOP}.v"
    source.write_text(convert(unit, TOP))
    ports = ["__".join(map(str, path)) for path, _, _ in unit.signature.flatten(unit)]
    return build([source], TOP, ["clk", "rst", *ports], folder / "build")


def drive(runner: TopPortsRunner, name: str, folder: Path, only: str | None = None) -> None:
    plan = {**SIZES, "spec": asdict(SPECS[name]), "out": str(folder)}
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    environment = {"OPENNPE_BENCH_PLAN": str(path)}
    run(runner, BENCH, TOP, folder / "build", environment, only)
    print((folder / "counts.json").read_text())


@pytest.mark.parametrize("name", SPECS)
def test_softmax_under_cocotb(name: str, tmp_path: Path) -> None:
    runner = built(name, tmp_path)
    drive(runner, name, tmp_path)
    if name == "truncating":
        with pytest.raises(BenchFailure, match="no cocotb test ran"):
            drive(runner, name, tmp_path, "no_such_test")
        with pytest.raises(BenchFailure, match="something_ran"):
            drive(runner, name, tmp_path, "something_ran")
