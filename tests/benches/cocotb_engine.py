"""cocotb tests of the engine: streams in, streams out, every result held against golden.

Run by ``test_cocotb.py``, which passes a plan in the file that OPENNPE_BENCH_PLAN names. The tests
run in the order written; the last one judges the coverage of all that ran before it.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import bench_campaign as campaign
import bench_streams as streams
import cocotb
import numpy as np
from bench_batch import MODES, Batch, concat
from bench_coverage import Coverage
from bench_driver import GAPS, Field, Harness, Layout, compare, packed
from bench_expected import expect
from cocotb.clock import Clock

PLAN: dict[str, Any] = json.loads(Path(os.environ["OPENNPE_BENCH_PLAN"]).read_text())
LAYOUT = Layout(
    {name: Field(*place) for name, place in PLAN["words"].items()},
    {name: Field(*place) for name, place in PLAN["results"].items()},
    *(PLAN[name] for name in ("words_width", "bias_width", "shift_width")),
)
RULES = ("minpos", "zero")
COVERAGE = Coverage()
COUNTS: dict[str, dict[str, int]] = {}


async def start(dut: Any, underflow: str) -> tuple[Harness, np.random.Generator]:
    rng = np.random.default_rng([PLAN["seed"], RULES.index(underflow)])
    dut.underflow_zero.value = int(underflow == "zero")
    dut.words__payload.value = 0
    Clock(dut.clk, 2, unit="ns").start()
    harness = Harness(dut, LAYOUT, rng)
    await harness.reset()
    return harness, rng


async def check(
    harness: Harness, name: str, batch: Batch, underflow: str, idle: str, stall: str
) -> None:
    """One batch driven, compared and counted."""
    expected = expect(batch, underflow)
    before = harness.cycles
    await harness.check(name, batch, expected, idle, stall)
    COVERAGE.add(batch, expected, underflow)
    count = COUNTS.setdefault(name.split(" (")[0], {"sums": 0, "words": 0, "cycles": 0})
    count["sums"] += len(batch)
    count["words"] += batch.words
    count["cycles"] += harness.cycles - before


@cocotb.test()
@cocotb.parametrize(idle=GAPS, stall=GAPS)
async def mixture_with_gaps(dut: Any, idle: str, stall: str) -> None:
    """Modes switch sum by sum while either side holds back in every pattern."""
    for underflow in RULES:
        harness, rng = await start(dut, underflow)
        batch = streams.mixture(PLAN["mixture"], 5, rng)
        await check(harness, "mixture (gaps)", batch, underflow, idle, stall)


@cocotb.test()
@cocotb.parametrize(underflow=RULES)
async def every_batch_of_the_campaign(dut: Any, underflow: str) -> None:
    """Corners, ties, NaR, cancellation, full accumulators; gaps drawn batch by batch."""
    harness, rng = await start(dut, underflow)
    for name, batch in campaign.CAMPAIGNS[PLAN["campaign"]](rng):
        idle, stall = rng.choice(GAPS[:3], 2, p=[0.6, 0.2, 0.2])
        await check(harness, name, batch, underflow, str(idle), str(stall))


@cocotb.test()
@cocotb.parametrize(underflow=RULES)
async def posit16_pairs(dut: Any, underflow: str) -> None:
    """Random and corner pairs of posit16, each a sum of its own."""
    harness, rng = await start(dut, underflow)
    left = PLAN["posit16_pairs"] // len(RULES)
    while left > 0:
        count = min(left, 100_000)
        left -= count
        batch = campaign.posit16_pairs(rng, count)
        await check(harness, "posit16 pairs", batch, underflow, "never", "never")


@cocotb.test()
@cocotb.parametrize(underflow=RULES)
async def every_mode_follows_every_mode(dut: Any, underflow: str) -> None:
    """Each ordered pair of modes back to back, NaR or a full accumulator in the first."""
    harness, rng = await start(dut, underflow)
    parts = []
    for first in MODES:
        for then in MODES:
            dirty = streams.random_sums(first, 6, 3, rng, nan=0.5, out="posit8")
            parts += [dirty, streams.random_sums(then, 6, 3, rng, nan=0.0)]
    await check(harness, "mode after mode", concat(parts), underflow, "never", "random")


@cocotb.test()
async def reset_in_mid_sum(dut: Any) -> None:
    """A reset forgets the sum and the results under way, whatever the moment."""
    harness, rng = await start(dut, "zero")
    for words in range(1, 14):
        lost = streams.random_sums(MODES[words % len(MODES)], 1, 1, rng, nan=0.3, out="posit16")
        long = streams.random_sums(
            MODES[(words + 1) % len(MODES)], 30, 4, rng, nan=0.3, out="posit8"
        )
        await harness.feed(packed(LAYOUT, concat([lost, long]), rng), words)
        await harness.reset()
        after = streams.mixture(60, 3, rng)
        await check(harness, "after reset", after, "zero", "never", "never")


@cocotb.test()
async def wrong_expectations_are_noticed(dut: Any) -> None:
    """The checker itself: one bit turned in one expected code of many must not pass."""
    harness, rng = await start(dut, "minpos")
    batch = streams.mixture(120, 3, rng)
    expected = expect(batch, "minpos")
    wanted = int(batch.lanes.sum())
    payloads = await harness.exchange(packed(LAYOUT, batch, rng), wanted)
    compare("planted", batch, expected, LAYOUT, payloads)
    sums, lanes = np.nonzero(expected.defined)
    pick = int(rng.integers(len(sums)))
    expected.codes[sums[pick], lanes[pick]] ^= 1
    for bad in (payloads, payloads[:-1], payloads[:0]):
        try:
            compare("planted", batch, expected, LAYOUT, bad)
        except AssertionError:
            continue
        raise AssertionError("a planted difference went unnoticed")


@cocotb.test()
async def coverage_is_complete(dut: Any) -> None:
    """Every reachable (mode x operand class x rounding case) was hit and compared."""
    out = Path(PLAN["out"])
    (out / "coverage.pickle").write_bytes(pickle.dumps(COVERAGE))
    (out / "counts.json").write_text(json.dumps(COUNTS, indent=1))
    (out / "coverage.txt").write_text(COVERAGE.table() + "\n")
    holes = COVERAGE.holes()
    assert COVERAGE.sums > 0, "no sum was driven"
    assert not holes, f"{len(holes)} coverage holes: {'; '.join(holes[:8])}"
