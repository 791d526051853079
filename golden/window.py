"""The windowed accumulator: a spec option after PDPU, whose order of summation is the contract.

Per step, ``terms`` products and the running sum are aligned to the largest exponent among them,
bits below a window of ``bits`` are cut (towards minus infinity, as dropping low two's complement
bits does), and the sum is renormalised. Cheaper than a quire, and no longer exact (Li et al.,
"PDPU: An Open-Source Posit Dot-Product Unit", section III).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from opennpe.golden import codec, formats
from opennpe.golden.mac import operand_format, round_sum

__all__ = ["windowed_dot"]


def _exponent(value: Fraction) -> int:
    """floor(log2(|value|)) of a nonzero dyadic rational."""
    return value.numerator.__abs__().bit_length() - value.denominator.bit_length()


def _step(terms: list[Fraction], bits: int) -> Fraction:
    """Sum terms aligned in a window of ``bits`` below the largest exponent."""
    nonzero = [t for t in terms if t]
    if not nonzero:
        return Fraction(0)
    unit = Fraction(2) ** (max(_exponent(t) for t in nonzero) - bits + 1)
    return sum((t / unit).__floor__() for t in nonzero) * unit


def windowed_dot(
    f: Any,
    a: ArrayLike,
    b: ArrayLike,
    bits: int,
    terms: int = 4,
    bias: float = 0.0,
    shift: int = 0,
    underflow: formats.Underflow = "minpos",
) -> int:
    """Dot product through a window of ``bits``, ``terms`` products a step, in index order.

    Args:
        f: format of operands and result.
        a: codes (K,).
        b: codes (K,).
        bits: window width Wm; 14 is PDPU's choice for P(16,2).
        terms: products taken per step (N).
    """
    fmt = operand_format(f)
    codes_a, codes_b = fmt.check_codes(a), fmt.check_codes(b)
    if fmt.is_nan(codes_a).any() or fmt.is_nan(codes_b).any():
        return round_sum(fmt, 0, 0, True, underflow)
    unit = Fraction(2) ** (2 * fmt.lsb_exponent)
    products = [x * y * unit for x, y in zip(fmt.fixed(codes_a), fmt.fixed(codes_b), strict=True)]
    total = _step([Fraction(bias)], bits)
    for start in range(0, len(products), terms):
        total = _step([total, *products[start : start + terms]], bits)
    return codec.round_exact(fmt, total.numerator, shift, underflow, total.denominator)


def windowed_matmul(
    f: Any,
    a: ArrayLike,
    b: ArrayLike,
    bits: int,
    terms: int = 4,
    underflow: formats.Underflow = "minpos",
) -> Any:
    """Codes (M, K) x (K, N) -> (M, N), each by :func:`windowed_dot`."""
    fmt = operand_format(f)
    codes_a, codes_b = np.asarray(a), np.asarray(b)
    out = [
        [windowed_dot(fmt, row, column, bits, terms, underflow=underflow) for column in codes_b.T]
        for row in codes_a
    ]
    return np.array(out, dtype=fmt.dtype)
