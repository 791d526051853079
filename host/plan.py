"""How a job is cut: bands of output rows, chunks of channel tiles, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from opennpe.golden.layout import Layout
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job
from opennpe.host.walk import Placement

__all__ = ["EXEC_CYCLES", "Plan", "Range", "Shape", "chunks_of", "estimate", "make_plan"]

EXEC_CYCLES = 40
"""What an exec costs beside its steps: the way through the array and out."""
Range = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What the cost of a job depends on.

    Attributes:
        job, out, fold: the job, its output's layout and pixels a line.
        place: rows in the operand memories.
        tiles: first channel tile and the one past the last.
        steps: weight lines of a channel tile. cycles: of one sum.
        weight_beats: bus beats of a channel tile's weights and parameters.
        limit: most lines that one exec may leave, if its results go outside.
        ready: input rows that are there before the last exec of the layer before ends.
        before: operand lines that this last exec reads.
    """

    job: Job
    out: Layout
    fold: int
    place: Placement
    tiles: Range
    steps: int
    cycles: int
    weight_beats: float
    limit: int | None = None
    ready: int = 0
    before: int = 0


@dataclass(frozen=True)
class Plan:
    """Bands of output rows, chunks of channel tiles, and the loop order.

    ``chunks_outer``: weights are loaded once and rows again for each chunk, unless all rows fit.
    ``resident``: all weights and parameters fit, they are loaded once in any order.
    ``rows_fit``: all input rows fit in the operand memories at once.
    """

    bands: tuple[Range, ...]
    chunks: tuple[Range, ...]
    chunks_outer: bool
    resident: bool
    rows_fit: bool


def input_rows(job: Job, height: int, band: Range) -> Range:
    """Input rows that a band of output rows reads."""
    reach = (job.kernel[0] - 1) * job.dilations[0] + 1
    first = band[0] * job.strides[0] - job.pads[0]
    stop = (band[1] - 1) * job.strides[0] - job.pads[0] + reach
    first = min(max(first, 0), height)
    return first, max(first, min(stop, height))


def _span(shape: Shape, first: Range, last: Range) -> int:
    """Operand lines from the first row of one band to the last of another."""
    height = shape.place.source.height
    rows = input_rows(shape.job, height, first)[0], input_rows(shape.job, height, last)[1]
    units = shape.place.units(*rows) if rows[1] > rows[0] else (0, 0)
    return (units[1] - units[0]) * shape.place.unit_lines


def _bands(total: int, rows: int) -> tuple[Range, ...]:
    return tuple((i, min(i + rows, total)) for i in range(0, total, rows))


