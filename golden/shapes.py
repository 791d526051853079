"""Output shapes of layers and whether a layer leaves the batch axis alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError

__all__ = ["Shape", "keeps_batch", "output_shape", "spatial_extent", "windows"]

Shape = tuple[int, ...]


def spatial_extent(
    size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool = False
) -> int:
    """Windows along one axis; ``pad`` is the sum of both ends."""
    span = size + pad - dilation * (kernel - 1) - 1
    if span < 0:
        return 0
    return (-(-span // stride) if ceil_mode else span // stride) + 1


def windows(
    layer: L.Conv | L.Pool, spatial: Shape, kernel: Shape, ceil_mode: bool = False
) -> Shape:
    """How many windows fit along each spatial axis."""
    rank = len(spatial)
    out = []
    for i in range(rank):
        begin, end = layer.pads[i], layer.pads[rank + i]
        n = spatial_extent(
            spatial[i],
            kernel[i],
            layer.strides[i],
            begin + end,
            layer.dilations[i],
            ceil_mode,
        )
        # A window that would start in the end padding is dropped (ONNX ceil_mode).
        if ceil_mode and n > 1 and (n - 1) * layer.strides[i] >= spatial[i] + begin:
            n -= 1
        out.append(n)
    return tuple(out)


def _conv(layer: L.Conv, x: Shape) -> Shape:
    kernel = layer.weights.shape[2:]
    rank = len(kernel)
    if len(x) != rank + 2 or len(layer.pads) != 2 * rank or len(layer.strides) != rank:
        raise NetworkError(f"layer '{layer.name}': a {rank}-D convolution cannot read shape {x}")
    if layer.groups < 1 or x[1] != layer.weights.shape[1] * layer.groups:
        raise NetworkError(
            f"layer '{layer.name}': weights {layer.weights.shape} in {layer.groups} groups do "
            f"not fit {x[1]} input channels"
        )
    if layer.weights.shape[0] % layer.groups:
        raise NetworkError(
            f"layer '{layer.name}': {layer.weights.shape[0]} output channels do not split into "
            f"{layer.groups} groups"
        )
    return (x[0], layer.weights.shape[0], *windows(layer, x[2:], kernel))


def _broadcast(layer: L.LayerBase, *shapes: Shape) -> Shape:
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise NetworkError(f"layer '{layer.name}': shapes {listed} do not broadcast") from None


def _matmul(layer: L.MatMul, a: Shape, b: Shape) -> Shape:
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise NetworkError(f"layer '{layer.name}': cannot multiply shapes {a} and {b}")
    return (*_broadcast(layer, a[:-2], b[:-2]), a[-2], b[-1])


def _concat(layer: L.Concat, shapes: Sequence[Shape]) -> Shape:
    axis, first = layer.axis, shapes[0]
    for shape in shapes[1:]:
        if len(shape) != len(first) or any(
            p != q for i, (p, q) in enumerate(zip(shape, first, strict=True)) if i != axis
        ):
            raise NetworkError(f"layer '{layer.name}': cannot join shapes {list(shapes)}")
    total = sum(shape[axis] for shape in shapes)
    return (*first[:axis], total, *first[axis + 1 :])


def _fits(layer: L.LayerBase, what: str, shape: Shape, target: Shape) -> None:
    """Refuse a shape that does not broadcast against another without enlarging it."""
    if _broadcast(layer, shape, target) != target:
        raise NetworkError(f"layer '{layer.name}': {what} of shape {shape} does not fit {target}")


def _one_index(layer: L.LayerBase, shape: Shape) -> None:
    if math.prod(shape) != 1:
        raise NetworkError(f"layer '{layer.name}': a position is one index, got shape {shape}")


def _stream_softmax(layer: L.StreamSoftmax, shapes: Sequence[Shape]) -> Shape:
    x, masks = shapes[0], shapes[1:]
    if layer.positioned:
        if len(shapes) < 2:
            raise NetworkError(f"layer '{layer.name}': it has a position but no input for it")
        _one_index(layer, shapes[-1])
        masks = masks[:-1]
    if len(x) < (2 if layer.causal else 1):
        raise NetworkError(f"layer '{layer.name}': no rows of logits in shape {x}")
    for mask in masks:
        _fits(layer, "a mask", mask, x)
    return x


def _normalise(layer: L.Normalise, x: Shape) -> Shape:
    for what, values in (("gamma", layer.gamma), ("beta", layer.beta)):
        if values is not None and values.shape != x[-1:]:
            raise NetworkError(
                f"layer '{layer.name}': {what} of shape {values.shape} for the last axis of {x}"
            )
    if not x or (layer.gamma is None and layer.beta is not None):
        raise NetworkError(f"layer '{layer.name}': needs an axis, and gamma where there is beta")
    return x


def _rotary(layer: L.Rotary, shapes: Sequence[Shape]) -> Shape:
    x, table = shapes[0], layer.cos.shape
    if len(table) != 2 or layer.sin.shape != table or len(x) < 2 or 2 * table[1] > x[-1]:
        raise NetworkError(
            f"layer '{layer.name}': tables {table} and {layer.sin.shape} do not rotate shape {x}"
        )
    if len(shapes) > 1 and math.prod(shapes[1]) not in (1, x[-2]):
        raise NetworkError(f"layer '{layer.name}': {shapes[1]} positions for shape {x}")
    if len(shapes) == 1 and table[0] < x[-2]:
        raise NetworkError(f"layer '{layer.name}': tables of {table[0]} positions for {x[-2]} rows")
    return x


def _append(layer: L.Append, shapes: Sequence[Shape]) -> Shape:
    cache, new, position = shapes
    _one_index(layer, position)
    fits = len(cache) == len(new) >= 2 and new[-2] <= cache[-2]
    if not fits or (*cache[:-2], cache[-1]) != (*new[:-2], new[-1]):
        raise NetworkError(f"layer '{layer.name}': rows {new} do not fit a cache {cache}")
    return cache


def output_shape(layer: L.Layer, shapes: Sequence[Shape]) -> Shape:
    """The shape a layer writes, given those it reads.

    Raises:
        NetworkError: the shapes do not fit the layer; the message names it.
    """
    x = shapes[0]
    match layer:
        case L.Conv():
            shape = _conv(layer, x)
        case L.Linear():
            if not x or x[-1] != layer.weights.shape[1]:
                raise NetworkError(
                    f"layer '{layer.name}': weights {layer.weights.shape} do not fit shape {x}"
                )
            shape = (*x[:-1], layer.weights.shape[0])
        case L.MatMul():
            shape = _matmul(layer, x, shapes[1])
        case L.Add() | L.Mul():
            shape = _broadcast(layer, *shapes)
        case L.Pool():
            shape = (*x[:2], *windows(layer, x[2:], layer.kernel, layer.ceil_mode))
        case L.Concat():
            shape = _concat(layer, shapes)
        case L.Resize():
            shape = tuple(len(index) for index in layer.indices)
        case L.Pad():
            rank = len(x)
            shape = tuple(n + layer.pads[i] + layer.pads[rank + i] for i, n in enumerate(x))
        case L.Slice():
            shape = tuple(
                len(range(*slice(*s).indices(n))) for s, n in zip(layer.slices, x, strict=True)
            )
        case L.Reshape():
            shape = layer.shape
            if math.prod(shape) != math.prod(x):
                raise NetworkError(f"layer '{layer.name}': cannot reshape {x} to {shape}")
        case L.Transpose():
            shape = tuple(x[axis] for axis in layer.permutation)
        case L.StreamSoftmax():
            shape = _stream_softmax(layer, shapes)
        case L.Normalise():
            shape = _normalise(layer, x)
        case L.Gather():
            shape = (*shapes[1], *x[1:])
        case L.Rotary():
            shape = _rotary(layer, shapes)
        case L.Append():
            shape = _append(layer, shapes)
        case L.Select():
            shape = _broadcast(layer, *shapes)
        case L.Reduce():
            shape = tuple(1 if i in layer.axes else n for i, n in enumerate(x))
        case _:
            shape = x
    if any(n < 1 for n in shape):
        raise NetworkError(f"layer '{layer.name}': its output would have the empty shape {shape}")
    return shape


def keeps_batch(
    layer: L.Layer, shapes: Sequence[Shape], constant: Sequence[bool], out: Shape
) -> bool:
    """Whether axis 0, of extent 1 in the model, may carry any number of samples through a layer."""
    dynamic = [s for s, c in zip(shapes, constant, strict=True) if not c]
    if not out or out[0] != 1 or any(not s or s[0] != 1 for s in dynamic):
        return False
    match layer:
        case L.Conv() | L.Pool() | L.Reshape() | L.Activate() | L.Convert():
            if isinstance(layer, L.Activate) and layer.slope is not None:
                return layer.slope.ndim < len(out) or layer.slope.shape[0] == 1
            return True
        case L.Linear():
            return len(out) >= 2
        case L.MatMul():
            return len(out) >= 3 and all(len(s) == len(out) for s in dynamic)
        case L.Add() | L.Mul() | L.Select() | L.StreamSoftmax() | L.Append() | L.Rotary():
            least = 3 if isinstance(layer, L.Append | L.Rotary) else 2
            return len(out) >= least and all(len(s) == len(out) for s in dynamic)
        case L.Normalise():
            return len(out) >= 2
        case L.Gather():
            return constant[0]
        case L.Reduce():
            return 0 not in layer.axes
        case L.Concat():
            return layer.axis != 0
        case L.Resize():
            return len(layer.indices[0]) == 1 and layer.indices[0].shape[1] == 1
        case L.Pad():
            return layer.pads[0] == layer.pads[len(out)] == 0
        case L.Slice():
            return layer.slices[0] in ((0, 1, 1), (None, None, 1), (0, None, 1))
        case L.Transpose():
            return layer.permutation[0] == 0
        case L.Softmax():
            return layer.axis not in (0, -len(out))
    return False
