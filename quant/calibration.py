"""``calibrate``: sample values of every tensor, then lower the graph to a golden network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError, PolicyError
from opennpe.golden.network import Network
from opennpe.quant import float_eval, lower
from opennpe.quant.graph import Array, Graph
from opennpe.quant.policy import METHODS, Policy

__all__ = ["batches", "calibrate", "observe"]

SAMPLED_VALUES = 8192
"""Magnitudes kept of each tensor."""
BATCH_ELEMENTS = 1 << 24
"""Elements of all tensors together that one evaluation may hold."""

Samples = dict[str, NDArray[np.float64]]


def calibrate(graph: Graph, samples: Any, policy: Policy | str, method: str = "mse") -> Network:
    """Choose formats and scales; round the weights.

    Args:
        graph: from :func:`opennpe.quant.load_onnx`.
        samples: real arrays by input name with samples along axis 0 (or one array for a model
            with one input); a model whose axis 0 is no batch takes its shape or a stack of such.
        policy: a :class:`~opennpe.quant.policy.Policy`, or a format's name.
        method: "mse", "maxabs" or "percentile" where the policy states no ``calibration``.

    Raises:
        PolicyError: unknown method, or a pattern that matches no layer.
        DataError: samples that do not fit the model.
        AccumulatorError: a layer sums more terms than the accumulator holds.
    """
    chosen = Policy.uniform(policy) if isinstance(policy, str) else policy
    how = chosen.calibration or method
    if how not in METHODS:
        raise PolicyError(f"calibration method '{how}': expected {', '.join(METHODS)}")
    chosen.check_names(layer.name for layer in graph.layers)
    return lower.lower(graph, observe(graph, samples), chosen, how)


def observe(graph: Graph, samples: Any) -> Samples:
    """Up to :data:`SAMPLED_VALUES` values of every tensor, the largest among them.

    Raises:
        DataError: samples that do not fit the model.
    """
    given = samples if isinstance(samples, Mapping) else {graph.inputs[0]: samples}
    parts: dict[str, list[Array]] = {}
    runs = list(batches(graph, given))
    share = max(64, SAMPLED_VALUES // len(runs))
    rng = np.random.default_rng(0)

    def note(name: str, values: Array) -> None:
        if name in graph.indices:
            return
        parts.setdefault(name, []).append(_sample(values, share, rng))

    for batch in runs:
        float_eval.evaluate(graph, batch, np.float32, note)
    return {name: np.concatenate(kept) for name, kept in parts.items()}


def _sample(values: Array, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    flat = values.ravel()
    flat = flat[np.isfinite(flat)].astype(np.float64)
    if flat.size <= count:
        return flat
    largest = flat[np.argmax(np.abs(flat))]
    return np.append(flat[rng.integers(flat.size, size=count - 1)], largest)


def batches(graph: Graph, samples: Mapping[str, Any]) -> Iterator[dict[str, Array]]:
    """Inputs as runs that :func:`opennpe.quant.float_eval.evaluate` takes, several samples each
    where the graph allows it.

    Raises:
        DataError: values that are not finite numbers.
    """
    arrays = {name: np.asarray(values) for name, values in samples.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"input '{name}' holds {array.dtype} values, expected numbers")
        if not np.isfinite(array).all():
            raise DataError(f"calibration input '{name}' holds NaN or infinite values: remove them")
    stacked = any(
        name in graph.shapes and array.ndim == len(graph.shapes[name]) + 1
        for name, array in arrays.items()
    )
    counts = {len(a) for a in arrays.values() if a.ndim}
    if stacked:
        for i in range(min(counts)):
            yield {name: array[i] for name, array in arrays.items()}
        return
    elements = sum(math.prod(shape) for shape in graph.shapes.values())
    size = max(1, BATCH_ELEMENTS // max(1, elements)) if graph.batch_axis == 0 else 1
    whole = graph.batch_axis != 0 and any(
        graph.shapes[n][:1] != (1,) for n in arrays if n in graph.shapes
    )
    if whole or not counts or len(counts) > 1 or not min(counts):
        yield arrays
        return
    for start in range(0, min(counts), size):
        yield {name: array[start : start + size] for name, array in arrays.items()}
