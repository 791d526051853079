"""cocotb tests of the whole co-processor at its two buses: jobs, idles, errors, resets.

Run by ``test_axi_job.py``, which compiles a network and passes memories before and after a run, as
golden's machine says, in the file that OPENNPE_AXI_JOB names. The monitor judges every cycle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from bench_axi_around import Surroundings
from opennpe.golden import catalog
from opennpe.golden.commands import OPS
from opennpe.golden.registers import CAUSES, IDENTITY, VERSION

PLAN: dict[str, Any] = json.loads(Path(os.environ["OPENNPE_AXI_JOB"]).read_text())
SPEC = catalog.get(PLAN["spec"])
BEFORE, AFTER = (np.load(PLAN[name]) for name in ("before", "after"))
PATIENCE = 60_000
"""Cycles in which a job has to end."""
DONE, ERROR = 0b1010, 0b1100
"""``status`` after a run: the interrupt, and how it went."""
COUNTS: dict[str, int] = {}


def case(what: str, count: int = 1) -> None:
    COUNTS[what] = COUNTS.get(what, 0) + count
    Path(PLAN["counts"]).write_text(json.dumps(COUNTS))


class Job(Surroundings):
    """A co-processor with a program in its memory."""

    def __init__(self, dut: Any, seed: int) -> None:
        super().__init__(dut, SPEC, len(BEFORE), np.random.default_rng([PLAN["seed"], seed]))
        self.windows = {"ar": tuple(PLAN["read"]), "aw": tuple(PLAN["write"])}
        self.rules.burst_beats = PLAN.get("burst_beats", SPEC.memory.burst_beats)

    async def begin(self, slowness: float) -> None:
        await self.attach(slowness)
        assert await self.get("identity") == IDENTITY and await self.get("version") == VERSION

    async def start(self) -> None:
        """The memory as before a run, the registers set, a start."""
        self.outside.bytes[:] = BEFORE.tobytes()
        await self.set_windows()
        await self.put("program", PLAN["address"])
        await self.put("program_lines", PLAN["lines"])
        await self.put("interrupt", 1)
        self.rules.seen.clear()
        await self.put("control", 1)

    async def end(self) -> int:
        """Wait for the interrupt; the status.

        Raises:
            AssertionError: it does not come, or something is still under way.
        """
        for _ in range(PATIENCE):
            await self.edge
            if self.dut.interrupt.value:
                break
        else:
            raise AssertionError(f"no interrupt in {PATIENCE} cycles")
        assert self.rules.quiet and self.lite_rules.quiet, "a bus is not at rest"
        return await self.get("status")

    async def good_run(self) -> None:
        """A whole run, every byte of the memory and every beat judged."""
        await self.start()
        assert await self.get("status") == 1
        assert await self.end() == DONE
        wrong = np.flatnonzero(np.frombuffer(bytes(self.outside.bytes), dtype=np.uint8) != AFTER)
        assert not len(wrong), f"{len(wrong)} bytes differ, the first at {wrong[0]:#x}"
        assert await self.get("cause") == 0
        assert await self.get("beats_read") == self.rules.seen["r beats"]
        assert await self.get("beats_written") == self.rules.seen["w beats"]
        assert await self.get("cycles") > await self.get("busy") > 0
        case("runs")
        for what, count in self.rules.seen.items():
            case(what, count)

    async def outside_the_window(self) -> None:
        """Nothing was written where nothing may be."""
        base, limit = self.windows["aw"]
        now = np.frombuffer(bytes(self.outside.bytes), dtype=np.uint8)
        changed = np.flatnonzero(now != BEFORE)
        assert not len(changed) or base <= changed[0] <= changed[-1] < limit

    async def bad_run(self, cause: str) -> None:
        """A run that ends with an error, then a good one."""
        assert await self.end() == ERROR
        found = CAUSES[await self.get("cause")]
        assert found == cause, f"'{found}', not '{cause}'"
        await self.outside_the_window()
        seen = dict(self.rules.seen)
        for _ in range(100):
            await self.edge
        assert self.rules.seen == seen, "the bus speaks after the end"
        self.outside.faults = set()
        self.windows = {"ar": tuple(PLAN["read"]), "aw": tuple(PLAN["write"])}
        await self.good_run()


@cocotb.test()
@cocotb.parametrize(slowness=[0.0, 0.4, 0.8])
async def a_job_is_golden(dut: Any, slowness: float) -> None:
    job = Job(dut, 1)
    await job.begin(slowness)
    for _ in range(2):
        await job.good_run()


@cocotb.test()
async def a_read_error_ends_the_job(dut: Any) -> None:
    job = Job(dut, 2)
    await job.begin(0.3)
    places = job.rng.choice(PLAN["loaded"], PLAN["cases"])
    for place in places:
        await job.start()
        job.outside.faults = {int(place)}
        await job.bad_run("an error response to a read")
        case("read errors")


@cocotb.test()
async def a_write_error_ends_the_job(dut: Any) -> None:
    job = Job(dut, 3)
    await job.begin(0.3)
    for place in job.rng.choice(PLAN["stored"], PLAN["cases"]):
        await job.start()
        job.outside.faults = {int(place)}
        await job.bad_run("an error response to a write")
        case("write errors")


@cocotb.test()
@cocotb.parametrize(way=["ar", "aw"])
async def what_leaves_a_window_ends_the_job(dut: Any, way: str) -> None:
    """The window ends a line too early: that line is not touched."""
    job = Job(dut, 4)
    await job.begin(0.3)
    what = {"ar": ("loaded", "a read outside the read window"),
            "aw": ("stored", "a write outside the write window")}[way]  # fmt: skip
    for _ in range(PLAN["cases"]):
        base, _ = job.windows[way]
        last = max(PLAN[what[0]])
        job.windows = {**job.windows, way: (base, last)}
        await job.start()
        await job.bad_run(what[1])
        case(f"{way} windows")


@cocotb.test()
async def an_opcode_there_is_not_ends_the_job(dut: Any) -> None:
    job = Job(dut, 5)
    await job.begin(0.3)
    for code in range(len(OPS), 16, 4):
        at = int(job.rng.choice(PLAN["commands"]))
        # Of the lines the start loads, so that nothing else goes wrong before.
        kept = BEFORE[at]
        BEFORE[at] = kept & 0xF0 | code
        await job.start()
        BEFORE[at] = kept
        assert await job.end() == ERROR
        assert CAUSES[await job.get("cause")] == "an illegal command"
        await job.good_run()
        case("opcodes")


@cocotb.test()
async def after_a_reset_in_mid_job_a_job_is_clean(dut: Any) -> None:
    job = Job(dut, 6)
    await job.begin(0.3)
    for _ in range(PLAN["cases"]):
        await job.start()
        beats = int(job.rng.integers(1, PLAN["beats"]))
        kind = str(job.rng.choice(["r beats", "w beats"]))
        beats = min(beats, 4) if kind == "w beats" else beats
        while job.rules.seen.get(kind, 0) < beats:
            await job.edge
        await job.reset()
        assert await job.get("status") == 0 and await job.get("program") == 0
        await job.good_run()
        case("resets")
