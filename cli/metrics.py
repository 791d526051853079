"""How good a run is: accuracy against labels, or distance to the FP32 reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError

__all__ = ["METRICS", "choose", "cosine", "evaluate", "relative_l2", "top_k"]

Values = NDArray[np.float64]

METRICS = {
    "top1": "share of samples whose largest output is the label",
    "top5": "share of samples whose label is among the five largest outputs",
    "l2": "relative L2 distance to the FP32 outputs, the worst of the outputs",
    "cosine": "cosine similarity to the FP32 outputs, the worst of the outputs",
}


def choose(metric: str, outputs: Mapping[str, Values], labels: NDArray[Any] | None) -> str:
    """The metric to report: ``top1`` where labels and one (N, classes) output allow, else ``l2``.

    Raises:
        DataError: an unknown metric, or one that needs labels which are missing or do not fit.
    """
    shapes = {name: values.shape for name, values in outputs.items()}
    fits = _classifies(outputs, labels)
    if metric == "auto":
        return "top1" if fits else "l2"
    if metric not in METRICS:
        raise DataError(f"unknown metric '{metric}': expected auto, {', '.join(METRICS)}")
    if metric in ("top1", "top5") and not fits:
        given = "no 'y'" if labels is None else f"'y' of shape {labels.shape}, {labels.dtype}"
        raise DataError(
            f"metric '{metric}' needs integer labels y (N,) and one output (N, classes): the data "
            f"has {given}, the outputs are {shapes}"
        )
    return metric


def _classifies(outputs: Mapping[str, Values], labels: NDArray[Any] | None) -> bool:
    if labels is None or labels.dtype.kind not in "ui" or len(outputs) != 1:
        return False
    (values,) = outputs.values()
    flat = values.reshape(len(values), -1)
    return bool(
        labels.shape in ((len(values),), (len(values), 1))
        and max(values.shape[1:], default=0) == flat.shape[1] > 1
        and int(labels.min(initial=0)) >= 0
        and int(labels.max(initial=0)) < flat.shape[1]
    )


def top_k(values: Values, labels: NDArray[Any], k: int = 1) -> float:
    """Share of rows of ``values`` (N, classes) whose label is among the k largest.

    Ties count by rank: a label tied with better-placed (lower) indices ranks behind them, so
    that a constant output does not score. A row with a NaN scores nothing.
    """
    flat = values.reshape(len(values), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    hit = (order == labels.reshape(-1, 1)).any(axis=1) & ~np.isnan(flat).any(axis=1)
    return float(hit.mean())


def relative_l2(values: Values, reference: Values) -> float:
    """``|values - reference| / |reference|``; 0 where both are zero, NaN where a value is."""
    norm = float(np.linalg.norm(reference))
    distance = float(np.linalg.norm(np.asarray(values, dtype=np.float64) - reference))
    return distance / norm if norm else (0.0 if distance == 0 else float("inf"))


def cosine(values: Values, reference: Values) -> float:
    """Cosine of the angle between two tensors; 1 where both are zero, NaN where a value is."""
    a, b = np.asarray(values, dtype=np.float64).ravel(), np.asarray(reference).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else float(not a.any() and not b.any())


def evaluate(
    metric: str,
    outputs: Mapping[str, Values],
    reference: Mapping[str, Values],
    labels: NDArray[Any] | None,
) -> float:
    """The chosen metric of one run; with several outputs the worst of them."""
    if metric in ("top1", "top5") and labels is not None:
        (values,) = outputs.values()
        return top_k(values, labels, int(metric[3:]))
    if metric == "cosine":
        return float(np.min([cosine(v, reference[name]) for name, v in outputs.items()]))
    return float(np.max([relative_l2(v, reference[name]) for name, v in outputs.items()]))
