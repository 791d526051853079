"""Stimulus generators: each returns a batch with a name that says what it is for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from bench_batch import FORMATS, INDEX, LANE_COUNT, LANES, MODES, Batch, concat, pack_lanes
from bench_batch import pack_bias as pack
from numpy.typing import NDArray
from opennpe.golden import formats, mac

Rng = np.random.Generator
MAX_SHIFT = 511
"""Largest shift the engine takes either way: 10 signed bits (EngineSpec.shift_bits)."""


def sums(
    mode: tuple[str, str],
    codes_a: NDArray[np.int64],
    codes_b: NDArray[np.int64],
    lengths: NDArray[np.int64],
    out: NDArray[np.int64] | str,
    bias: NDArray[np.int64] | None = None,
    shift: NDArray[np.int64] | None = None,
) -> Batch:
    """Codes (W, lanes) of one mode, cut into sums of the given lengths."""
    bits = formats.get(mode[0]).bits
    lanes, count = 16 // bits, len(lengths)
    shifts = np.zeros((count, LANES), dtype=np.int16)
    if shift is not None:
        shifts[:, :lanes] = shift[:, :lanes]
    preload = np.zeros((count, 2), dtype=np.uint64) if bias is None else pack(bias, lanes)
    results = INDEX[out] if isinstance(out, str) else out
    return Batch(
        np.full(count, INDEX[mode[0]], dtype=np.uint8),
        np.full(count, INDEX[mode[1]], dtype=np.uint8),
        np.broadcast_to(np.asarray(results, dtype=np.uint8), (count,)),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pack_lanes(codes_a, bits),
        pack_lanes(codes_b, bits),
        preload,
        shifts,
    )


def every_pair(mode: tuple[str, str], out: str) -> Batch:
    """Every operand pair as a sum of one product, in every lane."""
    bits = formats.get(mode[0]).bits
    lanes, pairs = 16 // bits, 1 << (2 * bits)
    # Lane l runs a quarter turn ahead per lane, so that neighbours differ.
    index = (np.arange(pairs)[:, None] + np.arange(lanes) * (pairs // lanes + 1)) % pairs
    return sums(mode, index >> bits, index & ((1 << bits) - 1), np.ones(pairs, np.int64), out)


@lru_cache(maxsize=8)
def corners(name: str) -> NDArray[np.int64]:
    """Codes worth meeting often: the ends, the middle, both sides of regime changes, NaR."""
    fmt = formats.get(name)
    if fmt.bits == 4:
        return np.arange(16)
    half, picks = 1 << (fmt.bits - 1), {0, 1, 2, 3}
    for bit in range(fmt.bits - 1):
        picks |= {1 << bit, (1 << bit) - 1, (1 << bit) + 1, half - (1 << bit), half - 1}
    picks |= {0x5555 & (half - 1), 0x2AAA & (half - 1), half - 2}
    positive = np.array(sorted(c for c in picks if c < half))
    return np.unique(np.concatenate([positive, -positive & (2 * half - 1), [half]]))


def codes(name: str, shape: tuple[int, ...], rng: Rng, nan: float = 0.01) -> NDArray[np.int64]:
    """Random codes, a third of them corners and landmarks; NaR with probability ``nan``."""
    fmt = formats.get(name)
    anything = rng.integers(0, 1 << fmt.bits, shape)
    special = rng.choice(corners(name), shape)
    special = np.where(rng.random(shape) < 1 / 4, rng.choice(_landmarks(name), shape), special)
    picked = np.where(rng.random(shape) < 1 / 3, special, anything)
    if fmt.nan_code is None:
        return picked
    picked = np.where(picked == fmt.nan_code, 0, picked)
    return np.where(rng.random(shape) < nan, fmt.nan_code, picked)


def random_sums(
    mode: tuple[str, str],
    count: int,
    longest: int,
    rng: Rng,
    nan: float = 0.01,
    out: str | None = None,
) -> Batch:
    """Sums of 1 to ``longest`` terms with random bias, shift and result format."""
    lanes = 16 // formats.get(mode[0]).bits
    lengths = rng.integers(1, longest + 1, count)
    words = int(lengths.sum())
    a, b = (codes(name, (words, lanes), rng, nan) for name in mode)
    results = rng.integers(0, len(FORMATS), count) if out is None else INDEX[out]
    batch = sums(mode, a, b, lengths, results, biases(mode, count, rng), shifts(mode, count, rng))
    return _tall_biases(batch, rng) if lanes == 1 else batch


def _tall_biases(batch: Batch, rng: Rng) -> Batch:
    """A quarter of the sums get a preload of up to 124 bits, beyond what an int64 holds."""
    tall = np.flatnonzero(rng.random(len(batch)) < 0.25)
    high = rng.integers(-(1 << 63), (1 << 63) - 1, len(tall)) >> rng.integers(4, 64, len(tall))
    batch.bias[tall, 0] = rng.integers(0, 1 << 64, len(tall), dtype=np.uint64)
    batch.bias[tall, 1] = high.astype(np.uint64)
    return batch


def biases(mode: tuple[str, str], count: int, rng: Rng) -> NDArray[np.int64]:
    """Preloads (S, lanes): half zero, the others of every magnitude up to a quarter of full."""
    lanes = LANE_COUNT[INDEX[mode[0]]]
    width = min(128 // lanes, 63) - 3
    size = rng.integers(0, width, (count, lanes))
    value = rng.integers(-(1 << 62), 1 << 62, (count, lanes)) >> (62 - size)
    return np.where(rng.random((count, lanes)) < 0.5, 0, value)


def shifts(mode: tuple[str, str], count: int, rng: Rng) -> NDArray[np.int64]:
    """Shifts (S, 4): mostly those that bring sums into range, some anywhere, some extreme."""
    reach = -mac.grid_exponent(*mode) + 8
    near = rng.integers(-reach, reach // 2 + 2, (count, LANES))
    anywhere = rng.integers(-MAX_SHIFT - 1, MAX_SHIFT + 1, (count, LANES))
    extreme = rng.choice([-MAX_SHIFT - 1, -MAX_SHIFT, MAX_SHIFT], (count, LANES))
    kind = rng.random((count, LANES))
    plain = np.where(kind < 0.3, 0, near)
    return np.where(kind > 0.98, extreme, np.where(kind > 0.93, anywhere, plain))


def rounding_edges(mode: tuple[str, str], out: str, rng: Rng) -> Batch:
    """Sums that sit on, just below and just above every result value and boundary.

    The bias alone places the sum (one product of zero), the shift brings the result format's
    grid onto the accumulator's, so that every boundary is met exactly in every lane.
    """
    lanes = 16 // formats.get(mode[0]).bits
    target, places = _edges(out, 62 if lanes < 4 else 30)
    around = target[:, None] * np.array([1, -1]) + 0
    value = np.concatenate([around - 1, around, around + 1]).reshape(-1)
    place = np.tile(np.repeat(places, 2), 3)
    if len(value) > 60_000:
        keep = rng.choice(len(value), 60_000, replace=False)
        value, place = value[keep], place[keep]
    turn = np.stack([np.roll(np.arange(len(value)), 7 * lane) for lane in range(lanes)], axis=1)
    zero = np.zeros((len(value), lanes), dtype=np.int64)
    shift = (place - mac.grid_exponent(*mode))[turn]
    landmarks = rng.choice(_landmarks(mode[1]), zero.shape)
    anything = codes(mode[1], zero.shape, rng, nan=0.0)
    other = np.where(rng.random(zero.shape) < 0.5, landmarks, anything)
    return sums(mode, zero, other, np.ones(len(value), np.int64), out, value[turn], shift)


def _edges(out: str, bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Result values and boundaries as integers with two spare low bits, and their exponents."""
    from bench_expected import _ladder

    magnitudes, between = _ladder(out)
    points = np.concatenate([magnitudes, between, [magnitudes[1] / 2, magnitudes[-1] * 2]])
    mantissa, exponent = np.frexp(points)
    spare = min(bits, 30) - 4
    return np.ldexp(mantissa, spare).astype(np.int64), exponent.astype(np.int64) - spare


