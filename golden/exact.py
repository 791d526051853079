"""Exact sums of products of whole arrays of codes: what :mod:`opennpe.golden.mac` does, in bulk.

Fixed-point operands of up to 8 bits are multiplied as they are; those of 16 bits in limbs, so that
every partial sum is an integer that float64 and int64 hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden.errors import FormatError

__all__ = ["Operand", "clamped", "elementwise", "grid", "joined", "matmul", "maximum", "plus",
           "rounded"]  # fmt: skip

LIMB_BITS = 19
"""Products of two limbs and sums of 2**15 of them stay below 2**53."""
FLOAT_BITS = 53
Ints = NDArray[Any]


@dataclass(frozen=True)
class Operand:
    """Codes of one format, any shape."""

    format: str
    codes: Ints

    def at(self, index: Any) -> Operand:
        """Part of the codes."""
        return Operand(self.format, self.codes[index])

    @property
    def nan(self) -> Ints:
        """Which codes are NaR."""
        return np.asarray(formats.get(self.format).is_nan(self.codes))

    @property
    def limbs(self) -> list[Ints]:
        """Fixed-point values, low limb first, as int64."""
        fixed = _fixed(self.format)[self.codes]
        if formats.get(self.format).bits <= 8:
            return [fixed]
        mask = (1 << LIMB_BITS) - 1
        return [fixed & mask, fixed >> LIMB_BITS & mask, fixed >> 2 * LIMB_BITS]


@lru_cache(maxsize=16)
def _fixed(name: str) -> Ints:
    fmt = formats.get(name)
    return np.asarray(fmt.fixed(np.arange(1 << fmt.bits)), dtype=np.int64)


def grid(a: str, b: str) -> int:
    """Exponent of the unit of the sums."""
    return mac.grid_exponent(a, b)


def _total(parts: dict[int, Ints]) -> Ints:
    """Limb sums by limb number to Python integers."""
    if set(parts) == {0}:
        return parts[0].astype(np.int64)
    return np.asarray(
        sum(part.astype(np.int64).astype(object) << LIMB_BITS * i for i, part in parts.items())
    )


def matmul(a: Operand, b: Operand) -> tuple[Ints, Ints]:
    """(M, K) by (K, columns, lanes): sums and NaR flags (M, columns, lanes)."""
    shape = (a.codes.shape[0], *b.codes.shape[1:])
    flat = b.at(np.s_[:]).codes.reshape(b.codes.shape[0], -1)
    right = Operand(b.format, flat)
    parts: dict[int, Ints] = {}
    for i, x in enumerate(a.limbs):
        for j, y in enumerate(right.limbs):
            # Integers of float64 below 2**53: exact in any order.
            product = x.astype(np.float64) @ y.astype(np.float64)
            parts[i + j] = parts.get(i + j, 0) + product.astype(np.int64)
    rows, columns = np.any(a.nan, axis=1, keepdims=True), np.any(right.nan, axis=0, keepdims=True)
    nan = rows | columns
    return _total(parts).reshape(shape), nan.reshape(shape)


def elementwise(taps: Sequence[Operand], weights: Operand) -> tuple[Ints, Ints]:
    """Sum over steps of (M, columns, lanes) by a step's (columns, lanes); likewise flags."""
    parts: dict[int, Ints] = {}
    nan = np.zeros(taps[0].codes.shape, dtype=bool)
    for step, tap in enumerate(taps):
        own = weights.at(step)
        nan |= tap.nan | own.nan
        for i, x in enumerate(tap.limbs):
            for j, y in enumerate(own.limbs):
                parts[i + j] = parts.get(i + j, 0) + x * y
    return _total(parts), nan


def maximum(name: str, taps: Sequence[tuple[Ints, Ints]]) -> Ints:
    """The largest of codes that lie inside, by the format's order; the lowest where none does."""
    fmt = formats.get(name)
    lowest = int(np.argmin(fmt.order_key(np.arange(1 << fmt.bits))))
    best = np.full(taps[0][0].shape, lowest, dtype=fmt.dtype)
    found = np.full(best.shape, -(1 << 24), dtype=np.int64)
    for codes, inside in taps:
        keys = np.where(inside, fmt.order_key(codes).astype(np.int64), -(1 << 24))
        best, found = np.where(keys > found, codes, best), np.maximum(keys, found)
    return best


def plus(a: Ints, b: Ints) -> Ints:
    """Sums of integers that may need more than 64 bits."""
    if a.dtype == object or b.dtype == object:
        return np.asarray(a.astype(object) + b.astype(object))
    return np.asarray(a + b)


def joined(parts: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Column groups (M, columns, lanes) side by side."""
    sums, nan = zip(*parts, strict=True)
    if any(s.dtype == object for s in sums):
        sums = tuple(s.astype(object) for s in sums)
    return np.concatenate(sums, axis=1), np.concatenate(nan, axis=1)


def _odd(value: int) -> float:
    """An integer as a float64, its lowest bit set if bits were cut: rounding it tells no lie."""
    cut = value.bit_length() - FLOAT_BITS
    if cut <= 0:
        return float(value)
    magnitude = abs(value)
    kept = magnitude >> cut | bool(magnitude & ((1 << cut) - 1))
    return float(kept << cut if value > 0 else -kept << cut)


def rounded(name: str, sums: Ints, nan: Ints, exponent: Ints, underflow: formats.Underflow) -> Ints:
    """``sums * 2**exponent`` to codes, one rounding; NaR where flagged.

    Raises:
        FormatError: a sum is NaR and the format has no code for it.
    """
    fmt = formats.get(name)
    if nan.any() and fmt.nan_code is None:
        raise FormatError(f"a sum is NaR and {name} has no code for it")
    if sums.dtype != object and (not sums.size or np.abs(sums).max() < 1 << FLOAT_BITS):
        values = sums.astype(np.float64)
    else:
        values = np.array([_odd(int(v)) for v in sums.reshape(-1)]).reshape(sums.shape)
    codes = fmt.encode(np.ldexp(values, np.broadcast_to(exponent, sums.shape)), underflow)
    return np.asarray(np.where(nan, fmt.nan_code or 0, codes), dtype=fmt.dtype)


def clamped(name: str, codes: Ints, low: int, high: int) -> Ints:
    """Codes held between two others by the format's order; NaR stays."""
    fmt = formats.get(name)
    keys = fmt.order_key(codes)
    bound = [int(fmt.order_key(np.array(c))) for c in (low, high)]
    held = np.where(keys < bound[0], low, np.where(keys > bound[1], high, codes))
    return np.asarray(np.where(fmt.is_nan(codes), codes, held), dtype=fmt.dtype)
