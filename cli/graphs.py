"""What the verbs ask of a float graph: its input shapes and its FP32 values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.quant import float_eval

__all__ = ["evaluate", "input_shapes"]


def input_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by input name; axis 0 is 1 where the model leaves the batch open."""
    return {name: tuple(graph.shapes[name]) for name in graph.inputs}


def evaluate(graph: Any, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """FP32 values of every tensor."""
    return {name: np.asarray(v) for name, v in float_eval.evaluate(graph, inputs).items()}
