"""Softmax, normalisations and rotary embeddings as ONNX operators, for the writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant.onnx_builder import Writer, refuse

__all__ = ["TRANSLATORS"]

EPSILON = 1e-5
"""What a normalisation adds where it does not say."""


def _softmax(w: Writer, layer: L.Softmax, x: list[str], out: str) -> None:
    w.node("LogSoftmax" if layer.log else "Softmax", x, out, layer.name, axis=layer.axis)


def _normalise(w: Writer, layer: L.Normalise, x: list[str], out: str) -> None:
    gamma, beta = layer.gamma, layer.beta
    if layer.unit or (layer.inner_format, layer.inner_scale) != ("posit16", 0):
        raise refuse(layer, "its unit differs from the default")
    known = layer.epsilon in (EPSILON, float(np.float32(layer.epsilon)))
    stated: dict[str, Any] = {} if layer.epsilon == EPSILON else {"epsilon": layer.epsilon}
    if layer.kind == "rms" and gamma is not None and known:
        inputs = [x[0], _gamma(w, layer)]
        last = out if beta is None else None
        rows = w.node("RMSNormalization", inputs, last, layer.name, axis=-1, **stated)
        if beta is not None:
            w.node("Add", [rows, w.real(beta, f"{layer.name}.beta")], out)
        return
    if layer.kind == "layer" and gamma is not None and known:
        inputs = [x[0], _gamma(w, layer)]
        inputs += [] if beta is None else [w.real(beta, f"{layer.name}.beta")]
        w.node("LayerNormalization", inputs, out, layer.name, axis=-1, **stated)
        return
    rank = len(w.shape(layer.inputs[0]))
    axes = w.share(np.array([rank - 1]), "axes")
    d = x[0]
    if layer.kind == "layer":
        d = w.node("Sub", [d, w.node("ReduceMean", [d, axes], keepdims=1)])
    power = w.node("ReduceMean", [w.node("Mul", [d, d]), axes], keepdims=1)
    plus = w.node("Add", [power, w.real(np.float64(layer.epsilon), f"{layer.name}.epsilon")])
    inverse = w.node("Reciprocal", [w.node("Sqrt", [plus])])
    rows = w.node("Mul", [d, inverse], out if gamma is None else None, layer.name)
    if gamma is not None:
        held = w.real(gamma, f"{layer.name}.gamma")
        rows = w.node("Mul", [rows, held], out if beta is None else None)
    if beta is not None:
        w.node("Add", [rows, w.real(beta, f"{layer.name}.beta")], out)


def _gamma(w: Writer, layer: L.Normalise) -> str:
    base = f"{layer.name}.gamma"
    held = w.real(layer.gamma, base)
    hint = w.graph.weight_hints.get(layer.name)
    if hint is None or not hint.exact:
        return held
    return w.quantise(held, w.value(f"{base}/quantised"), w.node_name(f"{base}/quantise"), hint)


def _stream_softmax(w: Writer, layer: L.StreamSoftmax, x: list[str], out: str) -> None:
    """Scaled, masked, and a row with nothing kept as zeros."""
    if layer.positioned or layer.unit:
        raise refuse(layer, "its position or its unit has no place there")
    logits, shape = x[0], w.shape(layer.inputs[0])
    if layer.scale != 1.0:
        scale = w.real(np.float64(layer.scale), f"{layer.name}.scale")
        logits = w.node("Mul", [logits, scale])
    flags = [w.flag(n, h) for n, h in zip(layer.inputs[1:], x[1:], strict=True)]
    if layer.causal:
        rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])[None, :]
        flags.append(w.store(columns <= rows + layer.offset, f"{layer.name}.causal"))
    if not flags:
        w.node("Softmax", [logits], out, layer.name, axis=-1)
        return
    keep = flags[0]
    for flag in flags[1:]:
        keep = w.node("And", [keep, flag])
    hidden = w.store(np.array(-np.inf, np.float32), f"{layer.name}.hidden")
    masked = w.node("Where", [keep, logits, hidden])
    weights = w.node("Softmax", [masked], name=layer.name, axis=-1)
    zero = w.share(np.float32(0), "0")
    w.node("Where", [w.node("IsNaN", [weights]), zero, weights], out)


def _rotary(w: Writer, layer: L.Rotary, x: list[str], out: str) -> None:
    shape = w.shape(layer.inputs[0])
    if len(x) > 1 or len(shape) != 4:
        raise refuse(layer, "RotaryEmbedding takes four axes and counts positions from 0")
    tables = []
    for values, what in ((layer.cos, "cos"), (layer.sin, "sin")):
        held = w.real(values[None, : shape[-2]], f"{layer.name}.{what}")
        if w.free:
            batch = w.node("Shape", [x[0]], start=0, end=1)
            rest = w.share(np.array([shape[-2], values.shape[1]]), "shape")
            held = w.node("Expand", [held, w.node("Concat", [batch, rest], axis=0)])
        tables.append(held)
    width = 2 * layer.cos.shape[1]
    w.node(
        "RotaryEmbedding",
        [x[0], *tables],
        out,
        layer.name,
        interleaved=int(layer.interleaved),
        rotary_embedding_dim=width if width < shape[-1] else 0,
    )


TRANSLATORS: dict[type, Callable[[Writer, Any, list[str], str], None]] = {
    L.Softmax: _softmax,
    L.StreamSoftmax: _stream_softmax,
    L.Normalise: _normalise,
    L.Rotary: _rotary,
}
