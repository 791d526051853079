"""The float graph in NumPy: windows as matrices, products through BLAS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from opennpe.golden import attention, shapes
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.pooling import average_counts, patches
from opennpe.golden.rotary import halves, position_rows
from opennpe.quant.graph import Array, Graph

__all__ = ["check_inputs", "evaluate", "normalised", "run_layer", "x_hat"]

CHUNK_ELEMENTS = 1 << 24
"""Largest matrix of windows that is built at once."""

Observer = Callable[[str, Array], Array | None]


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Any],
    dtype: Any = np.float32,
    observe: Observer | None = None,
) -> dict[str, Array]:
    """Values of every tensor of a float graph.

    Args:
        graph: from :func:`opennpe.quant.load_onnx`.
        inputs: real arrays by input name; any number of samples along axis 0 where
            ``graph.batch_axis`` is 0.
        dtype: float32 or float64.
        observe: called with every tensor's name and values (inputs first); what it returns, if
            anything, is what later layers read.

    Raises:
        DataError: a missing, unknown or wrongly shaped input.
    """
    values = {n: v.astype(dtype) for n, v in graph.constants.items()}
    for name, array in check_inputs(graph, inputs).items():
        values[name] = array.astype(dtype)
        _seen(values, name, observe)
    with np.errstate(all="ignore"):
        for layer in graph.layers:
            given = [values[n] for n in layer.inputs]
            values[layer.output] = run_layer(graph, layer, given)
            _seen(values, layer.output, observe)
    return values


def _seen(values: dict[str, Array], name: str, observe: Observer | None) -> None:
    if observe is not None:
        changed = observe(name, values[name])
        if changed is not None:
            values[name] = changed


def check_inputs(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as arrays of the graph's shapes.

    Raises:
        DataError: a missing, unknown or wrongly shaped input.
    """
    unknown = sorted(set(inputs) - set(graph.inputs))
    if unknown:
        raise DataError(
            f"'{unknown[0]}' is no input of the model: expected {', '.join(graph.inputs)}"
        )
    arrays: dict[str, Array] = {}
    for name in graph.inputs:
        if name not in inputs:
            raise DataError(f"the input '{name}' is missing: give an array of that name")
        array, shape = np.asarray(inputs[name]), graph.shapes[name]
        free = graph.batch_axis == 0
        fits = array.ndim == len(shape) and array.shape[free:] == shape[free:]
        if not fits or not array.size:
            wanted = ", ".join(map(str, ("N", *shape[1:]) if free else shape))
            raise DataError(f"input '{name}' has shape {array.shape}, expected ({wanted})")
        if array.dtype.kind not in "fiub":
            raise DataError(f"input '{name}' holds {array.dtype} values, expected numbers")
        arrays[name] = array
    if graph.batch_axis == 0 and len({len(a) for a in arrays.values()}) > 1:
        sizes = {n: len(a) for n, a in arrays.items()}
        raise DataError(f"inputs hold different numbers of samples: {sizes}")
    return arrays


def run_layer(graph: Graph, layer: L.Layer, values: list[Array]) -> Array:
    """One layer on real values."""
    result = _HANDLERS[type(layer)](graph, layer, values)
    clip = getattr(layer, "clip", None)
    result = np.clip(result, *clip) if clip is not None else result
    return np.asarray(result, dtype=values[0].dtype)


