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
(WORD, ZERO_WORD, CHANGE, SUM, GAP, LANE, PORT_A, PORT_B, DECODE_A, DECODE_B, OPERAND, PARTIAL,
 PRODUCT, SHIFT, ADDEND, LATCHED, ADDED, BASE, TOTAL, CARRY, BIAS, DRAINED, HELD, WINDOW, FRACTION,
 PLACE, ROUNDED, EXPONENT, ONES) = range(len(CLASSES))  # fmt: skip

BYTE = 0xFF
"""Bits of an operand's exponent, the sign among them."""
EXPONENT_BITS = 0x1FF
"""Of a product's exponent, the sign among them."""
SCALE_BITS = 0x3FF
"""Of a result's exponent."""
SEGMENT = 16
"""Bits among which a sum's leading bit is looked for at once."""
FRACTION_BITS = int(formats.get("posit16").significand_bits)
"""Bits behind the leading one that any rounding looks at."""
ZERO_BELOW = {"posit8": 2, "posit16": 4}
"""How far below the smallest exponent that of zero is decoded to: its run is as long as a code."""


class Decoded(NamedTuple):
    """A pair of formats as tables by code.

    Attributes:
        bits: of a code. lanes: of a word.
        sign_a, significand_a, exponent_a: int16 (codes,); posits' hidden bits all lie at one place,
            and the exponents of wide ones are signed, as the decoder gives them. The same for b.
        offset: to add to both exponents: ``significands * 2**sum`` is the product on the grid.
        grid: exponent of the sum's lowest bit.
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
    offset: int
    grid: int
    width: int


class Sums(NamedTuple):
    """Runs of sums, each run as one engine meets it.

    Attributes:
        words_a, words_b: uint16 (words,).
        first: int64 (sums + 1,), where each sum begins.
        run: int64 (runs + 1,), first sum of each run.
        bias: uint64 (sums, 4, 2), what each lane begins with, low half first.
        begins: uint8 (sums,), 0 for what is the rest of the sum before.
        shift: int64 (sums, 4), a power of two for each lane's result.
    """

    words_a: Words
    words_b: Words
    first: NDArray[np.int64]
    run: NDArray[np.int64]
    bias: NDArray[np.uint64]
    begins: NDArray[np.uint8]
    shift: NDArray[np.int64]


@lru_cache(maxsize=16)
def decoded(a: str, b: str) -> Decoded:
    """Tables of two engine formats of equal width."""
    fa, fb = formats.get(a), formats.get(b)
    if fa.bits != fb.bits:
        raise DataError(f"{a} and {b} differ in width: widen the narrower before the engine")
    lanes = 16 // int(fa.bits)
    left, right = _table(fa), _table(fb)
    width = mac.GROUP_BITS // lanes
    grid = mac.grid_exponent(a, b)
    return Decoded(int(fa.bits), lanes, *left[:3], *right[:3], left[3] + right[3], grid, width)


def _table(
    fmt: Any,
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16], int]:
    """Signs, significands, exponents, and what brings an exponent to the format's lowest bit."""
    count = 1 << int(fmt.bits)
    found = np.zeros((3, count), dtype=np.int64)
    top = int(fmt.significand_bits)
    for code in range(count):
        found[0, code] = code >> (int(fmt.bits) - 1)
        u = codec.unpack(fmt, code)
        if u.kind != "finite" or not u.significand:
            continue
        move = top - u.significand.bit_length() if fmt.kind == "posit" else 0
        found[1:, code] = u.significand << move, u.exponent - move - fmt.lsb_exponent
    zero = found[1] == 0
    wide = fmt.name in ZERO_BELOW
    found[2][zero] = found[2][~zero].min() - ZERO_BELOW.get(fmt.name, 0)
    offset = -(int(fmt.lsb_exponent) + top - 1) if wide else 0
    found[2] -= offset
    # Narrow, so that the tables of 16-bit codes stay in a core's cache.
    return (*found.astype(np.int16), offset)


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
def _masks(width: int) -> Any:
    """Both halves of a lane's bits."""
    low = ~np.uint64(0) if width >= 64 else np.uint64((1 << width) - 1)
    return low, ~np.uint64(0) if width > 64 else np.uint64(0)


