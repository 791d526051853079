"""Softmax in float64 as the paper has it: three passes with a maximum, two passes without.

Source: Two-Pass Softmax (arXiv 2001.04438), algorithms 1 and 3. Readable references for the
integer softmax and for the host's kernels; vectorised over rows, sequential along them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ext_exp", "three_pass", "two_pass"]

Float = NDArray[np.float64]
LOG2E = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01
"""ln 2 to 33 bits: n * LN2_HIGH is exact for |n| < 2**20 (fdlibm, e_exp.c)."""
LN2_LOW = 1.90821492927058770002e-10
COEFFICIENTS = tuple(1.0 / math.factorial(k) for k in range(14))


def ext_exp(x: ArrayLike) -> tuple[Float, Float]:
    """exp(x) as mantissa in [0.707, 1.415] and exponent of two, never put together.

    Cody-Waite reduction and a polynomial (the paper's ExtExp): any finite x up to 2**50 has its
    pair. Minus infinity gives (0, -inf).
    """
    values = np.asarray(x, dtype=np.float64)
    finite = np.isfinite(values)
    clean = np.where(finite, values, 0.0)
    n = np.rint(clean * LOG2E)
    t = (clean - n * LN2_HIGH) - n * LN2_LOW
    m = np.full_like(t, COEFFICIENTS[-1])
    for c in COEFFICIENTS[-2::-1]:
        m = m * t + c
    empty = values == -np.inf
    return np.where(empty, 0.0, np.where(finite, m, np.nan)), np.where(empty, -np.inf, n)


def _power(exponent: Float) -> Float:
    """2**exponent for exponents up to 0; 0 below float64's range."""
    whole = np.maximum(np.nan_to_num(exponent, neginf=-2000.0), -2000.0).astype(np.int64)
    return np.asarray(np.ldexp(1.0, whole))


def two_pass(x: ArrayLike) -> Float:
    """Softmax along the last axis: a running (mantissa, exponent) sum, then scaling.

    An extended exponent takes the place of the maximum, so no pass looks for one. Rows of minus
    infinities alone give zeros.
    """
    m, n = ext_exp(x)
    total, largest = np.zeros(m.shape[:-1]), np.full(m.shape[:-1], -np.inf)
    for i in range(m.shape[-1]):
        before, largest = largest, np.maximum(largest, n[..., i])
        top = np.where(np.isfinite(largest), largest, 0.0)
        total = total * _power(before - top) + m[..., i] * _power(n[..., i] - top)
    top = np.where(np.isfinite(largest), largest, 0.0)[..., None]
    inverse = 1.0 / np.where(total > 0, total, 1.0)
    return np.asarray(m * inverse[..., None] * _power(n - top))


def three_pass(x: ArrayLike) -> Float:
    """Softmax along the last axis: the maximum, the sum, the results.

    Rows of minus infinities alone give zeros.
    """
    values = np.asarray(x, dtype=np.float64)
    highest = values.max(axis=-1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    powers = np.exp(values - highest)
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total > 0, total, 1.0))
