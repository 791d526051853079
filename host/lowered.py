"""What lowering keeps, and what every layer's lowering needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import catalog, codec, formats, lanes
from opennpe.golden import layers as L
from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Axis
from opennpe.golden.network import Network, Tensor
from opennpe.golden.program import Output
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Stored, Task
from opennpe.host.view import CHANNEL, View, heads, merged, places, plain, tokens

__all__ = [
    "Codes",
    "Lowered",
    "Pair",
    "checked_shift",
    "clamp_codes",
    "engine_format",
    "image",
    "needs",
    "negated",
    "nests",
    "powers",
    "refuse",
    "two",
    "without",
]

Pair = tuple[int, int]
Codes = NDArray[Any]


@dataclass
class Lowered:
    """A network as jobs over stored tensors.

    Attributes:
        stored: tensors that take room, by name.
        root: the stored tensor that holds a network tensor's codes.
        views: how a network tensor lies in it.
        jobs: in order.
        outputs: what the network gives; ``symbol`` names a stored tensor or a view of one.
        spread: codes of constants that were spread to a layer's shape, by stored tensor.
        whole: stored tensors that are written by several jobs.
        groups: network tensors whose channels lie in groups, each in blocks of its own, and the
            channels of a group.
        seen: tensors read outside as views of others, and the stored tensor of each.
        slack: lines of zeros behind stored tensors outside.
        turned: channel-major copies, or copies that are no longer it, by stored tensor.
        sparse: names of layers that run sparse.
        small: whether their records should take little room rather than few cycles.
        forced: whether one that cannot is refused rather than run dense.
    """

    spec: CoprocessorSpec
    network: Network
    stored: dict[str, Stored] = field(default_factory=dict)
    root: dict[str, str] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    jobs: list[Task] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    spread: dict[str, Codes] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    groups: dict[str, int] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    slack: dict[str, int] = field(default_factory=dict)
    turned: dict[str, str] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    small: bool = False
    forced: bool = False

    def tensor(self, name: str) -> Tensor:
        """The network's tensor."""
        return self.network.tensors[name]

    def new(self, tensor: Tensor, shape: tuple[int, int, int], positive: bool = False) -> Stored:
        """Room for a network tensor, stored as (channels, height, width)."""
        stored = Stored(tensor.name, *shape, tensor.format, tensor.scale, positive=positive)
        return self._put(tensor.name, stored, plain(tensor.name, shape[0], shape[1] * shape[2]))

    def new_tokens(
        self, tensor: Tensor, channels: int, size: Pair, positive: bool = False, whole: bool = False
    ) -> Stored:
        """Room for a network tensor whose last axis is ``channels`` and the others are pixels.

        Args:
            size: (height, width) of the pixels.
            whole: whether channels follow each other even if layers further on want groups.
        """
        group = channels if whole else self.groups.get(tensor.name, channels)
        room = self.room(tensor.format, group) if group < channels else group
        total = channels // group * room
        stored = Stored(tensor.name, total, *size, tensor.format, tensor.scale, positive=positive)
        stored.plain = group < channels
        view = tokens(tensor.name, channels, stored.pixels, group, room)
        return self._put(tensor.name, stored, view)

    def new_heads(
        self, tensor: Tensor, size: Pair, positive: bool = False, lanes_too: int = 0
    ) -> Stored:
        """Room for a network tensor (..., M, N): every leading index a group of N channels."""
        *lead, _, channels = tensor.shape
        count = math.prod(lead)
        room = self.room(tensor.format, channels, lanes_too) if count > 1 else channels
        stored = Stored(
            tensor.name, count * room, *size, tensor.format, tensor.scale, positive=positive
        )
        stored.plain = True
        view = heads(tensor.name, count, channels, stored.pixels, room)
        return self._put(tensor.name, stored, view)

    def new_groups(self, tensor: Tensor, size: Pair, lead: Sequence[Axis], room: int) -> Stored:
        """Room for a network tensor whose last axis is a group of channels.

        Args:
            size: (height, width) of the pixels.
            lead: its other axes, of pixels and of groups, in order.
            room: channels that a group takes.
        """
        stride, axes = room, [Axis(CHANNEL, tensor.shape[-1], 1)]
        for axis in reversed(lead):
            if axis.of == CHANNEL:
                axes.insert(0, replace(axis, stride=stride))
                stride *= axis.size
            else:
                axes.insert(0, axis)
        stored = Stored(tensor.name, stride, *size, tensor.format, tensor.scale, plain=True)
        return self._put(tensor.name, stored, View(tensor.name, merged(axes)))

    def new_columns(
        self,
        tensor: Tensor,
        pixels: int,
        features: int,
        groups: Pair,
        last: bool = True,
        positive: bool = False,
    ) -> Stored:
        """Room for a network tensor as one of its pixels as channels and its features as pixels.

        Args:
            groups: features of a group, and the room that it takes.
            last: whether features are the tensor's last axis; else its first.
        """
        total = features // groups[0] * groups[1]
        stored = Stored(
            tensor.name, pixels, total, 1, tensor.format, tensor.scale, positive=positive
        )
        stored.plain = True
        view = tokens(tensor.name, features, pixels, *groups).turned(tensor.name)
        if not last:
            view = plain(tensor.name, features, pixels).turned(tensor.name)
        return self._put(tensor.name, stored, view)

    def new_like(self, tensor: Tensor, source: str, positive: bool = False) -> Stored:
        """Room for a network tensor that lies as another of its size does."""
        old = self.held(source)
        stored = Stored(tensor.name, *old.shape, tensor.format, tensor.scale, positive=positive)
        stored.plain = old.plain
        return self._put(tensor.name, stored, replace(self.views[source], stored=tensor.name))

    def _put(self, name: str, stored: Stored, view: View) -> Stored:
        self.stored[name], self.root[name], self.views[name] = stored, name, view
        return stored

    def room(self, fmt: str, channels: int, lanes_too: int = 0) -> int:
        """Channels that whole blocks for so many take."""
        block = self.spec.line_words * max(lanes.lanes(fmt), lanes_too)
        return -(-channels // block) * block

    def held(self, name: str) -> Stored:
        """The stored tensor behind a network tensor."""
        return self.stored[self.root[name]]

    def owner(self, stored: str) -> str:
        """The stored tensor whose room another one lies in."""
        return self.stored[stored].within or stored

    def view_as(self, name: str, source: str, view: View) -> None:
        """A network tensor that is another one, its axes seen otherwise."""
        self.root[name], self.views[name] = self.root[source], view

    def symbol(self, name: str) -> str:
        """The name under which a network tensor can be read outside: its own, where its axes lie
        otherwise than those of the tensor that it is a view of."""
        root = self.root[name]
        if root not in self.views or self.views[root] != self.views[name]:
            self.seen[name] = root
            return name
        return root

    def part(self, stored: Stored, channel: int, channels: int) -> Stored:
        """Some channels of a tensor, from the beginning of a block on, as a tensor of their own."""
        block = self.spec.line_words * lanes.lanes(stored.format)
        if not channel and channels == stored.channels:
            return stored
        name = f"{stored.name}@{channel}+{channels}"
        if name not in self.stored:
            stored.plain = True
            own = Stored(name, channels, stored.height, stored.width, stored.format, stored.scale,
                         positive=stored.positive, plain=True, within=stored.name,
                         first=channel // block)  # fmt: skip
            self.stored[name] = own
        return self.stored[name]

    def begins_block(self, stored: Stored, channel: int) -> bool:
        """Whether a channel is the first of its block."""
        return channel % (self.spec.line_words * lanes.lanes(stored.format)) == 0

    def scattered(self, view: View, codes: Codes) -> Codes:
        """Codes in a network tensor's order as its stored tensor has them; gaps are 0."""
        stored = self.stored[view.stored]
        held = np.zeros((stored.channels, stored.pixels), dtype=np.asarray(codes).dtype)
        held[places(view)] = np.asarray(codes).reshape(-1)
        return held.reshape(stored.shape)

    def spread_weights(self, view: View, weights: Codes) -> Codes:
        """Weights (N, K) of a view's elements as (N, channels, height, width); gaps are 0."""
        stored = self.stored[view.stored]
        held = np.zeros((len(weights), stored.channels, stored.pixels), dtype=weights.dtype)
        channel, pixel = places(view)
        held[:, channel, pixel] = weights
        return held.reshape(len(weights), *stored.shape)


def refuse(layer: L.LayerBase, why: str) -> CompileError:
    """The error of a layer the co-processor does not do."""
    return CompileError(f"layer '{layer.name}' ({type(layer).__name__}): {why}")


def needs(low: Lowered, layer: L.LayerBase, kind: str) -> None:
    """Refuse a layer whose kind of exec the co-processor has no gates for."""
    if low.spec.lacks(kind):
        raise refuse(layer, f"it needs {kind}, {without(low.spec, kind)}")


def without(spec: CoprocessorSpec, kind: str) -> str:
    """That there are no gates for a kind of exec, and who has them."""
    return f"which {spec.name} has no gates for: choose a spec that has them, such as " + (
        catalog.with_kind(spec, kind).name
    )


def image(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(channels, height, width) of a tensor of one sample, or None."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1], shape[2], shape[3]
    if len(shape) == 3 and shape[0] == 1:
        return shape[1], 1, shape[2]
    if len(shape) == 2 and shape[0] == 1:
        return shape[1], 1, 1
    if len(shape) == 1:
        return shape[0], 1, 1
    return None


def engine_format(low: Lowered, layer: L.LayerBase, name: str) -> None:
    """Refuse a format the engine does not have."""
    if name not in low.spec.mac.formats:
        known = ", ".join(low.spec.mac.formats)
        raise refuse(layer, f"the engine has no {name}: expected {known}")


def checked_shift(low: Lowered, layer: L.LayerBase, shift: int) -> int:
    """A shift that the engine can do, or refusal."""
    half = 1 << (low.spec.engine.shift_bits - 1)
    if not -half <= shift < half:
        raise refuse(layer, f"a shift by {shift} bits: the engine shifts by {-half} to {half - 1}")
    return shift


def clamp_codes(low: Lowered, out: Tensor, clip: L.Clip | None) -> Pair | None:
    """Codes that clipping before the rounding comes to: rounding is monotonic."""
    if clip is None or all(math.isinf(b) for b in clip):
        return None
    fmt = formats.get(out.format)
    ends = [int(c) for c in fmt.encode(np.array([-fmt.maxpos, fmt.maxpos]))]
    codes = []
    for bound, end in zip(clip, ends, strict=True):
        if math.isinf(bound):
            codes.append(end)
        else:
            exact = Fraction(bound)
            codes.append(
                codec.round_exact(
                    fmt, exact.numerator, -out.scale, low.spec.underflow, exact.denominator
                )
            )
    return codes[0], codes[1]


def two(values: tuple[int, ...], lead: int) -> Pair:
    """The (y, x) of one or two spatial axes."""
    return (lead, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def powers(name: str) -> dict[int, int]:
    """Codes of a format's powers of two, by exponent."""
    fmt = formats.get(name)
    found = {}
    for code, value in enumerate(fmt.values):
        if value > 0 and math.isfinite(value) and math.frexp(value)[0] == 0.5:
            found[math.frexp(value)[1] - 1] = code
    return found


def negated(name: str, code: int) -> int:
    """The code of the negative value."""
    fmt = formats.get(name)
    return int(fmt.encode(np.array(-fmt.values[code])))


def nests(name: str, mode: str) -> bool:
    """Whether a fill brings codes of a format to a mode."""
    if name == mode:
        return True
    return bool(formats.get(name).bits < formats.get(mode).bits)
