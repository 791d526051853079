"""Sums and products of two tensors, element by element, and the activations that multiply.

Two operands of up to 8 bits meet in a table of every pair; wider ones are decoded by table, added
or multiplied in float64 and rounded by the kernel of :mod:`opennpe.sim.encode`.

Exactness. A product of two codes has at most 13 + 13 significant bits (16 in the widest posit). A
sum is exact in float64 where both tables' entries are multiples of 2^u and their largest magnitudes
sum to at most 2^53 units; beyond that it is rounded to odd, which is as good.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import activations, formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.golden.network import Tensor
from opennpe.sim.encode import MAX_SCALE, bounds, encode_bits, float_bits, target, two_sum_odd
from opennpe.sim.gemm import run_spans
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.tables import (
    Unsuited,
    convert,
    gather,
    lowest_bit,
    refuse_nan,
    scaled_values,
    spans,
)
from opennpe.sim.values import Value, to_last_axes

__all__ = ["activate", "add", "broadcast_plan", "multiply", "recode"]

Codes = NDArray[Any]
SUM, SUM_ODD, PRODUCT, SLOPE = range(4)
BLOCK = 1024
"""Elements decoded before they are rounded: 8 KiB of float64 stay in the first level cache."""
PAIR_BITS = 16
"""Pairs of codes of so many bits together have a table: 64 Ki entries."""


# -- kernels --------------------------------------------------------------------------------------
@kernel()
def _pair_table(a, b, plan, table, shift, out, begin, end):  # type: ignore[no-untyped-def]
    rows_a, rows_b, step_a, step_b, length = plan
    for row in range(begin // length, (end + length - 1) // length):
        lo = max(begin - row * length, 0)
        count = min(end - row * length, length) - lo
        x = a[rows_a[row] + lo * step_a :]
        y = b[rows_b[row] + lo * step_b :]
        z = out[row * length + lo :]
        # A plain index in each loop: a product of steps would be checked for being negative.
        if step_a == 0:
            high = np.int64(x[0]) << shift
            for i in range(count):
                z[i] = table[high | np.int64(y[i])]
        elif step_b == 0:
            low = np.int64(y[0])
            for i in range(count):
                z[i] = table[(np.int64(x[i]) << shift) | low]
        else:
            for i in range(count):
                z[i] = table[np.uint64((np.int64(x[i]) << shift) | np.int64(y[i]))]


@inlined
def _decode(values, codes, step, out, count):  # type: ignore[no-untyped-def]
    if step == 0:
        out[:count] = values[codes[0]]
    else:
        for i in range(count):
            out[i] = values[codes[i]]


@kernel()
def _pair(a, b, plan, tables, operation, limits, out, t, begin, end):  # type: ignore[no-untyped-def]
    rows_a, rows_b, step_a, step_b, length = plan
    values_a, values_b = tables
    low, high = limits
    left, right = np.empty(BLOCK), np.empty(BLOCK)
    for row in range(begin // length, (end + length - 1) // length):
        for start in range(max(begin - row * length, 0), min(end - row * length, length), BLOCK):
            count = min(BLOCK, min(end - row * length, length) - start)
            _decode(values_a, a[rows_a[row] + start * step_a :], step_a, left, count)
            _decode(values_b, b[rows_b[row] + start * step_b :], step_b, right, count)
            if operation == SUM:
                for i in range(count):
                    left[i] = left[i] + right[i] + 0.0
            elif operation == SUM_ODD:
                for i in range(count):
                    left[i] = two_sum_odd(left[i], right[i]) + 0.0
            elif operation == PRODUCT:
                for i in range(count):
                    left[i] = left[i] * right[i] + 0.0
            else:
                for i in range(count):
                    x = left[i]
                    left[i] = x * right[i] if x < 0.0 else x
            z = out[row * length + start :]
            for i in range(count):
                x = left[i]
                x = low if x < low else x
                x = high if x > high else x
                z[i] = encode_bits(float_bits(x), t)


# -- broadcasting ---------------------------------------------------------------------------------
def broadcast_plan(a: Codes, b: Codes) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """How two contiguous arrays of one rank run through their broadcast shape.

    Returns:
        The shape, and (row starts of a, row starts of b, step of a, step of b, row length): element
        i of row r pairs ``a[starts_a[r] + i * step_a]`` with the same of ``b``.
    """
    if a.shape == b.shape and a.size:
        start = np.zeros(1, dtype=np.int64)
        return a.shape, (start, start, 1, 1, a.size)
    shape = np.broadcast_shapes(a.shape, b.shape)
    steps = [
        [
            0 if n == 1 else stride // x.itemsize
            for n, stride in zip(x.shape, x.strides, strict=True)
        ]
        for x in (a, b)
    ]
    # Axes that both operands run through as one are joined, from the last on.
    axes: list[list[int]] = []
    for axis in reversed(range(len(shape))):
        extent, step_a, step_b = shape[axis], steps[0][axis], steps[1][axis]
        if extent == 1:
            continue
        if axes and all(
            step == inner * axes[-1][0]
            for step, inner in zip((step_a, step_b), axes[-1][1:], strict=True)
        ):
            axes[-1][0] *= extent
        else:
            axes.append([extent, step_a, step_b])
    length, step_a, step_b = axes[0] if axes else (1, 0, 0)
    starts = [np.zeros(1, dtype=np.int64) for _ in range(2)]
    for extent, *outer in axes[1:]:
        starts = [
            (np.arange(extent, dtype=np.int64)[:, None] * step + start).reshape(-1)
            for step, start in zip(outer, starts, strict=True)
        ]
    if 0 in shape:
        return shape, (*starts, 0, 0, 1)
    return shape, (*starts, step_a, step_b, length)


def _arranged(values: list[Value]) -> tuple[list[Codes], bool]:
    """Both operands' codes with one rank and in one layout, the one that moves fewer codes."""
    rank = max(v.ndim for v in values)
    cost_first = sum(v.size for v in values if not v.has_first)
    cost_last = sum(v.size for v in values if v.ndim < rank or not v.has_last)
    last = rank > 2 and cost_last < cost_first
    arranged = []
    for value in values:
        if value.ndim == rank:
            arranged.append(value.layout(last))
            continue
        codes = value.first().reshape((1,) * (rank - value.ndim) + value.shape)
        arranged.append(
            np.ascontiguousarray(codes.transpose(to_last_axes(rank)) if last else codes)
        )
    return arranged, last


