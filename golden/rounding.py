"""From an exact value to a tensor's code: limits, clipping, the one rounding, conversion."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import codec, formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.golden.network import Tensor
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["check_terms", "convert", "finish", "reciprocal"]

Codes = NDArray[Any]
RECIPROCAL_BITS = 16


def check_terms(
    spec: CoprocessorSpec, layer: L.Layer, a: str, b: str, terms: int, bias_units: int = 0
) -> None:
    """Refuse a layer whose sums the accumulator might not hold (DESIGN 2).

    Raises:
        AccumulatorError: naming the layer, its terms and the limit.
    """
    total = terms + -(-bias_units // mac.max_product(a, b))
    limit = spec.max_terms(a, b)
    if total > limit:
        raise AccumulatorError(
            f"layer '{layer.name}' sums {total} terms of {a} x {b}, the accumulator holds {limit}: "
            "choose a wider format for it or split it"
        )


def finish(
    spec: CoprocessorSpec,
    out: Tensor,
    total: int,
    exponent: int,
    nan: bool,
    clip: L.Clip | None = None,
) -> int:
    """Clip the exact value ``total * 2**exponent`` (real units) and round it to ``out``."""
    fmt = formats.get(out.format)
    if nan:
        return mac.round_sum(fmt, 0, 0, True, spec.underflow)
    value = Fraction(int(total)) * Fraction(2) ** exponent
    if clip is not None:
        low, high = clip
        value = max(value, Fraction(low)) if low > -math.inf else value
        value = min(value, Fraction(high)) if high < math.inf else value
    return codec.round_exact(fmt, value.numerator, -out.scale, spec.underflow, value.denominator)


def reciprocal(count: int) -> tuple[int, int]:
    """``1/count`` as ``(m, q)`` meaning ``m * 2**-q``: the rule "rne17" for average pooling.

    ``q = 16 + ceil(log2(count))`` and m is the nearest integer, so m has at most 17 bits; powers
    of two are exact.
    """
    q = RECIPROCAL_BITS + (count - 1).bit_length()
    return round(Fraction(1 << q, count)), q


def convert(codes: Codes, source: Tensor, target: Tensor, underflow: formats.Underflow) -> Codes:
    """Codes of one tensor's format and scale in another's; one rounding where they differ.

    Raises:
        FormatError: NaR met and the target has no code for it.
    """
    if (source.format, source.scale) == (target.format, target.scale):
        return codes
    fmt, out = formats.get(source.format), formats.get(target.format)
    if out.nan_code is None and fmt.is_nan(codes).any():
        raise FormatError(f"tensor '{source.name}' holds NaR and {out.name} has no code for it")
    values = np.ldexp(fmt.decode(codes), source.scale - target.scale)
    return np.asarray(out.encode(values, underflow))
