"""Layers to jobs: which engine format, which weights, which shift; or why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, CompileError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.program import HostLayer, Output
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.activation import activate, fuse
from opennpe.host.attention import matmul, normalise, stream_softmax
from opennpe.host.lowered import Lowered, image, refuse
from opennpe.host.pixelwise import add, concat, convert
from opennpe.host.pooling import pool
from opennpe.host.products import conv, linear
from opennpe.host.sparse import Choice, choose
from opennpe.host.survey import groups, wanted_orders

__all__ = ["lower"]


def lower(
    spec: CoprocessorSpec, network: Network, whole: Iterable[str] = (), sparse: Choice = "auto"
) -> Lowered:
    """Every layer to a job, a view or the host.

    Args:
        whole: tensors that must exist: their activations are not fused into the layer before.
        sparse: which layers run sparse; see :func:`opennpe.host.sparse.choose`.

    Raises:
        CompileError: a layer that has no mapping, by name.
    """
    chosen = choose(spec, network, sparse)
    low = Lowered(
        spec,
        network,
        groups=groups(network),
        sparse=chosen,
        small=sparse == "bytes",
        forced=sparse == "always",
    )
    for name, order in wanted_orders(network, low.sparse).items():
        given(low, network.tensors[name], order)
    readers: dict[str, int] = {}
    for layer in network.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    kept = {*whole, *network.outputs}
    softmax: dict[str, HostLayer] = {}
    for layer in network.layers:
        if isinstance(layer, L.Softmax):
            if layer.output in readers or layer.output not in network.outputs:
                raise refuse(layer, "only a last layer is left to the host")
            ins, out = network.layer_tensors(layer)
            softmax[layer.output] = HostLayer(layer.name, ins[0], out, layer.axis, layer.log)
            continue
        handler = HANDLERS.get(type(layer))
        if handler is None:
            raise refuse(layer, "the co-processor has no mapping for it")
        if isinstance(layer, L.Activate) and fuse(low, layer, readers, kept):
            continue
        try:
            handler(low, layer)
        except AccumulatorError as error:
            raise CompileError(str(error)) from error
    for name in network.outputs:
        host = softmax.get(name)
        source = host.input.name if host else name
        low.outputs.append(Output(network.tensors[name], low.symbol(source), host))
    return low


def given(low: Lowered, tensor: Tensor, order: str) -> None:
    """Room for a tensor that comes from outside."""
    shape = tensor.shape
    if tensor.format not in low.spec.mac.formats:
        order = "image"
    if order == "heads" and len(shape) > 1:
        low.new_heads(tensor, (shape[-2], 1))
        return
    if order in ("columns", "image columns"):
        last = order == "columns"
        features = shape[-1] if last else shape[1]
        low.new_columns(tensor, math.prod(shape) // features, features, (features, features), last)
        return
    if order == "rows" and shape:
        low.new_tokens(tensor, shape[-1], (math.prod(shape[:-1]), 1))
        return
    low.new(tensor, image(shape) or (math.prod(shape) or 1, 1, 1))


HANDLERS: dict[type, Callable[[Lowered, Any], None]] = {
    L.Conv: conv,
    L.Linear: linear,
    L.Add: add,
    L.Pool: pool,
    L.Activate: activate,
    L.Convert: convert,
    L.Reshape: convert,
    L.Transpose: convert,
    L.Slice: convert,
    L.MatMul: matmul,
    L.StreamSoftmax: stream_softmax,
    L.Normalise: normalise,
    L.Concat: concat,
}
