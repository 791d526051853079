"""Sums too long for the memories: one tile at a time, its sum in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.jobs import Job
from opennpe.host.walk import Placement

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter, Held

__all__ = ["split"]

Range = tuple[int, int]


@dataclass(frozen=True)
class _Piece:
    """Part of a sum: blocks (taps of a job that is not dense), kernel rows and columns."""

    blocks: Range
    rows: Range
    columns: Range


@dataclass(frozen=True)
class _Tile:
    """A pixel tile: its first pixel, its lines and its first and last output rows."""

    pixel: int
    lines: int
    rows: Range


def split(emitter: Emitter, job: Job, held: Held) -> None:
    """Append a job's commands, a pixel tile and a channel tile at a time.

    Raises:
        CompileError: not even one kernel column of one block fits, or a maximum would be cut.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    if out.lanes > job.lanes and held.steps.shape[0] > 1:
        raise CompileError(
            f"layer '{job.name}': its sums do not fit the memories whole, and in pieces they "
            f"cannot be put side by side as {job.out}: give its output the width of {job.mode_a}"
        )
    slots = emitter.spec.array.rows * out.fold
    for first in range(0, out.pixels, slots):
        count = min(slots, out.pixels - first)
        rows = first // out.width, (first + count - 1) // out.width + 1
        tile = _Tile(first, -(-count // out.fold), rows)
        pieces = _pieces(emitter, job, source, tile)
        for n in range(held.steps.shape[0]):
            parameter = emitter.parameter_piece(held, n, n + 1)
            for index, piece in enumerate(pieces):
                ends = index == 0, index == len(pieces) - 1
                _exec(emitter, job, held, tile, n, piece, ends, parameter)


def _pieces(emitter: Emitter, job: Job, source: Layout, tile: _Tile) -> list[_Piece]:
    """The fewest pieces that fit, by trying larger parts first."""
    memory = emitter.spec.memory
    kernel = job.kernel
    dense = job.kind == "dense"
    total = source.blocks if dense else job.taps
    tries: list[tuple[int, int, int]] = [(n, *kernel) for n in range(total, 0, -1)]
    if not dense:
        tries = [t for t in tries if t[0] in (1, total)]
    tries += [(1, n, kernel[1]) for n in range(kernel[0] - 1, 0, -1)]
    tries += [(1, 1, n) for n in range(kernel[1] - 1, 0, -1)]
    for size in tries:
        pieces = list(_cut((total, *kernel), size))
        if all(
            _weight_lines(job, source, p) <= memory.weight_lines
            and _operand_lines(emitter, job, source, tile, p) <= memory.operand_lines
            for p in pieces
        ):
            if job.kind == "max" and len(pieces) > 1:
                raise CompileError(f"layer '{job.name}': a window does not fit the memories")
            return pieces
    raise CompileError(f"layer '{job.name}': not even a part of a sum fits the memories")


def _cut(total: tuple[int, int, int], size: tuple[int, int, int]) -> Iterator[_Piece]:
    ranges = [
        [(i, min(i + s, n)) for i in range(0, n, s)] for n, s in zip(total, size, strict=True)
    ]
    for blocks in ranges[0]:
        for rows in ranges[1]:
            for columns in ranges[2]:
                yield _Piece(blocks, rows, columns)


def _channels(job: Job, source: Layout, blocks: Range) -> int:
    """Input channels of some blocks."""
    size = source.pixel_words * source.lanes
    return min(blocks[1] * size, int(job.weights.shape[1])) - blocks[0] * size


def _weight_lines(job: Job, source: Layout, piece: _Piece) -> int:
    """Weight lines of a piece, padded as widening may need it."""
    return -(-len(_steps(job, source, piece)) // 4) * 4


def _steps(job: Job, source: Layout, piece: _Piece) -> range:
    """Which of a channel tile's weight lines a piece takes; they are neighbours."""
    rows, columns = job.kernel
    if job.kind == "max":
        return range(1)
    taps = (piece.rows[1] - piece.rows[0]) * (piece.columns[1] - piece.columns[0])
    skipped = piece.rows[0] * columns + piece.columns[0]
    if job.kind != "dense":
        first = piece.blocks[0] * rows * columns + skipped
        return range(first, first + (piece.blocks[1] - piece.blocks[0]) * taps)
    own = _channels(job, source, piece.blocks)
    before = _channels(job, source, (0, piece.blocks[0])) * rows * columns
    first = before + skipped * own
    return range(first, first + own * taps)


def _input_rows(job: Job, source: Layout, tile: _Tile, piece: _Piece) -> Range:
    """Input rows that a piece reads."""
    stride, pad, dilation = job.strides[0], job.pads[0], job.dilations[0]
    first = tile.rows[0] * stride - pad + piece.rows[0] * dilation
    stop = (tile.rows[1] - 1) * stride - pad + (piece.rows[1] - 1) * dilation + 1
    first = min(max(first, 0), source.height)
    return first, max(first, min(stop, source.height))


def _place(emitter: Emitter, job: Job, source: Layout, piece: _Piece, n: int) -> Placement:
    factor = job.factor(emitter.low.stored[job.inputs[0]])
    blocks = piece.blocks if job.kind == "dense" else (n // factor, n // factor + 1)
    return walk.placement(job, source, factor, blocks)


def _operand_lines(emitter: Emitter, job: Job, source: Layout, tile: _Tile, piece: _Piece) -> int:
    place = _place(emitter, job, source, piece, 0)
    rows = _input_rows(job, source, tile, piece)
    first, stop = place.units(*rows) if rows[1] > rows[0] else (0, 0)
    return (stop - first) * place.unit_lines


def _exec(
    emitter: Emitter,
    job: Job,
    held: Held,
    tile: _Tile,
    n: int,
    piece: _Piece,
    ends: tuple[bool, bool],
    parameter: int,
) -> None:
    """Load, fill and exec of one piece of one tile's sum."""
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    place = _place(emitter, job, source, piece, n)
    rows = _input_rows(job, source, tile, piece)
    first, stop = place.units(*rows) if rows[1] > rows[0] else (0, 0)
    head = emitter.operand_head - first * place.unit_lines
    emitter.rows(job, place, head, first, stop)
    emitter.operand_head = head + stop * place.unit_lines
    lines = _steps(job, source, piece)
    weights, _ = emitter.weight_piece(job, held, (n, n + 1), (lines.start, lines.stop))
    top = head * emitter.spec.line_words
    if job.kind != "dense":
        top += n % place.factor * emitter.spec.line_words
    row, column = divmod(tile.pixel, out.width)
    values = walk.places(job, emitter.spec, place, out.fold, row, column, top)
    skip_y, skip_x = piece.rows[0], piece.columns[0]
    values["iy"] += skip_y * job.dilations[0]
    values["ix"] += skip_x * job.dilations[1]
    values["limit"] += skip_x * job.dilations[1]
    moved = values["base"] + skip_y * values["tap_y"] + skip_x * values["tap_x"]
    values["base"] = moved % walk.ADDRESS_WORDS
    values |= emitter.sum_fields(job, place, piece.blocks[1] - piece.blocks[0])
    values["kernel_y"] = piece.rows[1] - piece.rows[0]
    values["kernel_x"] = piece.columns[1] - piece.columns[0]
    values["begin"], values["finish"] = int(ends[0]), int(ends[1])
    reads = [("operands", head + first * place.unit_lines, head + stop * place.unit_lines)]
    if tile.lines * out.fold > out.pixels - tile.pixel or out.fold > 1:
        # Spare pixels of the last line may read any line.
        reads = [("operands", 0, emitter.spec.memory.operand_lines)]
    span = (tile.pixel // out.fold, tile.lines)
    emitter.finish(job, values, reads, span, (n, n + 1), (weights, parameter))
