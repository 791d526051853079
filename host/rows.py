"""Softmax and normalisation: runs of rows, each read twice by its unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opennpe.golden.errors import CompileError
from opennpe.host import walk
from opennpe.host.jobs import Rows
from opennpe.host.schedule import Span

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter

__all__ = ["rows"]

KEEP = (1 << 16) - 1
"""Most elements that a command's first row can keep."""


def rows(emitter: Emitter, job: Rows) -> None:
    """Append a job's commands: as many rows at a time as half the operand memories take.

    Raises:
        CompileError: not even one row fits.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    room, memory = emitter.room, emitter.spec.memory
    total = source.pixels
    most = memory.operand_lines // 2 // source.blocks or memory.operand_lines // source.blocks
    if job.inputs[0] in room.streamed:
        most = min(most, room.staging // 4 // source.blocks)
    if job.output in room.streamed:
        left = -(-source.blocks * max(job.lanes, out.lanes) // out.lanes)
        most = min(most, room.staging // 4 // left)
    if most < 1:
        raise CompileError(
            f"layer '{job.name}': a row of {source.channels} elements does not fit the memories"
        )
    if not job.causal:
        _runs(emitter, job, (0, total), most, job.keep)
        return
    # Rows that keep nothing come first, in a command of their own: no field is negative.
    empty = min(max(-job.keep, 0), total)
    _runs(emitter, job, (0, empty), most, 0, causal=0)
    _runs(emitter, job, (empty, total), most, job.keep + empty)


def _runs(
    emitter: Emitter,
    job: Rows,
    span: tuple[int, int],
    most: int,
    keep: int,
    causal: int | None = None,
) -> None:
    causal = int(job.causal) if causal is None else causal
    for first in range(span[0], span[1], most):
        own = min(keep + causal * (first - span[0]), KEEP)
        _exec(emitter, job, first, min(most, span[1] - first), own, causal)


def _exec(emitter: Emitter, job: Rows, first: int, count: int, keep: int, causal: int) -> None:
    """Fill and exec of some rows."""
    name = job.inputs[0]
    source = emitter.layout(name)
    blocks, step, columns = source.blocks, source.block_lines, source.columns
    if name in emitter.room.streamed:
        step, start = count, emitter.stage_in(name, (0, blocks), first, count)
    else:
        start = emitter.room.base[name] + first
    head = emitter.operand_head
    emitter.operand_head = head + blocks * count
    fields = {"source": start, "run": count, "inner": blocks, "outer": 1}
    if blocks > 1:
        fields["inner_stride"] = step
    emitter.fill(job, name, fields, head, 1, (blocks, count), step)
    values = {
        "height": 1,
        "width": count,
        "base": head * columns % walk.ADDRESS_WORDS,
        "stride_x": 1,
        "pixel_step": columns,
        "limit": walk.FAR,
        "tile_x": 1,
        "tile_step": columns,
        "blocks": blocks,
        "kernel_y": 1,
        "kernel_x": 1,
        "words": 1,
        "last_words": 1,
        "last_elements": 1,
        "block_step": count * columns % walk.ADDRESS_WORDS,
        "begin": 1,
        "finish": 1,
        "tiles": 2,
        "inputs": source.channels,
        "keep": keep,
        "causal": causal,
        "out_shift": job.out_shift,
        **{f"setting{i}": word for i, word in enumerate(job.settings)},
    }
    reads: list[Span] = [("operands", head, emitter.operand_head)]
    emitter.last_span = blocks * count
    lanes = source.lanes
    emitter.results(job, values, reads, (first, count), (0, blocks), 2 * count * blocks * lanes)
