"""From the float graph to golden.Network: formats by policy, scales by samples, codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor
from opennpe.golden.rounding import check_terms
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant import scales
from opennpe.quant.graph import Graph
from opennpe.quant.grouping import Grouping, moves
from opennpe.quant.policy import MODEL, Policy

__all__ = ["lower", "room_for_bias", "weigh"]

SLOPE_FORMAT = "posit16"
SEARCHED = 1 << 20
"""Elements of a constant that the search of its scale looks at, evenly spread."""
Samples = Mapping[str, NDArray[np.float64]]


def lower(graph: Graph, samples: Samples, policy: Policy, method: str) -> Network:
    """Compose the network.

    Args:
        graph: the float graph.
        samples: values of every tensor that is not constant.
        policy: formats.
        method: "mse", "maxabs" or "percentile".

    Raises:
        AccumulatorError: a layer sums more terms than the accumulator holds.
    """
    return _Lowering(graph, samples, policy, method).network()


class _Lowering:
    def __init__(self, graph: Graph, samples: Samples, policy: Policy, method: str) -> None:
        self.graph, self.policy, self.method = graph, policy, method
        grouping = Grouping(graph, samples, policy, method)
        self.samples = samples
        self.tensors: dict[str, Tensor] = {
            name: Tensor(name, graph.shapes[name], formats.INDEX.name)
            if name in graph.indices
            else Tensor(name, graph.shapes[name], *grouping.format_and_scale(name))
            for name in (*graph.inputs, *(layer.output for layer in graph.layers))
        }
        self.constants: dict[str, NDArray[Any]] = {}
        self.layers: list[L.Layer] = []

    def network(self) -> Network:
        for layer in self.graph.layers:
            choice = self.policy.choice(layer.name, type(layer).__name__)
            wanted = None if moves(layer) else choice.inputs
            weights = self.policy.fallback if choice.weights == MODEL else choice.weights
            inputs = tuple(self._input(layer, name, wanted, weights) for name in layer.inputs)
            self.layers.append(self._layer(replace(layer, inputs=inputs), choice.weights))
        return Network(
            inputs=self.graph.inputs,
            outputs=self.graph.outputs,
            tensors=self.tensors,
            layers=tuple(self.layers),
            constants=self.constants,
            name=self.graph.name,
        )

    def _input(self, layer: L.Layer, name: str, wanted: str | None, weights: str) -> str:
        if name in self.graph.indices:
            return self._index(name)
        if name in self.graph.constants:
            return self._constant(name, weights, self.tensors[layer.output])
        tensor = self.tensors[name]
        if wanted in (None, MODEL, tensor.format):
            return name
        assert wanted is not None
        other = f"{name}@{wanted}"
        if other not in self.tensors:
            values = np.asarray(self.samples[name])
            scale = scales.tensor_scale(wanted, values, self.method, self.policy.percentile)
            self.tensors[other] = Tensor(other, tensor.shape, wanted, scale)
            self.layers.append(L.Convert(name=f"convert {other}", inputs=(name,), output=other))
        return other

    def _index(self, name: str) -> str:
        if name in self.graph.constants and name not in self.tensors:
            values = self.graph.constants[name]
            self.tensors[name] = Tensor(name, values.shape, formats.INDEX.name)
            self.constants[name] = self.tensors[name].encode(values)
        return name

    def _constant(self, name: str, fmt: str, out: Tensor) -> str:
        values = self.graph.constants[name]
        # A table of embeddings in its output's format takes its scale too: one rounding, not two.
        table = values.size > SEARCHED and fmt == out.format
        own = f"{name}@{fmt}"
        if own not in self.tensors:
            # Constants are few and known: their scale is always searched.
            step = -(-values.size // SEARCHED)
            seen = values.ravel()[::step] if step > 1 else values
            scale = out.scale if table else scales.tensor_scale(fmt, seen, "mse")
            self.tensors[own] = Tensor(own, values.shape, fmt, scale)
            self.constants[own] = self.tensors[own].encode(values, "zero")
        return own

    # -- layers ------------------------------------------------------------------------------
    def _layer(self, layer: L.Layer, weights: str) -> L.Layer:
        if isinstance(layer, L.Conv | L.Linear):
            return self._product(layer, weights)
        if isinstance(layer, L.MatMul):
            a, b = (self.tensors[n] for n in layer.inputs)
            check_terms(CoprocessorSpec(), layer, a.format, b.format, a.shape[-1])
        if isinstance(layer, L.Activate) and layer.slope is not None:
            codes = formats.get(SLOPE_FORMAT).encode(layer.slope, "zero")
            return replace(layer, slope=codes)
        if isinstance(layer, L.Normalise) and layer.gamma is not None:
            return _normalise(layer)
        if isinstance(layer, L.Rotary):
            fmt = formats.get(layer.weight_format)
            return replace(
                layer, cos=fmt.encode(layer.cos, "zero"), sin=fmt.encode(layer.sin, "zero")
            )
        return layer

    def _product(self, layer: L.Conv | L.Linear, wanted: str) -> L.Layer:
        hint = self.graph.weight_hints.get(layer.name)
        count = len(layer.weights)
        name = wanted
        if wanted == MODEL:
            name = self.policy.fallback if hint is None else hint.format
        if wanted == MODEL and hint and hint.exact and np.size(hint.scale) in (1, count):
            chosen = np.broadcast_to(np.ravel(hint.scale), (count,)).astype(np.int64)
        else:
            chosen = scales.channels(name, layer.weights, self.method, self.policy.percentile)
        source = self.tensors[layer.inputs[0]]
        return weigh(layer, source, name, room_for_bias(layer, source, name, chosen))


def weigh(
    layer: L.Conv | L.Linear, source: Tensor, name: str, exponents: NDArray[np.int64]
) -> L.Conv | L.Linear:
    """A product with its real weights rounded to a format at an exponent an output channel.

    Raises:
        AccumulatorError: it sums more terms than the accumulator holds.
    """
    side = exponents.reshape(-1, *(1,) * (layer.weights.ndim - 1))
    codes = formats.get(name).encode(np.ldexp(layer.weights, -side), "zero")
    base = mac.grid_exponent(source.format, name) + source.scale
    units = int(np.ceil(np.abs(np.ldexp(layer.bias, -(base + exponents)))).max())
    terms = int(np.prod(layer.weights.shape[1:]))
    check_terms(CoprocessorSpec(), layer, source.format, name, terms, units)
    return replace(layer, weights=codes, weight_format=name, weight_scale=exponents)


def _normalise(layer: L.Normalise) -> L.Normalise:
    """Gamma in posit16 at the scale that fits it best; beta as the accumulator's offset."""
    assert layer.gamma is not None
    scale = scales.tensor_scale(layer.weight_format, layer.gamma, "mse")
    codes = formats.get(layer.weight_format).encode(np.ldexp(layer.gamma, -scale), "zero")
    beta = None if layer.beta is None else np.array(layer.beta, dtype=np.float64)
    return replace(layer, gamma=codes, weight_scale=scale, beta=beta)


def room_for_bias(
    layer: L.Conv | L.Linear, source: Tensor, name: str, exponents: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Exponents of the weights, raised where the accumulator would not hold a channel's bias too.

    A channel whose weights are all but zero would otherwise get a grid too fine for its bias.
    """
    terms = int(np.prod(layer.weights.shape[1:]))
    room = CoprocessorSpec().max_terms(source.format, name) - terms
    magnitude = np.abs(layer.bias)
    if room < 1 or not magnitude.any():
        return exponents
    # log2 may be off by an ulp either way: one bit of margin.
    budget = math.log2(float(mac.max_product(source.format, name))) + math.log2(float(room)) - 1
    base = mac.grid_exponent(source.format, name) + source.scale
    with np.errstate(divide="ignore"):
        needed = np.ceil(np.log2(magnitude) - budget) - base
    lowest = np.where(magnitude > 0, needed, np.iinfo(np.int32).min)
    return np.maximum(exponents, lowest.astype(np.int64))
