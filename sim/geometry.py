"""Where a product's operands lie: convolutions and matrices as windows over one padded image.

Everything is three spatial axes and channels last; missing axes have extent 1, and the rows of a
matrix are images of one place. K runs over (depth, height, width, channel) of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import layers as L

__all__ = ["Geometry", "convolution", "matrix"]

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """Windows over images (N, D, H, W, C).

    Attributes:
        extent: spatial extents of the image.
        out: spatial extents of the output.
        kernel, strides, dilations: of the window.
        before: padding before each axis.
        channels: input channels of one group.
        groups: groups of channels, each with its own outputs.
    """

    extent: Triple
    out: Triple
    kernel: Triple
    strides: Triple
    dilations: Triple
    before: Triple
    channels: int
    groups: int = 1

    @cached_property
    def padded(self) -> Triple:
        """Extents of the padded image: every window lies inside."""
        reach = [
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(self.out, self.strides, self.kernel, self.dilations, strict=True)
        ]
        plain = not any(self.before)
        needed = [
            max(r, e) if plain else max(r, e + b)
            for r, e, b in zip(reach, self.extent, self.before, strict=True)
        ]
        return (needed[0], needed[1], needed[2])

    @property
    def depth(self) -> int:
        """K: values under one window."""
        return math.prod(self.kernel) * self.channels

    @cached_property
    def steps(self) -> Triple:
        """Values between neighbours along each axis of the padded image."""
        width = self.channels * self.groups
        return (self.padded[1] * self.padded[2] * width, self.padded[2] * width, width)

    @cached_property
    def taps(self) -> NDArray[np.int64]:
        """Offset in values of every tap of the window (taps,)."""
        grid = np.indices(self.kernel).reshape(3, -1)
        steps = np.array(self.steps) * self.dilations
        return np.asarray((steps[:, None] * grid).sum(axis=0), dtype=np.int64)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Offset in values of every element of K, group 0 (K,)."""
        return np.asarray((self.taps[:, None] + np.arange(self.channels)).reshape(-1))

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(offset, length) of the stretches of K that lie side by side in memory, group 0."""
        beside = self.groups == 1 and (self.dilations[2] == 1 or self.kernel[2] == 1)
        together = self.kernel[2] if beside else 1
        return tuple((int(at), together * self.channels) for at in self.taps[::together])


def matrix(depth: int) -> Geometry:
    """Rows of a matrix, each an image of one place with ``depth`` channels."""
    one = (1, 1, 1)
    return Geometry(one, one, one, one, one, (0, 0, 0), depth)


def convolution(layer: L.Conv, spatial: tuple[int, ...], out: tuple[int, ...]) -> Geometry:
    """The windows of a convolution over 1 to 3 spatial axes."""

    def three(values: tuple[int, ...], fill: int) -> Triple:
        full = (fill,) * (3 - len(values)) + tuple(int(v) for v in values)
        return (full[0], full[1], full[2])

    rank = len(spatial)
    return Geometry(
        extent=three(spatial, 1),
        out=three(out, 1),
        kernel=three(layer.weights.shape[2:], 1),
        strides=three(layer.strides, 1),
        dilations=three(layer.dilations, 1),
        before=three(layer.pads[:rank], 0),
        channels=int(layer.weights.shape[1]),
        groups=layer.groups,
    )
