"""What the engines do in each layer of a network, in the classes that energies are known for.

A small layer is counted whole, of a large one some sums spread evenly over it, always the same
ones: figures do not depend on threads or on a seed. What is counted is what the layer defines;
engines that stand idle because a tile is not full meet words of zeros, which
:meth:`LayerActivity.padded` adds once it is known how many steps the array made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.reference import patches
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import executor
from opennpe.sim.operands import grid_units
from opennpe.sim.word_activity import Sums, count
from opennpe.tech.coefficients import CLASSES, mode_of

__all__ = ["BUDGET", "LayerActivity", "activity", "layer_activity"]

Codes = NDArray[Any]
Floats = NDArray[np.float64]

BUDGET = 1 << 16
"""Words of a layer that are looked at; a layer of at most so many is counted whole."""
MAX_SAMPLES = 4
"""Samples of a batch that are looked at, evenly spread."""
RATIO = (math.sqrt(5) - 1) / 2
"""Steps through the outputs by the golden ratio: any number of them lies evenly."""


@dataclass(frozen=True, eq=False)
class LayerActivity:
    """A layer's events, all its engines and samples together.

    Attributes:
        name: the layer's. mode: of the engine, a key of ``Coefficients.energy_fj``; empty where
            no engine works.
        counts: float64 (classes,), scaled up to the whole layer where it was sampled.
        words: word pairs that the layer defines. looked_at: those that were counted.
        error: standard error of the mean work of a word, by sampling, as a share of it.
    """

    name: str
    mode: str
    counts: Floats
    words: int
    looked_at: int
    error: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the whole layer was looked at."""
        return self.looked_at == self.words

    def times(self, factor: float) -> LayerActivity:
        """The same for more samples like these."""
        return replace(self, counts=self.counts * factor, words=round(self.words * factor))

    def padded(self, engine_steps: int) -> LayerActivity:
        """The same with the words of zeros that make up so many engine steps.

        Raises:
            DataError: fewer steps than the layer has words.
        """
        more = engine_steps - self.words
        if more < 0:
            raise DataError(
                f"layer '{self.name}' has {self.words} words, its engines made {engine_steps} steps"
            )
        counts = self.counts.copy()
        counts[CLASSES.index("zero_word")] += more
        return replace(self, counts=counts)


def activity(
    spec: CoprocessorSpec,
    network: Network,
    inputs: Mapping[str, Any],
    threads: int | None = None,
    budget: int = BUDGET,
) -> tuple[LayerActivity, ...]:
    """Events of every layer in order.

    Args:
        inputs: as :func:`opennpe.sim.executor.run` takes them.
        budget: words of a layer to look at.

    Raises:
        OpenNPEError: as :func:`opennpe.sim.executor.run`.
    """
    keep = tuple(network.tensors[name].name for x in network.layers for name in x.inputs)
    keep = tuple(n for n in dict.fromkeys(keep) if n not in network.constants)
    values, _ = executor.run(spec, network, inputs, threads, keep)
    share = 1.0
    if network.batch_axis == 0 and network.inputs:
        samples = len(np.asarray(inputs[network.inputs[0]]))
        chosen = np.unique(np.linspace(0, samples - 1, min(samples, MAX_SAMPLES)).astype(int))
        values = {name: codes[chosen] for name, codes in values.items()}
        share = samples / len(chosen)
    held = dict(values) | {name: np.asarray(c) for name, c in network.constants.items()}
    found = [
        layer_activity(spec, network, layer, [held[n] for n in layer.inputs], budget)
        for layer in network.layers
    ]
    return tuple(x if share == 1.0 else x.times(share) for x in found)


def layer_activity(
    spec: CoprocessorSpec,
    network: Network,
    layer: L.Layer,
    values: list[Codes],
    budget: int = BUDGET,
) -> LayerActivity:
    """Events of one layer, given its operands' codes (channels first)."""
    ins, _ = network.layer_tensors(layer)
    match layer:
        case L.Conv() if layer.groups == 1:
            found: _Product | None = _conv(spec, layer, ins[0], values[0])
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
    if found is None:
        return LayerActivity(layer.name, "", np.zeros(len(CLASSES)), 0, 0)
    return _counted(layer.name, found, budget)


