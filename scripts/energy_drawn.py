"""Streams whose statistics are drawn at random, as widely as those of layers differ and wider."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import engine_gates
from opennpe.fpga.engine_gates import WordStream
from opennpe.golden import formats, lanes, mac
from opennpe.golden.spec import EngineSpec
from opennpe.sim.operands import grid_units

__all__ = ["drawn_streams", "lane_biases"]

Floats = NDArray[np.float64]
LENGTHS = (2, 9, 2, 32, 1, 128, 2, 4, 2, 16, 3, 64)
"""Words of a sum, stream by stream: short ones often, where each lane that leaves weighs more."""
SHORT = 4
"""Words of a sum up to which each word is a tensor of its own, as in additions."""
TILES = 4
"""Weights, biases and shifts that sums take in turn."""


def drawn_streams(
    spec: EngineSpec, a: str, b: str, count: int, words: int, rng: np.random.Generator
) -> list[WordStream]:
    """``count`` streams of about so many words each."""
    return [_stream(spec, a, b, LENGTHS[i % len(LENGTHS)], words, rng) for i in range(count)]


def _stream(
    spec: EngineSpec, a: str, b: str, length: int, words: int, rng: np.random.Generator
) -> WordStream:
    share, sums = lanes.lanes(a), -(-words // length)
    tile = np.arange(sums) % rng.choice([1, 2, TILES])
    spread = 2.0 ** rng.uniform(-3, 2)
    if length <= SHORT:
        parts = [_operand(rng, (sums, 1, share), spread) for _ in range(length)]
        left = np.concatenate(parts, axis=1)
    else:
        left = _operand(rng, (sums, length, share), spread)
        if rng.random() < 0.5:  # an element over all lanes, as in dense layers
            left = np.broadcast_to(left[:, :, :1], left.shape)
    right = np.ones((TILES, length, share))
    if rng.random() < (0.2 if length <= SHORT else 0.7):
        right = rng.normal(0, 2.0 ** rng.uniform(-2, 1), right.shape)
    size = spread * float(np.abs(right).mean()) * length**0.5
    bias = rng.normal(0, size, (TILES, share)) * (rng.random() < 0.5)
    shift = np.rint(rng.normal(0, 2) - np.log2(size) + rng.normal(0, 0.7, (TILES, share)))
    every = np.zeros((TILES, max(spec.lane_counts)), dtype=np.int64)
    every[:, :share] = shift
    return engine_gates.uniform(
        spec,
        a,
        b,
        lanes.pack(a, formats.get(a).encode(left, "zero")),
        lanes.pack(b, formats.get(b).encode(right, "zero"))[tile],
        lane_biases(a, b, bias)[tile],
        every[tile],
    )


def _operand(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> Floats:
    """Values (sums, words, lanes): normal, some with a mean, behind a relu, or following those
    of the sum before as neighbouring pixels do."""
    own = rng.normal(0, 1, shape)
    follows = rng.choice([0.0, 0.8, 0.95])
    for i in range(1, len(own)):
        own[i] = follows * own[i - 1] + (1 - follows**2) ** 0.5 * own[i]
    own += rng.choice([0.0, 0.0, 0.7, -0.7, 1.5])
    if rng.random() < 0.4:
        own = np.maximum(own, 0) if rng.random() < 0.5 else np.abs(own)
    zeros = rng.choice([0.0, 0.0, 0.2, 0.5, 0.8])
    # Zeros of single lanes, or of whole words.
    there = rng.random(shape if rng.random() < 0.6 else (*shape[:2], 1)) >= zeros
    return np.asarray(own * there * spread)


def lane_biases(a: str, b: str, values: Floats) -> NDArray[np.uint64]:
    """Biases (S, lanes) on the sums' grid, side by side as the engine takes them: (S, 2)."""
    share = values.shape[1]
    width = mac.GROUP_BITS // share
    exponents = np.full(values.size, mac.grid_exponent(a, b), dtype=np.int64)
    units: Any = grid_units(values.reshape(-1), exponents).reshape(values.shape)
    found = np.zeros((len(values), 2), dtype=np.uint64)
    for i, row in enumerate(units.tolist()):
        whole = sum((int(v) & ((1 << width) - 1)) << (width * lane) for lane, v in enumerate(row))
        found[i] = whole & ((1 << 64) - 1), whole >> 64
    return found
