"""Sparse weights as packed data: unstructured with column differences, constant blocks, N:M.

A matrix of weight codes (M output channels, K input channels) is cut into blocks of ``block =
(output channels, input channels)``; only blocks with a nonzero code are stored. The axes stand in
the data because "4x1" means one thing to one tool and its transpose to another. Zero is the code
0; any other code (fp4's minus zero too) is stored, so ``unpack(pack(w)) == w`` to the bit.

- :class:`DeltaRows`: blocks of 1, 2 or 4 output channels; a step in K from each block to the next,
  which runs on across the rows and returns to the first (Elsen et al., *Fast Sparse ConvNets*,
  arXiv 1911.09723, and the kernels of its library).
- :class:`BlockRows`: the same blocks with a column index each, in groups of four if wanted (the
  4x4 tiles of arXiv 2306.16601).
- :class:`Structured`: N of every M neighbouring input channels.

All three lower to one :class:`Stream`: for each block of rows its blocks in order, which is what
an engine executes. Construction checks every invariant; packing is in
:mod:`opennpe.golden.sparse_pack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import mac
from opennpe.golden.sparse_checks import (
    check_codes,
    check_columns,
    check_counts,
    check_last_rows,
    check_order,
    check_shape,
    integers,
    require,
)

__all__ = [
    "DELTA_BITS",
    "DELTA_ROWS",
    "BlockRows",
    "DeltaRows",
    "Packed",
    "Storage",
    "Stream",
    "Structured",
    "bitmask_bits",
    "dense_bits",
    "unpack",
]

Codes = NDArray[Any]
Ints = NDArray[np.int64]
Steps = Literal["cyclic", "signed"]

DELTA_ROWS = (1, 2, 4)
"""Output channels of a block of :class:`DeltaRows`."""
DELTA_BITS = (4, 8, 16)
"""Widths of its steps."""
BLOCK_ROWS = (1, 2, 4, 8, 16)
"""Output channels of a block of :class:`BlockRows`."""
GROUPS = (1, 4)
"""Blocks of :class:`BlockRows` stored together: one, or four as a tile of 4 columns."""


@dataclass(frozen=True)
class Storage:
    """Bits of packed weights by what they hold. Widths themselves (a layer's header) are left out.

    Attributes:
        values: codes of blocks that are not all zero.
        fillers: codes, indices or steps of stored blocks that are all zero.
        indices: column indices or steps of the others.
        counts: stored blocks of each block of rows.
        first: column the first step starts from.
        order: original row of each stored row, where rows were sorted.
    """

    values: int
    fillers: int
    indices: int
    counts: int
    first: int
    order: int
    weights: int

    @property
    def total(self) -> int:
        """All bits."""
        return self.values + self.fillers + self.indices + self.counts + self.first + self.order

    @property
    def per_weight(self) -> float:
        """Bits per weight of the dense matrix."""
        return self.total / self.weights


@dataclass(frozen=True, eq=False)
class Stream:
    """What an engine executes: for every block of rows, multiply-accumulates of one column each.

    Attributes:
        shape: (M, K) of the dense matrix.
        rows: int64 (B, R): output channel of each accumulator, -1 beyond the last channel.
        starts: int64 (B + 1,): first block of each block of rows.
        columns: int64 (S,): input channel of each stored block, fillers included.
        values: codes (S, R).
    """

    shape: tuple[int, int]
    rows: Ints
    starts: Ints
    columns: Ints
    values: Codes


def dense_bits(shape: tuple[int, int], name: str) -> int:
    """Bits of the dense matrix."""
    return shape[0] * shape[1] * int(mac.operand_format(name).bits)


def bitmask_bits(weights: Codes, name: str) -> int:
    """Bits of nonzero codes with a bit a weight that tells where they are; for comparison."""
    return weights.size + int(np.count_nonzero(weights)) * int(mac.operand_format(name).bits)


def _rows(shape: tuple[int, int], height: int, order: Ints | None) -> Ints:
    blocks = -(-shape[0] // height)
    rows = np.full(blocks * height, -1, dtype=np.int64)
    rows[: shape[0]] = np.arange(shape[0]) if order is None else order
    return rows.reshape(blocks, height)


def _bits_for(largest: int) -> int:
    return max(1, int(largest).bit_length())


def _order_bits(order: Ints | None, rows: int) -> int:
    return 0 if order is None else rows * _bits_for(rows - 1)


@dataclass(frozen=True, eq=False)
class DeltaRows:
    """Blocks of ``block = (R, 1)``, R of 1, 2 or 4, each with the step to the next block's column.

    The stream starts at column ``first``; every stored block is followed by its step, the last by
    the step back to ``first``. ``steps`` is "signed" (two's complement: the steps add up to 0) or
    "cyclic" (unsigned, columns count modulo K: they add up to a multiple of K; a new row costs no
    step back, which narrow steps could only make in many pieces). A step too long for its width is
    made in several, with blocks of zeros (fillers) between.

    Attributes:
        format: number format of the codes.
        shape: (M, K).
        block: (output channels, input channels) of a block.
        delta_bits: 4, 8 or 16.
        steps: "cyclic" or "signed".
        first: column of the first block.
        counts: int64 (ceil(M/R),): stored blocks of each block of rows, fillers included.
        deltas: int64 (S,).
        values: codes (S, R).
        order: int64 (M,): original row of each stored row, or None.
    """

    format: str
    shape: tuple[int, int]
    block: tuple[int, int]
    delta_bits: int
    steps: Steps
    first: int
    counts: Ints
    deltas: Ints
    values: Codes
    order: Ints | None = None

    def __post_init__(self) -> None:
        check_shape(self)
        height = self.block[0]
        require(height in DELTA_ROWS and self.block[1] == 1, f"a block of {self.block}")
        require(self.delta_bits in DELTA_BITS, f"steps of {self.delta_bits} bits")
        require(self.steps in ("cyclic", "signed"), f"steps are '{self.steps}'")
        integers(self, "counts", "deltas")
        require(self.deltas.ndim == 1, "steps are no vector")
        check_codes(self, (len(self.deltas), height))
        check_order(self)
        check_counts(self, height)
        low, high = self.delta_range
        over = self.deltas[(self.deltas < low) | (self.deltas > high)]
        require(not over.size, f"a step of {over[:1].sum()} in {self.delta_bits} {self.steps} bits")
        require(0 <= self.first < self.shape[1], f"first column {self.first} of {self.shape[1]}")
        total = int(self.deltas.sum())
        back = total % self.shape[1] if self.steps == "cyclic" else total
        require(back == 0, f"the steps add up to {total} and do not return to the first column")
        check_columns(self, self.columns)
        check_last_rows(self, height)

    @property
    def delta_range(self) -> tuple[int, int]:
        """Smallest and largest step."""
        return delta_range(self.delta_bits, self.steps)

    @cached_property
    def columns(self) -> Ints:
        """int64 (S,): input channel of each stored block."""
        at = self.first + np.concatenate([[0], np.cumsum(self.deltas)])[: len(self.deltas)]
        return np.asarray(at % self.shape[1] if self.steps == "cyclic" else at, dtype=np.int64)

    def stream(self) -> Stream:
        """What an engine executes."""
        rows = _rows(self.shape, self.block[0], self.order)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        return Stream(self.shape, rows, starts, self.columns, self.values)

    def bits(self) -> Storage:
        """Storage to the bit."""
        code = mac.operand_format(self.format).bits * self.block[0]
        stored, fillers = len(self.values), int((~self.values.any(axis=1)).sum())
        return Storage(
            values=(stored - fillers) * code,
            fillers=fillers * (code + self.delta_bits),
            indices=(stored - fillers) * self.delta_bits,
            counts=len(self.counts) * _bits_for(int(self.counts.max())),
            first=_bits_for(self.shape[1] - 1),
            order=_order_bits(self.order, self.shape[0]),
            weights=self.shape[0] * self.shape[1],
        )


def delta_range(bits: int, steps: str) -> tuple[int, int]:
    """Smallest and largest step of a width."""
    if steps == "cyclic":
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass(frozen=True, eq=False)
class BlockRows:
    """Blocks of ``block = (R, 1)`` with a column index each, ascending within a block of rows.

    With ``group`` 4, four consecutive blocks make one tile of R x 4; the last tile of a block of
    rows is filled up with blocks of zeros that repeat its last index, so that no tile reads a
    column it has no weight for.

    Attributes:
        format: number format of the codes.
        shape: (M, K).
        block: (output channels, input channels) of a block.
        group: 1 or 4.
        index_bits: width of an index.
        counts: int64 (ceil(M/R),): stored blocks of each block of rows, padding included.
        columns: int64 (S,): input channel of each stored block.
        values: codes (S, R); a tile is four neighbours.
        order: int64 (M,): original row of each stored row, or None.
    """

    format: str
    shape: tuple[int, int]
    block: tuple[int, int]
    group: int
    index_bits: int
    counts: Ints
    columns: Ints
    values: Codes
    order: Ints | None = None

    def __post_init__(self) -> None:
        check_shape(self)
        height = self.block[0]
        require(height in BLOCK_ROWS and self.block[1] == 1, f"a block of {self.block}")
        require(self.group in GROUPS, f"groups of {self.group}")
        require(1 <= self.index_bits <= 32, f"indices of {self.index_bits} bits")
        integers(self, "counts", "columns")
        require(self.columns.ndim == 1, "indices are no vector")
        check_codes(self, (len(self.columns), height))
        check_order(self)
        check_counts(self, height)
        odd = self.counts[self.counts % self.group != 0]
        require(not odd.size, f"a count of {odd[:1].sum()} in groups of {self.group}")
        top = int(self.columns.max(initial=0))
        require(top < 1 << self.index_bits, f"column {top} in {self.index_bits} bits")
        check_columns(self, self.columns)
        self._check_padding()
        check_last_rows(self, height)

    def _check_padding(self) -> None:
        """A block of zeros is padding: at the end of a group, repeating the index before it."""
        empty = np.flatnonzero(~self.values.any(axis=1))
        inside = (empty % self.group != 0) & (self.group > 1)
        require(inside.all(), "a stored block is all zeros")
        repeats = self.columns[empty] == self.columns[empty - 1]
        require(repeats.all(), "padding does not repeat the last index")
        ends = np.cumsum(self.counts)
        last = np.searchsorted(ends, empty, side="right")
        require((ends[last] - empty < self.group).all(), "padding inside a block of rows")

    def stream(self) -> Stream:
        """What an engine executes."""
        rows = _rows(self.shape, self.block[0], self.order)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        return Stream(self.shape, rows, starts, self.columns, self.values)

    def bits(self) -> Storage:
        """Storage to the bit."""
        code = mac.operand_format(self.format).bits * self.block[0]
        stored, fillers = len(self.values), int((~self.values.any(axis=1)).sum())
        most = int(self.counts.max()) // self.group
        return Storage(
            values=(stored - fillers) * code,
            fillers=fillers * (code + self.index_bits),
            indices=(stored - fillers) * self.index_bits,
            counts=len(self.counts) * _bits_for(most),
            first=0,
            order=_order_bits(self.order, self.shape[0]),
            weights=self.shape[0] * self.shape[1],
        )


@dataclass(frozen=True, eq=False)
class Structured:
    """At most N nonzero of every M neighbouring input channels: ``k = M * group + index``.

    Every group stores N slots with ascending indices; a slot without a weight holds the code 0.
    The last group may be shorter than M; slots beyond column K - 1 hold 0 and are not executed.

    Attributes:
        format: number format of the codes.
        shape: (M, K).
        n: slots of a group.
        m: input channels of a group.
        indices: int64 (M, ceil(K/m), n), each below m.
        values: codes (M, ceil(K/m), n).
        block: (output channels, input channels) of a block: one weight.
    """

    format: str
    shape: tuple[int, int]
    n: int
    m: int
    indices: Ints
    values: Codes
    block: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        check_shape(self)
        require(1 <= self.n <= self.m <= 256, f"{self.n}:{self.m} of neighbouring weights")
        require(self.block == (1, 1), f"a block of {self.block}")
        integers(self, "indices")
        shape = (self.shape[0], -(-self.shape[1] // self.m), self.n)
        require(self.indices.shape == shape, f"{self.indices.shape} indices, expected {shape}")
        check_codes(self, shape)
        outside = self.indices[(self.indices < 0) | (self.indices >= self.m)]
        require(not outside.size, f"index {outside[:1].sum()} in groups of {self.m}")
        rising = (np.diff(self.indices, axis=2) > 0).all()
        require(rising, "a group holds indices out of order or twice")
        beyond = self.values[self._columns >= self.shape[1]]
        require(not beyond.any(), f"a weight beyond column {self.shape[1] - 1}")

    @cached_property
    def _columns(self) -> Ints:
        groups = np.arange(self.indices.shape[1], dtype=np.int64)
        return np.asarray(groups[:, None] * self.m + self.indices, dtype=np.int64)

    def stream(self) -> Stream:
        """What an engine executes: every slot within the matrix, zeros too."""
        inside = self._columns < self.shape[1]
        starts = np.concatenate([[0], np.cumsum(inside.sum(axis=(1, 2)))])
        rows = _rows(self.shape, 1, None)
        return Stream(self.shape, rows, starts, self._columns[inside], self.values[inside][:, None])

    def bits(self) -> Storage:
        """Storage to the bit."""
        code = int(mac.operand_format(self.format).bits)
        index = (self.m - 1).bit_length()
        held = int(np.count_nonzero(self.values))
        return Storage(
            values=held * code,
            fillers=(self.values.size - held) * (code + index),
            indices=held * index,
            counts=0,
            first=0,
            order=0,
            weights=self.shape[0] * self.shape[1],
        )


Packed = Union[DeltaRows, BlockRows, Structured]  # noqa: UP007 - a runtime alias


def unpack(packed: Packed) -> Codes:
    """The dense codes (M, K)."""
    stream = packed.stream()
    height = stream.rows.shape[1]
    block = np.repeat(np.arange(len(stream.rows)), np.diff(stream.starts))
    flat = np.zeros((stream.rows.size, packed.shape[1]), dtype=packed.values.dtype)
    lines = block[:, None] * height + np.arange(height)
    held = stream.values != 0
    columns = np.broadcast_to(stream.columns[:, None], held.shape)
    flat[lines[held], columns[held]] = stream.values[held]
    dense = np.empty(packed.shape, dtype=flat.dtype)
    named = stream.rows.reshape(-1)
    dense[named[named >= 0]] = flat[named >= 0]
    return dense
