"""The streaming softmax as kernels: golden's bits (:mod:`opennpe.golden.softmax`), row by row.

A code's mantissa and exponent come from one table of packed int32, made by golden for a format and
multiplier. An exact sum is an int64 wherever the row's exponents lie close enough together (with P
mantissa bits and N elements, P + 1 + log2 N and their spread within 62 bits), as all but absurd
rows do; else mantissas are added up by exponent and carried upwards, which keeps as many bits below
the leading one as the reciprocal takes. Both give the leading bits of the same integer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats
from opennpe.golden import softmax as golden
from opennpe.golden.errors import FormatError
from opennpe.golden.softmax import Deferred, Multiplier, SoftmaxSpec
from opennpe.sim.encode import Target, encode_bits, float_bits, target
from opennpe.sim.gemm import run_spans
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.tables import spans

__all__ = ["deferred", "softmax"]

Codes = NDArray[Any]
EXACT_BITS = 62
"""Bits of a sum that an int64 holds, carries included."""
WORTH = 1 << 14
"""Elements that are worth a thread."""
NAN = 1 << 30
"""Flag in an element's packed mantissa and exponent, which have at most 29 bits."""
I64 = np.int64


class _Unit(NamedTuple):
    """A spec's numbers, as the kernels' constants."""

    lanes: int
    lowest: int
    mantissa_bits: int
    accumulator_bits: int
    reciprocal_bits: int
    exponents: int


class _Fraction(NamedTuple):
    """Rounding to an unsigned fraction: a counterpart of the targets of :mod:`sim.encode`."""

    one: float
    largest: float


@lru_cache(maxsize=64)
def _unit(spec: SoftmaxSpec) -> _Unit:
    return _Unit(
        spec.lanes,
        spec.lowest,
        spec.mantissa_bits,
        spec.accumulator_bits,
        spec.reciprocal_bits,
        spec.exponents,
    )


@lru_cache(maxsize=64)
def _elements(spec: SoftmaxSpec, name: str, factor: Multiplier) -> NDArray[np.int32]:
    """Every code's exponent above the lowest, over its mantissa; a NaN's has NAN set."""
    m, n = golden.exp2(spec, golden.logit(spec, name, factor))
    packed = (n - spec.lowest) << (spec.mantissa_bits + 1) | m
    packed[formats.get(name).is_nan(np.arange(len(packed)))] |= NAN
    return packed.astype(np.int32)


def _rounded(value: Any, goal: Any) -> Any:
    """A value >= 0 (float64, exact) to a code; what a kernel calls."""
    if isinstance(goal, _Fraction):
        return min(np.rint(value * goal.one), goal.largest)
    return encode_bits(float_bits(value), goal)


@overload(_rounded, jit_options={"forceinline": True})
def _rounded_overload(value, goal):  # type: ignore[no-untyped-def]
    if goal.instance_class is _Fraction:
        return lambda value, goal: min(np.rint(value * goal.one), goal.largest)
    return lambda value, goal: encode_bits(float_bits(value), goal)


@inlined
def _power(exponent):  # type: ignore[no-untyped-def]
    """2**exponent as a float64, for exponents well inside its range."""
    return I64((I64(exponent) + 1023) << 52).view(np.float64)


@kernel()
def _leading(total, unit):  # type: ignore[no-untyped-def]
    """The leading R + 1 bits of a positive int64, and the place of the first."""
    top = 0
    step = 32
    rest = total
    while step:
        if rest >> step:
            rest >>= step
            top += step
        step >>= 1
    shift = top - unit.reciprocal_bits
    return (total >> shift if shift >= 0 else total << -shift), top


@kernel()
def _look(codes, table, keep, masked, packed):  # type: ignore[no-untyped-def]
    """Table entries of a row, -1 where not kept; smallest, largest, and whether a NaN is kept."""
    low, high, flags = np.int32(0x7FFFFFFF), np.int32(-1), np.int32(0)
    for i in range(len(codes)):
        p = table[codes[i]]
        if masked:
            p = p if keep[i] else np.int32(-1)
        flags = flags | (p & ~(p >> 31))
        p = p & np.int32(~NAN) if p >= 0 else p
        packed[i] = p
        high = max(high, p)
        low = min(low, p if p >= 0 else np.int32(0x7FFFFFFF))
    return low, high, (flags & NAN) != 0


@kernel()
def _exact_sum(packed, low, high, bins, unit):  # type: ignore[no-untyped-def]
    """Leading bits and exponent of the sum; ``low`` and ``high`` are exponents above the lowest."""
    places = unit.mantissa_bits + 1
    mask = (I64(1) << places) - 1
    carries = 0
    while len(packed) >> carries:
        carries += 1
    if places + carries + high - low <= EXACT_BITS:
        total = I64(0)
        for i in range(len(packed)):
            p = I64(packed[i])
            shift = (p >> places) - low
            total += ((p & mask) << (shift & 63)) if p >= 0 else I64(0)
        s, top = _leading(total, unit)
        return s, top + low + unit.lowest - unit.mantissa_bits
    for i in range(len(packed)):
        p = packed[i]
        if p >= 0:
            bins[p >> places] += p & mask
    # Everything below an exponent, cut to the reciprocal's bits below its elements' lowest.
    guard = max(0, unit.reciprocal_bits - unit.mantissa_bits)
    total = I64(0)
    for k in range(low, high + 1):
        total = (total >> 1) + (bins[k] << guard)
        bins[k] = 0
    s, top = _leading(total, unit)
    return s, top - guard + high + unit.lowest - unit.mantissa_bits


