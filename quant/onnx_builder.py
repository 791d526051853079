"""What the ONNX writer's translators write into: nodes, initialisers and names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant import quant_nodes
from opennpe.quant.graph import Array, Graph, Hint
from opennpe.quant.onnx_reader import MAX_FILE_BYTES

__all__ = ["Writer", "refuse"]

OPSET, NEWER_OPSET = 20, 23
NEWER = ("RMSNormalization", "RotaryEmbedding")
"""The operator set, another one, and the operators that appeared in the latter."""
IR_VERSIONS = {OPSET: 9, NEWER_OPSET: 11}
BATCH = "N"
SCALES = (-126, 127)
"""Exponents whose powers of two are ordinary float32 numbers."""


def refuse(layer: L.LayerBase, why: str) -> ModelError:
    """The error that names a layer ONNX has no place for."""
    kind = type(layer).__name__
    return ModelError(f"layer '{layer.name}' ({kind}) cannot be written as ONNX: {why}")


class Writer:
    """Collects nodes and initialisers.

    Attributes:
        graph: what is written.
        free: whether axis 0 of every computed tensor is a free batch.
        held: by tensor of the graph, the ONNX value that holds it.
    """

    def __init__(self, graph: Graph, exact: bool) -> None:
        self.graph, self.exact = graph, exact
        self.free = graph.batch_axis == 0
        self.held: dict[str, str] = {name: name for name in graph.inputs}
        self._nodes: list[NodeProto] = []
        self._stored: list[TensorProto] = []
        self._infos: list[ValueInfoProto] = []
        self._domains: set[str] = set()
        self._values = {*graph.inputs, *graph.outputs, *graph.constants, *graph.shapes}
        self._node_names = {layer.name for layer in graph.layers}
        self._shared: dict[tuple[Any, ...], str] = {}
        through = sorted(set(graph.inputs) & set(graph.outputs))
        if through:
            raise ModelError(f"'{through[0]}' is an input and an output: ONNX needs two names")

    # -- tensors -----------------------------------------------------------------------------
    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape at batch 1."""
        return tuple(self.graph.shapes.get(name, ())) or tuple(
            np.shape(self.graph.constants.get(name, 0.0))
        )

    def value(self, base: str) -> str:
        """A value name that nothing uses."""
        return _unused(base, self._values)

    def node_name(self, base: str) -> str:
        """A node name that nothing uses."""
        return _unused(base, self._node_names)

    def read(self, name: str) -> str:
        """The ONNX value of a tensor or constant of the graph."""
        if name in self.held:
            return self.held[name]
        values = self.graph.constants[name]
        if name in self.graph.indices:
            held = self.store(values.astype(np.int64), name, own=True)
        else:
            hint = self.hint(name)
            held = self.real(values, name, own=True)
            if hint is not None:
                node = self.node_name(f"{name}/quantise")
                held = self.quantise(held, self.value(f"{name}/quantised"), node, hint)
        self.held[name] = held
        return held

    def store(self, values: Array, base: str, own: bool = False) -> str:
        """An initialiser; ``own`` where ``base`` is its name already."""
        name = base if own else self.value(base)
        self._stored.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def real(self, values: Any, base: str, own: bool = False) -> str:
        """Real numbers as float32, or wide with a cast where that would change them."""
        wide = np.asarray(values, dtype=np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        if not self.exact or np.array_equal(narrow.astype(np.float64), wide):
            return self.store(narrow, base, own)
        stored = self.store(wide, f"{base}/float64")
        return self.node("Cast", [stored], base if own else self.value(base), to=TensorProto.FLOAT)

    def share(self, values: Any, base: str) -> str:
        """A small initialiser that nodes may share: int64 lists, float32 numbers."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.store(array, base)
        return self._shared[key]

    # -- nodes -------------------------------------------------------------------------------
    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str | None = None,
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node of one output; its output's name."""
        out = self.value(f"{name or inputs[0]}/{op}") if output is None else output
        own = name if name is not None else self.node_name(f"{out}/{op}")
        self._nodes.append(
            helper.make_node(op, list(inputs), [out], own, domain=domain, **attributes)
        )
        self._domains.add(domain)
        return out

    def clip(self, x: str, low: float, high: float, out: str, name: str | None = None) -> str:
        """``Relu`` or ``Clip`` between real bounds."""
        if (low, high) == (0.0, math.inf):
            return self.node("Relu", [x], out, name)
        bounds = [
            self.real(np.float64(v), f"{out}/{end}") if math.isfinite(v) else ""
            for v, end in ((low, "minimum"), (high, "maximum"))
        ]
        inputs = [x, *bounds] if bounds[1] else [x, bounds[0]]
        return self.node("Clip", inputs, out, name)

    def flag(self, name: str, held: str) -> str:
        """An index tensor of the graph, held by an ONNX value, as booleans."""
        if name in self.graph.constants:
            return self.store(self.graph.constants[name] != 0, f"{name}/flags")
        return self.node("Cast", [held], to=TensorProto.BOOL)

    def weights(self, layer: L.Conv | L.Linear, transposed: bool = False) -> str:
        """A layer's weights (O, ...), or (K, N) transposed, with their quantisation."""
        values = layer.weights.T if transposed else layer.weights
        stored = self.store(values.astype(np.float32), f"{layer.name}.weight")
        hint = self.graph.weight_hints.get(layer.name)
        if hint is None or not hint.exact:
            return stored
        count = np.size(hint.scale)
        side = (1, count) if transposed else (count, *(1,) * (values.ndim - 1))
        node = self.node_name(f"{layer.name}.weight/quantise")
        out = self.value(f"{layer.name}.weight/quantised")
        return self.quantise(stored, out, node, hint, np.reshape(hint.scale, side))

    def quantise(
        self, x: str, out: str, node: str, hint: Hint, exponents: Array | None = None
    ) -> str:
        """A quantisation node called ``node`` from one value to another; ``out``.

        Args:
            hint: the format, and the scale's exponent.
            exponents: the exponents in the shape of the scale where there is more than one.
        """
        powers = np.asarray(hint.scale if exponents is None else exponents)
        if powers.min() < SCALES[0] or powers.max() > SCALES[1]:
            raise ModelError(f"'{out}' has the scale 2**{int(powers.min())}: no float32 number")
        fmt = formats.get(hint.format)
        op, domain = quant_nodes.operator(fmt)
        scale = np.ldexp(1.0, powers).astype(np.float32)
        if powers.ndim:
            held = self.store(scale, f"{out}/scale")
        else:
            held = self.share(scale, f"2**{int(powers)}")
        more = [self.share(np.float32(v), f"{v:g}") for v in quant_nodes.numbers(fmt)]
        return self.node(op, [x, held, *more], out, node, domain, **quant_nodes.attributes(fmt))

    def hint(self, name: str) -> Hint | None:
        """The format with an exact scale that the graph states for a tensor, or None."""
        hint = self.graph.hints.get(name)
        return hint if hint is not None and hint.exact else None

    # -- the model ---------------------------------------------------------------------------
    def _info(self, name: str, shape: tuple[int, ...], index: bool) -> ValueInfoProto:
        sides: list[int | str] = list(shape)
        if self.free and sides:
            sides[0] = BATCH
        kind = TensorProto.INT64 if index else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, sides)

    def describe(self, value: str, shape: tuple[int, ...], index: bool = False) -> None:
        """State the shape of a value that is no output: tools cannot infer all of them."""
        if value not in self.graph.outputs:
            self._infos.append(self._info(value, shape, index))

    def model(self) -> ModelProto:
        """Everything collected.

        Raises:
            ModelError: more bytes than one file holds.
        """
        size = sum(tensor.ByteSize() for tensor in self._stored)
        if size >= MAX_FILE_BYTES:
            raise ModelError(f"the model has {size >> 20} MiB of weights: ONNX files end at 2 GiB")
        indices = self.graph.indices
        inputs, outputs = (
            [self._info(n, self.shape(n), n in indices) for n in names]
            for names in (self.graph.inputs, self.graph.outputs)
        )
        newer = any(node.op_type in NEWER for node in self._nodes)
        opset = NEWER_OPSET if newer else OPSET
        domains = [helper.make_opsetid("", opset)]
        domains += [helper.make_opsetid(name, 1) for name in sorted(self._domains - {""})]
        proto = helper.make_graph(
            self._nodes, self.graph.name, inputs, outputs, self._stored, value_info=self._infos
        )
        return helper.make_model(
            proto, producer_name="opennpe", opset_imports=domains, ir_version=IR_VERSIONS[opset]
        )


def _unused(base: str, taken: set[str]) -> str:
    name, count = base, 2
    while name in taken:
        name, count = f"{base}/{count}", count + 1
    taken.add(name)
    return name
