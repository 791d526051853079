"""Rounding int32 sums to 4-bit codes by comparison: no conversion, no float.

Rounding is monotone, so the magnitude's code is the number of steps (boundaries between codes) at
or below the sum's magnitude, and a 4-bit format has seven. On the sums' own grid a boundary becomes
an integer a column, ties included: the code of a sum is seven comparisons and the sign.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
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

__all__ = ["Steps", "finish", "make", "repeat"]

I32 = np.int32
TOP = (1 << 31) - 1
COUNT = 7


class Steps(NamedTuple):
    """From int32 sums to 4-bit codes.

    Attributes:
        below: int32 (7, N): the largest magnitude that stays below each step.
        offset: int32 (N,), added to every sum.
        floor: smallest sum kept: 0 where a relu clips, else the smallest int32.
        sign_bit: 8 for sign-magnitude codes, 0 for two's complement (posits).
    """

    below: NDArray[np.int32]
    offset: NDArray[np.int32]
    floor: int
    sign_bit: int


def make(
    format_name: str,
    underflow: formats.Underflow,
    offset: NDArray[np.float64],
    factor: NDArray[np.float64],
    bounds: tuple[float, float],
    sums: int,
) -> Steps | None:
    """The steps of an epilogue, or None where it needs the general rounding.

    Args:
        offset: added to the sums, integers (N,).
        factor: powers of two (N,) from the sums' unit to the output's.
        bounds: clip bounds in the output's unit.
        sums: bound on the sums' magnitude.
    """
    fmt = formats.get(format_name)
    low, high = bounds
    clipped = low == 0.0 and high > 0.0
    if fmt.bits != 4 or fmt.kind not in ("float", "posit") or not (
        clipped or (low == -math.inf and high == math.inf)
    ):  # fmt: skip
        return None
    if sums + float(np.abs(offset).max(initial=0.0)) > TOP:
        return None
    edges, reached = fmt.steps(underflow)
    if len(edges) != COUNT:
        return None
    # Scaled by a power of two the boundaries stay exact: seven numbers of a few bits.
    place = edges[:, None] / factor
    last = np.where(reached[:, None], np.ceil(place) - 1, np.floor(place))
    # Beyond the upper clip no step is taken; what rounds to it is at most its code.
    most = int(fmt.encode(high if math.isfinite(high) else fmt.maxpos, underflow))
    last[most:] = TOP
    below = np.clip(last, 0, TOP).astype(np.int32)
    floor = 0 if clipped else -(1 << 31)
    sign = 8 if fmt.kind == "float" else 0
    return Steps(below, offset.astype(np.int32), floor, sign)


def repeat(steps: Steps, times: int) -> Steps:
    """The steps of ``times`` rows side by side, for rows too short for vectors."""
    return steps._replace(
        below=np.tile(steps.below, (1, times)), offset=np.tile(steps.offset, times)
    )


@kernel()
def finish(sums, out, row, column, columns, steps):  # type: ignore[no-untyped-def]
    """Codes of a block of sums (rows, at least columns) into ``out[row:, column:]``."""
    offset = steps.offset[column : column + columns]
    a, b = steps.below[0, column:][:columns], steps.below[1, column:][:columns]
    c, d = steps.below[2, column:][:columns], steps.below[3, column:][:columns]
    e, f = steps.below[4, column:][:columns], steps.below[5, column:][:columns]
    g, floor, bit = steps.below[6, column:][:columns], I32(steps.floor), I32(steps.sign_bit)
    flip = I32(-1 if steps.sign_bit == 0 else 0)
    for i in range(sums.shape[0]):
        held = sums[i]
        codes = out[row + i, column : column + columns]
        for j in range(columns):
            kept = larger(add(held[j], offset[j]), floor)
            sign = shift_signed(kept, I32(31))
            size = subtract(bit_xor(kept, sign), sign)
            low = add(
                add(greater_mask(size, a[j]), greater_mask(size, b[j])),
                add(greater_mask(size, c[j]), greater_mask(size, d[j])),
            )
            high = add(
                add(greater_mask(size, e[j]), greater_mask(size, f[j])), greater_mask(size, g[j])
            )
            code = subtract(I32(0), add(low, high))
            # Posits negate the code, sign-magnitude formats set a bit.
            turn = bit_and(sign, flip)
            code = bit_or(subtract(bit_xor(code, turn), turn), bit_and(sign, bit))
            codes[j] = bit_and(code, I32(15))
