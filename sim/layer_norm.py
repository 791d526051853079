"""Golden's LayerNorm and RMSNorm of codes as kernels: two passes a row, all integers.

Sums are 64-bit integers, the total of variance and epsilon 128 bits in two halves, once a row. A
result before its rounding is an integer of at most 63 bits; it goes to the rounding kernel rounded
to odd (:mod:`opennpe.sim.encode`). Nothing depends on the order, so nothing on the threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats
from opennpe.golden import layer_norm as golden
from opennpe.golden.errors import FormatError
from opennpe.golden.formats import Underflow
from opennpe.golden.layer_norm import Kind
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.sim.encode import encode_bits, float_bits, target
from opennpe.sim.gemm import run_spans
from opennpe.sim.integers import scaled_integer
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.tables import WORTH_A_THREAD, spans

__all__ = ["normalise"]

Codes = NDArray[Any]
U64 = np.uint64
LOW = 0xFFFFFFFF
NO_NAN = -1


class Numbers(NamedTuple):
    """The spec's numbers that the kernels use."""

    rsqrt_bits: int
    table_bits: int
    seed_bits: int
    middle_bits: int


@lru_cache(maxsize=16)
def _fits(spec: NormSpec) -> bool:
    """Whether the kernels' 64 bits hold the spec's numbers."""
    newton = spec.rsqrt_bits + 2 * spec.middle_bits + 2
    return (
        spec.magnitude_bits <= 31
        and max(spec.square_sum_bits, spec.difference_bits + 1, newton + 1) <= 64
        and max(spec.rsqrt_bits, spec.middle_bits) <= 24
    )


@lru_cache(maxsize=64)
def _grid(spec: NormSpec, name: str) -> NDArray[np.int32]:
    return golden.grid_table(spec, name).astype(np.int32)


@lru_cache(maxsize=16)
def _seeds(spec: NormSpec) -> NDArray[np.int64]:
    return np.array(golden.seed_table(spec), dtype=np.int64)


# -- once a row -----------------------------------------------------------------------------------
@inlined
def _times(a, b):  # type: ignore[no-untyped-def]
    """(high, low) of a product of two uint64."""
    a1, a0, b1, b0 = a >> U64(32), a & U64(LOW), b >> U64(32), b & U64(LOW)
    low = a0 * b0
    middle = a1 * b0 + (low >> U64(32))
    other = a0 * b1 + (middle & U64(LOW))
    high = a1 * b1 + (middle >> U64(32)) + (other >> U64(32))
    return high, (other << U64(32)) | (low & U64(LOW))


@inlined
def _bits(value):  # type: ignore[no-untyped-def]
    """Bit length of a uint64."""
    count = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> U64(step):
            value >>= U64(step)
            count += step
    return count + np.int64(value)


@inlined
def _total(count, squares, mean, epsilon, shift):  # type: ignore[no-untyped-def]
    """(high, low) of ``count * squares - mean^2 + (epsilon << shift)``, at least one."""
    high, low = _times(U64(count), squares)
    size = U64(-mean if mean < 0 else mean)
    mean_high, mean_low = _times(size, size)
    high, low = high - mean_high - U64(low < mean_low), low - mean_low
    e = U64(epsilon)
    if shift >= 64:
        e_high, e_low = e << U64(shift - 64), U64(0)
    elif shift > 0:
        e_high, e_low = e >> U64(64 - shift), e << U64(shift)
    else:
        e_high, e_low = U64(0), e
    low += e_low
    high += e_high + U64(low < e_low)
    return high, low | U64((high | low) == U64(0))


@inlined
def _root(high, low, seeds, n):  # type: ignore[no-untyped-def]
    """(mantissa, exponent) of the reciprocal square root, as golden's ``root``."""
    length = 64 + _bits(high) if high else _bits(low)
    exponent = (length - 1) // 2
    # The operand is the total times 2^(P - 2 exponent), cut.
    down = 2 * exponent - n.rsqrt_bits
    if down >= 64:
        operand = np.int64(high >> U64(down - 64))
    elif down > 0:
        operand = np.int64((low >> U64(down)) | (high << U64(64 - down)))
    else:
        operand = np.int64(low << U64(-down))
    p, s, q = n.rsqrt_bits, n.seed_bits, n.middle_bits
    y = seeds[operand >> (p - n.table_bits)]
    first = y * ((3 << (p + 2 * s)) - operand * y * y) >> (p + 3 * s + 1 - q)
    term = (3 << (p + 2 * q)) - operand * first * first
    # first * term >> 3q, the term in two parts.
    part = first * (term >> 24) + (first * (term & 0xFFFFFF) >> 24)
    return ((part >> (3 * q - 24)) + 1) >> 1, exponent


# -- rows -----------------------------------------------------------------------------------------
@inlined
def _scale(mantissa, exponent, n, out_shift):  # type: ignore[no-untyped-def]
    """``2**(out_shift - rsqrt_bits - exponent)`` as a float64; normal for every spec."""
    return np.int64((out_shift - n.rsqrt_bits - exponent + 1023) << 52).view(np.float64)


