"""How much each decision of an assignment costs in accuracy: one rounding at a time.

Two kinds of measure, both without labels and both a sum over decisions:

- *output error*: one layer's weights, or what one group of layers reads, is rounded to a format
  while everything else stays float32; the network's outputs are compared with the float ones.
  ``kl`` is the mean Kullback-Leibler divergence of the class probabilities in nats, ``mse`` the
  squared distance relative to the outputs' own square, summed over the outputs.
- *Fisher*: half the rounding errors' squares, each times the Fisher information of its value
  (:mod:`opennpe.quant.qat.fisher` finds it). To second order that is the ``kl`` of all roundings
  at once, with cross terms left out.

Weights and scales are those that calibration chooses: the rounding is the network's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network
from opennpe.quant import float_eval
from opennpe.quant.decisions import Assignment, Decisions
from opennpe.quant.emulate import real_graph
from opennpe.quant.graph import Array, Graph

__all__ = [
    "MEASURES",
    "UNITS",
    "Information",
    "Reference",
    "Sensitivity",
    "choose_measure",
    "distance",
    "ending",
    "fisher_error",
    "output_error",
    "rounding_errors",
]

UNITS = {"kl": "nats", "mse": "share of the outputs' square"}
MEASURES = tuple(UNITS)
"""Distances of outputs that :func:`distance` knows."""
HELD_ELEMENTS = 1 << 26
"""Tensor elements that a reference may hold: 256 MiB of float32."""

Reals = NDArray[np.float64]
Step = Callable[[], None]


@dataclass(frozen=True)
class Sensitivity:
    """One measure of every decision.

    Attributes:
        measure: its name. unit: what the figures are.
        weights: by product and format. inputs: by group and format.
    """

    measure: str
    unit: str
    weights: Mapping[tuple[str, str], float]
    inputs: Mapping[tuple[str, str], float]

    def total(self, chosen: Assignment) -> float:
        """The sum over an assignment's decisions: what the measure foretells of all at once."""
        inputs = (self.inputs[pair] for pair in chosen.inputs.items())
        return math.fsum((*inputs, *(self.weights[pair] for pair in chosen.weights.items())))


@dataclass(frozen=True)
class Information:
    """Fisher information: the mean square of the loss's derivative by each value.

    Attributes:
        weights: by product, float64 of the weights' shape.
        inputs: by tensor, float64 of its shape without the samples' axis.
        gradients: by product, the mean norm of a sample's gradient by its weights.
    """

    weights: Mapping[str, Reals]
    inputs: Mapping[str, Reals]
    gradients: Mapping[str, float] = field(default_factory=dict)


# -- distances ------------------------------------------------------------------------------------
def choose_measure(graph: Graph) -> str:
    """``kl`` for one output (N, classes), else ``mse``."""
    if len(graph.outputs) != 1:
        return "mse"
    shape = graph.shapes[graph.outputs[0]]
    return "kl" if len(shape) == 2 and shape[1] > 1 else "mse"


def distance(
    graph: Graph, measure: str, outputs: Mapping[str, Array], reference: Mapping[str, Array]
) -> float:
    """How far outputs are from the reference's; infinite where one of them is no number.

    Raises:
        DataError: an unknown measure, or class probabilities of something else.
    """
    if measure not in MEASURES:
        raise DataError(f"unknown measure '{measure}': expected {', '.join(MEASURES)}")
    if not all(np.isfinite(outputs[name]).all() for name in graph.outputs):
        return math.inf
    if measure == "mse":
        return math.fsum(_relative(outputs[n], reference[n]) for n in graph.outputs)
    if choose_measure(graph) != "kl":
        shapes = ", ".join(str(graph.shapes[name]) for name in graph.outputs)
        raise DataError(f"kl compares one output (N, classes): the outputs are {shapes}; use mse")
    name = graph.outputs[0]
    kind = ending(graph, name)
    p, q = (_log_probabilities(kind, values[name]) for values in (reference, outputs))
    return max(0.0, float((np.exp(p) * (p - q)).sum(axis=1).mean()))


