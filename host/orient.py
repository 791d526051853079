"""Tensors the way a layer wants them: as images, as rows of features, channel-major."""

from __future__ import annotations

from dataclasses import replace

from opennpe.golden import layers as L
from opennpe.host.jobs import Stored, Turn
from opennpe.host.lowered import Lowered, Pair, image, needs, refuse
from opennpe.host.view import CHANNEL, PIXEL, View, merged, places, plain

__all__ = ["as_columns", "as_image", "as_rows", "is_rows", "part_of", "turned", "whole_view"]


def turned(low: Lowered, layer: L.LayerBase, source: Stored, size: Pair | None = None) -> Stored:
    """A stored tensor's copy whose channels are its pixels; made once.

    Args:
        size: (height, width) of the copy's pixels; a column unless given.

    Raises:
        CompileError: a co-processor that cannot transpose.
    """
    if source.name in low.turned:
        return low.stored[low.turned[source.name]]
    needs(low, layer, "transpose")
    rows, columns = low.spec.array.rows, low.spec.line_words
    if rows != columns:
        raise refuse(
            layer,
            f"it needs a transposition, which arrays of as many rows as columns have: this one "
            f"has {rows} by {columns}",
        )
    height, width = size or (source.channels, 1)
    name = f"{source.name}^T"
    copy = Stored(name, source.pixels, height, width, source.format, source.scale,
                  positive=source.positive, plain=True)  # fmt: skip
    low.stored[name] = copy
    low.turned[source.name], low.turned[name] = name, source.name
    low.jobs.append(
        Turn(layer.name, "transpose", (source.name,), name, source.format, source.format,
             source.format, layers=[layer.name])
    )  # fmt: skip
    return copy


def is_rows(view: View, pixels: int, shape: tuple[int, ...]) -> bool:
    """Whether a pixel holds the last axis and the others are all pixels, in order."""
    parts = view.by_axis(shape)
    if parts is None:
        return False
    lead = merged([axis for part in parts[:-1] for axis in part])
    every = plain(view.stored, 1, pixels).axes
    return lead == every and all(axis.of == CHANNEL for axis in parts[-1])


def as_rows(low: Lowered, layer: L.LayerBase, name: str) -> View:
    """The view of a tensor (..., K) with K along channels and everything else along pixels.

    Raises:
        CompileError: a tensor that is stored in no such order, nor transposed.
    """
    view, shape = low.views[name], low.tensor(name).shape
    source = low.stored[view.stored]
    if is_rows(view, source.pixels, shape):
        return view
    if is_rows(view.turned(""), source.channels, shape):
        return view.turned("").of(turned(low, layer, source).name)
    raise refuse(layer, f"it reads '{name}' of shape {shape}, which is stored in another order")


def as_columns(low: Lowered, layer: L.LayerBase, name: str, last: bool) -> View | None:
    """The view of a tensor with its features along pixels and everything else along channels,
    transposed if it must be; None where it is stored in no such order.

    Args:
        last: whether features are the last axis; else the axis after the first.
    """
    view, shape = low.views[name], low.tensor(name).shape
    order = [*range(len(shape))]
    if not last:
        order = [0, *order[2:], 1]
    moved = view.transposed(shape, order)
    if moved is None:
        return None
    shape = tuple(shape[axis] for axis in order)
    source = low.stored[view.stored]
    other = moved.turned("")
    if is_rows(other, source.channels, shape) and not moved.channel:
        source.plain = True
        return moved
    if is_rows(moved, source.pixels, shape):
        return other.of(turned(low, layer, source).name)
    return None


def as_image(low: Lowered, layer: L.LayerBase, name: str) -> Stored:
    """The stored tensor of an image, channels outermost and no more of them than it has.

    Raises:
        CompileError: a tensor that is stored in another order.
    """
    view, shape = low.views[name], low.tensor(name).shape
    wanted, stored = image(shape), low.stored[view.stored]
    if wanted is not None and not view.channel and not view.pixel:
        own = plain(view.stored, wanted[0], wanted[1] * wanted[2])
        if stored.shape == wanted and view.axes == own.axes:
            return stored
        flat = (wanted[1] * wanted[2], wanted[0])
        if (stored.channels, stored.pixels) == flat and view.turned("").axes == own.axes:
            return turned(low, layer, stored, (wanted[1], wanted[2]))
    raise refuse(layer, f"it reads {shape} from a tensor stored in another order")


def part_of(low: Lowered, layer: L.LayerBase, view: View) -> View:
    """The view in the smallest part of its tensor that holds all its channels.

    Raises:
        CompileError: channels that begin inside a block.
    """
    stored = low.stored[view.stored]
    used = places(View(view.stored, view.channels, view.channel))[0]
    first, count = int(used.min()), int(used.max()) + 1
    if first == 0 and stored.channels - count < low.room(stored.format, 1):
        return view
    if not low.begins_block(stored, first):
        raise refuse(
            layer,
            f"channel {first} of '{view.stored}', where it begins to read, lies inside a block",
        )
    own = low.part(stored, first, count - first)
    return replace(view, stored=own.name, channel=view.channel - first)


def whole_view(low: Lowered, name: str) -> bool:
    """Whether a view takes in all of its stored tensor."""
    view = low.views[name]
    stored = low.stored[view.stored]
    return view.sizes(CHANNEL) == stored.channels and view.sizes(PIXEL) == stored.pixels
