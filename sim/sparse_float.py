"""Sparse float32 weights by dense activations on the host: the papers' kernels.

``C (M, N) = clamp(bias + W (M, K) X (K, N))`` with W in blocks of 1, 2 or 4 rows by one column.
Columns of X are walked in tiles that fit the registers. A tile's part of X is copied side by side
first, so that it fits the nearest cache and no load straddles two lines; then all of W goes over
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden.errors import SparseError
from opennpe.sim import cpu
from opennpe.sim.gemm import WORTH_A_THREAD, run_spans
from opennpe.sim.jit import DISABLED, kernel
from opennpe.sim.sparse_ir import Shape, copy, shape, tile

__all__ = ["FloatWeights", "multiply", "pack"]

Floats = NDArray[np.float32]
LIMIT = 1 << 31
"""Byte offsets into a tile are int32."""
WIDEST = {1: (8, 7, 6, 5, 4, 3, 2, 1), 2: (5, 4, 3, 2, 1), 4: (3, 2, 1)}
"""Vectors across a tile by rows of a block: sums, activations and one weight fit 16 registers."""
MOST_BYTES = 64
"""Bytes of the widest vector."""
NEAR = 48 << 10
"""Bytes of activations of one tile that the nearest caches serve fast enough (measured)."""
TURN = {1: 1.0, 2: 1.5, 4: 1.5}
"""What a turn of the loop costs beside its vectors, in vectors (measured)."""


@dataclass(frozen=True, eq=False)
class FloatWeights:
    """Packed float32 weights.

    Attributes:
        shape: (M, K).
        block: (output channels, input channels) of a block: (1, 1), (2, 1) or (4, 1).
        starts: int64 (B + 1,): first block of each block of rows.
        columns: int32 (S,): input channel of each block.
        values: float32 (S, R).
        rows: int64 (B, R): output row of each lane, -1 beyond the last.
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: Floats
    rows: NDArray[np.int64]
    _held: dict[Any, Any] = field(default_factory=dict)

    def offsets(self, stride: int) -> NDArray[np.int32]:
        """Byte offset of each block's row of activations; the last stride's are remembered."""
        if self._held.get("stride") != stride:
            self._held.update(stride=stride, offsets=self.columns * np.int32(stride))
        return np.asarray(self._held["offsets"])

    def ends(self, bias: ArrayLike | None, clamp: tuple[float, float]) -> Floats:
        """float32 (B, 2 + R): for each block of rows the clamp's bounds, then the biases."""
        if bias is None and self._held.get("clamp") == clamp:
            return np.asarray(self._held["ends"])
        ends = np.zeros((len(self.rows), 2 + self.block[0]), dtype=np.float32)
        ends[:, 0], ends[:, 1] = clamp
        if bias is not None:
            named = self.rows >= 0
            ends[:, 2:][named] = np.asarray(bias, dtype=np.float32)[self.rows[named]]
        else:
            self._held.update(clamp=clamp, ends=ends)
        return ends

    @property
    def nonzeros(self) -> int:
        """Weights stored, zeros inside blocks too."""
        return int(self.values.size)


