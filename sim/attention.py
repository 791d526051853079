"""The layers of transformers: embedding rows, rotary positions, choice, cache, reductions, and the
affine half of a normalisation.

Exactness. A rotated element is a sum of two products of at most 13 + 13 significant bits, and a
normalised one a product and an offset: both products are float64, the sum is rounded to odd, which
is as good as exact for the rounding that follows (:mod:`opennpe.sim.encode`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import attention, formats, mac, softmax
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.golden.rotary import halves, position_rows
from opennpe.golden.rounding import check_terms, reciprocal
from opennpe.sim import layer_norm
from opennpe.sim import stream_softmax as softmax_kernel
from opennpe.sim.encode import encode_bits, float_bits, target, two_sum_odd
from opennpe.sim.gemm import run_spans
from opennpe.sim.integers import integer_table, power, scaled_integer
from opennpe.sim.jit import kernel
from opennpe.sim.operands import grid_units, largest
from opennpe.sim.tables import (
    Unsuited,
    convert_codes,
    gather,
    has_nan,
    refuse_nan,
    scaled_values,
    spans,
)
from opennpe.sim.values import Value

__all__ = ["append", "normalise", "reduce", "rotary", "rows", "select", "stream_softmax"]

Codes = NDArray[Any]
WORTH = 1 << 15
"""Elements of these kernels that are worth a thread."""


# -- moved codes ----------------------------------------------------------------------------------
def rows(
    spec: Any, layer: L.Gather, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Rows of a table by number.

    Raises:
        DataError: a row that the table does not have.
        FormatError: NaR met and the output format has no code for it.
    """
    table, index = values[0].first(), values[1].first()
    attention.check_rows(layer, index, len(table))
    picked = table.take(index.reshape(-1), axis=0).reshape(*index.shape, *table.shape[1:])
    return Value(first=convert_codes(picked, ins[0], out, spec.underflow, threads)), "copy"


