"""Sparse execs: records of a layer's weights by pixel blocks of channel-major tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from opennpe.golden import microops
from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.jobs import Records, widening
from opennpe.host.schedule import Span
from opennpe.host.weights import packed_parameters

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter

__all__ = ["Piece", "pieces", "records"]


@dataclass(frozen=True, eq=False)
class Piece:
    """Some output channels of a sparse layer, as one exec takes them.

    Attributes:
        channels: first output channel and the one past the last.
        stream: their records.
    """

    channels: tuple[int, int]
    stream: microops.Stream


def pieces(job: Records, most_lines: int, most_tiles: int) -> list[Piece] | None:
    """A layer cut into pieces whose records and parameters fit; None where one block does not."""
    shape, outputs = job.shape, len(job.weights)
    size = min(outputs, most_tiles * shape.columns // shape.rows * shape.rows)
    while size >= shape.rows:
        found = [
            Piece((m, min(m + size, outputs)), microops.pack(shape, job.weights[m : m + size]))
            for m in range(0, outputs, size)
        ]
        longest = max(len(p.stream.lines) for p in found)
        if longest <= most_lines:
            return found
        size = min(size * most_lines // longest, size - 1) // shape.rows * shape.rows
    return None


def records(emitter: Emitter, job: Records) -> None:
    """Append a job's commands: pieces of the stream by bands of pixel blocks.

    Raises:
        CompileError: one row block's records, or one pixel block, fit nowhere.
    """
    source, memory = emitter.layout(job.inputs[0]), emitter.spec.memory
    half = pieces(job, memory.weight_lines // 2, max(memory.parameter_tiles // 2, 1))
    cut = half or pieces(job, memory.weight_lines, memory.parameter_tiles)
    whole = pieces(job, memory.weight_lines, memory.parameter_tiles)
    if whole is not None and len(whole) == 1:
        cut = whole
    if cut is None:
        raise CompileError(
            f"layer '{job.name}': the records of {job.shape.rows} output channels do not fit "
            f"{memory.weight_lines} lines of weights"
        )
    blocks, each = source.blocks, source.block_lines
    most = memory.operand_lines // 2 // each or memory.operand_lines // each
    room = emitter.room
    if job.inputs[0] in room.streamed:
        most = min(most, room.staging // 4 // each)
    if job.output in room.streamed:
        widest = max(p.channels[1] - p.channels[0] for p in cut)
        most = min(most, room.staging // 2 // widest)
    if most < 1:
        raise CompileError(f"layer '{job.name}': {each} input channels do not fit the memories")
    images = [_image(emitter, job, piece) for piece in cut]
    bands = [(q, min(q + most, blocks)) for q in range(0, blocks, most)]
    fills, loads = blocks * each, sum(len(p.stream.lines) for p in cut)
    if len(cut) == 1 or loads * len(bands) <= fills * len(cut):
        held: dict[int, tuple[int, int]] = {}
        for band in bands:
            head = _fill(emitter, job, source, band)
            for i, piece in enumerate(cut):
                if len(cut) > 1 or i not in held:
                    held[i] = _load(emitter, piece, images[i])
                _exec(emitter, job, source, band, head, piece, held[i])
        return
    for i, piece in enumerate(cut):
        where = _load(emitter, piece, images[i])
        for band in bands:
            head = _fill(emitter, job, source, band)
            _exec(emitter, job, source, band, head, piece, where)


def _image(emitter: Emitter, job: Records, piece: Piece) -> tuple[int, int]:
    """Addresses of a piece's records and parameters."""
    own = slice(*piece.channels)
    words = packed_parameters(
        emitter.spec, job, job.bias[own], job.shift[own], 1, job.shape.columns
    )
    return emitter.image.put(piece.stream.lines), emitter.image.put(words)


def _load(emitter: Emitter, piece: Piece, image: tuple[int, int]) -> tuple[int, int]:
    """Ring line and parameter tile of a piece, loaded now."""
    line, _ = emitter.ring_lines(image[0], len(piece.stream.lines))
    count = -(-(piece.channels[1] - piece.channels[0]) // piece.stream.shape.columns)
    return line, emitter.parameter_tiles(image[1], count)


def _fill(emitter: Emitter, job: Records, source: Layout, band: tuple[int, int]) -> int:
    """Fill some pixel blocks; the operand line of the first."""
    name, each, head = job.inputs[0], source.block_lines, emitter.operand_head
    count = (band[1] - band[0]) * each
    if name in emitter.room.streamed:
        start = emitter.stage_in(name, band, 0, each)
    else:
        start = emitter.room.base[name] + band[0] * each
    emitter.operand_head = head + count
    fields = {"source": start, "run": count, "inner": 1, "outer": 1}
    emitter.fill(job, name, fields, head, 1, (1, count), 0)
    return head


def _exec(
    emitter: Emitter,
    job: Records,
    source: Layout,
    band: tuple[int, int],
    head: int,
    piece: Piece,
    where: tuple[int, int],
) -> None:
    """Append the exec of a band of pixel blocks and a piece of the output channels."""
    spec, out = emitter.spec, emitter.layout(job.output)
    shape, each, columns = job.shape, source.block_lines, source.columns
    count, channels = band[1] - band[0], piece.channels[1] - piece.channels[0]
    share = spec.array.rows // shape.rows
    if job.output in emitter.room.streamed:
        own, line = channels, emitter.stage(count * channels)
    else:
        own = out.block_lines
        line = emitter.room.base[job.output] + band[0] * own + piece.channels[0]
    values = {
        "height": 1,
        "width": count,
        "base": head * columns % walk.ADDRESS_WORDS,
        "stride_x": 1,
        "pixel_step": each * columns % walk.ADDRESS_WORDS,
        "limit": walk.FAR,
        "tile_x": share,
        "tile_step": share * each * columns % walk.ADDRESS_WORDS,
        "blocks": 1,
        "kernel_y": 1,
        "kernel_x": 1,
        "words": 1,
        "last_words": 1,
        "last_elements": 1,
        "begin": 1,
        "finish": 1,
        "tiles": channels // shape.rows,
        "weight_line": where[0] % spec.memory.weight_lines,
        "parameter": where[1],
        "lines": count * shape.rows,
        "out_line": line,
        "out_tile": share * own,
        "out_block": own,
        "block_rows": shape.rows.bit_length() - 1,
        "delta": microops.DELTAS.index(shape.delta_bits),
        "weight_widen": widening(shape.format, job.mode_b),
        "stream_lines": len(piece.stream.lines),
        "inputs": each,
    }
    reads: list[Span] = [
        ("operands", head, head + count * each),
        ("weights", where[0], where[0] + len(piece.stream.lines)),
        ("parameters", where[1], where[1] + -(-channels // columns)),
    ]
    writes: list[Span] = [
        ("buffer", line + q * own, line + q * own + channels) for q in range(count)
    ]
    emitter.last_span = count * each
    steps = int(np.maximum(piece.stream.counts, spec.array.rows).sum())
    emitter.execute(job, values, reads, writes, -(-count // share) * steps)
    if job.output in emitter.room.streamed:
        for q in range(count):
            at = (band[0] + q) * out.block_lines + piece.channels[0]
            address = emitter.addresses[job.output] + at * spec.line_bytes
            emitter.store(line + q * own, channels, address)
