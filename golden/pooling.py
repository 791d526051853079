"""Windows over spatial axes, and the two poolings, by definition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.golden.rounding import convert, finish, reciprocal

__all__ = ["average_counts", "patches", "pool"]

Codes = NDArray[Any]


def patches(x: Codes, kernel: shapes.Shape, layer: L.Conv | L.Pool, fill: int) -> Codes:
    """Windows of (N, C, spatial...) as (N, outputs..., C, taps); padding holds ``fill``."""
    rank = len(kernel)
    ends = layer.pads[rank:]
    extra = [0] * rank
    ceil_mode = isinstance(layer, L.Pool) and layer.ceil_mode
    out = shapes.windows(layer, x.shape[2:], kernel, ceil_mode)
    for i in range(rank):
        reach = (out[i] - 1) * layer.strides[i] + layer.dilations[i] * (kernel[i] - 1) + 1
        extra[i] = max(reach - x.shape[2 + i] - layer.pads[i] - ends[i], 0)
    width = [(0, 0), (0, 0)] + [(layer.pads[i], ends[i] + extra[i]) for i in range(rank)]
    padded = np.pad(x.astype(np.int64), width, constant_values=fill)
    taps = []
    for offset in itertools.product(*(range(k) for k in kernel)):
        index = tuple(
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, layer.dilations, out, layer.strides, strict=True)
        )
        taps.append(padded[(slice(None), slice(None), *index)])
    return np.moveaxis(np.stack(taps, axis=-1), 1, -2)


def pool(spec: Any, layer: L.Pool, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    """Maximum by order keys, or an exact sum times the exact reciprocal rule (decision 0004)."""
    x, tensor = values[0], ins[0]
    inside = patches(np.ones((1, 1, *x.shape[2:]), dtype=np.int64), layer.kernel, layer, 0)
    if layer.kind == "max":
        return _max_pool(spec, layer, tensor, x, inside, out)
    fmt = formats.get(tensor.format)
    windows = patches(x, layer.kernel, layer, 0)
    sums = fmt.fixed(windows).sum(axis=-1)
    nan = fmt.is_nan(windows).any(axis=-1)
    counts = average_counts(layer, x.shape[2:], inside)
    result = np.zeros(sums.shape, dtype=np.int64)
    for index in np.ndindex(sums.shape):
        m, q = reciprocal(int(counts[index[1:-1]]))
        exponent = fmt.lsb_exponent + tensor.scale - q
        result[index] = finish(spec, out, sums[index] * m, exponent, nan[index])
    return np.moveaxis(result, -1, 1)


def average_counts(layer: L.Pool, spatial: shapes.Shape, inside: Codes) -> Codes:
    """Elements each window divides by (outputs...)."""
    if not layer.count_include_pad:
        return np.asarray(np.maximum(inside.sum(axis=-1)[0, ..., 0], 1))
    # Declared padding counts; what ceil_mode adds beyond it does not.
    rank = len(spatial)
    grown = tuple(n + layer.pads[i] + layer.pads[rank + i] for i, n in enumerate(spatial))
    bare = L.Pool(
        layer.name,
        layer.inputs,
        layer.output,
        layer.kind,
        layer.kernel,
        layer.strides,
        (0,) * (2 * rank),
        layer.dilations,
        ceil_mode=layer.ceil_mode,
    )
    ones = patches(np.ones((1, 1, *grown), dtype=np.int64), layer.kernel, bare, 0)
    counts = ones.sum(axis=-1)[0, ..., 0]
    return np.asarray(np.maximum(counts[tuple(slice(n) for n in inside.shape[1:-2])], 1))


def _max_pool(
    spec: Any, layer: L.Pool, tensor: Tensor, x: Codes, inside: Codes, out: Tensor
) -> Codes:
    fmt = formats.get(tensor.format)
    keys = fmt.order_key(x).astype(np.int64)
    lowest = -(1 << 24)
    windows = patches(keys - lowest, layer.kernel, layer, 0) + lowest
    best = np.where(inside == 1, windows, lowest).max(axis=-1)
    by_key = {int(k): c for c, k in enumerate(fmt.order_key(np.arange(1 << fmt.bits)))}
    codes = np.vectorize(lambda key: by_key.get(int(key), 0))(best)
    return convert(np.moveaxis(codes, -1, 1), tensor, out, spec.underflow)
