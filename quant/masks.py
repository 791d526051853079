"""Masks: what exporters compute from an attention mask, followed symbolically to the softmax.

A mask in a graph is a value with two numbers, one where a 0/1 input is nonzero and one where it is
zero: a cast gives (1, 0), ``1 - mask`` (0, 1), its product with a large negative number
(0, -1e38), ``Where(mask, 0, -inf)`` (0, -inf). Elementwise operators are computed on both numbers;
nothing is emitted until a softmax reads logits with such a value added, which then keeps the
elements whose masks are all nonzero. Elsewhere the value becomes a tensor by a ``Select``.

Integer inputs that are computed with are therefore masks of 0 and 1; those that only number rows
are token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant import fold_constants
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Array, Shape, Unsupported
from opennpe.quant.onnx_reader import Node

__all__ = ["Flags", "additive", "as_flags", "hidden", "is_flag", "materialise", "translate"]

HIDDEN = -1e4
"""An addend at or below this hides a logit: exporters use -1e4, the lowest float, or -inf."""
ELEMENTWISE = frozenset(
    "Cast CastLike Not And Or Xor Sub Add Mul Div Equal Less LessOrEqual Greater GreaterOrEqual "
    "Where Neg Abs Sign Min Max Clip Relu".split()
)
MOVED = frozenset("Reshape Flatten Squeeze Unsqueeze Transpose Slice Identity".split())
"""Operators that the importer translates for any tensor."""


@dataclass(frozen=True)
class Flags:
    """A value chosen by masks.

    Attributes:
        masks: index tensors, which broadcast against ``shape``.
        on: the value where all of them are nonzero.
        off: the value elsewhere.
        shape: of the whole.
    """

    masks: tuple[str, ...]
    on: Array
    off: Array
    shape: Shape


def hidden(values: Array) -> Array:
    """Which constants of an additive mask hide a logit."""
    return np.asarray(np.asarray(values, dtype=np.float64) <= HIDDEN)


def additive(values: Array) -> bool:
    """Whether every constant either hides a logit or leaves it alone."""
    return bool((hidden(values) | (values == 0)).all())


# -- dispatch ----------------------------------------------------------------------------------
def translate(b: Builder, node: Node, domains: Mapping[str, int]) -> bool:
    """Take a node that computes with masks or reads masked logits; False leaves it to others.

    Raises:
        Unsupported: a use of a mask that has no place in a network.
    """
    masked = [n for n in node.inputs if n in b.masked]
    if masked and not _reads_masked(b, node):
        raise Unsupported(f"it reads masked logits ('{masked[0]}'): only a softmax may")
    if masked and node.op in ("Cast", "Identity"):
        b.masked[node.outputs[0]] = b.masked[masked[0]]
        b.shapes[node.outputs[0]] = b.shapes[masked[0]]
        return True
    flagged = [n for n in node.inputs if n in b.flags or b.tensor(n) in b.indices]
    if not flagged:
        return False
    plain = node.inputs[0] not in b.flags
    if plain and node.op in (*MOVED, "Gather", "Attention", "RotaryEmbedding"):
        return False
    if flagged == [node.inputs[0]] and _moved(b, node, domains):
        return True
    if node.op == "Where" and all(n in b.constant_hints for n in node.inputs[1:]):
        return False
    if node.op in ELEMENTWISE and _computed(b, node, domains):
        return True
    if node.op in ("Add", "Where", "Softmax"):
        return False
    materialise(b, node)
    return False


def _reads_masked(b: Builder, node: Node) -> bool:
    return node.op in ("Softmax", "Add", "Cast", "Identity")


def as_flags(b: Builder, name: str) -> Flags:
    """A value as flags; integers from outside are a mask of 0 and 1."""
    if name in b.flags:
        found: Flags = b.flags[name]
        return found
    tensor = b.tensor(name)
    return Flags((tensor,), np.asarray(1), np.asarray(0), b.shapes[tensor])


# -- moves -------------------------------------------------------------------------------------
def _moved(b: Builder, node: Node, domains: Mapping[str, int]) -> bool:
    """Shapes changed, or elements picked by constants."""
    source, out = node.inputs[0], node.outputs[0]
    if node.op == "Cast" and source not in b.flags:
        if node.attributes.get("to") in (6, 7):
            b.same(out, source)
            return True
        return False
    if node.op == "Expand":
        flags = as_flags(b, source)
        wanted = tuple(int(n) for n in b.constant(node, 1, "its shape").ravel())
        shape = tuple(np.broadcast_shapes(flags.shape, wanted))
        b.flags[out] = Flags(flags.masks, flags.on, flags.off, shape)
        return True
    if node.op not in MOVED and node.op not in ("GatherND", "Gather"):
        return False
    if source not in b.flags:
        _pick_elements(b, node, source)
        return True
    flags = b.flags[source]
    if any(b.shapes[m] != flags.shape for m in flags.masks):
        raise Unsupported("it moves the elements of a mask that has been expanded")
    names = tuple(_follow(b, node, mask) for mask in flags.masks)
    on, off = (_follow_constant(b, node, v, flags.shape, domains) for v in (flags.on, flags.off))
    b.flags[out] = Flags(names, on, off, b.shapes[names[0]])
    return True


def _follow(b: Builder, node: Node, mask: str) -> str:
    """The same move of one of a value's masks."""
    from opennpe.quant.ops_shape import OPERATORS as SHAPES

    out = b.fresh(node.outputs[0])
    twin = Node(node.op, node.name, (mask, *node.inputs[1:]), (out,), node.attributes, node.domain)
    if node.op == "GatherND":
        _pick_elements(b, twin, mask)
    else:
        SHAPES[node.op](b, twin)
    return b.tensor(out)


