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

__all__ = [
    "LIMBS",
    "LIMB_BITS",
    "LIMB_TERMS",
    "PLACES",
    "dot_odd",
    "join_odd",
    "limb_tables",
    "split",
]

LIMB_BITS = 19
LIMBS = 3
PLACES = 2 * LIMBS - 1
LIMB_TERMS = 1 << (53 - 2 * LIMB_BITS)
"""Products of limbs that one float64 holds exactly."""
MASK = (1 << LIMB_BITS) - 1
I64, I128, PTR = ir.IntType(64), ir.IntType(128), ir.PointerType()


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


def _join_odd(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """The places (int64) of a 128-bit sum as a float64, rounded to odd at 53 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_function(builder.module, "opennpe_join_odd", PLACES, _join), args)

    return types.float64(*(types.int64,) * PLACES), codegen


def _dot_odd(
    typingctx: Any, left: Any, right: Any, offsets: Any, count: Any, low: Any, high: Any
) -> Any:
    """``bias + sum left[offsets[i]] * right[offsets[count + i]]`` as a float64 rounded to odd.

    Args:
        left, right: addresses of int64 values.
        offsets: address of int64 byte offsets, ``count`` for the left side, then for the right.
        low, high: the bias, 64 bits each.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_function(builder.module, "opennpe_dot_odd", 6, _dot), args)

    return types.float64(*(types.int64,) * 6), codegen


join_odd: Any = intrinsic(_join_odd)
dot_odd: Any = intrinsic(_dot_odd)


def _function(module: ir.Module, name: str, arguments: int, emit: Any) -> Any:
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.DoubleType(), [I64] * arguments)
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    total = emit(b, function)
    b.ret(_odd(b, total))
    return function


def _join(b: ir.IRBuilder, function: Any) -> Any:
    total = I128(0)
    for i, place in enumerate(function.args):
        total = b.add(total, b.shl(b.sext(place, I128), I128(LIMB_BITS * i)))
    return total


def _dot(b: ir.IRBuilder, function: Any) -> Any:
    left, right, offsets, count, low, high = function.args
    bias = b.or_(b.shl(b.sext(high, I128), I128(64)), b.zext(low, I128))
    before = b.block
    loop, after = function.append_basic_block("loop"), function.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    i, total = b.phi(I64), b.phi(I128)

    def value(base: Any, index: Any) -> Any:
        offset = b.load(b.inttoptr(b.add(offsets, b.mul(index, I64(8))), PTR), typ=I64)
        return b.sext(b.load(b.inttoptr(b.add(base, offset), PTR), typ=I64), I128)

    result = b.add(total, b.mul(value(left, i), value(right, b.add(i, count))))
    following = b.add(i, I64(1))
    for phi, first, second in ((i, I64(0), following), (total, bias, result)):
        phi.add_incoming(first, before)
        phi.add_incoming(second, loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    return result


def _odd(b: ir.IRBuilder, total: Any) -> Any:
    """A 128-bit integer as a float64; what is cut off leaves its trace in the last bit."""
    negative = b.icmp_signed("<", total, I128(0))
    magnitude = b.select(negative, b.neg(total), total)
    zeros = b.ctlz(magnitude, ir.Constant(ir.IntType(1), 0))
    cut = b.sub(I128(128 - 53), zeros)
    cut = b.select(b.icmp_signed(">", cut, I128(0)), cut, I128(0))
    kept = b.lshr(magnitude, cut)
    inexact = b.icmp_unsigned("!=", b.shl(kept, cut), magnitude)
    mantissa = b.or_(b.trunc(kept, I64), b.zext(inexact, I64))
    real = b.uitofp(mantissa, ir.DoubleType())
    # A power of two as a float64's exponent field.
    scale = b.shl(b.add(b.trunc(cut, I64), I64(1023)), I64(52))
    real = b.fmul(real, b.bitcast(scale, ir.DoubleType()))
    return b.select(negative, b.fneg(real), real)