@kernel()
def _whole_rows(codes, out, grid, nan, rms, epsilon, shift, seeds, n, out_shift, t, begin, end):  # type: ignore[no-untyped-def]  # fmt: skip
    length = codes.shape[1]
    x = np.empty(length, dtype=np.int32)
    for row in range(begin, end):
        source, result = codes[row], out[row]
        total, squares, bad = np.int64(0), U64(0), 0
        for i in range(length):
            x[i] = grid[source[i]]
            bad |= source[i] == nan
        for i in range(length):
            total += np.int64(x[i])
            squares += U64(np.int64(x[i]) * np.int64(x[i]))
        if bad:
            result[:] = t.nan
            continue
        mean = np.int64(0) if rms else total
        high, low = _total(length, squares, mean, epsilon[row], shift[row])
        mantissa, exponent = _root(high, low, seeds, n)
        factor = _scale(mantissa, exponent, n, out_shift)
        multiplier, offset = length * mantissa, mean * mantissa
        for i in range(length):
            difference = np.int64(x[i]) * multiplier - offset
            value = scaled_integer(difference, factor) + 0.0
            result[i] = encode_bits(float_bits(value), t)


@kernel()
def _masked_rows(codes, keep, out, grid, nan, rms, epsilon, shift, seeds, n, out_shift, t, begin, end):  # type: ignore[no-untyped-def]  # noqa: E501  # fmt: skip
    length = codes.shape[1]
    x = np.empty(length, dtype=np.int32)
    for row in range(begin, end):
        source, kept, result = codes[row], keep[row], out[row]
        total, squares, count, bad = np.int64(0), U64(0), np.int64(0), 0
        for i in range(length):
            x[i] = grid[source[i]] if kept[i] else 0
            bad |= (source[i] == nan) & kept[i]
        for i in range(length):
            count += kept[i]
            total += np.int64(x[i])
            squares += U64(np.int64(x[i]) * np.int64(x[i]))
        if bad:
            for i in range(length):
                result[i] = t.nan if kept[i] else 0
            continue
        count = max(count, np.int64(1))
        mean = np.int64(0) if rms else total
        high, low = _total(count, squares, mean, epsilon[row], shift[row])
        mantissa, exponent = _root(high, low, seeds, n)
        factor = _scale(mantissa, exponent, n, out_shift)
        multiplier, offset = count * mantissa, mean * mantissa
        for i in range(length):
            difference = (np.int64(x[i]) * multiplier - offset) * kept[i]
            value = scaled_integer(difference, factor) + 0.0
            result[i] = encode_bits(float_bits(value), t)


def normalise(
    spec: NormSpec,
    codes: ArrayLike,
    format: str,
    scale: int = 0,
    kind: Kind = "layer",
    epsilon: float = 1e-5,
    keep: ArrayLike | None = None,
    out: str = "posit16",
    out_shift: int = 0,
    underflow: Underflow = "zero",
    threads: int = 1,
) -> Codes:
    """:func:`opennpe.golden.layer_norm.normalise`, bit for bit, with threads.

    Specs whose numbers need more than 64 bits go to golden itself.

    Raises:
        FormatError: as golden.
        AccumulatorError: as golden.
    """
    fmt, result_format = formats.get(format), formats.get(out)
    array = fmt.check_codes(codes)
    if array.ndim == 0 or array.size == 0 or not _fits(spec):
        return golden.normalise(
            spec, array, format, scale, kind, epsilon, keep, out, out_shift, underflow
        )
    length = array.shape[-1]
    rows = np.ascontiguousarray(array, dtype=fmt.dtype).reshape(-1, length)
    kept = None
    counts = np.full(len(rows), length)
    if keep is not None:
        flags = np.broadcast_to(np.asarray(keep, dtype=bool), array.shape)
        kept = np.ascontiguousarray(flags).reshape(-1, length).view(np.uint8)
        counts = kept.sum(axis=1, dtype=np.int64)
    found = {
        int(count): golden.settings(
            spec, format, int(count), scale, kind, epsilon, out, out_shift, underflow
        )
        for count in np.unique(counts)[::-1]
    }
    nan = NO_NAN if fmt.nan_code is None else fmt.nan_code
    if result_format.nan_code is None and fmt.nan_code is not None:
        met = rows == fmt.nan_code
        if bool((met if kept is None else met & kept.view(bool)).any()):
            raise FormatError(f"a sum is NaR and {out} has no code for it")
    units = [found[int(count)] for count in counts] if len(found) > 1 else None
    given = found[int(counts[0])]
    if units is None:
        mantissas = np.full(len(rows), given.epsilon)
        shifts = np.full(len(rows), given.epsilon_shift)
    else:
        mantissas = np.array([u.epsilon for u in units])
        shifts = np.array([u.epsilon_shift for u in units])
    result = np.empty(rows.shape, dtype=result_format.dtype)
    common = (result, _grid(spec, format), nan, given.kind, mantissas, shifts, _seeds(spec),
              Numbers(spec.rsqrt_bits, spec.table_bits, spec.seed_bits, spec.middle_bits),
              out_shift, target(out, underflow))  # fmt: skip
    shares = spans(len(rows), threads, max(1, WORTH_A_THREAD // length))
    if kept is None:
        run_spans(lambda s: _whole_rows(rows, *common, s[0], s[1]), shares)
    else:
        run_spans(lambda s: _masked_rows(rows, kept, *common, s[0], s[1]), shares)
    return result.reshape(array.shape)
