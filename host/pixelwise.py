"""Layers that take each pixel by itself: sums of two tensors, copies, views, joined channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from opennpe.golden import formats, lanes, mac
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.host.jobs import Job, Stored
from opennpe.host.lowered import (
    Lowered,
    checked_shift,
    clamp_codes,
    engine_format,
    image,
    negated,
    nests,
    powers,
    refuse,
)
from opennpe.host.orient import as_image, turned

__all__ = ["add", "concat", "convert", "copy", "pointwise"]


def pointwise(
    low: Lowered,
    layer: L.LayerBase,
    sources: tuple[Stored, ...],
    out: Stored,
    mode: str,
    codes: list[int],
    shift: int,
    **more: Any,
) -> None:
    """A job that weighs its tensors' codes and adds them."""
    channels = more.pop("channels", out.channels)
    weights = np.tile(np.array(codes).reshape(1, -1, 1, 1), (channels, 1, 1, 1))
    low.jobs.append(
        Job(
            layer.name,
            "depth",
            tuple(s.name for s in sources),
            out.name,
            mode,
            mode,
            more.pop("result", out.format),
            weights.astype(formats.get(mode).dtype),
            mode,
            [0] * channels,
            [checked_shift(low, layer, shift)] * channels,
            (1, 1),
            (1, 1),
            (0, 0),
            (1, 1),
            (out.height, out.width),
            flat=True,
            layers=[layer.name],
            **more,
        )
    )


def add(low: Lowered, layer: L.Add) -> None:
    """A sum of two tensors: powers of two as weights bring both to one scale."""
    ins, out = low.network.layer_tensors(layer)
    if any(t.shape != out.shape and t.name not in low.network.constants for t in ins):
        raise refuse(layer, f"it broadcasts {' and '.join(str(t.shape) for t in ins)}")
    for tensor in (*ins, out):
        engine_format(low, layer, tensor.format)
    like, sources = _operands(low, layer, ins, out)
    lows = [formats.get(t.format).lsb_exponent + t.scale for t in ins]
    grid = mac.grid_exponent(ins[0].format, ins[1].format) + max(t.scale for t in ins)
    if min(lows) < grid:
        raise refuse(
            layer,
            f"scales 2^{ins[0].scale} and 2^{ins[1].scale} are so far apart that an operand is "
            "rounded on entry: choose a wider format for it",
        )
    wanted = [n for n in low.spec.mac.formats if all(nests(t.format, n) for t in ins)]
    for mode in wanted:
        known = powers(mode)
        base = [
            e for e in known if all(t.scale - max(x.scale for x in ins) + e in known for t in ins)
        ]
        if not base:
            continue
        top = max(t.scale for t in ins)
        best = min(base, key=abs)
        codes = [known[t.scale - top + best] for t in ins]
        codes = [c if s > 0 else negated(mode, c) for c, s in zip(codes, layer.signs, strict=True)]
        relu = layer.clip is not None and layer.clip[0] >= 0
        stored = low.new_like(out, like, relu)
        pointwise(
            low,
            layer,
            sources,
            stored,
            mode,
            codes,
            top - best - out.scale,
            clamp=clamp_codes(low, out, layer.clip),
        )
        return
    raise refuse(layer, f"no format has powers of two for scales {[t.scale for t in ins]}")


def _operands(
    low: Lowered, layer: L.Add, ins: list[Tensor], out: Tensor
) -> tuple[str, tuple[Stored, ...]]:
    """The operand whose order the sum takes, and both as they are stored then."""
    spread = [t.name in low.network.constants and t.shape != out.shape for t in ins]
    given = [t.name for t, constant in zip(ins, spread, strict=True) if not constant]
    if not given:
        raise refuse(layer, "all its operands are constants")
    views = [low.views[name] for name in given]
    if len(given) == 2 and any(name in low.network.constants for name in given):
        # A constant of full shape goes where the other one lies.
        given = [n for n in given if n not in low.network.constants] or given[:1]
        views = [low.views[name] for name in given]
    like = given[0]
    others = [replace(v, stored="") for v in views]
    if len(given) == 2 and others[0] != others[1]:
        return _aligned(low, layer, ins)
    if len({low.stored[v.stored].shape for v in views}) > 1:
        raise refuse(layer, "its operands are stored in different orders")
    found = []
    for tensor in ins:
        if tensor.name in given:
            found.append(low.held(tensor.name))
            continue
        name = f"{layer.name}:{tensor.name}"
        codes = np.broadcast_to(low.network.constants[tensor.name], out.shape)
        low.spread[name] = low.scattered(low.views[like], codes)
        own = Tensor(name, out.shape, tensor.format, tensor.scale)
        found.append(low.new_like(own, like))
    return like, tuple(found)


