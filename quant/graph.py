"""The float graph: golden layers whose weights are still real numbers.

:class:`Graph` holds the layers of :mod:`opennpe.golden.layers` with float64 ``weights`` (and
``slope``) in place of codes, ``weight_format`` empty and ``weight_scale`` zero, so that shapes,
batching and execution order have one definition before and after quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import layers as L
from opennpe.golden import shapes
from opennpe.golden.errors import ModelError

__all__ = [
    "Affine",
    "Array",
    "Graph",
    "Hint",
    "Unsupported",
    "UnsupportedModelError",
    "UnsupportedNode",
    "conv",
    "linear",
    "printable",
]

Array = NDArray[Any]
Shape = tuple[int, ...]


def printable(text: str) -> str:
    """One line whatever names a hostile file holds: control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class UnsupportedNode:
    """A node the importer cannot translate: its name, operator, and why."""

    name: str
    op: str
    why: str

    def __str__(self) -> str:
        return printable(f"node '{self.name}' ({self.op}): {self.why}")


class UnsupportedModelError(ModelError):
    """A well-formed model with nodes that are not supported; ``nodes`` lists every one."""

    def __init__(self, model: str, nodes: tuple[UnsupportedNode, ...]) -> None:
        self.nodes = nodes
        count = "1 unsupported node" if len(nodes) == 1 else f"{len(nodes)} unsupported nodes"
        super().__init__("\n".join([f"{model} has {count}:", *(f"  {node}" for node in nodes)]))


class Unsupported(Exception):
    """Raised by a translator: why this node cannot be imported."""


@dataclass(frozen=True)
class Hint:
    """What the model itself says about a tensor: a format and a power-of-two scale.

    ``scale`` is an int, or int (O,) for weights with one an output channel. ``exact`` tells
    whether the format at this scale holds all of the model's own numbers (else the scale is the
    nearest power of two, for information).
    """

    format: str
    scale: Any
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Affine(L.LayerBase):
    """``x * scale + offset``, broadcast against x without enlarging it; folded away on import.

    ``hint`` is what the model says of the one constant that this is, and None once joined.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    hint: Hint | None = None


def conv(
    name: str,
    source: str,
    output: str,
    weights: Array,
    bias: Array | None = None,
    strides: Shape | None = None,
    pads: Shape | None = None,
    dilations: Shape | None = None,
    groups: int = 1,
) -> L.Conv:
    """A convolution with real weights (O, I/groups, *kernel)."""
    rank, channels = weights.ndim - 2, weights.shape[0]
    return L.Conv(
        name=name,
        inputs=(source,),
        output=output,
        weights=weights.astype(np.float64),
        weight_format="",
        weight_scale=np.zeros(channels, np.int64),
        bias=np.zeros(channels) if bias is None else bias.astype(np.float64),
        strides=strides or (1,) * rank,
        pads=pads or (0,) * (2 * rank),
        dilations=dilations or (1,) * rank,
        groups=groups,
    )


def linear(
    name: str, source: str, output: str, weights: Array, bias: Array | None = None
) -> L.Linear:
    """A product with real weights (N, K)."""
    return L.Linear(
        name=name,
        inputs=(source,),
        output=output,
        weights=weights.astype(np.float64),
        weight_format="",
        weight_scale=np.zeros(weights.shape[0], np.int64),
        bias=np.zeros(weights.shape[0]) if bias is None else bias.astype(np.float64),
    )


@dataclass(frozen=True, eq=False)
class Graph:
    """A folded float network with every shape known.

    Attributes:
        inputs: names of the tensors the caller gives.
        outputs: names of the tensors the caller gets.
        layers: golden layers with real weights, in execution order.
        shapes: every tensor's full shape; a symbolic batch is 1.
        constants: float64 constants by name.
        hints: formats and scales the model states for activations and constants, by tensor.
        weight_hints: the same for weights, by layer name.
        indices: tensors and constants that are row numbers or masks.
        name: the model's file name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[L.Layer, ...]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, Array] = field(default_factory=dict)
    hints: Mapping[str, Hint] = field(default_factory=dict)
    weight_hints: Mapping[str, Hint] = field(default_factory=dict)
    indices: frozenset[str] = frozenset()
    name: str = "model"

    @cached_property
    def batch_axis(self) -> int | None:
        """0 when any number of samples may run at once along axis 0, else None."""
        if any(self.shapes[n][:1] != (1,) for n in self.inputs):
            return None
        for layer in self.layers:
            constant = [n in self.constants for n in layer.inputs]
            given = [self.shapes[n] for n in layer.inputs]
            if all(constant) or not shapes.keeps_batch(
                layer, given, constant, self.shapes[layer.output]
            ):
                return None
        return 0
