"""Massive campaigns on the Verilated engine by the C++ harness; the cocotb bench's coverage."""

from __future__ import annotations

import time
from collections.abc import Iterator

import bench_campaign as campaign
import numpy as np
import pytest
from bench_batch import FORMATS, Batch
from bench_coverage import Coverage
from bench_driver import describe
from bench_expected import expect
from opennpe.golden.spec import EngineSpec
from opennpe.rtl.replay import Replayer

pytestmark = pytest.mark.rtl
RULES = ("minpos", "zero")
PIECE = 250_000


@pytest.fixture(scope="module")
def engine() -> Replayer:
    return Replayer(EngineSpec())


def check(
    engine: Replayer, name: str, batch: Batch, underflow: str, pauses: int | None, cover: Coverage
) -> int:
    """Replay a batch, compare all of it, count it; the cycles it took."""
    expected = expect(batch, underflow)
    b = batch
    arrays = (b.mode_a, b.mode_b, b.out, b.start, b.words_a, b.words_b, b.bias, b.shift)
    codes, cycles = engine.run_arrays(*arrays, underflow, pauses)
    wrong = expected.defined & (codes != expected.codes)
    if wrong.any():
        s, lane = (int(x) for x in np.argwhere(wrong)[0])
        pytest.fail(
            f"{name}, {underflow}: {wrong.sum()} codes differ; first, {describe(batch, s)}, lane "
            f"{lane}: expected {expected.codes[s, lane]:#06x}, got {codes[s, lane]:#06x}"
        )
    cover.add(batch, expected, underflow)
    return int(cycles)


def posit16(count: int, rng: np.random.Generator) -> Iterator[tuple[str, Batch]]:
    for _ in range(0, count, PIECE):
        yield "posit16 pairs", campaign.posit16_pairs(rng, min(PIECE, count))


def run(engine: Replayer, batches: str, pairs: int, seed: int) -> None:
    cover, cycles, begin = Coverage(), 0, time.monotonic()
    for rule, underflow in enumerate(RULES):
        rng = np.random.default_rng([seed, rule])
        pauses = None
        for name, batch in campaign.CAMPAIGNS[batches](rng):
            cycles += check(engine, name, batch, underflow, pauses, cover)
            pauses = None if pauses else int(rng.integers(1, 1 << 30))
        for name, batch in posit16(pairs // 2, rng):
            cycles += check(engine, name, batch, underflow, None, cover)
    print(cover.table())
    print(f"{cover.sums} sums in {cycles} cycles, {time.monotonic() - begin:.0f} s")
    assert cover.sums > pairs
    assert cover.underflows == set(RULES)
    assert cover.holes() == []


def test_full_campaign_and_posit16_pairs(engine: Replayer) -> None:
    run(engine, "full", 2_000_000, seed=31)


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [101, 102, 103])
def test_campaign_at_length(engine: Replayer, seed: int) -> None:
    run(engine, "full", 10_000_000, seed)


def test_a_wrong_code_is_noticed(engine: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker itself: one bit of one result turned must fail."""
    batch = campaign.posit16_pairs(np.random.default_rng(1), 1_000)
    whole = engine.run_arrays

    def turned(*arrays: object) -> tuple[np.ndarray, int]:
        codes, cycles = whole(*arrays)  # type: ignore[arg-type]
        codes[517, 0] ^= 1
        return codes, cycles

    monkeypatch.setattr(engine, "run_arrays", turned)
    with pytest.raises(pytest.fail.Exception, match="sum 517"):
        check(engine, "planted", batch, "zero", None, Coverage())


def test_results_are_for_every_format() -> None:
    outs = {int(o) for _, b in campaign.quick(np.random.default_rng(0)) for o in np.unique(b.out)}
    assert outs == set(range(len(FORMATS)))
