"""Layers with constant weights: convolutions and products with a vector."""

from __future__ import annotations

import math

import numpy as np
from opennpe.golden import formats, mac, rounding
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.host.jobs import Job, Records, Stored
from opennpe.host.lowered import (
    Codes,
    Lowered,
    Pair,
    checked_shift,
    clamp_codes,
    engine_format,
    refuse,
    two,
)
from opennpe.host.orient import as_columns, as_image, as_rows, part_of
from opennpe.host.sparse import best_shape
from opennpe.host.view import View, merged, places

__all__ = ["conv", "linear"]


def _product(
    low: Lowered,
    layer: L.Conv | L.Linear,
    weights: Codes,
    kind: str,
    geometry: tuple[Pair, Pair, Pair, Pair],
    source: Stored,
) -> None:
    """A job of a layer with constant weights, given as its kind wants them."""
    (x,), out = low.network.layer_tensors(layer)
    strides, pads, dilations, size = geometry
    mode_a, mode_b = mac.compute_formats(x.format, layer.weight_format)
    for name in (mode_a, mode_b, out.format):
        engine_format(low, layer, name)
    bias, shift = _offsets(low, layer, x, out)
    relu = layer.clip is not None and layer.clip[0] >= 0
    channels = weights.shape[0]
    if isinstance(layer, L.Linear):
        stored = low.new_tokens(out, channels, size, relu)
        if stored.channels > channels:
            # Gaps between groups are sums of nothing.
            kept, _ = places(View(out.name, low.views[out.name].channels))
            held = np.zeros((stored.channels, *weights.shape[1:]), dtype=weights.dtype)
            held[kept] = weights
            weights = held
            spread_bias, spread_shift = [0] * stored.channels, [shift[0]] * stored.channels
            for n, place in enumerate(kept.tolist()):
                spread_bias[place], spread_shift[place] = bias[n], shift[n]
            bias, shift = spread_bias, spread_shift
    else:
        low.new(out, (channels, *size), relu)
    low.jobs.append(
        Job(
            layer.name,
            kind,
            (source.name,),
            out.name,
            mode_a,
            mode_b,
            out.format,
            weights,
            layer.weight_format,
            bias,
            shift,
            (int(weights.shape[2]), int(weights.shape[3])),
            strides,
            pads,
            dilations,
            size,
            clamp=clamp_codes(low, out, layer.clip),
            layers=[layer.name],
        )
    )


def _offsets(
    low: Lowered, layer: L.Conv | L.Linear, x: Tensor, out: Tensor
) -> tuple[list[int], list[int]]:
    """Biases on the engine's grid and shifts, an output channel each."""
    grid = mac.grid_exponent(*mac.compute_formats(x.format, layer.weight_format))
    bias, shift = [], []
    terms = int(np.prod(layer.weights.shape[1:]))
    for scale, value in zip(layer.weight_scale, layer.bias, strict=True):
        exponent = x.scale + int(scale)
        units = mac.to_grid(float(value), grid + exponent)
        rounding.check_terms(low.spec, layer, x.format, layer.weight_format, terms, abs(units))
        bias.append(units)
        shift.append(checked_shift(low, layer, exponent - out.scale))
    return bias, shift