def _landmarks(name: str) -> NDArray[np.int64]:
    """Codes of zero and of plus and minus one, minpos and maxpos."""
    fmt = formats.get(name)
    return np.flatnonzero(np.isin(np.abs(fmt.values), [0.0, 1.0, fmt.minpos, fmt.maxpos]))


def far_sticky(name: str, count: int, rng: Rng) -> Batch:
    """Exact ties of a posit's own rounding, and the same one accumulator unit off.

    value x 1, half a step x 1 and minpos x (minpos, 0 or -minpos): only the lowest bit of the
    accumulator, up to 100 places below, tells the three apart.
    """
    from bench_expected import _ladder

    fmt = formats.get(name)
    magnitudes, between = _ladder(name)
    half = between - magnitudes[:-1]
    usable = np.flatnonzero(np.isin(half, fmt.values) & (magnitudes[:-1] > 0))
    lanes = 16 // fmt.bits
    pick = rng.choice(usable, (count, lanes))
    sign = rng.choice([-1.0, 1.0], pick.shape)
    a = fmt.encode(
        np.stack(
            [sign * magnitudes[pick], sign * half[pick], np.full(pick.shape, fmt.minpos)], axis=1
        )
    )
    one = np.ones(pick.shape)
    off = rng.choice([-1.0, 0.0, 1.0], pick.shape) * fmt.minpos
    b = fmt.encode(np.stack([one, one, off], axis=1))
    flat = (-1, lanes)
    lengths = np.full(count, 3)
    return sums(
        (name, name),
        a.astype(np.int64).reshape(flat),
        b.astype(np.int64).reshape(flat),
        lengths,
        name,
    )


