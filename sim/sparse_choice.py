"""Dense or sparse on this host: by time, measured on the layer's own shape, or by bytes.

A sparse product costs what does not depend on the weights (decoding activations, rounding sums)
and a share for each stored block; a dense one costs the same whatever its zeros. So two
measurements of the sparse kernel and one of the dense give the whole comparison, and the density
at which they cost the same. Nothing is typed in: another machine has other thresholds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, sparse, sparse_pack
from opennpe.golden.errors import SparseError
from opennpe.sim import sparse as sparse_exact
from opennpe.sim import sparse_float

__all__ = ["Costs", "cheaper", "costs", "stored"]

PROBE = 0.25
"""Density of the second measurement of the sparse kernel; the first is 0."""
REPEATS = 5


@dataclass(frozen=True)
class Costs:
    """Seconds of one product on one thread.

    Attributes:
        dense: of the dense kernel, weights packed beforehand.
        fixed: of the sparse kernel without a nonzero.
        share: of the sparse kernel, added by a density of stored blocks of 1.
    """

    dense: float
    fixed: float
    share: float

    def sparse(self, density: float) -> float:
        """Seconds of the sparse kernel where this share of blocks is stored."""
        return self.fixed + self.share * density

    @property
    def break_even(self) -> float:
        """Density of stored blocks below which the sparse kernel is faster, 0 to 1."""
        if self.fixed >= self.dense:
            return 0.0
        return min(1.0, (self.dense - self.fixed) / self.share) if self.share > 0 else 1.0


def stored(packed: sparse.Packed) -> float:
    """Share of the blocks of a matrix that are stored, fillers and padding left out."""
    height = packed.block[0]
    held = np.count_nonzero(packed.stream().values.any(axis=1))
    return float(held) / (-(-packed.shape[0] // height) * packed.shape[1])


def cheaper(
    packed: sparse.Packed,
    pixels: int,
    x_format: str | None = None,
    by: Literal["time", "bytes"] = "time",
) -> Literal["dense", "sparse"]:
    """Which of the two a layer should take.

    Args:
        packed: weights (M, K).
        pixels: columns of the activations.
        x_format: their format; the weights' where None.
        by: "time" (one thread of this host) or "bytes" (weights as stored, against a dense code
            for each).

    Raises:
        SparseError: neither time nor bytes.
    """
    if by == "bytes":
        dense = sparse.dense_bits(packed.shape, packed.format)
        return "sparse" if packed.bits().total < dense else "dense"
    if by != "time":
        raise SparseError(f"the cheaper by '{by}': expected 'time' or 'bytes'")
    wanted = packed.format if x_format is None else x_format
    if sparse_exact.prepare(packed, wanted).path == "dense":
        return "dense"
    height = min(packed.block[0], sparse_exact.TALLEST)
    found = costs(packed.shape, pixels, packed.format, wanted, height)
    return "sparse" if stored(packed) < found.break_even else "dense"


@lru_cache(maxsize=256)
def costs(
    shape: tuple[int, int], pixels: int, name: str, x_format: str | None = None, rows: int = 1
) -> Costs:
    """Measured costs of (M, K) x (K, ``pixels``) on this host, one thread; remembered.

    Args:
        shape: (M, K).
        pixels: N.
        name: format of the weights, or "float32".
        x_format: format of the activations; the weights' where None.
        rows: output channels of a block: 1, 2 or 4.
    """
    rng = np.random.default_rng(0)
    empty, some = (_blocks(rng, shape, density, rows) for density in (0.0, PROBE))
    if name == "float32":
        calls = _floats(rng, shape, pixels, empty, some, rows)
    else:
        calls = _exact(rng, shape, pixels, (name, x_format or name), empty, some, rows)
    dense, fixed, probe = _measure(calls)
    share = max(0.0, probe - fixed) / max(float(some.mean()), 1e-9)
    return Costs(dense, fixed, share)


def _blocks(
    rng: np.random.Generator, shape: tuple[int, int], density: float, rows: int
) -> NDArray[np.bool_]:
    held = rng.random((-(-shape[0] // rows), shape[1])) < density
    return np.asarray(np.repeat(held, rows, axis=0)[: shape[0]])


def _floats(
    rng: np.random.Generator,
    shape: tuple[int, int],
    pixels: int,
    empty: NDArray[np.bool_],
    some: NDArray[np.bool_],
    rows: int,
) -> list[Callable[[], Any]]:
    x = rng.normal(size=(shape[1], pixels)).astype(np.float32)
    weights = rng.normal(size=shape).astype(np.float32)
    held = [sparse_float.pack(weights * mask, rows) for mask in (empty, some)]
    return [lambda: weights @ x, *(partial(sparse_float.multiply, p, x) for p in held)]


def _exact(
    rng: np.random.Generator,
    shape: tuple[int, int],
    pixels: int,
    names: tuple[str, str],
    empty: NDArray[np.bool_],
    some: NDArray[np.bool_],
    rows: int,
) -> list[Callable[[], Any]]:
    own, other = formats.get(names[0]), formats.get(names[1])
    x = other.encode(rng.normal(size=(shape[1], pixels)), "zero")
    weights = own.encode(rng.normal(size=shape), "zero")
    packed = [
        sparse_pack.pack_blocks(weights * m.astype(own.dtype), own.name, rows)
        for m in (empty, some)
    ]
    prepare = partial(sparse_exact.prepare, shift=-3, underflow="zero", threads=1)
    dense = prepare(packed[1], other.name, force="dense")
    return [dense.across(x), *(partial(prepare(p, other.name), x) for p in packed)]


def _measure(calls: list[Callable[[], Any]]) -> list[float]:
    """Least processor seconds of each call, whatever threads it uses; the calls alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(REPEATS + 1):
        for call, seconds in zip(calls, times, strict=True):
            begun = time.process_time()
            call()
            if turn:
                seconds.append(time.process_time() - begun)
    return [min(seconds) for seconds in times]
