"""What layers further on want of a tensor's order, found before anything is lowered."""

from __future__ import annotations

import math
from collections.abc import Mapping

from opennpe.golden import layers as L
from opennpe.golden.network import Network

__all__ = ["groups", "wanted_orders"]

SAME = (L.Activate, L.Add, L.Convert, L.Mul, L.StreamSoftmax)
"""Layers whose output lies as their input does."""


def groups(network: Network) -> dict[str, int]:
    """Tensors whose last axis is cut into heads further on, and the channels of a head."""
    found: dict[str, int] = {}
    for layer in reversed(network.layers):
        out = network.tensors[layer.output].shape
        first = layer.inputs[0]
        shape = network.tensors[first].shape
        group = found.get(layer.output)
        if isinstance(layer, L.Reshape):
            cut = len(out) > len(shape) > 1 and out[: len(shape) - 1] == shape[:-1]
            if cut and out[-1] < shape[-1]:
                found.setdefault(first, out[-1])
            elif group is not None and out[-1] == shape[-1]:
                found.setdefault(first, group)
        elif isinstance(layer, L.Slice):
            own = group or out[-1]
            if out[-1] < shape[-1] and shape[-1] % own == 0:
                found.setdefault(first, own)
        elif group is not None and isinstance(layer, SAME):
            for name in layer.inputs:
                if network.tensors[name].shape[-1:] == shape[-1:] and shape[-1] % group == 0:
                    found.setdefault(name, group)
    return found


def wanted_orders(network: Network, sparse: set[str]) -> Mapping[str, str]:
    """How inputs and constants are stored: "image" (channels, pixels), "rows", "heads", or, where
    only sparse layers read them, "columns" and "image columns".

    Args:
        sparse: names of the layers that run sparse.
    """
    readers: dict[str, list[L.Layer]] = {}
    for layer in network.layers:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer)
    found = {}
    for name in (*network.inputs, *network.constants):
        own = readers.get(name, ())
        if own and all(layer.name in sparse for layer in own):
            found[name] = "image columns" if isinstance(own[0], L.Conv) else "columns"
            continue
        found[name] = _order(network, readers, name)
    return found


def _order(network: Network, readers: Mapping[str, list[L.Layer]], name: str) -> str:
    """By the first layer that cares, nearest first."""
    own = network.tensors[name].shape
    waiting, seen = [name], {name}
    while waiting:
        current = waiting.pop(0)
        shape = network.tensors[current].shape
        for layer in readers.get(current, ()):
            match layer:
                case L.Conv() | L.Pool():
                    return "image"
                case L.Concat() if layer.axis % len(shape) == 1 and len(shape) == 4:
                    return "image"
                case L.MatMul() | L.StreamSoftmax():
                    if shape == own:
                        return "heads"
                case L.Linear() | L.Normalise():
                    if math.prod(shape[:-1]) > 1:
                        return "rows" if shape[-1:] == own[-1:] else "image"
                case L.Reshape() | L.Transpose() | L.Slice():
                    if len(own) in (2, 3) and len(network.tensors[layer.output].shape) >= 3:
                        return "rows"
                case _:
                    pass
            same = isinstance(layer, (*SAME, L.Normalise, L.Reshape))
            if same and layer.output not in seen:
                seen.add(layer.output)
                waiting.append(layer.output)
    return "rows" if len(own) == 2 and own[0] > 1 else "image"
