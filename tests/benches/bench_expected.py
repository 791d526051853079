"""What golden says about a batch, over arrays: exact sums, one rounding, and how it rounded.

The sums are kept in 32-bit limbs, the values handed to golden's array encoder are rounded to odd
on 53 bits, which no rounding boundary of 16 bits can tell from the exact sum.
``test_expected.py`` holds this against ``golden.lanes.dot_words``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from bench_batch import FORMATS, LANE_COUNT, LANES, Batch
from numpy.typing import NDArray
from opennpe.golden import codec, formats, mac

LIMBS = 5
MASK = np.int64(0xFFFFFFFF)
CASES = (
    "zero",
    "exact",
    "below tie",
    "tie, even below",
    "tie, even above",
    "above tie",
    "saturate",
    "to minpos",
    "to zero",
    "NaR",
)


@dataclass(frozen=True, eq=False)
class Expected:
    """Results of a batch; lanes beyond a sum's own are False in ``used``.

    Attributes:
        codes: uint16 (S, 4).
        used: bool (S, 4).
        defined: bool (S, 4), used and not NaR where the format has no code for it.
        case: uint8 (S, 4), index into CASES.
    """

    codes: NDArray[np.uint16]
    used: NDArray[np.bool_]
    defined: NDArray[np.bool_]
    case: NDArray[np.uint8]

    def wrong(self, codes: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Which of an engine's codes (S, 4) are not these; those of lanes not in use are 0."""
        differ = self.defined & (codes != self.codes)
        return np.where(self.used, differ, codes != 0)


