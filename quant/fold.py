"""Rewrites of the float graph, each exact in real arithmetic: fewer layers, fewer roundings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.quant import fold_attention
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Affine, Array, conv

__all__ = ["optimise"]

PRODUCTS = (L.Conv, L.Linear)
CLIPPED = (L.Conv, L.Linear, L.MatMul, L.Add, L.Mul)


class _State:
    """The layers under rewriting, with who writes and how many read each tensor."""

    def __init__(self, layers: Sequence[Any], outputs: tuple[str, ...], builder: Builder) -> None:
        self.layers: list[Any] = list(layers)
        self.outputs = outputs
        self.builder = builder
        self.index()

    def index(self) -> None:
        self.writer = {layer.output: layer for layer in self.layers}
        self.readers = Counter(n for layer in self.layers for n in layer.inputs)
        self.readers.update(self.outputs)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.builder.shapes[name]

    def private(self, name: str, kinds: Any) -> Any:
        """The layer that writes ``name`` for a single reader, if it is of ``kinds``."""
        layer = self.writer.get(name)
        alone = self.readers[name] == 1 and name not in self.outputs
        return layer if alone and isinstance(layer, kinds) else None

    def swap(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Put ``new`` in the place of the last of ``old`` and drop all of ``old``."""
        gone = {id(layer) for layer in old}
        result: list[Any] = []
        for layer in self.layers:
            if layer is old[-1]:
                result.extend(new)
            elif id(layer) not in gone:
                result.append(layer)
        self.layers = result
        self.index()

    def drop_dead(self) -> None:
        """Layers that no output needs go."""
        needed = set(self.outputs)
        kept = []
        for layer in reversed(self.layers):
            if layer.output in needed:
                needed.update(layer.inputs)
                kept.append(layer)
        self.layers = kept[::-1]
        self.index()

    def rename(self, old: str, new: str) -> None:
        """Every reader of ``old`` reads ``new``, which inherits what the model said of it."""
        if old in self.builder.hints:
            self.builder.hints.setdefault(new, self.builder.hints[old])
        self.layers = [
            replace(layer, inputs=tuple(new if n == old else n for n in layer.inputs))
            if old in layer.inputs
            else layer
            for layer in self.layers
        ]
        self.index()


def optimise(
    layers: Sequence[Any], outputs: tuple[str, ...], builder: Builder
) -> tuple[list[Any], dict[str, Array]]:
    """Rewrite until nothing changes.

    Args:
        layers: golden layers and :class:`~opennpe.quant.graph.Affine`, in execution order.
        outputs: tensors that must keep their names.
        builder: shapes, and a source of names and constants.

    Returns:
        Golden layers only, and the constants they may read.
    """
    state = _State(layers, outputs, builder)
    state.drop_dead()
    rules: tuple[Callable[[_State, Any], bool], ...] = (
        _drop_identity,
        _merge_reshapes,
        fold_attention.transpose_inside,
        _silu,
        _gelu,
        fold_attention.gelu_tanh,
        _join_affines,
        fold_attention.norm,
        fold_attention.affine_into_norm,
        _affine_into_product,
        _affine_before_product,
        fold_attention.stream,
        fold_attention.affine_past_moves,
        fold_attention.affine_past_matmul,
        fold_attention.affine_into_softmax,
        _pad_into_window,
        _clip_into_producer,
    )
    _exhaust(state, rules)
    for layer in [item for item in state.layers if isinstance(item, Affine)]:
        state.swap([layer], _plain(state, layer))
    _exhaust(state, (_clip_into_producer,))
    state.drop_dead()
    state.layers = fold_attention.plain_means(state.layers, builder.shapes)
    return state.layers, dict(builder.operands)


def _exhaust(state: _State, rules: Sequence[Callable[[_State, Any], bool]]) -> None:
    changed = True
    while changed:
        changed = False
        for rule in rules:
            for layer in list(state.layers):
                if state.writer.get(layer.output) is layer and rule(state, layer):
                    changed = True


# -- moves -------------------------------------------------------------------------------------


def _drop_identity(state: _State, layer: Any) -> bool:
    same = isinstance(layer, L.Reshape) and state.shape(layer.inputs[0]) == layer.shape
    if isinstance(layer, L.Transpose):
        same = layer.permutation == tuple(range(len(layer.permutation)))
    if not same:
        return False
    source, out = layer.inputs[0], layer.output
    if out not in state.outputs:
        state.swap([layer], [])
        state.rename(out, source)
        return True
    writer = state.writer.get(source)
    if writer is None or source in state.outputs:
        return False
    state.swap([layer], [])
    state.layers = [replace(item, output=out) if item is writer else item for item in state.layers]
    state.rename(source, out)
    return True


def _merge_reshapes(state: _State, layer: Any) -> bool:
    if not isinstance(layer, L.Reshape):
        return False
    first = state.private(layer.inputs[0], L.Reshape)
    if first is None:
        return False
    state.swap([first, layer], [replace(layer, inputs=first.inputs)])
    return True


# -- activations that exporters write as several nodes ------------------------------------------


