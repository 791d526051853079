"""What the engines do in each layer of a network, in the classes that energies are known for.

A small layer is counted whole, of a large one some sums spread evenly over it, always the same
ones: figures do not depend on threads or on a seed. What is counted is what the layer defines;
engines that stand idle because a tile is not full meet words of zeros, which
:meth:`LayerActivity.padded` adds once it is known how many steps the array made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import executor
from opennpe.sim.layer_words import Product, layer_product
from opennpe.sim.word_activity import Sums, count
from opennpe.tech.coefficients import CLASSES, mode_of

__all__ = ["BUDGET", "LayerActivity", "activity", "layer_activity"]

Codes = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BUDGET = 1 << 14
"""Words of a layer that are looked at; a layer of at most so many is counted whole."""
RUN_WORDS = 32
"""Words of sums that are looked at one after the other, at least two sums: what a first word
toggles is not known, and sums must not lack their beginnings because of it."""
MAX_SAMPLES = 4
"""Samples of a batch that are looked at, evenly spread."""
COUNTED = ("word", "zero_word", "sum", "gap", "lane")
"""Classes that count every word or sum; the others lack what the first word of a run toggles."""
LEAVING = ("held", "rounded", "exponent", "ones", "drained", "window", "fraction", "place")
"""Classes of lanes that leave."""
RATIO = (math.sqrt(5) - 1) / 2
"""Steps through the outputs by the golden ratio: any number of them lies evenly."""


@dataclass(frozen=True, eq=False)
class LayerActivity:
    """A layer's events, all its engines and samples together.

    Attributes:
        name: the layer's. mode: of the engine, a key of ``Coefficients.energy_fj``; empty where
            no engine works.
        counts: float64 (classes,), scaled up to the whole layer where it was sampled.
        words: word pairs that the layer defines. looked_at: those that were counted.
        error: standard error of the mean work of a word, by sampling, as a share of it.
    """

    name: str
    mode: str
    counts: Floats
    words: int
    looked_at: int
    error: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the whole layer was looked at."""
        return self.looked_at == self.words

    def times(self, factor: float) -> LayerActivity:
        """The same for more samples like these."""
        return replace(self, counts=self.counts * factor, words=round(self.words * factor))

    def padded(self, engine_steps: int) -> LayerActivity:
        """The same with the words of zeros that make up so many engine steps.

        Raises:
            DataError: fewer steps than the layer has words.
        """
        more = engine_steps - self.words
        if more < 0:
            raise DataError(
                f"layer '{self.name}' has {self.words} words, its engines made {engine_steps} steps"
            )
        counts = self.counts.copy()
        counts[CLASSES.index("zero_word")] += more
        return replace(self, counts=counts)


def activity(
    spec: CoprocessorSpec,
    network: Network,
    inputs: Mapping[str, Any],
    threads: int | None = None,
    budget: int = BUDGET,
) -> tuple[LayerActivity, ...]:
    """Events of every layer in order.

    Args:
        inputs: as :func:`opennpe.sim.executor.run` takes them.
        budget: words of a layer to look at.

    Raises:
        OpenNPEError: as :func:`opennpe.sim.executor.run`.
    """
    keep = tuple(network.tensors[name].name for x in network.layers for name in x.inputs)
    keep = tuple(n for n in dict.fromkeys(keep) if n not in network.constants)
    values, _ = executor.run(spec, network, inputs, threads, keep)
    share = 1.0
    if network.batch_axis == 0 and network.inputs:
        samples = len(np.asarray(inputs[network.inputs[0]]))
        chosen = np.unique(np.linspace(0, samples - 1, min(samples, MAX_SAMPLES)).astype(int))
        values = {name: codes[chosen] for name, codes in values.items()}
        share = samples / len(chosen)
    held = dict(values) | {name: np.asarray(c) for name, c in network.constants.items()}
    found = [
        layer_activity(spec, network, layer, [held[n] for n in layer.inputs], budget)
        for layer in network.layers
    ]
    return tuple(x if share == 1.0 else x.times(share) for x in found)