def _aligned(low: Lowered, layer: L.Add, ins: list[Tensor]) -> tuple[str, tuple[Stored, ...]]:
    """Operands of which one is channel-major: that one is transposed."""
    views = [low.views[t.name] for t in ins]
    for mine, other in ((0, 1), (1, 0)):
        stored = low.stored[views[mine].stored]
        goal = low.stored[views[other].stored]
        same = replace(views[mine].turned(""), stored="") == replace(views[other], stored="")
        if same and (stored.pixels, stored.channels) == (goal.channels, goal.pixels):
            copy = turned(low, layer, stored, (goal.height, goal.width))
            pair = (copy, goal) if mine == 0 else (goal, copy)
            return ins[other].name, pair
    raise refuse(layer, "its operands are stored in different orders")


def copy(
    low: Lowered,
    layer: L.LayerBase,
    source: Stored,
    out: Stored,
    **more: Any,
) -> None:
    """The same values in the output's format and scale, one rounding where they differ."""
    same = (source.format, source.scale) == (out.format, out.scale)
    if same:
        mode = "posit4" if source.format == "fp4" else source.format
        # A posit's code times one is itself, whatever the bits stand for.
        code = powers(mode)[0]
        pointwise(low, layer, (source,), out, mode, [code], 0, result=mode, **more)
        return
    if out.format == "fp4" and source.format == "fp4" and not source.signless:
        raise refuse(layer, "-0 would lose its sign: clip the tensor before or keep its scale")
    mode = source.format
    pointwise(low, layer, (source,), out, mode, [powers(mode)[0]], source.scale - out.scale, **more)


def convert(low: Lowered, layer: L.Convert | L.Reshape | L.Slice | L.Transpose) -> None:
    """A view where codes stay as they are, else a copy in the same order."""
    (x,), out = low.network.layer_tensors(layer)
    source, view = low.held(x.name), low.views[x.name]
    if isinstance(layer, L.Transpose):
        moved = view.transposed(x.shape, layer.permutation)
        if moved is None:
            raise refuse(layer, f"it moves axes of {x.shape}, which is stored in another order")
        view = moved
    elif isinstance(layer, L.Slice):
        taken = view.sliced(x.shape, layer.slices)
        if taken is None:
            raise refuse(layer, f"{layer.slices} of {x.shape}: only neighbouring channels")
        view = taken
    for tensor in (x, out):
        engine_format(low, layer, tensor.format)
    same = (x.format, x.scale) == (out.format, out.scale)
    if same and (x.name not in low.network.constants or view.stored in low.spread):
        low.view_as(out.name, x.name, view)
        return
    stored = low.new_like(out, x.name, source.positive)
    low.views[out.name] = replace(view, stored=out.name)
    copy(low, layer, source, stored)


def concat(low: Lowered, layer: L.Concat) -> None:
    """Channels side by side: a copy each, into whole blocks."""
    ins, out = low.network.layer_tensors(layer)
    if layer.axis % len(out.shape) != 1:
        raise refuse(layer, f"axis {layer.axis}: only channels are joined")
    sources = [as_image(low, layer, t.name) for t in ins]
    shape = image(out.shape)
    if shape is None:
        raise refuse(layer, f"its output has the shape {out.shape}")
    stored = low.new(out, shape, all(s.positive for s in sources))
    block = low.spec.line_words * lanes.lanes(out.format)
    at = 0
    for source in sources:
        if at % block:
            raise refuse(
                layer, f"channel {at} of the output begins inside a block of {block} channels"
            )
        copy(low, layer, source, stored, channels=source.channels, channel=at)
        at += source.channels
    low.whole.add(stored.name)