def _silu(state: _State, layer: Any) -> bool:
    """``x * sigmoid(x)``, and ``x * hard_sigmoid(x)`` where that is hard-swish."""
    if not isinstance(layer, L.Mul) or layer.clip is not None:
        return False
    for x, gate in (layer.inputs, layer.inputs[::-1]):
        act = state.private(gate, L.Activate)
        if act is None or act.inputs != (x,):
            continue
        params = dict(act.params)
        kind = {"sigmoid": "silu"}.get(act.kind)
        if act.kind == "hard_sigmoid" and math.isclose(params["alpha"], 1 / 6, rel_tol=1e-6):
            kind = "hard_swish" if params["beta"] == 0.5 else None
        if kind is not None:
            new = L.Activate(name=layer.name, inputs=(x,), output=layer.output, kind=kind)
            state.swap([act, layer], [new])
            return True
    return False


def _gelu(state: _State, layer: Any) -> bool:
    """``0.5 * (x * (1 + erf(x / sqrt(2))))`` with the half anywhere."""
    if not isinstance(layer, L.Mul) or layer.clip is not None:
        return False
    for left, right in (layer.inputs, layer.inputs[::-1]):
        plus = state.private(right, Affine)
        erf = plus and state.private(plus.inputs[0], L.Activate)
        inner = erf and erf.kind == "erf" and state.private(erf.inputs[0], Affine)
        if not inner or not _is(inner, math.sqrt(0.5), 0.0):
            continue
        x, half, extra = left, 1.0, []
        scaled = state.private(left, Affine)
        if scaled is not None and scaled.inputs == inner.inputs and _is(scaled, 0.5, 0.0):
            x, half, extra = scaled.inputs[0], 0.5, [scaled]
        if inner.inputs != (x,) or plus.scale.size != 1 or plus.offset.size != 1:
            continue
        gain = float(plus.scale.ravel()[0])
        if gain != float(plus.offset.ravel()[0]) or not math.isfinite(gain):
            continue
        gelu, rest = fold_attention.activation_times(state, layer, x, "gelu", 2.0 * half * gain)
        state.swap([*extra, inner, erf, plus, layer], [gelu, rest])
        return True
    return False


def _is(layer: Affine, scale: float, offset: float) -> bool:
    return bool(
        layer.scale.size == layer.offset.size == 1
        and math.isclose(float(layer.scale.ravel()[0]), scale, rel_tol=1e-5)
        and float(layer.offset.ravel()[0]) == offset
    )


# -- scales and offsets ------------------------------------------------------------------------


def _join_affines(state: _State, layer: Any) -> bool:
    if not isinstance(layer, Affine):
        return False
    if not np.any(layer.scale != 1.0) and not np.any(layer.offset):
        state.swap([layer], [_identity(state, layer)])
        return True
    first = state.private(layer.inputs[0], Affine)
    if first is None:
        return False
    offset = first.offset * layer.scale + layer.offset
    scale = first.scale * layer.scale
    joined = replace(layer, inputs=first.inputs, scale=scale, offset=offset, hint=None)
    state.swap([first, layer], [joined])
    return True


def _identity(state: _State, layer: L.LayerBase) -> L.Reshape:
    return L.Reshape(
        name=layer.name,
        inputs=layer.inputs,
        output=layer.output,
        shape=state.shape(layer.output),
    )


