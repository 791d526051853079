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
        case L.Add() | L.Mul():
            return all(len(s) == len(out) for s in dynamic)
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
