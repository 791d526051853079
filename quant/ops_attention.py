"""Translators of the operators that transformers are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant import masked_logits, masks
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Unsupported
from opennpe.quant.onnx_reader import Node
from opennpe.quant.ops_shape import axis_of

__all__ = ["OPERATORS"]


def _normalisation(b: Builder, node: Node, kind: str) -> None:
    """LayerNormalization, RMSNormalization and onnxruntime's SimplifiedLayerNormalization."""
    if any(node.outputs[1:]):
        raise Unsupported("the statistics of a normalisation")
    x = b.operand(node.inputs[0])
    shape, out = b.shape(x), node.outputs[0]
    axis = axis_of(node, int(node.attributes.get("axis", -1)), len(shape))
    gamma = b.constant(node, 1, "its scale").astype(np.float64)
    beta = b.constant(node, 2, "its bias")
    width = math.prod(shape[axis:])
    try:
        row = np.broadcast_to(gamma, shape[axis:]).reshape(-1)
        move = None if beta is None else np.broadcast_to(
            beta.astype(np.float64), shape[axis:]).reshape(-1)  # fmt: skip
    except ValueError as error:
        raise ModelError(f"node '{node.name}': its scale or bias do not fit {shape}") from error
    fields: dict[str, Any] = {
        "kind": kind,
        "epsilon": float(node.attributes.get("epsilon", 1e-5)),
        "gamma": row,
        "beta": move,
    }
    hint = b.constant_hint(node.inputs[1])
    if hint is not None and gamma.size == width:
        b.weight_hints[node.name] = hint
    if axis == len(shape) - 1:
        b.put(L.Normalise, node, [x], out, **fields)
        return
    flat = b.reshape(node, x, (*shape[:axis], width))
    b.reshape(node, b.put(L.Normalise, node, [flat], **fields), shape, out)


