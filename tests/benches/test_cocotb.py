"""The engine's Verilog under cocotb and Verilator: runs ``cocotb_engine.py``.

``make test`` runs every test of the bench once; ``make regress`` runs it again with another seed,
all batches of the standard campaign and more posit16 pairs.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import bench_runner
import pytest
from bench_coverage import Coverage
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import verilog

pytestmark = pytest.mark.rtl

SMALL = {"campaign": "standard", "mixture": 300, "posit16_pairs": 1_000_000, "seed": 1}
LARGE = {"campaign": "full", "mixture": 3_000, "posit16_pairs": 4_000_000, "seed": 20}


def plan(described: dict[str, Any], sizes: dict[str, Any], folder: Path) -> Path:
    """What the bench module needs to know, written where it looks."""
    fields = {
        port["name"]: {f["name"]: (f["offset"], f["width"]) for f in port["fields"]}
        for port in described["ports"]
        if "fields" in port
    }
    widths = {port["name"]: port["width"] for port in described["ports"]}
    path = folder / "plan.json"
    content = {
        "words": fields["words__payload"],
        "words_width": widths["words__payload"],
        "results": fields["results__payload"],
        "out": str(folder),
        **sizes,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("cocotb")
    source, described = verilog.emit(EngineSpec(), folder)
    manifest = json.loads(described.read_text())
    ports = [port["name"] for port in manifest["ports"]]
    runner = bench_runner.build([source], manifest["top"], ports, folder / "build")
    return runner, manifest, folder / "build"


def run(built: tuple[Any, dict[str, Any], Path], sizes: dict[str, Any]) -> None:
    runner, manifest, folder = built
    environment = {"OPENNPE_BENCH_PLAN": str(plan(manifest, sizes, folder))}
    ran = bench_runner.run(runner, "cocotb_engine", manifest["top"], folder, environment)
    print((folder / "coverage.txt").read_text())
    for name, count in json.loads((folder / "counts.json").read_text()).items():
        print(
            f"{name:32} {count['sums']:9} sums {count['words']:9} words {count['cycles']:9} cycles"
        )
    print(f"{len(ran)} cocotb tests, {sum(ran.values()):.0f} s")
    cover = pickle.loads((folder / "coverage.pickle").read_bytes())
    assert isinstance(cover, Coverage) and cover.sums > sizes["posit16_pairs"]
    assert cover.underflows == {"minpos", "zero"}
    assert not cover.holes()


def test_engine_under_cocotb(built: tuple[Any, dict[str, Any], Path]) -> None:
    run(built, SMALL)


@pytest.mark.regress
@pytest.mark.timeout(1800)
def test_engine_under_cocotb_at_length(built: tuple[Any, dict[str, Any], Path]) -> None:
    run(built, LARGE)
