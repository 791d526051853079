"""2**f on [0, 1) by straight lines: the tables of the streaming softmax, in integers.

``m = base[i] + ((slope[i] * j + half) >> shift)`` where i are the top bits of the fraction and j
the rest. Each line is the best of its interval (least maximum relative error) among those with
integer base and slope that keep the whole function monotone and inside [2**P, 2**(P+1) - 1];
2**0 is exact. No table depends on a platform's math library.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Exp2Table", "exp2_table", "powers"]

PRECISION = 160
"""Bits of the roots of two that the exact powers are multiplied from."""
REFERENCE_BITS = 62
"""Bits of an exact power in the tables' search: int64 holds it."""

Int = NDArray[np.int64]


class Exp2Table(NamedTuple):
    """Lines over 2**T intervals of the fraction.

    Attributes:
        base: int64 (2**T,), in units of 2**-P, with the hidden one.
        slope: int64 (2**T,), growth over a whole interval, same unit.
        shift: bits of a fraction below its interval's index, F - T.
        error: largest relative error over all 2**F fractions, rounded up.
    """

    base: Int
    slope: Int
    shift: int
    error: float

    @property
    def half(self) -> int:
        """Added before the shift: lines are rounded to nearest, halves up."""
        return (1 << self.shift) >> 1

    def __call__(self, fraction: Any) -> Any:
        """int64 mantissas in [2**P, 2**(P+1) - 1] of fractions in [0, 2**F), any shape."""
        index, rest = fraction >> self.shift, fraction & ((1 << self.shift) - 1)
        return self.base[index] + ((self.slope[index] * rest + self.half) >> self.shift)


@lru_cache(maxsize=16)
def powers(fraction_bits: int) -> tuple[int, ...]:
    """floor(2**(61 + j / 2**F)) for j in [0, 2**F]: exact references of 62 bits.

    The F-fold square root of two is exact to 2**-160; its powers lose at most 2**F of those units,
    so an entry could be wrong only if an irrational power lay within 2**-80 of an integer.
    """
    root = 2 << PRECISION
    for _ in range(fraction_bits):
        root = math.isqrt(root << PRECISION)
    found, power = [], 1 << PRECISION
    for _ in range(1 << fraction_bits):
        found.append(power >> (PRECISION + 1 - REFERENCE_BITS))
        power = power * root >> PRECISION
    return (*found, 1 << REFERENCE_BITS)


@lru_cache(maxsize=64)
def exp2_table(table_bits: int, mantissa_bits: int, fraction_bits: int) -> Exp2Table:
    """The lines for 2**T intervals, P mantissa bits and F fraction bits (F >= T)."""
    shift = fraction_bits - table_bits
    width, grain = 1 << shift, REFERENCE_BITS - 1 - mantissa_bits
    exact = powers(fraction_bits)
    bases, slopes, worst = [], [], 0.0
    floor, ceiling = 1 << mantissa_bits, (2 << mantissa_bits) - 1
    for begin in range(0, 1 << fraction_bits, width):
        part = np.array(exact[begin : begin + width], dtype=np.int64)
        rise = (exact[begin + width] - exact[begin]) >> grain
        base, slope, error = _best_line(
            part, rise, (table_bits, shift, grain), (floor, ceiling), begin == 0
        )
        bases.append(base)
        slopes.append(slope)
        worst = max(worst, error)
        floor = base + ((slope * (width - 1) + (width >> 1)) >> shift)
    tables = np.array(bases, dtype=np.int64), np.array(slopes, dtype=np.int64)
    for table in tables:
        table.setflags(write=False)
    return Exp2Table(*tables, shift, worst + 2.0**-50)  # float64 of 62 bits


def _best_line(
    part: Int, rise: int, bits: tuple[int, int, int], limits: tuple[int, int], exact_start: bool
) -> tuple[int, int, float]:
    """Base, slope and relative error of the best line between ``limits``."""
    (intervals_log2, shift, grain), (floor, ceiling) = bits, limits
    rest = np.arange(len(part), dtype=np.int64)
    half = (1 << shift) >> 1
    # A chord lies above the curve by rise * ln(2) / 8 a fraction of the interval's width: a slope
    # lower by less than that, and a few units for rounding, is the best.
    spread = 3 + (rise >> intervals_log2 + 3)
    best: tuple[float, int, int] | None = None
    for slope in range(max(0, rise - spread), rise + 3) if shift else (0,):
        line = (slope * rest + half) >> shift
        gap = (part - (line << grain)).astype(np.float64) / (1 << grain)
        centre = math.floor((gap.max() + gap.min()) / 2)
        top = ceiling - int(line[-1])
        options = (floor,) if exact_start else range(centre - 1, centre + 3)
        for option in options:
            base = min(max(option, floor), top)
            if base < floor:
                continue
            error = float((np.abs(gap - base) * (1 << grain) / part).max())
            if best is None or (error, slope, base) < best:
                best = error, slope, base
    assert best is not None  # slope 0 with base at the floor is always allowed
    return best[2], best[1], best[0]
