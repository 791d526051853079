"""Fisher information of weights and tensors: how much the outputs mind a small change of each.

For class scores it is the mean square of the derivative of -log p(y), y drawn from the network's
own probabilities, which needs no labels; half of it times a change's square is the change's
Kullback-Leibler divergence to second order. For other outputs it is that of outputs with Gaussian
noise, scaled so that the same half gives the squared distance relative to the outputs' square.
Both are found for the float network, one sample at a time, from one random draw a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.quant.graph import Graph
from opennpe.quant.qat import functions
from opennpe.quant.sensitivity import Information, choose_measure, ending

__all__ = ["information"]

OWN = ("weights", "bias", "slope", "gamma", "beta")
Reals = NDArray[np.float64]
Tensor: TypeAlias = torch.Tensor


def information(
    graph: Graph,
    batches: Sequence[Mapping[str, Any]],
    seed: int = 0,
    step: Callable[[], None] | None = None,
) -> Information:
    """Fisher information over all samples of some runs.

    Args:
        graph: the float graph.
        batches: inputs by name, as :func:`opennpe.quant.calibration.batches` gives them.
        seed: of the draws.
        step: called after each sample.

    Raises:
        DataError: no samples, or gradients that are no numbers.
        NetworkError: a layer without gradients.
    """
    rng = torch.Generator().manual_seed(seed)
    run = _Run(graph)
    squares: dict[str, Reals] = {}
    norms: dict[str, float] = {}
    samples, energy = 0, 0.0
    for inputs in _singles(graph, batches):
        outputs, values = run.forward(inputs)
        loss = _loss(graph, outputs, rng)
        energy += sum(float(o.detach().double().square().sum()) for o in outputs)
        watched = {**run.weights, **{n: v for n, v in values.items() if v.requires_grad}}
        found = torch.autograd.grad(loss, list(watched.values()), allow_unused=True)
        for name, gradient in zip(watched, found, strict=True):
            shape = watched[name].shape
            held = torch.zeros(shape) if gradient is None else gradient
            square = held.double().square().numpy()
            squares[name] = squares.get(name, 0.0) + square
            if name in run.weights:
                norms[name] = norms.get(name, 0.0) + float(np.sqrt(square.sum()))
        samples += 1
        if step is not None:
            step()
    if not samples:
        raise DataError("Fisher information needs at least one sample")
    # For outputs that are no classes: squared distance over the outputs' mean square.
    scale = 1.0 / samples if choose_measure(graph) == "kl" else 2.0 / max(energy, 1e-300)
    means = {name: values * scale for name, values in squares.items()}
    bad = next((name for name, values in means.items() if not np.isfinite(values).all()), None)
    if bad is not None:
        raise DataError(f"gradients of '{bad.split(':')[0]}' are no numbers: check the model")
    weights = {name.removesuffix(WEIGHTS): means[name] for name in run.weights}
    free = graph.batch_axis == 0
    return Information(
        weights,
        {n: v[0] if free else v for n, v in means.items() if n not in run.weights},
        {name.removesuffix(WEIGHTS): norms[name] / samples for name in run.weights},
    )


WEIGHTS = ":weights"


class _Run:
    """The float graph with gradients."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.own = {
            layer.name: {
                field: torch.tensor(values, dtype=torch.float32)
                for field in OWN
                if isinstance(values := getattr(layer, field, None), np.ndarray)
            }
            for layer in graph.layers
        }
        self.weights = {
            f"{layer.name}{WEIGHTS}": self.own[layer.name]["weights"].requires_grad_()
            for layer in graph.layers
            if isinstance(layer, L.Conv | L.Linear)
        }
        self.constants = {
            name: torch.tensor(
                values, dtype=torch.int64 if name in graph.indices else torch.float32
            )
            for name, values in graph.constants.items()
        }

    def forward(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs, and every tensor that is no constant."""
        graph, values = self.graph, {}
        for name in graph.inputs:
            given = np.asarray(inputs[name])
            if name in graph.indices:
                values[name] = torch.from_numpy(given.astype(np.int64))
            else:
                values[name] = torch.from_numpy(given.astype(np.float32)).requires_grad_()
        batch = 1 if graph.batch_axis == 0 else None
        for layer in graph.layers:
            read = [values[n] if n in values else self.constants[n] for n in layer.inputs]
            result = functions.run(layer, read, self.own[layer.name], batch)
            clip = getattr(layer, "clip", None)
            values[layer.output] = result if clip is None else result.clamp(*clip)
        return [values[name] for name in graph.outputs], values


def _singles(graph: Graph, batches: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs of one sample each, where samples are apart."""
    for inputs in batches:
        if graph.batch_axis != 0:
            yield dict(inputs)
            continue
        count = len(np.asarray(inputs[graph.inputs[0]]))
        for index in range(count):
            yield {name: np.asarray(inputs[name])[index : index + 1] for name in graph.inputs}


def _loss(graph: Graph, outputs: list[Tensor], rng: torch.Generator) -> Tensor:
    """A number whose gradient's mean square is the information."""
    if choose_measure(graph) != "kl":
        total = torch.zeros(())
        for values in outputs:
            signs = torch.randint(0, 2, values.shape, generator=rng) * 2 - 1
            total = total + (values * signs).sum()
        return total
    (values,) = outputs
    kind = ending(graph, graph.outputs[0])
    scores = values.clamp_min(1e-6).log() if kind == "probabilities" else values
    logarithms = torch.log_softmax(scores, dim=1)
    drawn = torch.multinomial(logarithms.detach().exp(), 1, generator=rng)
    return -logarithms.gather(1, drawn).sum()
