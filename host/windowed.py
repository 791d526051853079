"""Layers with windows: bands of output rows by chunks of channel tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opennpe.golden import lanes
from opennpe.golden.commands import PARAMETER_LINES
from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.columns import columns
from opennpe.host.jobs import Job
from opennpe.host.plan import Plan, Shape, make_plan
from opennpe.host.split import split
from opennpe.host.stream import Stream

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter, Held

__all__ = ["windowed"]


def windowed(emitter: Emitter, job: Job) -> None:
    """Bands of rows by chunks of channel tiles; of fewer blocks or pixels if they must.

    Raises:
        CompileError: more room for results that go outside would help, or nothing does.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    held = emitter.prepare(job, source, out.fold)
    counts = _block_counts(emitter, job, source, out)
    staging = emitter.room.staging
    limit = staging // 2 if job.output in emitter.room.streamed else None
    for count in counts:
        parts = _parts(emitter, job, held, count, limit)
        for place, plan in parts or ():
            run = _chunks_outer if plan.chunks_outer else _bands_outer
            run(emitter, job, plan, place, held)
            if len(parts or ()) == 1 and not plan.chunks_outer:
                emitter.ready[job.output] = plan.bands[-1][0]
            if plan.chunks_outer or len(plan.bands) == 1:
                tiles = plan.chunks[0][1] - plan.chunks[0][0]
                emitter.chunked[job.output] = max(tiles * job.lanes // out.lanes, 1)
        if parts is not None:
            return
    more = limit is not None and 2 * staging < emitter.spec.memory.buffer_lines
    if more and any(_parts(emitter, job, held, count, None) for count in counts):
        raise CompileError(f"layer '{job.name}': its results do not fit {staging} lines")
    if not columns(emitter, job, held, limit):
        split(emitter, job, held)


def _parts(
    emitter: Emitter, job: Job, held: Held, count: int, limit: int | None
) -> list[tuple[walk.Placement, Plan]] | None:
    """Plans for ``count`` blocks of the input at a time, or None if one has none.

    Args:
        limit: most lines that an exec may leave.
    """
    source, out = emitter.layout(job.inputs[0]), emitter.layout(job.output)
    factor = job.factor(emitter.low.stored[job.inputs[0]])
    tiles, steps = held.steps.shape[:2]
    parts = []
    for first in range(0, source.blocks, count):
        stop = min(first + count, source.blocks)
        place = walk.placement(job, source, factor, (first, stop))
        span = (0, tiles)
        if job.kind != "dense":
            span = (first * factor, min(stop * factor, tiles))
        if span[1] <= span[0]:
            continue
        shape = Shape(
            job,
            out,
            out.fold,
            place,
            span,
            steps,
            emitter.cycles(job, out.fold),
            _beats(emitter, job, steps),
            limit,
            emitter.ready.get(job.inputs[0], 0),
            emitter.last_span,
        )
        plan = make_plan(emitter.spec, shape)
        if plan is None:
            return None
        parts.append((place, plan))
    return parts


def _block_counts(emitter: Emitter, job: Job, source: Layout, out: Layout) -> list[int]:
    """Numbers of blocks to try at a time: all at once only where channels meet."""
    factor = job.factor(emitter.low.stored[job.inputs[0]])
    counts = [source.blocks]
    written = emitter.chunked.get(job.inputs[0], source.blocks)
    if job.kind != "dense":
        ratio = max(out.lanes // job.lanes, 1)
        while counts[-1] > 1 and counts[-1] // 2 * factor % ratio == 0:
            counts.append(counts[-1] // 2)
        if written < source.blocks and written * factor % ratio == 0:
            # The first blocks can be filled while the layer before computes the others.
            counts.insert(0, written)
    return counts


def _beats(emitter: Emitter, job: Job, steps: int) -> float:
    factor = lanes.lanes(job.weight_format) // job.lanes
    return (steps / factor + PARAMETER_LINES) * emitter.spec.beats_per_line


def _chunks_outer(
    emitter: Emitter, job: Job, plan: Plan, place: walk.Placement, held: Held
) -> None:
    """Weights once; rows again for each chunk unless they all fit."""
    stream = None
    for first, stop in plan.chunks:
        where = emitter.chunk(job, held, first, stop)
        bands = plan.bands
        if stream is not None and plan.rows_fit:
            bands = ((0, job.size[0]),)
        else:
            stream = Stream(emitter, job, place)
        for band in bands:
            stream.need(band)
            _exec(emitter, job, place, stream, band, (first, stop), where)


def _bands_outer(emitter: Emitter, job: Job, plan: Plan, place: walk.Placement, held: Held) -> None:
    """Rows once; weights again for each band unless they all fit."""
    stream = Stream(emitter, job, place)
    loaded: dict[tuple[int, int], tuple[int, int]] = {}
    for band in plan.bands:
        stream.need(band)
        for chunk in plan.chunks:
            if chunk not in loaded or not plan.resident:
                loaded[chunk] = emitter.chunk(job, held, *chunk)
            _exec(emitter, job, place, stream, band, chunk, loaded[chunk])


def _exec(
    emitter: Emitter,
    job: Job,
    place: walk.Placement,
    stream: Stream,
    band: tuple[int, int],
    chunk: tuple[int, int],
    where: tuple[int, int],
) -> None:
    """Append the exec of a band of output rows and a chunk of channel tiles."""
    out = emitter.layout(job.output)
    top = stream.head * emitter.spec.line_words
    if job.kind != "dense":
        top += (chunk[0] - place.first * place.factor) * place.channel
    values = walk.places(job, emitter.spec, place, out.fold, band[0], 0, top)
    values |= emitter.sum_fields(job, place, job.taps)
    values |= {"begin": 1, "finish": 1}
    count = (band[1] - band[0]) * out.width
    first = band[0] * out.width // out.fold
    reads = [stream.span(band)]
    emitter.last_span = reads[0][2] - reads[0][1]
    emitter.finish(job, values, reads, (first, -(-count // out.fold)), chunk, where)