def _follow_constant(
    b: Builder, node: Node, value: Array, shape: Shape, domains: Mapping[str, int]
) -> Array:
    if value.size == 1:
        return value.reshape(())
    given = [np.broadcast_to(value, shape), *(b.constants.get(n) for n in node.inputs[1:])]
    return fold_constants.fold(node, given, domains)[0]


def _pick_elements(b: Builder, node: Node, source: str) -> None:
    """GatherND by constant indices: elements of the flattened tensor by number."""
    shape = b.shapes[b.tensor(source)]
    indices = b.constant(node, 1, "its indices")
    if node.attributes.get("batch_dims", 0) or indices.shape[-1] != len(shape):
        raise Unsupported("GatherND of whole slices")
    flat = np.ravel_multi_index(tuple(np.moveaxis(indices, -1, 0) % np.array(shape).reshape(
        -1, *(1,) * (indices.ndim - 1))), shape)  # fmt: skip
    total = int(np.prod(shape))
    name, wanted = b.tensor(source), indices.shape[:-1]
    if flat.size == total and np.array_equal(flat.ravel(), np.arange(total)):
        b.reshape(node, name, wanted, node.outputs[0])
        return
    rows = (np.zeros((1, 1), np.int64), flat.reshape(-1, 1).astype(np.int64))
    taps = tuple(np.full(r.shape, 1 << 12, np.int64) for r in rows)
    line = b.reshape(node, name, (1, total))
    picked = b.put(L.Resize, node, [line], indices=rows, weights=taps)
    b.reshape(node, picked, wanted, node.outputs[0])


# -- elementwise -------------------------------------------------------------------------------
def _computed(b: Builder, node: Node, domains: Mapping[str, int]) -> bool:
    """An elementwise operator on constants and flags: both of its results."""
    names = [n for n in node.inputs if n]
    known = [n for n in names if b.is_constant(n)]
    flags = {n: as_flags(b, n) for n in names if n not in known and is_flag(b, n)}
    if len(known) + len([n for n in names if n in flags]) != len(names):
        return False

    def result(choice: Mapping[str, bool]) -> Array:
        given: list[Array | None] = []
        for name in node.inputs:
            if not name:
                given.append(None)
            elif name in flags:
                given.append(flags[name].on if choice[name] else flags[name].off)
            else:
                given.append(b.constants[name])
        return fold_constants.fold(node, given, domains)[0]

    shape = tuple(
        np.broadcast_shapes(*(f.shape for f in flags.values()), *(b.shape(n) for n in known))
    )
    sets = {frozenset(f.masks) for f in flags.values()}
    on = result(dict.fromkeys(flags, True))
    off = result(dict.fromkeys(flags, False))
    if len(sets) > 1:
        mixed = [result({n: n == name for n in flags}) for name in flags]
        off = _common(node, [*mixed, off])
    masks = tuple(dict.fromkeys(m for f in flags.values() for m in f.masks))
    b.flags[node.outputs[0]] = Flags(masks, on, off, shape)
    return True


def is_flag(b: Builder, name: str) -> bool:
    """Whether a value is flags, or indices that may be read as such."""
    return name in b.flags or b.tensor(name) in b.indices


def _common(node: Node, results: list[Array]) -> Array:
    """What a combination of masks gives unless all are nonzero.

    Raises:
        Unsupported: it depends on which of them is zero.
    """
    first = results[0]
    for other in results[1:]:
        both = hidden(first).all() and hidden(other).all()
        if not both and not np.array_equal(first, other):
            raise Unsupported("masks are joined by something else than 'and'")
    return first


def materialise(b: Builder, node: Node) -> None:
    """Flags that an ordinary operator reads become tensors."""
    for name in node.inputs:
        if not is_flag(b, name):
            continue
        if name not in b.flags:
            raise Unsupported(f"it computes with the integers of '{name}'")
        flags = as_flags(b, name)
        if not np.isfinite(np.asarray(flags.on, float)).all() or hidden(flags.off).any():
            raise Unsupported(f"it computes with the additive mask '{name}'")
        off = b.new_operand(name, np.asarray(flags.off, np.float64))
        value = b.new_operand(name, np.asarray(flags.on, np.float64))
        for mask in flags.masks:
            value = b.put(L.Select, node, [mask, value, off])
        if b.shapes[value] != flags.shape:
            raise Unsupported(f"it reads the expanded mask '{name}'")
        del b.flags[name]
        b.same(name, value)
