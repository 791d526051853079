"""LayerNorm and RMSNorm on codes, in integers: exact sums, one reciprocal root, one rounding.

Steps carry the names of the unit's blocks. On a grid of ``2**-fraction_bits``, with X a row's
elements as integers, N their number, S1 = sum X and S2 = sum X^2 (both exact, so order-free):

    total = N*S2 - S1^2 + E           variance and epsilon, times N^2 and the grid's square
    y     = (N*X - S1) * rsqrt(total)            one rounding, to ``out``

RMSNorm is the same with S1 = 0. All but ``rsqrt`` is exact; rsqrt is a table and two Newton steps,
its bound :attr:`NormSpec.rsqrt_error`. The affine part (gamma, beta) is a layer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import exact, formats
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.golden.formats import ENGINE_FORMATS, Underflow
from opennpe.golden.layer_norm_spec import KINDS, NormSpec

__all__ = [
    "Kind",
    "Root",
    "Settings",
    "Sums",
    "accumulate",
    "check_row",
    "epsilon_units",
    "grid_table",
    "normalise",
    "root",
    "rsqrt",
    "seed_table",
    "settings",
]

Kind = Literal["layer", "rms"]
Codes = NDArray[Any]


@dataclass(frozen=True)
class Settings:
    """The unit's static settings, as its ports take them (all integers).

    Attributes:
        format: index of the elements' format in ENGINE_FORMATS.
        out: index of the results' format.
        out_shift: a result is multiplied by ``2**out_shift`` before its rounding; signed.
        underflow_zero: 1 for the rule "zero", 0 for "minpos".
        kind: 0 LayerNorm, 1 RMSNorm.
        count: kept elements of every row.
        epsilon: mantissa of epsilon on the grid of ``total``.
        epsilon_shift: its power of two.
    """

    format: int
    out: int
    out_shift: int
    underflow_zero: int
    kind: int
    count: int
    epsilon: int
    epsilon_shift: int


class Sums(NamedTuple):
    """What pass 1 leaves: exact sums on the grid, and whether a kept element is NaR."""

    total: int
    squares: int
    nan: bool


class Root(NamedTuple):
    """``1/sqrt(v)`` as ``mantissa * 2**-(rsqrt_bits + exponent)``."""

    mantissa: int
    exponent: int


@lru_cache(maxsize=64)
def grid_table(spec: NormSpec, name: str) -> NDArray[np.object_]:
    """Each code of an engine format as an integer on the grid (the decode step); NaR gives 0.

    Bits below the grid are rounded to nearest even, magnitudes saturate at ``spec.largest``; only
    posit16 has either, unless the spec's grid is wide enough for it too.

    Raises:
        FormatError: not one of the engine's formats.
    """
    if name not in ENGINE_FORMATS:
        raise FormatError(
            f"the normalisation unit takes {', '.join(ENGINE_FORMATS)}, got '{name}': convert first"
        )
    fmt = formats.get(name)
    unit = Fraction(2) ** (fmt.lsb_exponent + spec.fraction_bits)
    fixed = fmt.fixed(np.arange(1 << fmt.bits))
    found = [max(-spec.largest, min(round(int(v) * unit), spec.largest)) for v in fixed]
    table = np.array(found, dtype=object)
    table.setflags(write=False)
    return table


def check_row(spec: NormSpec, count: int) -> None:
    """Refuse a row that the accumulators might not hold.

    Raises:
        AccumulatorError: longer than ``spec.max_length``.
    """
    if count > spec.max_length:
        raise AccumulatorError(
            f"a row of {count} elements is normalised, the sums hold {spec.max_length}: split the "
            "layer or choose a spec with more length_bits"
        )


@lru_cache(maxsize=4096)
def epsilon_units(spec: NormSpec, epsilon: float, scale: int, count: int) -> tuple[int, int]:
    """Epsilon in units of ``total``: a mantissa of at most ``epsilon_bits`` bits and a shift.

    ``E = epsilon * N^2 * 2^(2 * fraction_bits - 2 * scale)``, rounded to nearest even.

    Raises:
        FormatError: negative or not finite, or beyond the variance's grid.
    """
    if not 0 <= epsilon < float("inf"):
        raise FormatError(f"epsilon is {epsilon}: expected a finite number, zero or more")
    units = Fraction(epsilon) * count**2 * Fraction(4) ** (spec.fraction_bits - scale)
    shift = max(0, int(units).bit_length() - spec.epsilon_bits)
    mantissa = round(units / 2**shift)
    if mantissa >> spec.epsilon_bits:
        mantissa, shift = mantissa >> 1, shift + 1
    if mantissa << shift >= 1 << spec.variance_bits:
        raise FormatError(
            f"epsilon {epsilon} is beyond the unit's grid for rows of {count} at scale 2^{scale}: "
            "the elements are all tiny beside it; choose a larger scale for their tensor"
        )
    return mantissa, shift


def settings(
    spec: NormSpec,
    format: str,
    count: int,
    scale: int = 0,
    kind: Kind = "layer",
    epsilon: float = 1e-5,
    out: str = "posit16",
    out_shift: int = 0,
    underflow: Underflow = "zero",
) -> Settings:
    """The unit's settings for rows of ``count`` kept elements; arguments as :func:`normalise`.

    Raises:
        FormatError: a format, rule, kind, epsilon or shift that the unit does not take.
        AccumulatorError: rows that are too long.
    """
    formats.check_underflow(underflow)
    check_row(spec, count)
    for name in (format, out):
        grid_table(spec, name)
    if kind not in KINDS:
        raise FormatError(f"kind is '{kind}': expected one of {', '.join(KINDS)}")
    limit = 1 << (spec.shift_bits - 1)
    if not -limit <= out_shift < limit:
        raise FormatError(f"out_shift lies in {-limit}..{limit - 1}, got {out_shift}")
    count = max(count, 1)
    mantissa, shift = epsilon_units(spec, epsilon, scale, count)
    return Settings(
        ENGINE_FORMATS.index(format),
        ENGINE_FORMATS.index(out),
        out_shift,
        int(underflow == "zero"),
        KINDS.index(kind),
        count,
        mantissa,
        shift,
    )


def accumulate(spec: NormSpec, format: str, codes: ArrayLike, keep: ArrayLike) -> Sums:
    """Pass 1 over one row (decode, multiply, align, accumulate).

    Args:
        spec: the unit.
        format: of the codes.
        codes: (K,), unsigned.
        keep: (K,), booleans; what is not kept adds nothing.
    """
    kept = np.asarray(codes)[np.asarray(keep, dtype=bool)]
    x = grid_table(spec, format)[kept]
    return Sums(int(x.sum()), int((x * x).sum()), bool(formats.get(format).is_nan(kept).any()))


@lru_cache(maxsize=16)
def seed_table(spec: NormSpec) -> tuple[int, ...]:
    """The first guess by the operand's two integer and ``table_bits`` fraction bits.

    ``round(2^seed_bits / sqrt(middle of the interval))``; the first quarter is never asked for.
    """
    seeds = []
    for index in range(4 << spec.table_bits):
        # 4^s / middle, with the middle (2 index + 1) / 2^(table_bits + 1).
        square = (4**spec.seed_bits << (spec.table_bits + 1)) // (2 * index + 1)
        nearest = isqrt(4 * square) + 1 >> 1
        seeds.append(min(nearest, (1 << spec.seed_bits) - 1))
    return tuple(seeds)


def rsqrt(spec: NormSpec, operand: Any) -> Any:
    """``2^P / sqrt(operand / 2^P)`` for an operand in [2^P, 4 * 2^P), P = ``rsqrt_bits``.

    A seed and two Newton steps ``y (3 - m y^2) / 2``; the first is cut, the second rounded. Takes
    Python integers, or an object array of them.
    """
    p, s, q = spec.rsqrt_bits, spec.seed_bits, spec.middle_bits
    index = operand >> (p - spec.table_bits)
    table = seed_table(spec)
    y = table[index] if isinstance(index, int) else np.array(table, dtype=object)[index.astype(int)]
    first = y * ((3 << (p + 2 * s)) - operand * y * y) >> (p + 3 * s + 1 - q)
    second = first * ((3 << (p + 2 * q)) - operand * first * first)
    return (second >> 3 * q) + 1 >> 1


def root(spec: NormSpec, total: int) -> Root:
    """The reciprocal square root of ``total`` (the seed and step steps); of zero, that of one.

    Zero means that every ``N*X - S1`` is zero too.
    """
    total = max(total, 1)
    exponent = (total.bit_length() - 1) // 2
    p = spec.rsqrt_bits
    operand = total << p >> 2 * exponent
    return Root(int(rsqrt(spec, operand)), exponent)


def _row(
    spec: NormSpec, given: Settings, codes: Codes, keep: Codes
) -> tuple[NDArray[np.object_], int, bool]:
    """One row before its rounding: integers (K,), their exponent of two, and whether it is NaR."""
    format = ENGINE_FORMATS[given.format]
    sums = accumulate(spec, format, codes, keep)
    mean = 0 if given.kind else sums.total
    epsilon = given.epsilon << given.epsilon_shift
    found = root(spec, given.count * sums.squares - mean**2 + epsilon)
    # In gates x * (N * rsqrt) - S1 * rsqrt: the same integer, with a smaller multiplier a lane.
    centred = (given.count * grid_table(spec, format)[codes] - mean) * found.mantissa
    exponent = given.out_shift - spec.rsqrt_bits - found.exponent
    return np.where(keep, centred, 0), exponent, sums.nan


def normalise(
    spec: NormSpec,
    codes: ArrayLike,
    format: str,
    scale: int = 0,
    kind: Kind = "layer",
    epsilon: float = 1e-5,
    keep: ArrayLike | None = None,
    out: str = "posit16",
    out_shift: int = 0,
    underflow: Underflow = "zero",
) -> Codes:
    """Rows along the last axis to mean 0 and variance 1 ("layer"), or to mean square 1 ("rms").

    Args:
        spec: the unit.
        codes: (..., K), unsigned.
        format: of the codes, one of the engine's.
        scale: real = value of the code times ``2**scale``; it only weighs epsilon.
        kind: "layer" or "rms".
        epsilon: added to the variance, real.
        keep: booleans that broadcast to the codes' shape: a row's mean and variance are those of
            its kept elements; the others' results are the code of 0. All, unless given.
        out: format of the results.
        out_shift: results are multiplied by ``2**out_shift``: minus the output tensor's scale.
        underflow: "minpos" or "zero".

    Returns:
        Codes (..., K) of ``out``. A NaR among a row's kept elements makes all of them NaR.

    Raises:
        FormatError: codes or settings the unit does not take; NaR and an ``out`` without one.
        AccumulatorError: more kept elements in a row than ``spec.max_length``.
    """
    array = formats.get(format).check_codes(codes)
    if array.ndim == 0:
        raise FormatError("rows are normalised along the last axis, got a single code")
    flags = np.broadcast_to(True if keep is None else np.asarray(keep, dtype=bool), array.shape)
    length = array.shape[-1]
    rows, kept = (a.reshape(-1, length) if length else a for a in (array, flags))
    counts = kept.sum(axis=-1).reshape(-1).tolist()
    longest = max(counts, default=0)
    settings(spec, format, longest, scale, kind, epsilon, out, out_shift, underflow)
    result = np.zeros(rows.shape, dtype=formats.get(out).dtype)
    for index in range(len(rows) if length else 0):
        given = settings(
            spec, format, counts[index], scale, kind, epsilon, out, out_shift, underflow
        )
        result[index] = normalised(spec, given, rows[index], kept[index])
    return result.reshape(array.shape)


def normalised(spec: NormSpec, given: Settings, codes: ArrayLike, keep: ArrayLike) -> Codes:
    """One row (K,) by the unit's own settings; ``given.count`` need not be what ``keep`` keeps."""
    flags = np.asarray(keep, dtype=bool)
    values, exponent, nan = _row(spec, given, np.asarray(codes).astype(np.int64), flags)
    rule: Underflow = "zero" if given.underflow_zero else "minpos"
    out = ENGINE_FORMATS[given.out]
    return np.asarray(exact.rounded(out, values, flags & nan, np.asarray(exponent), rule))
