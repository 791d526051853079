"""Streams of operand words for energies: random ones, and those of real layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import characterise, engine_gates
from opennpe.fpga.engine_gates import WordStream
from opennpe.fpga.gate_model import GateModel
from opennpe.golden import formats, lanes
from opennpe.golden.spec import EngineSpec
from opennpe.sim.layer_words import Product
from opennpe.sim.word_activity import Sums, count

__all__ = ["events_of", "measured", "of_layer", "random_streams"]

Floats = NDArray[np.float64]
WINDOW = 100
"""Words of a window."""
SPREADS = (0.25, 1.0, 4.0)
"""Standard deviations of random operands."""
LENGTHS = (3, 9, 32, 128)
"""Words of random sums."""
SUMS_OF_ONES = (
    (0.25, 0.0, 2),
    (0.25, 0.5, 2),
    (1.0, 0.0, 2),
    (1.0, 0.3, 2),
    (4.0, 0.0, 2),
    (4.0, 0.3, 2),
    (1.0, 0.3, 9),
    (1.0, 0.3, 49),
)
"""Spread, share of zeros and words of a sum where the second operand is one."""
ZEROS = (0.0, 0.3, 0.7)
"""Shares of zeros among random operands."""


def random_streams(
    spec: EngineSpec, a: str, b: str, words: int, rng: np.random.Generator
) -> list[WordStream]:
    """Normal operands of several spreads, lengths of sums and shares of zeros; one stream in two
    spreads one element over all lanes, as dense layers do."""
    found = []
    share = lanes.lanes(a)
    for spread in SPREADS:
        for zeros in ZEROS:
            length = LENGTHS[len(found) % len(LENGTHS)]
            sums = max(-(-words // length), 1)
            dense = len(found) % 3 > 0
            left = _codes(a, rng, (sums, length, 1 if dense else share), spread, zeros)
            right = _codes(b, rng, (sums, length, share), 1.0, 0.02)
            left = np.broadcast_to(left, (sums, length, share))
            found.append(_stream(spec, a, b, lanes.pack(a, left), lanes.pack(b, right)))
    # Pooling and additions: every word of the second operand holds ones.
    one = formats.get(b).encode(1.0)
    for spread, zeros, length in SUMS_OF_ONES:
        sums = max(-(-words // length), 1)
        left = _codes(a, rng, (sums, length, share), spread, zeros)
        right = np.broadcast_to(one, left.shape)
        found.append(_stream(spec, a, b, lanes.pack(a, left), lanes.pack(b, right)))
    return found


def _codes(
    f: str, rng: np.random.Generator, shape: tuple[int, ...], spread: float, zeros: float
) -> Any:
    values = rng.normal(0.0, spread, shape)
    values[rng.random(shape) < zeros] = 0.0
    if rng.random() < 0.5:
        values = np.abs(values)  # behind a relu
    return formats.get(f).encode(values, "zero")


def _stream(spec: EngineSpec, a: str, b: str, left: Any, right: Any) -> WordStream:
    return engine_gates.uniform(spec, a, b, left, right)


def of_layer(
    spec: EngineSpec, product: Product, rows: int, columns: int, words: int, start: int = 0
) -> WordStream:
    """What one engine meets at several places of a layer, about so many words.

    At each place it does two pixels: channel tiles inside pixels, as the sequencer walks, at most
    four of them.
    """
    own = np.arange(start % min(columns, product.tiles), product.tiles, columns)[:4]
    run = 2 * len(own) * product.steps
    places = max(min(-(-words // run), product.pixels), 1)
    base = np.floor(((np.arange(places) * 0.6180339887) % 1.0) * product.pixels).astype(int)
    pixel = np.stack([base, np.minimum(base + rows, product.pixels - 1)], axis=1)
    pixel = np.repeat(pixel.reshape(-1), len(own))
    tile = np.tile(own, 2 * places)
    left, right = product.sums(pixel, tile)
    return engine_gates.uniform(
        spec,
        product.a,
        product.b,
        left,
        right,
        _packed(product.bias[tile], lanes.lanes(product.a)),
        np.clip(product.shift[tile], -512, 511),
    )


def _packed(bias: NDArray[np.uint64], share: int) -> NDArray[np.uint64]:
    """Lanes' biases (S, 4, 2) side by side, uint64 (S, 2)."""
    if share == 1:
        return bias[:, 0]
    if share == 2:
        return bias[:, :2, 0]
    low = bias[:, :, 0]
    return np.stack([low[:, 0] | low[:, 1] << 32, low[:, 2] | low[:, 3] << 32], axis=1)


def _unpacked(bias: NDArray[np.uint64], share: int) -> NDArray[np.uint64]:
    found = np.zeros((len(bias), 4, 2), dtype=np.uint64)
    if share == 1:
        found[:, 0] = bias
    elif share == 2:
        found[:, :2, 0] = bias
    else:
        mask = np.uint64((1 << 32) - 1)
        for lane in range(4):
            found[:, lane, 0] = bias[:, lane // 2] >> np.uint64(32 * (lane % 2)) & mask
    return found


def events_of(a: str, b: str, stream: WordStream, windows: list[characterise.Window]) -> Floats:
    """Events of windows of a stream of one mode, (windows, classes)."""
    bias = _unpacked(stream.bias, lanes.lanes(a))
    # A sum is cut where a window ends: the part behind goes on from the part before.
    cuts = np.array([w.first for w in windows] + [windows[-1].last])
    edges = np.unique(np.concatenate([stream.start, cuts]))
    owner = np.searchsorted(stream.start, edges[:-1], side="right") - 1
    begins = np.isin(edges[:-1], stream.start)
    held = Sums(
        stream.words_a,
        stream.words_b,
        edges.astype(np.int64),
        np.concatenate([[0], np.searchsorted(edges, cuts), [len(edges) - 1]]).astype(np.int64),
        bias[owner],
        begins.astype(np.uint8),
        stream.shift[owner],
    )
    return count(a, b, held, joined=True)[1:-1]


def measured(
    spec: EngineSpec, gate_model: GateModel, a: str, b: str, stream: WordStream
) -> tuple[Floats, Floats, Floats]:
    """Events (windows, classes), energies fJ and cycles of a stream's windows."""
    size = min(WINDOW, max(stream.words // 4, 1))
    windows = characterise.measure(spec, gate_model, stream, size)
    events = events_of(a, b, stream, windows)
    energy = np.array([w.energy_fj for w in windows])
    return events, energy, np.array([float(w.cycles) for w in windows])
