"""Layers that move codes: join, cut, pad, reshape, transpose, resize; in the layout at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.sim.integers import integer_table, round_integers
from opennpe.sim.jit import kernel
from opennpe.sim.tables import convert, convert_codes, gather, has_nan, refuse_nan
from opennpe.sim.values import Value, to_last_axes

__all__ = ["concat", "pad", "reshape", "resize", "slices", "transpose"]

Codes = NDArray[Any]


def _order(rank: int, last: bool) -> tuple[int, ...]:
    """The channels-first axis that each stored axis is."""
    return to_last_axes(rank) if last else tuple(range(rank))


def _wrap(codes: Codes, last: bool) -> Value:
    return Value(last=codes) if last else Value(first=codes)


def concat(
    spec: Any, layer: L.Concat, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Tensors joined along an axis, each converted to the output's format and scale.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    rank = values[0].ndim
    last = sum(v.size for v in values if not v.has_last) < sum(
        v.size for v in values if not v.has_first
    )
    axis = _order(rank, last).index(layer.axis % rank)
    batch = max(v.shape[0] for v in values) if layer.axis else None
    parts = []
    for tensor, value in zip(ins, values, strict=True):
        codes = convert_codes(value.layout(last), tensor, out, spec.underflow, threads)
        if batch is not None and codes.shape[0] != batch:
            codes = np.broadcast_to(codes, (batch, *codes.shape[1:]))
        parts.append(codes)
    return _wrap(np.concatenate(parts, axis=axis), last), "copy"


def pad(
    spec: Any, layer: L.Pad, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Constant, reflected or edge padding of every axis.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    value = convert(values[0], ins[0], out, spec.underflow, threads)
    rank, last = value.ndim, not value.has_first
    codes = value.any()
    width = [(layer.pads[i], layer.pads[rank + i]) for i in _order(rank, last)]
    if layer.mode != "constant":
        mode: Any = "reflect" if layer.mode == "reflect" else "edge"
        return _wrap(np.pad(codes, width, mode=mode), last), "copy"
    fill = int(out.encode(layer.value, spec.underflow))
    shape = tuple(n + a + b for n, (a, b) in zip(codes.shape, width, strict=True))
    padded = np.full(shape, fill, dtype=codes.dtype)
    inner = tuple(slice(a, a + n) for n, (a, _) in zip(codes.shape, width, strict=True))
    padded[inner] = codes
    return _wrap(padded, last), "copy"


def slices(
    spec: Any, layer: L.Slice, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """``x[start:stop:step, ...]``.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    value = values[0]
    last = not value.has_first
    index = [slice(*s) for s in layer.slices]
    if value.shape[0] != ins[0].shape[0]:
        index[0] = slice(None)
    cut = tuple(index[axis] for axis in _order(value.ndim, last))
    return convert(_wrap(value.any()[cut], last), ins[0], out, spec.underflow, threads), "copy"


def reshape(
    spec: Any, layer: L.Reshape, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """The same codes in row-major order under another shape.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    value = values[0]
    shape = layer.shape
    if value.shape[:1] != ins[0].shape[:1]:
        shape = (value.shape[0], *shape[1:])
    moved = Value(first=value.first().reshape(shape))
    return convert(moved, ins[0], out, spec.underflow, threads), "view"


def transpose(
    spec: Any, layer: L.Transpose, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Axes permuted.

    Raises:
        FormatError: NaR met and the output format has no code for it.
    """
    value = values[0]
    if tuple(layer.permutation) == to_last_axes(value.ndim):
        # What this asks for is the other layout, which may be there already.
        moved = Value(first=value.last())
    else:
        moved = Value(first=value.view().transpose(layer.permutation))
    return convert(moved, ins[0], out, spec.underflow, threads), "copy"


# -- resize ---------------------------------------------------------------------------------------
@kernel()
def _mix(x, index, weight, out):  # type: ignore[no-untyped-def]
    """``out[o, j, i] = sum_t weight[j, t] * x[o, index[j, t], i]``."""
    outer, count, inner = out.shape
    for o in range(outer):
        for j in range(count):
            row = out[o, j]
            row[:] = 0
            for t in range(index.shape[1]):
                source, factor = x[o, index[j, t]], weight[j, t]
                for i in range(inner):
                    row[i] += source[i] * factor


def resize(
    spec: Any, layer: L.Resize, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Nearest neighbours are taken; weighted ones are exact integer sums, rounded once.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        Unsuited: the weighted sums need more than 64 bits.
    """
    value = values[0]
    last = not value.has_first
    order = _order(value.ndim, last)
    taps = [(layer.indices[axis], layer.weights[axis]) for axis in order]
    if not (len(taps[0][0]) == 1 and taps[0][0].shape[1] == 1):
        batch = taps[0]
    else:  # one row along the batch axis: every sample
        batch = (np.arange(value.shape[0])[:, None], np.ones((value.shape[0], 1), dtype=np.int64))
    taps[0] = batch
    if all(index.shape[1] == 1 for index in layer.indices):
        codes = value.any()
        for axis, (index, _) in enumerate(taps):
            codes = _taken(codes, index[:, 0], axis)
        return convert(_wrap(codes, last), ins[0], out, spec.underflow, threads), "copy"
    refuse_nan(out, ins, values)
    codes = _weighted(layer, value.any(), taps, ins[0], out, spec.underflow, threads)
    return _wrap(codes, last), "integer sums"


def _taken(codes: Codes, rows: NDArray[np.int64], axis: int) -> Codes:
    if np.array_equal(rows, np.arange(codes.shape[axis])):
        return codes
    return np.asarray(codes.take(rows, axis))


def _weighted(
    layer: L.Resize,
    codes: Codes,
    taps: list[tuple[Any, Any]],
    tensor: Tensor,
    out: Tensor,
    underflow: formats.Underflow,
    threads: int,
) -> Codes:
    gain, bits = 1, 0
    for index, weight in taps:
        if index.shape[1] > 1:
            gain *= int(np.abs(weight).sum(axis=1).max())
            bits += layer.fraction_bits
    table, unit = integer_table(tensor.format, codes, gain)
    sums = gather(table.astype(np.int64), codes, threads)
    fmt = formats.get(tensor.format)
    bad = np.isnan(fmt.values)[codes] if has_nan(fmt, codes) else None
    for axis, (index, weight) in enumerate(taps):
        if index.shape[1] == 1:
            sums = _taken(sums, index[:, 0], axis)
        else:
            sums = _mixed(sums, index, weight, axis)
        if bad is not None:
            bad = np.any([bad.take(index[:, t], axis) for t in range(index.shape[1])], axis=0)
    result = round_integers(sums, unit + tensor.scale - bits, out, underflow, threads)
    if bad is not None:
        result[bad] = formats.get(out.format).nan_code
    return result


def _mixed(sums: NDArray[np.int64], index: Any, weight: Any, axis: int) -> NDArray[np.int64]:
    shape = sums.shape
    outer = int(np.prod(shape[:axis], dtype=np.int64))
    result = np.empty((outer, len(index), int(np.prod(shape[axis + 1 :]))), dtype=np.int64)
    x = np.ascontiguousarray(sums).reshape(outer, shape[axis], -1)
    _mix(x, np.asarray(index, dtype=np.int64), np.asarray(weight, dtype=np.int64), result)
    return result.reshape(*shape[:axis], len(index), *shape[axis + 1 :])
