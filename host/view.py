"""How a tensor's axes lie in a stored tensor: reshapes, permutations and slices that move nothing.

A stored tensor has channels and pixels. An axis of a network's tensor walks over one of the two
with a stride, or over several such stretches; a view is the list of stretches, outermost first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.layout import Axis, walked

__all__ = ["CHANNEL", "PIXEL", "View", "heads", "merged", "places", "plain", "tokens"]

CHANNEL, PIXEL = "channel", "pixel"
Slices = Sequence[tuple[int | None, int | None, int]]


@dataclass(frozen=True)
class View:
    """A network tensor in a stored one.

    Attributes:
        stored: name of the stored tensor.
        axes: stretches in the tensor's row-major order; none of extent 1, no two that are one.
        channel, pixel: the first ones.
    """

    stored: str
    axes: tuple[Axis, ...]
    channel: int = 0
    pixel: int = 0

    def by_axis(self, shape: Sequence[int]) -> list[tuple[Axis, ...]] | None:
        """The stretches of each axis of a shape; None where an axis ends inside one."""
        rest = list(self.axes)
        found: list[tuple[Axis, ...]] = []
        for size in shape:
            own: list[Axis] = []
            while size > 1:
                head = rest.pop(0)
                if size % head.size == 0:
                    own.append(head)
                    size //= head.size
                elif head.size % size == 0:
                    inner = head.size // size
                    own.append(replace(head, size=size, stride=head.stride * inner))
                    rest.insert(0, replace(head, size=inner))
                    size = 1
                else:
                    return None
            found.append(tuple(own))
        return found

    def transposed(self, shape: Sequence[int], permutation: Sequence[int]) -> View | None:
        """The view after a permutation of axes."""
        parts = self.by_axis(shape)
        if parts is None:
            return None
        return replace(self, axes=merged([a for axis in permutation for a in parts[axis]]))

    def sliced(self, shape: Sequence[int], slices: Slices) -> View | None:
        """The view of part of a tensor, where that is neighbouring channels."""
        parts = self.by_axis(shape)
        if parts is None:
            return None
        channel = self.channel
        axes: list[Axis] = []
        for size, own, part in zip(shape, parts, slices, strict=True):
            start, stop, step = slice(*part).indices(size)
            if (start, stop, step) == (0, size, 1):
                axes += own
                continue
            inner = math.prod(a.size for a in own[1:])
            whole = step == 1 and start % inner == 0 and (stop - start) % inner == 0
            if not own or own[0].of != CHANNEL or not whole or stop <= start:
                return None
            channel += start // inner * own[0].stride
            axes += [replace(own[0], size=(stop - start) // inner), *own[1:]]
        return replace(self, axes=merged(axes), channel=channel)

    def of(self, stored: str) -> View:
        """The same view of another stored tensor."""
        return replace(self, stored=stored)

    def turned(self, stored: str) -> View:
        """The view of the copy whose channels are this one's pixels."""
        other = {CHANNEL: PIXEL, PIXEL: CHANNEL}
        axes = tuple(replace(axis, of=other[axis.of]) for axis in self.axes)
        return View(stored, axes, self.pixel, self.channel)

    @property
    def features(self) -> tuple[Axis, ...]:
        """The stretches of pixels: the features of a channel-major tensor."""
        return tuple(axis for axis in self.axes if axis.of == PIXEL)

    @property
    def channels(self) -> tuple[Axis, ...]:
        """The stretches of channels."""
        return tuple(axis for axis in self.axes if axis.of == CHANNEL)

    def sizes(self, of: str) -> int:
        """How many channels or pixels take part."""
        return math.prod(axis.size for axis in self.axes if axis.of == of)


def merged(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Neighbouring stretches that are one as one, those of extent 1 left out."""
    found: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if found and found[-1].of == axis.of and found[-1].stride == axis.size * axis.stride:
            found[-1] = Axis(axis.of, found[-1].size * axis.size, axis.stride)
        else:
            found.append(axis)
    return tuple(found)


def _groups(channels: int, group: int, room: int) -> list[Axis]:
    """Channels in groups that take ``room`` each."""
    return [Axis(CHANNEL, channels // group, room), Axis(CHANNEL, group, 1)]


def plain(stored: str, channels: int, pixels: int) -> View:
    """Channels outermost, as images have them."""
    return View(stored, merged([Axis(CHANNEL, channels, 1), Axis(PIXEL, pixels, 1)]))


def tokens(stored: str, channels: int, pixels: int, group: int = 0, room: int = 0) -> View:
    """Pixels outermost, as rows of features have them; channels may lie in groups."""
    group = group or channels
    return View(stored, merged([Axis(PIXEL, pixels, 1), *_groups(channels, group, room or group)]))


def heads(stored: str, count: int, channels: int, pixels: int, room: int) -> View:
    """Groups of channels outermost, then pixels, as attention has its heads."""
    axes = [Axis(CHANNEL, count, room), Axis(PIXEL, pixels, 1), Axis(CHANNEL, channels, 1)]
    return View(stored, merged(axes))


def places(view: View) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Channel and pixel of every code of a view, row-major (codes,)."""
    return walked(view.axes, view.channel, view.pixel)
