"""Codes as machine integers, for sums that must be exact, and the way back to codes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.network import Tensor
from opennpe.sim.encode import MAX_SCALE, encode_bits, float_bits, target, two_sum_odd
from opennpe.sim.gemm import run_spans
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.tables import Unsuited, lowest_bit, spans

__all__ = ["integer_table", "power", "round_integers", "scaled_integer"]

Codes = NDArray[Any]


@lru_cache(maxsize=64)
def _whole_table(name: str, gain: int) -> tuple[NDArray[Any], int] | None:
    fmt = formats.get(name)
    return _table(fmt.fixed(np.arange(1 << fmt.bits)), int(fmt.lsb_exponent), gain)


def _table(values: NDArray[Any], unit: int, gain: int) -> tuple[NDArray[Any], int] | None:
    largest = max(abs(int(v)) for v in values) * gain
    if largest >= 1 << 63:
        return None
    return values.astype(np.int32 if largest < 1 << 31 else np.int64), unit


def integer_table(name: str, codes: Codes, gain: int) -> tuple[NDArray[Any], int]:
    """Every code's value as an integer, wide enough for sums of ``gain`` times the largest.

    A format too wide for 64 bits gets a table for the codes that are there, in units of their own
    lowest bit; other entries are 0, and so are NaN and infinities, as in golden's ``fixed``.

    Returns:
        int32 or int64 (2**bits,), and the exponent of their unit.

    Raises:
        Unsuited: the codes themselves span too much.
    """
    found = _whole_table(name, gain)
    if found is None:
        fmt = formats.get(name)
        there = np.bincount(codes.reshape(-1), minlength=1 << fmt.bits) > 0
        values = np.where(there & np.isfinite(fmt.values), fmt.values, 0.0)
        unit = lowest_bit(values)
        units = np.ldexp(values, -unit)
        if float(np.abs(units).max()) >= 2.0**62:
            raise Unsuited
        found = _table(units.astype(np.int64).astype(object), unit, gain)
    if found is None:
        raise Unsuited
    return found


def power(exponent: int) -> float:
    """``2**exponent`` as a float64.

    Raises:
        Unsuited: beyond what the kernels take.
    """
    if abs(exponent) > MAX_SCALE:
        raise Unsuited
    return float(2.0**exponent)


@inlined
def scaled_integer(total, factor):  # type: ignore[no-untyped-def]
    """``total * factor`` rounded to odd; int64 and a float64 of at most 21 significant bits.

    Both halves of 32 bits are exact times the factor, so one TwoSum has the exact product.
    """
    high = np.float64(total >> 32) * (factor * 4294967296.0)
    return two_sum_odd(high, np.float64(total & 0xFFFFFFFF) * factor)


@kernel()
def _round(totals, factor, out, t, begin, end):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        out[i] = encode_bits(float_bits(scaled_integer(totals[i], factor) + 0.0), t)


def round_integers(
    totals: NDArray[np.int64],
    exponent: int,
    out: Tensor,
    underflow: formats.Underflow,
    threads: int = 1,
) -> Codes:
    """Codes of ``totals * 2**exponent`` (real units), any shape, one rounding.

    Raises:
        Unsuited: a scale beyond reason.
    """
    codes = np.empty(totals.shape, dtype=formats.get(out.format).dtype)
    factor, goal = power(exponent - out.scale), target(out.format, underflow)
    source, flat = np.ascontiguousarray(totals).reshape(-1), codes.reshape(-1)
    run_spans(lambda s: _round(source, factor, flat, goal, s[0], s[1]), spans(codes.size, threads))
    return codes
