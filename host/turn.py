"""Transposition: pixels of a tensor become channels of another, some blocks of them at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.jobs import Turn
from opennpe.host.schedule import Span

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter

__all__ = ["turn"]


def turn(emitter: Emitter, job: Turn) -> None:
    """Append a transposition: as many source pixels as whole output blocks, and source blocks,
    as the memories take.

    Raises:
        CompileError: not even one block of each fits.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    room = emitter.room
    unit = out.pixel_words * out.lanes
    total = -(-source.pixels // unit)
    operands = emitter.spec.memory.operand_lines
    staged_in = room.staging // 4 if job.inputs[0] in room.streamed else operands
    staged_out = room.staging // 2 if job.output in room.streamed else out.lines

    def fits(pixels: int, blocks: int) -> bool:
        lines = -(-pixels * source.pixel_words // source.columns) + 1
        left = min(blocks * source.pixel_words * source.lanes, out.pixels)
        return lines * blocks <= min(operands // 2, staged_in) and left <= staged_out

    blocks = source.blocks
    while blocks > 1 and not fits(unit, blocks):
        blocks -= 1
    tiles = min(total, walk.MOST)
    while tiles > 1 and not fits(tiles * unit, blocks):
        tiles -= 1
    if (
        blocks * tiles == 1
        and not fits(unit, 1)
        and unit * source.pixel_words > (operands * source.columns)
    ):
        raise CompileError(
            f"layer '{job.name}': {unit} pixels of '{job.inputs[0]}', which it transposes, do not "
            f"fit {operands} lines of operands"
        )
    if job.output in room.streamed:
        tiles = 1
    for first in range(0, total, tiles):
        for block in range(0, source.blocks, blocks):
            pixels = first * unit, min((first + tiles) * unit, source.pixels)
            _exec(emitter, job, source, pixels, (block, min(block + blocks, source.blocks)))


def _exec(
    emitter: Emitter, job: Turn, source: Layout, pixels: tuple[int, int], blocks: tuple[int, int]
) -> None:
    """Fill and exec of some pixels and blocks."""
    out, spec = emitter.layout(job.output), emitter.spec
    name, columns = job.inputs[0], source.columns
    count = blocks[1] - blocks[0]
    first = pixels[0] * source.pixel_words // columns
    lines = -(-pixels[1] * source.pixel_words // columns) - first
    step = source.block_lines
    if name in emitter.room.streamed:
        step, start = lines, emitter.stage_in(name, blocks, first, lines)
    else:
        start = emitter.room.base[name] + blocks[0] * step + first
    head = emitter.operand_head
    emitter.operand_head = head + count * lines
    fields = {"source": start, "run": lines, "inner": count, "inner_stride": step, "outer": 1}
    if count == 1:
        fields.pop("inner_stride")
    emitter.fill(job, name, fields, head, 1, (count, lines), step)
    size = source.pixel_words * source.lanes
    elements = min(blocks[1] * size, source.channels) - blocks[0] * size
    last = elements - (count - 1) * size
    words = -(-last // source.lanes)
    place = walk.Placement("lines", source, 1, 1, 0, source.pixel_words, 0, 0, 0)
    top = head * columns + pixels[0] * source.pixel_words - first * columns
    values = walk.pixels(spec, place, 1, pixels[1] - pixels[0], top)
    values |= {
        "kernel_y": 1,
        "kernel_x": 1,
        "blocks": count,
        "words": source.pixel_words,
        "last_words": words,
        "last_elements": last - (words - 1) * source.lanes,
        "block_step": lines * columns % walk.ADDRESS_WORDS,
        "begin": 1,
        "finish": 1,
        "tiles": 1,
        "lines": pixels[1] - pixels[0],
    }
    unit = out.pixel_words * out.lanes
    held = -(-(pixels[1] - pixels[0]) // unit)
    skip = blocks[0] * size
    if job.output in emitter.room.streamed:
        own, line = elements, emitter.stage(held * elements)
    else:
        own = out.block_lines
        line = emitter.room.base[job.output] + pixels[0] // unit * own + skip
    values |= {"out_line": line, "out_tile": own}
    writes: list[Span] = [
        ("buffer", line + b * own, line + b * own + elements) for b in range(held)
    ]
    reads: list[Span] = [("operands", head, emitter.operand_head)]
    emitter.last_span = count * lines
    steps = -(-(pixels[1] - pixels[0]) // spec.array.rows) * elements
    emitter.execute(job, values, reads, writes, steps)
    if job.output in emitter.room.streamed:
        for b in range(held):
            at = (pixels[0] // unit + b) * out.block_lines + skip
            address = emitter.addresses[job.output] + at * spec.line_bytes
            emitter.store(line + b * own, elements, address)
