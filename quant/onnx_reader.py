"""Reading an ONNX file that nobody vouches for: bounds first, then bytes, then meaning.

Nothing is executed and nothing outside the model's folder is opened. Every failure is one
:class:`ModelError` line that names the file and the part at fault.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from opennpe.golden.errors import ModelError
from opennpe.quant.graph import Array, Shape

__all__ = ["MAX_ELEMENTS", "Model", "Node", "check_elements", "plain", "read", "tensor_array"]

MAX_FILE_BYTES = 2 << 30
"""Largest model file; protobuf itself ends here."""
MAX_NODES = 100_000
MAX_ELEMENTS = 1 << 27
"""Largest tensor, in elements (1 GiB of float64)."""
MAX_TOTAL_ELEMENTS = 1 << 28
"""All initialisers together."""
OLDEST_OPSET = 7
"""Before it, broadcasting and several attributes meant something else."""
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INDICES = (TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64)
"""Types of inputs that number rows of a table (token ids) or are masks of 0 and 1."""


@dataclass(frozen=True)
class Node:
    """One ONNX node with decoded attributes; an absent optional input is ''."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""
    proto: Any = None


@dataclass(frozen=True)
class Model:
    """A model's parts, checked and ordered; tensors not yet interpreted.

    ``indices`` are the inputs that hold integers or booleans.
    """

    path: Path
    opset: int
    domains: Mapping[str, int]
    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]
    initialisers: Mapping[str, Array]
    indices: frozenset[str]
    nodes: tuple[Node, ...]
    proto: Any = field(repr=False, default=None)


def check_elements(shape: Iterable[int], what: str, limit: int = MAX_ELEMENTS) -> Shape:
    """The shape, if its sides are positive and its elements few enough.

    Raises:
        ModelError: it has an empty or negative side, or too many elements.
    """
    sides = tuple(int(n) for n in shape)
    if any(n < 0 for n in sides):
        raise ModelError(f"{what} has the shape {sides}: a side cannot be negative")
    if math.prod(sides) > limit:
        raise ModelError(f"{what} has the shape {sides}: more than {limit} elements are refused")
    return sides


