"""Translators of the elementwise operators and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant import masked_logits
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Unsupported
from opennpe.quant.onnx_reader import Node

__all__ = ["OPERATORS"]


def _fits(b: Builder, x: str, constant: str) -> bool:
    """Whether a constant broadcasts against a tensor without enlarging it."""
    shape = b.shape(x)
    return tuple(np.broadcast_shapes(shape, b.shape(constant))) == shape


def _check_broadcast(b: Builder, node: Node) -> None:
    if node.attributes.get("broadcast", 0) or "axis" in node.attributes:
        raise Unsupported("the broadcast attribute of opsets before 7")


def _sum(b: Builder, node: Node, sign: int = 1) -> None:
    _check_broadcast(b, node)
    if sign == 1 and masked_logits.add_mask(b, node):
        return
    first, second = node.inputs
    out = node.outputs[0]
    if sign == 1 and any(_stays(b, n, 0.0) for n in node.inputs):
        b.add(node, b.operand(first), b.operand(second), out=out)
    elif b.is_constant(second) and _fits(b, first, second):
        values = b.finite(b.constants[second], f"constant '{second}'")
        hint = b.constant_hint(second) if sign == 1 else None
        b.affine(node, b.tensor(first), 1.0, sign * values, out, hint)
    elif b.is_constant(first) and _fits(b, second, first):
        values = b.finite(b.constants[first], f"constant '{first}'")
        hint = b.constant_hint(first) if sign == 1 else None
        b.affine(node, b.tensor(second), float(sign), values, out, hint)
    else:
        b.add(node, b.operand(first), b.operand(second), (1, sign), out)


def _stays(b: Builder, name: str, neutral: float) -> bool:
    """Whether a constant does nothing only because the model rounded it: its layer stays."""
    return b.constant_hint(name) is not None and bool(np.all(b.constants[name] == neutral))


def _product(b: Builder, node: Node) -> None:
    _check_broadcast(b, node)
    first, second = node.inputs
    for x, constant in ((first, second), (second, first)):
        if b.is_constant(constant) and not _stays(b, constant, 1.0) and _fits(b, x, constant):
            values = b.finite(b.constants[constant], f"constant '{constant}'")
            hint = b.constant_hint(constant)
            b.affine(node, b.tensor(x), values, 0.0, node.outputs[0], hint)
            return
    b.mul(node, b.operand(first), b.operand(second), node.outputs[0])


def _quotient(b: Builder, node: Node) -> None:
    """By a constant it is a product; else ``a * reciprocal(b)``, two roundings."""
    first, second = node.inputs
    if b.is_constant(second):
        with np.errstate(divide="ignore"):
            inverse = 1.0 / b.constants[second].astype(np.float64)
        inverse = b.finite(inverse, f"the reciprocal of constant '{second}'")
        if _fits(b, first, second):
            b.affine(node, b.tensor(first), inverse, 0.0, node.outputs[0])
        else:
            b.mul(node, b.operand(first), b.new_operand(second, inverse), node.outputs[0])
        return
    inverse_name = b.activate(node, b.operand(second), "reciprocal")
    if b.is_constant(first) and _fits(b, second, first):
        b.affine(node, inverse_name, b.constants[first], 0.0, node.outputs[0])
    else:
        b.mul(node, b.operand(first), inverse_name, node.outputs[0])


def _negate(b: Builder, node: Node) -> None:
    b.affine(node, b.operand(node.inputs[0]), -1.0, 0.0, node.outputs[0])


def _many(b: Builder, node: Node, mean: bool = False) -> None:
    names = [b.operand(n) for n in node.inputs]
    out = node.outputs[0]
    if len(names) == 1:
        b.same(out, names[0])
        return
    total = names[0]
    for index, name in enumerate(names[1:], start=2):
        last = index == len(names) and not mean
        total = b.add(node, total, name, out=out if last else None)
    if mean:
        b.affine(node, total, 1.0 / len(names), 0.0, out)


def _extreme(b: Builder, node: Node, largest: bool) -> None:
    """With a scalar constant a clip; tensors of one shape join and pool, which is exact."""
    out = node.outputs[0]
    names = list(dict.fromkeys(node.inputs))
    scalars = [n for n in names if b.is_constant(n) and b.constants[n].size == 1]
    rest = [n for n in names if n not in scalars]
    if (
        scalars
        and len(rest) == 1
        and len(b.shape(rest[0])) >= max(len(b.shape(n)) for n in scalars)
    ):
        bound = (max if largest else min)(float(b.constants[n].ravel()[0]) for n in scalars)
        low, high = (bound, math.inf) if largest else (-math.inf, bound)
        b.activate(node, b.tensor(rest[0]), "clip", out, min=low, max=high)
        return
    operands = [b.operand(n) for n in names]
    shapes = {b.shape(n) for n in operands}
    if len(shapes) != 1:
        raise Unsupported(f"operands of different shapes {sorted(shapes)}")
    if len(operands) == 1:
        b.same(out, operands[0])
        return
    shape = shapes.pop()
    lead, side = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    if not largest:
        operands = [b.affine(node, n, -1.0, 0.0) for n in operands]
    flat = [b.reshape(node, n, (lead, side, 1)) for n in operands]
    joined = b.put(L.Concat, node, flat, axis=2)
    count = len(flat)
    best = b.put(
        L.Pool,
        node,
        [joined],
        kind="max",
        kernel=(count,),
        strides=(1,),
        pads=(0, 0),
        dilations=(1,),
    )
    if largest:
        b.reshape(node, best, shape, out)
    else:
        b.affine(node, b.reshape(node, best, shape), -1.0, 0.0, out)


def _clip(b: Builder, node: Node) -> None:
    if b.opset < 11:
        low, high = node.attributes.get("min", -math.inf), node.attributes.get("max", math.inf)
    else:
        low = b.constant(node, 1, "its minimum", -math.inf)
        high = b.constant(node, 2, "its maximum", math.inf)
    low, high = (float(np.asarray(v).ravel()[0]) for v in (low, high))
    if math.isnan(low) or math.isnan(high):
        raise Unsupported("a bound is NaN")
    if low > high:
        low = high  # ONNX: all values become the maximum.
    b.activate(node, b.operand(node.inputs[0]), "clip", node.outputs[0], min=low, max=high)


def _table(b: Builder, node: Node, kind: str, **defaults: float) -> None:
    params = {key: float(node.attributes.get(key, value)) for key, value in defaults.items()}
    b.activate(node, b.operand(node.inputs[0]), kind, node.outputs[0], **params)


def _leaky(b: Builder, node: Node) -> None:
    slope = np.array([float(node.attributes.get("alpha", 0.01))])
    x = b.operand(node.inputs[0])
    b.put(L.Activate, node, [x], node.outputs[0], kind="leaky", slope=slope)


def _prelu(b: Builder, node: Node) -> None:
    slope = b.constant(node, 1, "its slope").astype(np.float64)
    if not _fits(b, node.inputs[0], node.inputs[1]):
        raise Unsupported(f"slope {slope.shape} over shape {b.shape(node.inputs[0])}")
    x = b.operand(node.inputs[0])
    b.put(L.Activate, node, [x], node.outputs[0], kind="prelu", slope=slope)


def _gelu(b: Builder, node: Node) -> None:
    tanh = node.op == "FastGelu" or node.attributes.get("approximate", "none") == "tanh"
    if node.op == "FastGelu" and len(node.inputs) > 1 and node.inputs[1]:
        raise Unsupported("a bias inside FastGelu")
    kind = "gelu_tanh" if tanh else "gelu"
    b.activate(node, b.operand(node.inputs[0]), kind, node.outputs[0])


def _scaled(b: Builder, node: Node, kind: str, inner: float, outer: float) -> None:
    """``outer * f(inner * x)``."""
    if not inner or not math.isfinite(inner) or not math.isfinite(outer):
        raise Unsupported(f"alpha = {inner}")
    x = b.operand(node.inputs[0])
    if inner == outer == 1.0:
        b.activate(node, x, kind, node.outputs[0])
        return
    y = b.activate(node, b.affine(node, x, inner, 0.0), kind)
    b.affine(node, y, outer, 0.0, node.outputs[0])


def _swish(b: Builder, node: Node, default: float = 1.0) -> None:
    alpha = float(node.attributes.get("alpha", default))
    _scaled(b, node, "silu", alpha, 1.0 / alpha if alpha else math.nan)


def _celu(b: Builder, node: Node) -> None:
    alpha = float(node.attributes.get("alpha", 1.0))
    _scaled(b, node, "elu", 1.0 / alpha if alpha else math.nan, alpha)


def _power(b: Builder, node: Node) -> None:
    exponent = b.constant(node, 1, "its exponent")
    if exponent.size != 1 or len(b.shape(node.inputs[0])) < exponent.ndim:
        raise Unsupported("an exponent that is no single number")
    x, out = b.operand(node.inputs[0]), node.outputs[0]
    match float(exponent.ravel()[0]):
        case 1.0:
            b.same(out, x)
        case 2.0:
            b.mul(node, x, x, out)
        case 3.0:
            b.mul(node, b.mul(node, x, x), x, out)
        case 0.5:
            b.activate(node, x, "sqrt", out)
        case -1.0:
            b.activate(node, x, "reciprocal", out)
        case -0.5:
            b.activate(node, b.activate(node, x, "sqrt"), "reciprocal", out)
        case other:
            raise Unsupported(f"exponent {other}: expected 1, 2, 3, 0.5, -0.5 or -1")


def _softmax(b: Builder, node: Node, log: bool) -> None:
    if node.inputs[0] in b.masked:
        _masked_softmax(b, node, log)
        return
    x = b.operand(node.inputs[0])
    shape, out = b.shape(x), node.outputs[0]
    axis = int(node.attributes.get("axis", -1 if b.opset >= 13 else 1))
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis < max(1, len(shape)):
        raise Unsupported(f"axis {axis} of shape {shape}")
    if b.opset >= 13 or axis == len(shape) - 1:
        b.put(L.Softmax, node, [x], out, axis=axis, log=log)
        return
    # Before opset 13 all axes from `axis` on were one.
    flat = b.reshape(node, x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    b.reshape(node, b.put(L.Softmax, node, [flat], axis=1, log=log), shape, out)


def _masked_softmax(b: Builder, node: Node, log: bool) -> None:
    """Softmax over what masks leave, along the last axis."""
    masked = b.masked[node.inputs[0]]
    rank = len(b.shapes[masked.tensor])
    axis = int(node.attributes.get("axis", -1 if b.opset >= 13 else 1))
    if log or axis % rank != rank - 1:
        raise Unsupported("masked logits, and not a plain softmax along the last axis")
    names, fields = masked_logits.inputs_of(b, masked)
    b.put(L.StreamSoftmax, node, names, node.outputs[0], **fields)


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "Add": _sum,
    "Sub": partial(_sum, sign=-1),
    "Mul": _product,
    "Div": _quotient,
    "Neg": _negate,
    "Sum": _many,
    "Mean": partial(_many, mean=True),
    "Max": partial(_extreme, largest=True),
    "Min": partial(_extreme, largest=False),
    "Clip": _clip,
    "Relu": partial(_table, kind="relu"),
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Gelu": _gelu,
    "FastGelu": _gelu,
    "QuickGelu": partial(_swish, default=1.702),
    "Swish": _swish,
    "Celu": _celu,
    "Pow": _power,
    "HardSigmoid": partial(_table, kind="hard_sigmoid", alpha=0.2, beta=0.5),
    "Elu": partial(_table, kind="elu", alpha=1.0),
    "Selu": partial(
        _table, kind="selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875
    ),
    "Softmax": partial(_softmax, log=False),
    "LogSoftmax": partial(_softmax, log=True),
    **{
        name: partial(_table, kind=kind)
        for name, kind in {
            "Sigmoid": "sigmoid",
            "Tanh": "tanh",
            "HardSwish": "hard_swish",
            "Softplus": "softplus",
            "Softsign": "softsign",
            "Mish": "mish",
            "Exp": "exp",
            "Log": "log",
            "Sqrt": "sqrt",
            "Reciprocal": "reciprocal",
            "Erf": "erf",
            "Abs": "abs",
        }.items()
    },
}
