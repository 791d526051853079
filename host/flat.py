"""Pixelwise jobs: runs of pixels, a segment of each input, an exec for each chunk of tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.host import walk
from opennpe.host.jobs import Job
from opennpe.host.schedule import Span

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter

__all__ = ["flat"]


def flat(emitter: Emitter, job: Job) -> None:
    """Runs of pixels: a segment of each input, one exec for each chunk of channel tiles."""
    spec = emitter.spec
    stored = [emitter.low.stored[name] for name in job.inputs]
    sources = [emitter.layout(name) for name in job.inputs]
    out = emitter.layout(job.output)
    factors = [job.factor(s) for s in stored]
    held = emitter.prepare(job, sources[0], out.fold)
    tiles, steps = held.steps.shape[:2]
    # Narrower tensors may take more lines a pixel: all get as many.
    lines = [s.blocks * f / s.fold for s, f in zip(sources, factors, strict=True)]
    blocks = [
        s.blocks if len(set(lines)) == 1 else int(-(-max(lines) * s.fold // f))
        for s, f in zip(sources, factors, strict=True)
    ]
    per_pixel = max(lines)
    grain = max(out.fold, *(s.fold for s in sources))
    room = spec.memory.operand_lines // 2
    most = int(room // (per_pixel * len(sources))) // grain * grain
    if most < grain:
        most = int(2 * room // (per_pixel * len(sources))) // grain * grain
    most = min(most, walk.MOST // grain * grain)
    if emitter.room.streamed & {*job.inputs, job.output}:
        widest = max(*blocks, tiles * max(job.lanes // out.lanes, 1))
        most = min(most, emitter.room.staging // 4 // widest // grain * grain)
    if most < grain:
        raise CompileError(f"layer '{job.name}': a pixel does not fit the operand memory")
    count = max(-(-out.pixels // most), min(4, out.pixels // (32 * grain)) or 1)
    size = -(-out.pixels // (count * grain)) * grain
    chunk = min(spec.memory.parameter_tiles, spec.memory.weight_lines // steps)
    if chunk < tiles:
        # Channel tiles that share a line stay together.
        ratio = max(out.lanes // job.lanes, 1)
        chunk = chunk // ratio * ratio
    if chunk < 1:
        raise CompileError(f"layer '{job.name}': its channel tiles do not fit the memories")
    chunks = [(n, min(n + chunk, tiles)) for n in range(0, tiles, chunk)]
    loaded: dict[tuple[int, int], tuple[int, int]] = {}
    segment = int(size * per_pixel)
    for first in range(0, out.pixels, size):
        run = min(size, out.pixels - first)
        head = emitter.operand_head
        for index, source in enumerate(sources):
            _segment(emitter,
                job, index, source, factors[index], blocks[index], first, run,
                head + index * segment, size,
            )  # fmt: skip
        emitter.operand_head = head + len(sources) * segment
        for part in chunks:
            if part not in loaded or len(chunks) > 1:
                loaded[part] = emitter.chunk(job, held, *part)
            mixed = max(factors) > 1
            pixel, channel = _flat_steps(emitter, sources[0], factors[0], blocks[0], size, mixed)
            place = walk.Placement("lines", sources[0], factors[0], 1, 0, pixel, 0, 0, channel)
            top = head * spec.line_words + part[0] * channel
            values = walk.pixels(spec, place, out.fold, run, top)
            values |= emitter.sum_fields(job, place, job.taps)
            if len(sources) > 1:
                values["block_step"] = segment * spec.line_words % walk.ADDRESS_WORDS
            values |= {"begin": 1, "finish": 1}
            reads: list[Span] = [("operands", head, emitter.operand_head)]
            emitter.last_span = emitter.operand_head - head
            span = (first // out.fold, -(-run // out.fold))
            emitter.finish(job, values, reads, span, part, loaded[part])


def _flat_steps(
    emitter: Emitter, source: Layout, factor: int, blocks: int, size: int, mixed: bool
) -> tuple[int, int]:
    """Words from pixel to pixel and from channel tile to channel tile in a segment."""
    columns = source.columns
    pixel = factor * columns // source.fold
    if blocks == 1:
        return pixel, columns
    if not mixed:
        return pixel, size * pixel
    return pixel * blocks, columns


def _segment(
    emitter: Emitter,
    job: Job,
    index: int,
    source: Layout,
    factor: int,
    blocks: int,
    first: int,
    run: int,
    line: int,
    size: int,
) -> None:
    """Fill a run of pixels of one input."""
    name = job.inputs[index]
    step, lines = source.block_lines, -(-run // source.fold)
    if name in emitter.room.streamed:
        step = lines
        start = emitter.stage_in(name, (0, blocks), first // source.fold, lines)
    else:
        start = emitter.room.base[name] + first // source.fold
    fields = {"source": start, "run": lines, "inner": 1, "outer": 1}
    mixed = any(job.factor(emitter.low.stored[n]) > 1 for n in job.inputs)
    if blocks > 1 and mixed:
        fields = {"source": start, "run": 1, "inner": blocks, "inner_stride": step,
                  "outer": lines, "outer_stride": 1}  # fmt: skip
    elif blocks > 1:
        # A run shorter than the segment leaves the rest of its block unfilled.
        for block in range(blocks):
            part = {**fields, "source": start + block * step}
            emitter.fill(job, name, part, line + block * size, 1, (1, lines), step)
        return
    emitter.fill(job, name, fields, line, factor, (blocks, lines), step)
