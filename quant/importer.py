"""``load_onnx``: from a model file to a folded float graph, or a list of what is in the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant import (
    fold,
    fold_constants,
    masked_logits,
    masks,
    onnx_reader,
    ops_attention,
    ops_elementwise,
    ops_formats,
    ops_linear,
    ops_quant,
    ops_resize,
    ops_shape,
    ops_spatial,
)
from opennpe.quant.builder import Builder
from opennpe.quant.graph import (
    Array,
    Graph,
    Unsupported,
    UnsupportedModelError,
    UnsupportedNode,
    printable,
)
from opennpe.quant.onnx_reader import Model, Node
from opennpe.quant.quant_nodes import OWN_DOMAIN

__all__ = ["OPERATORS", "load_onnx"]

Translator = Callable[[Builder, Node], None]

OPERATORS: dict[str, Translator] = {
    **ops_linear.OPERATORS,
    **ops_elementwise.OPERATORS,
    **ops_shape.OPERATORS,
    **ops_spatial.OPERATORS,
    **ops_resize.OPERATORS,
    **ops_quant.OPERATORS,
    **ops_formats.OPERATORS,
    **ops_attention.OPERATORS,
    **masked_logits.OPERATORS,
}
"""ONNX operator to the function that translates it."""

QONNX_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
MICROSOFT = ("Gelu", "FastGelu", "QuickGelu", "SimplifiedLayerNormalization")
"""Operators of onnxruntime's own domain."""
NO_INPUT = ("Constant", "Shape", "Size")
STATED = {
    "Quant": ops_quant.fold_quant,
    "IntQuant": ops_quant.fold_quant,
    "FloatQuant": ops_formats.fold_format,
    "PositQuant": ops_formats.fold_format,
}
"""Nodes that round a constant to a format, and what computes them."""
MOVED = ("Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Expand")
"""Nodes after which a constant still is in its format."""


def load_onnx(path: str | Path, dims: Mapping[str, int] | None = None) -> Graph:
    """Import a model.

    Args:
        path: an .onnx file, opset 11 or later (7 to 10 where the semantics agree).
        dims: sizes for symbolic dimensions, by their name; a symbolic batch (axis 0) is 1.

    Raises:
        UnsupportedModelError: lists every node that cannot be imported, and why.
        ModelError: the file is damaged, hostile or contradicts itself.
    """
    try:
        model = onnx_reader.read(path, dims)
        builder = Builder(model.opset)
        builder.shapes.update(model.inputs)
        builder.indices.update(model.indices)
        builder.constants.update(model.initialisers)
        _translate(builder, model)
        return _finish(builder, model)
    except UnsupportedModelError:
        raise
    except ModelError as error:
        raise ModelError(printable(str(error))) from error


def _translate(builder: Builder, model: Model) -> None:
    problems: list[UnsupportedNode] = []
    unknown: set[str] = set()
    inferred: dict[str, Any] | None = None
    for node in model.nodes:
        why = _refusal(node)
        if why is None and not any(n in unknown for n in node.inputs):
            try:
                _one(builder, model, node)
                continue
            except Unsupported as error:
                why = str(error)
            except (ModelError, MemoryError):
                raise
            except (
                ValueError,
                IndexError,
                TypeError,
                KeyError,
                AttributeError,
                ZeroDivisionError,
                OverflowError,
            ) as error:
                raise ModelError(
                    f"node '{node.name}' ({node.op}) contradicts itself or its inputs: check the "
                    "model with onnx.checker"
                ) from error
        if why is not None:
            problems.append(UnsupportedNode(node.name, node.op, why))
        if inferred is None:
            inferred = _inferred_shapes(model)
        # Later nodes are still examined where ONNX knows what this one would have written.
        for name in filter(None, node.outputs):
            if name in inferred:
                builder.shapes[name] = inferred[name]
            else:
                unknown.add(name)
    if problems:
        raise UnsupportedModelError(f"'{model.path.name}'", tuple(problems))


def _refusal(node: Node) -> str | None:
    """Why a node is refused whatever its inputs, or None."""
    if node.domain in QONNX_DOMAINS and node.op in ("Quant", "IntQuant", "FloatQuant"):
        return None
    if node.domain == OWN_DOMAIN and node.op == "PositQuant":
        return None
    if node.domain and not (node.domain == "com.microsoft" and node.op in MICROSOFT):
        return f"operator of the domain '{node.domain}'"
    types = onnx.AttributeProto
    if any(a.type in (types.GRAPH, types.GRAPHS) for a in node.proto.attribute):
        return "control flow and subgraphs are not imported"
    if node.op in OPERATORS or node.op in fold_constants.FOLDABLE or node.op in NO_INPUT:
        return None
    return "operator not supported"


def _inferred_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Float tensors' shapes by ONNX's own inference, with the input shapes as they are read."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for item in proto.graph.input:
        for dim, size in zip(
            item.type.tensor_type.shape.dim, model.inputs.get(item.name, ()), strict=False
        ):
            dim.dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(proto).graph
    except Exception:
        # The inference is only there to list more than the first problem.
        return {}
    shapes = {}
    for item in (*inferred.value_info, *inferred.output):
        kind = item.type.tensor_type
        sides = [dim.dim_value for dim in kind.shape.dim]
        if kind.elem_type in onnx_reader.FLOATS and kind.HasField("shape") and all(sides):
            shapes[item.name] = tuple(sides)
    return shapes