def chunks_of(tiles: Range, most: int, step: int) -> tuple[Range, ...]:
    """Even pieces of at most ``most`` tiles, each a multiple of ``step`` but the last."""
    first, total = tiles[0], tiles[1] - tiles[0]
    count = -(-total // most)
    size = -(-total // count)
    size = min(-(-size // step) * step, max(most // step * step, step))
    return tuple((first + i, first + min(i + size, total)) for i in range(0, total, size))


def _left(shape: Shape, band: Range, chunks: tuple[Range, ...]) -> int:
    """Most lines that an exec leaves."""
    more, less = shape.job.lanes // shape.out.lanes, shape.out.lanes // shape.job.lanes
    tiles = max(stop - first for first, stop in chunks)
    blocks = tiles * more if more else -(-tiles // less)
    return -(-(band[1] - band[0]) * shape.out.width // shape.fold) * blocks


def estimate(spec: CoprocessorSpec, shape: Shape, plan: Plan) -> float:
    """Cycles of a job by closed form: the slowest unit in every band, and what nothing hides."""
    rows = spec.array.rows
    fills, sums = [], []
    done = 0
    for band in plan.bands:
        height = shape.place.source.height
        first, stop = shape.place.units(*input_rows(shape.job, height, band))
        fills.append(max(stop - max(first, done), 0) * shape.place.unit_lines)
        done = max(done, stop)
        count = -(-(band[1] - band[0]) * shape.out.width // shape.fold)
        sums.append(-(-count // rows) * shape.cycles)
    room = spec.memory.operand_lines
    overlap = [_span(shape, a, b) <= room for a, b in zip(plan.bands, plan.bands[1:], strict=False)]

    # Rows that are there early can be filled early, where the layer before leaves room.
    early = shape.place.units(0, shape.ready)[1] * shape.place.unit_lines
    early = min(early, room - shape.before)
    # The layer after wants about as much room as the last band takes, while that is computed.
    tail = max(2 * _span(shape, plan.bands[-1], plan.bands[-1]) - room, 0)

    def pass_cycles(tiles: int, fill: bool) -> float:
        total = float(max(fills[0] - early, 0)) if fill else 0.0
        for i, steps in enumerate(sums):
            following = fills[i + 1] if fill and i + 1 < len(fills) else 0
            work = EXEC_CYCLES + tiles * steps
            hidden = i < len(overlap) and overlap[i]
            total += max(work, following) if hidden else work + following
        return total

    tiles = [stop - first for first, stop in plan.chunks]
    weights = sum(tiles) * shape.weight_beats
    bare = _bare(spec, shape, tiles) * shape.weight_beats
    if plan.chunks_outer:
        total = sum(pass_cycles(n, i == 0 or not plan.rows_fit) for i, n in enumerate(tiles))
        return max(total, weights - bare) + bare + tail
    times = 1 if plan.resident else len(plan.bands)
    total = pass_cycles(sum(tiles), True) + EXEC_CYCLES * len(plan.bands) * (len(tiles) - 1)
    return max(total, times * (weights - bare)) + times * bare + tail


def _bare(spec: CoprocessorSpec, shape: Shape, tiles: list[int]) -> int:
    """Channel tiles whose weights come in while nothing runs.

    A chunk hides behind the one before if there is room for both; before the first there is the
    end of another layer, which is taken to want half the room.
    """
    room = spec.memory.weight_lines // max(shape.steps, 1)
    before = [room // 2, *tiles]
    return sum(n for n, held in zip(tiles, before, strict=False) if n + held > room)


def make_plan(spec: CoprocessorSpec, shape: Shape) -> Plan | None:
    """The cheapest cut of a job, or None where not even one row and one channel tile fit."""
    memory = spec.memory
    step = max(shape.out.lanes // shape.job.lanes, 1)
    most = min(memory.weight_lines // max(shape.steps, 1), memory.parameter_tiles)
    count = shape.tiles[1] - shape.tiles[0]
    if most < min(step, count):
        return None
    height = shape.out.height
    grain = shape.fold // math.gcd(shape.fold, shape.out.width)
    found: list[Plan] = []
    resident = count <= most
    fit = _span(shape, (0, height), (0, height)) <= memory.operand_lines
    halves = max(min(memory.weight_lines // 2 // shape.steps, memory.parameter_tiles // 2), step)
    sizes = (most, min(halves, most), max(min(halves // 2, most), step))
    cuts = {chunks_of(shape.tiles, n, step) for n in sizes}
    if shape.limit is not None:
        cuts |= {chunks_of(shape.tiles, n, step) for n in (step, *range(step, most, 4 * step))}
    for rows in range(grain, height + grain, grain):
        bands = _bands(height, rows)
        if any(_span(shape, band, band) > memory.operand_lines for band in bands):
            break
        for chunks in cuts:
            if shape.limit is not None and _left(shape, bands[0], chunks) > shape.limit:
                continue
            plan = Plan(bands, chunks, False, resident, fit)
            found += [plan] if len(chunks) == 1 else [plan, replace(plan, chunks_outer=True)]
    if not found:
        return None
    return min(found, key=lambda p: (estimate(spec, shape, p), len(p.bands) * len(p.chunks)))
