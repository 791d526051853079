"""Layers that take each pixel by itself: sums of two tensors, copies, views, joined channels."""

from __future__ import annotations

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
    sources = tuple(_operand(low, layer, t, out) for t in ins)
    first = sources[0]
    if any(
        (s.channels, s.height, s.width) != (first.channels, first.height, first.width)
        for s in sources
    ):
        raise refuse(layer, "its operands are stored in different orders")
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
        stored = low.new(out, (first.channels, first.height, first.width), relu)
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


def _operand(low: Lowered, layer: L.LayerBase, tensor: Tensor, out: Tensor) -> Stored:
    """An operand of an elementwise layer; a constant is spread to the output's shape."""
    if tensor.name not in low.network.constants or tensor.shape == out.shape:
        return low.held(tensor.name)
    name = f"{layer.name}:{tensor.name}"
    codes = np.broadcast_to(low.network.constants[tensor.name], out.shape)
    shape = image(out.shape)
    if shape is None:
        raise refuse(layer, f"its output has the shape {out.shape}")
    low.spread[name] = codes.reshape(shape)
    return low.new(Tensor(name, out.shape, tensor.format, tensor.scale), shape)


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


def convert(low: Lowered, layer: L.Convert | L.Reshape | L.Transpose) -> None:
    """A view where codes stay as they are, else a copy in the same order."""
    (x,), out = low.network.layer_tensors(layer)
    source = low.held(x.name)
    if isinstance(layer, L.Transpose):
        moving = [a for a in layer.permutation if x.shape[a] > 1]
        if moving != sorted(moving):
            raise refuse(layer, f"it moves axes {moving} of {x.shape}")
    for tensor in (x, out):
        engine_format(low, layer, tensor.format)
    if (x.format, x.scale) == (out.format, out.scale) and x.name not in low.network.constants:
        low.root[out.name] = source.name
        return
    stored = low.new(out, (source.channels, source.height, source.width), source.positive)
    copy(low, layer, source, stored)


def concat(low: Lowered, layer: L.Concat) -> None:
    """Channels side by side: a copy each, into whole blocks."""
    ins, out = low.network.layer_tensors(layer)
    if layer.axis % len(out.shape) != 1:
        raise refuse(layer, f"axis {layer.axis}: only channels are joined")
    sources = [low.held(t.name) for t in ins]
    shape = image(out.shape)
    if shape is None or any(
        (s.channels, s.height, s.width) != image(t.shape) for s, t in zip(sources, ins, strict=True)
    ):
        raise refuse(layer, "it reads a tensor stored in another order")
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
