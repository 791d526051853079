"""Translators of the operators that multiply: convolution, Gemm, MatMul, batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Array, Shape, Unsupported
from opennpe.quant.onnx_reader import Node

__all__ = ["OPERATORS", "auto_pads", "window"]


def auto_pads(node: Node, spatial: Shape, kernel: Shape, strides: Shape, dilations: Shape) -> Shape:
    """Begins then ends of the padding that ``auto_pad`` or ``pads`` ask for."""
    rank = len(kernel)
    mode = node.attributes.get("auto_pad", "NOTSET") or "NOTSET"
    if mode == "NOTSET":
        pads = tuple(int(p) for p in node.attributes.get("pads", (0,) * (2 * rank)))
        if len(pads) != 2 * rank:
            raise ModelError(f"node '{node.name}': {len(pads)} pads for {rank} spatial axes")
        if min(pads, default=0) < 0:
            raise Unsupported(f"negative pads {pads}")
        return pads
    if mode == "VALID":
        return (0,) * (2 * rank)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"auto_pad '{mode}'")
    begins, ends = [], []
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return (*begins, *ends)


def window(node: Node, kernel: Shape, key: str, default: int = 1) -> Shape:
    """A per-axis attribute such as strides, positive and as long as the kernel."""
    values = tuple(int(v) for v in node.attributes.get(key) or (default,) * len(kernel))
    if len(values) != len(kernel) or min(values, default=1) < 1:
        raise ModelError(f"node '{node.name}': {key} {values} do not fit the kernel {kernel}")
    return values


def _conv(b: Builder, node: Node) -> None:
    weights = b.constant(node, 1, "its weights")
    bias = b.constant(node, 2, "its bias")
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    if weights.ndim != len(shape) or not 3 <= weights.ndim <= 5:
        raise Unsupported(f"weights {weights.shape} over shape {shape}: expected 1 to 3 axes")
    kernel = weights.shape[2:]
    if tuple(node.attributes.get("kernel_shape", kernel)) != kernel:
        raise ModelError(f"node '{node.name}': kernel_shape contradicts its weights' {kernel}")
    if bias is not None and bias.shape != weights.shape[:1]:
        raise ModelError(f"node '{node.name}': bias {bias.shape} for weights {weights.shape}")
    strides, dilations = window(node, kernel, "strides"), window(node, kernel, "dilations")
    pads = auto_pads(node, shape[2:], kernel, strides, dilations)
    _hint_weights(b, node, 1)
    b.conv(
        node,
        x,
        node.outputs[0],
        weights=weights,
        bias=bias,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=int(node.attributes.get("group", 1)),
    )


def _hint_weights(b: Builder, node: Node, index: int) -> None:
    hint = b.constant_hints.get(node.inputs[index])
    if hint is not None:
        b.weight_hints[node.name] = hint


def _gemm(b: Builder, node: Node) -> None:
    alpha = float(node.attributes.get("alpha", 1.0))
    beta = float(node.attributes.get("beta", 1.0))
    x = b.operand(node.inputs[0])
    if node.attributes.get("transA", 0):
        x = b.transpose(node, x, (1, 0))
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = b.constants.get(bias_name)
    trans_b = bool(node.attributes.get("transB", 0))
    if b.is_constant(node.inputs[1]):
        weights = b.constants[node.inputs[1]].astype(np.float64)
        if weights.ndim != 2:
            raise ModelError(f"node '{node.name}': weights {weights.shape}, expected two axes")
        weights = weights if trans_b else weights.T
        row = _as_row(bias, weights.shape[0])
        if alpha == 1.0:
            _hint_weights(b, node, 1)
        done = not bias_name or row is not None
        out = node.outputs[0] if done else None
        offset = None if row is None else beta * row
        product = b.linear(node, x, alpha * weights, offset, out)
        if done:
            return
    else:
        other = b.operand(node.inputs[1])
        other = b.transpose(node, other, (1, 0)) if trans_b else other
        if alpha != 1.0:
            x = b.affine(node, x, alpha, 0.0)
        product = b.put(L.MatMul, node, [x, other], None if bias_name else node.outputs[0])
        if not bias_name:
            return
    if bias is not None:
        _offset(b, node, product, beta * bias.astype(np.float64), node.outputs[0])
        return
    addend = b.tensor(bias_name)
    if beta != 1.0:
        addend = b.affine(node, addend, beta, 0.0)
    b.add(node, product, addend, out=node.outputs[0])


def _as_row(bias: Array | None, channels: int) -> Array | None:
    """A constant that is one number an output channel, or None."""
    if bias is None or bias.size not in (1, channels) or bias.shape[-1:] not in ((), (bias.size,)):
        return None
    return np.broadcast_to(bias.astype(np.float64).ravel(), (channels,))


def _offset(b: Builder, node: Node, x: str, values: Array, out: str) -> None:
    if np.broadcast_shapes(values.shape, b.shape(x)) == b.shape(x):
        b.affine(node, x, 1.0, values, out)
    else:
        b.add(node, x, b.new_operand(out, values), out=out)


def _matmul(b: Builder, node: Node) -> None:
    first, second = node.inputs
    left, right = b.shape(first), b.shape(second)
    if not left or not right:
        raise ModelError(f"node '{node.name}': MatMul of a scalar")
    out = node.outputs[0]
    if b.is_constant(second) and len(right) == 2 and len(left) >= 2:
        _hint_weights(b, node, 1)
        b.linear(node, b.operand(first), b.constants[second].T, None, out)
        return
    x, y = b.operand(first), b.operand(second)
    # One-dimensional operands get the axis that the product then drops (ONNX MatMul, as NumPy).
    if len(left) == 1:
        x = b.reshape(node, x, (1, *left))
    if len(right) == 1:
        y = b.reshape(node, y, (*right, 1))
    if len(left) > 1 and len(right) > 1:
        b.put(L.MatMul, node, [x, y], out)
        return
    product = b.put(L.MatMul, node, [x, y])
    shape = list(b.shape(product))
    if len(right) == 1:
        shape.pop()
    if len(left) == 1:
        shape.pop(-2 if len(right) > 1 else -1)
    b.reshape(node, product, shape, out)


def _batch_normalization(b: Builder, node: Node) -> None:
    if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):
        raise Unsupported("training mode: export the model for inference")
    if not node.attributes.get("spatial", 1):
        raise Unsupported("spatial=0")
    names = ("scale", "bias", "mean", "variance")
    gain, bias, mean, variance = (
        b.constant(node, i + 1, f"its {name}").astype(np.float64) for i, name in enumerate(names)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        # A negative variance gives NaN here, which the builder refuses by the layer's name.
        scale = gain / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    offset = bias - mean * scale
    x = b.operand(node.inputs[0])
    rank = len(b.shape(x))
    side = (-1,) + (1,) * (rank - 2) if rank > 2 else (-1,)
    b.affine(node, x, scale.reshape(side), offset.reshape(side), node.outputs[0])


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_normalization,
}
