"""Fake quantisation: real values to the nearest values of a format, by golden's own codes.

A :class:`Table` holds, for every cell of float32 numbers between which no rounding changes, the
value that golden's ``encode`` and ``decode`` make of them. A cell is an exponent, the first bits of
the fraction, and whether any bit below them is set: values and rounding boundaries of a format lie
on the first bits alone, so golden is asked once a cell, not once a number.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.errors import FormatError

__all__ = ["Table", "draw", "gradients", "nearest", "table"]

FRACTION = 23
"""Fraction bits of a float32."""
BIAS = 127
INFINITY = 0x7F800000
MAX_CELLS = 1 << 22
WORTH_A_THREAD = 1 << 16

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Table:
    """A format's rounding of float32 magnitudes; see the module.

    Attributes:
        lowest: bits of the float32 at which the cells begin; smaller magnitudes share the first.
        highest: bits of the one in the last cell; larger magnitudes share it.
        shift: fraction bits that only matter as "not zero".
        sign_shift: place of the sign in an index.
        values: float32, by index: whether bits below the cell are set, the cell (0 is zero's own),
            the sign.
        below, above: float32, by cell, magnitudes of the values that it lies between.
        limits: smallest and largest value.
    """

    lowest: int
    highest: int
    shift: int
    sign_shift: int
    values: F32
    below: F32
    above: F32
    limits: tuple[float, float]

    @property
    def shape(self) -> tuple[np.uint32, ...]:
        """What kernels need beside the values."""
        return tuple(map(np.uint32, (self.lowest, self.highest, self.shift, self.sign_shift)))


@lru_cache(maxsize=64)
def table(name: str, underflow: formats.Underflow = "zero") -> Table:
    """The table of a scalar format and an underflow rule.

    Raises:
        FormatError: an unknown format, a block format, one too precise for such a table.
    """
    fmt = formats.get(name)
    if fmt.kind not in ("posit", "float", "int"):
        raise FormatError(f"{name} has no rounding of single numbers: choose a scalar format")
    values = fmt.values[np.isfinite(fmt.values)]
    magnitudes = np.unique(np.abs(values))
    nonzero = magnitudes[magnitudes > 0]
    bits = 1 + max(map(_fraction_bits, nonzero.tolist()))
    first = math.frexp(float(nonzero[0]))[1] - 3  # below half of the smallest
    last = math.frexp(float(nonzero[-1]))[1] + 1
    cells = (last - first) << bits
    if bits > FRACTION or cells > MAX_CELLS or first < 1 - BIAS:
        raise FormatError(f"{name} is too precise for training in float32: choose a shorter format")
    lowest, shift = (first + BIAS) << FRACTION, FRACTION - bits
    starts = (lowest + (np.arange(cells, dtype=np.int64) << shift)).astype(np.int32)
    exact = starts.view(np.float32).astype(np.float64)
    inside = (starts + np.int32(1)).view(np.float32).astype(np.float64)
    sign_shift = (2 * cells + 1).bit_length()
    by_sign = np.zeros((2, 1 << sign_shift), dtype=np.float32)
    for sign, held in zip((1, -1), by_sign, strict=True):
        for rest, numbers in enumerate((exact, inside)):
            codes = fmt.encode(sign * numbers, underflow)
            held[2 + rest : 2 * cells + 2 : 2] = fmt.decode(codes)
    steps = magnitudes if magnitudes[0] == 0 else np.concatenate([[0.0], magnitudes])
    place = np.searchsorted(steps, exact, side="right") - 1
    return Table(
        lowest=lowest,
        highest=int(starts[-1]),
        shift=shift,
        sign_shift=sign_shift,
        values=by_sign.reshape(-1),
        below=steps[place].astype(np.float32),
        above=steps[np.minimum(place + 1, len(steps) - 1)].astype(np.float32),
        limits=(float(values.min()), float(values.max())),
    )


def _fraction_bits(value: float) -> int:
    """Bits after the leading one."""
    numerator, _ = math.frexp(value)[0].as_integer_ratio()
    return numerator.bit_length() - 1


def _compiled(function: Any) -> Any:
    """By numba, without the interpreter's lock."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


# -- kernels --------------------------------------------------------------------------------------
@_compiled
def _nearest(x, out, down, up, low, high, shape, values):  # type: ignore[no-untyped-def]
    lowest, highest, shift, sign_shift = shape
    bits, size = x.view(np.uint32), np.uint32(x.size)
    mask, odd = (np.uint32(1) << shift) - np.uint32(1), False
    for i in range(size):
        value = x[i]
        value = low if value < low else value
        value = (high if value > high else value) * down
        word = np.float32(value).view(np.uint32)
        magnitude = word & np.uint32(0x7FFFFFFF)
        held = lowest if magnitude < lowest else magnitude
        held = highest if held > highest else held
        # Beyond either end all of a cell's numbers are as good as its inside.
        rest = np.uint32((held & mask) != np.uint32(0)) | np.uint32(held != magnitude)
        rest = np.uint32(0) if magnitude == np.uint32(0) else rest
        cell = (held - lowest) >> shift
        cell = np.uint32(0) if magnitude == np.uint32(0) else cell + np.uint32(1)
        index = (cell << np.uint32(1)) | rest | ((word >> np.uint32(31)) << sign_shift)
        odd = odd | ((bits[i] & np.uint32(0x7FFFFFFF)) >= np.uint32(INFINITY))
        out[i] = values[np.uint64(index)] * up
    return odd


@_compiled
def _drawn(x, chance, out, down, up, low, high, shape, below, above):  # type: ignore[no-untyped-def]
    lowest, highest, shift, _ = shape
    for i in range(x.size):
        value = np.float32(min(max(x[i], low), high) * down)
        magnitude = value.view(np.uint32) & np.uint32(0x7FFFFFFF)
        cell = (min(max(magnitude, lowest), highest) - lowest) >> shift
        size = abs(value)
        first, last = below[cell], above[cell]
        gap = last - first
        goes_up = gap > 0 and chance[i] * gap < size - first
        found = last if goes_up else first
        found = found if value >= 0 else -found
        out[i] = x[i] if np.isnan(x[i]) else found * up


@_compiled
def _gradients(grad, x, rounded, out, low, high, learned):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.size):
        inside = (x[i] >= low) and (x[i] <= high)
        out[i] = grad[i] if inside else np.float32(0)
        if learned:
            total += np.float64(grad[i]) * (rounded[i] - (x[i] if inside else np.float32(0)))
    return total