def _conv(graph: Graph, layer: L.Conv, values: list[Array]) -> Array:
    x = values[0]
    weights = layer.weights.astype(x.dtype)
    kernel = weights.shape[2:]
    out = shapes.windows(layer, x.shape[2:], kernel)
    rank, (n, groups) = len(kernel), (len(x), layer.groups)
    per_in, per_out = weights.shape[1], weights.shape[0] // groups
    width = [(0, 0), (0, 0), *zip(layer.pads[:rank], layer.pads[rank:], strict=True)]
    padded = np.pad(x, width) if any(layer.pads) else x
    result = np.empty((n, weights.shape[0], *out), dtype=x.dtype)
    if per_in == 1:
        _depthwise(layer, padded, weights, out, per_out, result)
    else:
        views = _windows(padded, kernel, layer.strides, layer.dilations, out)
        step = max(1, CHUNK_ELEMENTS // (per_in * math.prod(kernel) * math.prod(out)))
        for g in range(groups):
            rows = weights[g * per_out : (g + 1) * per_out].reshape(per_out, -1)
            for start in range(0, n, step):
                view = views[start : start + step, g * per_in : (g + 1) * per_in]
                # (n, C, out..., k...) to (n, C, k..., out...): BLAS reads the copy in rows.
                axes = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
                columns = view.transpose(axes).reshape(len(view), rows.shape[1], -1)
                block = np.matmul(rows, columns).reshape(len(view), per_out, *out)
                result[start : start + step, g * per_out : (g + 1) * per_out] = block
    result += layer.bias.astype(x.dtype).reshape((-1,) + (1,) * rank)
    return result


def _windows(x: Array, kernel: Any, strides: Any, dilations: Any, out: Any) -> Array:
    """A view (n, C, out..., kernel...)."""
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    axes = tuple(range(2, x.ndim))
    view = sliding_window_view(x, spans, axis=axes)
    places = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(out, strides, strict=True))
    taps = tuple(slice(None, None, d) for d in dilations)
    return view[(slice(None), slice(None), *places, *taps)]


def _depthwise(
    layer: L.Conv, padded: Array, weights: Array, out: Any, per_out: int, result: Array
) -> None:
    x = np.repeat(padded, per_out, axis=1) if per_out > 1 else padded
    result[...] = 0
    for tap in np.ndindex(*weights.shape[2:]):
        places = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, layer.dilations, out, layer.strides, strict=True)
        )
        side = (-1,) + (1,) * len(tap)
        factor = weights[(slice(None), 0, *tap)].reshape(side)
        result += factor * x[(slice(None), slice(None), *places)]


def _linear(graph: Graph, layer: L.Linear, values: list[Array]) -> Array:
    x = values[0]
    return np.asarray(x @ layer.weights.T.astype(x.dtype) + layer.bias.astype(x.dtype))


def _pool(graph: Graph, layer: L.Pool, values: list[Array]) -> Array:
    x = values[0]
    out = shapes.windows(layer, x.shape[2:], layer.kernel, layer.ceil_mode)
    rank = len(out)
    fill = -np.inf if layer.kind == "max" else 0.0
    width = [(0, 0), (0, 0)]
    for i in range(rank):
        reach = (out[i] - 1) * layer.strides[i] + layer.dilations[i] * (layer.kernel[i] - 1) + 1
        end = max(layer.pads[rank + i], reach - x.shape[2 + i] - layer.pads[i])
        width.append((layer.pads[i], end))
    view = _windows(
        np.pad(x, width, constant_values=fill), layer.kernel, layer.strides, layer.dilations, out
    )
    taps = tuple(range(2 + rank, 2 + 2 * rank))
    if layer.kind == "max":
        return np.asarray(view.max(axis=taps))
    inside = patches(np.ones((1, 1, *x.shape[2:]), dtype=np.int64), layer.kernel, layer, 0)
    return np.asarray(view.sum(axis=taps) / average_counts(layer, x.shape[2:], inside))


def _resize(graph: Graph, layer: L.Resize, values: list[Array]) -> Array:
    x = values[0]
    for axis, (index, weight) in enumerate(zip(layer.indices, layer.weights, strict=True)):
        if axis == 0 and len(index) == 1:
            continue
        if index.shape[1] == 1:
            x = x.take(index[:, 0], axis)
            continue
        side = [1] * x.ndim
        side[axis] = len(index)
        real = np.ldexp(weight.astype(x.dtype), -layer.fraction_bits)
        x = sum(x.take(index[:, t], axis) * real[:, t].reshape(side) for t in range(index.shape[1]))
    return np.asarray(x)


def _pad(graph: Graph, layer: L.Pad, values: list[Array]) -> Array:
    rank = values[0].ndim
    width = list(zip(layer.pads[:rank], layer.pads[rank:], strict=True))
    if layer.mode == "constant":
        return np.pad(values[0], width, constant_values=layer.value)
    return np.pad(values[0], width, mode="reflect" if layer.mode == "reflect" else "edge")


