"""Streaming softmax in integers: two passes over a row, no maximum, one rounding a result.

Source: Two-Pass Softmax (arXiv 2001.04438): exp(x) is kept as mantissa and exponent, never put
together, so nothing overflows and no pass has to look for the maximum. Here in base 2:

    t = x * scale * log2(e)       logit: Q8.F, saturating
    2**t = m * 2**(n - P)         exp2: n = floor(t), m by a line over the fraction's top bits
    S = sum of 2**t               accumulate: pass 1
    r = 1 / S                     reciprocal: once a row
    y = m * r * 2**(n - E ...)    normalise: pass 2, t and m computed again
    code                          round: the one rounding of the engine's codec

Each step is a function here and a block of the same name in the gates. The softmax at the end of a
classifier that the host computes is :func:`opennpe.golden.activations.softmax`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import codec, formats
from opennpe.golden.errors import AccumulatorError, DataError, FormatError
from opennpe.golden.softmax_float import three_pass, two_pass
from opennpe.golden.softmax_spec import MULTIPLIER_EXPONENT_BITS, OUT_SHIFT_BITS, SoftmaxSpec

__all__ = [
    "FIXED",
    "Deferred",
    "SoftmaxSpec",
    "Trace",
    "accumulate",
    "check",
    "deferred",
    "exp2",
    "leading",
    "logit",
    "multiplier",
    "normalise",
    "reciprocal",
    "round_codes",
    "softmax",
    "three_pass",
    "trace",
    "two_pass",
]

Codes = NDArray[Any]
Int = NDArray[np.int64]
Multiplier = tuple[int, int]

FIXED = {"u0.8": 8, "u0.16": 16}
"""Unsigned fractions: a code is the result times 2**bits, saturated."""


class Deferred(NamedTuple):
    """A row without its division: code value * 2**-out_shift / (mantissa * 2**exponent) is softmax.

    Attributes:
        codes: of 2**(t - largest exponent), in [0, 2), times 2**out_shift, rounded.
        mantissa: int64, a row each: the sum's leading R + 1 bits; 0 for a row fully masked.
        exponent: int64, a row each: of two.
    """

    codes: Codes
    mantissa: Int
    exponent: Int


class Trace(NamedTuple):
    """The running sum after every tile of ``lanes`` elements.

    Attributes:
        total: object (..., tiles) of ints: see ``SoftmaxSpec.total_bits`` for the unit.
        exponent: int64 (..., tiles): the largest exponent so far.
    """

    total: NDArray[np.object_]
    exponent: Int


# -- settings ------------------------------------------------------------------------------------
def multiplier(real_scale: float, bits: int = 16) -> Multiplier:
    """``real_scale * log2(e)`` as (mantissa, exponent), mantissa of exactly ``bits`` bits.

    Args:
        real_scale: what a code's value is multiplied by before exp: the tensor's power-of-two
            scale, and 1/sqrt(d) in attention. Positive.
        bits: ``SoftmaxSpec.multiplier_bits``.

    Raises:
        DataError: not a positive finite number, or one beyond the exponent's range.
    """
    if not (math.isfinite(real_scale) and real_scale > 0):
        raise DataError(f"softmax needs a positive finite scale, got {real_scale}")
    with mpmath.workprec(200):
        log2e = Fraction(int(mpmath.floor(mpmath.ldexp(1 / mpmath.ln(2), 160))), 1 << 160)
    exact = Fraction(real_scale) * log2e
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length() - bits
    while exact >= Fraction(2) ** (exponent + bits):
        exponent += 1
    mantissa = round(exact / Fraction(2) ** exponent)
    if mantissa >> bits:
        mantissa, exponent = mantissa >> 1, exponent + 1
    _check_range("the multiplier's exponent", exponent, MULTIPLIER_EXPONENT_BITS)
    return mantissa, exponent


def _check_range(what: str, value: int, bits: int) -> None:
    limit = 1 << (bits - 1)
    if not -limit <= value < limit:
        raise DataError(f"{what} lies in {-limit}..{limit - 1}, got {value}: rescale the tensor")


# -- the steps -----------------------------------------------------------------------------------
@lru_cache(maxsize=32)
def _decoded(name: str) -> tuple[Int, Int, NDArray[np.bool_]]:
    """Signed significand, exponent and NaN flag of every code of a format."""
    fmt = formats.get(name)
    unpacked = [codec.unpack(fmt, code) for code in range(1 << fmt.bits)]
    if any(u.kind == "inf" for u in unpacked):
        raise FormatError(f"{name} has infinities, which softmax does not take")
    significand = np.array([-u.significand if u.sign else u.significand for u in unpacked])
    exponent = np.array([u.exponent for u in unpacked])
    return significand, exponent, np.array([u.kind == "nan" for u in unpacked])


@lru_cache(maxsize=64)
def logit(spec: SoftmaxSpec, name: str, factor: Multiplier) -> Int:
    """Base-2 exponents t of every code of a format: decode and scale.

    The exact product is rounded to F fraction bits, halves up (so that whole octaves can be added
    without changing a bit), and saturates.

    Returns:
        int64 (2**bits,) in units of 2**-F; 0 for NaR.
    """
    mantissa, exponent = factor
    significand, scale, _ = _decoded(name)
    product = significand * mantissa
    shift = scale + exponent + spec.fraction_bits
    # Further to the left all but zero saturates; further to the right all becomes zero.
    left, right = np.clip(shift, 0, spec.logit_bits), np.clip(-shift, 0, 62)
    rounded = ((product << left) + ((np.int64(1) << right) >> 1)) >> right
    limit = 1 << (spec.logit_bits - 1)
    t = np.asarray(np.clip(rounded, -limit, limit - 1), dtype=np.int64)
    t.setflags(write=False)
    return t


def exp2(spec: SoftmaxSpec, t: Int) -> tuple[Int, Int]:
    """``2**t`` as mantissa in [2**P, 2**(P+1) - 1] and exponent floor(t)."""
    fraction = t & ((1 << spec.fraction_bits) - 1)
    return np.asarray(spec.table(fraction)), t >> spec.fraction_bits


def accumulate(
    spec: SoftmaxSpec, mantissa: Int, exponent: Int
) -> Iterator[tuple[NDArray[Any], Int]]:
    """The running sum after each tile; masked elements have mantissa 0 and the lowest exponent.

    Args:
        mantissa: (..., tiles, lanes). exponent: likewise.

    Yields:
        Total (object for exact, int64 for truncating) and largest exponent, both (...).
    """
    rows = mantissa.shape[:-2]
    exact = spec.mode == "exact"
    total: NDArray[Any] = np.zeros(rows, dtype=object if exact else np.int64)
    largest = np.full(rows, spec.lowest, dtype=np.int64)
    for tile in range(mantissa.shape[-2]):
        m, n = mantissa[..., tile, :], exponent[..., tile, :]
        before, largest = largest, np.maximum(largest, n.max(axis=-1))
        if exact:
            terms = m.astype(object) << (n - spec.lowest).astype(object)
            total = total + terms.sum(axis=-1)
        else:
            aligned = m << (spec.accumulator_bits - spec.mantissa_bits)
            terms = aligned >> np.minimum(largest[..., None] - n, 62)
            total = (total >> np.minimum(largest - before, 62)) + terms.sum(axis=-1)
        yield total, largest


def leading(spec: SoftmaxSpec, total: Any, exponent: Any) -> tuple[Int, Int]:
    """The sum as ``s * 2**(E - R)`` with s in [2**R, 2**(R+1)), cut; zeros give s = 0.

    Returns:
        s and E, the floor of the sum's logarithm to base 2; int64, shaped like ``exponent``.
    """
    places = spec.reciprocal_bits
    exact = spec.mode == "exact"

    def cut(value: Any, largest: Any) -> tuple[int, int]:
        value, largest = int(value), int(largest)
        top = value.bit_length() - 1
        if top < 0:
            return 0, 0
        unit = spec.lowest - spec.mantissa_bits if exact else largest - spec.accumulator_bits
        return value >> top - places if top >= places else value << places - top, top + unit

    s, e = np.frompyfunc(cut, 2, 2)(total, exponent)
    return np.asarray(s, dtype=np.int64), np.asarray(e, dtype=np.int64)


def reciprocal(spec: SoftmaxSpec, s: Int) -> Int:
    """``2**(2R + 1) / s`` rounded to nearest, halves up: in (2**R, 2**(R+1)]; 0 for s = 0."""
    divisor = np.maximum(s, 1)
    quotient = ((1 << 2 * spec.reciprocal_bits + 2) // divisor + 1) >> 1
    return np.asarray(np.where(s > 0, quotient, 0))


def normalise(
    spec: SoftmaxSpec, mantissa: Int, exponent: Int, inverse: Int, sum_exponent: Int
) -> tuple[Int, Int]:
    """Results as ``product * 2**exponent``, exact: mantissa times reciprocal."""
    shift = spec.mantissa_bits + spec.reciprocal_bits + 1
    return mantissa * inverse, exponent - sum_exponent - shift


def round_codes(
    product: Int, exponent: Int, out: str, out_shift: int, underflow: formats.Underflow
) -> Codes:
    """``product * 2**(exponent + out_shift)`` to codes, once; ties to even.

    Products have at most 43 bits and exponents stay far inside float64's, so the values are exact.
    """
    value = np.ldexp(product.astype(np.float64), exponent + out_shift)
    if out in FIXED:
        bits = FIXED[out]
        codes = np.minimum(np.rint(np.ldexp(value, bits)), (1 << bits) - 1)
        return codes.astype(np.uint8 if bits == 8 else np.uint16)
    return np.asarray(formats.get(out).encode(value, underflow))


# -- rows ----------------------------------------------------------------------------------------
def check(
    spec: SoftmaxSpec, shape: tuple[int, ...], name: str, factor: Multiplier, out_shift: int = 0
) -> None:
    """Refuse what the unit cannot do: shape of the rows, input format, multiplier, shift.

    Raises:
        DataError: settings out of range, rows without elements.
        AccumulatorError: a row longer than ``spec.max_length``.
        FormatError: a format with infinities.
    """
    if len(shape) == 0 or shape[-1] == 0:
        raise DataError(f"softmax needs rows of at least one element, got shape {shape}")
    if shape[-1] > spec.max_length:
        raise AccumulatorError(
            f"a row of {shape[-1]} elements is longer than the softmax unit's sum holds, "
            f"{spec.max_length}: split it or choose a spec with more carry_bits"
        )
    mantissa, exponent = int(factor[0]), int(factor[1])
    if mantissa.bit_length() != spec.multiplier_bits or mantissa < 0:
        raise DataError(
            f"the multiplier's mantissa has exactly {spec.multiplier_bits} bits, got {mantissa}: "
            "use softmax.multiplier"
        )
    _check_range("the multiplier's exponent", exponent, MULTIPLIER_EXPONENT_BITS)
    _check_range("out_shift", out_shift, OUT_SHIFT_BITS)
    _decoded(name)


class _Row(NamedTuple):
    """Elements of rows: mantissa (0 where not kept), exponent, kept, and rows with a NaN."""

    mantissa: Int
    exponent: Int
    keep: NDArray[np.bool_]
    nan: NDArray[np.bool_]


def _elements(
    spec: SoftmaxSpec, codes: ArrayLike, name: str, factor: Multiplier, keep: ArrayLike | None
) -> _Row:
    """Decode, scale, exp2: what both passes do with every element."""
    array = formats.get(name).check_codes(codes)
    check(spec, array.shape, name, factor)
    kept = np.ones(array.shape, dtype=bool)
    if keep is not None:
        kept &= np.asarray(keep, dtype=bool)
    m, n = exp2(spec, logit(spec, name, (int(factor[0]), int(factor[1])))[array])
    nan = kept & _decoded(name)[2][array]
    return _Row(
        np.where(kept, m, 0), np.where(kept, n, spec.lowest), kept, nan.any(axis=-1, keepdims=True)
    )


def _tiles(values: Int, lanes: int, fill: int) -> Int:
    """(..., N) to (..., tiles, lanes), filled up."""
    missing = -values.shape[-1] % lanes
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=fill)
    return padded.reshape(*values.shape[:-1], -1, lanes)


def _sums(spec: SoftmaxSpec, row: _Row, lanes: int) -> Iterator[tuple[NDArray[Any], Int]]:
    return accumulate(
        spec, _tiles(row.mantissa, lanes, 0), _tiles(row.exponent, lanes, spec.lowest)
    )


def _sum(spec: SoftmaxSpec, row: _Row) -> tuple[Int, Int, Int]:
    """Leading bits and exponent of the sum, and the largest exponent; (..., 1)."""
    # An exact sum is the same by tiles of any size.
    lanes = spec.lanes if spec.mode == "truncating" else row.mantissa.shape[-1]
    for last in _sums(spec, row, lanes):
        total, largest = last
    s, e = leading(spec, total, largest)
    return s[..., None], e[..., None], largest[..., None]


def _finish(
    row: _Row, product: Int, exponent: Int, out: str, out_shift: int, underflow: formats.Underflow
) -> Codes:
    """Round, and give NaN to the kept elements of rows that hold one."""
    codes = round_codes(product, exponent, out, out_shift, underflow)
    nan = row.nan & row.keep
    if not nan.any():
        return codes
    code = None if out in FIXED else formats.get(out).nan_code
    if code is None:
        raise FormatError(f"a row holds NaR and {out} has no code for it")
    return np.where(nan, codes.dtype.type(code), codes)


def softmax(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    format: str,
    multiplier: Multiplier,
    keep: ArrayLike | None = None,
    out: str = "posit8",
    out_shift: int = 0,
    underflow: formats.Underflow = "zero",
) -> Codes:
    """Softmax along the last axis, the bits of the gates.

    Args:
        spec: the unit.
        codes: (..., N) codes of ``format``.
        format: any scalar format without infinities.
        multiplier: of :func:`multiplier`.
        keep: bool, broadcast against ``codes``: elements that are not kept add nothing to the sum
            and become code 0. None keeps all.
        out: result format, or "u0.8" or "u0.16".
        out_shift: results are multiplied by 2**out_shift before the rounding: minus the scale of
            the output tensor.
        underflow: "zero" or "minpos", for posits.

    Returns:
        (..., N) codes of ``out``. A NaR among the kept elements of a row makes them all NaR.

    Raises:
        FormatError: codes that are none; NaR and no code for it; a format with infinities.
        AccumulatorError: a row longer than ``spec.max_length``.
        DataError: settings out of range, rows without elements.
    """
    formats.check_underflow(underflow)
    _check_range("out_shift", out_shift, OUT_SHIFT_BITS)
    row = _elements(spec, codes, format, multiplier, keep)
    s, e, _ = _sum(spec, row)
    product, exponent = normalise(spec, row.mantissa, row.exponent, reciprocal(spec, s), e)
    return _finish(row, product, exponent, out, out_shift, underflow)


def deferred(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    format: str,
    multiplier: Multiplier,
    keep: ArrayLike | None = None,
    out: str = "posit8",
    out_shift: int = 0,
    underflow: formats.Underflow = "zero",
) -> Deferred:
    """Exponentials over the power of two of the largest, and the sum to divide by later.

    In attention the division moves behind the product with the values: fewer roundings below
    the smallest code, and one division an output instead of one a probability. Arguments and
    errors as for :func:`softmax`.
    """
    formats.check_underflow(underflow)
    _check_range("out_shift", out_shift, OUT_SHIFT_BITS)
    row = _elements(spec, codes, format, multiplier, keep)
    s, e, largest = _sum(spec, row)
    exponent = row.exponent - largest - spec.mantissa_bits
    result = _finish(row, row.mantissa, exponent, out, out_shift, underflow)
    relative = np.where(s > 0, e - largest, 0) - spec.reciprocal_bits
    return Deferred(result, s[..., 0], relative[..., 0])


def trace(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    format: str,
    multiplier: Multiplier,
    keep: ArrayLike | None = None,
) -> Trace:
    """The running sum and exponent after every tile, as the gates' ports show them."""
    row = _elements(spec, codes, format, multiplier, keep)
    totals, exponents = zip(*_sums(spec, row, spec.lanes), strict=True)
    return Trace(np.stack(totals, axis=-1).astype(object), np.stack(exponents, axis=-1))
