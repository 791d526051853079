"""Power-of-two scales: where a set of values best meets a format.

Posits are most precise around 1, so the largest value does not belong at maxpos. ``mse`` tries
the exponents that matter and keeps the one with the smallest squared error; ``maxabs`` and
``percentile`` put the largest magnitude (or a percentile of the magnitudes) at or just below an
anchor: useed = 2**2**es for posits, where the first regime ends, and the largest finite value for
floats and integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats

__all__ = ["best", "candidates", "channels", "squared_error", "tensor_scale"]

SPAN = 10
"""How many exponents the search tries."""
CHANNEL_SAMPLE = 1024
"""Weights of one output channel that the search looks at (evenly spread, the largest included)."""
NEARLY = 1.001
"""Errors this close count as equal; the smaller scale wins, as biases lose fewer bits there."""

Reals = NDArray[np.float64]
Ints = NDArray[np.int64]


def anchor(fmt: Any) -> float:
    """Where ``maxabs`` puts the largest magnitude."""
    return float(2.0 ** (2**fmt.es)) if fmt.kind == "posit" else float(fmt.maxpos)


def _top(fmt: Any) -> int:
    """Largest power of two that a search lets the largest magnitude reach."""
    reach = math.floor(math.log2(fmt.maxpos)) + 2
    return reach if reach <= 9 else 6


def candidates(fmt: Any, largest: Any) -> Ints:
    """Exponents to try, ascending along axis 0: (SPAN, *shape of ``largest``)."""
    exponent = np.frexp(np.asarray(largest, dtype=np.float64))[1].astype(np.int64)
    steps = np.arange(SPAN).reshape(-1, *(1,) * exponent.ndim)
    return np.asarray(exponent - _top(fmt) + steps)


def squared_error(fmt: Any, values: Reals, scale: Any) -> Reals:
    """Squared rounding error of each value at ``2**scale`` (broadcast), zero among the codes."""
    rounded = fmt.decode(fmt.encode(np.ldexp(values, -np.asarray(scale)), "zero"))
    return np.asarray((np.ldexp(rounded, scale) - values) ** 2)


def _aligned(fmt: Any, largest: Any) -> Ints:
    safe = np.where(np.asarray(largest) > 0, largest, anchor(fmt))
    return np.ceil(np.log2(safe / anchor(fmt))).astype(np.int64)


def _lowest(errors: Reals) -> NDArray[np.int64]:
    """Index of the first error along axis 0 that is as small as any."""
    return np.asarray(np.argmax(errors <= errors.min(axis=0) * NEARLY, axis=0))


def tensor_scale(fmt_name: str, values: Reals, method: str, percentile: float = 99.99) -> int:
    """One exponent for all values (any shape); 0 for nothing but zeros."""
    fmt = formats.get(fmt_name)
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    if not magnitudes.size:
        return 0
    if method == "maxabs":
        return int(_aligned(fmt, magnitudes.max()))
    if method == "percentile":
        return int(_aligned(fmt, np.percentile(magnitudes, percentile)))
    return best(fmt_name, magnitudes)[0]


def best(fmt_name: str, magnitudes: Reals) -> tuple[int, float]:
    """The exponent with the smallest squared error, and that error's sum."""
    fmt = formats.get(fmt_name)
    magnitudes = np.sort(magnitudes)  # neighbours meet neighbouring codes: many times faster
    tries = candidates(fmt, magnitudes[-1])
    errors = np.array([squared_error(fmt, magnitudes, int(s)).sum() for s in tries])
    index = int(_lowest(errors))
    return int(tries[index]), float(errors[index])


def channels(fmt_name: str, weights: Reals, method: str, percentile: float = 99.99) -> Ints:
    """One exponent an output channel, int64 (O,), for weights (O, ...)."""
    fmt = formats.get(fmt_name)
    flat = np.abs(weights.reshape(len(weights), -1))
    largest = flat.max(axis=1)
    if method == "maxabs":
        return _aligned(fmt, largest)
    if method == "percentile":
        return _aligned(fmt, np.percentile(flat, percentile, axis=1))
    step = -(-flat.shape[1] // CHANNEL_SAMPLE)
    seen = np.concatenate([flat[:, ::step], largest[:, None]], axis=1) if step > 1 else flat
    seen = np.sort(seen, axis=1)
    tries = candidates(fmt, largest)
    errors = np.stack([squared_error(fmt, seen, s[:, None]).sum(axis=1) for s in tries])
    chosen = tries[_lowest(errors), np.arange(len(flat))]
    return np.where(largest > 0, chosen, 0)