def columns(low: Lowered, layer: L.Conv | L.Linear, last: bool) -> bool:
    """A sparse job, if the input is there channel-major or can be.

    Args:
        last: whether features are the last axis; else the axis after the first.
    """
    (x,), out = low.network.layer_tensors(layer)
    view = as_columns(low, layer, x.name, last)
    if view is None:
        if low.forced:
            raise refuse(layer, f"it reads '{x.name}', whose features a sparse layer cannot walk")
        return False
    source = low.stored[view.stored]
    outputs = int(layer.weights.shape[0])
    group: int = low.groups.get(out.name, outputs)
    room = low.room(out.format, group) if group < outputs else group
    own = Tensor(out.name, out.shape, out.format, out.scale)
    relu = layer.clip is not None and layer.clip[0] >= 0
    stored = low.new_columns(own, source.channels, outputs, (group, room), last, relu)
    inputs = places(View(source.name, merged(view.features), view.channel, view.pixel))[1]
    rows = places(View(out.name, merged(low.views[out.name].features)))[1]
    bias, shift = _offsets(low, layer, x, out)
    mode_a, mode_b = mac.compute_formats(x.format, layer.weight_format)
    weights = np.zeros((stored.pixels, source.pixels), dtype=layer.weights.dtype)
    weights[np.ix_(rows, inputs)] = layer.weights.reshape(outputs, -1)
    spread_bias, spread_shift = [0] * stored.pixels, [shift[0]] * stored.pixels
    for n, place in enumerate(rows.tolist()):
        spread_bias[place], spread_shift[place] = bias[n], shift[n]
    nonzero = np.asarray(formats.get(layer.weight_format).decode(weights) != 0)
    blocks = -(-source.channels // low.room(source.format, 1))
    found = best_shape(low.spec, layer.weight_format, nonzero, blocks, low.small)
    if found is None:
        raise refuse(layer, "no record fits in a line")
    low.jobs.append(
        Records(
            layer.name,
            "sparse",
            (source.name,),
            out.name,
            mode_a,
            mode_b,
            out.format,
            found,
            weights,
            spread_bias,
            spread_shift,
            clamp=clamp_codes(low, out, layer.clip),
            layers=[layer.name],
        )
    )
    return True


def conv(low: Lowered, layer: L.Conv) -> None:
    """Dense or depthwise; other groups are dense with weights of zero."""
    kernel = layer.weights.shape[2:]
    (x,), out = low.network.layer_tensors(layer)
    if len(kernel) > 2 or x.shape[0] != 1:
        raise refuse(layer, f"{len(kernel)} spatial axes, {x.shape[0]} samples")
    if layer.name in low.sparse and columns(low, layer, last=False):
        return
    source = as_image(low, layer, x.name)
    groups, total = layer.groups, layer.weights.shape[0]
    weights = layer.weights.reshape(*layer.weights.shape[:2], *two(kernel, 1))
    geometry = (
        two(layer.strides, 1),
        two(layer.pads[: len(kernel)], 0),
        two(layer.dilations, 1),
        two(out.shape[2:], 1),
    )
    if groups == total == x.shape[1] and groups > 1:
        _product(low, layer, weights, "depth", geometry, source)
        return
    if groups > 1:
        per_in, per_out = weights.shape[1], total // groups
        dense = np.zeros((total, x.shape[1], *weights.shape[2:]), dtype=weights.dtype)
        for g in range(groups):
            rows = slice(g * per_out, (g + 1) * per_out)
            dense[rows, g * per_in : (g + 1) * per_in] = weights[rows]
        weights = dense
    _product(low, layer, weights, "dense", geometry, source)


def linear(low: Lowered, layer: L.Linear) -> None:
    """A window as large as the tensor behind a flat vector; of 1x1 where there are many rows."""
    (x,), _ = low.network.layer_tensors(layer)
    if layer.name in low.sparse and columns(low, layer, last=True):
        return
    if math.prod(x.shape[:-1]) == 1:
        view = part_of(low, layer, low.views[x.name])
        source = low.stored[view.stored]
        weights = low.spread_weights(view, layer.weights)
        _product(low, layer, weights, "dense", ((1, 1), (0, 0), (1, 1), (1, 1)), source)
        return
    view = part_of(low, layer, as_rows(low, layer, x.name))
    source = low.stored[view.stored]
    held = np.zeros((len(layer.weights), source.channels, 1, 1), dtype=layer.weights.dtype)
    held[:, places(View(source.name, view.channels, view.channel))[0], 0, 0] = layer.weights
    size = source.height, source.width
    _product(low, layer, held, "dense", ((1, 1), (0, 0), (1, 1), size), source)