def to_the_edge(mode: tuple[str, str], sign: int, terms: int, out: str = "posit16") -> Batch:
    """``terms`` products of maxpos x maxpos that end on the last sum the accumulator may hold.

    A bias takes the part that would need more terms than asked for; lanes alternate in sign.
    """
    lanes = 16 // formats.get(mode[0]).bits
    largest = [int(np.nanargmax(formats.get(name).values)) for name in mode]
    fmt = formats.get(mode[0])
    negative = [int(np.nanargmin(np.where(np.isnan(fmt.values), np.inf, fmt.values)))]
    signs = sign * np.where(np.arange(lanes) % 2 == 0, 1, -1)
    a = np.where(signs > 0, largest[0], negative[0])[None].repeat(terms, 0)
    b = np.full((terms, lanes), largest[1])
    limit = mac.max_terms(*mode)
    rest = (limit - terms) * mac.max_product(*mode) if terms < limit else 0
    if rest and lanes == 1:
        raise ValueError("posit16 reaches the edge by its terms alone")
    bias = np.array(signs * rest, dtype=np.int64)[None]
    # The largest sum lands inside the result format's range, where a lost carry shows.
    top = (limit * mac.max_product(*mode)).bit_length() + mac.grid_exponent(*mode)
    shift = np.full((1, LANES), -top)
    return sums(mode, a, b, np.array([terms]), out, bias, shift)


def cancellation(mode: tuple[str, str], count: int, rng: Rng) -> Batch:
    """Products and their negatives in random order around one rest, or none: exactness shows."""
    lanes = 16 // formats.get(mode[0]).bits
    half = rng.integers(1, 17, count)
    lengths = 2 * half + 1
    total = int(lengths.sum())
    a, b = (codes(name, (total, lanes), rng, 0.0) for name in mode)
    begin = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    for first, pairs in zip(begin.tolist(), half.tolist(), strict=True):
        mirrored = slice(first + pairs, first + 2 * pairs)
        a[mirrored] = _negate(mode[0], a[first : first + pairs])
        b[mirrored] = b[first : first + pairs]
        if pairs % 2:
            a[first + 2 * pairs] = 0
        order = first + rng.permutation(2 * pairs + 1)
        a[first : first + 2 * pairs + 1] = a[order]
        b[first : first + 2 * pairs + 1] = b[order]
    results = rng.integers(0, len(FORMATS), count)
    return sums(mode, a, b, lengths, results, None, shifts(mode, count, rng))


def _negate(name: str, code: NDArray[np.int64]) -> NDArray[np.int64]:
    fmt = formats.get(name)
    if fmt.kind == "posit":
        return np.asarray(-code & ((1 << fmt.bits) - 1))
    return np.asarray(code ^ (1 << (fmt.bits - 1)))


def nan_storm(mode: tuple[str, str], count: int, rng: Rng) -> Batch:
    """Short sums where NaR comes first, last, in one lane only, and clean sums right behind."""
    results = [n for n in FORMATS if formats.get(n).nan_code is not None]
    part = random_sums(mode, count, 4, rng, nan=0.2, out=results[int(rng.integers(3))])
    clean = random_sums(mode, count, 4, rng, nan=0.0)
    order = np.arange(2 * count).reshape(2, count).T.reshape(-1)
    return concat([part, clean]).take(order)


def mixture(count: int, longest: int, rng: Rng) -> Batch:
    """Every mode, interleaved sum by sum: modes switch in mid-stream."""
    share = max(count // len(MODES), 1)
    return concat([random_sums(mode, share, longest, rng) for mode in MODES]).shuffled(rng)