@inlined
def _placed(product: int, shift: int) -> Any:
    """Two halves of a product's magnitude on the grid."""
    p = np.uint64(product)
    low, high = np.uint64(0), np.uint64(0)
    if shift < 0:
        low = p >> np.uint64(-shift)
    elif shift == 0:
        low = p
    elif shift < 64:
        low = p << np.uint64(shift)
        high = p >> np.uint64(64 - shift)
    else:
        high = p << np.uint64(shift - 64)
    return low, high


@inlined
def _leading(low: Any, high: Any) -> np.int64:
    """Place of the highest bit set; 0 where none is."""
    place, x = np.int64(0), low
    if high != 0:
        place, x = np.int64(64), high
    for step in (32, 16, 8, 4, 2, 1):
        if x >> np.uint64(step):
            x >>= np.uint64(step)
            place += step
    return place


@inlined
def _from(low: Any, high: Any, place: int, bits: int) -> Any:
    """So many bits from a place up, which may lie below the lowest."""
    mask = np.uint64((1 << bits) - 1)
    if place < 0:
        return (low << np.uint64(-place)) & mask
    if place == 0:
        return low & mask
    if place < 64:
        return ((low >> np.uint64(place)) | (high << np.uint64(64 - place))) & mask
    return (high >> np.uint64(place - 64)) & mask


class _Left(NamedTuple):
    """What the normaliser and the rounding hold of the lanes that left.

    Attributes:
        sum: uint64 (2,), of the last lane. held: uint64 (4, 2), lanes that waited for it.
        rest: int64 (4,): window, fraction, place and exponent.
    """

    sum: NDArray[np.uint64]
    held: NDArray[np.uint64]
    rest: NDArray[np.int64]


@inlined
def _leaves(
    d: Decoded, left: _Left, lane: int, low: Any, high: Any, shift: int, follows: bool, row: Any
) -> None:
    """A lane's sum is normalised and leaves; nothing lies between it and the last if ``follows``.

    Else the normaliser sees zeros in between.
    """
    # Lanes lie in slots of their own, zeros around them: one goes, the other comes.
    before_low, before_high = left.sum[0], left.sum[1]
    if d.lanes == 1 and follows:
        row[DRAINED] += _ones(low ^ before_low) + _ones(high ^ before_high)
    else:
        row[DRAINED] += _ones(low) + _ones(high) + _ones(before_low) + _ones(before_high)
    left.sum[0], left.sum[1] = low, high
    if lane:
        row[HELD] += _ones(low ^ left.held[lane, 0]) + _ones(high ^ left.held[lane, 1])
        left.held[lane, 0], left.held[lane, 1] = low, high
    negative = _top(low, high, d.width)
    mask_low, mask_high = _masks(d.width)
    size_low, size_high = low, high
    if negative:
        size_low, size_high = ~low & mask_low, ~high & mask_high
    place = _leading(size_low, size_high)
    begin = place // SEGMENT * SEGMENT
    window = np.int64(_from(low, high, begin - FRACTION_BITS, SEGMENT + FRACTION_BITS))
    # The sign goes along as another bit.
    fraction = np.int64(_from(low, high, place - FRACTION_BITS, FRACTION_BITS)) << 1 | negative
    at = lane * d.width + place
    exponent = place + d.grid + shift
    if follows:
        row[WINDOW] += _ones(window ^ left.rest[0])
        row[FRACTION] += _ones(fraction ^ left.rest[1])
        row[PLACE] += _ones(at ^ left.rest[2])
    else:
        row[WINDOW] += _ones(window) + _ones(left.rest[0])
        row[FRACTION] += _ones(fraction) + _ones(left.rest[1])
        row[PLACE] += _ones(at) + _ones(left.rest[2])
    row[ROUNDED] += _ones(fraction ^ left.rest[1])
    row[EXPONENT] += _ones((exponent ^ left.rest[3]) & SCALE_BITS)
    row[ONES] += _ones(size_low) + _ones(size_high)
    left.rest[0], left.rest[1], left.rest[2], left.rest[3] = window, fraction, at, exponent