# -- attention ---------------------------------------------------------------------------------
def _heads(b: Builder, node: Node, index: int, key: str) -> str:
    """An input as (N, heads, T, D)."""
    x = b.operand(node.inputs[index])
    shape = b.shape(x)
    if len(shape) == 4:
        return x
    heads = int(node.attributes.get(key, 0))
    if len(shape) != 3 or heads < 1 or shape[2] % heads:
        raise ModelError(f"node '{node.name}': shape {shape} does not split into {heads} heads")
    split = b.reshape(node, x, (shape[0], shape[1], heads, shape[2] // heads))
    return b.transpose(node, split, (0, 2, 1, 3))


def _attention(b: Builder, node: Node) -> None:
    """ONNX Attention (opset 23): products, masks and a softmax; grouped queries by broadcasting."""
    inputs = (*node.inputs, "", "", "")
    if any(inputs[4:6]) or any(node.outputs[1:]):
        raise Unsupported("a cache of keys and values in the graph: decode outside it")
    if node.attributes.get("softcap", 0.0):
        raise Unsupported("a soft cap of the logits")
    q = _heads(b, node, 0, "q_num_heads")
    k, v = (_heads(b, node, i, "kv_num_heads") for i in (1, 2))
    (n, heads, rows, width), groups = b.shape(q), b.shape(k)[1]
    if heads % groups:
        raise ModelError(f"node '{node.name}': {heads} query heads over {groups} of keys")
    columns, deep = b.shape(k)[2], b.shape(v)[3]
    grouped = heads != groups
    if grouped:
        q = b.reshape(node, q, (n, groups, heads // groups, rows, width))
        k = b.reshape(node, k, (n, groups, 1, columns, width))
        v = b.reshape(node, v, (n, groups, 1, columns, deep))
    axes = [*range(len(b.shape(k)) - 2), len(b.shape(k)) - 1, len(b.shape(k)) - 2]
    logits = b.put(L.MatMul, node, [q, b.transpose(node, k, axes)])
    names, fields = _attention_mask(b, node, inputs[3], logits, grouped)
    scale = float(node.attributes.get("scale", 1.0 / math.sqrt(width)))
    if node.attributes.get("is_causal", 0):
        if fields:
            raise Unsupported("is_causal beside a causal mask")
        fields = {"causal": True}
    if not scale > 0:
        raise Unsupported(f"a scale of {scale}")
    weights = b.put(L.StreamSoftmax, node, names, scale=scale, **fields)
    last = len(b.shape(node.inputs[0])) == 4
    direct = last and not grouped
    out = b.put(L.MatMul, node, [weights, v], node.outputs[0] if direct else None)
    if grouped:
        whole = (n, heads, rows, deep)
        out = b.reshape(node, out, whole, node.outputs[0] if last else None)
    if not last:
        moved = b.transpose(node, out, (0, 2, 1, 3))
        b.reshape(node, moved, (n, rows, heads * deep), node.outputs[0])


def _attention_mask(
    b: Builder, node: Node, name: str, logits: str, grouped: bool
) -> tuple[list[str], dict[str, Any]]:
    """The softmax's inputs and its causal fields, from a mask that is boolean or additive."""
    if not name:
        return [logits], {}
    shape = b.shapes[logits]
    if b.is_constant(name):
        values = b.constants[name]
        keep = values if values.dtype == bool else ~masks.hidden(values)
        if values.dtype != bool and not np.all(masks.hidden(values) | (values == 0)):
            raise Unsupported("a mask that adds more than 0 or minus infinity")
        if grouped and keep.ndim > 2 and keep.shape[-3] != 1:
            raise Unsupported("a mask that differs between heads that share keys")
        if grouped and keep.ndim > 2:
            keep = keep.reshape(*keep.shape[:-2], 1, *keep.shape[-2:])
        keep = np.pad(keep, [(0, 0)] * (keep.ndim - 1) + [(0, shape[-1] - keep.shape[-1])])
        return masked_logits.inputs_of(b, masked_logits.Masked(logits, (), keep))
    if grouped:
        raise Unsupported("a mask given at run time over grouped queries")
    flags = masked_logits.condition(b, name)
    return masked_logits.inputs_of(b, masked_logits.Masked(logits, *flags))


def _rotary_embedding(b: Builder, node: Node) -> None:
    """ONNX RotaryEmbedding (opset 23) with constant caches."""
    x = b.operand(node.inputs[0])
    shape, out = b.shape(x), node.outputs[0]
    cos, sin = (b.constant(node, i, "its cache").astype(np.float64) for i in (1, 2))
    position = node.inputs[3] if len(node.inputs) > 3 else ""
    if len(shape) == 3:
        heads = int(node.attributes.get("num_heads", 0))
        if heads < 1 or shape[2] % heads:
            raise ModelError(f"node '{node.name}': {shape[2]} in {heads} heads")
        x = b.transpose(
            node, b.reshape(node, x, (*shape[:2], heads, shape[2] // heads)), (0, 2, 1, 3)
        )
    if position:
        if not b.is_constant(position):
            raise Unsupported("positions given at run time")
        rows = b.constants[position]
        cos, sin = cos[rows], sin[rows]
    if cos.ndim == 3:
        if any(not np.array_equal(t[0], row) for t in (cos, sin) for row in t):
            raise Unsupported("positions that differ between samples")
        cos, sin = cos[0], sin[0]
    y = b.put(
        L.Rotary,
        node,
        [x],
        None if len(shape) == 3 else out,
        cos=cos,
        sin=sin,
        interleaved=bool(node.attributes.get("interleaved", 0)),
    )
    if len(shape) == 3:
        b.reshape(node, b.transpose(node, y, (0, 2, 1, 3)), shape, out)


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "LayerNormalization": partial(_normalisation, kind="layer"),
    "RMSNormalization": partial(_normalisation, kind="rms"),
    "SimplifiedLayerNormalization": partial(_normalisation, kind="rms"),
    "Attention": _attention,
    "RotaryEmbedding": _rotary_embedding,
}
