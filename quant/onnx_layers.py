"""Layer kinds as ONNX operators: the importer's translators the other way round.

What ONNX has no single operator for is written out where the importer recognises the pattern, and
refused by the layer's name where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden.shapes import windows
from opennpe.quant import onnx_attention
from opennpe.quant.graph import Array
from opennpe.quant.onnx_builder import Writer, refuse
from opennpe.quant.ops_resize import FRACTION_BITS, coordinates, taps

__all__ = ["DEFAULTS", "TRANSLATORS"]

END = (1 << 63) - 1
ALPHA = 0.01
"""The slope of a LeakyRelu that does not say."""
NEAREST = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")


def _batched(w: Writer, shape: tuple[int, ...]) -> list[int]:
    """A shape with -1 for a free batch."""
    return [-1, *shape[1:]] if w.free and shape else list(shape)


# -- products ----------------------------------------------------------------------------------
def _conv(w: Writer, layer: L.Conv, x: list[str], out: str) -> None:
    inputs = [x[0], w.weights(layer)]
    if np.any(layer.bias):
        inputs.append(w.real(layer.bias, f"{layer.name}.bias"))
    w.node(
        "Conv",
        inputs,
        out,
        layer.name,
        kernel_shape=layer.weights.shape[2:],
        strides=layer.strides,
        pads=layer.pads,
        dilations=layer.dilations,
        group=layer.groups,
    )


def _linear(w: Writer, layer: L.Linear, x: list[str], out: str) -> None:
    biased = bool(np.any(layer.bias))
    flat = len(w.shape(layer.inputs[0])) == 2
    inputs = [x[0], w.weights(layer, transposed=not flat)]
    if biased:
        inputs.append(w.real(layer.bias, f"{layer.name}.bias"))
    if flat:
        w.node("Gemm", inputs, out, layer.name, transB=1)
    elif biased:
        w.node("Add", [w.node("MatMul", inputs[:2], name=layer.name), inputs[2]], out)
    else:
        w.node("MatMul", inputs, out, layer.name)


def _matmul(w: Writer, layer: L.MatMul, x: list[str], out: str) -> None:
    w.node("MatMul", x, out, layer.name)


# -- elementwise -------------------------------------------------------------------------------
def _add(w: Writer, layer: L.Add, x: list[str], out: str) -> None:
    first, second = layer.signs
    if first == second == -1:
        w.node("Neg", [w.node("Add", x, name=layer.name)], out)
    elif first == second:
        w.node("Add", x, out, layer.name)
    else:
        w.node("Sub", x if first == 1 else x[::-1], out, layer.name)


def _mul(w: Writer, layer: L.Mul, x: list[str], out: str) -> None:
    w.node("Mul", x, out, layer.name)


def _select(w: Writer, layer: L.Select, x: list[str], out: str) -> None:
    w.node("Where", [w.flag(layer.inputs[0], x[0]), *x[1:]], out, layer.name)


PLAIN = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hard_swish": "HardSwish",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "mish": "Mish",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "erf": "Erf",
    "abs": "Abs",
    "gelu": "Gelu",
}
WITH_NUMBERS = {"hard_sigmoid": "HardSigmoid", "elu": "Elu", "selu": "Selu"}
DEFAULTS: dict[str, dict[str, float]] = {
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "elu": {"alpha": 1.0},
    "selu": {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
}
"""Parameters that an activation need not state."""


def _activate(w: Writer, layer: L.Activate, x: list[str], out: str) -> None:
    params = dict(layer.params)
    if layer.slope is not None:
        _slope(w, layer, layer.slope, x, out)
    elif layer.kind in PLAIN:
        w.node(PLAIN[layer.kind], x, out, layer.name)
    elif layer.kind in WITH_NUMBERS:
        usual = DEFAULTS[layer.kind]
        numbers: dict[str, Any] = {
            key: value for key, value in params.items() if value != usual[key]
        }
        w.node(WITH_NUMBERS[layer.kind], x, out, layer.name, **numbers)
    elif layer.kind in ("clip", "relu6"):
        low, high = (0.0, 6.0) if layer.kind == "relu6" else _bounds(params)
        w.clip(x[0], low, high, out, layer.name)
    elif layer.kind == "gelu_tanh":
        w.node("Gelu", x, out, layer.name, approximate="tanh")
    elif layer.kind == "silu":
        w.node("Mul", [x[0], w.node("Sigmoid", x)], out, layer.name)
    else:
        raise refuse(layer, f"unknown activation '{layer.kind}'")


def _bounds(params: dict[str, float]) -> tuple[float, float]:
    return params.get("min", -math.inf), params.get("max", math.inf)


def _slope(w: Writer, layer: L.Activate, slope: Array, x: list[str], out: str) -> None:
    alpha = float(slope.flat[0])
    if layer.kind == "leaky" and slope.size == 1 and alpha in (ALPHA, float(np.float32(alpha))):
        stated: dict[str, Any] = {} if alpha == ALPHA else {"alpha": alpha}
        w.node("LeakyRelu", x, out, layer.name, **stated)
    else:
        w.node("PRelu", [x[0], w.real(slope, f"{layer.name}.slope")], out, layer.name)


# -- windows -----------------------------------------------------------------------------------
def _pool(w: Writer, layer: L.Pool, x: list[str], out: str) -> None:
    fields: dict[str, Any] = {
        "kernel_shape": layer.kernel,
        "strides": layer.strides,
        "pads": layer.pads,
        "dilations": layer.dilations,
        "ceil_mode": int(layer.ceil_mode and _rounds_up(w, layer)),
    }
    if layer.kind == "average":
        fields["count_include_pad"] = int(layer.count_include_pad)
    w.node("MaxPool" if layer.kind == "max" else "AveragePool", x, out, layer.name, **fields)


def _rounds_up(w: Writer, layer: L.Pool) -> bool:
    """Whether rounding the number of windows up adds one: ONNX's own shape inference counts
    windows that begin in the padding."""
    spatial = w.shape(layer.inputs[0])[2:]
    return windows(layer, spatial, layer.kernel) != windows(layer, spatial, layer.kernel, True)


def _reduce(w: Writer, layer: L.Reduce, x: list[str], out: str) -> None:
    op = "ReduceMean" if layer.kind == "mean" else "ReduceSum"
    axes = w.share(np.array(layer.axes), "axes")
    w.node(op, [x[0], axes], out, layer.name, keepdims=1)


# -- moves -------------------------------------------------------------------------------------
def _concat(w: Writer, layer: L.Concat, x: list[str], out: str) -> None:
    if w.free:
        like = next(h for n, h in zip(layer.inputs, x, strict=True) if n not in w.graph.constants)
        x = [
            _repeated(w, name, held, like) if name in w.graph.constants else held
            for name, held in zip(layer.inputs, x, strict=True)
        ]
    w.node("Concat", x, out, layer.name, axis=layer.axis)


def _repeated(w: Writer, name: str, held: str, like: str) -> str:
    """A constant for every sample: Concat does not broadcast."""
    batch = w.node("Shape", [like], start=0, end=1)
    rest = w.share(np.array(w.shape(name)[1:]), "shape")
    return w.node("Expand", [held, w.node("Concat", [batch, rest], axis=0)])


def _pad(w: Writer, layer: L.Pad, x: list[str], out: str) -> None:
    inputs = [x[0], w.share(np.array(layer.pads), "pads")]
    if layer.mode == "constant" and layer.value:
        inputs.append(w.real(np.float64(layer.value), f"{layer.name}.value"))
    w.node("Pad", inputs, out, layer.name, mode=layer.mode)


def _slice(w: Writer, layer: L.Slice, x: list[str], out: str) -> None:
    shape = w.shape(layer.inputs[0])
    cuts: list[tuple[int, int, int, int]] = []
    for axis, (given, size) in enumerate(zip(layer.slices, shape, strict=True)):
        start, stop, step = slice(*given).indices(size)
        whole = (start, stop, step) == (0, size, 1)
        # One axis is always named: a slice of everything stays a layer.
        if not whole or (axis == len(shape) - 1 and not cuts):
            # A stop before the first element is minus infinity to ONNX, as -1 counts from the end.
            cuts.append((start, -END if stop < 0 else END if whole else stop, axis, step))
    lists = [w.share(np.array(column), "slice") for column in zip(*cuts, strict=True)]
    w.node("Slice", [x[0], *lists], out, layer.name)


def _reshape(w: Writer, layer: L.Reshape, x: list[str], out: str) -> None:
    shape = w.share(np.array(_batched(w, layer.shape), dtype=np.int64), "shape")
    w.node("Reshape", [x[0], shape], out, layer.name)


def _transpose(w: Writer, layer: L.Transpose, x: list[str], out: str) -> None:
    w.node("Transpose", x, out, layer.name, perm=layer.permutation)


def _gather(w: Writer, layer: L.Gather, x: list[str], out: str) -> None:
    w.node("Gather", x, out, layer.name, axis=0)


def _resize(w: Writer, layer: L.Resize, x: list[str], out: str) -> None:
    """A Resize whose modes give these very taps, else rows by number along every axis."""
    shape = w.shape(layer.inputs[0])
    moved = [
        axis
        for axis, (rows, size) in enumerate(zip(layer.indices, shape, strict=True))
        if rows.shape != (size, 1) or np.any(rows[:, 0] != np.arange(size))
    ]
    found = _modes(layer, shape, moved) if layer.fraction_bits == FRACTION_BITS else None
    if not moved:
        w.node("Identity", x, out, layer.name)
    elif found is not None:
        sizes = w.share(np.array([len(layer.indices[a]) for a in moved]), "sizes")
        w.node("Resize", [x[0], "", "", sizes], out, layer.name, axes=moved, **found)
    elif all(_tiled(rows, size) for rows, size in zip(layer.indices, shape, strict=True)):
        repeats = [len(rows) // size for rows, size in zip(layer.indices, shape, strict=True)]
        w.node("Tile", [x[0], w.share(np.array(repeats), "repeats")], out, layer.name)
    else:
        _taps(w, layer, moved, x[0], out)


def _tiled(rows: Array, size: int) -> bool:
    return rows.shape[1] == 1 and np.array_equal(rows[:, 0], np.arange(len(rows)) % size)


def _taps(w: Writer, layer: L.Resize, moved: list[int], x: str, out: str) -> None:
    """Axis by axis, rows by number; where there are two of them, their weighted sum."""
    for axis in moved:
        last = axis == moved[-1]
        target, name = (out, layer.name) if last else (None, None)
        rows, weights = layer.indices[axis], layer.weights[axis]
        if rows.shape[1] == 1:
            x = w.node("Gather", [x, w.share(rows[:, 0], "rows")], target, name, axis=axis)
            continue
        side = [-1 if i == axis else 1 for i in range(len(layer.indices))]
        parts = []
        for tap in range(rows.shape[1]):
            real = np.ldexp(weights[:, tap].astype(np.float64), -layer.fraction_bits)
            part = w.node("Gather", [x, w.share(rows[:, tap], "rows")], axis=axis)
            parts.append(w.node("Mul", [part, w.share(real.reshape(side), "weights")]))
        x = w.node("Sum", parts, target, name)


def _modes(layer: L.Resize, shape: tuple[int, ...], moved: list[int]) -> dict[str, str] | None:
    """Attributes of ONNX Resize under which every moved axis gets a layer's taps."""
    linear = any(rows.shape[1] == 2 for rows in layer.indices)
    for mode in COORDINATES:
        for nearest in NEAREST[:1] if linear else NEAREST:
            kind = "linear" if linear else "nearest"
            if all(_same_taps(layer, a, shape[a], kind, mode, nearest) for a in moved):
                found = {"mode": kind, "coordinate_transformation_mode": mode}
                return found if linear else {**found, "nearest_mode": nearest}
    return None


