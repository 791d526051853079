"""The Verilated engine against golden, by the C++ harness; its latency and its pace, measured."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import bench_campaign as campaign
import bench_streams as streams
import numpy as np
import pytest
from bench_batch import FORMATS, INDEX, LANE_COUNT, MODES, Batch
from bench_expected import expect
from opennpe.golden import catalog, formats, lanes, mac
from opennpe.golden.errors import DataError
from opennpe.rtl.replay import Replayer, TileCase

pytestmark = pytest.mark.rtl

SPECS = {spec.engine.fabric: spec for spec in (catalog.EDGE_4X4, catalog.ULX3S_4X4)}
RULES = ("minpos", "zero")


@pytest.fixture(scope="module", params=SPECS)
def engine(request: pytest.FixtureRequest) -> Replayer:
    return Replayer(SPECS[request.param])


def arrays(batch: Batch) -> tuple[Any, ...]:
    return tuple(getattr(batch, field.name) for field in fields(Batch))


def run(engine: Replayer, batch: Batch, underflow: str, seed: int | None = None) -> Any:
    by_name = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    return engine.run(**by_name, underflow=underflow, idle_seed=seed)


def differences(engine: Replayer, batch: Batch, underflow: str, seed: int | None) -> list[str]:
    """The first sums that differ from golden, in hex; codes of lanes not in use must be 0."""
    expected = expect(batch, underflow)
    codes = run(engine, batch, underflow, seed).codes
    wrong = expected.wrong(codes)
    found = []
    for s, lane in np.argwhere(wrong)[:5]:
        at = slice(batch.start[s], min(batch.start[s + 1], batch.start[s] + 4))
        mode, out = (FORMATS[i] for i in (batch.mode_a[s], batch.out[s]))
        words = [[f"{w:04x}" for w in side[at]] for side in (batch.words_a, batch.words_b)]
        found.append(
            f"sum {s} lane {lane} {mode} to {out}, {underflow}: expected "
            f"{expected.codes[s, lane]:04x}, got {codes[s, lane]:04x}; words {words}, bias "
            f"{[hex(half) for half in batch.bias[s]]}, shift {batch.shift[s, lane]}"
        )
    return found


@pytest.mark.parametrize("seed", [None, 7], ids=["streaming", "pauses"])
@pytest.mark.parametrize("underflow", RULES)
def test_campaign_is_golden(engine: Replayer, underflow: str, seed: int | None) -> None:
    sums = 0
    for name, batch in campaign.standard(np.random.default_rng(3)):
        found = differences(engine, batch, underflow, seed)
        assert not found, "\n".join([name, *found])
        sums += len(batch)
    assert sums > 85_000


@pytest.mark.parametrize(
    ("underflow", "seed", "count"), [("zero", None, 1_000_000), ("minpos", 5, 250_000)]
)
def test_posit16_pairs_are_golden(
    engine: Replayer, underflow: str, seed: int | None, count: int
) -> None:
    batch = campaign.posit16_pairs(np.random.default_rng(4), count)
    assert not differences(engine, batch, underflow, seed)


def test_a_wrong_code_is_seen(engine: Replayer) -> None:
    batch = streams.mixture(600, 4, np.random.default_rng(6))
    assert not differences(engine, batch, "zero", None)
    # The same operands, but signs flipped on their way to the engine.
    flipped = batch.words_a ^ np.uint16(0x8888)
    kept = expect(batch, "zero")
    changed = Batch(*(flipped if f.name == "words_a" else getattr(batch, f.name)
                      for f in fields(Batch)))  # fmt: skip
    codes = run(engine, changed, "zero").codes
    assert (kept.defined & (codes != kept.codes)).any()


def uniform(mode: tuple[str, str], count: int, length: int) -> Batch:
    """``count`` sums of ``length`` words each, of one mode."""
    rng = np.random.default_rng(length)
    width = 16 // formats.get(mode[0]).bits
    a, b = (streams.codes(name, (count * length, width), rng, 0.0) for name in mode)
    return streams.sums(mode, a, b, np.full(count, length), "posit16")


@pytest.mark.parametrize("mode", MODES, ids="-".join)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
def test_latency_and_pace_are_the_spec(
    engine: Replayer, mode: tuple[str, str], length: int
) -> None:
    count, width = 50, LANE_COUNT[INDEX[mode[0]]]
    done = run(engine, uniform(mode, count, length), "zero")
    assert set(done.offered - done.accepted) == {engine.spec.latency}
    step = max(length, width)
    assert set(np.diff(done.accepted)) == {step}
    assert done.cycles == (count - 1) * step + length + engine.spec.latency + width - 1


def test_modes_switch_without_a_gap(engine: Replayer) -> None:
    batch = streams.mixture(3_000, 6, np.random.default_rng(8))
    done = run(engine, batch, "minpos")
    length, width = np.diff(batch.start), batch.lanes
    # The last word of a sum waits for the lanes of the sum before, for nothing else.
    assert (np.diff(done.accepted) == np.maximum(length[1:], width[:-1])).all()
    assert set(done.offered - done.accepted) == {engine.spec.latency}


def test_replay_of_cases_in_order(engine: Replayer) -> None:
    rng = np.random.default_rng(9)
    cases, expected = [], []
    for number in range(60):
        mode = MODES[number % len(MODES)]
        width = lanes.lanes(mode[0])
        codes = [streams.codes(name, (5, width), rng, 0.0) for name in mode]
        words = [lanes.pack(n, c) for n, c in zip(mode, codes, strict=True)]
        units = rng.integers(-20, 20, width)
        shifts = tuple(int(x) for x in rng.integers(-6, 6, width))
        out, rule = FORMATS[number % 4], RULES[number // 7 % 2]
        field = 128 // width
        bias = sum((int(u) & ((1 << field) - 1)) << i * field for i, u in enumerate(units))
        cases.append(TileCase(*mode, *words, bias, shifts, out, rule))
        real = units * 2.0 ** mac.grid_exponent(*mode)
        expected.append(lanes.dot_words(*mode, *words, out, real, shifts, rule))
    for seed in (None, 2):
        got = engine.replay(cases, idle_seed=seed)
        assert [g.tolist() for g in got] == [e.tolist() for e in expected]
    assert engine.replay([]) == []


def test_bad_arrays_are_refused(engine: Replayer) -> None:
    batch = uniform(("posit8", "posit8"), 3, 2)
    good = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    bad = {
        "cover all words": {"start": np.array([0, 2, 2, 6])},
        "at least one sum": {
            "mode_a": np.zeros(0), "mode_b": np.zeros(0), "out": np.zeros(0),
            "start": np.zeros(1), "words_a": np.zeros(0), "words_b": np.zeros(0),
            "bias": np.zeros((0, 2)), "shift": np.zeros((0, 4)),
        },
        "different width": {"mode_b": np.full(3, INDEX["posit16"])},
        "below 4": {"out": np.full(3, 4)},
        "-512..511": {"shift": np.full((3, 4), 512)},
        "do not fit": {"bias": np.zeros((3, 1))},
    }  # fmt: skip
    for text, change in bad.items():
        with pytest.raises(DataError, match=text):
            engine.run(**{**good, **change}, underflow="zero")
    case = TileCase("fp4", "fp8_e4m3", *(np.zeros(1, np.uint16),) * 2, 0, (0,), "fp4")
    with pytest.raises(DataError, match="not fp8_e4m3"):
        engine.replay([case])
