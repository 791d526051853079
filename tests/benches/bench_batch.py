"""Stimuli as plain arrays: many sums, each a run of operand words with its own modes and rounding.

A batch is what the cocotb bench drives word by word, what the C++ harness replays in one call and
what :mod:`bench_expected` evaluates, so that all of them see the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats

LANES = 4
FORMATS = formats.ENGINE_FORMATS
INDEX = {name: i for i, name in enumerate(FORMATS)}
LANE_COUNT = tuple(16 // formats.get(name).bits for name in FORMATS)
MODES = (
    ("fp4", "fp4"),
    ("posit4", "posit4"),
    ("fp4", "posit4"),
    ("posit4", "fp4"),
    ("posit8", "posit8"),
    ("posit16", "posit16"),
)
"""Every pair of operand formats the engine multiplies (DESIGN 1: widths are equal)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """S sums over W operand words.

    Attributes:
        mode_a: uint8 (S,), index into FORMATS.
        mode_b: uint8 (S,).
        out: uint8 (S,), the result format.
        start: int64 (S + 1,), sum s takes words start[s]:start[s + 1]; never empty.
        words_a: uint16 (W,).
        words_b: uint16 (W,).
        bias: uint64 (S, 2), the accumulator's preload, low half first, lanes packed.
        shift: int16 (S, 4), a power of two a lane.
    """

    mode_a: NDArray[np.uint8]
    mode_b: NDArray[np.uint8]
    out: NDArray[np.uint8]
    start: NDArray[np.int64]
    words_a: NDArray[np.uint16]
    words_b: NDArray[np.uint16]
    bias: NDArray[np.uint64]
    shift: NDArray[np.int16]

    def __post_init__(self) -> None:
        lengths = np.diff(self.start)
        if not len(lengths) or lengths.min() < 1 or self.start[-1] != len(self.words_a):
            raise ValueError("a batch needs at least one sum, each of at least one word")

    def __len__(self) -> int:
        return len(self.mode_a)

    @property
    def words(self) -> int:
        """Operand words in the batch."""
        return len(self.words_a)

    @property
    def lanes(self) -> NDArray[np.int64]:
        """Lanes of each sum (S,)."""
        return np.array(LANE_COUNT)[self.mode_a]

    def take(self, order: NDArray[np.int64]) -> Batch:
        """The sums ``order``, in that order."""
        lengths = np.diff(self.start)[order]
        start = np.concatenate([[0], np.cumsum(lengths)])
        words = np.repeat(self.start[order] - start[:-1], lengths) + np.arange(start[-1])
        return Batch(
            self.mode_a[order],
            self.mode_b[order],
            self.out[order],
            start,
            self.words_a[words],
            self.words_b[words],
            self.bias[order],
            self.shift[order],
        )

    def shuffled(self, rng: np.random.Generator) -> Batch:
        """The same sums in random order: modes switch in mid-stream."""
        return self.take(rng.permutation(len(self)))


def concat(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other."""
    offsets = np.cumsum([0, *(b.words for b in batches)])
    joined = {
        f.name: np.concatenate([getattr(b, f.name) for b in batches])
        for f in fields(Batch)
        if f.name != "start"
    }
    starts = [b.start[:-1] + o for b, o in zip(batches, offsets, strict=False)]
    return Batch(start=np.concatenate([*starts, offsets[-1:]]), **joined)


def pack_lanes(codes: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Codes (..., lanes) to words (...)."""
    shifts = (np.arange(codes.shape[-1]) * bits).astype(np.uint16)
    return np.bitwise_or.reduce(codes.astype(np.uint16) << shifts, axis=-1)


def pack_bias(values: NDArray[np.int64], lanes: int) -> NDArray[np.uint64]:
    """Lane preloads (S, lanes) of up to 64 bits to halves (S, 2); one lane sign-extends."""
    width = 128 // lanes
    halves = np.zeros((len(values), 2), dtype=np.uint64)
    if lanes == 1:
        halves[:, 0] = values[:, 0].astype(np.uint64)
        halves[:, 1] = np.where(values[:, 0] < 0, np.uint64(2**64 - 1), np.uint64(0))
        return halves
    mask = np.uint64(2**width - 1) if width < 64 else np.uint64(2**64 - 1)
    for lane in range(lanes):
        half, offset = divmod(lane * width, 64)
        halves[:, half] |= (values[:, lane].astype(np.uint64) & mask) << np.uint64(offset)
    return halves
