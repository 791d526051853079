"""cocotb tests of the softmax unit: rows in, results out, running sums watched at the ports.

Run by ``test_cocotb_stream_softmax.py``, which passes a plan in the file that OPENNPE_BENCH_PLAN
names. Every result and every running sum is held against golden.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

sys.path.insert(0, str(Path(__file__).parents[1] / "rtl"))

from bench_driver import GAPS, gaps
from opennpe.golden.softmax import SoftmaxSpec
from stream_softmax_rows import (
    FIXED,
    FORMATS,
    Outcome,
    Rows,
    Settings,
    compare,
    random_rows,
    random_settings,
)

PLAN: dict[str, Any] = json.loads(Path(os.environ["OPENNPE_BENCH_PLAN"]).read_text())
SPEC = SoftmaxSpec(**PLAN["spec"])
COUNTS = {"rows": 0, "beats": 0, "cycles": 0}
HANG = 500


def beats(rows: Rows) -> list[tuple[int, bool]]:
    """Payload of every beat of both passes in order, and whether it belongs to pass 2."""
    lanes, found = SPEC.lanes, []
    for begin, end in zip(rows.start[:-1], rows.start[1:], strict=True):
        for second in (0, 1):
            for beat in range(begin, end):
                word = sum(int(code) << 16 * i for i, code in enumerate(rows.codes[beat]))
                kept = sum(int(keep) << i for i, keep in enumerate(rows.keep[beat]))
                flags = second | (int(beat == end - 1) << 1)
                found.append((word | kept << 16 * lanes | flags << 17 * lanes, bool(second)))
    return found


class Bench:
    """The unit's streams under a clock."""

    def __init__(self, dut: Any, rng: np.random.Generator) -> None:
        self.dut, self.rng, self.edge = dut, rng, RisingEdge(dut.clk)

    async def reset(self) -> None:
        """Nothing is offered or taken meanwhile."""
        self.dut.elements__valid.value = 0
        self.dut.results__ready.value = 0
        self.dut.rst.value = 1
        for _ in range(2):
            await self.edge
        self.dut.rst.value = 0
        await self.edge

    async def set(self, settings: Settings) -> None:
        """Settings, between rows."""
        names = ("format", "out", "out_shift", "underflow_zero", "multiplier")
        names += ("multiplier_exponent", "deferred", "fixed")
        for name, value in zip(names, settings.ports, strict=True):
            port = getattr(self.dut, name)
            port.value = value & ((1 << len(port)) - 1)

    async def run(self, rows: Rows, idle: str, stall: str) -> Outcome:
        """All beats offered, all results taken, each side with its gaps."""
        dut = self.dut
        source, sink = gaps(idle, self.rng), gaps(stall, self.rng)
        queue = beats(rows)
        codes, totals, exponents = [], [], []
        divisors, places = [], []
        at, offering, quiet, held = 0, False, 0, None
        for cycle in range(1_000_000):
            if (
                not offering
                and at < len(queue)
                and not (source is not None and source[cycle % len(source)])
            ):
                dut.elements__payload.value = queue[at][0]
                offering = True
            dut.elements__valid.value = int(offering)
            dut.results__ready.value = int(sink is None or not sink[cycle % len(sink)])
            await self.edge
            COUNTS["cycles"] += 1
            quiet += 1
            if offering and dut.elements__ready.value:
                at, offering, quiet = at + 1, False, 0
            if dut.updated.value:
                totals.append(int(dut.total.value))
                exponents.append(dut.exponent.value.to_signed())
            if dut.results__valid.value:
                payload = int(dut.results__payload.value)
                assert held in (None, payload), "a result changed while it waited"
                held = payload
                if dut.results__ready.value:
                    held, quiet = None, 0
                    codes.append([payload >> 16 * i & 0xFFFF for i in range(SPEC.lanes)])
                    if payload >> 16 * SPEC.lanes:
                        divisors.append(int(dut.divisor.value))
                        places.append(int(dut.places.value))
            else:
                assert held is None, "a result vanished while it waited"
            if len(codes) == len(rows.codes):
                break
            assert quiet < HANG, f"nothing moved for {HANG} cycles"
        none = np.zeros(0, dtype=np.int64)
        COUNTS["rows"] += len(rows.start) - 1
        COUNTS["beats"] += len(rows.codes)
        return Outcome(
            np.array(codes, dtype=np.uint16),
            np.array(totals, dtype=object),
            np.array(exponents),
            np.array(divisors),
            np.array(places),
            none,
            none,
        )


async def start(dut: Any, seed: int) -> Bench:
    Clock(dut.clk, 2, unit="ns").start()
    bench = Bench(dut, np.random.default_rng([PLAN["seed"], seed]))
    await bench.reset()
    return bench


@cocotb.test()
@cocotb.parametrize(idle=GAPS, stall=GAPS)
async def rows_with_gaps(dut: Any, idle: str, stall: str) -> None:
    """Settings change between rows while either side holds back in every pattern."""
    bench = await start(dut, 4 * GAPS.index(idle) + GAPS.index(stall))
    for _ in range(PLAN["settings"]):
        chosen = random_settings(SPEC, bench.rng, (*FORMATS, *FIXED))
        rows = random_rows(SPEC, chosen, PLAN["rows"], 20, bench.rng)
        await bench.set(chosen)
        compare(SPEC, [rows], await bench.run(rows, idle, stall))


@cocotb.test()
async def reset_in_mid_row(dut: Any) -> None:
    """A reset forgets the row under way, in either pass and while it turns."""
    bench = await start(dut, 99)
    chosen = random_settings(SPEC, bench.rng, FORMATS)
    await bench.set(chosen)
    for cycles in range(1, 40, 3):
        lost = random_rows(SPEC, chosen, 3, 12, bench.rng)
        dut.results__ready.value = int(cycles % 2)
        for payload, _ in beats(lost)[:cycles]:
            dut.elements__payload.value = payload
            dut.elements__valid.value = 1
            await bench.edge
        await bench.reset()
        rows = random_rows(SPEC, chosen, 4, 12, bench.rng)
        compare(SPEC, [rows], await bench.run(rows, "never", "random"))


@cocotb.test()
async def wrong_expectations_are_noticed(dut: Any) -> None:
    """The checker itself: one bit turned in a code, a sum or an exponent must not pass."""
    bench = await start(dut, 100)
    chosen = random_settings(SPEC, bench.rng, FORMATS)
    await bench.set(chosen)
    rows = random_rows(SPEC, chosen, 10, 12, bench.rng)
    got = await bench.run(rows, "random", "random")
    compare(SPEC, [rows], got)
    for name in ("codes", "totals", "exponents"):
        array = getattr(got, name)
        place = tuple(int(bench.rng.integers(n)) for n in array.shape)
        array[place] ^= 1
        try:
            compare(SPEC, [rows], got)
        except AssertionError:
            array[place] ^= 1
            continue
        raise AssertionError(f"a planted difference in {name} went unnoticed")


@cocotb.test()
async def something_ran(dut: Any) -> None:
    """A bench without rows fails; the counts are left for the log."""
    Path(PLAN["out"], "counts.json").write_text(json.dumps(COUNTS))
    assert COUNTS["rows"] >= PLAN["at_least"], COUNTS