def _slice(graph: Graph, layer: L.Slice, values: list[Array]) -> Array:
    index = [slice(*s) for s in layer.slices]
    if len(values[0]) != graph.shapes[layer.inputs[0]][0]:
        index[0] = slice(None)
    return np.asarray(values[0][tuple(index)])


def _reshape(graph: Graph, layer: L.Reshape, values: list[Array]) -> Array:
    x, shape = values[0], layer.shape
    if x.shape[:1] != graph.shapes[layer.inputs[0]][:1]:
        shape = (len(x), *shape[1:])
    return x.reshape(shape)


def _concat(graph: Graph, layer: L.Concat, values: list[Array]) -> Array:
    batch = max(len(v) for v in values)
    if layer.axis:
        values = [
            np.broadcast_to(v, (batch, *v.shape[1:])) if len(v) != batch else v for v in values
        ]
    return np.concatenate(values, axis=layer.axis)


def _activate(graph: Graph, layer: L.Activate, values: list[Array]) -> Array:
    x = values[0]
    if layer.slope is not None:
        return np.where(x < 0, x * layer.slope.astype(x.dtype), x)
    return np.asarray(_FUNCTIONS[layer.kind](x, dict(layer.params)))


def _softmax(graph: Graph, layer: L.Softmax, values: list[Array]) -> Array:
    x = values[0]
    shifted = x - x.max(axis=layer.axis, keepdims=True)
    total = np.exp(shifted).sum(axis=layer.axis, keepdims=True)
    return np.asarray(shifted - np.log(total) if layer.log else np.exp(shifted) / total)


def _stream_softmax(graph: Graph, layer: L.StreamSoftmax, values: list[Array]) -> Array:
    x = values[0] * np.asarray(layer.scale, values[0].dtype)
    keep = attention.kept(layer, x.shape, values[1:])
    if keep is None:
        keep = np.ones((), bool)
    shifted = np.where(keep, x, -np.inf)
    powers = np.exp(shifted - np.maximum(shifted.max(axis=-1, keepdims=True), -1e30))
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total > 0, total, 1))


def x_hat(layer: L.Normalise, x: Array) -> Array:
    """Normalised rows, before gamma and beta."""
    centred = x - x.mean(axis=-1, keepdims=True) if layer.kind == "layer" else x
    power = np.square(centred).mean(axis=-1, keepdims=True) + layer.epsilon
    return np.asarray(centred / np.sqrt(power))


def normalised(layer: L.Normalise, rows: Array) -> Array:
    """Gamma and beta, real, on normalised rows."""
    if layer.gamma is not None:
        rows = rows * layer.gamma.astype(rows.dtype)
    if layer.beta is not None:
        rows = rows + layer.beta.astype(rows.dtype)
    return np.asarray(rows)


def _rotary(graph: Graph, layer: L.Rotary, values: list[Array]) -> Array:
    x = values[0]
    index = position_rows(layer, x.shape[-2], values[1] if len(values) > 1 else None)
    cos, sin = (t[index].astype(x.dtype) for t in (layer.cos, layer.sin))
    first, second = halves(layer, x.shape[-1])
    result = np.array(x)
    result[..., first] = x[..., first] * cos - x[..., second] * sin
    result[..., second] = x[..., second] * cos + x[..., first] * sin
    return result


def _append(graph: Graph, layer: L.Append, values: list[Array]) -> Array:
    result, start = np.array(values[0]), attention.position(layer, values[2])
    result[..., start : start + values[1].shape[-2], :] = values[1]
    return result


def _gather(graph: Graph, layer: L.Gather, values: list[Array]) -> Array:
    index = values[1].astype(np.int64)
    attention.check_rows(layer, index, len(values[0]))
    return np.asarray(values[0][index])


def _reduce(graph: Graph, layer: L.Reduce, values: list[Array]) -> Array:
    function = np.mean if layer.kind == "mean" else np.sum
    return np.asarray(function(values[0], axis=layer.axes, keepdims=True))


