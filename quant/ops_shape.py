"""Translators of the operators that only move values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Shape, Unsupported
from opennpe.quant.onnx_reader import Node, check_elements

__all__ = ["OPERATORS", "axes_of", "axis_of"]

MAX_PARTS = 4096
"""Largest number of layers that one Split or Tile may become."""
MAX_ROWS = 1 << formats.INDEX.bits


def axis_of(node: Node, axis: int, rank: int) -> int:
    """A non-negative axis below ``rank``."""
    if not -rank <= axis < rank:
        raise ModelError(f"node '{node.name}': axis {axis} of a tensor with {rank} axes")
    return axis % rank


def axes_of(b: Builder, node: Node, index: int, rank: int, opset: int) -> tuple[int, ...] | None:
    """Axes from the attribute (before ``opset``) or from input ``index``; None where absent."""
    given = node.attributes.get("axes")
    if b.opset >= opset:
        given = b.constant(node, index, "its axes")
    if given is None:
        return None
    return tuple(sorted({axis_of(node, int(a), rank) for a in np.asarray(given).ravel()}))


def _identity(b: Builder, node: Node) -> None:
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else ""
        if training and (training not in b.constants or bool(b.constants[training].any())):
            raise Unsupported("training mode: export the model for inference")
    b.same(node.outputs[0], node.inputs[0])


def _cast(b: Builder, node: Node) -> None:
    target = node.attributes.get("to")
    if node.op == "Cast" and target not in (1, 10, 11, 16):
        raise Unsupported(f"to ONNX type {target}: only casts between floating-point types")
    if node.op == "CastLike":
        _cast_like(b, node)
        return
    b.same(node.outputs[0], node.inputs[0])


def _cast_like(b: Builder, node: Node) -> None:
    """Tensors computed at run time are floating point, so only a constant names another type."""
    value, like = node.inputs
    if b.is_constant(value):
        b.constants[node.outputs[0]] = b.constants[value].astype(np.float32)
    elif b.is_constant(like) and b.constants[like].dtype.kind != "f":
        raise Unsupported("to an integer type: only casts between floating-point types")
    else:
        b.same(node.outputs[0], value)


def _reshape(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    old = b.shape(x)
    wanted = [int(n) for n in b.constant(node, 1, "its shape").ravel()]
    if not node.attributes.get("allowzero", 0):
        wanted = [old[i] if n == 0 and i < len(old) else n for i, n in enumerate(wanted)]
    if wanted.count(-1) > 1:
        raise ModelError(f"node '{node.name}': the shape {wanted} has two unknown sides")
    if -1 in wanted:
        rest = math.prod(n for n in wanted if n != -1)
        if rest < 1 or math.prod(old) % rest:
            raise ModelError(f"node '{node.name}': cannot reshape {old} to {wanted}")
        wanted[wanted.index(-1)] = math.prod(old) // rest
    b.reshape(node, x, wanted, node.outputs[0])


def _flatten(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    axis = int(node.attributes.get("axis", 1))
    if not -len(shape) <= axis <= len(shape):
        raise ModelError(f"node '{node.name}': axis {axis} of shape {shape}")
    axis = axis + len(shape) if axis < 0 else axis
    b.reshape(node, x, (math.prod(shape[:axis]), math.prod(shape[axis:])), node.outputs[0])


def _squeeze(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    axes = axes_of(b, node, 1, len(shape), 13)
    if axes is None:
        axes = tuple(i for i, n in enumerate(shape) if n == 1)
    if any(shape[a] != 1 for a in axes):
        raise ModelError(f"node '{node.name}': cannot squeeze axes {axes} of shape {shape}")
    b.reshape(node, x, [n for i, n in enumerate(shape) if i not in axes], node.outputs[0])


def _unsqueeze(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = list(b.shape(x))
    given = b.constant(node, 1, "its axes") if b.opset >= 13 else node.attributes.get("axes")
    if given is None:
        raise ModelError(f"node '{node.name}' (Unsqueeze) has no axes")
    count = len(shape) + int(np.asarray(given).size)
    for axis in sorted(axis_of(node, int(a), count) for a in np.asarray(given).ravel()):
        shape.insert(axis, 1)
    b.reshape(node, x, shape, node.outputs[0])


def _transpose(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    rank = len(b.shape(x))
    axes = tuple(node.attributes.get("perm", range(rank - 1, -1, -1)))
    if sorted(axes) != list(range(rank)):
        raise ModelError(f"node '{node.name}': perm {axes} of a tensor with {rank} axes")
    b.transpose(node, x, axes, node.outputs[0])


def _concat(b: Builder, node: Node) -> None:
    names = [b.operand(n) for n in node.inputs]
    axis = axis_of(node, int(node.attributes.get("axis", 1)), len(b.shape(names[0])))
    if len(names) == 1:
        b.same(node.outputs[0], names[0])
        return
    b.put(L.Concat, node, names, node.outputs[0], axis=axis)


def _cut(b: Builder, node: Node, x: str, axis: int, start: int, stop: int, out: str) -> None:
    slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(b.shape(x))
    slices[axis] = (start, stop, 1)
    b.put(L.Slice, node, [x], out, slices=tuple(slices))


def _split(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    axis = axis_of(node, int(node.attributes.get("axis", 0)), len(shape))
    sizes = node.attributes.get("split")
    if b.opset >= 13:
        sizes = b.constant(node, 1, "its sizes")
    count = len(node.outputs)
    if sizes is None:
        step = -(-shape[axis] // count)
        sizes = [min(step, shape[axis] - i * step) for i in range(count)]
    sizes = [int(n) for n in np.asarray(sizes).ravel()]
    if sum(sizes) != shape[axis] or len(sizes) != count or count > MAX_PARTS:
        raise ModelError(f"node '{node.name}': cannot split {shape} into {sizes} on axis {axis}")
    if 0 in sizes:
        raise Unsupported("a part with nothing in it")
    start = 0
    for name, size in zip(node.outputs, sizes, strict=True):
        if name:
            _cut(b, node, x, axis, start, start + size, name)
        start += size


def _slice(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    names = ("starts", "ends", "axes", "steps")
    if b.opset >= 10:
        values = [b.constant(node, i + 1, f"its {n}") for i, n in enumerate(names)]
    else:
        values = [node.attributes.get(n) for n in names]
    starts, ends = (_ints(v) for v in values[:2])
    axes = range(len(starts)) if values[2] is None else _ints(values[2])
    steps = [1] * len(starts) if values[3] is None else _ints(values[3])
    slices: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not step:
            raise ModelError(f"node '{node.name}': a step of 0")
        at = axis_of(node, axis, len(shape))
        slices[at] = _clamped(start, end, step, shape[at])
        if not len(range(*slice(*slices[at]).indices(shape[at]))):
            raise Unsupported(f"axis {at} of {shape} cut to nothing")
    b.put(L.Slice, node, [x], node.outputs[0], slices=tuple(slices))


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values if values is not None else ()).ravel()]


def _clamped(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None, int]:
    """ONNX's bounds, clamped as its Slice says, as Python's; a stop before 0 is None."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return (min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return (start, None if end < 0 else end, step)


