"""Exact sums wider than float64: limbs of 19 bits, joined in 128 bits and rounded to odd.

A value of up to 57 bits is three limbs of 19 bits (sign and magnitude). A product of two limbs has
at most 38 bits, so 2**15 of them add up exactly in a float64. The nine limb products of a sum
land on five places 19 bits apart; in 128 bits they are the quire (DESIGN 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["LIMBS", "LIMB_BITS", "LIMB_TERMS", "PLACES", "join_odd", "limb_tables", "split"]

LIMB_BITS = 19
LIMBS = 3
PLACES = 2 * LIMBS - 1
LIMB_TERMS = 1 << (53 - 2 * LIMB_BITS)
"""Products of limbs that one float64 holds exactly."""
MASK = (1 << LIMB_BITS) - 1
I64, I128 = ir.IntType(64), ir.IntType(128)


def limb_tables(integers: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """For every code its limbs, least first, each with the value's sign (float64 tables)."""
    whole = [int(v) for v in integers]
    return [
        np.array(
            [(-1 if v < 0 else 1) * (abs(v) >> LIMB_BITS * i & MASK) for v in whole],
            dtype=np.float64,
        )
        for i in range(LIMBS)
    ]


def split(value: int) -> list[int]:
    """A signed integer of up to 128 bits as places; all but the last are non-negative."""
    low = [value >> LIMB_BITS * i & MASK for i in range(PLACES - 1)]
    return [*low, value >> LIMB_BITS * (PLACES - 1)]


@intrinsic
def join_odd(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """The places (int64) of a 128-bit sum as a float64, rounded to odd at 53 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_function(builder.module), args)

    return types.float64(*(types.int64,) * PLACES), codegen


def _function(module: ir.Module) -> Any:
    name = "opennpe_join_odd"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.DoubleType(), [I64] * PLACES)
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    total = I128(0)
    for i, place in enumerate(function.args):
        total = b.add(total, b.shl(b.sext(place, I128), I128(LIMB_BITS * i)))
    negative = b.icmp_signed("<", total, I128(0))
    magnitude = b.select(negative, b.neg(total), total)
    zeros = b.ctlz(magnitude, ir.Constant(ir.IntType(1), 0))
    # 53 bits stay; what is cut off leaves its trace in the last of them.
    cut = b.sub(I128(128 - 53), zeros)
    cut = b.select(b.icmp_signed(">", cut, I128(0)), cut, I128(0))
    kept = b.lshr(magnitude, cut)
    inexact = b.icmp_unsigned("!=", b.shl(kept, cut), magnitude)
    mantissa = b.or_(b.trunc(kept, I64), b.zext(inexact, I64))
    real = b.uitofp(mantissa, ir.DoubleType())
    # A power of two as a float64's exponent field.
    scale = b.shl(b.add(b.trunc(cut, I64), I64(1023)), I64(52))
    real = b.fmul(real, b.bitcast(scale, ir.DoubleType()))
    b.ret(b.select(negative, b.fneg(real), real))
    return function