def read(path: str | Path, dims: Mapping[str, int] | None = None) -> Model:
    """Read and check a model.

    Args:
        path: an .onnx file.
        dims: sizes for symbolic dimensions, by their name; a symbolic batch (axis 0) is 1.

    Raises:
        ModelError: the file is missing, damaged, hostile or not self-consistent.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no model file '{file}': expected an ONNX file")
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ModelError(f"'{file.name}' has {size >> 20} MiB: at most {MAX_FILE_BYTES >> 20}")
    proto = _parse(file)
    domains = {item.domain or "": int(item.version) for item in proto.opset_import}
    domains = {("" if name == "ai.onnx" else name): v for name, v in domains.items()}
    opset = _check_opset(file, domains)
    graph = proto.graph
    initialisers = _initialisers(file, graph)
    inputs = _inputs(file, graph, initialisers, dims or {})
    nodes = _nodes(file, graph.node)
    outputs = _outputs(file, graph)
    ordered = _order(file, nodes, {*inputs, *initialisers}, outputs)
    indices = frozenset(
        item.name
        for item in graph.input
        if item.name in inputs and item.type.tensor_type.elem_type in INDICES
    )
    return Model(file, opset, domains, inputs, outputs, initialisers, indices, ordered, proto)


def _parse(file: Path) -> Any:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:
        # protobuf raises its own DecodeError, but also UnicodeDecodeError and RuntimeError.
        raise ModelError(
            f"'{file.name}' is no ONNX model or is damaged: {type(error).__name__} while reading"
        ) from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"'{file.name}' holds no graph: it is no ONNX model, or is truncated")
    if proto.functions:
        names = ", ".join(sorted(item.name for item in proto.functions)[:5])
        raise ModelError(f"'{file.name}' defines functions ({names}): inline them before import")
    _check_text(file, proto.graph)
    if len(proto.graph.node) > MAX_NODES:
        raise ModelError(f"'{file.name}' has {len(proto.graph.node)} nodes: at most {MAX_NODES}")
    return proto


def _check_text(file: Path, graph: Any) -> None:
    """Refuse names that are no UTF-8: protobuf hands them out as bytes."""
    named = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    names = [item.name for item in named]
    for node in graph.node:
        names += [node.op_type, node.domain, *node.input, *node.output]
        names += [item.name for item in node.attribute]
    if not all(isinstance(name, str) for name in names):
        raise ModelError(f"'{file.name}' is damaged: it holds names that are no text")


def _check_opset(file: Path, domains: Mapping[str, int]) -> int:
    opset = domains.get("", 0)
    newest = int(onnx.defs.onnx_opset_version())
    if not opset:
        raise ModelError(f"'{file.name}' does not say its ONNX opset: expected 11 to {newest}")
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"'{file.name}' uses ONNX opset {opset}: expected {OLDEST_OPSET} to {newest}; convert "
            "it with onnx.version_converter"
        )
    return opset


# -- tensors -----------------------------------------------------------------------------------


def _initialisers(file: Path, graph: Any) -> dict[str, Array]:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"'{file.name}': initialiser '{name}' is sparse: store it dense")
    arrays: dict[str, Array] = {}
    total = 0
    for tensor in graph.initializer:
        if tensor.name in arrays:
            raise ModelError(f"'{file.name}' has two initialisers called '{tensor.name}'")
        total += math.prod(check_elements(tensor.dims, f"initialiser '{tensor.name}'"))
        if total > MAX_TOTAL_ELEMENTS:
            raise ModelError(f"'{file.name}' holds more than {MAX_TOTAL_ELEMENTS} weights")
        arrays[tensor.name] = tensor_array(tensor, file.parent, f"initialiser '{tensor.name}'")
    return arrays


def tensor_array(tensor: Any, folder: Path | None, what: str) -> Array:
    """A tensor's values; sub-float16 and bfloat16 types become float32.

    Raises:
        ModelError: its data do not fit its shape, or lie outside ``folder``.
    """
    check_elements(tensor.dims, what)
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise ModelError(f"{what} holds no numbers: expected a numeric type")
    if tensor.data_location == TensorProto.EXTERNAL:
        if folder is None:
            raise ModelError(f"{what} keeps its data in another file: only initialisers may")
        return _external(tensor, folder, what)
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{what} is damaged: {reason}") from error
    if array.shape != tuple(tensor.dims):
        raise ModelError(f"{what} is damaged: shape {tuple(tensor.dims)}, data {array.shape}")
    return plain(array)


def plain(array: Array) -> Array:
    """The array, its small floats (bfloat16, float8) widened to float32."""
    # ml_dtypes' small floats are exact in float32 and NumPy functions refuse some of them.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _external(tensor: Any, folder: Path, what: str) -> Array:
    entries = {item.key: item.value for item in tensor.external_data}
    location = entries.get("location", "")
    root = folder.resolve()
    target = (root / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(root):
        raise ModelError(f"{what} points to '{location}', outside the model's folder: refused")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        offset = int(entries.get("offset", 0))
        count = math.prod(tensor.dims)
        wanted = count * dtype.itemsize
        length = int(entries.get("length", wanted))
    except (ValueError, KeyError) as error:
        raise ModelError(f"{what} describes its external data wrongly: {error}") from error
    if not target.is_file():
        raise ModelError(f"{what} keeps its data in '{location}', which is not there")
    if length != wanted or offset < 0 or offset + wanted > target.stat().st_size:
        raise ModelError(f"{what} needs {wanted} bytes at {offset} of '{location}': not there")
    array = np.fromfile(target, dtype=dtype, count=count, offset=offset)
    return plain(array.reshape(tuple(tensor.dims)))


# -- graph inputs ------------------------------------------------------------------------------


def _inputs(
    file: Path, graph: Any, initialisers: Mapping[str, Array], dims: Mapping[str, int]
) -> dict[str, Shape]:
    inputs: dict[str, Shape] = {}
    for item in graph.input:
        if item.name in initialisers:
            continue
        if item.name in inputs:
            raise ModelError(f"'{file.name}' has two inputs called '{item.name}'")
        if item.type.WhichOneof("value") != "tensor_type":
            raise ModelError(f"input '{item.name}' is no tensor: sequences and maps are refused")
        kind = item.type.tensor_type
        if kind.elem_type not in (*FLOATS, *INDICES):
            name = _type_name(kind.elem_type)
            raise ModelError(
                f"input '{item.name}' holds {name} values: expected floating point, or int32, "
                "int64 or bool for token ids and masks"
            )
        if not kind.HasField("shape"):
            raise ModelError(f"input '{item.name}' has no shape: give the model a fixed one")
        sides = [_side(item.name, i, dim, dims) for i, dim in enumerate(kind.shape.dim)]
        shape = check_elements(sides, f"input '{item.name}'")
        if 0 in shape:
            raise ModelError(f"input '{item.name}' has the shape {shape}: a side is empty")
        inputs[item.name] = shape
    return inputs


def _outputs(file: Path, graph: Any) -> tuple[str, ...]:
    names = tuple(item.name for item in graph.output)
    if len(set(names)) < len(names) or "" in names:
        raise ModelError(f"'{file.name}' names an output twice or not at all")
    for item in graph.output:
        kind = item.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise ModelError(f"output '{item.name}' is no tensor: sequences and maps are refused")
        elem_type = item.type.tensor_type.elem_type
        if elem_type and elem_type not in FLOATS:
            raise ModelError(
                f"output '{item.name}' holds {_type_name(elem_type)} values: expected floating "
                "point"
            )
    return names


def _side(name: str, axis: int, dim: Any, dims: Mapping[str, int]) -> int:
    if dim.WhichOneof("value") == "dim_value":
        return int(dim.dim_value)
    symbol = dim.dim_param
    if symbol in dims:
        return int(dims[symbol])
    if axis == 0:
        return 1
    called = f"'{symbol}'" if symbol else "unknown"
    raise ModelError(
        f"input '{name}': the size of axis {axis} is {called}: give it a number "
        "(load_onnx(..., dims={name: size}))"
    )


def _type_name(elem_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(elem_type)).lower()
    except ValueError:
        return f"type {elem_type}"


# -- nodes -------------------------------------------------------------------------------------


def _nodes(file: Path, protos: Iterable[Any]) -> list[Node]:
    nodes, taken = [], set()
    for index, proto in enumerate(protos):
        name = proto.name or f"{proto.op_type}_{index}"
        base, count = name, 2
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        taken.add(name)
        nodes.append(
            Node(
                op=proto.op_type,
                name=name,
                inputs=tuple(proto.input),
                outputs=tuple(proto.output),
                attributes=_attributes(file, name, proto),
                domain="" if proto.domain == "ai.onnx" else proto.domain,
                proto=proto,
            )
        )
    return nodes


def _attributes(file: Path, name: str, proto: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in proto.attribute:
        if item.type == onnx.AttributeProto.TENSOR:
            what = f"node '{name}': attribute '{item.name}'"
            if item.t.data_type == TensorProto.STRING:
                values[item.name] = None
                continue
            values[item.name] = tensor_array(item.t, None, what)
            continue
        try:
            value = onnx.helper.get_attribute_value(item)
            values[item.name] = value.decode() if isinstance(value, bytes) else value
        except (ValueError, AttributeError) as error:
            raise ModelError(
                f"'{file.name}': attribute '{item.name}' of node '{name}' is damaged"
            ) from error
    return values


def _order(
    file: Path, nodes: list[Node], known: set[str], outputs: tuple[str, ...]
) -> tuple[Node, ...]:
    """The nodes in an order in which every value is written before it is read (Kahn)."""
    writers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in writers or name in known:
                raise ModelError(f"'{file.name}': the value '{name}' is written twice")
            writers[name] = index
    for node in nodes:
        for name in filter(None, node.inputs):
            if name not in writers and name not in known:
                raise ModelError(
                    f"'{file.name}': node '{node.name}' ({node.op}) reads '{name}', which is "
                    "no input, initialiser or output of a node"
                )
    for name in outputs:
        if name not in writers and name not in known:
            raise ModelError(f"'{file.name}': nothing writes the output '{name}'")
    waiting = [len({writers[n] for n in node.inputs if n in writers}) for node in nodes]
    readers: dict[int, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.inputs:
            if name in writers:
                readers.setdefault(writers[name], set()).add(index)
    ready = [i for i, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = nodes[min(set(range(len(nodes))) - set(order))]
        raise ModelError(f"'{file.name}': node '{stuck.name}' ({stuck.op}) is part of a cycle")
    return tuple(nodes[i] for i in order)
