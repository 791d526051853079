"""Streams of micro-operations: the weights of a sparse layer as the co-processor takes them.

A record holds, from bit 0 up, whether it is the last one of its row block (1 bit), the difference
to the input channel before (4, 8 or 16 bits, counted from 0 in every block) and a weight for each
of the block's 1, 2 or 4 output channels. A line of the weight memory holds as many whole records
as fit, the first one lowest; the rest of it is not looked at. The first record of a block is the
INIT of its sums, each one a MAC, the last one their EPILOGUE. A block has at least one record; a
record of zeros moves on where a difference does not fit (a *filler*).

Source: delta-encoded rows of Fast Sparse ConvNets (arXiv 1911.09723), with a last bit in place of
the count, so that a block costs as many cycles as it has records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.errors import ProgramError

__all__ = ["BLOCK_ROWS", "DELTAS", "Shape", "Stream", "pack", "read"]

DELTAS = (4, 8, 16)
"""Bits of a difference between input channels."""
BLOCK_ROWS = (1, 2, 4)
"""Output channels that may share a record."""
WORD_BITS = 16


@dataclass(frozen=True)
class Shape:
    """How records look.

    Attributes:
        format: of the weights in the stream.
        rows: output channels of a block, 1, 2 or 4.
        delta_bits: of a difference, 4, 8 or 16.
        columns: 16-bit words of a line.

    Raises:
        ProgramError: rows or differences there are not, or a record longer than a line.
    """

    format: str
    rows: int
    delta_bits: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows not in BLOCK_ROWS or self.delta_bits not in DELTAS:
            raise ProgramError(
                f"a record has 1, 2 or 4 rows and 4, 8 or 16 bits of difference, got {self.rows} "
                f"and {self.delta_bits}"
            )
        if not self.per_line:
            raise ProgramError(
                f"a record of {self.record_bits} bits does not fit in a line of "
                f"{self.columns * WORD_BITS}: take fewer rows a block or a shorter difference"
            )

    @property
    def weight_bits(self) -> int:
        """Bits of one weight."""
        return int(formats.get(self.format).bits)

    @property
    def record_bits(self) -> int:
        """Bits of a record."""
        return 1 + self.delta_bits + self.rows * self.weight_bits

    @property
    def per_line(self) -> int:
        """Records a line."""
        return self.columns * WORD_BITS // self.record_bits


@dataclass(frozen=True, eq=False)
class Stream:
    """A layer's records.

    Attributes:
        shape: how they look.
        inputs: input channels, the limit of an index.
        lines: uint16 (lines, columns).
        counts: int64 (blocks,), records of each block, fillers included.
    """

    shape: Shape
    inputs: int
    lines: NDArray[np.uint16]
    counts: NDArray[np.int64]


def pack(shape: Shape, weights: NDArray[Any]) -> Stream:
    """Codes (outputs, inputs) to a stream; ``outputs`` is a multiple of ``shape.rows``.

    Raises:
        ProgramError: another number of outputs, or no input.
    """
    outputs, inputs = weights.shape
    if outputs % shape.rows or not inputs or not outputs:
        raise ProgramError(
            f"{outputs} output channels by {inputs} inputs do not make blocks of {shape.rows}"
        )
    weights = formats.get(shape.format).check_codes(weights)
    blocks = weights.reshape(-1, shape.rows, inputs)
    there = (formats.get(shape.format).decode(weights) != 0).reshape(blocks.shape).any(axis=1)
    records: list[int] = []
    counts = []
    for block, own in zip(blocks, there, strict=True):
        found = list(_records(shape, block, np.nonzero(own)[0]))
        found[-1] |= 1
        counts.append(len(found))
        records += found
    return Stream(shape, inputs, _lines(shape, records), np.array(counts, dtype=np.int64))


def _records(shape: Shape, block: NDArray[Any], indices: NDArray[np.int64]) -> Iterator[int]:
    """Records of one block, without its last bit."""
    most = (1 << shape.delta_bits) - 1
    at = 0
    for index in indices.tolist():
        while index - at > most:
            yield most << 1
            at += most
        word = 0
        for j, code in enumerate(block[:, index].tolist()):
            word |= code << j * shape.weight_bits
        yield (index - at) << 1 | word << (1 + shape.delta_bits)
        at = index
    if not indices.size:
        yield 0


def _lines(shape: Shape, records: list[int]) -> NDArray[np.uint16]:
    lines = []
    for first in range(0, len(records), shape.per_line):
        line = 0
        for i, record in enumerate(records[first : first + shape.per_line]):
            line |= record << i * shape.record_bits
        lines.append(np.frombuffer(line.to_bytes(2 * shape.columns, "little"), dtype="<u2"))
    return np.stack(lines).astype(np.uint16)


def read(
    shape: Shape, inputs: int, blocks: int, lines: NDArray[np.uint16]
) -> list[list[tuple[int, list[int]]]]:
    """Records of every block: input channel and weights' codes.

    Raises:
        ProgramError: a stream that is none: an input channel there is not, more or fewer blocks
            than said, or lines left over.
    """
    found: list[list[tuple[int, list[int]]]] = [[]]
    at, used = 0, 0
    mask = (1 << shape.weight_bits) - 1
    for number, line in enumerate(lines):
        value = int.from_bytes(line.astype("<u2").tobytes(), "little")
        for _ in range(shape.per_line):
            if len(found) > blocks:
                break
            used = number + 1
            at += value >> 1 & ((1 << shape.delta_bits) - 1)
            if at >= inputs:
                raise ProgramError(f"input channel {at} of {inputs} in block {len(found) - 1}")
            weights = value >> (1 + shape.delta_bits)
            codes = [weights >> j * shape.weight_bits & mask for j in range(shape.rows)]
            found[-1].append((at, codes))
            if value & 1:
                found.append([])
                at = 0
            value >>= shape.record_bits
    if len(found) != blocks + 1 or used != len(lines):
        raise ProgramError(
            f"{len(lines)} lines hold {len(found) - 1} blocks in {used} lines, expected {blocks}"
        )
    return found[:-1]
