"""From a float graph back to ONNX: standard operators, quantisation nodes where formats are stated.

Every layer is one operator of its own name, with a ``Relu`` or ``Clip`` after it where it has a
clip, and a quantisation node where ``graph.hints`` or ``graph.weight_hints`` state a format with an
exact scale. The bytes depend on nothing but the graph.
"""

from __future__ import annotations

import math

from onnx import ModelProto
from opennpe.golden import layers as L
from opennpe.quant.graph import Graph
from opennpe.quant.onnx_builder import Writer
from opennpe.quant.onnx_layers import TRANSLATORS

__all__ = ["to_model"]


def to_model(graph: Graph, exact: bool = False) -> ModelProto:
    """The graph as an ONNX model.

    Args:
        graph: the float graph; its batch is free where ``graph.batch_axis`` is 0.
        exact: real parameters other than weights that float32 does not hold are stored as float64
            with a ``Cast``, so that the importer reads back the very numbers.

    Raises:
        ModelError: a layer that ONNX has no operator for, or a model too large for one file.
    """
    writer = Writer(graph, exact)
    for name in graph.inputs:
        _enter(writer, name)
    for layer in graph.layers:
        _emit(writer, layer)
    return writer.model()


def _enter(w: Writer, name: str) -> None:
    """Quantise an input where the graph states its format."""
    hint = w.hint(name)
    if hint is not None:
        out = w.value(f"{name}/quantised")
        w.held[name] = w.quantise(name, out, w.node_name(f"{name}/quantise"), hint)
        w.describe(out, w.shape(name))


def _emit(w: Writer, layer: L.Layer) -> None:
    """A layer, its clip, and the quantisation of its output."""
    out, hint = layer.output, w.hint(layer.output)
    clip = getattr(layer, "clip", None)
    clip = None if clip == (-math.inf, math.inf) else clip
    inputs = [w.read(name) for name in layer.inputs]
    if isinstance(layer, L.Convert) and hint is not None:
        w.quantise(inputs[0], out, layer.name, hint)
    else:
        last = out if hint is None else w.value(f"{out}/real")
        first = last if clip is None else w.value(f"{out}/sum")
        TRANSLATORS[type(layer)](w, layer, inputs, first)
        if clip is not None:
            w.clip(first, clip[0], clip[1], last)
        if hint is not None:
            w.quantise(last, out, w.node_name(f"{out}/quantise"), hint)
    w.describe(out, w.shape(out), out in w.graph.indices)
    w.held[out] = out
