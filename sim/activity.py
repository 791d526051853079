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

BUDGET = 1 << 14
"""Words of a layer that are looked at; a layer of at most so many is counted whole."""
MAX_SAMPLES = 4
"""Samples of a batch that are looked at, evenly spread."""
TOGGLES = np.array([name not in ("word", "zero_word", "sum", "gap", "lane") for name in CLASSES])
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
    return _counted(layer.name, found, budget)


def _counted(name: str, product: Product, budget: int) -> LayerActivity:
    sums = product.pixels * product.tiles
    words = sums * product.steps
    if words <= budget:
        # One engine after the other: pixels inside a tile.
        index, length = np.arange(sums), sums
    else:
        take = max(budget // (2 * product.steps), 1)
        # Pairs of sums that follow each other, so that beginnings count as they are.
        base = np.floor((np.arange(take) * RATIO % 1.0) * (sums - 1)).astype(np.int64)
        index, length = (base[:, None] + np.arange(2)).reshape(-1), 2
    tile, pixel = index // product.pixels, index % product.pixels
    runs = np.arange(0, len(index) + 1, length)
    left, right = product.sums(pixel, tile)
    held = Sums(
        np.ascontiguousarray(left, dtype=np.uint16).reshape(-1),
        np.ascontiguousarray(right, dtype=np.uint16).reshape(-1),
        np.arange(len(index) + 1, dtype=np.int64) * product.steps,
        runs.astype(np.int64),
        product.bias[tile],
        np.ones(len(index), dtype=np.uint8),
        product.shift[tile],
    )
    found = count(product.a, product.b, held)
    looked_at = len(index) * product.steps
    total = found.sum(axis=0) * (words / looked_at)
    # A run's first word has no toggles to count.
    total[TOGGLES] *= looked_at / max(looked_at - len(found), 1)
    work = found[:, 0] / (np.diff(runs) * product.steps)
    error = 0.0
    if len(work) > 1 and work.mean() > 0:
        error = float(work.std(ddof=1) / math.sqrt(len(work)) / work.mean())
    return LayerActivity(name, mode_of(product.a, product.b), total, words, looked_at, error)
