"""Rewrites for transformers: normalisations written out, scales of logits, softmax in attention.

Each is exact in real arithmetic, as those of :mod:`opennpe.quant.fold`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant.graph import Affine, Array

__all__ = [
    "activation_times",
    "affine_into_norm",
    "affine_into_softmax",
    "affine_past_matmul",
    "affine_past_moves",
    "gelu_tanh",
    "norm",
    "plain_means",
    "stream",
    "transpose_inside",
]

MOVES = (L.Reshape, L.Transpose, L.Slice)
State = Any
_LAYER: Literal["layer", "rms"] = "layer"
_RMS: Literal["layer", "rms"] = "rms"


def _number(values: Array) -> float | None:
    """The one number of an array, or None."""
    return float(np.ravel(values)[0]) if np.size(values) == 1 else None


def _scale_only(layer: Any) -> float | None:
    """The factor of an affine map that is one number times x, or None."""
    if not isinstance(layer, Affine) or np.any(layer.offset):
        return None
    return _number(layer.scale)


# -- scales ------------------------------------------------------------------------------------
def affine_past_moves(state: State, layer: Any) -> bool:
    """``move(s * x)`` is ``s * move(x)``: on its way to a product."""
    if not isinstance(layer, MOVES):
        return False
    first = state.private(layer.inputs[0], Affine)
    if first is None or _scale_only(first) is None or not _leads_to_matmul(state, layer):
        return False
    mid = state.builder.fresh(layer.output)
    state.builder.shapes[mid] = state.shape(layer.output)
    moved = replace(layer, inputs=first.inputs, output=mid)
    scaled = replace(first, inputs=(mid,), output=layer.output)
    state.swap([first, layer], [moved, scaled])
    return True


def transpose_inside(state: State, layer: Any) -> bool:
    """Leading axes of extent 1 that are dropped for a transposition and put back stay instead."""
    if not isinstance(layer, L.Reshape):
        return False
    turned = state.private(layer.inputs[0], L.Transpose)
    dropped = turned and state.private(turned.inputs[0], L.Reshape)
    if not dropped:
        return False
    before, inner = state.shape(dropped.inputs[0]), dropped.shape
    more = len(before) - len(inner)
    ones = (1,) * more
    if more < 1 or before != (*ones, *inner):
        return False
    if layer.shape != (*ones, *state.shape(turned.output)):
        return False
    axes = (*range(more), *(a + more for a in turned.permutation))
    new = replace(turned, inputs=dropped.inputs, output=layer.output, permutation=axes)
    state.swap([dropped, turned, layer], [new])
    return True


def _leads_to_matmul(state: State, layer: Any) -> bool:
    readers = [item for item in state.layers if layer.output in item.inputs]
    return len(readers) == 1 and (
        isinstance(readers[0], L.MatMul)
        or (isinstance(readers[0], MOVES) and _leads_to_matmul(state, readers[0]))
    )


def affine_past_matmul(state: State, layer: Any) -> bool:
    """``(s * a) b`` is ``s * (a b)``: one factor less to round."""
    if not isinstance(layer, L.MatMul) or layer.clip is not None:
        return False
    for index, name in enumerate(layer.inputs):
        first = state.private(name, Affine)
        if first is None or _scale_only(first) is None:
            continue
        mid = state.builder.fresh(layer.output)
        state.builder.shapes[mid] = state.shape(layer.output)
        inputs = list(layer.inputs)
        inputs[index] = first.inputs[0]
        product = replace(layer, inputs=tuple(inputs), output=mid)
        scaled = replace(first, inputs=(mid,), output=layer.output)
        state.swap([first, layer], [product, scaled])
        return True
    return False


def affine_into_softmax(state: State, layer: Any) -> bool:
    """A positive factor of the logits is the softmax's own; what is added to all does nothing."""
    if not isinstance(layer, L.StreamSoftmax):
        return False
    first = state.private(layer.inputs[0], Affine)
    if first is None:
        return False
    scale, offset = _number(first.scale), _number(first.offset)
    if scale is None or offset is None or not scale > 0:
        return False
    inputs = (first.inputs[0], *layer.inputs[1:])
    state.swap([first, layer], [replace(layer, inputs=inputs, scale=layer.scale * scale)])
    return True


