"""Tiles of a finished run as the engine's own operand words, for replay on the RTL.

A layer that multiplies is seen as groups of (M, K) x (K, N) products: a row is an output pixel or
token, a column an output channel (:mod:`opennpe.golden.array`). Each engine of a tile gets one
case: K word pairs, the bias on the accumulator's grid, a shift a lane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes, mac
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["Case", "Product", "product", "sample"]

Codes = NDArray[Any]
REPLAYED = (L.Conv, L.Linear, L.MatMul)


@dataclass(frozen=True, eq=False)
class Case:
    """One engine's share of a tile.

    Attributes:
        layer: the layer's name.
        outputs: flat indices into the layer's output, one a lane in use.
        expected: the simulator's codes there.
        modes: formats of both operands, of one width.
        codes: operand codes, two arrays (K, lanes).
        words: operand words, two uint16 arrays (K,).
        bias: accumulator preload a lane, in units of the grid.
        shifts: power of two applied to the exact sum before the rounding, a lane.
        out: the output tensor, for its format and scale.
        clip: real bounds the layer applies.
    """

    layer: str
    outputs: tuple[int, ...]
    expected: Codes
    modes: tuple[str, str]
    codes: tuple[Codes, Codes]
    words: tuple[Codes, Codes]
    bias: tuple[int, ...]
    shifts: tuple[int, ...]
    out: Tensor
    clip: L.Clip | None


@dataclass(frozen=True, eq=False)
class Product:
    """A layer as ``groups`` products of ``m`` rows and ``n`` columns.

    ``lanes_differ``: each column brings its own row operand (depthwise convolution).
    """

    layer: Any
    ins: list[Tensor]
    out: Tensor
    values: list[Codes]
    groups: int
    m: int
    n: int
    lanes_differ: bool = False

    def modes(self) -> tuple[str, str]:
        """Formats of the two operands as they enter the engine."""
        return mac.compute_formats(self.ins[0].format, self._right_format())

    def _right_format(self) -> str:
        return self.layer.weight_format if self._weighted() else self.ins[1].format

    def _weighted(self) -> bool:
        return isinstance(self.layer, L.Conv | L.Linear)

    def left(self, group: int, row: int, column: int) -> Codes:
        """Codes (K,) of the row operand."""
        x = self.values[0]
        if isinstance(self.layer, L.Conv):
            return _window(self.layer, x, row, column if self.lanes_differ else group, self.out)
        if isinstance(self.layer, L.Linear):
            return np.asarray(x.reshape(-1, x.shape[-1])[row])
        return np.asarray(_matrix(x, self._lead(), group)[row])

    def right(self, group: int, column: int) -> Codes:
        """Codes (K,) of the column operand."""
        if self._weighted():
            weights = self.layer.weights
            return np.asarray(weights.reshape(len(weights), -1)[self.channel(group, column)])
        return np.asarray(_matrix(self.values[1], self._lead(), group)[:, column])

    def channel(self, group: int, column: int) -> int:
        """The output channel of a column."""
        return column if self.lanes_differ else group * self.n + column

    def bias_and_scale(self, group: int, column: int) -> tuple[int, int]:
        """Accumulator preload in units of the grid, and the products' power of two."""
        if not self._weighted():
            return 0, sum(t.scale for t in self.ins)
        channel = self.channel(group, column)
        scale = self.ins[0].scale + int(self.layer.weight_scale[channel])
        grid = mac.grid_exponent(self.ins[0].format, self.layer.weight_format)
        return mac.to_grid(float(self.layer.bias[channel]), grid + scale), scale

    def output_index(self, group: int, row: int, column: int) -> int:
        """Flat index into the layer's output codes."""
        if isinstance(self.layer, L.Conv):
            pixels = math.prod(self.out.shape[2:])
            sample, pixel = divmod(row, pixels)
            channels = len(self.layer.weights)
            return (sample * channels + self.channel(group, column)) * pixels + pixel
        return (group * self.m + row) * self.n + column

    def _lead(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*(v.shape[:-2] for v in self.values))


def _matrix(x: Codes, lead: tuple[int, ...], group: int) -> Codes:
    shape = (*lead, *x.shape[-2:])
    return np.asarray(np.broadcast_to(x, shape)[np.unravel_index(group, lead)] if lead else x)


