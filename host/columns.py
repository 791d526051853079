"""Rows too long for the operand memories: strips of columns, a row of one strip at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.jobs import Job
from opennpe.host.plan import Range, chunks_of
from opennpe.host.stream import Stream
from opennpe.host.walk import Placement

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter, Held

__all__ = ["columns"]


@dataclass(frozen=True)
class Strip(Placement):
    """Some columns of a tensor's rows.

    Attributes:
        column: the first input column taken. width: how many.
    """

    column: int = 0
    width: int = 0

    def fills(
        self, first: int, stop: int, base: int, block_lines: int, start: int
    ) -> list[tuple[int, dict[str, int]]]:
        """Fills of the strip's part of rows; see :meth:`Placement.fills`."""
        found = []
        while first < stop:
            rows = min(stop - first, walk.MOST)
            fields = {
                "source": base + (first - start) * self.source.width + self.column,
                "run": self.width,
                "inner": self.blocks,
                "inner_stride": block_lines,
                "outer": rows,
                "outer_stride": self.source.width,
            }
            found.append((first, fields))
            first += rows
        return found


def columns(emitter: Emitter, job: Job, held: Held, limit: int | None) -> bool:
    """Append a dense job's commands, if strips of columns make it fit.

    Args:
        limit: most lines that an exec may leave, if its results go outside.

    Returns:
        Whether they do; nothing is appended else.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    folded = source.fold > 1 or source.packed or out.width % out.fold
    if job.kind != "dense" or folded:
        return False
    strips = _strips(emitter, job, source, out)
    if strips is None:
        return False
    memory = emitter.spec.memory
    step = max(out.lanes // job.lanes, 1)
    tiles, steps = held.steps.shape[:2]
    most = min(memory.weight_lines // steps, memory.parameter_tiles)
    if limit is not None:
        widest = max(stop - first for first, stop in strips) // out.fold
        most = min(most, limit // widest * step // max(job.lanes // out.lanes, 1))
    if most < min(step, tiles):
        return False
    for chunk in chunks_of((0, tiles), most, step):
        where = emitter.chunk(job, held, *chunk)
        for strip in strips:
            _strip(emitter, job, strip, chunk, where)
    return True


def _strips(emitter: Emitter, job: Job, source: Layout, out: Layout) -> list[Range] | None:
    """The fewest strips of output columns of which a row fits, or two neighbours if that works."""
    reach = (job.kernel[0] - 1) * job.dilations[0] + 1
    most = out.width // out.fold
    for rows in (reach + job.strides[0], reach):
        for count in range(2, most + 1):
            size = -(-out.width // (count * out.fold)) * out.fold
            strips = [(c, min(c + size, out.width)) for c in range(0, out.width, size)]
            places = [_place(emitter, job, source, strip) for strip in strips]
            if all(p.unit_lines * rows <= emitter.spec.memory.operand_lines for p in places):
                return strips
    return None


def _place(emitter: Emitter, job: Job, source: Layout, strip: Range) -> Strip:
    """The input columns that output columns read."""
    stride, pad = job.strides[1], job.pads[1]
    first = strip[0] * stride - pad
    stop = (strip[1] - 1) * stride - pad + (job.kernel[1] - 1) * job.dilations[1] + 1
    first = min(max(first, 0), source.width - 1)
    width = max(min(stop, source.width) - first, 1)
    factor = job.factor(emitter.low.stored[job.inputs[0]])
    pixel = factor * source.columns
    block = width * pixel
    return Strip(
        "rows",
        source,
        factor,
        source.blocks,
        source.blocks * width * factor,
        pixel,
        source.blocks * block,
        block,
        block,
        0,
        first,
        width,
    )


def _strip(emitter: Emitter, job: Job, strip: Range, chunk: Range, where: tuple[int, int]) -> None:
    """Append the execs of a strip, a row each, its input rows appended as they are needed."""
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    place = _place(emitter, job, source, strip)
    stream = Stream(emitter, job, place)
    for row in range(out.height):
        band = row, row + 1
        stream.need(band)
        top = stream.head * emitter.spec.line_words - place.column * place.pixel
        values = walk.places(job, emitter.spec, place, out.fold, row, strip[0], top)
        values |= emitter.sum_fields(job, place, job.taps)
        values |= {"begin": 1, "finish": 1}
        first = (row * out.width + strip[0]) // out.fold
        reads = [stream.span(band)]
        emitter.last_span = reads[0][2] - reads[0][1]
        lines = first, (strip[1] - strip[0]) // out.fold
        emitter.finish(job, values, reads, lines, chunk, where)