def pack(weights: ArrayLike, rows: int = 1, sort: bool = False) -> FloatWeights:
    """Pack real weights (M, K); blocks of ``rows`` x 1 that hold a nonzero are stored.

    Args:
        weights: real numbers (M, K).
        rows: output channels of a block: 1 (compressed sparse rows), 2 or 4.
        sort: order rows by falling number of nonzeros, so that rows of a block are alike.

    Raises:
        SparseError: another block, no matrix, or more than an int32 offset reaches.
    """
    dense = np.ascontiguousarray(weights, dtype=np.float32)
    if dense.ndim != 2 or not dense.size:
        raise SparseError(f"packing takes weights (rows, columns), got shape {dense.shape}")
    if rows not in WIDEST:
        raise SparseError(f"blocks of {rows} rows: expected 1, 2 or 4")
    if dense.shape[1] * 8 * MOST_BYTES >= LIMIT:
        raise SparseError(f"{dense.shape[1]} columns: too many for 32-bit offsets; split the layer")
    count, depth = dense.shape
    order = np.arange(count)
    if sort:
        order = np.argsort(-np.count_nonzero(dense, axis=1), kind="stable")
    blocks = -(-count // rows)
    full = np.zeros((blocks * rows, depth), dtype=np.float32)
    full[:count] = dense[order]
    cut = full.reshape(blocks, rows, depth)
    block, column = np.nonzero(cut.any(axis=1))
    named = np.full(blocks * rows, -1, dtype=np.int64)
    named[:count] = order
    return FloatWeights(
        shape=(count, depth),
        block=(rows, 1),
        starts=np.searchsorted(block, np.arange(blocks + 1)).astype(np.int64),
        columns=column.astype(np.int32),
        values=np.ascontiguousarray(cut[block, :, column]),
        rows=named.reshape(blocks, rows),
    )


def multiply(
    packed: FloatWeights,
    x: NDArray[Any],
    bias: ArrayLike | None = None,
    clamp: tuple[float, float] = (-math.inf, math.inf),
    threads: int | None = 1,
    vectors: int | None = None,
) -> Floats:
    """``clamp(bias + W X)`` in float32, fused multiply-adds in one or two chains an output.

    Args:
        packed: weights (M, K).
        x: activations (K, N), converted to float32 rows where they are not.
        bias: (M,).
        clamp: lowest and highest output.
        threads: threads; all cores where None. The result does not depend on it.
        vectors: vectors across a tile; the best for the shape where None.

    Raises:
        SparseError: activations of another depth.
    """
    rows, depth = packed.shape
    held = np.ascontiguousarray(x, dtype=np.float32)
    if held.ndim != 2 or len(held) != depth:
        raise SparseError(f"weights of {depth} columns take x ({depth}, N), got {held.shape}")
    height, columns = packed.block[0], held.shape[1]
    if DISABLED:
        return _plain(packed, held, packed.ends(bias, clamp))
    tiling = choose(height, depth, columns, vectors)
    if columns < tiling.columns:  # filled up to a tile
        full = np.zeros((depth, tiling.columns), dtype=np.float32)
        full[:, :columns] = held
        return multiply(packed, full, bias, clamp, threads, tiling.vectors)[:, :columns].copy()
    out = np.empty((rows, columns), dtype=np.float32)
    offsets, ends = packed.offsets(4 * tiling.columns), packed.ends(bias, clamp)
    parts = max(1, min(cpu.threads(threads), packed.nonzeros * columns // WORTH_A_THREAD))

    def run(span: tuple[int, ...]) -> None:
        _run(tiling.marker, tiling.columns, span[0], parts, packed.starts, offsets, packed.values,
             held, packed.rows, out, ends)  # fmt: skip

    run_spans(run, [(part,) for part in range(parts)])
    return out


@lru_cache(maxsize=1024)
def choose(height: int, depth: int, columns: int, vectors: int | None = None) -> Shape:
    """The tile that wastes least: the last one overlaps its neighbour."""
    isa = cpu.host()
    if vectors is not None:
        return shape("f32", height, vectors, isa)
    # A tile's activations should stay near; very long ones cannot.
    most = max(4, NEAR // (depth * isa.vector_bits // 8))
    widths = [count for count in WIDEST[height] if count <= most]

    def cost(count: int) -> float:
        tiles = -(-columns // (count * isa.vector_bits // 32))
        # Too few sums in flight wait for each other: four cycles of two fused operations.
        return tiles * (max(count * height, 8) / height + TURN[height])

    return shape("f32", height, min(widths, key=cost), isa)


@kernel()
def _run(  # type: ignore[no-untyped-def]
    marker, width, part, parts, starts, offsets, values, x, rows, out, ends
):
    spare = np.empty(out.shape[1], dtype=np.float32)
    places = np.empty(rows.shape, dtype=np.int64)
    for b in range(rows.shape[0]):
        for r in range(rows.shape[1]):
            row = rows[b, r]
            places[b, r] = spare.ctypes.data
            if row >= 0:
                places[b, r] = out.ctypes.data + row * out.strides[0]
    depth, columns = x.shape
    raw = np.empty(depth * width + 16, dtype=np.float32)
    near = (raw.ctypes.data + 63) // 64 * 64
    tiles = (columns + width - 1) // width
    for t in range(tiles * part // parts, tiles * (part + 1) // parts):
        column = min(t * width, columns - width) * 4
        copy(marker, x.ctypes.data + column, x.strides[0], depth, near)
        for b in range(len(starts) - 1):
            begin = starts[b]
            tile(marker, values.ctypes.data + begin * values.strides[0],
                 offsets.ctypes.data + begin * 4, starts[b + 1] - begin, near,
                 places.ctypes.data + b * places.strides[0], column,
                 ends.ctypes.data + b * ends.strides[0])  # fmt: skip


def _plain(packed: FloatWeights, x: Floats, extra: Floats) -> Floats:
    """The same uncompiled, a block of rows at a time; additions are not fused."""
    out = np.zeros((packed.shape[0], x.shape[1]), dtype=np.float32)
    for b, rows in enumerate(packed.rows):
        held = slice(packed.starts[b], packed.starts[b + 1])
        sums = packed.values[held].T @ x[packed.columns[held]] + extra[b, 2:, None]
        inside = rows >= 0
        out[rows[inside]] = np.clip(sums, extra[b, 0], extra[b, 1])[inside]
    return out
