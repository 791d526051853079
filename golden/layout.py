"""How a tensor lies in lines of the co-processor's buffer and of the memory outside.

Pixel by pixel, channels in order, ``lanes`` codes a word; docs/coprocessor.md, "Tensors".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats, lanes
from opennpe.golden.errors import FormatError

__all__ = ["FOLDS", "Axis", "Layout", "walked"]

FOLDS = (1, 2, 4)
"""Pixels that a line may hold."""


@dataclass(frozen=True)
class Axis:
    """``size`` steps of ``stride`` channels or pixels (``of``) of a tensor as it is stored."""

    of: str
    size: int
    stride: int


def walked(
    axes: Sequence[Axis], channel: int, pixel: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Channels and pixels (steps,) that axes, outermost first, walk over from one place on."""
    found = {"channel": np.array([channel]), "pixel": np.array([pixel])}
    for axis in axes:
        step = np.arange(axis.size)[None] * axis.stride
        for of, held in found.items():
            moved = step if of == axis.of else 0 * step
            found[of] = (held[:, None] + moved).reshape(-1)
    return found["channel"], found["pixel"]


@dataclass(frozen=True)
class Layout:
    """A tensor (channels, height, width) of one format in lines of ``columns`` words.

    Attributes:
        fold: pixels a line, 1, 2 or 4; more than 1 only if a pixel fits in ``columns / fold``
            words.
        packed: pixels follow each other word by word, whatever the lines; for tensors that come
            from outside and go through dense layers only. Then ``fold`` is 1 and a pixel fits in
            a line.

    Raises:
        FormatError: a fold there is not, or channels that do not fit it.
    """

    channels: int
    height: int
    width: int
    format: str
    fold: int
    columns: int
    packed: bool = False

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise FormatError(
                f"a layout of {self.channels} x {self.height} x {self.width} is empty"
            )
        if self.fold not in FOLDS or self.columns % self.fold or (self.packed and self.fold > 1):
            raise FormatError(f"{self.columns} columns do not hold {self.fold} pixels a line")
        if (self.fold > 1 or self.packed) and self.channels > self.pixel_words * self.lanes:
            raise FormatError(
                f"{self.channels} channels of {self.format} do not fit in {self.pixel_words} words"
            )

    @property
    def lanes(self) -> int:
        """Codes a word."""
        return lanes.lanes(self.format)

    @property
    def pixels(self) -> int:
        """Pixels of the tensor."""
        return self.height * self.width

    @property
    def pixel_words(self) -> int:
        """Words of a pixel in one line."""
        if self.packed:
            return min(-(-self.channels // self.lanes), self.columns)
        return self.columns // self.fold

    @property
    def blocks(self) -> int:
        """Lines a pixel takes, one in each block."""
        return -(-self.channels // (self.pixel_words * self.lanes))

    @property
    def block_lines(self) -> int:
        """Lines of a block."""
        return -(-self.pixels * self.pixel_words // self.columns)

    @property
    def lines(self) -> int:
        """Lines of the tensor."""
        return self.blocks * self.block_lines

    @property
    def bytes(self) -> int:
        """Bytes of the tensor outside."""
        return self.lines * self.columns * lanes.WORD_BITS // 8

    def pack(self, codes: ArrayLike) -> NDArray[np.uint16]:
        """Codes (channels, height, width) to words (lines, columns); unused codes are 0."""
        array = formats.get(self.format).check_codes(codes)
        shape = (self.channels, self.height, self.width)
        if array.shape != shape:
            raise FormatError(f"the layout takes codes of shape {shape}, got {array.shape}")
        held = np.zeros((self.blocks * self.pixel_words * self.lanes, self.pixels), array.dtype)
        held[: self.channels] = array.reshape(self.channels, self.pixels)
        parts = held.reshape(self.blocks, self.pixel_words, self.lanes, self.pixels)
        words = lanes.pack(self.format, parts.transpose(0, 3, 1, 2))
        flat = np.zeros((self.blocks, self.block_lines * self.columns), dtype=np.uint16)
        flat[:, : self.pixels * self.pixel_words] = words.reshape(self.blocks, -1)
        return flat.reshape(self.lines, self.columns)

    def unpack(self, words: ArrayLike) -> NDArray[Any]:
        """Words (lines, columns) to codes (channels, height, width)."""
        array = np.asarray(words, dtype=np.uint16)
        if array.shape != (self.lines, self.columns):
            raise FormatError(
                f"the layout has {self.lines} lines of {self.columns} words, got {array.shape}"
            )
        flat = array.reshape(self.blocks, -1)[:, : self.pixels * self.pixel_words]
        parts = flat.reshape(self.blocks, self.pixels, self.pixel_words)
        codes = lanes.unpack(self.format, parts).transpose(0, 2, 3, 1)
        held = codes.reshape(self.blocks * self.pixel_words * self.lanes, self.pixels)
        return held[: self.channels].reshape(self.channels, self.height, self.width)