class _Adder(NamedTuple):
    """What the adder saw last, lane by lane: uint64 (4, 2) each.

    Attributes:
        added: the addend as it entered. base: what it was added to. carried: its carries.
        total: the sum.
    """

    added: NDArray[np.uint64]
    base: NDArray[np.uint64]
    carried: NDArray[np.uint64]
    total: NDArray[np.uint64]


@inlined
def _waits(add: _Adder, lanes: int, row: Any) -> None:
    """A sum's last word waits for the lanes before it: nothing is added meanwhile."""
    for lane in range(lanes):
        for half in range(2):
            total = add.total[lane, half]
            row[ADDED] += _ones(add.added[lane, half])
            row[CARRY] += _ones(add.carried[lane, half])
            row[BASE] += _ones(add.base[lane, half] ^ total)
            add.added[lane, half] = 0
            add.carried[lane, half] = 0
            add.base[lane, half] = total


@inlined
def _adds(d: Decoded, add: _Adder, lane: int, base: Any, addend: Any, sign: int, row: Any) -> None:
    """A word's addend joins a lane's sum: two halves each, inverted where negative."""
    mask_low, mask_high = _masks(d.width)
    low, high = base[0] + addend[0], base[1] + addend[1]
    if low < base[0]:
        high += np.uint64(1)
    if sign:
        low += np.uint64(1)
        if low == 0:
            high += np.uint64(1)
    low &= mask_low
    high &= mask_high
    for half, new in ((0, low), (1, high)):
        carry = new ^ base[half] ^ addend[half]
        row[ADDED] += _ones(addend[half] ^ add.added[lane, half])
        row[BASE] += _ones(base[half] ^ add.base[lane, half])
        row[TOTAL] += _ones(new ^ add.total[lane, half])
        row[CARRY] += _ones(carry ^ add.carried[lane, half])
        add.added[lane, half], add.base[lane, half] = addend[half], base[half]
        add.total[lane, half], add.carried[lane, half] = new, carry