def _expand(b: Builder, node: Node) -> None:
    """Elements taken several times, which rounds nothing."""
    x = b.operand(node.inputs[0])
    wanted = [int(n) for n in b.constant(node, 1, "its shape").ravel()]
    try:
        shape = tuple(np.broadcast_shapes(b.shape(x), tuple(wanted)))
    except ValueError as error:
        raise ModelError(f"node '{node.name}': cannot expand {b.shape(x)} to {wanted}") from error
    check_elements(shape, f"the output of node '{node.name}'")
    if shape == b.shape(x):
        b.same(node.outputs[0], x)
        return
    padded = (1,) * (len(shape) - len(b.shape(x))) + b.shape(x)
    if padded != b.shape(x):
        x = b.reshape(node, x, padded)
    rows = [
        np.zeros(n, np.int64) if old == 1 else np.arange(n)
        for n, old in zip(shape, padded, strict=True)
    ]
    _pick(b, node, x, rows, node.outputs[0])


def _tile(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    repeats = [int(n) for n in b.constant(node, 1, "its repeats").ravel()]
    shape = b.shape(x)
    if len(repeats) != len(shape) or min(repeats, default=1) < 1:
        raise Unsupported(f"repeats {repeats} of shape {shape}")
    check_elements((math.prod(shape), math.prod(repeats)), f"the output of node '{node.name}'")
    rows = [np.tile(np.arange(n), r) for n, r in zip(shape, repeats, strict=True)]
    _pick(b, node, x, rows, node.outputs[0])


def _pick(b: Builder, node: Node, x: str, rows: Sequence[Any], out: str | None = None) -> str:
    """Rows of every axis by number: a one-tap Resize."""
    one = 1 << 12
    return b.put(
        L.Resize,
        node,
        [x],
        out,
        indices=tuple(np.asarray(r, dtype=np.int64).reshape(-1, 1) for r in rows),
        weights=tuple(np.full((len(r), 1), one, dtype=np.int64) for r in rows),
    )


def _gather(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    if b.tensor(node.inputs[1]) in b.indices:
        _rows(b, node, x)
        return
    if b.is_constant(node.inputs[0]) and not b.is_constant(node.inputs[1]):
        raise Unsupported("it looks values up by indices computed at run time")
    indices = b.constant(node, 1, "its indices")
    axis = axis_of(node, int(node.attributes.get("axis", 0)), len(shape))
    if indices.size and not -shape[axis] <= indices.min() <= indices.max() < shape[axis]:
        raise ModelError(f"node '{node.name}': indices outside axis {axis} of shape {shape}")
    rows: list[Any] = [np.arange(n) for n in shape]
    rows[axis] = indices.ravel() % shape[axis]
    picked = _pick(b, node, x, rows)
    b.reshape(node, picked, (*shape[:axis], *indices.shape, *shape[axis + 1 :]), node.outputs[0])


def _rows(b: Builder, node: Node, table: str) -> None:
    """Rows of a table by indices from outside: token ids."""
    shape, index = b.shape(table), b.tensor(node.inputs[1])
    if axis_of(node, int(node.attributes.get("axis", 0)), len(shape)):
        raise Unsupported("rows looked up along an axis other than 0")
    if shape[0] > MAX_ROWS:
        raise Unsupported(f"a table of {shape[0]} rows: an index numbers {MAX_ROWS}")
    b.put(L.Gather, node, [table, index], node.outputs[0])


def _blocks(node: Node, shape: Shape) -> int:
    size = int(node.attributes.get("blocksize", 0))
    if len(shape) != 4 or size < 1:
        raise ModelError(f"node '{node.name}': blocksize {size} over shape {shape}")
    return size


def _depth_to_space(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    n, c, h, w = shape = b.shape(x)
    s = _blocks(node, shape)
    if c % (s * s):
        raise ModelError(f"node '{node.name}': {c} channels in blocks of {s} x {s}")
    depth = c // (s * s)
    if node.attributes.get("mode", "DCR") == "DCR":
        y = b.reshape(node, x, (n, s, s, depth, h, w))
        y = b.transpose(node, y, (0, 3, 4, 1, 5, 2))
    else:
        y = b.reshape(node, x, (n, depth, s, s, h, w))
        y = b.transpose(node, y, (0, 1, 4, 2, 5, 3))
    b.reshape(node, y, (n, depth, h * s, w * s), node.outputs[0])


def _space_to_depth(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    n, c, h, w = shape = b.shape(x)
    s = _blocks(node, shape)
    if h % s or w % s:
        raise ModelError(f"node '{node.name}': {h} x {w} in blocks of {s} x {s}")
    y = b.reshape(node, x, (n, c, h // s, s, w // s, s))
    axes = (0, 3, 5, 1, 2, 4) if node.attributes.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = b.transpose(node, y, axes)
    b.reshape(node, y, (n, c * s * s, h // s, w // s), node.outputs[0])


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "Identity": _identity,
    "Dropout": _identity,
    "Cast": _cast,
    "CastLike": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