def select(
    spec: Any, layer: L.Select, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """One of two tensors, element by element.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    parts = [
        convert_codes(v.first(), t, out, spec.underflow, threads)
        for v, t in zip(values[1:], ins[1:], strict=True)
    ]
    return Value(first=np.where(values[0].first() != 0, *parts)), "copy"


def append(
    spec: Any, layer: L.Append, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """The cache with new rows, in golden's way: it moves whole rows already."""
    return Value(first=attention.append(spec, layer, ins, [v.first() for v in values], out)), "copy"


# -- rotary positions -----------------------------------------------------------------------------
@kernel()
def _rotate(x, index, value, cos, sin, first, second, out, t, begin, end):  # type: ignore[no-untyped-def]
    count = cos.shape[1]
    start_a, step_a = first
    start_b, step_b = second
    for row in range(begin, end):
        source, result, at = x[row], out[row], index[row % index.size]
        c, s = cos[at], sin[at]
        for i in range(count):
            a, b = value[source[start_a + i * step_a]], value[source[start_b + i * step_b]]
            low = two_sum_odd(a * c[i], -(b * s[i])) + 0.0
            high = two_sum_odd(b * c[i], a * s[i]) + 0.0
            result[start_a + i * step_a] = encode_bits(float_bits(low), t)
            result[start_b + i * step_b] = encode_bits(float_bits(high), t)


@lru_cache(maxsize=64)
def _numbers(name: str, exponent: int) -> NDArray[np.float64]:
    """A code's value times a power of two; infinities are NaN, as in golden's multiply."""
    table = scaled_values(name, exponent)
    return np.where(np.isinf(table), np.nan, table)


def rotary(
    spec: Any, layer: L.Rotary, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Rotary position embedding.

    Raises:
        DataError: a position that the tables do not have.
        FormatError: NaR and an output format that has no code for it.
        Unsuited: scales beyond reason.
    """
    x = values[0].first()
    index = position_rows(layer, x.shape[-2], values[1].first() if len(values) > 1 else None)
    width = x.shape[-1]
    refuse_nan(out, ins[:1], values[:1])
    weights = _numbers(layer.weight_format, 0)
    cos, sin = weights[layer.cos], weights[layer.sin]
    if formats.get(out.format).nan_code is None and not np.isfinite([cos, sin]).all():
        raise Unsuited
    value = _numbers(ins[0].format, ins[0].scale - out.scale)
    result = np.empty(x.shape, dtype=formats.get(out.format).dtype)
    if 2 * cos.shape[1] < width:
        result[...] = convert_codes(x, ins[0], out, spec.underflow, threads)
    ends = tuple((s.start, s.step or 1) for s in halves(layer, width))
    flat, written = x.reshape(-1, width), result.reshape(-1, width)
    goal = target(out.format, spec.underflow)
    run_spans(
        lambda s: _rotate(flat, index, value, cos, sin, *ends, written, goal, s[0], s[1]),
        spans(len(flat), threads, WORTH // width + 1),
    )
    return Value(first=result), "float64"


# -- reductions -----------------------------------------------------------------------------------
@kernel()
def _round_sums(sums, factor, out, t):  # type: ignore[no-untyped-def]
    for i in range(sums.size):
        out[i] = encode_bits(float_bits(scaled_integer(sums[i], factor) + 0.0), t)


def reduce(
    spec: Any, layer: L.Reduce, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Sum or mean over axes by exact integers.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        Unsuited: the tensor spans more than 64 bits can sum, or a scale beyond reason.
    """
    refuse_nan(out, ins, values)
    x, axes, fmt = values[0].first(), layer.axes, formats.get(ins[0].format)
    count = math.prod(x.shape[a] for a in axes)
    table, unit = integer_table(fmt.name, x, max(count, 1))
    sums = gather(table.astype(np.int64), x, threads).sum(axis=axes, keepdims=True)
    m, q = reciprocal(count) if layer.kind == "mean" else (1, 0)
    factor = m * power(unit + ins[0].scale - q - out.scale)
    result = np.empty(sums.shape, dtype=formats.get(out.format).dtype)
    _round_sums(
        np.ascontiguousarray(sums).reshape(-1),
        factor,
        result.reshape(-1),
        target(out.format, spec.underflow),
    )
    if has_nan(fmt, x):
        bad = np.isnan(fmt.values)[x].any(axis=axes, keepdims=True)
        result[bad] = formats.get(out.format).nan_code
    return Value(first=result), "integer sums"


# -- normalisation --------------------------------------------------------------------------------
@kernel()
def _scale_and_move(x, value, gamma, beta, out, t, begin, end):  # type: ignore[no-untyped-def]
    for row in range(begin, end):
        source, result = x[row], out[row]
        for i in range(source.size):
            total = two_sum_odd(value[source[i]] * gamma[i], beta[i]) + 0.0
            result[i] = encode_bits(float_bits(total), t)


def normalise(
    spec: Any, layer: L.Normalise, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """``gamma * x_hat + beta``, with the unit's x_hat.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        Unsuited: scales beyond reason.
    """
    x, inner = ins[0], Tensor(layer.name, ins[0].shape, layer.inner_format, layer.inner_scale)
    codes = layer_norm.normalise(
        attention.norm_unit(layer),
        values[0].first(),
        x.format,
        x.scale,
        kind=layer.kind,
        epsilon=layer.epsilon,
        out=inner.format,
        out_shift=-inner.scale,
        underflow=spec.underflow,
        threads=threads,
    )
    if layer.gamma is None:
        return Value(first=convert_codes(codes, inner, out, spec.underflow, threads)), "unit"
    names = (inner.format, layer.weight_format)
    exponent = mac.grid_exponent(*names) + inner.scale + layer.weight_scale
    beta = np.zeros(len(layer.gamma)) if layer.beta is None else layer.beta
    units = grid_units(beta.astype(np.float64), np.full(len(beta), exponent))
    check_terms(spec, layer, *names, 1, largest(units))
    gamma = _numbers(layer.weight_format, layer.weight_scale)[layer.gamma]
    if formats.get(out.format).nan_code is None and (
        np.isnan(gamma).any() or not np.isfinite(formats.get(inner.format).values[codes]).all()
    ):
        raise Unsuited
    # Beta was a float64, and rounding it to the grid made it no longer: float64 holds the units.
    offsets = units.astype(np.float64) * power(exponent - out.scale)
    result = np.empty(codes.shape, dtype=formats.get(out.format).dtype)
    flat, written = (a.reshape(-1, codes.shape[-1]) for a in (codes, result))
    value, goal = (
        _numbers(inner.format, inner.scale - out.scale),
        target(out.format, spec.underflow),
    )
    run_spans(
        lambda s: _scale_and_move(flat, value, gamma, offsets, written, goal, s[0], s[1]),
        spans(len(flat), threads, WORTH // flat.shape[1] + 1),
    )
    return Value(first=result), "float64, odd"


# -- softmax --------------------------------------------------------------------------------------
def stream_softmax(
    spec: Any,
    layer: L.StreamSoftmax,
    ins: list[Tensor],
    values: list[Value],
    out: Tensor,
    threads: int,
) -> tuple[Value, str]:
    """The softmax unit, row by row.

    Raises:
        FormatError: NaR and an output format that has no code for it.
        AccumulatorError: rows that are too long.
    """
    x, unit, codes = ins[0], attention.unit(layer), values[0].first()
    found = softmax_kernel.softmax(
        unit,
        codes,
        x.format,
        softmax.multiplier(layer.scale * 2.0**x.scale, unit.multiplier_bits),
        keep=attention.kept(layer, codes.shape, [v.first() for v in values[1:]]),
        out=out.format,
        out_shift=-out.scale,
        underflow=spec.underflow,
        threads=threads,
    )
    return Value(first=found), "unit"
