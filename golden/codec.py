"""One code at a time, in exact integers: the readable definition of every format.

``unpack`` is the decode step of the engine; ``round_exact`` is its round step: an exact rational
becomes a code by one rounding to nearest, ties to the even code. Posits round as bit strings
(Posit Standard 2022, section 4.1): the value is written out with its regime, exponent and all its
fraction bits, cut after n bits, and the cut part decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from opennpe.golden.errors import FormatError

if TYPE_CHECKING:
    from opennpe.golden.formats import FloatFormat, Format, IntFormat, PositFormat, Underflow

__all__ = [
    "Unpacked",
    "lsb_exponent",
    "odd_significand",
    "posit_value",
    "round_exact",
    "to_fixed",
    "to_float",
    "unpack",
]


@dataclass(frozen=True)
class Unpacked:
    """A decoded code: ``(-1)**sign * significand * 2**exponent`` when finite."""

    kind: Literal["finite", "nan", "inf"]
    sign: int
    significand: int
    exponent: int


def unpack(fmt: Any, code: int) -> Unpacked:
    """Decode one code into sign, integer significand and exponent (the decode step).

    Raises:
        FormatError: the code needs more bits than the format has.
    """
    if not 0 <= code < 1 << fmt.bits:
        raise FormatError(f"{fmt.name} codes lie in 0..{(1 << fmt.bits) - 1}, got {code}")
    if fmt.kind == "posit":
        return _unpack_posit(fmt.bits, fmt.es, code)
    if fmt.kind == "float":
        return _unpack_float(fmt, code)
    value = code - (1 << fmt.bits) if code >> (fmt.bits - 1) else code
    return Unpacked("finite", int(value < 0), abs(value), 0)


def _unpack_posit(bits: int, es: int, code: int) -> Unpacked:
    if code == 0:
        return Unpacked("finite", 0, 0, 0)
    if code == 1 << (bits - 1):
        return Unpacked("nan", 0, 0, 0)
    sign = code >> (bits - 1)
    body = (-code if sign else code) & ((1 << (bits - 1)) - 1)
    width = bits - 1
    first = body >> (width - 1)
    run = 0
    while run < width and (body >> (width - 1 - run)) & 1 == first:
        run += 1
    regime = run - 1 if first else -run
    rest = max(width - run - 1, 0)
    tail = body & ((1 << rest) - 1)
    fraction_bits = max(rest - es, 0)
    # Exponent bits cut off by the end of the code are zeros on the right.
    exponent = (tail >> fraction_bits) << max(es - rest, 0)
    fraction = tail & ((1 << fraction_bits) - 1)
    scale = (regime << es) + exponent
    return Unpacked("finite", sign, (1 << fraction_bits) | fraction, scale - fraction_bits)


def _unpack_float(fmt: FloatFormat, code: int) -> Unpacked:
    sign = code >> (fmt.bits - 1)
    exponent = (code >> fmt.mantissa_bits) & ((1 << fmt.exponent_bits) - 1)
    mantissa = code & ((1 << fmt.mantissa_bits) - 1)
    top = (1 << fmt.exponent_bits) - 1
    if fmt.specials == "ieee" and exponent == top:
        return Unpacked("nan" if mantissa else "inf", sign, 0, 0)
    if fmt.specials == "nan" and exponent == top and mantissa == (1 << fmt.mantissa_bits) - 1:
        return Unpacked("nan", sign, 0, 0)
    if exponent == 0:
        return Unpacked("finite", sign, mantissa, 1 - fmt.bias - fmt.mantissa_bits)
    return Unpacked(
        "finite",
        sign,
        (1 << fmt.mantissa_bits) | mantissa,
        exponent - fmt.bias - fmt.mantissa_bits,
    )


def to_float(fmt: Format, code: int) -> float:
    """The value of a code as a float64, exact for formats of up to 16 bits."""
    u = unpack(fmt, code)
    if u.kind == "nan":
        return math.nan
    magnitude = math.inf if u.kind == "inf" else math.ldexp(u.significand, u.exponent)
    return -magnitude if u.sign else magnitude


def posit_value(bits: int, es: int, code: int) -> float:
    """Value of a posit code of any width, for rounding boundaries one bit longer."""
    u = _unpack_posit(bits, es, code)
    return math.ldexp(-u.significand if u.sign else u.significand, u.exponent)


def odd_significand(u: Unpacked) -> int:
    """The significand without trailing zeros."""
    return u.significand >> _trailing_zeros(u.significand)


def lsb_exponent(u: Unpacked) -> int:
    """Exponent of the lowest set bit of a nonzero value."""
    return u.exponent + _trailing_zeros(u.significand)


def to_fixed(u: Unpacked, lsb: int) -> int:
    """The value in units of ``2**lsb``; exact because ``lsb`` is at or below its lowest bit."""
    shift = u.exponent - lsb
    magnitude = u.significand << shift if shift >= 0 else u.significand >> -shift
    return -magnitude if u.sign else magnitude


def _trailing_zeros(value: int) -> int:
    return (value & -value).bit_length() - 1 if value else 0


def round_exact(
    fmt: Any,
    numerator: int,
    exponent: int = 0,
    underflow: Underflow = "minpos",
    denominator: int = 1,
) -> int:
    """The code nearest to ``numerator / denominator * 2**exponent`` (the round step).

    One rounding of an exact rational: ties to the even code, saturating; see DESIGN 1 for the
    two underflow rules. An exact zero gives the positive zero; a negative value that a minifloat
    rounds to zero keeps its sign.

    Args:
        fmt: a scalar format.
        numerator: any integer.
        exponent: any integer.
        underflow: "minpos" or "zero"; posits only.
        denominator: a positive integer.
    """
    if numerator == 0:
        return 0
    x = Fraction(abs(numerator), denominator)
    x = x * 2**exponent if exponent >= 0 else x / 2**-exponent
    negative = numerator < 0
    if fmt.kind == "posit":
        code = _round_posit(fmt, x, underflow)
        return (-code if negative else code) & ((1 << int(fmt.bits)) - 1)
    if fmt.kind == "float":
        return _round_float(fmt, x) | (int(negative) << (int(fmt.bits) - 1))
    return _round_int(fmt, x, negative)


def _floor_log2(x: Fraction) -> int:
    estimate = x.numerator.bit_length() - x.denominator.bit_length()
    power = Fraction(2) ** estimate
    return estimate if power <= x else estimate - 1


def _round_half_even(x: Fraction) -> int:
    return round(x)  # Fraction rounds halves to even


def _round_posit(fmt: PositFormat, x: Fraction, underflow: Underflow) -> int:
    maxpos_code = (1 << (fmt.bits - 1)) - 1
    top = (fmt.bits - 2) << fmt.es
    if x >= Fraction(2) ** top:
        return maxpos_code
    minpos = Fraction(1, 2**top)
    if x <= minpos:
        return 0 if underflow == "zero" and x <= minpos / 2 else 1
    scale = _floor_log2(x)
    regime, low = scale >> fmt.es, scale & ((1 << fmt.es) - 1)
    # Regime string with its terminating bit, then the exponent bits, then the whole fraction.
    if regime >= 0:
        string, length = ((1 << (regime + 1)) - 1) << 1, regime + 2
    else:
        string, length = 1, -regime + 1
    string = (string << fmt.es) | low
    length += fmt.es
    exact = string + (x / Fraction(2) ** scale - 1)
    code = _round_half_even(exact * Fraction(2) ** (fmt.bits - 1 - length))
    return min(max(code, 1), maxpos_code)


def _round_float(fmt: FloatFormat, x: Fraction) -> int:
    scale = max(_floor_log2(x), 1 - fmt.bias)
    units = _round_half_even(x / Fraction(2) ** (scale - fmt.mantissa_bits))
    # Adding the units to the exponent field carries into it, as rounding up must.
    code = ((scale + fmt.bias - 1) << fmt.mantissa_bits) + units
    return min(code, _largest_finite(fmt))


def _largest_finite(fmt: FloatFormat) -> int:
    top = (1 << (fmt.bits - 1)) - 1
    if fmt.specials == "ieee":
        return (((1 << fmt.exponent_bits) - 1) << fmt.mantissa_bits) - 1
    return top - 1 if fmt.specials == "nan" else top


def _round_int(fmt: IntFormat, x: Fraction, negative: bool) -> int:
    limit = 1 << (fmt.bits - 1)
    units = min(_round_half_even(x), limit if negative else limit - 1)
    return (-units if negative else units) & ((1 << fmt.bits) - 1)
