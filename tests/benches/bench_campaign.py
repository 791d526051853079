"""Which batches a campaign runs: shared by the cocotb benches, the C++ replay and the mutants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import bench_streams as streams
import numpy as np
from bench_batch import FORMATS, MODES, Batch, concat

NARROW = MODES[:4]


def quick(rng: np.random.Generator) -> Iterator[tuple[str, Batch]]:
    """Some tens of thousands of sums that reach every bin: what planted bugs are tried on."""
    for mode in NARROW:
        yield f"pairs {mode}", concat([streams.every_pair(mode, out) for out in _wide(mode)])
    yield "mixture", streams.mixture(6_000, 6, rng)
    for mode in MODES:
        edges = [streams.rounding_edges(mode, out, rng) for out in FORMATS]
        few = [e.take(rng.permutation(len(e))[:700]) for e in edges]
        yield f"edges {mode}", concat(few).shuffled(rng)
        yield f"NaR {mode}", streams.nan_storm(mode, 150, rng)
        yield f"cancellation {mode}", streams.cancellation(mode, 100, rng)
    yield "far sticky", concat([streams.far_sticky(n, 1_500, rng) for n in ("posit8", "posit16")])
    yield (
        "accumulator edge",
        concat(
            [
                streams.to_the_edge(m, s, 40, out)
                for m in MODES[:5]
                for s in (1, -1)
                for out in FORMATS
            ]
        ),
    )


def standard(rng: np.random.Generator) -> Iterator[tuple[str, Batch]]:
    """All pairs of 4 and 8 bits, every bin, and sums that fill the accumulators."""
    yield from quick(rng)
    yield "pairs posit8", streams.every_pair(("posit8", "posit8"), "posit8")
    yield "long sums", concat([streams.random_sums(m, 12, 3_000, rng, nan=0.0) for m in MODES])
    for name in ("posit4", "posit16"):
        for sign in (1, -1):
            yield f"{name} full", streams.to_the_edge((name, name), sign, 32_767, "posit16")


def full(rng: np.random.Generator) -> Iterator[tuple[str, Batch]]:
    """Every pair of 4 and 8 bits to every result format, every rounding edge, long mixtures."""
    yield from standard(rng)
    for out in ("posit4", "posit16"):
        yield "pairs posit8", streams.every_pair(("posit8", "posit8"), out)
    for mode in MODES:
        edges = concat([streams.rounding_edges(mode, out, rng) for out in FORMATS])
        yield f"edges {mode}", edges.shuffled(rng)
    yield "mixture", streams.mixture(60_000, 12, rng)
    for mode in MODES[:5]:
        parts = [streams.to_the_edge(mode, sign, 32_767, "posit16") for sign in (1, -1)]
        yield f"{mode} full", concat(parts)


CAMPAIGNS: dict[str, Callable[[np.random.Generator], Iterator[tuple[str, Batch]]]] = {
    "quick": quick,
    "standard": standard,
    "full": full,
}


def posit16_pairs(rng: np.random.Generator, count: int) -> Batch:
    """``count`` random and corner pairs of posit16: every one a sum of its own."""
    mode = ("posit16", "posit16")
    a, b = (streams.codes("posit16", (count, 1), rng, nan=0.002) for _ in range(2))
    corner = streams.corners("posit16")
    grid = np.stack(np.meshgrid(corner, corner), axis=-1).reshape(-1, 2)[: count // 2]
    a[: len(grid), 0], b[: len(grid), 0] = grid[:, 0], grid[:, 1]
    ones = np.ones(count, np.int64)
    # Shifts bring most products where posit16 has all its fraction bits.
    shift = rng.integers(-12, 13, (count, streams.LANES))
    return streams.sums(mode, a, b, ones, "posit16", None, shift)


def _wide(mode: tuple[str, str]) -> tuple[str, ...]:
    """fp4 has no code for the NaR that posit4 operands bring: those pairs go elsewhere."""
    return FORMATS if mode == ("fp4", "fp4") else FORMATS[1:]
