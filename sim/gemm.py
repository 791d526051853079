"""Blocks of an exact product, rounded to codes as they are finished.

The left side is a list of row addresses, the right side panels; blocks of rows stay in the second
level cache while panels stream by. One function multiplies and rounds, so sums never travel
further than that cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from opennpe.sim import steps
from opennpe.sim.encode import encode_high, jam, odd, two_sum_odd
from opennpe.sim.geometry import Geometry
from opennpe.sim.jit import kernel
from opennpe.sim.microkernel import Kernel, tile
from opennpe.sim.packing import Segments
from opennpe.sim.steps import Steps

__all__ = ["Epilogue", "Rounding", "multiply", "ranges", "row_table", "run_spans"]

BLOCK_ROWS = {"u8": 96, "i16": 96, "f64": 192}
"""Rows of a block: few keep it near, many fetch each panel less often (measured)."""
PITCH_PAD = 16
"""Sums behind each row of a block, so that rows of a power of two do not share cache sets."""
WORTH_A_THREAD = 1 << 20
"""Multiply-accumulates below which a second thread costs more than it gives."""


SUM_AND_BIAS, SUM_AND_TAIL, ALL_THREE = 1, 2, 3


class Epilogue(NamedTuple):
    """From sums to codes.

    Attributes:
        offset: float64 (N,), added to every sum: the bias and what unsigned operands owe.
        factor: float64 (N,), powers of two from the sums' unit to the output's.
        low, high: clip bounds in the output's unit.
        careful: 0 where a sum and its offset fit 53 bits, else which are added exactly:
            ``SUM_AND_BIAS``, ``SUM_AND_TAIL`` or ``ALL_THREE``.
        target: the output format (:class:`opennpe.sim.encode.Target`).
    """

    offset: NDArray[np.float64]
    factor: NDArray[np.float64]
    low: float
    high: float
    careful: int
    target: Any


class Rounding(NamedTuple):
    """How sums become codes: the general way, and a faster one of the same bits if there is one."""

    general: Epilogue
    steps: Steps | None


@njit
def _two_sum_odd(a, b):  # type: ignore[no-untyped-def]
    return two_sum_odd(a, b)


@njit
def _three_sum_odd(a, b, c):  # type: ignore[no-untyped-def]
    """``a + b + c`` rounded to odd; only the sign of what is left over matters."""
    s = a + b
    t = s - a
    e = (a - (s - t)) + (b - t)
    u = s + c
    v = u - s
    f = (s - (u - v)) + (c - v)
    g = e + f
    w = g - e
    h = (e - (g - w)) + (f - w)
    total = u + g
    back = total - u
    left = (u - (total - back)) + (g - back)
    return odd(total, left if left != 0.0 else h)


@kernel()
def round_block(sums, tails, out, row, column, columns, e):  # type: ignore[no-untyped-def]
    line = np.empty(columns)
    words = line.view(np.int32)
    offset, factor = e.offset[column : column + columns], e.factor[column : column + columns]
    for i in range(sums.shape[0]):
        held = sums[i]
        if e.careful == 0:
            for j in range(columns):
                line[j] = np.float64(held[j]) + offset[j]
        elif e.careful == SUM_AND_BIAS:
            for j in range(columns):
                line[j] = _two_sum_odd(np.float64(held[j]), offset[j])
        elif e.careful == SUM_AND_TAIL:
            more = tails[row + i, column : column + columns]
            for j in range(columns):
                line[j] = _two_sum_odd(np.float64(held[j]), more[j])
        else:
            more = tails[row + i, column : column + columns]
            for j in range(columns):
                line[j] = _three_sum_odd(np.float64(held[j]), more[j], offset[j])
        for j in range(columns):
            x = line[j] * factor[j]
            x = e.low if x < e.low else x
            x = e.high if x > e.high else x
            line[j] = x + 0.0  # an exact zero is +0 (decision 0002)
        codes = out[row + i, column : column + columns]
        for j in range(columns):
            # Halves taken from memory vectorise, a 64-bit shift does not.
            codes[j] = encode_high(jam(words[2 * j + 1], words[2 * j]), e.target)


@kernel()
def _sum_block(marker, mr, rows, first, height, span, table, panels, sums):  # type: ignore[no-untyped-def]
    """Sums of ``height`` rows and the span's panels, tile by tile."""
    width, step, pitch = panels.shape[2], panels.strides[0], sums.strides[0]
    for p in range(span[2], span[3]):
        place = sums.ctypes.data + (p - span[2]) * width * sums.itemsize
        for i in range(0, height, mr):
            tile(marker, rows.ctypes.data + (first + i) * 8, table.ctypes.data, table.shape[0],
                 panels.ctypes.data + p * step, place + i * pitch, pitch)  # fmt: skip


@kernel()
def _multiply(marker, mr, rows, span, table, panels, tails, sums, out, e):  # type: ignore[no-untyped-def]
    """Rows and panels of ``span``, in blocks; every sum is complete after one chunk."""
    column = span[2] * panels.shape[2]
    columns = min(span[3] * panels.shape[2], out.shape[1]) - column
    for first in range(span[0], span[1], sums.shape[0]):
        height = min(sums.shape[0], span[1] - first)
        _sum_block(marker, mr, rows, first, height, span, table, panels, sums)
        round_block(sums[:height], tails, out, first, column, columns, e)