def _same_taps(layer: L.Resize, axis: int, size: int, kind: str, mode: str, nearest: str) -> bool:
    rows, weights = layer.indices[axis], layer.weights[axis]
    at = coordinates(mode, size, len(rows), len(rows) / size, (0.0, 1.0))
    given = taps(kind, nearest, at, size)
    return np.array_equal(given[0], rows) and np.array_equal(given[1], weights)


# -- what is no operator ------------------------------------------------------------------------
def _convert(w: Writer, layer: L.Convert, x: list[str], out: str) -> None:
    w.node("Identity", x, out, layer.name)


def _append(w: Writer, layer: L.Append, x: list[str], out: str) -> None:
    raise refuse(layer, "a cache is state, which ONNX keeps outside the graph")


TRANSLATORS: dict[type, Callable[[Writer, Any, list[str], str], None]] = {
    L.Conv: _conv,
    L.Linear: _linear,
    L.MatMul: _matmul,
    L.Add: _add,
    L.Mul: _mul,
    L.Pool: _pool,
    L.Concat: _concat,
    L.Resize: _resize,
    L.Pad: _pad,
    L.Slice: _slice,
    L.Reshape: _reshape,
    L.Transpose: _transpose,
    L.Activate: _activate,
    L.Convert: _convert,
    L.Gather: _gather,
    L.Append: _append,
    L.Select: _select,
    L.Reduce: _reduce,
    **onnx_attention.TRANSLATORS,
}
"""How each kind of layer is written: the writer, the layer, its ONNX inputs, its output."""
