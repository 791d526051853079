"""A layer of a network as sums of operand words: what the array feeds its engines.

A row's operand goes to all lanes of its engines, a column's word holds the weights of neighbouring
channels, and steps go by blocks of channels, taps, channels, as :mod:`opennpe.rtl.sequence` walks.
Depthwise layers, pooling and additions put channels in the lanes of both words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes, mac, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.operands import grid_units

__all__ = ["Product", "layer_product"]

Codes = NDArray[Any]
Floats = NDArray[np.float64]
Select = Callable[[Any, Any], Codes]


@dataclass(frozen=True, eq=False)
class Product:
    """A layer as sums of words.

    Attributes:
        a, b: formats of the operands in the engine's mode.
        pixels, tiles, steps: sums are pixels by tiles, each of so many words.
        rows: function of pixels (S,) and tiles (S,) to words (S, steps) of the first operand.
        weights: the same of the second.
        bias: uint64 (tiles, 4, 2), a lane each, low half first.
        shift: int64 (tiles, 4), powers of two before the rounding.
    """

    a: str
    b: str
    pixels: int
    tiles: int
    steps: int
    rows: Select
    weights: Select
    bias: NDArray[np.uint64]
    shift: NDArray[np.int64]

    def sums(self, pixel: NDArray[np.int64], tile: NDArray[np.int64]) -> tuple[Codes, Codes]:
        """Words (S, steps) of both operands."""
        return self.rows(pixel, tile), self.weights(pixel, tile)


def layer_product(
    spec: CoprocessorSpec, network: Network, layer: L.Layer, values: list[Codes]
) -> Product | None:
    """A layer as sums of words on the engines; None if engines have no part in it."""
    ins, out = network.layer_tensors(layer)
    match layer:
        case L.Conv() if layer.groups == 1:
            found: Product | None = _conv(spec, layer, ins[0], values[0])
        case L.Conv() if layer.weights.shape[1] == 1 and layer.weights.shape[0] == layer.groups:
            found = _depthwise(layer, ins[0], values[0])
        case L.Linear():
            found = _linear(layer, ins[0], values[0])
        case L.MatMul():
            found = _matmul(ins, values)
        case L.Pool() if layer.kind == "average":
            found = _average(layer, ins[0], values[0])
        case L.Add():
            found = _add(layer, ins, values)
        case _:
            found = None
    if found is None or found.a not in formats.ENGINE_FORMATS:
        return None
    return replace(found, shift=found.shift - out.scale)


def _widened(codes: Codes, source: str, target: str) -> Codes:
    if source == target:
        return codes.astype(np.uint16)
    return formats.widen_table(source, target)[codes].astype(np.uint16)


def _spread(codes: Codes, a: str) -> Codes:
    """Codes in all lanes of a word."""
    bits = int(formats.get(a).bits)
    every = sum(1 << at for at in range(0, lanes.WORD_BITS, bits))
    return (codes.astype(np.uint32) * every).astype(np.uint16)


def _tiled(codes: Codes, b: str) -> Codes:
    """Codes (channels, K) to words (tiles, K), channels in lanes, zeros behind the last."""
    share = lanes.lanes(b)
    tiles = -(-len(codes) // share)
    held = np.zeros((tiles * share, codes.shape[1]), dtype=formats.get(b).dtype)
    held[: len(codes)] = codes
    return lanes.pack(b, held.reshape(tiles, share, -1).transpose(0, 2, 1))


def _biases(a: str, b: str, bias: Floats, scales: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Real biases (channels,) on the grid, uint64 (tiles, 4, 2)."""
    share, width = lanes.lanes(a), mac.GROUP_BITS // lanes.lanes(a)
    units = grid_units(np.asarray(bias, dtype=np.float64), mac.grid_exponent(a, b) + scales)
    tiles = -(-len(units) // share)
    found = np.zeros((tiles, 4, 2), dtype=np.uint64)
    mask, half = (1 << width) - 1, (1 << 64) - 1
    for channel, value in enumerate(units.tolist()):
        held = int(value) & mask
        found[channel // share, channel % share] = held & half, held >> 64
    return found


def _offsets(scales: NDArray[np.int64], share: int) -> NDArray[np.int64]:
    """Scales (channels,) as (tiles, 4), 0 where there is no lane."""
    tiles = -(-len(scales) // share)
    found = np.zeros(tiles * share, dtype=np.int64)
    found[: len(scales)] = scales
    return np.pad(found.reshape(tiles, share), ((0, 0), (0, 4 - share)))


@dataclass(frozen=True, eq=False)
class _Windows:
    """Codes under a kernel: ``flat[base[pixel] + offset[channel, tap]]``; the last code is 0."""

    flat: Codes
    base: NDArray[np.int64]
    offset: NDArray[np.int64]


def _windows(codes: Codes, kernel: tuple[int, ...], layer: L.Conv | L.Pool) -> _Windows:
    """What :func:`opennpe.golden.pooling.patches` takes apart, without taking all of it."""
    rank = len(kernel)
    ceil_mode = isinstance(layer, L.Pool) and layer.ceil_mode
    out = shapes.windows(layer, codes.shape[2:], kernel, ceil_mode)
    width = [(0, 0), (0, 0)]
    for i in range(rank):
        reach = (out[i] - 1) * layer.strides[i] + layer.dilations[i] * (kernel[i] - 1) + 1
        extra = max(reach - codes.shape[2 + i] - layer.pads[i] - layer.pads[rank + i], 0)
        width.append((layer.pads[i], layer.pads[rank + i] + extra))
    padded = np.pad(codes, width)
    step = [math.prod(padded.shape[i + 1 :]) for i in range(padded.ndim)]
    base = np.arange(len(codes)) * step[0]
    offset = np.arange(codes.shape[1]) * step[1]
    for i in range(rank):
        base = base[..., None] + np.arange(out[i]) * layer.strides[i] * step[2 + i]
        offset = offset[..., None] + np.arange(kernel[i]) * layer.dilations[i] * step[2 + i]
    flat = np.append(padded.reshape(-1), np.zeros(1, padded.dtype))
    return _Windows(flat, base.reshape(-1), offset.reshape(codes.shape[1], -1))


def _conv(spec: CoprocessorSpec, layer: L.Conv, x: Tensor, codes: Codes) -> Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    windows = _windows(codes, layer.weights.shape[2:], layer)
    # A line of operands holds so many channels.
    channels, taps = windows.offset.shape
    order = _order(channels, taps, spec.line_words * lanes.lanes(x.format))
    offset = windows.offset.reshape(-1)[order]
    flat = layer.weights.reshape(len(layer.weights), -1)[:, order]
    words = _tiled(_widened(flat, layer.weight_format, b), b)

    def rows(pixel: Codes, tile: Codes) -> Codes:
        found = windows.flat[windows.base[pixel][:, None] + offset]
        return _spread(_widened(found, x.format, a), a)

    return _constant(layer, x, a, b, len(windows.base), words, rows)


def _constant(
    layer: L.Conv | L.Linear, x: Tensor, a: str, b: str, pixels: int, words: Codes, rows: Select
) -> Product:
    """A product with constant weights (tiles, steps)."""
    scales = np.asarray(layer.weight_scale, dtype=np.int64) + x.scale
    return Product(
        a,
        b,
        pixels,
        len(words),
        words.shape[1],
        rows,
        lambda pixel, tile: words[tile],
        _biases(a, b, layer.bias, scales),
        _offsets(scales, lanes.lanes(a)),
    )


def _order(channels: int, taps: int, size: int) -> NDArray[np.int64]:
    """Terms (channel, tap) in the order of the walk: blocks of channels, taps, channels."""
    terms = np.arange(channels * taps).reshape(channels, taps)
    blocks = [terms[at : at + size].T.reshape(-1) for at in range(0, channels, size)]
    return np.concatenate(blocks)


def _linear(layer: L.Linear, x: Tensor, codes: Codes) -> Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    flat = codes.reshape(-1, codes.shape[-1])
    words = _tiled(_widened(layer.weights, layer.weight_format, b), b)

    def rows(pixel: Codes, tile: Codes) -> Codes:
        return _spread(_widened(flat[pixel], x.format, a), a)

    return _constant(layer, x, a, b, len(flat), words, rows)


def _matmul(ins: list[Tensor], values: list[Codes]) -> Product:
    a, b = mac.compute_formats(ins[0].format, ins[1].format)
    lead = np.broadcast_shapes(values[0].shape[:-2], values[1].shape[:-2])
    left = np.broadcast_to(values[0], (*lead, *values[0].shape[-2:]))
    right = np.broadcast_to(values[1], (*lead, *values[1].shape[-2:]))
    rows = left.shape[-2]
    flat = left.reshape(-1, left.shape[-1])
    sides = right.reshape(-1, *right.shape[-2:])
    words = np.stack([_tiled(_widened(side.T, ins[1].format, b), b) for side in sides])
    tiles = words.shape[1]
    return Product(
        a,
        b,
        len(flat),
        tiles,
        words.shape[2],
        lambda pixel, tile: _spread(_widened(flat[pixel], ins[0].format, a), a),
        lambda pixel, tile: words[pixel // rows, tile],
        np.zeros((tiles, 4, 2), dtype=np.uint64),
        np.full((tiles, 4), ins[0].scale + ins[1].scale, dtype=np.int64),
    )


def _by_channel(windows: _Windows, source: str, mode: str) -> Select:
    """Words of channels in lanes."""
    share = lanes.lanes(mode)
    channels, taps = windows.offset.shape
    tiles = -(-channels // share)
    offset = np.zeros((tiles * share, taps), dtype=np.int64)
    offset[:channels] = windows.offset
    there = (np.arange(tiles * share) < channels).reshape(tiles, share, 1)
    groups = offset.reshape(tiles, share, taps)

    def rows(pixel: Codes, tile: Codes) -> Codes:
        place = windows.base[pixel][:, None, None] + groups[tile]
        found = windows.flat[np.where(there[tile], place, len(windows.flat) - 1)]
        return lanes.pack(mode, _widened(found, source, mode).transpose(0, 2, 1))

    return rows


def _depthwise(layer: L.Conv, x: Tensor, codes: Codes) -> Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    windows = _windows(codes, layer.weights.shape[2:], layer)
    flat = layer.weights.reshape(len(layer.weights), -1)
    words = _tiled(_widened(flat, layer.weight_format, b), b)
    rows = _by_channel(windows, x.format, a)
    return _constant(layer, x, a, b, len(windows.base), words, rows)


def _by_one(mode: str, windows: _Windows, scale: int) -> Product:
    """Sums of words by channel, times one."""
    one = int(formats.get(mode).encode(1.0))
    word = int(_spread(np.array(one), mode))
    channels, taps = windows.offset.shape
    tiles = -(-channels // lanes.lanes(mode))
    return Product(
        mode,
        mode,
        len(windows.base),
        tiles,
        taps,
        _by_channel(windows, mode, mode),
        lambda pixel, tile: np.full((len(tile), taps), word, dtype=np.uint16),
        np.zeros((tiles, 4, 2), dtype=np.uint64),
        np.full((tiles, 4), scale, dtype=np.int64),
    )


def _average(layer: L.Pool, x: Tensor, codes: Codes) -> Product | None:
    """The mean over a window: a sum of products by one; its last factor is left out."""
    if x.format not in formats.ENGINE_FORMATS:
        return None
    steps = math.prod(layer.kernel).bit_length() - 1
    return _by_one(x.format, _windows(codes, layer.kernel, layer), x.scale - steps)


def _add(layer: L.Add, ins: list[Tensor], values: list[Codes]) -> Product | None:
    """A sum of two tensors: products by one, two words a sum; None where formats differ."""
    if ins[0].format != ins[1].format or ins[0].format not in formats.ENGINE_FORMATS:
        return None
    arrays = np.broadcast_arrays(*values)
    if arrays[0].ndim < 2:
        return None
    count, channels = arrays[0].shape[:2]
    flat = np.concatenate([x.reshape(-1) for x in arrays] + [np.zeros(1, arrays[0].dtype)])
    inner = math.prod(arrays[0].shape[2:])
    base = (np.arange(count)[:, None] * channels * inner + np.arange(inner)).reshape(-1)
    offset = np.arange(channels)[:, None] * inner + np.array([0, arrays[0].size])
    return _by_one(ins[0].format, _Windows(flat, base, offset), max(t.scale for t in ins))
