"""Translators of pooling, padding and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Unsupported
from opennpe.quant.onnx_reader import Node
from opennpe.quant.ops_linear import auto_pads, window
from opennpe.quant.ops_shape import axes_of, axis_of

__all__ = ["OPERATORS"]

Kind = Literal["max", "average"]


def _pool(b: Builder, node: Node, kind: Kind) -> None:
    if any(node.outputs[1:]):
        raise Unsupported("the indices of the maxima")
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    kernel = tuple(int(k) for k in node.attributes.get("kernel_shape", ()))
    if len(kernel) != len(shape) - 2 or not 1 <= len(kernel) <= 3 or min(kernel) < 1:
        raise ModelError(f"node '{node.name}': kernel {kernel} over shape {shape}")
    strides, dilations = window(node, kernel, "strides"), window(node, kernel, "dilations")
    pads = auto_pads(node, shape[2:], kernel, strides, dilations)
    if any(p >= d * (k - 1) + 1 for p, k, d in zip(pads, kernel * 2, dilations * 2, strict=True)):
        raise Unsupported(f"pads {pads} as wide as the kernel {kernel}")
    b.put(
        L.Pool,
        node,
        [x],
        node.outputs[0],
        kind=kind,
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        count_include_pad=bool(node.attributes.get("count_include_pad", 0)),
        ceil_mode=bool(node.attributes.get("ceil_mode", 0)),
    )


def _whole(b: Builder, node: Node, x: str, kind: Kind, out: str | None = None) -> str:
    kernel = b.shape(x)[2:]
    one = (1,) * len(kernel)
    return b.put(
        L.Pool,
        node,
        [x],
        out,
        kind=kind,
        kernel=kernel,
        strides=one,
        pads=(0,) * (2 * len(kernel)),
        dilations=one,
    )


def _global_pool(b: Builder, node: Node, kind: Kind) -> None:
    x = b.operand(node.inputs[0])
    if not 3 <= len(b.shape(x)) <= 5:
        raise Unsupported(f"shape {b.shape(x)}: expected 1 to 3 spatial axes")
    _whole(b, node, x, kind, node.outputs[0])


def _reduce(b: Builder, node: Node, how: str) -> None:
    x = b.operand(node.inputs[0])
    shape, out = b.shape(x), node.outputs[0]
    since = 13 if how == "sum" else 18
    axes = axes_of(b, node, 1, len(shape), since)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            b.same(out, x)
            return
        axes = tuple(range(len(shape)))
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    final = (
        kept
        if node.attributes.get("keepdims", 1)
        else tuple(n for i, n in enumerate(shape) if i not in axes)
    )
    spatial = (how == "max" and len(shape) == 3) or (
        how in ("max", "average") and 4 <= len(shape) <= 5
    )
    if spatial and axes == tuple(range(2, len(shape))):
        kind: Any = how
        if final == kept:
            _whole(b, node, x, kind, out)
        else:
            b.reshape(node, _whole(b, node, x, kind), final, out)
        return
    trailing = axes == tuple(range(len(shape) - len(axes), len(shape)))
    if how == "average" or (how == "sum" and not trailing):
        kind = "mean" if how == "average" else "sum"
        if final == kept:
            b.put(L.Reduce, node, [x], out, kind=kind, axes=axes)
        else:
            b.reshape(node, b.put(L.Reduce, node, [x], kind=kind, axes=axes), final, out)
        return
    b.reshape(node, _reduced(b, node, x, axes, how), final, out)


def _reduced(b: Builder, node: Node, x: str, axes: tuple[int, ...], how: str) -> str:
    """The axes moved last and joined, then one pooling or one product with ones."""
    shape = b.shape(x)
    rest = [i for i in range(len(shape)) if i not in axes]
    if [*rest, *axes] != list(range(len(shape))):
        x = b.transpose(node, x, [*rest, *axes])
    count = math.prod(shape[a] for a in axes)
    lead = shape[0] if 0 not in axes and shape else 1
    side = math.prod(shape[i] for i in rest) // lead
    x = b.reshape(node, x, (lead, side, count))
    if how == "sum":
        return b.linear(node, x, np.ones((1, count)))
    if how == "min":
        x = b.affine(node, x, -1.0, 0.0)
        return b.affine(node, _whole(b, node, x, "max"), -1.0, 0.0)
    return _whole(b, node, x, "max" if how == "max" else "average")


def _pad(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    rank = len(b.shape(x))
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"mode '{mode}': expected constant, reflect or edge")
    if b.opset < 11:
        given, value = node.attributes.get("pads", ()), float(node.attributes.get("value", 0.0))
        axes = tuple(range(rank))
    else:
        given = b.constant(node, 1, "its pads").ravel()
        fill = b.constant(node, 2, "its value")
        value = 0.0 if fill is None or not fill.size else float(fill.ravel()[0])
        some = b.constant(node, 3, "its axes")
        axes = tuple(axis_of(node, int(a), rank) for a in range(rank) if some is None) or tuple(
            axis_of(node, int(a), rank) for a in np.asarray(some).ravel()
        )
    if len(given) != 2 * len(axes):
        raise ModelError(f"node '{node.name}': {len(given)} pads for {len(axes)} axes")
    if not math.isfinite(value):
        raise Unsupported(f"a padding value of {value}")
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begins[axis], ends[axis] = int(given[i]), int(given[len(axes) + i])
    if min(begins + ends, default=0) < 0:
        x = _crop(b, node, x, begins, ends)
        begins, ends = [max(0, n) for n in begins], [max(0, n) for n in ends]
    shape = b.shape(x)
    if mode == "reflect" and any(p >= shape[i % rank] for i, p in enumerate(begins + ends) if p):
        raise Unsupported(f"reflection of {max(begins + ends)} elements over shape {shape}")
    if not any(begins + ends):
        b.same(node.outputs[0], x)
        return
    b.put(L.Pad, node, [x], node.outputs[0], pads=(*begins, *ends), mode=mode, value=value)


def _crop(b: Builder, node: Node, x: str, begins: list[int], ends: list[int]) -> str:
    shape = b.shape(x)
    slices = tuple(
        (max(0, -low), size - max(0, -high), 1)
        for low, high, size in zip(begins, ends, shape, strict=True)
    )
    if any(stop <= start for start, stop, _ in slices):
        raise Unsupported(f"negative pads that leave nothing of {shape}")
    return b.put(L.Slice, node, [x], slices=slices)


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "MaxPool": partial(_pool, kind="max"),
    "AveragePool": partial(_pool, kind="average"),
    "GlobalMaxPool": partial(_global_pool, kind="max"),
    "GlobalAveragePool": partial(_global_pool, kind="average"),
    "ReduceMean": partial(_reduce, how="average"),
    "ReduceMax": partial(_reduce, how="max"),
    "ReduceMin": partial(_reduce, how="min"),
    "ReduceSum": partial(_reduce, how="sum"),
    "Pad": _pad,
}