@dataclass(frozen=True, eq=False)
class _Product:
    """A layer as sums of words.

    Attributes:
        a, b: formats of the operands in the engine's mode.
        pixels, tiles, steps: sums are pixels by tiles, each of so many words.
        rows: function of pixels (S,) and tiles (S,) to words (S, steps) of the first operand.
        weights: the same of the second.
        bias: uint64 (tiles, 4, 2).
    """

    a: str
    b: str
    pixels: int
    tiles: int
    steps: int
    rows: Any
    weights: Any
    bias: NDArray[np.uint64]


def _counted(name: str, product: _Product, budget: int) -> LayerActivity:
    sums = product.pixels * product.tiles
    words = sums * product.steps
    if words <= budget:
        # One engine after the other: pixels inside a tile.
        index = np.arange(sums)
    else:
        take = max(budget // product.steps, 2)
        # Pairs of sums that follow each other, so that beginnings count as they are.
        base = np.floor((np.arange(take // 2) * RATIO % 1.0) * (sums - 1)).astype(np.int64)
        index = (base[:, None] + np.arange(2)).reshape(-1)
    tile, pixel = index // product.pixels, index % product.pixels
    runs = np.arange(0, len(index) + 1, 2 if words > budget else len(index))
    held = Sums(
        np.ascontiguousarray(product.rows(pixel, tile), dtype=np.uint16).reshape(-1),
        np.ascontiguousarray(product.weights(pixel, tile), dtype=np.uint16).reshape(-1),
        np.arange(len(index) + 1, dtype=np.int64) * product.steps,
        runs.astype(np.int64),
        product.bias[tile],
    )
    found = count(product.a, product.b, held)
    looked_at = len(index) * product.steps
    total = found.sum(axis=0) * (words / looked_at)
    # A run's first word has no toggles to count.
    total[4:] *= looked_at / max(looked_at - len(found), 1)
    work = found[:, 0] / (np.diff(runs) * product.steps)
    error = 0.0
    if len(work) > 1 and work.mean() > 0:
        error = float(work.std(ddof=1) / math.sqrt(len(work)) / work.mean())
    return LayerActivity(name, mode_of(product.a, product.b), total, words, looked_at, error)


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


def _conv(spec: CoprocessorSpec, layer: L.Conv, x: Tensor, codes: Codes) -> _Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    kernel = layer.weights.shape[2:]
    # (..., channels, taps) by output pixel; a line of operands holds so many channels.
    windows = patches(codes, kernel, layer, 0)
    lead = windows.shape[:-2]
    size = spec.line_words * lanes.lanes(x.format)
    order = _order(windows.shape[-2], windows.shape[-1], size)
    flat = windows.reshape(math.prod(lead), -1)
    words = _tiled(
        _widened(layer.weights.reshape(len(layer.weights), -1)[:, order], layer.weight_format, b), b
    )
    scales = np.asarray(layer.weight_scale) + x.scale
    return _Product(
        a,
        b,
        len(flat),
        len(words),
        words.shape[1],
        lambda pixel, tile: _spread(_widened(flat[pixel][:, order], x.format, a), a),
        lambda pixel, tile: words[tile],
        _biases(a, b, layer.bias, scales),
    )


def _order(channels: int, taps: int, size: int) -> NDArray[np.int64]:
    """Terms (channel, tap) in the order of the walk: blocks of channels, taps, channels."""
    terms = np.arange(channels * taps).reshape(channels, taps)
    blocks = [terms[at : at + size].T.reshape(-1) for at in range(0, channels, size)]
    return np.concatenate(blocks)


def _linear(layer: L.Linear, x: Tensor, codes: Codes) -> _Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    flat = codes.reshape(-1, codes.shape[-1])
    words = _tiled(_widened(layer.weights, layer.weight_format, b), b)
    return _Product(
        a,
        b,
        len(flat),
        len(words),
        words.shape[1],
        lambda pixel, tile: _spread(_widened(flat[pixel], x.format, a), a),
        lambda pixel, tile: words[tile],
        _biases(a, b, layer.bias, np.asarray(layer.weight_scale) + x.scale),
    )


def _matmul(ins: list[Tensor], values: list[Codes]) -> _Product:
    a, b = mac.compute_formats(ins[0].format, ins[1].format)
    lead = np.broadcast_shapes(values[0].shape[:-2], values[1].shape[:-2])
    left = np.broadcast_to(values[0], (*lead, *values[0].shape[-2:]))
    right = np.broadcast_to(values[1], (*lead, *values[1].shape[-2:]))
    count = math.prod(lead)
    rows = left.shape[-2]
    flat = left.reshape(count * rows, -1)
    sides = right.reshape(count, *right.shape[-2:])
    words = np.stack([_tiled(_widened(side.T, ins[1].format, b), b) for side in sides])
    return _Product(
        a,
        b,
        len(flat),
        words.shape[1],
        words.shape[2],
        lambda pixel, tile: _spread(_widened(flat[pixel], ins[0].format, a), a),
        lambda pixel, tile: words[pixel // rows, tile],
        np.zeros((words.shape[1], 4, 2), dtype=np.uint64),
    )


def _by_channel(windows: Codes, source: str, mode: str) -> Codes:
    """Codes (..., channels, taps) as words (pixels, tiles, taps), channels in lanes."""
    flat = windows.reshape(-1, *windows.shape[-2:])
    share = lanes.lanes(mode)
    tiles = -(-flat.shape[1] // share)
    held = np.zeros((len(flat), tiles * share, flat.shape[2]), dtype=formats.get(mode).dtype)
    held[:, : flat.shape[1]] = _widened(flat, source, mode)
    return lanes.pack(mode, held.reshape(len(flat), tiles, share, -1).transpose(0, 1, 3, 2))


def _depthwise(layer: L.Conv, x: Tensor, codes: Codes) -> _Product:
    a, b = mac.compute_formats(x.format, layer.weight_format)
    words_a = _by_channel(patches(codes, layer.weights.shape[2:], layer, 0), x.format, a)
    flat = layer.weights.reshape(len(layer.weights), -1)
    words_b = _tiled(_widened(flat, layer.weight_format, b), b)
    bias = _biases(a, b, layer.bias, np.asarray(layer.weight_scale) + x.scale)
    return _by_element(a, b, words_a, words_b, bias)


def _by_element(a: str, b: str, words_a: Codes, words_b: Codes, bias: Any) -> _Product:
    return _Product(
        a,
        b,
        len(words_a),
        words_a.shape[1],
        words_a.shape[2],
        lambda pixel, tile: words_a[pixel, tile],
        lambda pixel, tile: words_b[tile],
        bias,
    )


def _ones(b: str, tiles: int, steps: int) -> Codes:
    one = int(formats.get(b).encode(1.0))
    return np.broadcast_to(_spread(np.array(one), b), (tiles, steps))


def _average(layer: L.Pool, x: Tensor, codes: Codes) -> _Product:
    """The mean over a window: products by one; the division is the shift and a constant."""
    words = _by_channel(patches(codes, layer.kernel, layer, 0), x.format, x.format)
    bias = np.zeros((words.shape[1], 4, 2), dtype=np.uint64)
    return _by_element(x.format, x.format, words, _ones(x.format, *words.shape[1:]), bias)


def _add(layer: L.Add, ins: list[Tensor], values: list[Codes]) -> _Product | None:
    """A sum of two tensors: products by one, two words a sum; None where formats differ."""
    if ins[0].format != ins[1].format or ins[0].format not in formats.ENGINE_FORMATS:
        return None
    mode = ins[0].format
    arrays = np.broadcast_arrays(*values)
    if arrays[0].ndim < 2:
        return None
    pair = np.stack([np.moveaxis(x, 1, -1) for x in arrays], axis=-1)
    words = _by_channel(pair, mode, mode)
    bias = np.zeros((words.shape[1], 4, 2), dtype=np.uint64)
    return _by_element(mode, mode, words, _ones(mode, *words.shape[1:]), bias)