@kernel()
def _multiply_steps(marker, mr, rows, span, table, panels, sums, out, s):  # type: ignore[no-untyped-def]
    """The same for int32 sums that become 4-bit codes."""
    column = span[2] * panels.shape[2]
    columns = min(span[3] * panels.shape[2], out.shape[1]) - column
    for first in range(span[0], span[1], sums.shape[0]):
        height = min(sums.shape[0], span[1] - first)
        _sum_block(marker, mr, rows, first, height, span, table, panels, sums)
        steps.finish(sums[:height], out, first, column, columns, s)


@kernel()
def _multiply_chunks(  # type: ignore[no-untyped-def]
    marker, mr, rows, span, table, chunks, panels, part, sums, out, e
):
    """The same where sums of several chunks are added up in float64."""
    width, step, depth = panels.shape[2], panels.strides[0], panels.strides[1]
    none = np.empty((0, 0))
    for first in range(span[0], span[1], sums.shape[0]):
        height = min(sums.shape[0], span[1] - first)
        sums[:] = 0.0
        for c in range(chunks.shape[0]):
            segment = table.ctypes.data + chunks[c, 0] * table.strides[0]
            for p in range(span[2], span[3]):
                panel = panels.ctypes.data + p * step + chunks[c, 2] * depth
                column = (p - span[2]) * width
                for i in range(0, height, mr):
                    tile(marker, rows.ctypes.data + (first + i) * 8, segment, chunks[c, 1],
                         panel, part.ctypes.data, part.strides[0])  # fmt: skip
                    for k in range(mr):
                        for j in range(width):
                            sums[i + k, column + j] += part[k, j]
        column = span[2] * width
        columns = min(span[3] * width, out.shape[1]) - column
        round_block(sums[:height], none, out, first, column, columns, e)


@lru_cache(maxsize=512)
def row_offsets(shape: Geometry, samples: int, mr: int) -> NDArray[np.int64]:
    """Offset in values of the first value under every output place of ``samples`` images.

    The last place repeats ``mr`` times, so that every tile is whole.
    """
    axes = [np.arange(n) * s * step for n, s, step in zip(shape.out, shape.strides, shape.steps,
                                                         strict=True)]  # fmt: skip
    images = np.arange(samples) * (shape.padded[0] * shape.steps[0])
    grid = images[:, None, None, None] + axes[0][:, None, None] + axes[1][:, None] + axes[2]
    flat = grid.reshape(-1)
    return np.concatenate([flat, np.repeat(flat[-1:], mr)]).astype(np.int64)


def row_table(image: NDArray[Any], shape: Geometry, mr: int) -> NDArray[np.int64]:
    """Addresses of the first value under every output place; see :func:`row_offsets`."""
    return row_offsets(shape, len(image), mr) * image.itemsize + image.ctypes.data


def ranges(rows: int, panels: int, mr: int, threads: int, macs: int) -> list[tuple[int, ...]]:
    """(first row, last row, first panel, last panel) for each thread."""
    threads = max(1, min(threads, macs // WORTH_A_THREAD))
    if rows >= 2 * mr * threads:
        cut = [rows * t // threads // mr * mr for t in range(threads)] + [rows]
        return [(a, b, 0, panels) for a, b in pairwise(cut)]
    threads = min(threads, panels)
    cut = [panels * t // threads for t in range(threads)] + [panels]
    return [(0, rows, a, b) for a, b in pairwise(cut)]


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="opennpe")


def run_spans(call: Any, spans: list[tuple[int, ...]]) -> None:
    """``call(span)`` for every span, side by side; kernels release the interpreter lock."""
    if len(spans) == 1:
        call(spans[0])
        return
    for done in [_pool(len(spans)).submit(call, span) for span in spans]:
        done.result()


def block_shape(micro: Kernel, span: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a block of sums."""
    rows = min(BLOCK_ROWS[micro.kind.name], span[1] - span[0])
    return -(-rows // micro.mr) * micro.mr, (span[3] - span[2]) * micro.nr + PITCH_PAD


def multiply(
    micro: Kernel,
    rows: NDArray[np.int64],
    walk: Segments,
    panels: NDArray[Any],
    out: NDArray[Any],
    rounding: Rounding,
    threads: int,
    tails: NDArray[np.float64] | None = None,
) -> None:
    """Codes of every row by every column.

    Args:
        rows: row addresses, ``mr`` more than rows of ``out``.
        out: codes (M, N), written.
        tails: float64 (M, N) added to the sums, or None.
    """
    count = len(out)
    macs = count * panels.shape[0] * micro.nr * walk.groups * micro.kind.group
    dtype = np.float64 if micro.kind.name == "f64" else np.int32
    more = np.empty((0, 0)) if tails is None else tails

    def one(span: tuple[int, ...]) -> None:
        shape = block_shape(micro, span)
        if len(walk.chunks) == 1:
            sums = np.empty(shape, dtype=dtype)
            if rounding.steps is not None and dtype is np.int32:
                _multiply_steps(micro.marker, micro.mr, rows, span, walk.table, panels, sums, out,
                                rounding.steps)  # fmt: skip
                return
            _multiply(micro.marker, micro.mr, rows, span, walk.table, panels, more, sums,
                      out, rounding.general)  # fmt: skip
            return
        part = np.empty((micro.mr, micro.nr), dtype=dtype)
        _multiply_chunks(micro.marker, micro.mr, rows, span, walk.table, walk.chunks,
                         panels, part, np.empty(shape), out, rounding.general)  # fmt: skip

    run_spans(one, ranges(count, panels.shape[0], micro.mr, threads, macs))
