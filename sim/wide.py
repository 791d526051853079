"""Products of wide formats in float64, exact by a certificate, and always exact without one.

Operands are integers of up to 57 bits with few significant ones. If every product is a multiple of
2**p and the products of any sum, in magnitude, add up to at most 2**(53 + p), then every partial
sum is a float64 and the order of summation cannot matter. Cauchy-Schwarz bounds those sums by the
norms of a row and a column, from one pass over each operand.

Where small elements would make p too small they are moved to *tails*: sparse operands whose
products are summed apart, in a second float64 with a certificate of its own. The two sums and the
bias are then added exactly and rounded to odd. Where no certificate holds, the limbs of
:mod:`opennpe.sim.quire` do: slower, and exact for any codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.sim import gemm, packing, quire
from opennpe.sim.encode import encode_high, jam
from opennpe.sim.geometry import Geometry
from opennpe.sim.jit import kernel
from opennpe.sim.microkernel import Kernel, tile
from opennpe.sim.quire import join_odd

if TYPE_CHECKING:
    from opennpe.sim.right import Right

__all__ = ["Certificate", "Side", "certify", "multiply_limbs", "places", "tail_sums"]

NONE = 1023
"""Place of the lowest set bit of zero: above every threshold."""
ROUNDING = 1 + 2.0**-20
"""More than sums of squares can lose by rounding, for up to 2**30 of them."""


@lru_cache(maxsize=64)
def places(held: str, met: str) -> NDArray[np.int16]:
    """For every code of ``held`` the place of its lowest set bit, in units of ``met``'s lsb."""
    values = np.nan_to_num(formats.get(held).values, nan=0.0, posinf=0.0, neginf=0.0)
    integers = [int(v) for v in np.ldexp(values, -formats.get(met).lsb_exponent)]
    return np.array([(v & -v).bit_length() - 1 if v else NONE for v in integers], dtype=np.int16)


@kernel()
def _count(codes, place, counts):  # type: ignore[no-untyped-def]
    # Four histograms side by side: neighbours of one place do not wait for each other.
    last = codes.size - codes.size % 4
    for i in range(0, last, 4):
        counts[0, place[codes[i]]] += 1
        counts[1, place[codes[i + 1]]] += 1
        counts[2, place[codes[i + 2]]] += 1
        counts[3, place[codes[i + 3]]] += 1
    for i in range(last, codes.size):
        counts[0, place[codes[i]]] += 1


@kernel()
def _window_energy(image, channels, groups, out, strides, taps):  # type: ignore[no-untyped-def]
    """The largest sum of squares under a window; ``taps`` are offsets of places."""
    places, width = image.shape[0] * image.shape[1] * image.shape[2] * image.shape[3], channels
    flat = image.reshape(-1)
    energy = np.zeros(places * groups)
    for p in range(places * groups):
        line = flat[p * width : (p + 1) * width]
        # Four sums side by side; their order does not matter, the bound has room for rounding.
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        last = width - width % 4
        for i in range(0, last, 4):
            a += line[i] * line[i]
            b += line[i + 1] * line[i + 1]
            c += line[i + 2] * line[i + 2]
            d += line[i + 3] * line[i + 3]
        for i in range(last, width):
            a += line[i] * line[i]
        energy[p] = a + b + c + d
    most = 0.0
    _, depth, height, breadth, _ = image.shape
    for n in range(image.shape[0]):
        for d in range(out[0]):
            for h in range(out[1]):
                row = ((n * depth + d * strides[0]) * height + h * strides[1]) * breadth
                for w in range(out[2]):
                    at = row + w * strides[2]
                    for g in range(groups):
                        total = 0.0
                        for t in range(taps.size):
                            total += energy[(at + taps[t]) * groups + g]
                        most = max(most, total)
    return most


@dataclass(frozen=True, eq=False)
class Side:
    """What the certificate asks of one operand.

    Attributes:
        counts: int64 (1024,): elements by the place of their lowest set bit.
        energy: bound on the sum of squares of any row (or column).
        terms: K.
        largest: for every place the largest magnitude of an element at or below it.
    """

    counts: NDArray[np.int64]
    energy: float
    terms: int
    largest: NDArray[np.float64]

    @property
    def lowest(self) -> int:
        """Lowest set bit of any element."""
        used = np.flatnonzero(self.counts[:NONE])
        return int(used[0]) if used.size else 0

    def below(self, threshold: int) -> int:
        """Elements with a set bit below a place."""
        return int(self.counts[:threshold].sum())

    def tail_norm(self, threshold: int) -> float:
        """Bound on the norm of a row's elements below a threshold."""
        count = min(self.below(threshold), self.terms)
        return math.sqrt(count) * float(self.largest[threshold - 1]) if count else 0.0