@lru_cache(maxsize=8)
def _operands(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Signed odd-ish significand, left shift onto the format's grid, and NaR, for every code."""
    fmt = formats.get(name)
    significand = np.zeros(1 << fmt.bits, dtype=np.int64)
    shift = np.zeros(1 << fmt.bits, dtype=np.int64)
    nan = np.zeros(1 << fmt.bits, dtype=bool)
    for code in range(1 << fmt.bits):
        u = codec.unpack(fmt, code)
        if u.kind != "finite":
            nan[code] = True
        elif u.significand:
            odd = codec.odd_significand(u)
            significand[code] = -odd if u.sign else odd
            shift[code] = codec.lsb_exponent(u) - fmt.lsb_exponent
    return significand, shift, nan


def lane_codes(words: NDArray[np.uint16], name: str) -> NDArray[np.int64]:
    """Words (W,) to codes (W, lanes)."""
    bits = formats.get(name).bits
    lanes = 16 // bits
    return (words.astype(np.int64)[:, None] >> (np.arange(lanes) * bits)) & ((1 << bits) - 1)


def groups(batch: Batch) -> list[tuple[str, str, NDArray[np.int64], Batch]]:
    """The batch split by operand modes: (a, b, indices of its sums, those sums)."""
    keys = batch.mode_a.astype(np.int64) * LANES + batch.mode_b
    parts = []
    for key in np.unique(keys):
        index = np.flatnonzero(keys == key)
        a, b = divmod(int(key), LANES)
        parts.append((FORMATS[a], FORMATS[b], index, batch.take(index)))
    return parts


def totals(a: str, b: str, part: Batch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Limbs (S, lanes, 5), least first, the last one signed, and NaR flags (S, lanes)."""
    sig_a, shift_a, nan_a = _operands(a)
    sig_b, shift_b, nan_b = _operands(b)
    x, y = lane_codes(part.words_a, a), lane_codes(part.words_b, b)
    first = part.start[:-1]
    product, place = sig_a[x] * sig_b[y], shift_a[x] + shift_b[y]
    limb, low = place >> 5, product << (place & 31)
    limbs = _bias_limbs(part, x.shape[1])
    for i in range(LIMBS - 1):
        at = np.where(limb == i, low, 0)
        limbs[..., i] += np.add.reduceat(at & MASK, first, axis=0)
        limbs[..., i + 1] += np.add.reduceat(at >> 32, first, axis=0)
    _carry(limbs)
    nan = np.logical_or.reduceat(nan_a[x] | nan_b[y], first, axis=0)
    return limbs, nan


def _bias_limbs(part: Batch, lanes: int) -> NDArray[np.int64]:
    per_lane = LANES // lanes
    bits = part.bias.astype("<u8").view("<u4").astype(np.int64).reshape(-1, lanes, per_lane)
    limbs = np.zeros((len(part), lanes, LIMBS), dtype=np.int64)
    limbs[..., :per_lane] = bits
    negative = bits[..., -1] >> 31 == 1
    limbs[..., per_lane:LIMBS] = np.where(negative, MASK, 0)[..., None]
    limbs[..., LIMBS - 1] = np.where(negative, -1, 0)
    return limbs


def _carry(limbs: NDArray[np.int64]) -> None:
    for i in range(LIMBS - 1):
        limbs[..., i + 1] += limbs[..., i] >> 32
        limbs[..., i] &= MASK


def magnitude(limbs: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """|total| rounded to odd on at most 53 bits, as float64, and the sign."""
    negative = limbs[..., -1] < 0
    positive = np.where(negative[..., None], -limbs, limbs)
    _carry(positive)
    top = LIMBS - 1 - np.argmax(positive[..., ::-1] != 0, axis=-1)
    top = np.maximum(top, 1)

    def at(index: NDArray[np.int64]) -> NDArray[np.uint64]:
        return np.take_along_axis(positive, index[..., None], -1)[..., 0].astype(np.uint64)

    head = at(top) << np.uint64(32) | at(top - 1)
    below = np.arange(LIMBS) < (top - 1)[..., None]
    sticky = (np.where(below, positive, 0) != 0).any(axis=-1) | (head & np.uint64(2047) != 0)
    # Small totals are exact as they are; only long heads are cut, and jammed.
    small = (top == 1) & (head < np.uint64(2**53))
    jammed = (head >> np.uint64(11)) | sticky.astype(np.uint64)
    value = np.where(small, head.astype(np.float64), np.ldexp(jammed.astype(np.float64), 11))
    return np.ldexp(value, 32 * (top - 1)), negative


def check_range(a: str, limbs: NDArray[np.int64]) -> None:
    """Refuse stimuli whose sums leave the accumulator: golden says nothing about them."""
    width = 128 // LANE_COUNT[FORMATS.index(a)] // 32
    extension = np.where(limbs[..., width - 1] >> 31 == 1, MASK, 0)
    above = limbs[..., width : LIMBS - 1] == extension[..., None]
    last = limbs[..., -1] == np.where(extension != 0, -1, 0)
    if not (above.all() and last.all()):
        raise ValueError(f"a {a} sum leaves its accumulator: the stimulus is outside the contract")


def expect(batch: Batch, underflow: str) -> Expected:
    """Result codes and rounding cases of every lane of every sum."""
    shape = (len(batch), LANES)
    codes = np.zeros(shape, dtype=np.uint16)
    used, nan = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    case = np.zeros(shape, dtype=np.uint8)
    real = np.zeros(shape)
    for a, b, index, part in groups(batch):
        limbs, flags = totals(a, b, part)
        check_range(a, limbs)
        lanes = limbs.shape[1]
        size, negative = magnitude(limbs)
        scaled = np.ldexp(size, mac.grid_exponent(a, b) + part.shift[:, :lanes].astype(np.int64))
        used[index, :lanes] = True
        nan[index, :lanes] = flags
        real[index, :lanes] = np.where(negative, -scaled, scaled)
    real[nan] = 0.0
    for number, name in enumerate(FORMATS):
        at = batch.out == number
        fmt = formats.get(name)
        codes[at] = fmt.encode(real[at], underflow)
        if fmt.nan_code is not None:
            codes[at] = np.where(nan[at], fmt.nan_code, codes[at])
        case[at] = rounding_case(fmt, real[at], codes[at])
    case[nan] = CASES.index("NaR")
    has_nan = np.array([formats.get(n).nan_code is not None for n in FORMATS])
    return Expected(codes, used, used & ~(nan & ~has_nan[batch.out][:, None]), case)


@lru_cache(maxsize=8)
def _ladder(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finite magnitudes from zero up, and the rounding boundary above each but the last."""
    fmt = formats.get(name)
    magnitudes = np.unique(np.abs(fmt.values[np.isfinite(fmt.values)]))
    if fmt.kind != "posit":
        return magnitudes, (magnitudes[:-1] + magnitudes[1:]) / 2
    odd = range(1, 1 << fmt.bits, 2)
    between = [codec.posit_value(fmt.bits + 1, fmt.es, code) for code in odd]
    return magnitudes, np.array(between[: len(magnitudes) - 1])


def rounding_case(
    fmt: object, real: NDArray[np.float64], codes: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """How each real value became its code: an index into CASES (NaR aside)."""
    magnitudes, between = _ladder(fmt.name)  # type: ignore[attr-defined]
    x = np.abs(real)
    got = np.abs(np.nan_to_num(fmt.decode(codes)))  # type: ignore[attr-defined]
    floor = np.clip(np.searchsorted(magnitudes, x, side="right") - 1, 0, len(between) - 1)
    side = np.sign(x - between[floor])
    tie = np.where(got > x, 4, 3)
    names = np.where(side < 0, 2, np.where(side > 0, 5, tie))
    names = np.where(x < magnitudes[1], np.where(got == 0, 8, 7), names)
    names = np.where(x > magnitudes[-1], 6, names)
    names = np.where(got == x, 1, names)
    return np.where(x == 0, 0, names).astype(np.uint8)