# -- arrays ---------------------------------------------------------------------------------------
@lru_cache(maxsize=8)
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="opennpe-round")


def _rows(x: F32, exponents: NDArray[np.int64], threads: int) -> list[tuple[slice, int]]:
    """Parts of flat values with an exponent each, long ones cut for threads."""
    if exponents.size > 1:
        length = x.size // exponents.size
        return [(slice(i * length, (i + 1) * length), int(e)) for i, e in enumerate(exponents)]
    shares = max(1, min(threads, x.size // WORTH_A_THREAD))
    cuts = [x.size * i // shares for i in range(shares + 1)]
    return [(slice(a, b), int(exponents.reshape(-1)[0])) for a, b in itertools.pairwise(cuts)]


def _run(work: Any, parts: list[tuple[slice, int]], threads: int) -> list[Any]:
    """What the work gives for each part, in threads where parts are worth it."""
    if len(parts) > 1 and threads > 1 and parts[0][0].stop >= WORTH_A_THREAD:
        return list(_pool(threads).map(lambda part: work(*part), parts))
    return [work(*part) for part in parts]


def nearest(
    x: F32,
    name: str,
    exponents: NDArray[np.int64],
    low: float = -math.inf,
    high: float = math.inf,
    underflow: formats.Underflow = "zero",
    threads: int = 1,
    out: F32 | None = None,
) -> F32:
    """``decode(encode(clip(x) * 2**-e)) * 2**e``, as golden has it, for contiguous float32.

    Args:
        x: float32 of any shape.
        name: the format.
        exponents: int (), or (O,): one for each of axis 0.
        low, high: bounds applied before the rounding.
        out: where the result goes, if not into a new array.
    """
    held = table(name, underflow)
    out = np.empty_like(x) if out is None else out
    flat, result = x.reshape(-1), out.reshape(-1)
    bounds, shape = (np.float32(low), np.float32(high)), held.shape

    def work(part: slice, exponent: int) -> None:
        factors = np.float32(2.0**-exponent), np.float32(2.0**exponent)
        if _nearest(flat[part], result[part], *factors, *bounds, shape, held.values):
            strange = ~np.isfinite(flat[part])
            found = _golden(flat[part][strange], name, exponent, (low, high), underflow)
            result[part][strange] = found

    _run(work, _rows(flat, exponents, threads), threads)
    return out


def _golden(
    x: F32, name: str, exponent: int, bounds: tuple[float, float], underflow: formats.Underflow
) -> F32:
    """Where a number is not finite: NaN stays, infinities become what golden makes of them."""
    fmt = formats.get(name)
    held = np.clip(x.astype(np.float64), *bounds)
    nan = np.isnan(held)
    codes = fmt.encode(np.ldexp(np.where(nan, 0.0, held), -exponent), underflow)
    found = np.ldexp(fmt.decode(codes), exponent)
    return np.asarray(np.where(nan, np.nan, found), dtype=np.float32)


def draw(
    x: F32,
    chance: F32,
    name: str,
    exponents: NDArray[np.int64],
    low: float = -math.inf,
    high: float = math.inf,
) -> F32:
    """Stochastic rounding: to either neighbour, with the chance that keeps the mean.

    Args:
        chance: float32 like x, drawn evenly from [0, 1).
    """
    held = table(name)
    out = np.empty_like(x)
    flat, chances, result = x.reshape(-1), chance.reshape(-1), out.reshape(-1)
    bounds = np.float32(low), np.float32(high)

    def work(part: slice, exponent: int) -> None:
        factors = np.float32(2.0**-exponent), np.float32(2.0**exponent)
        _drawn(
            *(side[part] for side in (flat, chances, result)),
            *(*factors, *bounds, held.shape, held.below, held.above),
        )

    _run(work, _rows(flat, exponents, 1), 1)
    return out


def gradients(
    grad: F32,
    x: F32,
    rounded: F32,
    name: str,
    exponents: NDArray[np.int64],
    low: float,
    high: float,
    clipped: bool,
    learned: bool,
    threads: int = 1,
    out: F32 | None = None,
) -> tuple[F32, NDArray[np.float32]]:
    """Straight-through gradients of :func:`nearest`: of x, and of each exponent if ``learned``.

    Clipped: zero where the bounds or the format's largest values were cut at. The gradient of an
    exponent is that of ``2**e * Q(x / 2**e)`` with Q' = 1 inside and 0 outside (Jain et al.,
    arXiv 1903.08066, equation 8, for any Q).
    """
    held = table(name)
    out = np.empty_like(x) if out is None else out
    sides = [a.reshape(-1) for a in (grad, x, rounded, out)]

    def work(part: slice, exponent: int) -> float:
        ends = np.array([low, high], dtype=np.float64)
        if clipped:
            reach = np.ldexp(np.array(held.limits), exponent)
            ends = np.array([max(low, reach[0]), min(high, reach[1])])
        bounds = ends.astype(np.float32)
        return float(_gradients(*(s[part] for s in sides), bounds[0], bounds[1], learned))

    totals = np.array(_run(work, _rows(sides[0], exponents, threads), threads))
    if exponents.size <= 1:
        totals = totals.sum(keepdims=True)
    return out, (totals * math.log(2)).astype(np.float32).reshape(exponents.shape)