@kernel()
def _cut_sum(packed, unit):  # type: ignore[no-untyped-def]
    """The truncating sum, tile by tile; at least one element is kept."""
    places = unit.mantissa_bits + 1
    mask = (I64(1) << places) - 1
    up = unit.accumulator_bits - unit.mantissa_bits
    total: Any = I64(0)
    largest: Any = I64(0)
    for begin in range(0, len(packed), unit.lanes):
        end = min(begin + unit.lanes, len(packed))
        before = largest
        for i in range(begin, end):
            largest = max(largest, I64(packed[i]) >> places)
        total = total >> I64(min(largest - before, 62))
        for i in range(begin, end):
            p = I64(packed[i])
            if p >= 0:
                total += ((p & mask) << up) >> I64(min(largest - (p >> places), 62))
    s, top = _leading(total, unit)
    return s, top + largest + unit.lowest - unit.accumulator_bits


@kernel()
def _rows(codes, table, keep, masked, flags, out_shift, nan, out, sums, unit, goal, begin, end):  # type: ignore[no-untyped-def]
    """Rows ``begin`` to ``end``. flags: (exact, deferred).

    sums: int64 (rows, 3): leading bits, exponent of the sum above that of the largest less R, and
    whether a NaN is kept.
    """
    exact, undivided = flags
    length = codes.shape[1]
    places = unit.mantissa_bits + 1
    mask = (I64(1) << places) - 1
    packed = np.empty(length, dtype=np.int32)
    bins = np.zeros(unit.exponents, dtype=np.int64)
    for row in range(begin, end):
        result = out[row]
        low, high, bad = _look(codes[row], table, keep[row if masked else 0], masked, packed)
        sums[row, 2] = bad
        if high < 0 or bad:
            for i in range(length):
                result[i] = nan if packed[i] >= 0 else 0
        if high < 0:
            sums[row, 1] = -unit.reciprocal_bits
            continue
        low, high = I64(low) >> places, I64(high) >> places
        if exact:
            s, exponent = _exact_sum(packed, low, high, bins, unit)
        else:
            s, exponent = _cut_sum(packed, unit)
        sums[row, 0] = s
        sums[row, 1] = exponent - (high + unit.lowest) - unit.reciprocal_bits
        if bad:
            continue
        inverse = (((I64(1) << (2 * unit.reciprocal_bits + 2)) // s) + 1) >> 1
        shift = exponent + unit.mantissa_bits + unit.reciprocal_bits + 1
        if undivided:
            inverse, shift = I64(1), high + unit.lowest + unit.mantissa_bits
        base = unit.lowest - shift + out_shift
        for i in range(length):
            p = I64(packed[i])
            value = np.float64((p & mask) * inverse) * _power((p >> places) + base)
            result[i] = _rounded(value if p >= 0 else 0.0, goal)


def _goal(out: str, underflow: formats.Underflow) -> tuple[Target | _Fraction, Any, int]:
    """What to round to, its storage type and NaN."""
    if out in golden.FIXED:
        bits = golden.FIXED[out]
        largest = float((1 << bits) - 1)
        return _Fraction(float(1 << bits), largest), np.uint8 if bits == 8 else np.uint16, 0
    fmt = formats.get(out)
    return target(out, underflow), fmt.dtype, fmt.nan_code or 0


def _run(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    name: str,
    factor: Multiplier,
    keep: ArrayLike | None,
    out: str,
    out_shift: int,
    underflow: formats.Underflow,
    threads: int,
    undivided: bool,
) -> tuple[Codes, NDArray[np.int64]]:
    formats.check_underflow(underflow)
    array = formats.get(name).check_codes(codes)
    golden.check(spec, array.shape, name, factor, out_shift)
    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
    masked = keep is not None
    kept = np.zeros((1, 1), dtype=np.bool_)
    if masked:
        full = np.broadcast_to(np.asarray(keep, dtype=np.bool_), array.shape)
        kept = np.ascontiguousarray(full).reshape(rows.shape)
    goal, dtype, nan = _goal(out, underflow)
    result = np.empty(rows.shape, dtype=dtype)
    sums = np.zeros((len(rows), 3), dtype=np.int64)
    table = _elements(spec, name, (int(factor[0]), int(factor[1])))
    flags = (spec.mode == "exact", undivided)
    run_spans(
        lambda s: _rows(
            rows, table, kept, masked, flags, out_shift, nan, result, sums, _unit(spec), goal, *s
        ),
        spans(len(rows), threads, max(1, WORTH // array.shape[-1])),
    )
    if sums[:, 2].any() and (out in golden.FIXED or formats.get(out).nan_code is None):
        raise FormatError(f"a row holds NaR and {out} has no code for it")
    return result.reshape(array.shape), sums


def softmax(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    format: str,
    multiplier: Multiplier,
    keep: ArrayLike | None = None,
    out: str = "posit8",
    out_shift: int = 0,
    underflow: formats.Underflow = "zero",
    threads: int = 1,
) -> Codes:
    """:func:`opennpe.golden.softmax.softmax`, faster: arguments, results and errors are its own.

    Args:
        threads: rows are shared out among as many.
    """
    return _run(spec, codes, format, multiplier, keep, out, out_shift, underflow, threads, False)[0]


def deferred(
    spec: SoftmaxSpec,
    codes: ArrayLike,
    format: str,
    multiplier: Multiplier,
    keep: ArrayLike | None = None,
    out: str = "posit8",
    out_shift: int = 0,
    underflow: formats.Underflow = "zero",
    threads: int = 1,
) -> Deferred:
    """:func:`opennpe.golden.softmax.deferred`, faster."""
    result, sums = _run(
        spec, codes, format, multiplier, keep, out, out_shift, underflow, threads, True
    )
    shape = result.shape[:-1]
    return Deferred(result, sums[:, 0].reshape(shape), sums[:, 1].reshape(shape))
