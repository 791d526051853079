"""Every layer in exact integers: the slow evaluator that the simulator must match bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import activations, codec, formats, mac, shapes, window
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, FormatError, NetworkError
from opennpe.golden.network import Network, Tensor, encode_inputs
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["check_terms", "convert", "evaluate", "reciprocal"]

Codes = NDArray[Any]
RECIPROCAL_BITS = 16


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
        handler = _HANDLERS.get(type(layer))
        if handler is None:
            raise NetworkError(f"layer '{layer.name}': no reference for {type(layer).__name__}")
        result = handler(spec, layer, ins, values, out)
        tensors[layer.output] = np.asarray(result, dtype=formats.get(out.format).dtype)
    return tensors


def check_terms(
    spec: CoprocessorSpec, layer: L.Layer, a: str, b: str, terms: int, bias_units: int = 0
) -> None:
    """Refuse a layer whose sums the accumulator might not hold (DESIGN 2).

    Raises:
        AccumulatorError: naming the layer, its terms and the limit.
    """
    total = terms + -(-bias_units // mac.max_product(a, b))
    limit = spec.max_terms(a, b)
    if total > limit:
        raise AccumulatorError(
            f"layer '{layer.name}' sums {total} terms of {a} x {b}, the accumulator holds {limit}: "
            "choose a wider format for it or split it"
        )


def _round_rational(out: Any, value: Fraction, exponent: int, underflow: formats.Underflow) -> int:
    return codec.round_exact(out, value.numerator, exponent, underflow, value.denominator)


def _finish(
    spec: CoprocessorSpec,
    out: Tensor,
    total: int,
    exponent: int,
    nan: bool,
    clip: L.Clip | None = None,
) -> int:
    """Clip the exact value ``total * 2**exponent`` (real units) and round it to ``out``."""
    fmt = formats.get(out.format)
    if nan:
        return mac.round_sum(fmt, 0, 0, True, spec.underflow)
    value = Fraction(int(total)) * Fraction(2) ** exponent
    if clip is not None:
        low, high = clip
        value = max(value, Fraction(low)) if low > -math.inf else value
        value = min(value, Fraction(high)) if high < math.inf else value
    return _round_rational(fmt, value, -out.scale, spec.underflow)


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
            result[i, j] = _finish(spec, out, total, grid + scale, nan[i, j], layer.clip)
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
    return code if bounds[0] <= value <= bounds[1] else int(out.encode(np.clip(value, *bounds)))


def _patches(x: Codes, kernel: shapes.Shape, layer: L.Conv | L.Pool, fill: int) -> Codes:
    """Windows of (N, C, spatial...) as (N, outputs..., C, taps); padding holds ``fill``."""
    rank = len(kernel)
    ends = layer.pads[rank:]
    extra = [0] * rank
    ceil_mode = isinstance(layer, L.Pool) and layer.ceil_mode
    out = shapes._windows(layer, x.shape[2:], kernel, ceil_mode)
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


def _conv(spec: Any, layer: L.Conv, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    x = values[0]
    kernel = layer.weights.shape[2:]
    patches = _patches(x, kernel, layer, 0)
    lead = patches.shape[:-2]
    per_in, per_out = layer.weights.shape[1], layer.weights.shape[0] // layer.groups
    columns = []
    for g in range(layer.groups):
        rows = patches[..., g * per_in : (g + 1) * per_in, :]
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
    return result.reshape(*x.shape[:-1], layer.weights.shape[0])


def _matmul(
    spec: Any, layer: L.MatMul, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    a, b = ins
    check_terms(spec, layer, a.format, b.format, values[0].shape[-1])
    sums, nan = mac.exact_sums(a.format, b.format, values[0], values[1])
    exponent = mac.grid_exponent(a.format, b.format) + a.scale + b.scale
    flat = [
        _finish(spec, out, total, exponent, bad, layer.clip)
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
        result[index] = _finish(spec, out, total, grid, False, layer.clip)
    return result


def _mul(spec: Any, layer: L.Mul, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    a, b = ins
    exponent = mac.grid_exponent(a.format, b.format) + a.scale + b.scale
    arrays = np.broadcast_arrays(*values)
    result = np.zeros(arrays[0].shape, dtype=np.int64)
    for index in np.ndindex(result.shape):
        product, nan = mac.multiply(a.format, b.format, arrays[0][index], arrays[1][index])
        result[index] = _finish(spec, out, product, exponent, nan, layer.clip)
    return result


def reciprocal(count: int) -> tuple[int, int]:
    """``1/count`` as ``(m, q)`` meaning ``m * 2**-q``: the rule "rne17" for average pooling.

    ``q = 16 + ceil(log2(count))`` and m is the nearest integer, so m has at most 17 bits; powers
    of two are exact.
    """
    q = RECIPROCAL_BITS + (count - 1).bit_length()
    return round(Fraction(1 << q, count)), q


def _pool(spec: Any, layer: L.Pool, ins: list[Tensor], values: list[Codes], out: Tensor) -> Codes:
    x, tensor = values[0], ins[0]
    inside = _patches(np.ones((1, 1, *x.shape[2:]), dtype=np.int64), layer.kernel, layer, 0)
    if layer.kind == "max":
        return _max_pool(spec, layer, tensor, x, inside, out)
    fmt = formats.get(tensor.format)
    patches = _patches(x, layer.kernel, layer, 0)
    sums = fmt.fixed(patches).sum(axis=-1)
    nan = fmt.is_nan(patches).any(axis=-1)
    counts = _average_counts(layer, x.shape[2:], inside)
    result = np.zeros(sums.shape, dtype=np.int64)
    for index in np.ndindex(sums.shape):
        m, q = reciprocal(int(counts[index[1:-1]]))
        exponent = fmt.lsb_exponent + tensor.scale - q
        result[index] = _finish(spec, out, sums[index] * m, exponent, nan[index])
    return np.moveaxis(result, -1, 1)


def _average_counts(layer: L.Pool, spatial: shapes.Shape, inside: Codes) -> Codes:
    """Elements each window divides by (outputs...)."""
    if not layer.count_include_pad:
        return np.maximum(inside.sum(axis=-1)[0, ..., 0], 1)
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
    ones = _patches(np.ones((1, 1, *grown), dtype=np.int64), layer.kernel, bare, 0)
    counts = ones.sum(axis=-1)[0, ..., 0]
    return np.maximum(counts[tuple(slice(n) for n in inside.shape[1:-2])], 1)


def _max_pool(
    spec: Any, layer: L.Pool, tensor: Tensor, x: Codes, inside: Codes, out: Tensor
) -> Codes:
    fmt = formats.get(tensor.format)
    keys = fmt.order_key(x).astype(np.int64)
    lowest = -(1 << 24)
    windows = _patches(keys - lowest, layer.kernel, layer, 0) + lowest
    best = np.where(inside == 1, windows, lowest).max(axis=-1)
    by_key = {int(k): c for c, k in enumerate(fmt.order_key(np.arange(1 << fmt.bits)))}
    codes = np.vectorize(lambda key: by_key.get(int(key), 0))(best)
    return convert(np.moveaxis(codes, -1, 1), tensor, out, spec.underflow)


def convert(codes: Codes, source: Tensor, target: Tensor, underflow: formats.Underflow) -> Codes:
    """Codes of one tensor's format and scale in another's; one rounding where they differ.

    Raises:
        FormatError: NaR met and the target has no code for it.
    """
    if (source.format, source.scale) == (target.format, target.scale):
        return codes
    fmt, out = formats.get(source.format), formats.get(target.format)
    if out.nan_code is None and fmt.is_nan(codes).any():
        raise FormatError(f"tensor '{source.name}' holds NaR and {out.name} has no code for it")
    values = np.ldexp(fmt.decode(codes), source.scale - target.scale)
    return np.asarray(out.encode(values, underflow))


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
        return _moved(spec, tensor, out, x[np.ix_(*_batch_indices(layer, x))])
    sums = fmt.fixed(x)
    nan = fmt.is_nan(x)
    bits = 0
    for axis, (index, weight) in enumerate(zip(layer.indices, layer.weights, strict=True)):
        if axis == 0 and len(index) == 1 or index.shape[1] == 1:
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
    for index in np.ndindex(sums.shape):
        exponent = fmt.lsb_exponent + tensor.scale - bits
        result[index] = _finish(spec, out, sums[index], exponent, nan[index])
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
    L.Pool: _pool,
    L.Concat: _concat,
    L.Resize: _resize,
    L.Pad: _pad,
    L.Slice: _slice,
    L.Reshape: _reshape,
    L.Transpose: _transpose,
    L.Activate: _activate,
    L.Convert: _convert,
    L.Softmax: _softmax,
}
