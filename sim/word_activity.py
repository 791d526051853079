"""Toggles of an engine's words, step by step: the events that energies are measured for.

What toggles is counted on the values themselves (codes, significands, exponents, products, sums),
as :mod:`opennpe.golden.codec` decodes them, not on any netlist's wires.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import codec, formats, mac
from opennpe.golden.errors import DataError
from opennpe.sim.jit import inlined, kernel
from opennpe.tech.coefficients import CLASSES

__all__ = ["Decoded", "Sums", "count", "decoded"]

Words = NDArray[np.uint16]
(WORD, ZERO_WORD, CHANGE, SUM, LANE, PORT_A, PORT_B, DECODE_A, DECODE_B, OPERAND, PARTIAL, PRODUCT,
 SHIFT, ADDEND, ADDED, TOTAL, CARRY, DRAINED, NEGATIVE, SIGN) = range(len(CLASSES))  # fmt: skip

BYTE = 0xFF
"""Bits of an exponent, the sign among them."""


class Decoded(NamedTuple):
    """A pair of formats as tables by code.

    Attributes:
        bits: of a code. lanes: of a word.
        sign_a, significand_a, exponent_a: int16 (codes,); ``significand * 2**exponent`` is the
            magnitude in units of the format's lowest bit, posits' hidden bits all at one place.
            The same for b.
        width: bits of a lane's sum.
    """

    bits: int
    lanes: int
    sign_a: NDArray[np.int16]
    significand_a: NDArray[np.int16]
    exponent_a: NDArray[np.int16]
    sign_b: NDArray[np.int16]
    significand_b: NDArray[np.int16]
    exponent_b: NDArray[np.int16]
    width: int


class Sums(NamedTuple):
    """Runs of sums, each run as one engine meets it.

    Attributes:
        words_a, words_b: uint16 (words,).
        first: int64 (sums + 1,), where each sum begins.
        run: int64 (runs + 1,), first sum of each run.
        bias: uint64 (sums, 4, 2), what each lane begins with, low half first.
        begins: uint8 (sums,), 0 for what is the rest of the sum before.
    """

    words_a: Words
    words_b: Words
    first: NDArray[np.int64]
    run: NDArray[np.int64]
    bias: NDArray[np.uint64]
    begins: NDArray[np.uint8]


@lru_cache(maxsize=16)
def decoded(a: str, b: str) -> Decoded:
    """Tables of two engine formats of equal width."""
    fa, fb = formats.get(a), formats.get(b)
    if fa.bits != fb.bits:
        raise DataError(f"{a} and {b} differ in width: widen the narrower before the engine")
    lanes = 16 // int(fa.bits)
    left, right = _table(fa), _table(fb)
    width = mac.GROUP_BITS // lanes
    return Decoded(
        int(fa.bits), lanes, left[0], left[1], left[2], right[0], right[1], right[2], width
    )


def _table(fmt: Any) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    count = 1 << int(fmt.bits)
    found = np.zeros((3, count), dtype=np.int64)
    top = int(fmt.significand_bits)
    for code in range(count):
        u = codec.unpack(fmt, code)
        if u.kind != "finite" or not u.significand:
            continue
        move = top - u.significand.bit_length() if fmt.kind == "posit" else 0
        found[:, code] = u.sign, u.significand << move, u.exponent - move - fmt.lsb_exponent
    # Narrow, so that the tables of 16-bit codes stay in a core's cache.
    return found[0].astype(np.int16), found[1].astype(np.int16), found[2].astype(np.int16)


@inlined
def _ones(value: Any) -> np.int64:
    """Bits set in a uint64."""
    x = np.uint64(value)
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def _top(low: Any, high: Any, width: int) -> np.int64:
    """The sign bit of a lane."""
    if width > 64:
        return np.int64(high >> np.uint64(width - 65))
    return np.int64((low >> np.uint64(width - 1)) & np.uint64(1))


@inlined
def _addend(product: int, shift: int, negative: int, mask_low: Any, mask_high: Any) -> Any:
    """Two halves of a product on the grid in two's complement, cut to a lane."""
    low, high = np.uint64(0), np.uint64(0)
    p = np.uint64(product)
    if shift < 0:
        low = p >> np.uint64(-shift)
    elif shift == 0:
        low = p
    elif shift < 64:
        low = p << np.uint64(shift)
        high = p >> np.uint64(64 - shift)
    else:
        high = p << np.uint64(shift - 64)
    if negative:
        low = ~low + np.uint64(1)
        high = ~high + np.uint64(1 if low == 0 else 0)
    return low & mask_low, high & mask_high