def _per_channel(values: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """Values that depend on one axis only, as one number a channel; else None."""
    padded = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    if any(n != 1 for i, n in enumerate(padded.shape) if i != axis):
        return None
    return np.broadcast_to(padded.ravel(), (shape[axis],))


def _channels(state: _State, layer: Affine, axis: int) -> tuple[Array, Array] | None:
    shape = state.shape(layer.output)
    if len(shape) < 2:
        return None
    scale = _per_channel(layer.scale, shape, axis)
    offset = _per_channel(layer.offset, shape, axis)
    return None if scale is None or offset is None else (scale, offset)


def _affine_into_product(state: _State, layer: Any) -> bool:
    """``(Wx + b) * s + o`` is ``(sW)x + (sb + o)``."""
    if not isinstance(layer, Affine):
        return False
    product = state.private(layer.inputs[0], PRODUCTS)
    if product is None or product.clip is not None:
        return False
    axis = 1 if isinstance(product, L.Conv) else len(state.shape(layer.output)) - 1
    both = _channels(state, layer, axis)
    if both is None:
        return False
    scale, offset = both
    side = (-1,) + (1,) * (product.weights.ndim - 1)
    new = replace(
        product,
        output=layer.output,
        weights=product.weights * scale.reshape(side),
        bias=product.bias * scale + offset,
    )
    if np.any(scale != 1.0):
        state.builder.weight_hints.pop(product.name, None)
    state.swap([product, layer], [new])
    return True


def _affine_before_product(state: _State, layer: Any) -> bool:
    """``W(x * s + o) + b`` is ``(Ws)x + (b + Wo)``; with padding only where ``o`` is 0."""
    if not isinstance(layer, PRODUCTS):
        return False
    first = state.private(layer.inputs[0], Affine)
    if first is None:
        return False
    axis = 1 if isinstance(layer, L.Conv) else len(state.shape(first.output)) - 1
    both = _channels(state, first, axis)
    if both is None or (isinstance(layer, L.Conv) and any(layer.pads) and np.any(both[1])):
        return False
    scale, offset = both
    weights = layer.weights
    if isinstance(layer, L.Conv):
        per_in, per_out = weights.shape[1], weights.shape[0] // layer.groups
        group = np.arange(weights.shape[0]) // per_out
        pick = group[:, None] * per_in + np.arange(per_in)[None, :]
        side = (1,) * (weights.ndim - 2)
        scale, offset = (v[pick].reshape(*pick.shape, *side) for v in (scale, offset))
    bias = layer.bias + (weights * offset).reshape(len(weights), -1).sum(axis=1)
    new = replace(layer, inputs=first.inputs, weights=weights * scale, bias=bias)
    if np.any(scale != 1.0):
        state.builder.weight_hints.pop(layer.name, None)
    state.swap([first, layer], [new])
    return True


def _plain(state: _State, layer: Affine) -> list[Any]:
    """An affine map that found no product: a depthwise 1x1 convolution, or Mul and Add."""
    shape = state.shape(layer.output)
    scales, moves = bool(np.any(layer.scale != 1.0)), bool(np.any(layer.offset))
    both = _channels(state, layer, 1) if scales and moves and 3 <= len(shape) <= 5 else None
    if both is not None:
        weights = both[0].reshape(-1, 1, *(1,) * (len(shape) - 2))
        return [conv(layer.name, layer.inputs[0], layer.output, weights, both[1], groups=shape[1])]
    builder = state.builder
    result: list[Any] = []
    source = layer.inputs[0]
    if scales:
        out = builder.fresh(layer.output) if moves else layer.output
        builder.shapes[out] = shape
        factor = _operand(builder, layer, layer.scale)
        result.append(L.Mul(name=layer.name, inputs=(source, factor), output=out))
        source = out
    if moves:
        name = builder.layer_name(layer.name) if scales else layer.name
        offset = _operand(builder, layer, layer.offset)
        result.append(L.Add(name=name, inputs=(source, offset), output=layer.output))
    return result


def _operand(builder: Builder, layer: Affine, values: Array) -> str:
    name = builder.new_operand(layer.name, values)
    if layer.hint is not None:
        builder.hints[name] = layer.hint
    return name


# -- padding and clips -------------------------------------------------------------------------


def _pad_into_window(state: _State, layer: Any) -> bool:
    """Zero padding of spatial axes belongs to the convolutions that read it."""
    if not isinstance(layer, L.Conv):
        return False
    pad = state.writer.get(layer.inputs[0])
    if not isinstance(pad, L.Pad) or pad.mode != "constant" or pad.value != 0.0:
        return False
    rank = len(pad.pads) // 2
    begins, ends = pad.pads[:rank], pad.pads[rank:]
    if any(begins[:2]) or any(ends[:2]):
        return False
    pads = tuple(p + q for p, q in zip(layer.pads, (*begins[2:], *ends[2:]), strict=True))
    new = replace(layer, inputs=pad.inputs, pads=pads)
    state.swap([layer], [new])
    state.drop_dead()
    return True


def _clip_into_producer(state: _State, layer: Any) -> bool:
    """A relu or clip is applied by the layer before it, exactly, before the one rounding."""
    bounds = _bounds(layer)
    if bounds is None or _rounds_again(state, layer):
        return False
    if bounds == (-math.inf, math.inf):
        state.swap([layer], [_identity(state, layer)])
        _drop_identity(state, state.writer[layer.output])
        return True
    producer = state.private(layer.inputs[0], CLIPPED)
    if producer is None:
        first = state.private(layer.inputs[0], L.Activate)
        inner = None if first is None else _bounds(first)
        # Joined to a clip that stands alone, nothing would be left that has the stated format.
        if inner is None or layer.inputs[0] in state.builder.hints:
            return False
        params = tuple(zip(("min", "max"), _composed(inner, bounds), strict=True))
        new = replace(layer, inputs=first.inputs, kind="clip", params=params)
        state.swap([first, layer], [new])
        return True
    clip = bounds if producer.clip is None else _composed(producer.clip, bounds)
    state.swap([producer, layer], [replace(producer, output=layer.output, clip=clip)])
    return True


def _rounds_again(state: _State, layer: Any) -> bool:
    """Whether a quantisation follows another that differs: then the values are rounded twice."""
    hints = state.builder.hints
    before, after = hints.get(layer.inputs[0]), hints.get(layer.output)
    return before is not None and after is not None and before != after


def _composed(first: L.Clip, then: L.Clip) -> L.Clip:
    low, high = (min(max(v, then[0]), then[1]) for v in first)
    return low, high


def _bounds(layer: Any) -> L.Clip | None:
    if not isinstance(layer, L.Activate) or layer.kind not in ("relu", "relu6", "clip"):
        return None
    if layer.kind == "clip":
        params = dict(layer.params)
        return params["min"], params["max"]
    return (0.0, 6.0 if layer.kind == "relu6" else math.inf)
