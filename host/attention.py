"""Products of two tensors, softmax and normalisation of rows: what attention layers are made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from opennpe.golden import (
    attention,
    formats,
    lanes,
    layer_norm,
    mac,
    machine_rows,
    rounding,
    softmax,
)
from opennpe.golden import layers as L
from opennpe.golden.errors import OpenNPEError
from opennpe.golden.layout import Axis
from opennpe.golden.network import Tensor
from opennpe.host.jobs import Job, Rows, Stored, WeightsOf
from opennpe.host.lowered import (
    Codes,
    Lowered,
    checked_shift,
    clamp_codes,
    engine_format,
    needs,
    refuse,
)
from opennpe.host.orient import as_rows, part_of, turned
from opennpe.host.pixelwise import copy
from opennpe.host.view import CHANNEL, PIXEL, View, merged, places, plain

__all__ = ["matmul", "normalise", "stream_softmax"]

KEEP_BITS = 16


# -- products --------------------------------------------------------------------------------------
def matmul(low: Lowered, layer: L.MatMul) -> None:
    """A product a head: rows of the first tensor by the second one, loaded as weights."""
    (a, b), out = low.network.layer_tensors(layer)
    mode_a, mode_b = mac.compute_formats(a.format, b.format)
    for name in (mode_a, mode_b, out.format):
        engine_format(low, layer, name)
    rounding.check_terms(low.spec, layer, a.format, b.format, a.shape[-1])
    shift = checked_shift(low, layer, a.scale + b.scale - out.scale)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    sources = _heads(low, layer, a)
    weights = _weights(low, layer, b, mode_b)
    relu = layer.clip is not None and layer.clip[0] >= 0
    size = sources[0].height, sources[0].width
    stored = low.new_heads(out, size, relu, lanes.lanes(mode_a))
    _gaps(low, layer, stored, weights[0], mode_b)
    wide, channels, depth = stored.channels // math.prod(lead), out.shape[-1], a.shape[-1]
    a_heads, b_heads = (
        np.broadcast_to(np.arange(math.prod(t.shape[:-2])).reshape(t.shape[:-2]), lead).reshape(-1)
        for t in (a, b)
    )
    if math.prod(lead) > 1 and lanes.lanes(out.format) > lanes.lanes(mode_a):
        # Several channel tiles share a line: all of it is written, or gaps would hold anything.
        channels = wide
        _slack(low, weights, wide // (low.spec.line_words * lanes.lanes(mode_a)))
    for head in range(math.prod(lead)):
        own = low.part(stored, head * wide, channels)
        low.jobs.append(
            Job(
                layer.name,
                "dense",
                (sources[int(a_heads[head])].name,),
                own.name,
                mode_a,
                mode_b,
                out.format,
                np.broadcast_to(formats.get(mode_b).dtype(0), (channels, depth, 1, 1)),
                mode_b,
                [0] * channels,
                [shift] * channels,
                (1, 1),
                (1, 1),
                (0, 0),
                (1, 1),
                size,
                clamp=clamp_codes(low, out, layer.clip),
                second=weights[int(b_heads[head])],
                layers=[layer.name],
            )
        )
    low.whole.add(stored.name)


def _heads(low: Lowered, layer: L.LayerBase, tensor: Tensor) -> list[Stored]:
    """A tensor (..., M, K) as one of K channels and M pixels for every leading index."""
    view, shape = low.views[tensor.name], tensor.shape
    if math.prod(shape[:-2]) == 1:
        view = part_of(low, layer, as_rows(low, layer, tensor.name))
        _follow(low, layer, tensor, view)
        return [low.stored[view.stored]]
    view, lead, starts = _groups(low, layer, tensor)
    if [axis.of for axis in lead] != sorted(axis.of for axis in lead):
        raise refuse(
            layer,
            f"it reads '{tensor.name}' of shape {shape}, which is not stored a head at a time",
        )
    return [low.part(low.stored[view.stored], start, shape[-1]) for start in starts]


def _groups(
    low: Lowered, layer: L.LayerBase, tensor: Tensor
) -> tuple[View, tuple[Axis, ...], list[int]]:
    """The view of a tensor whose last axis is channels that follow each other, its other axes and
    the first channel of each of the groups that these make.

    Raises:
        CompileError: other orders, or groups that begin inside a block.
    """
    view, shape, depth = low.views[tensor.name], tensor.shape, tensor.shape[-1]
    parts = view.by_axis(shape)
    if parts is not None and any(axis.of == PIXEL for axis in parts[-1]):
        view = view.turned(turned(low, layer, low.stored[view.stored]).name)
        parts = view.by_axis(shape)
    stored = low.stored[view.stored]
    lead = () if parts is None else merged([axis for part in parts[:-1] for axis in part])
    rows = tuple(axis for axis in lead if axis.of == PIXEL)
    every = plain("", 1, stored.pixels).axes
    if parts is None or rows != every or parts[-1] != plain("", depth, 1).axes:
        raise refuse(layer, f"it reads '{tensor.name}' of shape {shape}, stored in another order")
    walk = tuple(axis for axis in lead if axis.of == CHANNEL)
    starts = places(View(view.stored, walk, view.channel))[0].tolist()
    if len(starts) > 1 and not all(low.begins_block(stored, start) for start in starts):
        raise refuse(
            layer,
            f"a head of {depth} channels of '{tensor.name}' begins inside a block of "
            f"{low.room(stored.format, 1)}",
        )
    return view, lead, starts


def _follow(low: Lowered, layer: L.LayerBase, tensor: Tensor, view: View) -> None:
    """Refuse channels that do not follow each other."""
    if view.channel or view.channels != plain("", tensor.shape[-1], 1).axes:
        raise refuse(layer, f"it reads '{tensor.name}', whose channels lie in groups")


def _weights(low: Lowered, layer: L.LayerBase, tensor: Tensor, mode: str) -> list[WeightsOf]:
    """Where the weights (..., K, N) of every leading index lie: a line a K, N in blocks."""
    view, shape = low.views[tensor.name], tensor.shape
    source = low.stored[view.stored]
    depth, channels = plain("", 1, shape[-2]).axes, plain("", shape[-1], 1).axes
    parts = view.by_axis(shape)
    if parts is not None and (parts[-2] != depth or parts[-1] != channels):
        # Keys have tokens along pixels: their copy has them along channels.
        view = view.turned(view.stored)
        parts = view.by_axis(shape)
        if parts is not None and (parts[-2] == depth and parts[-1] == channels):
            source = turned(low, layer, source)
    if parts is None or parts[-2] != depth or parts[-1] != channels:
        raise refuse(
            layer, f"its second operand '{tensor.name}' of shape {shape} is stored in another order"
        )
    if lanes.lanes(source.format) != lanes.lanes(mode):
        source = _widened(low, layer, source, mode)
    source.plain = True
    lead = merged([axis for part in parts[:-2] for axis in part])
    found = []
    starts = places(View(source.name, lead, view.channel, view.pixel))
    for channel, pixel in zip(*(s.tolist() for s in starts), strict=True):
        if not low.begins_block(source, channel):
            raise refuse(
                layer,
                f"a head of {shape[-1]} channels of '{tensor.name}' begins inside a block of "
                f"{low.room(source.format, 1)}",
            )
        block = low.spec.line_words * lanes.lanes(source.format)
        found.append(WeightsOf(source.name, channel // block, pixel))
    return found


def _widened(low: Lowered, layer: L.LayerBase, source: Stored, mode: str) -> Stored:
    """A copy of the same values in a wider format, which holds them all."""
    name = f"{source.name}:{mode}"
    if name not in low.stored:
        wide = replace(source, name=name, format=mode, plain=True, packed=False)
        low.stored[name] = wide
        copy(low, layer, source, wide)
    return low.stored[name]


def _slack(low: Lowered, weights: list[WeightsOf], blocks: int) -> None:
    """So many blocks of weights there are to load, if only zeros behind the last."""
    for own in weights:
        stored = low.stored[own.stored]
        there = -(-stored.channels // low.room(stored.format, 1))
        more = (own.block + blocks - there) * stored.pixels
        low.slack[own.stored] = max(low.slack.get(own.stored, 0), more)


def _gaps(low: Lowered, layer: L.MatMul, out: Stored, weights: WeightsOf, mode: str) -> None:
    """Refuse results that cannot take the NaR that spare weights may hold."""
    spare = low.stored[weights.stored].channels % low.room(mode, 1)
    if out.format == "fp4" and formats.get(mode).nan_code is not None and spare:
        raise refuse(layer, f"spare columns of {mode} may hold NaR, for which fp4 has no code")


# -- rows ------------------------------------------------------------------------------------------
def stream_softmax(low: Lowered, layer: L.StreamSoftmax) -> None:
    """A softmax exec a head."""
    needs(low, layer, "softmax")
    (x, *indices), out = low.network.layer_tensors(layer)
    for tensor in (x, out):
        engine_format(low, layer, tensor.format)
    unit, own = attention.unit(layer), low.spec.softmax_unit
    if unit.mode == "exact":
        unit = replace(unit, lanes=own.lanes, accumulator_bits=own.accumulator_bits)
    if replace(unit, fixed=own.fixed, reciprocal_step=own.reciprocal_step) != own:
        raise refuse(layer, f"its unit is {unit}, the co-processor's {own}")
    masks, offset = _told(low, layer, indices)
    size = _row_length(layer, x, own.max_length)
    keep = _kept(layer, masks, x.shape)
    if layer.causal:
        if keep < size:
            raise refuse(layer, f"it is causal and keeps {keep} of {size}: one of both is done")
        keep = offset + 1
    factor = softmax.multiplier(layer.scale * 2.0**x.scale, unit.multiplier_bits)
    fields = machine_rows.softmax_settings(factor)
    sources = _heads(low, layer, x)
    made = low.new_heads(out, sources[0].shape[1:], lanes_too=lanes.lanes(x.format))
    _rows(low, layer, "softmax", sources, made, (fields, -out.scale, keep, layer.causal))


def _told(low: Lowered, layer: L.StreamSoftmax, indices: list[Tensor]) -> tuple[list[Codes], int]:
    """Masks and offset, all of which must be known."""
    for tensor in indices:
        if tensor.name not in low.network.constants:
            what = "position" if layer.positioned and tensor is indices[-1] else "mask"
            raise refuse(
                layer, f"the {what} '{tensor.name}' is no constant: what rows keep is in the list"
            )
    codes = [np.asarray(low.network.constants[t.name]) for t in indices]
    if not layer.positioned:
        return codes, layer.offset
    return codes[:-1], layer.offset + attention.position(layer, codes[-1])


def _kept(layer: L.StreamSoftmax, masks: list[Codes], shape: tuple[int, ...]) -> int:
    """How many of its first elements every row keeps."""
    keep = np.ones(shape[-1], dtype=bool)
    for mask in masks:
        rows = np.broadcast_to(mask != 0, shape).reshape(-1, shape[-1])
        if (rows != rows[0]).any():
            raise refuse(layer, "a mask that is not every row's: what is causal is done, or all")
        keep &= rows[0]
    count = int(keep.sum())
    if not keep[:count].all():
        raise refuse(layer, "a mask with gaps: a row keeps its first elements")
    return count


def _row_length(layer: L.LayerBase, x: Tensor, most: int) -> int:
    if x.shape[-1] > most:
        raise refuse(layer, f"rows of {x.shape[-1]} elements: the unit takes {most}")
    return x.shape[-1]


def _rows(
    low: Lowered,
    layer: L.LayerBase,
    kind: str,
    sources: list[Stored],
    made: Stored,
    told: tuple[dict[str, int], int, int, bool],
) -> None:
    """A job a head; ``told``: settings, shift, elements that the first row keeps, and causal."""
    fields, shift, keep, causal = told
    checked_shift(low, layer, shift)
    wide, channels = made.channels // len(sources), sources[0].channels
    for head, source in enumerate(sources):
        source.plain = made.plain = True
        own = low.part(made, head * wide, channels)
        low.jobs.append(
            Rows(
                layer.name,
                kind,
                (source.name,),
                own.name,
                source.format,
                source.format,
                made.format,
                tuple(fields[f"setting{i}"] for i in range(len(fields))),
                shift,
                keep,
                causal,
                layers=[layer.name],
            )
        )
    if len(sources) > 1:
        low.whole.add(made.name)


def normalise(low: Lowered, layer: L.Normalise) -> None:
    """A norm exec to x_hat, then its weights and offsets."""
    needs(low, layer, "norm")
    (x,), out = low.network.layer_tensors(layer)
    for name in (x.format, layer.inner_format, layer.weight_format, out.format):
        engine_format(low, layer, name)
    own = low.spec.norm_unit
    if replace(attention.norm_unit(layer), lanes=own.lanes, digit_bits=own.digit_bits) != own:
        raise refuse(layer, f"its unit is {attention.norm_unit(layer)}, the co-processor's {own}")
    count = _row_length(layer, x, own.max_length)
    try:
        given = layer_norm.settings(
            own, x.format, count, x.scale, layer.kind, layer.epsilon, layer.inner_format,
            -layer.inner_scale, low.spec.underflow,
        )  # fmt: skip
    except OpenNPEError as error:
        raise refuse(layer, str(error)) from error
    told = (machine_rows.norm_settings(given), -layer.inner_scale, count, False)
    inner = Tensor(f"{layer.name}:x_hat", out.shape, layer.inner_format, layer.inner_scale)
    same = (inner.format, inner.scale) == (out.format, out.scale)
    if layer.gamma is None and same:
        inner = out
    sources, made = _norm_rows(low, layer, x, inner)
    _rows(low, layer, "norm", sources, made, told)
    if inner is out:
        return
    if layer.gamma is None:
        copy(low, layer, made, low.new_like(out, inner.name))
        return
    _affine(low, layer, made, out, inner)


def _norm_rows(
    low: Lowered, layer: L.LayerBase, x: Tensor, inner: Tensor
) -> tuple[list[Stored], Stored]:
    """What is normalised, a row a pixel, and room for x_hat."""
    parts = low.views[x.name].by_axis(x.shape)
    lead = [] if parts is None else [axis for part in parts[:-1] for axis in part]
    if len({axis.of for axis in lead}) > 1:
        view, walk, starts = _groups(low, layer, x)
        stored = low.stored[view.stored]
        sources = [low.part(stored, start, x.shape[-1]) for start in starts]
        room = low.room(inner.format, x.shape[-1], lanes.lanes(x.format))
        return sources, low.new_groups(inner, stored.shape[1:], walk, room)
    view = part_of(low, layer, as_rows(low, layer, x.name))
    _follow(low, layer, x, view)
    source = low.stored[view.stored]
    return [source], low.new_tokens(inner, x.shape[-1], source.shape[1:], whole=True)


def _affine(low: Lowered, layer: L.Normalise, made: Stored, out: Tensor, inner: Tensor) -> None:
    """``gamma * x_hat + beta``, a product a channel."""
    assert layer.gamma is not None
    mode, mode_b = mac.compute_formats(inner.format, layer.weight_format)
    exponent = inner.scale + layer.weight_scale
    grid = mac.grid_exponent(mode, mode_b)
    beta = np.zeros(len(layer.gamma)) if layer.beta is None else layer.beta
    units = [mac.to_grid(float(b), grid + exponent) for b in beta]
    rounding.check_terms(
        low.spec, layer, inner.format, layer.weight_format, 1, max(map(abs, units), default=0)
    )
    channel = places(View(made.name, low.views[inner.name].channels))[0]
    own = np.arange(channel.size) % len(layer.gamma)
    weights = np.zeros((made.channels, 1, 1, 1), dtype=layer.gamma.dtype)
    weights[channel, 0, 0, 0] = layer.gamma[own]
    bias = [0] * made.channels
    for place, index in zip(channel.tolist(), own.tolist(), strict=True):
        bias[place] = units[index]
    stored = low.new_like(out, inner.name)
    low.jobs.append(
        Job(
            layer.name,
            "depth",
            (made.name,),
            stored.name,
            mode,
            mode_b,
            out.format,
            weights,
            layer.weight_format,
            bias,
            [checked_shift(low, layer, exponent - out.scale)] * made.channels,
            (1, 1),
            (1, 1),
            (0, 0),
            (1, 1),
            (made.height, made.width),
            flat=True,
            layers=[layer.name],
        )
    )