@kernel()
def _count(d: Decoded, s: Sums, joined: bool, out: NDArray[np.float64]) -> None:
    """Add the events of every run to its row of ``out`` (runs, classes)."""
    lanes, bits = d.lanes, np.uint64(d.bits)
    code_mask = np.uint64((1 << d.bits) - 1)
    ones = ~np.uint64(0)
    mask_low = ones if d.width >= 64 else np.uint64((1 << d.width) - 1)
    mask_high = ones if d.width > 64 else np.uint64(0)
    seen = np.zeros((4, 4), dtype=np.int64)
    held = np.zeros((4, 4), dtype=np.int64)
    product = np.zeros((2, 4), dtype=np.int64)
    addend = np.zeros((4, 2), dtype=np.uint64)
    added = np.zeros((4, 2), dtype=np.uint64)
    total = np.zeros((4, 2), dtype=np.uint64)
    carried = np.zeros((4, 2), dtype=np.uint64)
    left = np.zeros(2, dtype=np.uint64)
    old_a, old_b = np.uint64(0), np.uint64(0)
    warm, was_nothing = False, False
    scrap = np.zeros(out.shape[1])
    for r in range(len(s.run) - 1):
        # What the engine held before a run is not known, unless it is the run before.
        warm = warm and joined
        for k in range(s.run[r], s.run[r + 1]):
            if s.begins[k]:
                out[r, SUM] += 1
                out[r, LANE] += lanes
            for w in range(s.first[k], s.first[k + 1]):
                a, b = np.uint64(s.words_a[w]), np.uint64(s.words_b[w])
                begins = w == s.first[k] and s.begins[k] == 1
                nothing = a == 0 or b == 0
                out[r, ZERO_WORD if nothing else WORD] += 1
                row = out[r] if warm else scrap
                row[CHANGE] += nothing != was_nothing
                row[PORT_A] += _ones(a ^ old_a)
                row[PORT_B] += _ones(b ^ old_b)
                old_a, old_b, was_nothing = a, b, nothing
                warm = True
                for lane in range(lanes):
                    place = bits * np.uint64(lane)
                    ca = np.int64((a >> place) & code_mask)
                    cb = np.int64((b >> place) & code_mask)
                    sa, sb = np.int64(d.significand_a[ca]), np.int64(d.significand_b[cb])
                    ea, eb = np.int64(d.exponent_a[ca]), np.int64(d.exponent_b[cb])
                    row[DECODE_A] += _ones(sa ^ seen[0, lane]) + _ones((ea ^ seen[1, lane]) & BYTE)
                    row[DECODE_B] += _ones(sb ^ seen[2, lane]) + _ones((eb ^ seen[3, lane]) & BYTE)
                    seen[0, lane], seen[1, lane], seen[2, lane], seen[3, lane] = sa, ea, sb, eb
                    low, high = np.uint64(0), np.uint64(0)
                    if not nothing:
                        p, shift = sa * sb, ea + eb
                        negative = d.sign_a[ca] ^ d.sign_b[cb]
                        low, high = _addend(p, shift, negative, mask_low, mask_high)
                        ta, tb = _ones(sa ^ held[0, lane]), _ones(sb ^ held[2, lane])
                        row[OPERAND] += ta + tb
                        row[OPERAND] += _ones((ea ^ held[1, lane]) & BYTE) + _ones(
                            (eb ^ held[3, lane]) & BYTE
                        )
                        row[PARTIAL] += ta * _ones(sb) + tb * _ones(held[0, lane])
                        row[PRODUCT] += _ones(p ^ product[0, lane])
                        row[SHIFT] += _ones((shift ^ product[1, lane]) & BYTE)
                        row[ADDEND] += _ones(low ^ addend[lane, 0]) + _ones(high ^ addend[lane, 1])
                        held[0, lane], held[1, lane], held[2, lane], held[3, lane] = sa, ea, sb, eb
                        product[0, lane], product[1, lane] = p, shift
                        addend[lane, 0], addend[lane, 1] = low, high
                    row[ADDED] += _ones(low ^ added[lane, 0]) + _ones(high ^ added[lane, 1])
                    added[lane, 0], added[lane, 1] = low, high
                    base_low = s.bias[k, lane, 0] if begins else total[lane, 0]
                    base_high = s.bias[k, lane, 1] if begins else total[lane, 1]
                    new_low = base_low + low
                    over = np.uint64(1 if new_low < base_low else 0)
                    new_high = (base_high + high + over) & mask_high
                    new_low &= mask_low
                    row[TOTAL] += _ones(new_low ^ total[lane, 0]) + _ones(new_high ^ total[lane, 1])
                    row[SIGN] += _top(total[lane, 0] ^ new_low, total[lane, 1] ^ new_high, d.width)
                    carry_low = new_low ^ base_low ^ low
                    carry_high = (new_high ^ base_high ^ high) & mask_high
                    row[CARRY] += _ones(carry_low ^ carried[lane, 0])
                    row[CARRY] += _ones(carry_high ^ carried[lane, 1])
                    total[lane, 0], total[lane, 1] = new_low, new_high
                    carried[lane, 0], carried[lane, 1] = carry_low, carry_high
            if k + 1 < len(s.begins) and not s.begins[k + 1]:
                continue
            for lane in range(lanes):
                row = out[r] if lane or warm else scrap
                row[DRAINED] += _ones(total[lane, 0] ^ left[0]) + _ones(total[lane, 1] ^ left[1])
                row[NEGATIVE] += _top(total[lane, 0], total[lane, 1], d.width)
                left[0], left[1] = total[lane, 0], total[lane, 1]


def count(a: str, b: str, sums: Sums, joined: bool = False) -> NDArray[np.float64]:
    """Events of every run: float64 (runs, classes), the classes of ``tech.coefficients``.

    Args:
        joined: each run goes on where the one before ends. If not, a run begins with the toggles
            of its second word that works: what the engine held before is not known.

    Raises:
        DataError: runs, sums and words that do not fit each other.
    """
    runs, first = sums.run, sums.first
    fits = len(sums.words_a) == len(sums.words_b) and sums.bias.shape == (len(first) - 1, 4, 2)
    if not (fits and first[0] == run_start(runs) and first[-1] == len(sums.words_a)):
        raise DataError("words, sums and runs of an activity count do not fit each other")
    if runs[-1] != len(first) - 1 or (np.diff(first) < 1).any() or (np.diff(runs) < 0).any():
        raise DataError("words, sums and runs of an activity count do not fit each other")
    out = np.zeros((len(runs) - 1, len(CLASSES)))
    _count(decoded(a, b), sums, joined, out)
    return out


def run_start(runs: NDArray[np.int64]) -> int:
    """Index of the first sum: 0, or the runs are none."""
    return int(runs[0]) if len(runs) else -1
