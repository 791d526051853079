"""Every layer in exact integers: the slow evaluator that the simulator must match bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import activations, attention, formats, mac, rotary, window
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError
from opennpe.golden.network import Network, Tensor, encode_inputs
from opennpe.golden.pooling import patches, pool
from opennpe.golden.rounding import check_terms, convert, finish, reciprocal
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["check_terms", "convert", "evaluate", "evaluate_layer", "reciprocal"]

Codes = NDArray[Any]


def evaluate(
    spec: CoprocessorSpec, network: Network, inputs: Mapping[str, Any]
) -> dict[str, Codes]:
    """Codes of every tensor of a network, by the definition of each layer.

    Args:
        spec: gives the underflow rule and the accumulator.
        network: the network; where ``batch_axis`` is None the inputs have its exact shapes.
        inputs: real values or unsigned codes by input name.
    """
    tensors: dict[str, Codes] = dict(network.constants)
    tensors.update(encode_inputs(network, inputs, spec.underflow))
    for layer in network.layers:
        ins, out = network.layer_tensors(layer)
        values = [np.asarray(tensors[n]) for n in layer.inputs]
        tensors[layer.output] = evaluate_layer(spec, layer, ins, values, out)
    return tensors


def evaluate_layer(
    spec: CoprocessorSpec, layer: L.Layer, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """Codes of one layer's output, given those of its inputs.

    Raises:
        NetworkError: a layer of a kind there is no definition for.
    """
    handler = _HANDLERS.get(type(layer))
    if handler is None:
        raise NetworkError(f"layer '{layer.name}': no reference for {type(layer).__name__}")
    result = handler(spec, layer, ins, values, out)
    return np.asarray(result, dtype=formats.get(out.format).dtype)


def _affine(
    spec: CoprocessorSpec,
    layer: L.Conv | L.Linear,
    x: Tensor,
    a: Codes,
    b: Codes,
    channels: slice,
    out: Tensor,
) -> Codes:
    """Rows of codes (M, K) by weights (N, K): one exact sum and one rounding an output."""
    scales = [x.scale + int(s) for s in layer.weight_scale[channels]]
    bias = layer.bias[channels]
    if spec.mac.accumulator == "windowed":
        return _windowed(spec, layer, x, a, b, scales, bias, out)
    grid = mac.grid_exponent(x.format, layer.weight_format)
    sums, nan = mac.exact_sums(x.format, layer.weight_format, a, b.T)
    result = np.zeros(sums.shape, dtype=np.int64)
    for j, scale in enumerate(scales):
        offset = mac.to_grid(float(bias[j]), grid + scale)
        check_terms(spec, layer, x.format, layer.weight_format, a.shape[-1], abs(offset))
        for i in range(sums.shape[0]):
            total = sums[i, j] + offset
            result[i, j] = finish(spec, out, total, grid + scale, nan[i, j], layer.clip)
    return result


def _windowed(
    spec: CoprocessorSpec,
    layer: L.Conv | L.Linear,
    x: Tensor,
    a: Codes,
    b: Codes,
    scales: list[int],
    bias: NDArray[np.float64],
    out: Tensor,
) -> Codes:
    if not x.format == layer.weight_format == out.format:
        raise NetworkError(f"layer '{layer.name}': a windowed accumulator needs one format")
    fmt = formats.get(out.format)
    result = np.zeros((a.shape[0], b.shape[0]), dtype=np.int64)
    for i, j in itertools.product(range(a.shape[0]), range(b.shape[0])):
        code = window.windowed_dot(
            fmt,
            a[i],
            b[j],
            spec.mac.window_bits,
            spec.mac.window_terms,
            math.ldexp(float(bias[j]), -scales[j]),
            scales[j] - out.scale,
            spec.underflow,
        )
        result[i, j] = _clip_code(fmt, code, layer.clip, out, spec.underflow)
    return result


def _clip_code(
    fmt: Any, code: int, clip: L.Clip | None, out: Tensor, underflow: formats.Underflow
) -> int:
    if clip is None or code == fmt.nan_code:
        return code
    bounds = [b if math.isinf(b) else float(out.decode(out.encode(b, underflow))) for b in clip]
    value = float(out.decode(np.array(code)))
    return (
        code
        if bounds[0] <= value <= bounds[1]
        else int(out.encode(min(max(value, bounds[0]), bounds[1])))
    )


def _conv(spec: Any, layer: L.Conv, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    x = values[0]
    kernel = layer.weights.shape[2:]
    windows = patches(x, kernel, layer, 0)
    lead = windows.shape[:-2]
    per_in, per_out = layer.weights.shape[1], layer.weights.shape[0] // layer.groups
    columns = []
    for g in range(layer.groups):
        rows = windows[..., g * per_in : (g + 1) * per_in, :]
        channels = slice(g * per_out, (g + 1) * per_out)
        weights = layer.weights[channels].reshape(per_out, -1)
        flat = rows.reshape(math.prod(lead), -1)
        columns.append(_affine(spec, layer, ins[0], flat, weights, channels, out))
    joined = np.concatenate(columns, axis=1).reshape(*lead, layer.weights.shape[0])
    return np.moveaxis(joined, -1, 1)


def _linear(
    spec: Any, layer: L.Linear, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    x = values[0]
    flat = x.reshape(-1, x.shape[-1])
    result = _affine(spec, layer, ins[0], flat, layer.weights, slice(None), out)
    return np.asarray(result.reshape(*x.shape[:-1], layer.weights.shape[0]))


def _matmul(
    spec: Any, layer: L.MatMul, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    a, b = ins
    check_terms(spec, layer, a.format, b.format, values[0].shape[-1])
    sums, nan = mac.exact_sums(a.format, b.format, values[0], values[1])
    exponent = mac.grid_exponent(a.format, b.format) + a.scale + b.scale
    flat = [
        finish(spec, out, total, exponent, bad, layer.clip)
        for total, bad in zip(sums.ravel().tolist(), nan.ravel().tolist(), strict=True)
    ]
    return np.array(flat, dtype=np.int64).reshape(sums.shape)


def _add(spec: Any, layer: L.Add, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    """Both operands enter on the grid of the larger scale; bits below it round on entry."""
    grid = mac.grid_exponent(ins[0].format, ins[1].format) + max(t.scale for t in ins)
    arrays = np.broadcast_arrays(*values)
    result = np.zeros(arrays[0].shape, dtype=np.int64)
    real = [t.decode(v) for t, v in zip(ins, arrays, strict=True)]
    for index in np.ndindex(result.shape):
        pair = [float(r[index]) for r in real]
        if any(math.isnan(v) for v in pair):
            result[index] = mac.round_sum(formats.get(out.format), 0, 0, True)
            continue
        total = sum(s * mac.to_grid(v, grid) for s, v in zip(layer.signs, pair, strict=True))
        result[index] = finish(spec, out, total, grid, False, layer.clip)
    return result


def _mul(spec: Any, layer: L.Mul, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    a, b = ins
    exponent = mac.grid_exponent(a.format, b.format) + a.scale + b.scale
    arrays = np.broadcast_arrays(*values)
    result = np.zeros(arrays[0].shape, dtype=np.int64)
    for index in np.ndindex(result.shape):
        product, nan = mac.multiply(
            a.format, b.format, int(arrays[0][index]), int(arrays[1][index])
        )
        result[index] = finish(spec, out, product, exponent, nan, layer.clip)
    return result


def _moved(spec: Any, source: Tensor, out: Tensor, codes: Codes) -> Codes:
    return convert(codes, source, out, spec.underflow)


def _concat(
    spec: Any, layer: L.Concat, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    batch = max(v.shape[0] for v in values) if layer.axis else None
    parts = []
    for tensor, codes in zip(ins, values, strict=True):
        if batch is not None and codes.shape[0] != batch:
            codes = np.broadcast_to(codes, (batch, *codes.shape[1:]))
        parts.append(_moved(spec, tensor, out, codes))
    return np.concatenate(parts, axis=layer.axis)


def _resize(
    spec: Any, layer: L.Resize, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    x, tensor = values[0], ins[0]
    fmt = formats.get(tensor.format)
    if all(index.shape[1] == 1 for index in layer.indices):
        picked: Codes = x[np.ix_(*_batch_indices(layer, x))]
        return _moved(spec, tensor, out, picked)
    sums = fmt.fixed(x)
    nan = fmt.is_nan(x)
    bits = 0
    for axis, (index, weight) in enumerate(zip(layer.indices, layer.weights, strict=True)):
        if (axis == 0 and len(index) == 1) or index.shape[1] == 1:
            rows = np.arange(x.shape[0]) if axis == 0 and len(index) == 1 else index[:, 0]
            sums, nan = sums.take(rows, axis), nan.take(rows, axis)
            continue
        shape = [1] * sums.ndim
        shape[axis] = len(index)
        taps = range(index.shape[1])
        nan = np.any([nan.take(index[:, t], axis) for t in taps], axis=0)
        sums = sum(
            sums.take(index[:, t], axis) * weight[:, t].astype(object).reshape(shape) for t in taps
        )
        bits += layer.fraction_bits
    result = np.zeros(sums.shape, dtype=np.int64)
    exponent = fmt.lsb_exponent + tensor.scale - bits
    for at in np.ndindex(sums.shape):
        result[at] = finish(spec, out, sums[at], exponent, nan[at])
    return result


def _batch_indices(layer: L.Resize, x: Codes) -> list[NDArray[np.int64]]:
    rows = [index[:, 0] for index in layer.indices]
    if len(rows[0]) == 1:
        rows[0] = np.arange(x.shape[0])
    return rows


def _pad(spec: Any, layer: L.Pad, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    rank = values[0].ndim
    width = [(layer.pads[i], layer.pads[rank + i]) for i in range(rank)]
    codes = _moved(spec, ins[0], out, values[0])
    if layer.mode == "constant":
        fill = int(out.encode(layer.value, spec.underflow))
        return np.pad(codes, width, constant_values=fill)
    return np.pad(codes, width, mode="reflect" if layer.mode == "reflect" else "edge")


def _slice(spec: Any, layer: L.Slice, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    index = [slice(*s) for s in layer.slices]
    if values[0].shape[0] != ins[0].shape[0]:
        index[0] = slice(None)
    return _moved(spec, ins[0], out, values[0][tuple(index)])


def _reshape(
    spec: Any, layer: L.Reshape, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    codes, shape = values[0], layer.shape
    if codes.shape[:1] != ins[0].shape[:1]:
        shape = (codes.shape[0], *shape[1:])
    return _moved(spec, ins[0], out, codes.reshape(shape))


def _transpose(
    spec: Any, layer: L.Transpose, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    return _moved(spec, ins[0], out, values[0].transpose(layer.permutation))


def _activate(
    spec: Any, layer: L.Activate, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    where = (ins[0].format, ins[0].scale, out.format, out.scale)
    if layer.slope is not None:
        return activations.prelu(values[0], layer.slope, *where, spec.underflow)
    table = activations.table(layer.kind, *where, layer.params, spec.underflow)
    return np.asarray(table[values[0]])


def _convert(
    spec: Any, layer: L.Convert, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    return _moved(spec, ins[0], out, values[0])


def _softmax(
    spec: Any, layer: L.Softmax, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    return out.encode(
        activations.softmax(ins[0].decode(values[0]), layer.axis, layer.log), spec.underflow
    )


_HANDLERS: dict[type, Callable[..., Codes]] = {
    L.Conv: _conv,
    L.Linear: _linear,
    L.MatMul: _matmul,
    L.Add: _add,
    L.Mul: _mul,
    L.Pool: pool,
    L.Concat: _concat,
    L.Resize: _resize,
    L.Pad: _pad,
    L.Slice: _slice,
    L.Reshape: _reshape,
    L.Transpose: _transpose,
    L.Activate: _activate,
    L.Convert: _convert,
    L.Softmax: _softmax,
    L.StreamSoftmax: attention.stream_softmax,
    L.Normalise: attention.normalise,
    L.Gather: attention.gather,
    L.Rotary: rotary.rotary,
    L.Append: attention.append,
    L.Select: attention.select,
    L.Reduce: attention.reduce,
}
