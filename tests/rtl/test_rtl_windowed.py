"""Units with a running window or as wide as is exact, against their golden model."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import bench_streams as streams
import numpy as np
import pytest
from amaranth.sim import Simulator
from bench_batch import INDEX, LANE_COUNT, Batch, concat
from bench_expected import lane_codes
from opennpe.golden import catalog, formats, running_window
from opennpe.golden.running_window import RunningWindow
from opennpe.rtl import verilog, window_lane, windowed
from opennpe.rtl.replay import Replayer
from opennpe.rtl.separate import Separate

pytestmark = pytest.mark.rtl

SPEC = catalog.EDGE_4X4
NAMES = SPEC.engine.mac.formats
SUMS, LONGEST, WORDS = 1_750, 12, 10_000


@lru_cache(maxsize=4)
def text_of(bits: int) -> str:
    units = windowed.units(SPEC.engine, bits)
    return verilog.convert(Separate(SPEC.engine, units), verilog.TOP)


def replayer(text: str, folder: Path) -> Replayer:
    path = folder / "windowed.v"
    path.write_text(text)
    return Replayer(SPEC, path)


@lru_cache(maxsize=16)
def batch(name: str, bits: int) -> tuple[Batch, tuple[tuple[int, ...], ...]]:
    """At least 10,000 words of one format, rounded to it; and the biases, a lane each."""
    rng = np.random.default_rng(INDEX[name])
    made = streams.random_sums((name, name), SUMS, LONGEST, rng, nan=0.002)
    window, lanes = RunningWindow(name, bits), LANE_COUNT[INDEX[name]]
    most = int(formats.get(name).max_fixed) ** 2
    biases = []
    for _ in range(SUMS):
        # Every magnitude that a product may have, and none.
        sizes = rng.integers(0, most.bit_length(), lanes)
        signs = rng.choice([-1, 0, 1], lanes)
        biases.append(
            tuple(
                int(sign) * min(most, (1 << int(size)) + int(rng.integers(1 << int(size) // 2)))
                for sign, size in zip(signs, sizes, strict=True)
            )
        )
    packed = [windowed.bias_word(window, list(lanes)) for lanes in biases]
    halves = [[word & (1 << 64) - 1, word >> 64] for word in packed]
    out = np.full(len(made), INDEX[name], dtype=made.out.dtype)
    return replace(made, out=out, bias=np.array(halves, dtype=np.uint64)), tuple(biases)


@lru_cache(maxsize=32)
def expected(name: str, bits: int, underflow: str) -> np.ndarray:
    """Golden's codes (S, lanes); -1 for NaR where the format has no code for it."""
    sums, biases = batch(name, bits)
    window, fmt = RunningWindow(name, bits), formats.get(name)
    a, b = lane_codes(sums.words_a, name), lane_codes(sums.words_b, name)
    codes = np.zeros((len(sums), a.shape[1]), dtype=np.int64)
    for s in range(len(sums)):
        span = slice(int(sums.start[s]), int(sums.start[s + 1]))
        for lane in range(a.shape[1]):
            codes[s, lane] = running_window.dot(
                window,
                a[span, lane].astype(fmt.dtype),
                b[span, lane].astype(fmt.dtype),
                biases[s][lane],
                int(sums.shift[s, lane]),
                underflow=underflow,
            )
    return codes


def codes(units: Replayer, sums: Batch, underflow: str, seed: int | None) -> np.ndarray:
    given = {field.name: getattr(sums, field.name) for field in fields(Batch)}
    return units.run(**given, underflow=underflow, idle_seed=seed).codes


def wrong(units: Replayer, name: str, bits: int, underflow: str, seed: int | None) -> int:
    """Codes that are not golden's."""
    sums, _ = batch(name, bits)
    assert len(sums.words_a) >= WORDS
    found = codes(units, sums, underflow, seed)
    want = expected(name, bits, underflow)
    return int((found[:, : want.shape[1]] != want).sum() + (found[:, want.shape[1] :] != 0).sum())


@pytest.mark.parametrize(
    "bits", [32, *(pytest.param(bits, marks=pytest.mark.regress) for bits in (48, 64, 128))]
)
def test_every_unit_is_golden_with_and_without_pauses(bits, tmp_path):
    units = replayer(text_of(bits), tmp_path)
    for name in NAMES:
        # A window that is exact for a format is the same unit as the exact one.
        if bits == 128 or not RunningWindow(name, bits).exact:
            assert not wrong(units, name, bits, "zero", None), name
            assert not wrong(units, name, bits, "minpos", 7), name


def test_changes_between_units_are_golden(tmp_path):
    units = replayer(text_of(32), tmp_path)
    each = [batch(name, 32)[0] for name in NAMES]
    order = np.random.default_rng(3).permutation(sum(map(len, each)))
    want = np.zeros((len(order), 4), dtype=np.int64)
    at = 0
    for name in NAMES:
        rows = expected(name, 32, "zero")
        want[at : at + len(rows), : rows.shape[1]] = rows
        at += len(rows)
    found = codes(units, concat(each).take(order), "zero", 5)
    assert (found == want[order]).all()


def test_a_total_that_does_not_follow_the_anchor_is_seen(tmp_path, monkeypatch):
    def stuck(m, name, value, amount, fill):
        return down(m, name, value, amount[:-3] if name.startswith("total") else amount, fill)

    down = window_lane.down
    monkeypatch.setattr(windowed, "down", stuck)
    text = verilog.convert(windowed.Unit(SPEC.engine, "posit16", 48), verilog.TOP)
    assert wrong(replayer(text, tmp_path), "posit16", 48, "zero", None)


def test_a_unit_of_one_lane_is_lane_0_of_a_unit_of_many():
    """What the other lanes' operands and biases are does not matter."""
    name, bits = "posit8", 32
    sums = batch(name, bits)[0].take(np.arange(150))
    unit = windowed.Unit(SPEC.engine, name, bits, lanes=1)
    found: list[int] = []

    async def words(ctx):
        for s in range(len(sums)):
            first, last = int(sums.start[s]), int(sums.start[s + 1]) - 1
            for k in range(first, last + 1):
                a, b = int(sums.words_a[k]), int(sums.words_b[k])
                ends = {"first": int(k == first), "last": int(k == last)}
                await stream_put(ctx, unit.words, {"a": a, "b": b, **ends})

    async def biases(ctx):
        for low, high in sums.bias:
            await stream_put(ctx, unit.biases, int(high) << 64 | int(low))

    async def shifts(ctx):
        for shift in sums.shift[:, 0]:
            await stream_put(ctx, unit.shifts, int(shift) & (1 << SPEC.engine.shift_bits) - 1)

    async def results(ctx):
        ctx.set(unit.underflow_zero, 1)
        while len(found) < len(sums):
            result = await stream_get(ctx, unit.results)
            assert result.last and not result.lane
            found.append(result.code)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    for bench in (words, biases, shifts):
        simulator.add_testbench(bench, background=True)
    simulator.add_testbench(results)
    simulator.run()
    assert found == list(expected(name, bits, "zero")[: len(sums), 0])


async def stream_put(ctx, stream, payload):
    ctx.set(stream.payload, payload)
    ctx.set(stream.valid, 1)
    await ctx.tick().until(stream.ready)
    ctx.set(stream.valid, 0)


async def stream_get(ctx, stream):
    ctx.set(stream.ready, 1)
    (payload,) = await ctx.tick().sample(stream.payload).until(stream.valid)
    ctx.set(stream.ready, 0)
    return payload
