"""A job: a layer in the terms of an exec, before it is cut into pieces that fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes
from opennpe.golden.commands import WIDEN

__all__ = ["Job", "Stored", "widening"]

Codes = NDArray[Any]


@dataclass
class Stored:
    """A tensor that takes room in the buffer; views of it share it.

    Attributes:
        name: of the network's tensor that names it.
        channels, height, width: as it is stored.
        format: of its codes.
        scale: exponent of its unit.
        fold: pixels a line; packed: whatever the lines; both chosen after all jobs are known.
        positive: holds no negative value and no -0.
    """

    name: str
    channels: int
    height: int
    width: int
    format: str
    scale: int
    fold: int = 1
    packed: bool = False
    positive: bool = False

    @property
    def signless(self) -> bool:
        """Whether it has no -0, which a product would turn into +0."""
        return self.positive or self.format != "fp4"


@dataclass
class Job:
    """What an exec does with whole tensors.

    Attributes:
        name: the layer's.
        kind: one of ``commands.KINDS``.
        inputs: stored tensors; two only for a sum of two, a block each.
        output: the stored tensor written.
        channel: first channel written; a whole number of blocks.
        mode_a, mode_b, out: formats of operands and results.
        weights: codes; dense (O, I, ky, kx), else (O, taps, ky, kx).
        weight_format: of the weights as they lie outside.
        bias: integers on the engine's grid (O,).
        shift: powers of two (O,).
        kernel, strides, pads, dilations: (y, x) each; pads are the begins.
        size: the output's (height, width).
        clamp: lowest and highest result code.
        table: result codes by code of ``out``.
        flat: every output pixel depends on its own input pixel only.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    mode_a: str
    mode_b: str
    out: str
    weights: Codes
    weight_format: str
    bias: list[int]
    shift: list[int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    size: tuple[int, int]
    clamp: tuple[int, int] | None = None
    table: Codes | None = None
    flat: bool = False
    channel: int = 0
    layers: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Output channels."""
        return int(self.weights.shape[0])

    @property
    def lanes(self) -> int:
        """Codes a word of operands."""
        return lanes.lanes(self.mode_a)

    @property
    def taps(self) -> int:
        """Blocks of a sum that are not channels: the tensors of a sum, the parts of a weight."""
        return int(self.weights.shape[1])

    def widen(self, stored: Stored) -> int:
        """Index of the widening that brings a tensor to the mode."""
        return widening(stored.format, self.mode_a)

    def factor(self, stored: Stored) -> int:
        """Lines that one of the tensor's becomes."""
        return lanes.lanes(stored.format) // self.lanes

    @property
    def weight_widen(self) -> int:
        """Index of the weights' widening on their way in."""
        return widening(self.weight_format, self.mode_b)


def widening(source: str, target: str) -> int:
    """Index into ``commands.WIDEN``; 0 where the formats have one width."""
    if formats.get(source).bits == formats.get(target).bits:
        return 0
    return WIDEN.index((source, target))


def integers(values: Any) -> list[int]:
    """Python integers of an array."""
    return [int(v) for v in np.asarray(values).reshape(-1)]