def _limits(clip: L.Clip | None, out: Tensor) -> tuple[float, float]:
    """Clip bounds in the output's units, zeros positive.

    Raises:
        Unsuited: they leave float64's range.
    """
    try:
        low, high = bounds(clip, out.scale)
    except FormatError:
        raise Unsuited from None
    return low + 0.0, high + 0.0


# -- tables of one operand ------------------------------------------------------------------------
@lru_cache(maxsize=64)
def _infinite(name: str) -> NDArray[np.bool_] | None:
    """Which codes are infinities, or None where the format has none."""
    flags = np.isinf(formats.get(name).values)
    return np.asarray(flags) if flags.any() else None


@lru_cache(maxsize=128)
def _addend(name: str, scale: int, grid: int, sign: int, out_scale: int) -> NDArray[Any]:
    """What a code adds: on the grid (rounded to nearest even), signed, in the output's units.

    Raises:
        Unsuited: scales beyond reason, or infinities.
    """
    if max(abs(scale - grid), abs(grid - out_scale)) > 2 * MAX_SCALE:
        raise Unsuited
    values = formats.get(name).values
    # Infinities are refused before a table is read.
    units = np.rint(np.ldexp(np.where(np.isinf(values), np.nan, values), scale - grid))
    table = np.ldexp(units, grid - out_scale) * sign
    if np.isinf(table).any() or (np.abs(table[table != 0]) < 2.0**-900).any():
        raise Unsuited
    return _compact(table)


def _compact(table: NDArray[np.float64]) -> NDArray[Any]:
    """The table in float32 where that holds every entry: half the cache."""
    with np.errstate(over="ignore", invalid="ignore"):
        small = table.astype(np.float32)
    chosen = small if np.array_equal(small, table, equal_nan=True) else np.array(table)
    chosen.setflags(write=False)
    return chosen


@lru_cache(maxsize=128)
def _exact_sum(keys: tuple[Any, ...]) -> bool:
    """Whether every sum of two entries is a float64 (module docstring)."""
    tables = [function(*args).astype(np.float64) for function, args in keys]
    unit = min(map(lowest_bit, tables))
    largest = sum(float(np.nanmax(np.abs(table))) for table in tables)
    return math.ldexp(largest, -unit) <= 2.0**53


# -- two operands ---------------------------------------------------------------------------------
def _run(
    arrays: list[Codes],
    tables: tuple[Any, Any],
    operation: int,
    limits: tuple[float, float],
    out: Tensor,
    underflow: formats.Underflow,
    threads: int,
) -> Codes:
    """Codes of every pair in their broadcast shape, by arithmetic."""
    shape, plan = broadcast_plan(*arrays)
    fmt = formats.get(out.format)
    result = np.empty(shape, dtype=fmt.dtype)
    # One kernel for all widths: the narrower codes are copied into the wider type.
    a, b = (np.asarray(x, dtype=np.uint16).reshape(-1) for x in arrays)
    flat, goal = result.reshape(-1), target(out.format, underflow)
    run_spans(
        lambda s: _pair(a, b, plan, tables, operation, limits, flat, goal, s[0], s[1]),
        spans(result.size, threads),
    )
    return result


@lru_cache(maxsize=64)
def _pairs(key: tuple[Any, ...]) -> Codes:
    """The codes of every pair of codes, the first's bits above the second's."""
    (name_a, name_b), tables_key, operation, limits, out, underflow = key
    counts = [1 << formats.get(n).bits for n in (name_a, name_b)]
    codes = [np.arange(n, dtype=np.uint16) for n in counts]
    arrays = [codes[0][:, None], codes[1][None, :]]
    first, second = (function(*args) for function, args in tables_key)
    return _run(arrays, (first, second), operation, limits, out, underflow, 1).reshape(-1)


