"""Where masks meet logits: what hides an element, and the inputs of the softmax that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant import masks
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Array, Shape, Unsupported
from opennpe.quant.onnx_reader import Node

__all__ = ["OPERATORS", "Masked", "add_mask", "condition", "inputs_of"]


@dataclass(frozen=True)
class Masked:
    """Logits and what hides some of them.

    Attributes:
        tensor: the logits.
        masks: index tensors that must be nonzero.
        keep: constant flags that must be true, or None.
    """

    tensor: str
    masks: tuple[str, ...]
    keep: Array | None


def add_mask(b: Builder, node: Node) -> bool:
    """``Add(logits, mask)`` where one operand is an additive mask; False where none is."""
    for x, mask in (node.inputs, node.inputs[::-1]):
        if b.is_constant(x) or masks.is_flag(b, x):
            continue
        hides = _hiding(b, mask)
        if hides is None:
            continue
        _hide(b, node, x, *hides, b.shape(mask))
        return True
    if any(n in b.masked for n in node.inputs):
        raise Unsupported("it adds to masked logits: only another mask may be added")
    if any(masks.is_flag(b, n) for n in node.inputs):
        masks.materialise(b, node)
    return False


def _hiding(b: Builder, name: str) -> tuple[tuple[str, ...], Array | None] | None:
    """The masks and constant flags of an additive mask, or None where a value is none."""
    if name in b.flags:
        flags: masks.Flags = b.flags[name]
        if masks.additive(flags.on) and bool(masks.hidden(flags.off).all()):
            return flags.masks, (~masks.hidden(flags.on) if masks.hidden(flags.on).any() else None)
        if masks.additive(flags.off) and bool(masks.hidden(flags.on).all()):
            raise Unsupported("a mask whose zeros say what to keep: give the model its opposite")
        return None
    if b.is_constant(name):
        values = b.constants[name]
        if values.dtype.kind == "f" and masks.hidden(values).any() and masks.additive(values):
            return (), ~masks.hidden(values)
    return None


def _hide(
    b: Builder,
    node: Node,
    x: str,
    names: tuple[str, ...],
    keep: Array | None,
    shape: Shape,
) -> None:
    before: Masked = b.masked.get(x, Masked(b.tensor(x), (), None))
    if tuple(np.broadcast_shapes(b.shapes[before.tensor], shape)) != b.shapes[before.tensor]:
        raise Unsupported(f"a mask of shape {shape} enlarges logits {b.shapes[before.tensor]}")
    flags = [k for k in (before.keep, keep) if k is not None]
    both = None if not flags else flags[0] if len(flags) == 1 else flags[0] & flags[1]
    joined = tuple(dict.fromkeys((*before.masks, *names)))
    out = node.outputs[0]
    b.masked[out] = Masked(before.tensor, joined, both)
    b.shapes[out] = b.shapes[before.tensor]


def _where(b: Builder, node: Node) -> None:
    """A guard against NaN, masked logits, or a choice."""
    condition, yes, no = node.inputs
    if condition in b.nan_tests:
        if b.is_constant(yes) and not np.any(b.constants[yes]):
            source = b.nan_tests[condition]
            if b.tensor(no) == source:
                # A row of which nothing is kept is all zeros here, not NaN.
                b.same(node.outputs[0], no)
                return
        raise Unsupported("a choice by IsNaN that does not replace NaN by 0")
    for x, constant, kept_when in ((yes, no, True), (no, yes, False)):
        if not b.is_constant(constant) or b.is_constant(x) or masks.is_flag(b, x):
            continue
        if masks.hidden(b.constants[constant]).all():
            names, keep = _condition(b, condition, kept_when)
            _hide(b, node, x, names, keep, b.shape(condition))
            return
    _choose(b, node)


def _condition(b: Builder, name: str, kept_when: bool) -> tuple[tuple[str, ...], Array | None]:
    """Masks and constant flags under which a condition is ``kept_when``."""
    if b.is_constant(name):
        return (), b.constants[name].astype(bool) == kept_when
    flags = masks.as_flags(b, name)
    on = np.asarray(flags.on).astype(bool) == kept_when
    off = np.asarray(flags.off).astype(bool) == kept_when
    if off.any():
        raise Unsupported("a mask whose zeros say what to keep: give the model its opposite")
    return flags.masks, (None if on.all() else on)


def _choose(b: Builder, node: Node) -> None:
    condition, yes, no = node.inputs
    if any(n in b.masked for n in (yes, no)):
        raise Unsupported("it chooses between masked logits: only a softmax may read them")
    if not b.is_constant(condition) and not masks.is_flag(b, condition):
        raise Unsupported("its condition depends on computed numbers")
    a, c = (b.operand(n) for n in (yes, no))
    if b.is_constant(condition):
        names: tuple[str, ...] = (b.new_mask(condition, b.constants[condition].astype(bool)),)
    else:
        flags = masks.as_flags(b, condition)
        on, off = (np.asarray(v).astype(bool) for v in (flags.on, flags.off))
        names = flags.masks
        if off.all() and not on.any() and len(names) == 1:
            a, c = c, a
        elif off.any() or not on.all():
            raise Unsupported("its condition is more than one mask")
    value = a
    for index, mask in enumerate(names):
        last = index == len(names) - 1
        value = b.put(L.Select, node, [mask, value, c], node.outputs[0] if last else None)


def condition(b: Builder, name: str) -> tuple[tuple[str, ...], Array | None]:
    """Masks and constant flags of a boolean or additive mask.

    Raises:
        Unsupported: it is neither.
    """
    if name in b.flags and np.asarray(b.flags[name].on).dtype != bool:
        hides = _hiding(b, name)
        if hides is None:
            raise Unsupported("a mask that adds more than 0 or minus infinity")
        return hides
    if not masks.is_flag(b, name):
        raise Unsupported("a mask computed from numbers")
    return _condition(b, name, True)


def _is_nan(b: Builder, node: Node) -> None:
    b.nan_tests[node.outputs[0]] = b.tensor(b.operand(node.inputs[0]))
    b.shapes[node.outputs[0]] = b.shape(node.inputs[0])


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {"Where": _where, "IsNaN": _is_nan}


def inputs_of(b: Builder, masked: Masked) -> tuple[list[str], dict[str, Any]]:
    """The softmax layer's inputs and its causal fields."""
    fields: dict[str, Any] = {}
    names = [masked.tensor, *masked.masks]
    if masked.keep is not None:
        offset = _causal(masked.keep, b.shapes[masked.tensor])
        if offset is None:
            names.append(b.new_mask(masked.tensor, masked.keep))
        else:
            fields = {"causal": True, "offset": offset}
    return names, fields


def _causal(keep: Array, shape: Shape) -> int | None:
    """The offset under which flags are those of a causal mask, or None."""
    if len(shape) < 2 or keep.ndim < 2 or keep.shape[-2:] != shape[-2:]:
        return None
    flat = keep.reshape(-1, *keep.shape[-2:])
    if len(flat) != 1:
        return None
    offset = int(flat[0, 0].sum()) - 1
    rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])[None, :]
    return offset if np.array_equal(flat[0], columns <= rows + offset) else None
