"""Golden's reproducible softmax in one pass over each row (decision 0007).

The exponential is golden's, operation by operation: each is one correctly rounded float64
operation in the same order, and nothing is contracted, so the bits are the same. Its results are
integers of at most 2^40, kept in float64: sums of up to 2^12 of them stay below 2^53 and are exact
in any order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import activations, formats
from opennpe.golden import layers as L
from opennpe.golden.activations import EXP_BITS
from opennpe.golden.network import Tensor
from opennpe.sim.encode import encode, encode_bits, float_bits, target
from opennpe.sim.gemm import run_spans
from opennpe.sim.integers import power
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.tables import Unsuited, has_nan, refuse_nan, scaled_values, spans
from opennpe.sim.values import Value, to_last_axes

__all__ = ["softmax"]

Codes = NDArray[Any]
LONGEST = 1 << 12
LOG2E = activations._LOG2E
LN2_HIGH, LN2_LOW = activations._LN2_HIGH, activations._LN2_LOW
COEFFICIENTS = tuple(1.0 / math.factorial(k) for k in range(14))
WAYS = 8
"""Partial maxima and sums that run side by side in vectors."""


@inlined
def _exp_fixed(x):  # type: ignore[no-untyped-def]
    """``activations.exp_fixed`` of one value x <= 0, as a float64."""
    clipped = x if x > -64.0 else -64.0
    n = np.rint(clipped * LOG2E)
    r = (clipped - n * LN2_HIGH) - n * LN2_LOW
    p = COEFFICIENTS[13]
    p = p * r + COEFFICIENTS[12]
    p = p * r + COEFFICIENTS[11]
    p = p * r + COEFFICIENTS[10]
    p = p * r + COEFFICIENTS[9]
    p = p * r + COEFFICIENTS[8]
    p = p * r + COEFFICIENTS[7]
    p = p * r + COEFFICIENTS[6]
    p = p * r + COEFFICIENTS[5]
    p = p * r + COEFFICIENTS[4]
    p = p * r + COEFFICIENTS[3]
    p = p * r + COEFFICIENTS[2]
    p = p * r + COEFFICIENTS[1]
    p = p * r + COEFFICIENTS[0]
    # n + 40 lies between -53 and 40: the power is normal and the product exact.
    exponent = (np.int64(n) + (EXP_BITS + 1023)) << 52
    return np.rint(p * np.int64(exponent).view(np.float64))


@kernel()
def _rows(codes, table, factor, out, t, begin, end):  # type: ignore[no-untyped-def]
    length = codes.shape[1]
    whole = length // WAYS * WAYS
    x, best, total = np.empty(length), np.empty(WAYS), np.empty(WAYS)
    for row in range(begin, end):
        source, result = codes[row], out[row]
        for i in range(length):
            x[i] = table[source[i]]
        best[:] = x[0]
        for i in range(0, whole, WAYS):
            for k in range(WAYS):
                best[k] = x[i + k] if x[i + k] > best[k] else best[k]
        for i in range(whole, length):
            best[0] = x[i] if x[i] > best[0] else best[0]
        highest = best.max()
        for i in range(length):
            x[i] = _exp_fixed(x[i] - highest)
        total[:] = 0.0
        for i in range(0, whole, WAYS):
            for k in range(WAYS):
                total[k] += x[i + k]
        for i in range(whole, length):
            total[0] += x[i]
        all_of_it = total.sum()
        for i in range(length):
            result[i] = encode_bits(float_bits(x[i] / all_of_it * factor), t)


@lru_cache(maxsize=64)
def _values(name: str, scale: int) -> NDArray[np.float64]:
    return np.array(scaled_values(name, scale))


def _by_golden(
    layer: L.Softmax, tensor: Tensor, value: Value, out: Tensor, underflow: formats.Underflow
) -> Value:
    real = activations.softmax(tensor.decode(value.first()), layer.axis, layer.log)
    return Value(first=encode(np.ldexp(real, -out.scale), out.format, underflow))


def softmax(
    spec: Any, layer: L.Softmax, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Softmax or its logarithm along an axis.

    Raises:
        FormatError: NaR and an output format that has no code for it.
        Unsuited: an infinity, or a scale beyond reason.
    """
    value, tensor = values[0], ins[0]
    fmt = formats.get(tensor.format)
    if np.isinf(fmt.values).any():
        raise Unsuited
    table, factor = _values(tensor.format, tensor.scale), power(-out.scale)
    refuse_nan(out, ins, values)
    axis = layer.axis % value.ndim
    last = value.ndim > 2 and axis == 1 and not value.has_first
    stored = to_last_axes(value.ndim).index(axis) if last else axis
    codes = np.ascontiguousarray(np.moveaxis(value.layout(last), stored, -1))
    if layer.log or has_nan(fmt, codes) or codes.shape[-1] > LONGEST:
        return _by_golden(layer, tensor, value, out, spec.underflow), "host"
    rows = codes.reshape(-1, codes.shape[-1])
    result = np.empty(rows.shape, dtype=formats.get(out.format).dtype)
    goal = target(out.format, spec.underflow)
    run_spans(
        lambda s: _rows(rows, table, factor, result, goal, s[0], s[1]),
        spans(len(rows), threads, max(1, (1 << 15) // codes.shape[-1])),
    )
    arranged = np.moveaxis(result.reshape(codes.shape), -1, stored)
    return (Value(last=arranged) if last else Value(first=arranged)), "host"
