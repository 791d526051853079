"""The vectorised expectation against golden's own scalar engine, and the generators' promises."""

from __future__ import annotations

import bench_streams as streams
import numpy as np
import pytest
from bench_batch import FORMATS, MODES, Batch, concat
from bench_coverage import Coverage
from bench_expected import expect
from opennpe.golden import codec, formats, mac

pytestmark = pytest.mark.fast


def scalar(batch: Batch, s: int, underflow: str) -> list[int | None]:
    """One sum by golden's exact scalar path."""
    a, b, out = (FORMATS[x[s]] for x in (batch.mode_a, batch.mode_b, batch.out))
    bits = formats.get(a).bits
    lanes, width = 16 // bits, 128 * bits // 16
    bias = int(batch.bias[s, 0]) | int(batch.bias[s, 1]) << 64
    codes: list[int | None] = []
    for lane in range(lanes):
        total = bias >> (lane * width) & ((1 << width) - 1)
        total -= (total >> (width - 1)) << width
        nan = False
        for w in range(batch.start[s], batch.start[s + 1]):
            pair = (
                int(words[w]) >> (lane * bits) & ((1 << bits) - 1)
                for words in (batch.words_a, batch.words_b)
            )
            product, bad = mac.multiply(a, b, *pair)
            total, nan = total + product, nan or bad
        fmt = formats.get(out)
        exponent = mac.grid_exponent(a, b) + int(batch.shift[s, lane])
        if nan:
            codes.append(fmt.nan_code)
        else:
            codes.append(codec.round_exact(fmt, total, exponent, underflow))
    return codes


def cases(rng: np.random.Generator) -> Batch:
    parts = [streams.random_sums(mode, 60, 9, rng, nan=0.02) for mode in MODES]
    parts += [streams.cancellation(mode, 20, rng) for mode in MODES]
    for mode in MODES:
        for out in FORMATS:
            edges = streams.rounding_edges(mode, out, rng)
            parts.append(edges.take(rng.choice(len(edges), 40, replace=False)))
    parts += [streams.to_the_edge(m, s, 50) for m in MODES[:5] for s in (1, -1)]
    return concat(parts)


@pytest.mark.parametrize("underflow", ["minpos", "zero"])
def test_expected_is_golden(underflow: str) -> None:
    batch = cases(np.random.default_rng(5))
    expected = expect(batch, underflow)
    for s in range(len(batch)):
        for lane, code in enumerate(scalar(batch, s, underflow)):
            if code is None:
                assert not expected.defined[s, lane]
            else:
                assert expected.defined[s, lane]
                assert expected.codes[s, lane] == code, f"sum {s} lane {lane}"


def test_every_pair_is_every_pair_in_every_lane() -> None:
    for mode in MODES[:5]:
        bits = formats.get(mode[0]).bits
        batch = streams.every_pair(mode, "posit16")
        for lane in range(16 // bits):
            pairs = [
                (w >> np.uint16(lane * bits)) & ((1 << bits) - 1)
                for w in (batch.words_a, batch.words_b)
            ]
            assert len(set(zip(*(p.tolist() for p in pairs), strict=True))) == 1 << (2 * bits)


def test_sums_beyond_the_accumulator_are_refused() -> None:
    batch = streams.to_the_edge(("posit4", "posit4"), 1, 32_767)
    expect(batch, "zero")
    over = concat([batch]).take(np.array([0]))
    over.bias[0, 0] = np.uint64(0x7FFF)
    expect(over, "zero")
    over.bias[0, 0] = np.uint64(0x10000)
    with pytest.raises(ValueError, match="leaves its accumulator"):
        expect(over, "zero")


def test_coverage_counts_and_names_holes() -> None:
    cover = Coverage()
    batch = streams.every_pair(("fp4", "fp4"), "fp4")
    cover.add(batch, expect(batch, "zero"), "zero")
    assert cover.sums == 256
    assert "fp4 / zero / zero" not in cover.holes()
    assert "posit16 / NaR / NaR" in cover.holes()