def _relative(values: Array, reference: Array) -> float:
    truth = np.asarray(reference, dtype=np.float64)
    square = float((truth**2).sum())
    error = float(((np.asarray(values, dtype=np.float64) - truth) ** 2).sum())
    return error / square if square else error


def ending(graph: Graph, name: str) -> str:
    """What the layer that writes the output gives: scores, probabilities or their logarithms."""
    last = next((layer for layer in graph.layers if layer.output == name), None)
    if not isinstance(last, L.Softmax):
        return "scores"
    return "logarithms" if last.log else "probabilities"


def _log_probabilities(kind: str, values: Array) -> Reals:
    """Float64 (N, classes), a row's probabilities adding up to 1."""
    scores = np.asarray(values, dtype=np.float64)
    if kind == "probabilities":
        scores = np.log(np.maximum(scores, 1e-6))  # a rounded probability may be 0
    top = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(axis=1, keepdims=True)))


# -- the reference --------------------------------------------------------------------------------
class Reference:
    """Float values of every tensor for some samples, from which single layers run anew.

    Args:
        graph: the float graph.
        batches: inputs by name; runs of one or several samples.
        measure: :data:`MEASURES`.

    Raises:
        DataError: no batches.
    """

    def __init__(self, graph: Graph, batches: Sequence[Mapping[str, Any]], measure: str) -> None:
        if not batches:
            raise DataError("sensitivity needs at least one calibration sample")
        self.graph, self.measure = graph, measure
        self.batches: list[dict[str, Array]] = []
        elements = 0
        for inputs in batches:
            held = float_eval.evaluate(graph, inputs)
            elements += sum(values.size for values in held.values())
            if self.batches and elements > HELD_ELEMENTS:
                break
            self.batches.append(held)
        self.truth = self.joined(self.batches)

    @property
    def samples(self) -> int:
        """Samples that are looked at: as many as memory allows."""
        first = self.graph.inputs[0]
        if self.graph.batch_axis != 0:
            return len(self.batches)
        return sum(len(held[first]) for held in self.batches)

    def joined(self, values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Outputs of all runs along axis 0."""
        return {
            name: np.concatenate([np.atleast_1d(held[name]) for held in values])
            for name in self.graph.outputs
        }

    def error(
        self, tensors: Mapping[str, Callable[[Array], Array]], layers: Mapping[str, L.Layer]
    ) -> float:
        """Distance of the outputs with tensors changed as they are read, and layers replaced."""
        return distance(
            self.graph,
            self.measure,
            self.joined([self._changed(held, tensors, layers) for held in self.batches]),
            self.truth,
        )

    def _changed(
        self,
        held: Mapping[str, Array],
        tensors: Mapping[str, Callable[[Array], Array]],
        layers: Mapping[str, L.Layer],
    ) -> dict[str, Array]:
        """Outputs of one batch; only what the change reaches is computed."""
        new = {n: tensors[n](held[n]) for n in self.graph.inputs if n in tensors}
        with np.errstate(all="ignore"):
            for layer in self.graph.layers:
                if layer.name not in layers and not any(n in new for n in layer.inputs):
                    if layer.output in tensors:
                        new[layer.output] = tensors[layer.output](held[layer.output])
                    continue
                given = [new.get(name, held[name]) for name in layer.inputs]
                made = layers.get(layer.name, layer)
                result = float_eval.run_layer(self.graph, made, given)
                change = tensors.get(layer.output)
                new[layer.output] = result if change is None else change(result)
        return {name: new.get(name, held[name]) for name in self.graph.outputs}


# -- output error ---------------------------------------------------------------------------------
def _rounded_layers(decided: Decisions, network: Network) -> dict[str, L.Layer]:
    """The float graph's products with a network's rounded weights."""
    real = {layer.name: layer for layer in real_graph(network).layers}
    found: dict[str, L.Layer] = {}
    for layer in decided.graph.layers:
        if isinstance(layer, L.Conv | L.Linear):
            rounded = real[layer.name]
            assert isinstance(rounded, L.Conv | L.Linear)
            found[layer.name] = replace(layer, weights=rounded.weights)
    return found


def _rounding(network: Network, name: str) -> Callable[[Array], Array]:
    tensor = network.tensors[name]
    return lambda values: tensor.decode(tensor.encode(values, "zero")).astype(values.dtype)


def _steps(decided: Decisions) -> Iterator[tuple[str, str]]:
    """Product and format of each rounding of weights that may be chosen."""
    for group in decided.groups:
        for name in group.products:
            legal = {fmt for i in group.inputs for fmt in group.weights[name][i]}
            for fmt in decided.formats:
                if fmt in legal:
                    yield name, fmt


def output_error(
    decided: Decisions, networks: Mapping[str, Network], reference: Reference, step: Step
) -> Sensitivity:
    """Output error of every decision alone.

    Args:
        networks: the calibrated network of every format alone (:meth:`Decisions.uniform`).
        step: called after each group of layers.
    """
    weights: dict[tuple[str, str], float] = {}
    inputs: dict[tuple[str, str], float] = {}
    rounded = {fmt: _rounded_layers(decided, network) for fmt, network in networks.items()}
    for name, fmt in _steps(decided):
        weights[name, fmt] = reference.error({}, {name: rounded[fmt][name]})
        step()
    for group in decided.groups:
        for fmt in group.inputs:
            change = {name: _rounding(networks[fmt], name) for name in group.tensors}
            inputs[group.name, fmt] = reference.error(change, {})
            step()
    return Sensitivity(reference.measure, UNITS[reference.measure], weights, inputs)


# -- Fisher ---------------------------------------------------------------------------------------
def rounding_errors(decided: Decisions, networks: Mapping[str, Network]) -> Sensitivity:
    """Mean squared rounding error of weights, of nothing else: what some rules score layers by."""
    originals = {layer.name: layer for layer in decided.graph.layers}
    rounded = {fmt: _rounded_layers(decided, network) for fmt, network in networks.items()}
    weights = {
        (name, fmt): float(np.mean(_square(originals[name], rounded[fmt][name])))
        for name, fmt in _steps(decided)
    }
    return Sensitivity("weight_mse", "mean squared error of weights", weights, {})


def _square(layer: L.Layer, rounded: L.Layer) -> Reals:
    assert isinstance(layer, L.Conv | L.Linear) and isinstance(rounded, L.Conv | L.Linear)
    return np.asarray((layer.weights - rounded.weights) ** 2)


def fisher_error(
    decided: Decisions,
    networks: Mapping[str, Network],
    reference: Reference,
    information: Information,
) -> Sensitivity:
    """Half the Fisher-weighted squared rounding error of every decision.

    Raises:
        DataError: information of other shapes than the network's.
    """
    originals = {layer.name: layer for layer in decided.graph.layers}
    rounded = {fmt: _rounded_layers(decided, network) for fmt, network in networks.items()}
    weights = {}
    for name, fmt in _steps(decided):
        square = _square(originals[name], rounded[fmt][name])
        weights[name, fmt] = 0.5 * _weighted(information.weights, name, square)
    inputs = {}
    for group in decided.groups:
        for fmt in group.inputs:
            parts = [_tensor_error(networks[fmt], reference, information, n) for n in group.tensors]
            inputs[group.name, fmt] = 0.5 * math.fsum(parts)
    unit = UNITS[choose_measure(decided.graph)]
    return Sensitivity("fisher", f"{unit}, to second order", weights, inputs)


def _tensor_error(
    network: Network, reference: Reference, information: Information, name: str
) -> float:
    change = _rounding(network, name)
    total: Any = 0.0
    samples = 0
    for held in reference.batches:
        values = np.asarray(held[name], dtype=np.float64)
        square = (change(values) - values) ** 2
        if reference.graph.batch_axis == 0:
            total, samples = total + square.sum(axis=0), samples + len(values)
        else:
            total, samples = total + square, samples + 1
    return _weighted(information.inputs, name, np.asarray(total) / samples)


def _weighted(held: Mapping[str, Reals], name: str, square: Reals) -> float:
    if name not in held:
        raise DataError(f"there is no Fisher information of '{name}': find it for this network")
    if held[name].shape != square.shape:
        raise DataError(
            f"Fisher information of '{name}' has shape {held[name].shape}, expected {square.shape}"
        )
    return float((held[name] * square).sum())
