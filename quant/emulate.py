"""A quick look at a network: real arithmetic, every tensor rounded to its format.

Sums are float64 instead of exact, so a result may now and then differ by one code from
:func:`opennpe.golden.reference.evaluate` and the simulator; use it where speed matters more than
the last bit (choosing a policy, for instance).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from opennpe.golden import formats, mac, pooling
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor
from opennpe.golden.rounding import reciprocal
from opennpe.quant import float_eval
from opennpe.quant.graph import Array, Graph
from opennpe.quant.lower import SLOPE_FORMAT

__all__ = ["emulate", "real_graph"]


def real_graph(network: Network) -> Graph:
    """The float graph whose weights and constants are the network's rounded ones."""
    return Graph(
        inputs=network.inputs,
        outputs=network.outputs,
        layers=tuple(_real(network, layer) for layer in network.layers),
        shapes={name: tensor.shape for name, tensor in network.tensors.items()},
        constants={n: network.tensors[n].decode(c) for n, c in network.constants.items()},
        indices=frozenset(n for n, t in network.tensors.items() if t.format == formats.INDEX.name),
        name=network.name,
    )


def _real(network: Network, layer: L.Layer) -> L.Layer:
    if isinstance(layer, L.Conv | L.Linear):
        values = formats.get(layer.weight_format).decode(layer.weights)
        side = layer.weight_scale.reshape(-1, *(1,) * (values.ndim - 1))
        source = network.tensors[layer.inputs[0]]
        grid = mac.grid_exponent(source.format, layer.weight_format) + source.scale
        # A bias enters the accumulator on its grid (DESIGN 3).
        units = np.rint(np.ldexp(layer.bias, -(grid + layer.weight_scale)))
        bias = np.ldexp(units, grid + layer.weight_scale)
        return replace(layer, weights=np.ldexp(values, side), bias=bias)
    if isinstance(layer, L.Activate) and layer.slope is not None:
        return replace(layer, slope=formats.get(SLOPE_FORMAT).decode(layer.slope))
    if isinstance(layer, L.Normalise) and layer.gamma is not None:
        gamma = formats.get(layer.weight_format).decode(layer.gamma)
        return replace(layer, gamma=np.ldexp(gamma, layer.weight_scale))
    if isinstance(layer, L.Rotary):
        fmt = formats.get(layer.weight_format)
        return replace(layer, cos=fmt.decode(layer.cos), sin=fmt.decode(layer.sin))
    return layer


def emulate(
    network: Network, inputs: Mapping[str, Any], underflow: formats.Underflow = "zero"
) -> dict[str, Array]:
    """Real values of every tensor, float64, each rounded as the network would."""

    graph = real_graph(network)
    values = {n: v.astype(np.float64) for n, v in graph.constants.items()}

    def write(name: str, array: Array) -> None:
        tensor = network.tensors[name]
        values[name] = tensor.decode(tensor.encode(array, underflow))

    for name, array in float_eval.check_inputs(graph, inputs).items():
        write(name, array)
    with np.errstate(all="ignore"):
        for layer in graph.layers:
            given = [values[n] for n in layer.inputs]
            if isinstance(layer, L.Add):
                given = _entering(network, layer, given)
            if isinstance(layer, L.Normalise):
                result = _normalised(layer, given[0], underflow)
            else:
                result = float_eval.run_layer(graph, layer, given)
            if isinstance(layer, L.Pool) and layer.kind == "average":
                result = _averaged(network, layer, given[0], result)
            write(layer.output, result)
    return values


def _normalised(layer: L.Normalise, x: Array, underflow: formats.Underflow) -> Array:
    """Both roundings of a normalisation but the last."""
    inner = Tensor(layer.name, x.shape, layer.inner_format, layer.inner_scale)
    rows = inner.decode(inner.encode(float_eval.x_hat(layer, x), underflow))
    return float_eval.normalised(layer, rows)


def _entering(network: Network, layer: L.Layer, given: list[Array]) -> list[Array]:
    """Operands of a sum as they enter the accumulator: on the grid of the larger scale."""
    a, b = (network.tensors[n] for n in layer.inputs)
    grid = mac.grid_exponent(a.format, b.format) + max(a.scale, b.scale)
    return [np.ldexp(np.rint(np.ldexp(v, -grid)), grid) for v in given]


def _averaged(network: Network, layer: L.Pool, x: Array, mean: Array) -> Array:
    """The mean by golden's rule: the sum, restored exactly from it, times the 17-bit reciprocal."""
    source = network.tensors[layer.inputs[0]]
    spatial = x.shape[2:]
    inside = pooling.patches(np.ones((1, 1, *spatial), dtype=np.int64), layer.kernel, layer, 0)
    counts = pooling.average_counts(layer, spatial, inside)
    lowest = formats.get(source.format).lsb_exponent + source.scale
    sums = np.ldexp(np.rint(np.ldexp(mean * counts, -lowest)), lowest)
    rules = {int(n): reciprocal(int(n)) for n in np.unique(counts)}
    factors = {n: math.ldexp(m, -q) for n, (m, q) in rules.items()}
    by_window = [factors[int(n)] for n in counts.ravel()]
    return np.asarray(sums * np.reshape(by_window, counts.shape))
