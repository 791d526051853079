"""The layers that transformers add, by definition: softmax in a stream, normalisation, embedding
rows, selection, reduction and the cache of keys and values.

Attention itself is :class:`~opennpe.golden.layers.MatMul`, softmax, MatMul. Grouped queries are
those products with broadcasting: queries (N, H, G, T, D) meet keys (N, H, 1, S, D), so no key or
value is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, layer_norm, mac, softmax
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, NetworkError, SpecError
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.golden.network import Tensor
from opennpe.golden.rounding import check_terms, convert, finish, reciprocal

__all__ = [
    "append",
    "check_rows",
    "gather",
    "kept",
    "norm_unit",
    "normalise",
    "position",
    "reduce",
    "select",
    "stream_softmax",
    "unit",
    "x_hat",
]

Codes = NDArray[Any]
Unit = TypeVar("Unit")


# -- softmax -----------------------------------------------------------------------------------
def unit(layer: L.StreamSoftmax) -> softmax.SoftmaxSpec:
    """The softmax unit's parameters that a layer carries.

    Raises:
        NetworkError: parameters that the unit does not have, or that contradict each other.
    """
    return _made(layer, softmax.SoftmaxSpec)


def norm_unit(layer: L.Normalise) -> NormSpec:
    """The normalisation unit's parameters that a layer carries.

    Raises:
        NetworkError: parameters that the unit does not have, or that contradict each other.
    """
    return _made(layer, NormSpec)


def _made(layer: L.StreamSoftmax | L.Normalise, kind: type[Unit]) -> Unit:
    try:
        return kind(**dict(layer.unit))
    except (TypeError, SpecError) as error:
        raise NetworkError(f"layer '{layer.name}': its unit: {error}") from error


def position(layer: L.LayerBase, index: Codes) -> int:
    """The one index of a position input."""
    return int(np.asarray(index).reshape(-1)[0])


def kept(layer: L.StreamSoftmax, shape: Sequence[int], indices: Sequence[Codes]) -> Codes | None:
    """Which logits count: bool, broadcastable to ``shape``, or None where all do.

    Args:
        layer: says whether there is a position and whether rows see only what precedes them.
        shape: of the logits.
        indices: the inputs after the logits.
    """
    masks = [np.asarray(m) != 0 for m in (indices[:-1] if layer.positioned else indices)]
    if layer.causal:
        offset = layer.offset + (position(layer, indices[-1]) if layer.positioned else 0)
        rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])[None, :]
        masks.append(columns <= rows + offset)
    keep: Codes | None = None
    for mask in masks:
        keep = mask if keep is None else keep & mask
    return keep


def stream_softmax(
    spec: Any, layer: L.StreamSoftmax, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """The unit's softmax of every row."""
    x, chosen = ins[0], unit(layer)
    return softmax.softmax(
        chosen,
        values[0],
        x.format,
        softmax.multiplier(layer.scale * 2.0**x.scale, chosen.multiplier_bits),
        keep=kept(layer, values[0].shape, values[1:]),
        out=out.format,
        out_shift=-out.scale,
        underflow=spec.underflow,
    )


# -- normalisation -----------------------------------------------------------------------------
def x_hat(spec: Any, layer: L.Normalise, x: Tensor, codes: Codes) -> Codes:
    """Normalised rows in the layer's inner format and scale."""
    return layer_norm.normalise(
        norm_unit(layer),
        codes,
        x.format,
        x.scale,
        kind=layer.kind,
        epsilon=layer.epsilon,
        out=layer.inner_format,
        out_shift=-layer.inner_scale,
        underflow=spec.underflow,
    )


def normalise(
    spec: Any, layer: L.Normalise, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """``gamma * x_hat + beta``: x_hat rounded to the inner format, the sum to the output."""
    inner = Tensor(layer.name, ins[0].shape, layer.inner_format, layer.inner_scale)
    codes = x_hat(spec, layer, ins[0], values[0])
    if layer.gamma is None:
        return convert(codes, inner, out, spec.underflow)
    names = (inner.format, layer.weight_format)
    exponent = mac.grid_exponent(*names) + inner.scale + layer.weight_scale
    beta = np.zeros(len(layer.gamma)) if layer.beta is None else layer.beta
    offsets = [mac.to_grid(float(b), exponent) for b in beta]
    check_terms(spec, layer, *names, 1, max(map(abs, offsets)))
    result = np.zeros(codes.shape, dtype=np.int64)
    for at in np.ndindex(*codes.shape):
        product, nan = mac.multiply(*names, int(codes[at]), int(layer.gamma[at[-1]]))
        result[at] = finish(spec, out, product + offsets[at[-1]], exponent, nan)
    return result


# -- rows, choice and the cache ----------------------------------------------------------------
def check_rows(layer: L.LayerBase, index: Codes, rows: int) -> None:
    """Refuse row numbers that a table does not have.

    Raises:
        DataError: naming the layer, the number and the table's length.
    """
    if index.size and int(index.max()) >= rows:
        raise DataError(
            f"layer '{layer.name}': row {int(index.max())} of a table with {rows}: check the ids"
        )


def gather(
    spec: Any, layer: L.Gather, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """Rows of the table, in the output's format."""
    table, index = values
    check_rows(layer, index, len(table))
    return convert(table[index], ins[0], out, spec.underflow)


def select(
    spec: Any, layer: L.Select, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """One of two tensors, element by element, each converted to the output's format."""
    flags, a, b = values
    parts = (convert(v, t, out, spec.underflow) for v, t in zip((a, b), ins[1:], strict=True))
    return np.asarray(np.where(flags != 0, *parts))


def append(
    spec: Any, layer: L.Append, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """The cache with rows from the position on replaced.

    Raises:
        DataError: the rows reach beyond the cache.
    """
    cache, new, index = values
    start, count = position(layer, index), new.shape[-2]
    if start + count > cache.shape[-2]:
        raise DataError(
            f"layer '{layer.name}': rows {start} to {start + count - 1} of a cache of "
            f"{cache.shape[-2]}: it is full"
        )
    result = np.array(convert(cache, ins[0], out, spec.underflow))
    result[..., start : start + count, :] = convert(new, ins[1], out, spec.underflow)
    return result


def reduce(
    spec: Any, layer: L.Reduce, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """Exact sums over the axes; a mean multiplies by the reciprocal rule before it rounds."""
    fmt, axes = formats.get(ins[0].format), layer.axes
    x = values[0]
    sums = fmt.fixed(x).sum(axis=axes, keepdims=True)
    nan = fmt.is_nan(x).any(axis=axes, keepdims=True)
    count = x.size // max(1, sums.size)
    m, q = reciprocal(count) if layer.kind == "mean" else (1, 0)
    exponent = fmt.lsb_exponent + ins[0].scale - q
    result = np.zeros(sums.shape, dtype=np.int64)
    for at in np.ndindex(*sums.shape):
        result[at] = finish(spec, out, sums[at] * m, exponent, bool(nan[at]))
    return result