# -- softmax -----------------------------------------------------------------------------------
def stream(state: State, layer: Any) -> bool:
    """A softmax whose rows weigh something in a product is attention: the unit computes it."""
    if not isinstance(layer, L.Softmax) or layer.log:
        return False
    rank = len(state.shape(layer.output))
    if layer.axis % max(rank, 1) != rank - 1 or not _weighs(state, layer.output):
        return False
    unit = L.StreamSoftmax(name=layer.name, inputs=layer.inputs, output=layer.output)
    state.swap([layer], [unit])
    return True


def _weighs(state: State, name: str) -> bool:
    return any(
        isinstance(item, L.MatMul) or (_passes(state, item) and _weighs(state, item.output))
        for item in state.layers
        if name in item.inputs
    )


def _passes(state: State, layer: Any) -> bool:
    """Whether a layer only moves values, or only says in which format they are."""
    quantises = isinstance(layer, L.Activate) and layer.output in state.builder.hints
    return isinstance(layer, MOVES) or (quantises and layer.kind == "clip")


# -- normalisation -----------------------------------------------------------------------------
def norm(state: State, layer: Any) -> bool:
    """``d / sqrt(mean(d * d) + epsilon)``, d being x or x - mean(x), as exporters write it."""
    if not isinstance(layer, L.Mul) or layer.clip is not None:
        return False
    for d, inverse in (layer.inputs, layer.inputs[::-1]):
        chain = _inverse_root(state, inverse)
        if chain is None:
            continue
        epsilon, mean, inner = chain
        square = state.private(mean.inputs[0], L.Mul)
        if square is None or square.inputs != (d, d) or not _over_last(state, mean):
            continue
        used = [square, mean, *inner]
        x, kind = d, _RMS
        centred = state.writer.get(d)
        if isinstance(centred, L.Add) and centred.signs == (1, -1) and centred.clip is None:
            average = state.private(centred.inputs[1], (L.Reduce, L.Reshape))
            source = _mean_of(state, average)
            if source == centred.inputs[0]:
                x, kind = source, _LAYER
        new = L.Normalise(
            name=layer.name, inputs=(x,), output=layer.output, kind=kind, epsilon=epsilon
        )
        state.swap([*used, layer], [new])
        state.drop_dead()
        return True
    return False


def _mean_of(state: State, layer: Any) -> str | None:
    """The tensor whose mean along the last axis a layer is, or None."""
    if isinstance(layer, L.Reduce) and layer.kind == "mean" and _over_last(state, layer):
        return str(layer.inputs[0])
    return None


def _over_last(state: State, layer: L.Reduce) -> bool:
    return layer.axes == (len(state.shape(layer.inputs[0])) - 1,)


def _inverse_root(state: State, name: str) -> tuple[float, L.Reduce, list[Any]] | None:
    """Epsilon, the mean, and the layers between, of ``1 / sqrt(mean + epsilon)``."""
    chain: list[Any] = []
    for kind in ("reciprocal", "sqrt"):
        layer = state.private(name, L.Activate)
        if layer is None or layer.kind != kind:
            return None
        chain.append(layer)
        name = layer.inputs[0]
    epsilon = 0.0
    plus = state.private(name, Affine)
    if plus is not None:
        number = _number(plus.offset)
        if number is None or number < 0 or _number(plus.scale) != 1.0:
            return None
        epsilon, name = number, plus.inputs[0]
        chain.append(plus)
    mean = state.private(name, L.Reduce)
    if mean is None or mean.kind != "mean":
        return None
    return epsilon, mean, chain


def affine_into_norm(state: State, layer: Any) -> bool:
    """What is multiplied and added along the last axis is the normalisation's gamma and beta."""
    if not isinstance(layer, Affine):
        return False
    first = state.private(layer.inputs[0], L.Normalise)
    if first is None:
        return False
    width = state.shape(layer.output)[-1]
    rows = []
    for values in (layer.scale, layer.offset):
        if np.size(values) not in (1, width) or values.shape[-1:] not in ((), (np.size(values),)):
            return False
        rows.append(np.broadcast_to(np.ravel(values), (width,)))
    scale, offset = rows
    gamma = scale if first.gamma is None else first.gamma * scale
    beta = offset if first.beta is None else first.beta * scale + offset
    beta = beta if np.any(beta) else None
    if np.any(scale != 1.0):
        state.builder.weight_hints.pop(first.name, None)
    state.swap([first, layer], [replace(first, output=layer.output, gamma=gamma, beta=beta)])
    return True