def _window(layer: L.Conv, x: Codes, row: int, group: int, out: Tensor) -> Codes:
    """The codes under one output pixel, channels then taps; padding is code 0."""
    spatial = out.shape[2:]
    sample, *place = np.unravel_index(row, (len(x), *spatial))
    kernel, width = layer.weights.shape[2:], layer.weights.shape[1]
    codes = np.zeros((width, *kernel), dtype=x.dtype)
    channels = slice(group * width, (group + 1) * width)
    for tap in itertools.product(*(range(k) for k in kernel)):
        at = [
            int(o) * s - p + t * d
            for o, s, p, t, d in zip(
                place, layer.strides, layer.pads, tap, layer.dilations, strict=False
            )
        ]
        if all(0 <= i < extent for i, extent in zip(at, x.shape[2:], strict=True)):
            there: Any = (sample, channels, *at)
            into: Any = (slice(None), *tap)
            codes[into] = x[there]
    return codes.reshape(-1)


def product(network: Network, layer: L.Layer, tensors: Mapping[str, Codes]) -> Product | None:
    """A layer of a run as products, or None where it does not multiply on the array."""
    if not isinstance(layer, REPLAYED):
        return None
    ins, out = network.layer_tensors(layer)
    values = [np.asarray(tensors[name]) for name in layer.inputs]
    shape = tensors[layer.output].shape
    if isinstance(layer, L.Conv):
        m, n = shape[0] * math.prod(shape[2:]), len(layer.weights) // layer.groups
        if layer.groups > 1 and n == 1:
            return Product(layer, ins, out, values, 1, m, layer.groups, lanes_differ=True)
        return Product(layer, ins, out, values, layer.groups, m, n)
    if isinstance(layer, L.Linear):
        return Product(layer, ins, out, values, 1, math.prod(shape[:-1]), shape[-1])
    return Product(layer, ins, out, values, math.prod(shape[:-2]), shape[-2], shape[-1])


def sample(
    spec: CoprocessorSpec,
    view: Product,
    expected: Codes,
    count: int,
    rng: np.random.Generator,
) -> Iterator[list[Case]]:
    """``count`` tiles of a layer, drawn without replacement; each is one case an engine in use."""
    width = spec.array.columns * lanes.lanes(view.modes()[0])
    grid = (view.groups, -(-view.m // spec.array.rows), -(-view.n // width))
    total = math.prod(grid)
    chosen = rng.choice(total, min(count, total), replace=False)
    for tile in chosen:
        group, row, column = (int(i) for i in np.unravel_index(int(tile), grid))
        yield _tile(spec, view, expected.reshape(-1), group, row, column)


def _tile(
    spec: CoprocessorSpec, view: Product, expected: Codes, group: int, row: int, column: int
) -> list[Case]:
    count = lanes.lanes(view.modes()[0])
    rows = range(row * spec.array.rows, min((row + 1) * spec.array.rows, view.m))
    first = column * spec.array.columns * count
    starts = range(first, min(first + spec.array.columns * count, view.n), count)
    return [
        _case(view, expected, group, r, range(c, min(c + count, view.n)), count)
        for r, c in itertools.product(rows, starts)
    ]


def _case(view: Product, expected: Codes, group: int, row: int, columns: range, count: int) -> Case:
    modes = view.modes()
    left = [view.left(group, row, c) for c in (columns if view.lanes_differ else columns[:1])]
    left = left if view.lanes_differ else left * count
    right = [view.right(group, c) for c in columns]
    given = (view.ins[0].format, view._right_format())
    codes = tuple(
        _lanes(side, count, have, mode)
        for side, have, mode in zip((left, right), given, modes, strict=True)
    )
    preload = [view.bias_and_scale(group, c) for c in columns]
    idle = count - len(columns)
    outputs = tuple(view.output_index(group, row, c) for c in columns)
    return Case(
        layer=view.layer.name,
        outputs=outputs,
        expected=expected[list(outputs)],
        modes=modes,
        codes=(codes[0], codes[1]),
        words=(lanes.pack(modes[0], codes[0]), lanes.pack(modes[1], codes[1])),
        bias=(*(b for b, _ in preload), *(0,) * idle),
        shifts=(*(s - view.out.scale for _, s in preload), *(0,) * idle),
        out=view.out,
        clip=view.layer.clip,
    )


def _lanes(sides: list[Codes], count: int, have: str, mode: str) -> Codes:
    """Codes (K, lanes) in the engine's mode; lanes without a column hold zero."""
    codes = np.stack(sides, axis=-1)
    if have != mode:
        codes = formats.widen_table(have, mode)[codes]
    padded = np.zeros((len(codes), count), dtype=formats.get(mode).dtype)
    padded[:, : codes.shape[1]] = codes
    return padded
