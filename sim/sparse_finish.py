"""Rounding of int32 sums whose rows are output channels: a row has one offset and one factor.

The dense kernels' epilogues (:mod:`sim.gemm`, :mod:`sim.steps`) with the roles of rows and columns
exchanged; the arithmetic of one sum is the same.
"""

from __future__ import annotations

import numpy as np
from opennpe.sim.encode import encode_high, jam
from opennpe.sim.jit import kernel
from opennpe.sim.words import (
    add,
    bit_and,
    bit_or,
    bit_xor,
    greater_mask,
    larger,
    shift_signed,
    subtract,
)

__all__ = ["finish_floats", "finish_steps"]

I32 = np.int32


@kernel()
def finish_steps(sums, rows, out, column, columns, s):  # type: ignore[no-untyped-def]
    """Rows of int32 sums to 4-bit codes by :class:`sim.steps.Steps`; a row below 0 is left out."""
    flip = I32(-1 if s.sign_bit == 0 else 0)
    floor, bit = I32(s.floor), I32(s.sign_bit)
    for r in range(len(rows)):
        row = rows[r]
        if row < 0:
            continue
        held, codes = sums[r], out[row, column : column + columns]
        offset = s.offset[row]
        a, b, c, d = s.below[0, row], s.below[1, row], s.below[2, row], s.below[3, row]
        e, f, g = s.below[4, row], s.below[5, row], s.below[6, row]
        for j in range(columns):
            kept = larger(add(held[j], offset), floor)
            sign = shift_signed(kept, I32(31))
            size = subtract(bit_xor(kept, sign), sign)
            low = add(
                add(greater_mask(size, a), greater_mask(size, b)),
                add(greater_mask(size, c), greater_mask(size, d)),
            )
            high = add(add(greater_mask(size, e), greater_mask(size, f)), greater_mask(size, g))
            code = subtract(I32(0), add(low, high))
            # Posits negate the code, sign-magnitude formats set a bit.
            turn = bit_and(sign, flip)
            code = bit_or(subtract(bit_xor(code, turn), turn), bit_and(sign, bit))
            codes[j] = bit_and(code, I32(15))


@kernel()
def finish_floats(sums, rows, out, column, columns, e, line):  # type: ignore[no-untyped-def]
    """Rows of int32 sums to codes by :class:`sim.gemm.Epilogue`; ``line``: float64 scratch."""
    words = line.view(np.int32)
    for r in range(len(rows)):
        row = rows[r]
        if row < 0:
            continue
        held, codes = sums[r], out[row, column : column + columns]
        offset, factor = e.offset[row], e.factor[row]
        for j in range(columns):
            x = (np.float64(held[j]) + offset) * factor
            x = e.low if x < e.low else x
            x = e.high if x > e.high else x
            line[j] = x + 0.0  # an exact zero is +0 (decision 0002)
        for j in range(columns):
            # Halves taken from memory vectorise, a 64-bit shift does not.
            codes[j] = encode_high(jam(words[2 * j + 1], words[2 * j]), e.target)