def histogram(codes: NDArray[Any], place: NDArray[np.int16]) -> NDArray[np.int64]:
    """Elements by the place of their lowest set bit (1024,)."""
    counts = np.zeros((4, NONE + 1), dtype=np.int64)
    _count(np.ascontiguousarray(codes).reshape(-1), place, counts)
    return np.asarray(counts.sum(axis=0))


@lru_cache(maxsize=64)
def largest_below(held: str, met: str) -> NDArray[np.float64]:
    """For every place the largest magnitude of a code whose lowest set bit is there or lower."""
    values = np.nan_to_num(formats.get(held).values, nan=0.0, posinf=0.0, neginf=0.0)
    sizes = np.abs(np.ldexp(values, -formats.get(met).lsb_exponent))
    top = np.zeros(NONE + 1)
    np.maximum.at(top, places(held, met), sizes)
    return np.maximum.accumulate(top)


def window_energy(image: NDArray[np.float64], shape: Geometry) -> float:
    """Bound on the sum of squares under any window of a padded image."""
    taps = shape.taps // shape.steps[2]
    found = _window_energy(image, shape.channels, shape.groups, shape.out, shape.strides, taps)
    return float(found) * ROUNDING


@dataclass(frozen=True)
class Certificate:
    """Thresholds for both sides: elements with a set bit below them go to the tails."""

    left: int
    right: int
    left_tail: int
    right_tail: int


def certify(
    left: Side, right: Side, left_cost: float, right_cost: float, budget: float
) -> Certificate | None:
    """The cheapest thresholds that make both float64 sums exact, or None.

    Args:
        left_cost: products that one element in the left tail brings.
        right_cost: products that one element in the right tail brings.
        budget: products that the tails may cost.
    """
    norm = math.sqrt(left.energy) * math.sqrt(right.energy) * ROUNDING
    if norm == 0.0:
        return Certificate(0, 0, 0, 0)
    need = max(0, math.ceil(math.log2(norm) * ROUNDING) - 53)
    best: tuple[float, Certificate] | None = None
    for a in range(need + 1):
        b = max(0, need - max(a, left.lowest))
        a_used = a if a > left.lowest else 0
        b_used = b if b > right.lowest else 0
        cost = left.below(a_used) * left_cost + right.below(b_used) * right_cost
        if cost > budget or (best is not None and cost >= best[0]):
            continue
        found = Certificate(a_used, b_used, left.below(a_used), right.below(b_used))
        if _tails_exact(left, right, found):
            best = (cost, found)
    return best[1] if best else None


def _tails_exact(left: Side, right: Side, found: Certificate) -> bool:
    """The tails' own certificate: left tail by all of the right, the rest by the right tail."""
    bound = left.tail_norm(found.left) * math.sqrt(right.energy)
    bound += math.sqrt(left.energy) * right.tail_norm(found.right)
    return bound * ROUNDING <= math.ldexp(1.0, 53 + left.lowest + right.lowest)


# -- tails ----------------------------------------------------------------------------------------
@kernel()
def _gather_tail(codes, place, threshold, at):  # type: ignore[no-untyped-def]
    found = 0
    for i in range(codes.size):
        if place[codes[i]] < threshold:
            at[found] = i
            found += 1


def tail_indices(
    codes: NDArray[Any], place: NDArray[np.int16], threshold: int, count: int
) -> NDArray[np.int64]:
    """Flat positions of the elements with a set bit below ``threshold``."""
    at = np.empty(count, dtype=np.int64)
    if count:
        _gather_tail(np.ascontiguousarray(codes).reshape(-1), place, threshold, at)
    return at


@kernel()
def _left_tail(  # type: ignore[no-untyped-def]
    at, value, out, kernel, strides, dilations, channels, codes, table, group, sums
):
    """Scatter each element to every window that it lies under; ``at``: padded coordinates."""
    for e in range(at.shape[0]):
        if at[e, 4] // channels != group:
            continue
        c = at[e, 4] - group * channels
        tap = -1
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                for k in range(kernel[2]):
                    tap += 1
                    d, h, w = (
                        at[e, 1] - i * dilations[0],
                        at[e, 2] - j * dilations[1],
                        at[e, 3] - k * dilations[2],
                    )
                    if d < 0 or h < 0 or w < 0:
                        continue
                    if d % strides[0] or h % strides[1] or w % strides[2]:
                        continue
                    d, h, w = d // strides[0], h // strides[1], w // strides[2]
                    if d >= out[0] or h >= out[1] or w >= out[2]:
                        continue
                    row = ((at[e, 0] * out[0] + d) * out[1] + h) * out[2] + w
                    weights = codes[tap * channels + c]
                    for n in range(weights.size):
                        sums[row, n] += value[e] * np.float64(table[weights[n]])


@kernel()
def _right_tail(flat, bases, at, value, columns, offsets, shift, sums):  # type: ignore[no-untyped-def]
    """Add each element's products with the values it meets in every row."""
    for e in range(at.size):
        k, n = at[e] // columns, at[e] % columns
        for m in range(sums.shape[0]):
            sums[m, n] += flat[bases[m] + offsets[k] + shift] * value[e]