@kernel()
def _count(d: Decoded, s: Sums, joined: bool, out: NDArray[np.float64]) -> None:
    """Add the events of every run to its row of ``out`` (runs, classes)."""
    lanes, bits = d.lanes, np.uint64(d.bits)
    code_mask = np.uint64((1 << d.bits) - 1)
    mask_low, mask_high = _masks(d.width)
    nothing_added = (np.uint64(0), np.uint64(0))
    seen = np.zeros((4, 4), dtype=np.int64)
    held = np.zeros((4, 4), dtype=np.int64)
    product = np.zeros((2, 4), dtype=np.int64)
    placed, aligned, latched, biased = np.zeros((4, 4, 2), dtype=np.uint64)
    adder = np.zeros((4, 4, 2), dtype=np.uint64)
    add = _Adder(adder[0], adder[1], adder[2], adder[3])
    left = _Left(np.zeros(2, np.uint64), np.zeros((4, 2), np.uint64), np.zeros(4, np.int64))
    old_a, old_b = np.uint64(0), np.uint64(0)
    warm, was_nothing = False, False
    length = 0
    scrap = np.zeros(out.shape[1])
    for r in range(len(s.run) - 1):
        # What the engine held before a run is not known, unless it is the run before.
        warm = warm and joined
        for k in range(s.run[r], s.run[r + 1]):
            if s.begins[k]:
                length = 0
                out[r, SUM] += 1
                out[r, LANE] += lanes
                row = out[r] if warm else scrap
                for lane in range(lanes):
                    for half in range(2):
                        row[BIAS] += _ones(s.bias[k, lane, half] ^ biased[lane, half])
                        biased[lane, half] = s.bias[k, lane, half]
            ends = k + 1 == len(s.begins) or s.begins[k + 1] == 1
            for w in range(s.first[k], s.first[k + 1]):
                a, b = np.uint64(s.words_a[w]), np.uint64(s.words_b[w])
                begins = w == s.first[k] and s.begins[k] == 1
                last = ends and w + 1 == s.first[k + 1]
                length += 1
                nothing = a == 0 or b == 0
                out[r, ZERO_WORD if nothing else WORD] += 1
                row = out[r] if warm else scrap
                if last and length < lanes:
                    out[r, GAP] += 1
                    _waits(add, lanes, row)
                row[CHANGE] += nothing != was_nothing
                row[PORT_A] += _ones(a ^ old_a)
                row[PORT_B] += _ones(b ^ old_b)
                old_a, old_b, was_nothing = a, b, nothing
                warm = True
                for lane in range(lanes):
                    at = bits * np.uint64(lane)
                    ca = np.int64((a >> at) & code_mask)
                    cb = np.int64((b >> at) & code_mask)
                    sa, sb = np.int64(d.significand_a[ca]), np.int64(d.significand_b[cb])
                    ea, eb = np.int64(d.exponent_a[ca]), np.int64(d.exponent_b[cb])
                    row[DECODE_A] += _ones(sa ^ seen[0, lane]) + _ones((ea ^ seen[1, lane]) & BYTE)
                    row[DECODE_B] += _ones(sb ^ seen[2, lane]) + _ones((eb ^ seen[3, lane]) & BYTE)
                    seen[0, lane], seen[1, lane], seen[2, lane], seen[3, lane] = sa, ea, sb, eb
                    sign = np.int64(0)
                    if not nothing:
                        sign = np.int64(d.sign_a[ca] ^ d.sign_b[cb])
                        p, shift = sa * sb, ea + eb
                        ta, tb = _ones(sa ^ held[0, lane]), _ones(sb ^ held[2, lane])
                        row[OPERAND] += ta + tb
                        row[OPERAND] += _ones((ea ^ held[1, lane]) & BYTE) + _ones(
                            (eb ^ held[3, lane]) & BYTE
                        )
                        row[PARTIAL] += ta * _ones(sb) + tb * _ones(held[0, lane])
                        row[PRODUCT] += _ones(p ^ product[0, lane])
                        row[SHIFT] += _ones((shift ^ product[1, lane]) & EXPONENT_BITS)
                        held[0, lane], held[1, lane], held[2, lane], held[3, lane] = sa, ea, sb, eb
                        product[0, lane], product[1, lane] = p, shift
                        low, high = np.uint64(0), np.uint64(0)
                        if p:
                            low, high = _placed(p, shift + d.offset)
                        placed[lane, 0], placed[lane, 1] = low, high
                    # The product stands still in words of zeros, its sign does not.
                    low, high = placed[lane, 0], placed[lane, 1]
                    if sign:
                        low, high = ~low & mask_low, ~high & mask_high
                    row[ADDEND] += _ones(low ^ aligned[lane, 0]) + _ones(high ^ aligned[lane, 1])
                    aligned[lane, 0], aligned[lane, 1] = low, high
                    addend = nothing_added
                    if not nothing:
                        row[LATCHED] += _ones(low ^ latched[lane, 0])
                        row[LATCHED] += _ones(high ^ latched[lane, 1])
                        latched[lane, 0], latched[lane, 1] = low, high
                        addend = (low, high)
                    base = (add.total[lane, 0], add.total[lane, 1])
                    if begins:
                        base = (s.bias[k, lane, 0], s.bias[k, lane, 1])
                    _adds(d, add, lane, base, addend, sign, row)
                if last:
                    for lane in range(lanes):
                        low, high = add.total[lane, 0], add.total[lane, 1]
                        follows = lane > 0 or length <= lanes
                        _leaves(d, left, lane, low, high, s.shift[k, lane], follows, row)


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
    fits = fits and sums.shift.shape == (len(first) - 1, 4)
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