def plain_means(layers: list[Any], shapes: Any) -> list[Any]:
    """Means of a whole row that are left over become poolings, which engines have."""
    found = []
    for layer in layers:
        if isinstance(layer, L.Reduce) and layer.kind == "mean":
            shape = shapes[layer.inputs[0]]
            if 3 <= len(shape) <= 5 and layer.axes == tuple(range(2, len(shape))):
                one = (1,) * (len(shape) - 2)
                layer = L.Pool(
                    name=layer.name, inputs=layer.inputs, output=layer.output, kind="average",
                    kernel=tuple(shape[2:]), strides=one, pads=(0,) * (2 * len(one)),
                    dilations=one,
                )  # fmt: skip
        found.append(layer)
    return found


def activation_times(
    state: State, layer: Any, x: str, kind: str, factor: float
) -> tuple[L.Activate, Affine]:
    """``factor * kind(x)`` in the place of a layer."""
    mid = state.builder.fresh(layer.output)
    state.builder.shapes[mid] = state.shape(layer.output)
    rest = Affine(
        name=state.builder.layer_name(layer.name),
        inputs=(mid,),
        output=layer.output,
        scale=np.asarray(factor),
        offset=np.asarray(0.0),
    )
    return L.Activate(name=layer.name, inputs=(x,), output=mid, kind=kind), rest


# -- gelu by tanh ------------------------------------------------------------------------------
def gelu_tanh(state: State, layer: Any) -> bool:
    """``g * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`` with the half anywhere."""
    if not isinstance(layer, L.Mul) or layer.clip is not None:
        return False
    for left, right in (layer.inputs, layer.inputs[::-1]):
        plus = state.private(right, Affine)
        tanh = plus and state.private(plus.inputs[0], L.Activate)
        if not tanh or tanh.kind != "tanh":
            continue
        gain = _number(plus.scale)
        if gain is None or gain != _number(plus.offset):
            continue
        x, half = left, 1.0
        scaled = state.writer.get(left)
        if _scale_only(scaled) is not None:
            x, half = scaled.inputs[0], _scale_only(scaled)  # type: ignore[assignment]
        if not _is_cubic(state, tanh.inputs[0], x):
            continue
        gelu, rest = activation_times(state, layer, x, "gelu_tanh", 2.0 * half * gain)
        state.swap([plus, tanh, layer], [gelu, rest])
        state.drop_dead()
        return True
    return False


def _is_cubic(state: State, name: str, x: str) -> bool:
    """Whether a tensor is ``sqrt(2/pi) * (x + 0.044715 x^3)``, as a polynomial of x."""
    found = _polynomial(state, name, x, 0)
    if found is None:
        return False
    wanted = np.array([0.0, math.sqrt(2 / math.pi), 0.0, 0.044715 * math.sqrt(2 / math.pi)])
    size = max(len(found), 4)
    return bool(np.allclose(np.pad(found, (0, size - len(found))), np.pad(
        wanted, (0, size - 4)), rtol=1e-4, atol=1e-9))  # fmt: skip


def _polynomial(state: State, name: str, x: str, depth: int) -> Array | None:
    """Coefficients of a tensor as a polynomial of another, lowest first, or None."""
    if name == x:
        return np.array([0.0, 1.0])
    layer = state.writer.get(name)
    if depth > 8:
        return None
    if isinstance(layer, Affine):
        scale, offset = _number(layer.scale), _number(layer.offset)
        inner = _polynomial(state, layer.inputs[0], x, depth + 1)
        if scale is None or offset is None or inner is None:
            return None
        result = inner * scale
        result[0] += offset
        return result
    if isinstance(layer, L.Mul | L.Add) and layer.clip is None:
        parts = [_polynomial(state, n, x, depth + 1) for n in layer.inputs]
        if parts[0] is None or parts[1] is None:
            return None
        if isinstance(layer, L.Mul):
            return np.convolve(parts[0], parts[1])
        size = max(map(len, (parts[0], parts[1])))
        padded = [np.pad(p, (0, size - len(p))) for p in (parts[0], parts[1])]
        return np.asarray(layer.signs[0] * padded[0] + layer.signs[1] * padded[1])
    return None
