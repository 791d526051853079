"""A job: a layer in the terms of an exec, before it is cut into pieces that fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes, microops
from opennpe.golden.commands import WIDEN

__all__ = ["Job", "Records", "Rows", "Stored", "Task", "Turn", "WeightsOf", "widening"]

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
        plain: a line holds one pixel, whatever the channels.
        within: the stored tensor of which this one is some whole blocks; empty if it is none.
        first: the first of these blocks.
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
    plain: bool = False
    within: str = ""
    first: int = 0

    @property
    def pixels(self) -> int:
        """Pixels of the tensor."""
        return self.height * self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def signless(self) -> bool:
        """Whether it has no -0, which a product would turn into +0."""
        return self.positive or self.format != "fp4"


@dataclass(frozen=True)
class WeightsOf:
    """Weights that are a tensor: a line a pixel, a block a channel tile.

    Attributes:
        stored: the tensor's name.
        block: the first channel tile's block. pixel: the first weight line's pixel.
    """

    stored: str
    block: int
    pixel: int


@dataclass
class Task:
    """What execs do with whole tensors, whatever their kind.

    Attributes:
        name: the layer's.
        kind: one of ``commands.KINDS``.
        inputs: stored tensors; two only for a sum of two, a block each.
        output: the stored tensor written.
        mode_a, mode_b, out: formats of operands and results.
        clamp: lowest and highest result code.
        table: result codes by code of ``out``.
        channel: first channel written; a whole number of blocks.
        layers: the network's layers that it is, by name.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    mode_a: str
    mode_b: str
    out: str
    clamp: tuple[int, int] | None = field(default=None, kw_only=True)
    table: Codes | None = field(default=None, kw_only=True)
    channel: int = field(default=0, kw_only=True)
    layers: list[str] = field(default_factory=list, kw_only=True)

    @property
    def lanes(self) -> int:
        """Codes a word of operands."""
        return lanes.lanes(self.mode_a)

    @property
    def by_element(self) -> bool:
        """Whether a pixel's elements are taken one by one, wherever in a line it begins."""
        return self.kind in ("dense", "transpose")

    def widen(self, stored: Stored) -> int:
        """Index of the widening that brings a tensor to the mode."""
        return widening(stored.format, self.mode_a)

    def factor(self, stored: Stored) -> int:
        """Lines that one of the tensor's becomes."""
        return lanes.lanes(stored.format) // self.lanes


@dataclass
class Turn(Task):
    """Channels become pixels and pixels channels."""


@dataclass
class Rows(Task):
    """A softmax or a normalisation of every pixel.

    Attributes:
        settings: the unit's words. out_shift: a power of two.
        keep: elements that the first row keeps; any number.
        causal: whether each row keeps one more than the row before.
    """

    settings: tuple[int, ...]
    out_shift: int
    keep: int
    causal: bool


@dataclass
class Records(Task):
    """A sparse layer of channel-major tensors.

    Attributes:
        shape: how records look.
        weights: codes (outputs, inputs), whole row blocks.
        bias: integers on the engine's grid (outputs,). shift: powers of two (outputs,).
    """

    shape: microops.Shape
    weights: Codes
    bias: list[int]
    shift: list[int]


@dataclass
class Job(Task):
    """What an exec of products does with whole tensors.

    Attributes:
        weights: codes; dense (O, I, ky, kx), else (O, taps, ky, kx). Where a tensor takes their
            place, zeros.
        weight_format: of the weights as they lie outside.
        bias: integers on the engine's grid (O,).
        shift: powers of two (O,).
        kernel, strides, pads, dilations: (y, x) each; pads are the begins.
        size: the output's (height, width).
        flat: every output pixel depends on its own input pixel only.
        second: the tensor that the weights are, if they are one.
    """

    weights: Codes
    weight_format: str
    bias: list[int]
    shift: list[int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    size: tuple[int, int]
    flat: bool = False
    second: WeightsOf | None = None

    @property
    def channels(self) -> int:
        """Output channels."""
        return int(self.weights.shape[0])

    @property
    def taps(self) -> int:
        """Blocks of a sum that are not channels: the tensors of a sum, the parts of a weight."""
        return int(self.weights.shape[1])

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
