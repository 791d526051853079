"""The one rounding as a kernel: a float64 becomes a code, without a branch.

A value enters as a float64 that is exact, or *rounded to odd* at 53 bits: cut towards zero, with
the last bit set if anything was cut off. That is as good as the exact value. Every value and every
rounding boundary of a format of up to 16 bits has at most 16 significant bits. Of two neighbouring
float64 one has an odd last bit; with 53 > 16 bits the odd one is neither a value nor a boundary,
so an inexact sum, which becomes the odd neighbour, stays strictly on the side of every boundary it
was on. The same argument lets the kernel go on with the upper 32 bits of the float64 (21 bits of
significand), the lower 32 *jammed* into their last bit: 21 > 16.

Posits: regime, exponent and fraction are laid out as one string in a 32-bit word (decision 0001).
With ``u`` the exponent and fraction of the value as one fixed-point number, ``u >> es`` has the
regime above the point. The regime's string is a run of one bit ended by its opposite, so the word
``10`` (or ``01``) + exponent + fraction is shifted right arithmetically: the run grows by itself.
The string of n + 1 bits moves by at most n - 2: at most 31 bits, nothing is lost.

Minifloats: the significand is shifted to the unit of its exponent (at least the subnormals'), and
added to the exponent field, into which a carry runs. Integers are minifloats that have subnormals
only.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.errors import FormatError
from opennpe.golden.network import Tensor
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.words import (
    add,
    bit_and,
    bit_or,
    bit_xor,
    greater_mask,
    larger,
    select_greater,
    shift_left,
    shift_right,
    shift_signed,
    smaller,
    subtract,
)

__all__ = [
    "FloatTarget",
    "PositTarget",
    "Target",
    "bounds",
    "encode",
    "encode_bits",
    "encode_high",
    "finish",
    "float_bits",
    "high_word",
    "jam",
    "odd",
    "target",
    "two_sum_odd",
]

I32 = np.int32
FRACTION = 20
"""Fraction bits in the upper half of a float64."""
BIAS = 1023
INFINITY = 0x7FF00000
MAX_SCALE = 400
"""Scales beyond +-2**400 could leave float64's range on the way; golden's integers take those."""


class PositTarget(NamedTuple):
    """A posit to round to, as the constants of the kernel (ints; words of 32 bits).

    Attributes:
        top: exponent of maxpos times 2**20: where the fixed-point exponent saturates.
        jam: mask of the fraction bits that only matter as "not zero".
        regime_shift: es + 20.
        string_shift: moves exponent and fraction up against the regime's two bits.
        tail: the bits they may occupy there.
        half: half a unit of the code, less one.
        code_shift: from the string to the code.
        zero_at: upper word of the largest magnitude that becomes zero.
        nan: the code of NaR.
        mask: the code's bits.
    """

    top: int
    jam: int
    regime_shift: int
    string_shift: int
    tail: int
    half: int
    code_shift: int
    zero_at: int
    nan: int
    mask: int


class FloatTarget(NamedTuple):
    """A minifloat or integer to round to.

    Attributes:
        lowest: biased float64 exponent of the smallest normal number.
        unit_shift: 20 - mantissa bits.
        mantissa_bits: of the format.
        largest: code of the largest finite magnitude.
        sign_bit: the sign's bit, 0 for integers.
        complement: all ones for integers (two's complement), else 0.
        nan: the code of NaN, 0 where there is none.
        mask: the code's bits.
        has_nan: whether there is one.
    """

    lowest: int
    unit_shift: int
    mantissa_bits: int
    largest: int
    sign_bit: int
    complement: int
    nan: int
    mask: int
    has_nan: int


Target = PositTarget | FloatTarget


@lru_cache(maxsize=256)
def target(format_name: str, underflow: formats.Underflow) -> Target:
    """What the kernels need to know of a scalar format and an underflow rule.

    Raises:
        FormatError: an unknown format or rule, a block format.
    """
    formats.check_underflow(underflow)
    fmt = formats.get(format_name)
    mask = (1 << fmt.bits) - 1
    if fmt.kind == "posit":
        top = (fmt.bits - 2) << fmt.es
        jam = (1 << (FRACTION - (fmt.bits - 1 - fmt.es))) - 1
        return PositTarget(
            top=top << FRACTION,
            jam=jam,
            regime_shift=FRACTION + fmt.es,
            string_shift=10 - fmt.es,
            tail=((1 << 30) - 1) & ~(jam << (10 - fmt.es)),
            half=(1 << (32 - fmt.bits)) - 1,
            code_shift=33 - fmt.bits,
            zero_at=(BIAS - top - 1) << FRACTION if underflow == "zero" else 0,
            nan=fmt.nan_code,
            mask=mask,
        )
    if fmt.kind == "int":
        m = fmt.bits - 1
        return FloatTarget(m + BIAS, FRACTION - m, m, (1 << m) - 1, 0, -1, 0, mask, 0)
    if fmt.kind != "float" or fmt.exponent_bits > 9:
        raise FormatError(f"no rounding kernel for {fmt.name}: expected a posit, float or integer")
    nan = fmt.nan_code
    return FloatTarget(
        lowest=1 - fmt.bias + BIAS,
        unit_shift=FRACTION - fmt.mantissa_bits,
        mantissa_bits=fmt.mantissa_bits,
        largest=int(fmt._finite_magnitudes[0][-1]),
        sign_bit=1 << (fmt.bits - 1),
        complement=0,
        nan=nan or 0,
        mask=mask,
        has_nan=int(nan is not None),
    )


# -- one value ------------------------------------------------------------------------------------
@inlined
def jam(upper, lower):  # type: ignore[no-untyped-def]
    """int32: ``upper`` with its last bit set where ``lower`` is not zero."""
    # -x | x has its sign bit set unless x is zero.
    rest = shift_right(bit_or(lower, subtract(I32(0), lower)), I32(31))
    return bit_or(upper, rest)


@inlined
def high_word(bits):  # type: ignore[no-untyped-def]
    """int32: the upper half of a float64's bits (int64), the lower half jammed into its last."""
    return jam(I32(bits >> 32), I32(bits))


@inlined
def _encode_posit(high, t):  # type: ignore[no-untyped-def]
    magnitude = bit_and(high, I32(0x7FFFFFFF))
    u = subtract(magnitude, I32(BIAS << FRACTION))
    u = smaller(larger(u, I32(-t.top)), I32(t.top))
    # A carry into the bit above the jammed ones if any is set; the tail's mask drops them.
    u = bit_or(u, add(bit_and(u, I32(t.jam)), I32(t.jam)))
    regime = shift_signed(u, I32(t.regime_shift))
    negative = shift_signed(regime, I32(31))
    lead = bit_xor(I32(-(1 << 31)), bit_and(negative, I32(-(1 << 30))))
    tail = bit_and(shift_left(u, I32(t.string_shift)), I32(t.tail))
    string = shift_signed(bit_or(lead, tail), bit_xor(regime, negative))
    even = bit_and(shift_right(string, I32(t.code_shift)), I32(1))
    code = shift_right(add(add(string, I32(t.half)), even), I32(t.code_shift))
    code = bit_and(code, greater_mask(magnitude, I32(t.zero_at)))
    sign = shift_signed(high, I32(31))
    code = bit_and(subtract(bit_xor(code, sign), sign), I32(t.mask))
    return select_greater(magnitude, I32(INFINITY - 1), I32(t.nan), code)


@inlined
def _encode_float(high, t):  # type: ignore[no-untyped-def]
    magnitude = bit_and(high, I32(0x7FFFFFFF))
    exponent = shift_right(magnitude, I32(FRACTION))
    unit = larger(exponent, I32(t.lowest))
    significand = bit_or(bit_and(magnitude, I32((1 << FRACTION) - 1)), I32(1 << FRACTION))
    # Beyond 26 a significand of 21 bits is less than half a unit all the same.
    shift = smaller(add(subtract(unit, exponent), I32(t.unit_shift)), I32(26))
    half = subtract(shift_left(I32(1), subtract(shift, I32(1))), I32(1))
    even = bit_and(shift_right(significand, shift), I32(1))
    units = shift_right(add(add(significand, half), even), shift)
    code = add(shift_left(subtract(unit, I32(t.lowest)), I32(t.mantissa_bits)), units)
    sign = shift_signed(high, I32(31))
    flip = bit_and(sign, I32(t.complement))
    code = smaller(code, subtract(I32(t.largest), flip))
    code = bit_or(subtract(bit_xor(code, flip), flip), bit_and(sign, I32(t.sign_bit)))
    return select_greater(magnitude, I32(INFINITY), I32(t.nan), bit_and(code, I32(t.mask)))


def encode_high(high: Any, t: Target) -> Any:
    """The code (int32) of a value given as :func:`high_word`; for kernels.

    Minus zero keeps its sign in a minifloat: a sum adds ``+ 0.0`` first (decision 0002). NaN gives
    NaR or NaN, and 0 in a format that has none.
    """
    return _encode_posit(high, t) if isinstance(t, PositTarget) else _encode_float(high, t)


@overload(encode_high, jit_options={"forceinline": True})
def _encode_high(high, t):  # type: ignore[no-untyped-def]
    # The kind of target is a type, so a kernel holds the code of one kind only.
    if t.instance_class is PositTarget:
        return lambda high, t: _encode_posit(high, t)
    return lambda high, t: _encode_float(high, t)


@inlined
def float_bits(x):  # type: ignore[no-untyped-def]
    """int64: the bit pattern of a float64."""
    return np.float64(x).view(np.int64)


@inlined
def encode_bits(bits, t):  # type: ignore[no-untyped-def]
    """The code (int32) of a float64 given as its bit pattern (int64); see :func:`encode_high`."""
    return encode_high(high_word(bits), t)


@inlined
def odd(high, low):  # type: ignore[no-untyped-def]
    """``high + low`` rounded to odd, of a float64 sum and its exact error (|low| <= ulp/2)."""
    bits = float_bits(high)
    # Where the last bit is even, the odd neighbour on the error's side: further out where the
    # error has the sum's sign, else closer to zero. An odd last bit is kept.
    step = ((float_bits(low) ^ bits) >> 63) | np.int64(1)
    moves = ((bits & np.int64(1)) ^ np.int64(1)) & np.int64(low != 0.0)
    return np.int64(bits + step * moves).view(np.float64)


@inlined
def two_sum_odd(a, b):  # type: ignore[no-untyped-def]
    """``a + b`` of two finite float64, the exact sum rounded to odd at 53 bits.

    Knuth's TwoSum gives the rounded sum and its error, both exact; the sum then takes its odd
    neighbour on the error's side. Sums of magnitudes up to 2**1023 and not subnormal.
    """
    total = np.float64(a) + np.float64(b)
    back = total - a
    return odd(total, (a - (total - back)) + (b - back))


# -- arrays ---------------------------------------------------------------------------------------
@kernel()
def _encode_array(bits, out, t):  # type: ignore[no-untyped-def]
    for i in range(bits.size):
        out[i] = encode_bits(bits[i], t)


def encode(values: Any, fmt: Any, underflow: formats.Underflow = "minpos") -> NDArray[Any]:
    """Round float64 values (any shape) to codes: ``Format.encode``, faster.

    Raises:
        FormatError: NaN given to a format that has none.
    """
    fmt = formats.get(fmt) if isinstance(fmt, str) else fmt
    x = np.ascontiguousarray(values, dtype=np.float64)
    if fmt.nan_code is None and np.isnan(x).any():
        raise FormatError(
            f"{fmt.name} has no code for NaN and {int(np.isnan(x).sum())} of {x.size} values are "
            "NaN: remove them or choose a format that has one"
        )
    out = np.empty(x.shape, dtype=fmt.dtype)
    _encode_array(x.view(np.int64).reshape(-1), out.reshape(-1), target(fmt.name, underflow))
    return out


def bounds(clip: tuple[float, float] | None, scale: int) -> tuple[float, float]:
    """Clip bounds in units of the output's codes, infinite where there are none.

    Raises:
        FormatError: a bound that leaves float64's range there (a scale beyond reason).
    """
    if clip is None:
        return -math.inf, math.inf
    scaled = []
    for bound in map(float, clip):
        value = bound
        if math.isfinite(bound):
            value = math.ldexp(bound, -scale) if abs(scale) < 2000 else math.nan
            if math.ldexp(value, scale) != bound:
                raise FormatError(f"a bound of {bound} cannot be scaled by 2^{-scale}")
        scaled.append(value)
    return scaled[0], scaled[1]


@kernel()
def _finish(sums, factors, low, high, out, t):  # type: ignore[no-untyped-def]
    rows, columns = sums.shape
    for i in range(rows):
        for j in range(columns):
            x = sums[i, j] * factors[j]
            x = low if x < low else x
            x = high if x > high else x
            # An exact zero is +0 (decision 0002).
            out[i, j] = encode_bits(float_bits(x + 0.0), t)


def finish(
    sums: NDArray[np.float64],
    scale_exponents: NDArray[np.int64],
    out: Tensor,
    underflow: formats.Underflow,
    clip: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """``round(clip(sums * 2**e) * 2**-out.scale)``: what follows an exact sum.

    Args:
        sums: float64 (P, N), exact or rounded to odd, NaN where NaR met.
        scale_exponents: int (N,): a sum's real value is ``sums[:, n] * 2**e[n]``.
        out: gives format and scale.
        underflow: "minpos" or "zero".
        clip: real bounds, applied before the rounding.

    Returns:
        Codes (P, N) in the format's dtype.

    Raises:
        FormatError: a NaR and a format that has no code for it; scales beyond 2**400.
    """
    fmt = formats.get(out.format)
    exponents = np.asarray(scale_exponents, dtype=np.int64) - out.scale
    if exponents.size and int(np.abs(exponents).max()) > MAX_SCALE:
        raise FormatError(f"tensor '{out.name}': scales differ by more than 2^{MAX_SCALE}")
    if fmt.nan_code is None and np.isnan(sums).any():
        raise FormatError(f"the sum is NaR and {fmt.name} has no code for it")
    low, high = bounds(clip, out.scale)
    codes = np.empty(sums.shape, dtype=fmt.dtype)
    factors = np.ldexp(1.0, exponents)
    _finish(sums, factors, low, high, codes, target(fmt.name, underflow))
    return codes
