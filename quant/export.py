"""A quantised network as an ONNX file that the importer reads back as the same network.

:func:`write` puts the float weights of a graph and the formats and scales of a network lowered from
it into one file: QONNX's ``Quant`` and ``FloatQuant``, and ``PositQuant`` of the domain
``opennpe``, stand behind every weight, constant, input and computed tensor. A conversion that a
layer asked for is a second such node on the edge to that layer. ``load_onnx`` and the policy format
``model`` give back the network, which ``write`` checks before the file appears.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.whole import replacing
from opennpe.quant import lower
from opennpe.quant.graph import Array, Graph, Hint
from opennpe.quant.grouping import moves
from opennpe.quant.importer import load_onnx
from opennpe.quant.onnx_layers import DEFAULTS
from opennpe.quant.onnx_writer import to_model
from opennpe.quant.policy import MODEL, Policy
from opennpe.quant.stated import relaxed, settle

__all__ = ["difference", "stated_graph", "write", "write_float"]


def write_float(graph: Graph, path: str | Path) -> None:
    """Write a float graph as plain ONNX, without quantisation nodes.

    Raises:
        ModelError: a layer that ONNX has no operator for, or a model too large for one file.
    """
    model = to_model(replace(graph, hints={}, weight_hints={}))
    with replacing(Path(path)) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def write(graph: Graph, network: Network, path: str | Path, check: bool = True) -> None:
    """Write a network with the float weights it was rounded from.

    Args:
        graph: the float graph with its present weights.
        network: lowered from that graph: its formats, scales, conversions and biases.
        path: the .onnx file; it appears whole or not at all.
        check: read the file back and compare before it takes its name.

    Raises:
        ModelError: the network is not of this graph, a layer has no place in ONNX, or the file
            would read back as another network.
    """
    model = to_model(stated_graph(graph, network), exact=True)
    with replacing(Path(path)) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        if check:
            found = difference(network, _read_back(part))
            if found is not None:
                raise ModelError(f"'{Path(path).name}' would not read back as written: {found}")


def _read_back(path: Path) -> Network:
    """The network of a file that states every format and scale: no sample is needed."""
    graph = load_onnx(path)
    nothing = np.zeros(1)
    names = (*graph.inputs, *(layer.output for layer in graph.layers))
    samples = dict.fromkeys(names, nothing)
    return lower.lower(graph, samples, Policy.uniform(MODEL), "mse")


# -- the graph that states everything ----------------------------------------------------------
def stated_graph(graph: Graph, network: Network) -> Graph:
    """The network's layers with real parameters, and hints for all of its formats and scales.

    A real parameter is the graph's where it rounds to the network's code, else the code's value,
    so that the codes are reproduced whatever made them.

    Raises:
        ModelError: the network is not of this graph.
    """
    kept = {layer.name for layer in network.layers}
    if any(layer.name not in kept for layer in graph.layers):
        # A graph that states formats itself has clips that its network does without.
        graph = settle(graph, Policy.uniform(MODEL))
    by_name = {layer.name: layer for layer in graph.layers}
    layers: list[Any] = []
    constants: dict[str, Array] = {}
    for layer in network.layers:
        own = by_name.pop(layer.name, None)
        if own is None and isinstance(layer, L.Convert):
            layers.append(layer)
            continue
        if own is None or type(own) is not type(layer) or len(own.inputs) != len(layer.inputs):
            raise ModelError(f"the network's layer '{layer.name}' is not one of the graph's")
        for real, coded in zip(own.inputs, layer.inputs, strict=True):
            if coded in network.constants:
                constants[coded] = _constant(graph, network, real, coded)
        layers.append(_real(own, layer))
    if by_name:
        raise ModelError(f"the network lacks the graph's layer '{next(iter(by_name))}'")
    return Graph(
        inputs=network.inputs,
        outputs=network.outputs,
        layers=tuple(layers),
        shapes={name: tensor.shape for name, tensor in network.tensors.items()},
        constants=constants,
        hints=dict(_hints(network)),
        weight_hints={
            layer.name: Hint(layer.weight_format, layer.weight_scale)
            for layer in network.layers
            if isinstance(layer, L.Conv | L.Linear)
            or (isinstance(layer, L.Normalise) and layer.gamma is not None)
        },
        indices=frozenset(n for n, t in network.tensors.items() if _is_index(t)),
        name=graph.name,
    )


def _is_index(tensor: Tensor) -> bool:
    return tensor.format == formats.INDEX.name


def _constant(graph: Graph, network: Network, real: str, coded: str) -> Array:
    tensor, codes = network.tensors[coded], network.constants[coded]
    if real not in graph.constants:
        raise ModelError(f"the network's constant '{coded}' is not one of the graph's")
    values = graph.constants[real]
    return values if _is_index(tensor) else _agreeing(values, codes, tensor.format, tensor.scale)


def _agreeing(values: Array, codes: Array, fmt_name: str, scale: Any) -> Array:
    """The values, and where one rounds to another code, that code's value."""
    fmt = formats.get(fmt_name)
    if np.shape(values) != np.shape(codes):
        raise ModelError(f"parameters of shape {np.shape(values)} for codes {np.shape(codes)}")
    rounded = fmt.encode(np.ldexp(values, -np.asarray(scale)), "zero")
    return np.where(rounded == codes, values, np.ldexp(fmt.decode(codes), scale))


