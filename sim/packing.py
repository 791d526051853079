"""Codes to kernel operands: images in place for the left side, panels for the right side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.sim import lookup
from opennpe.sim.jit import kernel
from opennpe.sim.microkernel import ADD, FLUSH_GROUPS, STORE, Kind

__all__ = [
    "Segments",
    "column_sums",
    "decode_image",
    "decode_rows",
    "pack_codes",
    "pack_panels",
    "segments",
]

ROWS = 16
"""Groups of K packed at a time."""
SLACK = 64
"""Values behind a buffer that the last group of its last row may read; weights there are zero."""


@dataclass(frozen=True, eq=False)
class Segments:
    """How a kernel walks K.

    Attributes:
        table: int64 (S, 3): byte offset into a row, groups, flush.
        chunks: int64 (C, 3): first segment, segments, first group in the panel. Sums of one chunk
            are complete; more than one chunk is added up outside the kernel.
        groups: groups in all.
    """

    table: NDArray[np.int64]
    chunks: NDArray[np.int64]
    groups: int


@lru_cache(maxsize=1024)
def segments(
    runs: tuple[tuple[int, int], ...], kind: Kind, terms: int, flush: int = FLUSH_GROUPS
) -> Segments:
    """Cut runs of K into segments.

    Args:
        runs: (offset into a row, length), both in values; each run is padded to whole groups.
        kind: the kernel's operands.
        terms: products that a chunk may hold.
        flush: groups between flushes.
    """
    most = max(1, terms // kind.group)
    rows: list[list[int]] = []
    chunks: list[list[int]] = [[0, 0, 0]]
    in_chunk = since_flush = done = 0
    flush_by = STORE
    for offset, length in runs:
        left, place = -(-length // kind.group), offset * kind.value_bytes
        while left:
            if in_chunk == most:
                rows[-1][2] = flush_by
                chunks.append([len(rows), 0, done])
                in_chunk = since_flush = 0
                flush_by = STORE
            take = min(left, flush, most - in_chunk)
            if since_flush + take > flush:
                rows[-1][2] = flush_by
                since_flush = 0
                flush_by = ADD
            rows.append([place, take, 0])
            chunks[-1][1] += 1
            left, place = left - take, place + take * kind.group_bytes
            in_chunk, since_flush, done = in_chunk + take, since_flush + take, done + take
    rows[-1][2] = flush_by
    return Segments(np.array(rows, dtype=np.int64), np.array(chunks, dtype=np.int64), done)


@kernel()
def _decode(codes, table, out):  # type: ignore[no-untyped-def]
    for i in range(codes.size):
        out[i] = table[codes[i]]


@kernel()
def _decode_padded(codes, table, out, before):  # type: ignore[no-untyped-def]
    samples, depth, height, width, channels = codes.shape
    for n in range(samples):
        for d in range(depth):
            for h in range(height):
                target = out[n, d + before[0], h + before[1]]
                for w in range(width):
                    for c in range(channels):
                        target[w + before[2], c] = table[codes[n, d, h, w, c]]


def decode_rows(codes: NDArray[Any], table: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """Codes (M, K) as operand values (M, K), with slack behind the last row.

    Args:
        table: a value a code.
        dtype: of the values; the table's where None.
    """
    held = np.empty(codes.size + SLACK, dtype=dtype or table.dtype)
    held[codes.size :] = table[0]
    flat = np.ascontiguousarray(codes).reshape(-1)
    if lookup.suits(table):
        lookup.decode(flat[None], table, held[None, : codes.size])
    else:
        _decode(flat, table, held)
    return held[: codes.size].reshape(codes.shape)


def decode_image(
    codes: NDArray[Any],
    table: NDArray[Any],
    before: tuple[int, ...],
    extent: tuple[int, ...],
    dtype: Any = None,
) -> NDArray[Any]:
    """Codes (N, D, H, W, C) as a padded image of operand values.

    Args:
        before: padding before each spatial axis.
        extent: spatial extents of the padded image.
        dtype: of the values; the table's where None.
    """
    if codes.shape[1:4] == extent:
        return decode_rows(codes.reshape(codes.shape[0], -1), table, dtype).reshape(codes.shape)
    shape = (codes.shape[0], *extent, codes.shape[4])
    size = int(np.prod(shape))
    held = np.full(size + SLACK, table[0], dtype=dtype or table.dtype)
    image = held[:size].reshape(shape)
    inside = codes[:, : extent[0], : extent[1], : extent[2]]
    if lookup.suits(table):
        _decode_by_rows(np.ascontiguousarray(inside), table, image, before)
    else:
        _decode_padded(inside, table, image, before)
    return image


def _decode_by_rows(
    codes: NDArray[Any], table: NDArray[Any], image: NDArray[Any], before: tuple[int, ...]
) -> None:
    samples, depth, height, width, channels = codes.shape
    lines = codes.reshape(samples, depth, height, width * channels)
    target = image.reshape(*image.shape[:3], -1)
    first = before[2] * channels
    inside = np.s_[before[1] : before[1] + height, first : first + width * channels]
    for n, d in np.ndindex(samples, depth):
        lookup.decode(lines[n, d], table, target[n, d + before[0]][inside])


@kernel()
def _interleave(values, panels):  # type: ignore[no-untyped-def]
    """Rows of K into groups; the loops over a group are unrolled so that they vectorise."""
    count, groups, width, group = panels.shape
    depth, columns = values.shape
    # A few rows at a time, across all panels: rows are then read in order.
    for start in range(0, groups, ROWS):
        for p in range(count):
            first = p * width
            full = min(width, columns - first)
            for q in range(start, min(start + ROWS, groups)):
                line, k = panels[p, q], q * group
                if group == 1:
                    for r in range(full):
                        line[r, 0] = values[k, first + r]
                elif group == 2 and k + 1 < depth:
                    for r in range(full):
                        line[r, 0] = values[k, first + r]
                        line[r, 1] = values[k + 1, first + r]
                elif group == 4 and k + 3 < depth:
                    for r in range(full):
                        line[r, 0] = values[k, first + r]
                        line[r, 1] = values[k + 1, first + r]
                        line[r, 2] = values[k + 2, first + r]
                        line[r, 3] = values[k + 3, first + r]
                else:
                    for i in range(min(group, depth - k)):
                        for r in range(full):
                            line[r, i] = values[k + i, first + r]


@kernel()
def _interleave_codes(codes, table, panels, energy):  # type: ignore[no-untyped-def]
    """Codes (K, N) straight into panels of one value a group; sums of squares of the columns."""
    count, depth, width, _ = panels.shape
    columns = codes.shape[1]
    for start in range(0, depth, ROWS):
        for p in range(count):
            first = p * width
            full = min(width, columns - first)
            for k in range(start, min(start + ROWS, depth)):
                line = panels[p, k]
                for r in range(full):
                    value = np.float64(table[codes[k, first + r]])
                    line[r, 0] = value
                    energy[first + r] += value * value


def pack_codes(
    codes: NDArray[Any], table: NDArray[Any], nr: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Codes (K, N) as float64 panels (ceil(N/nr), K, nr, 1) and the columns' sums of squares."""
    depth, columns = codes.shape
    panels = (np.empty if columns % nr == 0 else np.zeros)((-(-columns // nr), depth, nr, 1))
    energy = np.zeros(columns)
    _interleave_codes(codes, table, panels, energy)
    return panels, energy


def pack_panels(values: NDArray[Any], group: int, nr: int) -> NDArray[Any]:
    """Operand values (K, N) as panels (ceil(N/nr), ceil(K/group), nr, group)."""
    depth, columns = values.shape
    shape = (-(-columns // nr), -(-depth // group), nr, group)
    whole = columns % nr == 0 and depth % group == 0
    panels = (np.empty if whole else np.zeros)(shape, dtype=values.dtype)
    _interleave(values, panels)
    return panels


@kernel()
def _column_sums(values, total, size):  # type: ignore[no-untyped-def]
    for k in range(values.shape[0]):
        row = values[k]
        for j in range(values.shape[1]):
            total[j] += np.int32(row[j])
            size[j] += abs(np.int32(row[j]))


def column_sums(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums and sums of magnitudes of the columns of integer operands (K, N).

    int32 inside: 65,536 rows of int16 cannot overflow it, longer ones are added up in parts.
    """
    both = np.zeros((2, values.shape[1]), dtype=np.int64)
    for start in range(0, len(values), 1 << 16):
        part = np.zeros((2, values.shape[1]), dtype=np.int32)
        _column_sums(values[start : start + (1 << 16)], *part)
        both += part
    return both[0], both[1]
