"""Sums of products that float64 cannot hold: cut into parts that it can, then put together.

Operands are cut into slices of few bits, so that every product of slices sums exactly in float64;
the partial sums, a few numbers an output, are added as expansions (Shewchuk 1997, *Adaptive
Precision Floating-Point Arithmetic*, figure 6) and rounded to odd at 53 bits, which is as good as
exact for any rounding to 16 bits (:mod:`opennpe.sim.encode`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch

__all__ = ["odd", "slices", "sum_of_products", "two_sum"]

Tensor = torch.Tensor
MANTISSA = 53


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum and its error, both exact (Knuth)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def odd(high: Tensor, low: Tensor) -> Tensor:
    """``high + low`` rounded to odd at 53 bits, for |low| below a unit of ``high``'s last place."""
    bits = high.contiguous().view(torch.int64)
    step = ((low.contiguous().view(torch.int64) ^ bits) >> 63) | 1
    moved = ((bits & 1) ^ 1) & (low != 0).to(torch.int64)
    return (bits + step * moved).view(torch.float64)


def slices(values: Tensor, bits: int) -> list[Tensor]:
    """Parts of ``bits`` significant bits each, largest first, that sum to the values exactly."""
    parts: list[Tensor] = []
    rest = values
    top = float(values.abs().max()) if values.numel() else 0.0
    exponent = math.frexp(top)[1]
    while bool((rest != 0).any()):
        exponent -= bits
        unit = math.ldexp(1.0, exponent)
        # Towards zero: what is left is smaller than a unit, of the same sign.
        part = torch.trunc(rest / unit) * unit
        if bool((part != 0).any()):
            parts.append(part)
        rest = rest - part
    return parts or [values]


def sum_of_products(
    product: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, terms: int, start: Tensor
) -> Tensor:
    """``product(a, b) + start``, rounded to odd.

    Args:
        product: bilinear, each output a sum of at most ``terms`` products.
        start: broadcasts against the outputs.
    """
    bits = (MANTISSA - 1 - max(1, terms).bit_length()) // 2
    partial = [product(x, y) for x, y in itertools.product(slices(a, bits), slices(b, bits))]
    expansion = [start.expand_as(partial[0]).clone()]
    for term in partial:
        expansion = _grow(expansion, term)
    return _rounded(expansion)


def _grow(expansion: list[Tensor], term: Tensor) -> list[Tensor]:
    """An expansion and one number more, smallest component first."""
    found = []
    carry = term
    for component in expansion:
        carry, error = two_sum(carry, component)
        found.append(error)
    return [*found, carry]


def _rounded(expansion: list[Tensor]) -> Tensor:
    """The value of a nonoverlapping expansion, rounded to odd.

    A component that is not zero outweighs all below it, so the sign of what is left is its sign.
    """
    high = torch.zeros_like(expansion[0])
    low = torch.zeros_like(high)
    for component in reversed(expansion):
        # While nothing is lost, what comes next is added; then only its sign matters.
        total, error = two_sum(high, component)
        exact = low == 0
        high, low = torch.where(exact, total, high), torch.where(exact, error, low)
    return odd(high, low)