ERF_STEP, ERF_END = 1 / 512, 6.0
"""Spacing of the points that erf is expanded around, and where it is 1 to the last bit."""


@lru_cache(maxsize=1)
def _erf_points() -> tuple[Array, Array]:
    points = np.arange(-ERF_END, ERF_END + ERF_STEP, ERF_STEP)
    slopes = 2 / math.sqrt(math.pi) * np.exp(-points * points)
    return np.array([math.erf(p) for p in points]), slopes


def _erf(x: Array) -> Array:
    """Four terms of Taylor's series around the nearest point: within 1e-15."""
    held = np.clip(x.astype(np.float64), -ERF_END, ERF_END)
    index = np.nan_to_num(np.rint((held + ERF_END) / ERF_STEP)).astype(np.int64)
    point = index * ERF_STEP - ERF_END
    values, slopes = _erf_points()
    d, square = held - point, point * point
    series = 1 + d * (-point + d * ((2 * square - 1) / 3 + d * point * (3 - 2 * square) / 6))
    return np.asarray(values[index] + slopes[index] * d * series).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


_ROOT = math.sqrt(2 / math.pi)
_FUNCTIONS: dict[str, Callable[[Array, Mapping[str, float]], Any]] = {
    "relu": lambda x, p: np.maximum(x, 0),
    "relu6": lambda x, p: np.clip(x, 0, 6),
    "clip": lambda x, p: np.clip(x, p.get("min", -np.inf), p.get("max", np.inf)),
    "sigmoid": lambda x, p: _sigmoid(x),
    "tanh": lambda x, p: np.tanh(x),
    "silu": lambda x, p: x * _sigmoid(x),
    "hard_swish": lambda x, p: x * np.clip(x + 3, 0, 6) / 6,
    "hard_sigmoid": lambda x, p: np.clip(x * p.get("alpha", 0.2) + p.get("beta", 0.5), 0, 1),
    "gelu": lambda x, p: x * (1 + _erf(x * math.sqrt(0.5))) / 2,
    "gelu_tanh": lambda x, p: x * (1 + np.tanh(_ROOT * (x + 0.044715 * x**3))) / 2,
    "elu": lambda x, p: _elu(x, p.get("alpha", 1.0)),
    "selu": lambda x, p: p["gamma"] * _elu(x, p["alpha"]),
    "softplus": lambda x, p: np.logaddexp(x, 0),
    "softsign": lambda x, p: x / (1 + np.abs(x)),
    "mish": lambda x, p: x * np.tanh(np.logaddexp(x, 0)),
    "exp": lambda x, p: np.exp(x),
    "log": lambda x, p: np.log(x),
    "sqrt": lambda x, p: np.sqrt(x),
    "reciprocal": lambda x, p: 1 / x,
    "erf": lambda x, p: _erf(x),
    "abs": lambda x, p: np.abs(x),
}

_HANDLERS: dict[type, Callable[[Graph, Any, list[Array]], Any]] = {
    L.Conv: _conv,
    L.Linear: _linear,
    L.MatMul: lambda g, layer, v: np.matmul(*v),
    L.Add: lambda g, layer, v: layer.signs[0] * v[0] + layer.signs[1] * v[1],
    L.Mul: lambda g, layer, v: v[0] * v[1],
    L.Pool: _pool,
    L.Concat: _concat,
    L.Resize: _resize,
    L.Pad: _pad,
    L.Slice: _slice,
    L.Reshape: _reshape,
    L.Transpose: lambda g, layer, v: v[0].transpose(layer.permutation),
    L.Activate: _activate,
    L.Convert: lambda g, layer, v: v[0],
    L.Softmax: _softmax,
    L.StreamSoftmax: _stream_softmax,
    L.Normalise: lambda g, layer, v: normalised(layer, x_hat(layer, v[0])),
    L.Gather: _gather,
    L.Rotary: _rotary,
    L.Append: _append,
    L.Select: lambda g, layer, v: np.where(v[0] != 0, v[1], v[2]),
    L.Reduce: _reduce,
}