def _combine(
    ins: list[Tensor],
    values: list[Value],
    out: Tensor,
    tables_key: tuple[Any, Any],
    operation: int,
    limits: tuple[float, float],
    underflow: formats.Underflow,
    threads: int,
) -> tuple[Value, str]:
    arrays, last = _arranged(values)
    bits = [int(formats.get(t.format).bits) for t in ins]
    if sum(bits) <= PAIR_BITS:
        goal = Tensor("", (), out.format, out.scale)
        names = (ins[0].format, ins[1].format)
        table = _pairs((names, tables_key, operation, limits, goal, underflow))
        shape, plan = broadcast_plan(*arrays)
        result = np.empty(shape, dtype=table.dtype)
        a, b, flat = arrays[0].reshape(-1), arrays[1].reshape(-1), result.reshape(-1)
        run_spans(
            lambda s: _pair_table(a, b, plan, table, bits[1], flat, s[0], s[1]),
            spans(result.size, threads),
        )
        path = "table"
    else:
        first, second = (function(*args) for function, args in tables_key)
        result = _run(arrays, (first, second), operation, limits, out, underflow, threads)
        path = "float64, odd" if operation == SUM_ODD else "float64"
    return (Value(last=result) if last else Value(first=result)), path


def add(
    spec: Any, layer: L.Add, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """``signs[0] * a + signs[1] * b``: entry on the common grid, one rounding.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        AccumulatorError: an infinity.
        Unsuited: scales beyond reason.
    """
    for tensor, value in zip(ins, values, strict=True):
        infinite = _infinite(tensor.format)
        if infinite is not None and infinite[value.any()].any():
            raise AccumulatorError(
                f"layer '{layer.name}': an infinity of {tensor.format} cannot enter the accumulator"
            )
    refuse_nan(out, ins, values)
    grid = mac.grid_exponent(ins[0].format, ins[1].format) + max(t.scale for t in ins)
    keys = tuple(
        (_addend, (t.format, t.scale, grid, int(sign), out.scale))
        for t, sign in zip(ins, layer.signs, strict=True)
    )
    operation = SUM if _exact_sum(keys) else SUM_ODD
    limits = _limits(layer.clip, out)
    return _combine(ins, values, out, keys, operation, limits, spec.underflow, threads)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _factor(name: str, exponent: int) -> NDArray[Any]:
    """A code's value times a power of two; infinities are NaN, as in golden's multiply."""
    table = scaled_values(name, exponent)
    return _compact(np.where(np.isinf(table), np.nan, table))


def multiply(
    spec: Any, layer: L.Mul, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """``a * b``, exact, and one rounding.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        Unsuited: scales beyond reason.
    """
    refuse_nan(out, ins, values)
    if formats.get(out.format).nan_code is None and any(
        _infinite(t.format) is not None for t in ins
    ):
        raise Unsuited
    a, b = ins
    keys = (
        (_factor, (a.format, a.scale + b.scale - out.scale)),
        (_factor, (b.format, 0)),
    )
    limits = _limits(layer.clip, out)
    return _combine(ins, values, out, keys, PRODUCT, limits, spec.underflow, threads)


# -- one operand ----------------------------------------------------------------------------------
def _by_table(table: Codes, value: Value, threads: int) -> Value:
    codes = gather(table, value.any(), threads)
    return Value(first=codes) if value.has_first else Value(last=codes)


@lru_cache(maxsize=64)
def _leaky_table(
    slope: int, where: tuple[str, int, str, int], underflow: formats.Underflow
) -> Codes:
    codes = np.arange(1 << formats.get(where[0]).bits)
    return activations.prelu(codes, np.array(slope), *where, underflow)


@lru_cache(maxsize=64)
def _real(name: str, exponent: int) -> NDArray[Any]:
    return _compact(scaled_values(name, exponent))


def activate(
    spec: Any, layer: L.Activate, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """A table of golden's; slopes that differ by channel are multiplied.

    Raises:
        Unsuited: scales beyond reason.
    """
    x, value, underflow = ins[0], values[0], spec.underflow
    where = (x.format, x.scale, out.format, out.scale)
    if layer.slope is None:
        table = activations.table(layer.kind, *where, layer.params, underflow)
        return _by_table(table, value, threads), "table"
    slope = np.asarray(layer.slope)
    if slope.size == 1 and slope.ndim <= value.ndim:
        table = _leaky_table(int(slope.reshape(())), where, underflow)
        return _by_table(table, value, threads), "table"
    arrays, last = _arranged([value, Value(first=slope)])
    tables = _real(x.format, x.scale - out.scale), _real("posit16", 0)
    infinite = (-math.inf, math.inf)
    codes = _run(arrays, tables, SLOPE, infinite, out, underflow, threads)
    return (Value(last=codes) if last else Value(first=codes)), "float64"


def recode(
    spec: Any, layer: L.Convert, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """The same values in the output's format and scale.

    Raises:
        FormatError: NaR met and the target has no code for it.
    """
    return convert(values[0], ins[0], out, spec.underflow, threads), "table"
