"""The output-stationary array: how a matrix product is tiled, and the cycles that takes.

A tile is ``rows`` outputs (pixels or tokens) by ``columns * lanes`` output channels. Each cycle one
element of K enters: a row's activation is broadcast to all lanes of its engines, a column's word
holds the weights of ``lanes`` neighbouring channels. Operands are double-buffered, so tiles follow
one another without a gap as long as the shared round unit of an engine keeps up: a tile occupies
``max(K, lanes)`` cycles. The last tile's results leave ``latency + lanes - 1`` cycles after its
last operand. Depthwise convolutions put channels in the lanes of both words. Memory is not
modelled here: see the co-processor's cycle model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.golden.spec import ArraySpec, CoprocessorSpec

__all__ = ["Tile", "Work", "layer_work", "matmul", "tiles"]


@dataclass(frozen=True)
class Tile:
    """Rows and columns of one tile of an (M, N) result."""

    rows: slice
    columns: slice


@dataclass(frozen=True)
class Work:
    """What one layer asks of the array for one run.

    Attributes:
        macs: multiply-accumulates of the layer's definition.
        cycles: cycles of the array, closed form.
        words_in: 16-bit operand words entering the array's edges.
        words_out: 16-bit words of results, packed.
    """

    macs: int = 0
    cycles: int = 0
    words_in: int = 0
    words_out: int = 0


def tiles(spec: ArraySpec, m: int, n: int, lanes: int) -> Iterator[Tile]:
    """Tiles of an (m, n) result, columns inner."""
    width = spec.columns * lanes
    for row in range(0, m, spec.rows):
        for column in range(0, n, width):
            yield Tile(slice(row, min(row + spec.rows, m)), slice(column, min(column + width, n)))


def matmul(
    spec: CoprocessorSpec,
    f: str,
    a: ArrayLike,
    b: ArrayLike,
    out_format: str | None = None,
    shift: int = 0,
) -> NDArray[Any]:
    """Codes (M, K) x (K, N) -> (M, N) tile by tile, each output an exact sum and one rounding."""
    codes_a, codes_b = np.asarray(a), np.asarray(b)
    out = mac.operand_format(out_format or f)
    m, n = codes_a.shape[0], codes_b.shape[1]
    result = np.zeros((m, n), dtype=out.dtype)
    exponent = mac.grid_exponent(f, f) + shift
    for tile in tiles(spec.array, m, n, spec.engine.lanes(f)):
        sums, nan = mac.exact_sums(f, f, codes_a[tile.rows], codes_b[:, tile.columns])
        for i, j in np.ndindex(sums.shape):
            code = mac.round_sum(out, sums[i, j], exponent, nan[i, j], spec.underflow)
            result[tile.rows.start + i, tile.columns.start + j] = code
    return result


def layer_work(spec: CoprocessorSpec, network: Network, layer: L.Layer, batch: int = 1) -> Work:
    """Cycles and words of one layer for ``batch`` samples.

    Convolutions, products with weights and products of two tensors run on the array. Additions,
    multiplications and pooling pass through the engines' accumulators, a lane group a cycle an
    engine. Layers that only move codes take no engine cycles; the words they move are counted.
    """
    ins, out = network.layer_tensors(layer)
    lanes = spec.engine.lanes(_mode(layer, ins))
    elements = [math.prod(t.shape) * batch for t in ins]
    outputs = math.prod(out.shape) * batch
    words_out = -(-outputs // spec.engine.lanes(out.format))
    array = spec.array
    if isinstance(layer, L.Conv | L.Linear | L.MatMul):
        groups, m, n, k = _gemm_extent(layer, ins, out, batch)
        depthwise = isinstance(layer, L.Conv) and layer.groups > 1 and n == 1
        if depthwise:
            groups, n = 1, layer.groups if isinstance(layer, L.Conv) else 1
        row_tiles = -(-m // array.rows)
        column_tiles = -(-n // (array.columns * lanes))
        step = max(k, lanes)
        cycles = groups * row_tiles * column_tiles * step + spec.engine.latency + lanes - 1
        a_words = row_tiles * array.rows * column_tiles * k * groups
        if depthwise:
            a_words *= array.columns
        b_words = column_tiles * array.columns * row_tiles * k * groups
        return Work(network.macs(layer) * batch, cycles, a_words + b_words, words_out)
    words_in = sum(
        -(-count // spec.engine.lanes(t.format)) for count, t in zip(elements, ins, strict=True)
    )
    cycles = 0
    if isinstance(layer, L.Add | L.Mul | L.Pool):
        taps = math.prod(layer.kernel) if isinstance(layer, L.Pool) else len(ins)
        groups = -(-outputs // (array.rows * array.columns * lanes))
        cycles = groups * max(taps, lanes) + spec.engine.latency + lanes - 1
    return Work(0, cycles, words_in, words_out)


def _mode(layer: L.Layer, ins: list[Any]) -> str:
    """The format whose lanes a layer runs in: the wider of its operands'."""
    names = [t.format for t in ins if t.format != formats.INDEX.name]
    if isinstance(layer, L.Conv | L.Linear):
        names.append(layer.weight_format)
    if not names:
        return str(formats.INDEX.name)
    return str(max(names, key=lambda name: int(mac.operand_format(name).bits)))


def _gemm_extent(
    layer: L.Conv | L.Linear | L.MatMul, ins: list[Any], out: Any, batch: int
) -> tuple[int, int, int, int]:
    """(groups, M, N, K) of the products a layer is."""
    if isinstance(layer, L.Conv):
        pixels = out.shape[0] * math.prod(out.shape[2:]) * batch
        channels = layer.weights.shape[0] // layer.groups
        return layer.groups, pixels, channels, math.prod(layer.weights.shape[1:])
    if isinstance(layer, L.Linear):
        return 1, math.prod(out.shape[:-1]) * batch, out.shape[-1], layer.weights.shape[1]
    groups = math.prod(out.shape[:-2]) * batch
    return groups, out.shape[-2], out.shape[-1], ins[0].shape[-1]
