"""The whole co-processor under cocotb and cocotbext-axi: runs ``bench_axi_job.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runner import BenchFailure, TopPortsRunner, build, run
from opennpe.golden import catalog
from opennpe.golden import layers as L
from opennpe.golden.machine import Machine
from opennpe.golden.network import Network, Tensor
from opennpe.golden.program import Program
from opennpe.host.compile import compile
from opennpe.rtl.axi import lite_signature, master_signature
from opennpe.rtl.top_verilog import TOP, coprocessor_verilog

pytestmark = pytest.mark.rtl

SPEC = catalog.EDGE_2X2
COUNTED = ("runs", "ar bursts", "aw bursts", "r beats", "w beats", "read errors", "write errors",
           "ar windows", "aw windows", "opcodes", "resets", "ar waits", "w waits")  # fmt: skip
"""What a run must have come by."""


def network() -> Network:
    """A convolution and a fully connected layer, in posit8."""
    rng = np.random.default_rng(0)
    shapes = {"image": (1, 3, 7, 7), "sums": (1, 6, 7, 7), "flat": (1, 294), "scores": (1, 5)}
    tensors = {name: Tensor(name, shape, "posit8", -1) for name, shape in shapes.items()}

    def weights(*shape: int) -> tuple[Any, ...]:
        scale, bias = np.full(shape[0], -1), rng.normal(size=shape[0])
        return tensors["image"].encode(rng.normal(size=shape)), "posit8", scale, bias

    one, pads = (1, 1), (1, 1, 1, 1)
    layers = (
        L.Conv("conv", ("image",), "sums", *weights(6, 3, 3, 3), one, pads, one),
        L.Reshape("flatten", ("sums",), "flat", (1, 294)),
        L.Linear("fc", ("flat",), "scores", *weights(5, 294)),
    )
    return Network(("image",), ("scores", "sums"), tensors, layers, name="job")


def plan(program: Program, folder: Path, cases: int) -> dict[str, Any]:
    """What the bench must know: memories, registers, and where something can go wrong."""
    tensor = np.random.default_rng(1).integers(0, 128, (1, 3, 7, 7), dtype=np.uint8)
    before = program.memory({"image": tensor})
    after = before.copy()
    Machine(SPEC).run(after, program.address, program.lines, program.window)
    assert not np.array_equal(before, after), "a program that stores nothing shows nothing"
    for name, memory in (("before", before), ("after", after)):
        np.save(folder / f"{name}.npy", memory)
    touched: dict[str, list[int]] = {"load": [], "store": []}
    for _, command in program.commands:
        if command.op in touched:
            first, count = command["address"], command["lines"] * SPEC.line_bytes
            touched[command.op] += range(first, first + count, SPEC.line_bytes)
    first_lines = program.lines * SPEC.line_bytes
    w = program.window
    return {
        "spec": SPEC.name, "seed": 1, "cases": cases, "counts": str(folder / "counts.json"),
        "before": str(folder / "before.npy"), "after": str(folder / "after.npy"),
        "address": program.address, "lines": program.lines,
        "read": [w.read_base, w.read_limit], "write": [w.write_base, w.write_limit],
        "loaded": touched["load"], "stored": touched["store"],
        "commands": [program.address + at for at, _ in program.commands if at < first_lines],
        "beats": len(touched["load"]) * SPEC.beats_per_line,
    }  # fmt: skip


@dataclass(frozen=True)
class JobBench:
    """The co-processor for cocotb, built, and what its bench must know."""

    runner: TopPortsRunner
    plan: dict[str, Any]
    folder: Path

    def run(self, changes: dict[str, Any], test_filter: str | None = None) -> dict[str, int]:
        """Run the bench's tests with a changed plan; what they counted.

        Raises:
            BenchFailure: some test failed, or none ran.
        """
        path, counts = self.folder / "plan.json", Path(self.plan["counts"])
        path.write_text(json.dumps({**self.plan, **changes}))
        counts.unlink(missing_ok=True)
        environment = {"OPENNPE_AXI_JOB": str(path)}
        build_folder = self.folder / "build"
        run(self.runner, "bench_axi_job", TOP, build_folder, environment, test_filter)
        return dict(json.loads(counts.read_text()))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> JobBench:
    folder = tmp_path_factory.mktemp("job")
    source = folder / f"{TOP}.v"
    source.write_text(coprocessor_verilog(SPEC))
    buses = {"bus": master_signature(SPEC), "control": lite_signature()}
    ports = [f"{bus}__{name}" for bus, signature in buses.items() for name in signature.members]
    runner = build([source], TOP, ["clk", "rst", "interrupt", *ports], folder / "build")
    return JobBench(runner, plan(compile(network(), SPEC), folder, cases=3), folder)


def test_jobs_under_cocotb(bench: JobBench) -> None:
    counts = bench.run({})
    print(counts)
    assert not [what for what in COUNTED if not counts.get(what)]


def test_a_wrong_byte_is_caught(bench: JobBench) -> None:
    """Were golden of another opinion, the bench would say where."""
    after = np.load(bench.plan["after"])
    place = bench.plan["stored"][-1]
    after[place] ^= 1
    other = bench.folder / "other.npy"
    np.save(other, after)
    with pytest.raises(BenchFailure, match=f"1 bytes differ, the first at {place:#x}"):
        bench.run({"after": str(other)}, "a_job_is_golden")


def test_a_narrower_judge_is_heard(bench: JobBench) -> None:
    """A burst longer than the judge allows ends the bench."""
    with pytest.raises(BenchFailure, match="at most 1"):
        bench.run({"burst_beats": 1}, "a_job_is_golden")
