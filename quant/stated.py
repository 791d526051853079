"""Clips that a model's own format makes redundant.

A quantisation node saturates and rounds. Its saturation is a clip of the float graph, which every
policy keeps; where the policy takes the model's format with its scale, the rounding saturates at
the same values, and the clip would only be a layer, or a bound of one, that does nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from opennpe.golden import layers as L
from opennpe.quant.graph import Graph, Hint
from opennpe.quant.policy import MODEL, Policy
from opennpe.quant.quant_nodes import limits

__all__ = ["relaxed", "settle"]


BOUNDS = {
    "relu": {"min": 0.0, "max": math.inf},
    "relu6": {"min": 0.0, "max": 6.0},
    "clip": {"min": -math.inf, "max": math.inf},
}


def settle(graph: Graph, policy: Policy) -> Graph:
    """The graph without such clips.

    A clip between a layer and the quantised tensor goes, and a bound at the format's limit
    becomes infinite; a clip from one quantised tensor to another is a ``Convert``. A policy that
    gives any tensor a format of its own leaves the graph as it is.
    """
    own = (policy.inputs, policy.output, *(f for r in policy.rules for f in (r.inputs, r.output)))
    if any(fmt not in (None, MODEL) for fmt in own) or not graph.hints:
        return graph
    state = _State(graph)
    for layer in graph.layers:
        state.take(layer)
    return replace(graph, layers=tuple(state.layers), hints=state.hints)


class _State:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.hints: dict[str, Hint] = dict(graph.hints)
        self.layers: list[Any] = []
        self.place: dict[str, int] = {}
        self.alias: dict[str, str] = {}
        self.readers: dict[str, int] = {}
        for name in (*graph.outputs, *(n for layer in graph.layers for n in layer.inputs)):
            self.readers[name] = self.readers.get(name, 0) + 1

    def take(self, layer: L.Layer) -> None:
        """Append a layer, or what is left of it."""
        inputs = tuple(self.alias.get(n, n) for n in layer.inputs)
        layer = relaxed(replace(layer, inputs=inputs), self.hints.get(layer.output))
        hint = self.hints.get(layer.output)
        if hint is None or not _nothing(layer):
            self._append(layer)
            return
        source = layer.inputs[0]
        before = self.hints.get(source)
        inner = layer.output not in self.graph.outputs
        alone = self.readers.get(source, 0) == 1
        if before == hint and inner:
            self.alias[layer.output] = source
        elif before is None and source in self.graph.inputs and alone and inner:
            self.alias[layer.output] = source
            self.hints[source] = hint
        elif before is None and alone and source in self.graph.inputs:
            # The output is the input, rounded once.
            self.hints[source] = hint
            shape = tuple(self.graph.shapes[source])
            self._append(L.Reshape(layer.name, layer.inputs, layer.output, shape))
        elif before is None and alone and source in self.place:
            at = self.place.pop(source)
            self.layers[at] = replace(self.layers[at], output=layer.output)
            self.place[layer.output] = at
        else:
            self._append(L.Convert(name=layer.name, inputs=layer.inputs, output=layer.output))

    def _append(self, layer: Any) -> None:
        self.place[layer.output] = len(self.layers)
        self.layers.append(layer)


def _nothing(layer: Any) -> bool:
    clip = isinstance(layer, L.Activate) and layer.kind == "clip"
    return clip and dict(layer.params) == {"min": -math.inf, "max": math.inf}


def relaxed(layer: Any, hint: Hint | None) -> Any:
    """A layer whose bounds at or beyond the limits of its output's format are infinite."""
    if hint is None or not hint.exact:
        return layer
    lowest, highest = limits(hint.format, hint.scale)
    if isinstance(layer, L.Activate) and layer.kind in ("relu", "relu6", "clip"):
        params = {**BOUNDS[layer.kind], **dict(layer.params)}
        low, high = _opened(params["min"], params["max"], lowest, highest)
        if (low, high) == (0.0, math.inf):
            return replace(layer, kind="relu", params=())
        return replace(layer, kind="clip", params=(("min", low), ("max", high)))
    clip = getattr(layer, "clip", None)
    if clip is None:
        return layer
    opened = _opened(clip[0], clip[1], lowest, highest)
    return replace(layer, clip=None if opened == (-math.inf, math.inf) else opened)


def _opened(low: float, high: float, lowest: float, highest: float) -> tuple[float, float]:
    return (-math.inf if low <= lowest else low, math.inf if high >= highest else high)