def layer_activity(
    spec: CoprocessorSpec,
    network: Network,
    layer: L.Layer,
    values: list[Codes],
    budget: int = BUDGET,
) -> LayerActivity:
    """Events of one layer, given its operands' codes (channels first)."""
    found = layer_product(spec, network, layer, values)
    if found is None:
        return LayerActivity(layer.name, "", np.zeros(len(CLASSES)), 0, 0)
    return _counted(spec, layer.name, found, budget)


def _walk(spec: CoprocessorSpec, product: Product) -> tuple[Ints, Ints]:
    """Pixels and tiles of all sums, one engine after the other: tiles inside pixels, of both what
    falls to the engine."""
    rows, columns = spec.array.rows, spec.array.columns
    pixel, tile = (x.reshape(-1) for x in np.indices((product.pixels, product.tiles)))
    order = np.lexsort((tile // columns, pixel // rows, tile % columns, pixel % rows))
    return pixel[order], tile[order]


def _runs(spec: CoprocessorSpec, product: Product, index: Ints, length: int) -> tuple[Ints, Ints]:
    """Sums, and behind each those that its engine does next; behind its last one, its first."""
    rows, columns = spec.array.rows, spec.array.columns
    pixel, tile = index // product.tiles, index % product.tiles
    pixels, tiles = [pixel], [tile]
    for _ in range(length - 1):
        wraps = tile + columns >= product.tiles
        pixel = np.where(wraps, pixel + rows, pixel)
        pixel = np.where(pixel < product.pixels, pixel, pixel % rows % product.pixels)
        tile = np.where(wraps, tile % columns, tile + columns)
        pixels.append(pixel)
        tiles.append(tile)
    return np.stack(pixels, axis=1).reshape(-1), np.stack(tiles, axis=1).reshape(-1)


def _unseen(product: Product, sums: int, runs: int) -> Floats:
    """What makes up for the first words of runs, by class (classes,)."""
    words = sums * product.steps
    factor = np.full(len(CLASSES), words / max(words - runs, 1))
    whole: tuple[str, ...] = COUNTED
    if product.steps > 1:  # a sum whose first word is not seen leaves all the same
        whole += LEAVING
    factor[[CLASSES.index(name) for name in whole]] = 1.0
    factor[CLASSES.index("bias")] = sums / max(sums - runs, 1)
    return factor


def _counted(spec: CoprocessorSpec, name: str, product: Product, budget: int) -> LayerActivity:
    sums = product.pixels * product.tiles
    words = sums * product.steps
    if words <= budget:
        pixel, tile, length = *_walk(spec, product), sums
    else:
        # Sums that follow each other, so that beginnings count as they are.
        length = max(2, -(-RUN_WORDS // product.steps))
        take = max(budget // (length * product.steps), 1)
        base = np.floor((np.arange(take) * RATIO % 1.0) * sums).astype(np.int64)
        pixel, tile = _runs(spec, product, base, length)
    runs = np.arange(0, len(pixel) + 1, length)
    left, right = product.sums(pixel, tile)
    held = Sums(
        np.ascontiguousarray(left, dtype=np.uint16).reshape(-1),
        np.ascontiguousarray(right, dtype=np.uint16).reshape(-1),
        np.arange(len(pixel) + 1, dtype=np.int64) * product.steps,
        runs.astype(np.int64),
        product.bias[tile],
        np.ones(len(pixel), dtype=np.uint8),
        product.shift[tile],
    )
    found = count(product.a, product.b, held)
    looked_at = len(pixel) * product.steps
    total = found.sum(axis=0) * (words / looked_at) * _unseen(product, len(pixel), len(found))
    work = found[:, 0] / (np.diff(runs) * product.steps)
    error = 0.0
    if len(work) > 1 and work.mean() > 0:
        error = float(work.std(ddof=1) / math.sqrt(len(work)) / work.mean())
    return LayerActivity(name, mode_of(product.a, product.b), total, words, looked_at, error)