def _real(own: Any, layer: Any) -> Any:
    """The graph's layer with the network's inputs and bias, and parameters that agree with it."""
    result = replace(own, inputs=layer.inputs)
    if isinstance(layer, L.Conv | L.Linear):
        side = layer.weight_scale.reshape(-1, *(1,) * (layer.weights.ndim - 1))
        narrow = own.weights.astype(np.float32).astype(np.float64)
        weights = _agreeing(narrow, layer.weights, layer.weight_format, side)
        return replace(result, weights=weights, bias=layer.bias)
    if isinstance(layer, L.Activate) and layer.slope is not None:
        slope = _agreeing(own.slope, layer.slope, lower.SLOPE_FORMAT, 0)
        return replace(result, slope=slope)
    if isinstance(layer, L.Normalise) and layer.gamma is not None:
        gamma = _agreeing(own.gamma, layer.gamma, layer.weight_format, layer.weight_scale)
        return replace(result, gamma=gamma, beta=layer.beta)
    if isinstance(layer, L.Rotary):
        cos, sin = (
            _agreeing(real, codes, layer.weight_format, 0)
            for real, codes in ((own.cos, layer.cos), (own.sin, layer.sin))
        )
        return replace(result, cos=cos, sin=sin)
    return result


def _hints(network: Network) -> Iterator[tuple[str, Hint]]:
    """Hints for every tensor whose format and scale do not follow from what a move reads."""
    for name in (*network.inputs, *network.constants):
        if not _is_index(network.tensors[name]):
            yield name, _hint(network.tensors[name])
    # A conversion of a moved tensor must not be read as the format of the move itself.
    converted = {
        n for layer in network.layers if isinstance(layer, L.Convert) for n in layer.inputs
    }
    for layer in network.layers:
        tensor = network.tensors[layer.output]
        follows = moves(layer) and not isinstance(layer, L.Concat)
        read = [network.tensors[n] for n in layer.inputs if n not in network.constants]
        read = [t for t in read if not _is_index(t)]
        same = bool(read) and all(_hint(t) == _hint(tensor) for t in read)
        implied = follows and same and layer.output not in converted
        if not _is_index(tensor) and not implied:
            yield layer.output, _hint(tensor)


def _hint(tensor: Tensor) -> Hint:
    return Hint(tensor.format, tensor.scale)


# -- comparison --------------------------------------------------------------------------------
def difference(first: Network, second: Network) -> str | None:
    """What keeps two networks from computing the same codes, in one line, or None.

    Names of constants, and bounds that a format's own saturation makes idle, may differ.
    """
    if (first.inputs, first.outputs) != (second.inputs, second.outputs):
        return "the inputs or outputs differ"
    if len(first.layers) != len(second.layers):
        return f"{len(second.layers)} layers instead of {len(first.layers)}"
    for name in first.inputs:
        if first.tensors[name] != second.tensors[name]:
            return f"'{name}' is {second.tensors[name]}, not {first.tensors[name]}"
    for a, b in zip(first.layers, second.layers, strict=True):
        found = _layer_difference(first, second, a, b)
        if found is not None:
            return f"layer '{a.name}': {found}"
    return None


def _layer_difference(first: Network, second: Network, a: L.Layer, b: L.Layer) -> str | None:
    a, b = _constant_last(first, a), _constant_last(second, b)
    if type(a) is not type(b) or len(a.inputs) != len(b.inputs):
        return f"it is a {type(b).__name__} '{b.name}'"
    if first.tensors[a.output] != second.tensors[b.output]:
        return f"it writes {second.tensors[b.output]}, not {first.tensors[a.output]}"
    for n, m in zip(a.inputs, b.inputs, strict=True):
        if n not in first.constants or m not in second.constants:
            if n != m:
                return f"it reads '{m}', not '{n}'"
            continue
        if replace(first.tensors[n], name=m) != second.tensors[m]:
            return f"its constant is {second.tensors[m]}, not {first.tensors[n]}"
        if not np.array_equal(first.constants[n], second.constants[m]):
            return "its constant has other codes"
    a, b = (_plain(network, layer) for network, layer in ((first, a), (second, b)))
    for field in fields(a):
        if field.name in ("name", "inputs", "ceil_mode"):
            continue
        if not _equal(getattr(a, field.name), getattr(b, field.name)):
            return f"its {field.name} differs"
    return None


def _constant_last(network: Network, layer: L.Layer) -> L.Layer:
    """The operands of a sum or product in an order that does not depend on the model."""
    swaps = isinstance(layer, L.Mul) or (isinstance(layer, L.Add) and len({*layer.signs}) == 1)
    if swaps and layer.inputs[0] in network.constants:
        return replace(layer, inputs=layer.inputs[::-1])
    return layer


def _plain(network: Network, layer: L.Layer) -> Any:
    """A layer with what it says in several ways said in one."""
    layer = relaxed(layer, _hint(network.tensors[layer.output]))
    if isinstance(layer, L.Activate):
        params = {**DEFAULTS.get(layer.kind, {}), **dict(layer.params)}
        return replace(layer, params=tuple(sorted(params.items())))
    if isinstance(layer, L.Slice):
        shape = network.tensors[layer.inputs[0]].shape
        cuts = (slice(*s).indices(n) for s, n in zip(layer.slices, shape, strict=True))
        return replace(layer, slices=tuple(cuts))
    return layer


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a is not None and b is not None and np.array_equal(a, b)
    if isinstance(a, tuple) and a and isinstance(a[0], np.ndarray):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
