"""Dense codes to packed sparse weights, and the rules that choose a packing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import mac
from opennpe.golden.errors import SparseError
from opennpe.golden.sparse import (
    BlockRows,
    Codes,
    DeltaRows,
    Ints,
    Packed,
    Steps,
    Structured,
    delta_range,
)

__all__ = [
    "BLOCK_FILL",
    "best",
    "block_fill",
    "choose_rows",
    "pack_blocks",
    "pack_delta",
    "pack_structured",
    "structures",
]

BLOCK_FILL = 0.9
"""Share of the weights inside stored blocks that must be nonzero for blocks to pay (the rule of
Fast Sparse ConvNets' kernels)."""
INDEX_BITS = (8, 16, 32)
STRUCTURES = ((1, 4), (2, 4))
"""N:M patterns that are looked for."""


def _matrix(weights: ArrayLike, name: str) -> Codes:
    fmt = mac.operand_format(name)
    codes = fmt.check_codes(weights)
    if codes.ndim != 2 or not codes.size:
        raise SparseError(f"packing takes codes (rows, columns), got shape {codes.shape}")
    return np.asarray(codes.astype(fmt.dtype))


def _sorted(codes: Codes, sort: bool) -> tuple[Codes, Ints | None]:
    """Rows by falling number of nonzero codes; equal rows keep their order."""
    if not sort:
        return codes, None
    order = np.argsort(-np.count_nonzero(codes, axis=1), kind="stable").astype(np.int64)
    return codes[order], order


def _blocks(codes: Codes, height: int) -> tuple[Ints, Ints, Codes]:
    """Row block, column and codes (S, height) of every block that is not all zero."""
    rows, columns = codes.shape
    full = np.zeros((-(-rows // height) * height, columns), dtype=codes.dtype)
    full[:rows] = codes
    cut = full.reshape(-1, height, columns)
    block, column = np.nonzero(cut.any(axis=1))
    return block.astype(np.int64), column.astype(np.int64), cut[block, :, column]


def pack_delta(
    weights: ArrayLike,
    name: str,
    rows: int | None = None,
    delta_bits: int = 8,
    steps: Steps = "cyclic",
    sort: bool = False,
) -> DeltaRows:
    """Unstructured weights (M, K) with column steps.

    Args:
        weights: codes.
        name: their format.
        rows: output channels of a block: 1, 2 or 4; :func:`choose_rows` where None.
        delta_bits: 4, 8 or 16.
        steps: "cyclic" or "signed" (:class:`opennpe.golden.sparse.DeltaRows`).
        sort: order rows by their number of nonzero codes.

    Raises:
        SparseError: a shape or option that does not exist.
    """
    codes, order = _sorted(_matrix(weights, name), sort)
    height = choose_rows(codes) if rows is None else rows
    if height < 1:
        raise SparseError(f"blocks of {height} rows: expected 1, 2 or 4")
    block, column, values = _blocks(codes, height)
    blocks = -(-len(codes) // height)
    gaps = np.diff(column, append=column[:1])
    low, high = delta_range(delta_bits, steps)
    if steps == "cyclic":
        gaps = gaps % codes.shape[1]
    ahead = -(-gaps // high)
    back = -(-gaps // low) if low else np.zeros_like(gaps)
    pieces = np.maximum(np.where(gaps < 0, back, ahead), 1)
    last = np.cumsum(pieces) - 1
    whole = np.where(gaps < 0, low, high)
    deltas = np.repeat(whole, pieces)
    deltas[last] = gaps - whole * (pieces - 1)
    stored = np.zeros((len(deltas), height), dtype=codes.dtype)
    stored[last - pieces + 1] = values
    return DeltaRows(
        format=name,
        shape=codes.shape,
        block=(height, 1),
        delta_bits=delta_bits,
        steps=steps,
        first=int(column[0]) if column.size else 0,
        counts=np.bincount(block, weights=pieces, minlength=blocks).astype(np.int64),
        deltas=deltas,
        values=stored,
        order=order,
    )


def pack_blocks(
    weights: ArrayLike,
    name: str,
    rows: int = 4,
    group: int = 1,
    index_bits: int | None = None,
    sort: bool = False,
) -> BlockRows:
    """Constant blocks of ``rows`` x 1 with column indices.

    Args:
        weights: codes (M, K).
        name: their format.
        rows: output channels of a block: 1, 2, 4, 8 or 16.
        group: 1, or 4 for tiles of four blocks.
        index_bits: width of an index; the narrowest of 8, 16 and 32 where None.
        sort: order rows by their number of nonzero codes.

    Raises:
        SparseError: a shape or option that does not exist.
    """
    codes, order = _sorted(_matrix(weights, name), sort)
    if rows < 1 or group < 1:
        raise SparseError(f"blocks of {rows} rows in groups of {group}: expected at least 1")
    block, column, values = _blocks(codes, rows)
    counts = np.bincount(block, minlength=-(-len(codes) // rows))
    padded = -(-counts // group) * group
    # Where a block goes: after the padding of the blocks of rows before its own.
    shift = np.concatenate([[0], np.cumsum(padded - counts)])[:-1]
    place = np.arange(len(block)) + shift[block]
    full = np.zeros((int(padded.sum()), rows), dtype=codes.dtype)
    full[place] = values
    # Padding takes the index of the last block before it.
    source = np.zeros(len(full), dtype=np.int64)
    source[place] = np.arange(len(block))
    source = np.maximum.accumulate(source)
    if index_bits is None:
        index_bits = next(b for b in INDEX_BITS if codes.shape[1] <= 1 << b)
    return BlockRows(
        format=name,
        shape=codes.shape,
        block=(rows, 1),
        group=group,
        index_bits=index_bits,
        counts=padded.astype(np.int64),
        columns=column[source] if len(full) else np.zeros(0, np.int64),
        values=full,
        order=order,
    )


def pack_structured(weights: ArrayLike, name: str, n: int = 2, m: int = 4) -> Structured:
    """N:M weights (M, K) with the index of each within its group.

    Raises:
        SparseError: a group with more than N nonzero codes, named.
    """
    codes = _matrix(weights, name)
    if not 1 <= n <= m:
        raise SparseError(f"{n}:{m} sparsity: expected 1 <= N <= M")
    cut = _grouped(codes, m)
    held = np.count_nonzero(cut, axis=2)
    if held.max() > n:
        row, group = np.argwhere(held > n)[0]
        raise SparseError(
            f"row {row} has {held[row, group]} nonzero weights in columns {group * m} to "
            f"{group * m + m - 1}, {n}:{m} sparsity allows {n}: prune the layer first"
        )
    # The nonzero first, then the lowest columns left; ascending again.
    chosen = np.sort(np.argsort(cut == 0, axis=2, kind="stable")[:, :, :n], axis=2)
    return Structured(
        format=name,
        shape=codes.shape,
        n=n,
        m=m,
        indices=chosen.astype(np.int64),
        values=np.take_along_axis(cut, chosen, axis=2),
    )


def _grouped(codes: NDArray[Any], m: int) -> NDArray[Any]:
    """(M, K) as (M, ceil(K/m), m), zeros behind the last column."""
    rows, columns = codes.shape
    full = np.zeros((rows, -(-columns // m) * m), dtype=codes.dtype)
    full[:, :columns] = codes
    return full.reshape(rows, -1, m)


def block_fill(weights: ArrayLike, rows: int) -> float:
    """Share of the weights inside blocks of ``rows`` x 1 that are nonzero; 1 where none is."""
    held = np.asarray(weights) != 0
    count = len(held)
    inside = 0
    for first in range(0, count, rows):
        part = held[first : first + rows]
        inside += len(part) * int(part.any(axis=0).sum())
    return int(held.sum()) / inside if inside else 1.0


def choose_rows(weights: ArrayLike) -> int:
    """4 where at least 90 % of the weights inside blocks of 4 are nonzero, else 2, else 1."""
    return next((r for r in (4, 2) if block_fill(weights, r) >= BLOCK_FILL), 1)


def structures(weights: ArrayLike) -> tuple[tuple[int, int], ...]:
    """The N:M patterns that the weights keep, sparsest first."""
    held = np.asarray(weights) != 0
    return tuple(
        (n, m) for n, m in STRUCTURES if np.count_nonzero(_grouped(held, m), axis=2).max() <= n
    )


def best(weights: ArrayLike, name: str) -> Packed:
    """The packing of the fewest bits."""
    codes = _matrix(weights, name)
    packed: list[Packed] = [
        pack_delta(codes, name, rows, bits) for rows in (1, 2, 4) for bits in (4, 8, 16)
    ]
    packed += [pack_blocks(codes, name, 4)]
    packed += [pack_structured(codes, name, n, m) for n, m in structures(codes)]
    return min(packed, key=lambda p: p.bits().total)