def _one(builder: Builder, model: Model, node: Node) -> None:
    if node.op == "Constant":
        builder.constants[node.outputs[0]] = _constant_value(node)
        return
    given = [builder.constants.get(n) if n else None for n in node.inputs]
    if node.op in ("Shape", "Size") and node.inputs[0]:
        builder.constants[node.outputs[0]] = _shape_value(node, builder.shape(node.inputs[0]))
        return
    if all(builder.is_constant(n) for n in node.inputs if n):
        _fold(builder, model, node, given)
        return
    if masks.translate(builder, node, model.domains):
        return
    if node.op not in OPERATORS:
        raise Unsupported("operator supported on constants only")
    if node.op != "DequantizeLinear" and any(n in builder.quantised for n in node.inputs):
        raise Unsupported("it computes on integer codes: only DequantizeLinear may read them")
    OPERATORS[node.op](builder, node)


def _fold(builder: Builder, model: Model, node: Node, given: list[Array | None]) -> None:
    if node.op in STATED:
        value, hint = STATED[node.op](node, given)
        builder.constants[node.outputs[0]] = value
        builder.constant_hints[node.outputs[0]] = hint
        return
    if node.op == "Dropout":
        builder.constants[node.outputs[0]] = builder.constants[node.inputs[0]]
        return
    if node.op not in fold_constants.FOLDABLE:
        raise Unsupported("all its inputs are constant: fold it before export")
    if node.op == "Cast" and _stays_wide(node, given):
        builder.constants[node.outputs[0]] = builder.constants[node.inputs[0]]
        return
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        results = [ops_quant.fold_linear(node, given)]
    else:
        results = fold_constants.fold(node, given, model.domains)
    for name, value in zip(filter(None, node.outputs), results, strict=True):
        builder.constants[name] = value
    if node.op == "DequantizeLinear":
        hint_or_none = ops_quant.hint_constant(node, given)
        if hint_or_none is not None:
            builder.constant_hints[node.outputs[0]] = hint_or_none
    elif node.op in MOVED:
        hint_or_none = builder.constant_hints.get(node.inputs[0])
        if hint_or_none is not None:
            builder.constant_hints[node.outputs[0]] = hint_or_none


def _stays_wide(node: Node, given: list[Array | None]) -> bool:
    """Whether a cast takes float64 to float32: as on tensors, the numbers stay what they are."""
    kept = node.attributes.get("to") == onnx.TensorProto.FLOAT
    return kept and given[0] is not None and given[0].dtype == np.float64


def _constant_value(node: Node) -> Array:
    for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = node.attributes.get(key)
        if value is not None:
            if key == "value":
                return np.asarray(value)
            return np.asarray(value, dtype=np.float32 if "float" in key else np.int64)
    raise Unsupported("a constant that is sparse or text")


def _shape_value(node: Node, shape: tuple[int, ...]) -> Array:
    if node.op == "Size":
        return np.asarray(np.prod(shape, dtype=np.int64))
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(shape[slice(start, end)], dtype=np.int64)


def _finish(builder: Builder, model: Model) -> Graph:
    name = model.path.name
    outputs: list[str] = []
    for output in model.outputs:
        if output in builder.quantised:
            raise ModelError(f"'{name}': the output '{output}' holds integer codes: dequantise it")
        if output in builder.flags or output in builder.masked or output in builder.indices:
            raise ModelError(f"'{name}': the output '{output}' is a mask or row numbers")
        if output in builder.constants:
            raise ModelError(f"'{name}': the output '{output}' does not depend on any input")
        outputs.append(_own_tensor(builder, model, output, outputs))
    layers, constants = fold.optimise(builder.layers, tuple(outputs), builder)
    _check_weight_hints(builder, layers)
    used = {n for layer in layers for n in (*layer.inputs, layer.output)}
    shapes = {n: builder.shapes[n] for n in {*used, *model.inputs, *outputs}}
    return Graph(
        inputs=tuple(model.inputs),
        outputs=tuple(outputs),
        layers=tuple(layers),
        shapes=shapes,
        constants={n: v for n, v in constants.items() if n in used},
        hints={n: h for n, h in builder.hints.items() if n in used},
        weight_hints=dict(builder.weight_hints),
        indices=frozenset(n for n in builder.indices if n in shapes),
        name=name,
    )


def _check_weight_hints(builder: Builder, layers: list[Any]) -> None:
    """A format with its scales stays exact only where it holds all of a layer's weights."""
    for layer in layers:
        hint = builder.weight_hints.get(layer.name)
        values = getattr(layer, "gamma" if isinstance(layer, L.Normalise) else "weights", None)
        if hint is None or not hint.exact or values is None:
            continue
        fits = np.size(hint.scale) in (1, len(values))
        if fits:
            side = np.ravel(hint.scale).reshape(-1, *(1,) * (values.ndim - 1))
            scaled = np.ldexp(values, -side)
            fmt = formats.get(hint.format)
            fits = bool(np.array_equal(fmt.decode(fmt.encode(scaled, "zero")), scaled))
        if not fits:
            builder.weight_hints[layer.name] = replace(hint, exact=False)


def _own_tensor(builder: Builder, model: Model, output: str, taken: list[str]) -> str:
    """The output's own name on a tensor, even where it was another name of one."""
    source = builder.tensor(output)
    if source != output:
        shape = builder.shapes[source]
        builder.emit(L.Reshape(name=output, inputs=(source,), output=output, shape=shape))
    return output