def tail_sums(
    image: NDArray[np.float64],
    bases: NDArray[np.int64],
    shape: Geometry,
    group: int,
    left: tuple[NDArray[np.int64], NDArray[np.float64]],
    right: tuple[NDArray[np.int64], NDArray[np.float64]],
    whole: Right,
) -> NDArray[np.float64]:
    """Left tail by the whole right side plus the rest of the left by the right tail, (M, N).

    Args:
        image: padded image (N, D, H, W, C) without the left tail.
        bases: flat index of the first value under each output place (M,).
        left: coordinates (T, 5) in the padded image and values (T,) of the left tail.
        right: flat positions in the right side and values of its tail.
        whole: the right side.
    """
    sums = np.zeros((len(bases), whole.codes.shape[1]))
    if len(left[0]):
        _left_tail(*left, shape.out, shape.kernel, shape.strides, shape.dilations, shape.channels,
                   whole.codes, whole.operands.right, group, sums)  # fmt: skip
    if len(right[0]):
        _right_tail(image.reshape(-1), bases, *right, whole.codes.shape[1], shape.offsets,
                    group * shape.channels, sums)  # fmt: skip
    return sums


# -- limbs ----------------------------------------------------------------------------------------
@kernel()
def _multiply_limbs(  # type: ignore[no-untyped-def]
    marker, mr, rows, used, span, table, chunks, panels, part, sums, bias, out, e
):
    """Panels outside, rows inside: the limbs of a panel stay near while the rows pass."""
    width = panels.shape[3]
    step, depth = panels.strides[1], panels.strides[2]
    for p in range(span[2], span[3]):
        for first in range(span[0], span[1], mr):
            sums[:] = 0
            for place in range(sums.shape[0]):
                for i in range(max(0, place - 2), min(place, 2) + 1):
                    if used[i, place - i] == 0:
                        continue
                    panel = panels.ctypes.data + (place - i) * panels.strides[0] + p * step
                    for c in range(chunks.shape[0]):
                        tile(marker, rows.ctypes.data + i * rows.strides[0] + first * 8,
                             table.ctypes.data + chunks[c, 0] * table.strides[0], chunks[c, 1],
                             panel + chunks[c, 2] * depth, part.ctypes.data,
                             part.strides[0])  # fmt: skip
                        for m in range(mr):
                            for n in range(width):
                                sums[place, m, n] += np.int64(part[m, n])
            _round_limbs(sums, bias, out, first, min(mr, span[1] - first), p * width, e)


@kernel()
def _round_limbs(sums, bias, out, first, height, column, e):  # type: ignore[no-untyped-def]
    width = min(sums.shape[2], out.shape[1] - column)
    line = np.empty(width)
    words = line.view(np.int32)
    for m in range(height):
        for n in range(width):
            k = column + n
            x = join_odd(
                sums[0, m, n] + bias[0, k],
                sums[1, m, n] + bias[1, k],
                sums[2, m, n] + bias[2, k],
                sums[3, m, n] + bias[3, k],
                sums[4, m, n] + bias[4, k],
            )
            x *= e.factor[k]
            x = e.low if x < e.low else x
            x = e.high if x > e.high else x
            line[n] = x + 0.0
        codes = out[first + m, column : column + width]
        for n in range(width):
            codes[n] = encode_high(jam(words[2 * n + 1], words[2 * n]), e.target)


def multiply_limbs(
    micro: Kernel,
    images: list[NDArray[np.float64]],
    rows: NDArray[np.int64],
    walk: packing.Segments,
    panels: NDArray[np.float64],
    biases: NDArray[Any],
    out: NDArray[Any],
    epilogue: gemm.Epilogue,
    threads: int,
) -> None:
    """Codes of every row by every column for any codes whatever.

    Args:
        images: the left side's limbs.
        rows: int64 (limbs, M + mr) row addresses.
        panels: the right side's limbs (limbs, panels, groups, nr, group).
        biases: integers (N,) in the sums' unit.
    """
    left = np.array([image.any() for image in images], dtype=np.int64)
    right = np.array([panel.any() for panel in panels], dtype=np.int64)
    used = np.outer(left, right)
    bias = np.array([quire.split(int(b)) for b in biases], dtype=np.int64).T.copy()
    macs = len(out) * panels.shape[1] * micro.nr * walk.groups * int(used.sum())

    def one(span: tuple[int, ...]) -> None:
        part = np.empty((micro.mr, micro.nr))
        sums = np.empty((quire.PLACES, *part.shape), dtype=np.int64)
        _multiply_limbs(micro.marker, micro.mr, rows, used, span, walk.table, walk.chunks, panels,
                        part, sums, bias, out, epilogue)  # fmt: skip

    gemm.run_spans(one, gemm.ranges(len(out), panels.shape[1], micro.mr, threads, macs))
