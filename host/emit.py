"""Commands and what they touch: loads of weights, fills of rows, execs, stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import lanes
from opennpe.golden.commands import (
    KINDS,
    PARAMETER_LINES,
    TABLE_LINES,
    TARGETS,
    weight_steps,
)
from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Layout
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host import walk, weights
from opennpe.host.image import Image
from opennpe.host.jobs import Job, Task
from opennpe.host.lowered import Lowered
from opennpe.host.place import Room, layout
from opennpe.host.plan import EXEC_CYCLES
from opennpe.host.schedule import Item, Span

__all__ = ["Emitter", "Held"]

Words = NDArray[np.uint16]
PIECES, LEAST = 8, 72
"""Loads an input comes in by, so that the first rows can be used early, and lines of each at
least."""
WEIGHT_PARTS = 8
"""Loads that would fill the weight memory; a chunk of more comes in parts."""


@dataclass
class Held:
    """Where a job's weights and parameters are: outside, and in the memories when loaded."""

    steps: Any
    address: dict[tuple[int, ...], int] = field(default_factory=dict)
    parameters: int = 0
    loaded: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)


@dataclass
class Emitter:
    """Appends commands to a list; keeps the heads of the rings and what is where.

    Attributes:
        low: the network's jobs. room: where tensors live. image: the memory outside.
        addresses: byte address outside of tensors that have one.
        chunked: of tensors that were written some blocks at a time, how many.
        ready: of tensors that were written some rows at a time, the first of the last rows.
    """

    low: Lowered
    room: Room
    image: Image
    addresses: dict[str, int]
    items: list[Item] = field(default_factory=list)
    operand_head: int = 0
    weight_head: int = 0
    parameter_head: int = 0
    staging_head: int = 0
    last_span: int = 0
    chunked: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    layer: str = ""

    @property
    def spec(self) -> CoprocessorSpec:
        """The co-processor's."""
        return self.low.spec

    def layout(self, name: str) -> Layout:
        """A stored tensor's layout."""
        return layout(self.low.stored[name], self.spec.line_words)

    def add(self, op: str, values: dict[str, int], reads: list[Span], writes: list[Span]) -> None:
        """Append a command."""
        self.items.append(Item(op, values, reads, writes, self.layer))

    # -- load and store ------------------------------------------------------------------------
    def load(
        self, target: str, line: int, lines: int, address: int, widen: int = 0, factor: int = 1
    ) -> None:
        """Append a load of ``lines`` lines as they lie outside."""
        size = self.spec.line_bytes
        reads = [("outside", address // size, address // size + lines)]
        span: Span = (target, line, line + lines * factor)
        if target == "parameters":
            span = (target, line, line + lines // PARAMETER_LINES)
        if target == "table":
            span = (target, 0, 1)
        values = {
            "target": TARGETS.index(target),
            "widen": widen,
            "line": line % self.spec.memory.weight_lines if target == "weights" else line,
            "lines": lines,
            "address": address,
        }
        self.add("load", values, reads, [span])

    def store(self, line: int, lines: int, address: int) -> None:
        """Append a store."""
        size = self.spec.line_bytes
        writes = [("outside", address // size, address // size + lines)]
        values = {"line": line, "lines": lines, "address": address}
        self.add("store", values, [("buffer", line, line + lines)], writes)

    def stage(self, lines: int) -> int:
        """Buffer line of room for a tensor's lines on their way in or out."""
        room = self.room
        if lines > room.staging:
            raise CompileError(
                f"layer '{self.layer}': {lines} lines at a time do not fit {room.staging} of the "
                "buffer"
            )
        if self.staging_head + lines > room.staging:
            self.staging_head = 0
        first = self.spec.memory.buffer_lines - room.staging + self.staging_head
        self.staging_head += lines
        return first

    def stage_in(self, name: str, blocks: tuple[int, int], first: int, lines: int) -> int:
        """Load lines ``first`` on of some blocks of a streamed tensor, a block after the other."""
        shape = self.layout(name)
        line = self.stage((blocks[1] - blocks[0]) * lines)
        for block in range(blocks[0], min(blocks[1], shape.blocks)):
            skip = block * shape.block_lines + first
            address = self.addresses[name] + skip * self.spec.line_bytes
            self.load("buffer", line + (block - blocks[0]) * lines, lines, address)
        return line

    def bring(self, name: str) -> None:
        """Load a whole tensor from outside into its room."""
        shape, base = self.layout(name), self.room.base[name]
        self.layer = name
        piece = max(-(-shape.lines // PIECES), LEAST)
        for first in range(0, shape.lines, piece):
            lines = min(piece, shape.lines - first)
            address = self.addresses[name] + first * self.spec.line_bytes
            self.load("buffer", base + first, lines, address)

    # -- weights -------------------------------------------------------------------------------
    def prepare(self, job: Job, source: Layout, fold: int) -> Held:
        """A job's weights and parameters in the image."""
        if job.second is not None:
            tiles = weights.channel_tiles(job, self.spec.line_words, fold)
            held = Held(np.empty((tiles, job.weights.shape[1], 0, 0)))
        else:
            held = Held(weights.weight_steps(job, source, self.spec.line_words, fold))
        held.parameters = self.image.put(weights.parameter_lines(job, self.spec, fold))
        return held

    def weight_piece(
        self, job: Job, held: Held, tiles: tuple[int, int], steps: tuple[int, int]
    ) -> tuple[int, int]:
        """Load some weight lines of each of some channel tiles.

        Returns:
            Ring line of the first, and lines taken.
        """
        if job.second is not None:
            return self._tensor_lines(job, tiles, steps)
        key = (*tiles, *steps)
        codes = held.steps[slice(*tiles), slice(*steps)]
        words = weights.narrow_lines(job, codes.reshape(-1, *codes.shape[2:]))
        if key not in held.address:
            held.address[key] = self.image.put(words)
        factor = lanes.lanes(job.weight_format) // job.lanes
        return self.ring_lines(held.address[key], len(words), job.weight_widen, factor)

    def ring_lines(
        self, address: int, size: int, widen: int = 0, factor: int = 1
    ) -> tuple[int, int]:
        """Load lines from outside to where the weights' ring goes on; ring line, lines taken."""
        line, ring = self.weight_head, self.spec.memory.weight_lines
        self.weight_head += size * factor
        # Weights that overlap those in use come in parts: only the last part has to wait.
        piece = max(ring // factor // WEIGHT_PARTS, 1)
        for first in range(0, size, piece):
            count = min(piece, size - first)
            start = address + first * self.spec.line_bytes
            self.load("weights", line + first * factor, count, start, widen, factor)
        return line, size * factor

    def _tensor_lines(
        self, job: Job, tiles: tuple[int, int], steps: tuple[int, int]
    ) -> tuple[int, int]:
        """Load weights that are a tensor: a block a channel tile, a line a pixel."""
        assert job.second is not None
        shape, begin = self.layout(job.second.stored), self.weight_head
        count = steps[1] - steps[0]
        first = job.second.pixel + steps[0]
        runs = [(job.second.block + n) * shape.block_lines + first for n in range(*tiles)]
        if count == shape.block_lines:
            runs, count = runs[:1], count * len(runs)
        for line in runs:
            address = self.addresses[job.second.stored] + line * self.spec.line_bytes
            self.ring_lines(address, count)
        return begin, self.weight_head - begin

    def parameter_piece(self, held: Held, first: int, stop: int) -> int:
        """Load channel tiles' parameters; the tile they begin at."""
        address = held.parameters + first * PARAMETER_LINES * self.spec.line_bytes
        return self.parameter_tiles(address, stop - first)

    def parameter_tiles(self, address: int, count: int) -> int:
        """Load parameters of channel tiles from outside; the tile they begin at."""
        if self.parameter_head + count > self.spec.memory.parameter_tiles:
            self.parameter_head = 0
        tile = self.parameter_head
        self.parameter_head += count
        self.load("parameters", tile, count * PARAMETER_LINES, address)
        return tile

    def chunk(self, job: Job, held: Held, first: int, stop: int) -> tuple[int, int]:
        """Ring line and parameter tile of a chunk of channel tiles, loaded now."""
        line, _ = self.weight_piece(job, held, (first, stop), (0, held.steps.shape[1]))
        return line, self.parameter_piece(held, first, stop)

    def table(self, job: Task) -> None:
        """Load a job's activation table."""
        address = self.image.put(weights.table_lines(job, self.spec.line_words))
        self.load("table", 0, TABLE_LINES, address)

    def cycles(self, job: Job, fold: int) -> int:
        """Cycles of one sum."""
        taps = job.kernel[0] * job.kernel[1]
        if job.kind != "dense":
            return taps * job.taps * fold
        channels = int(job.weights.shape[1])
        full, rest = divmod(channels, job.lanes)
        return taps * (full * max(fold, job.lanes) + (max(fold, rest) if rest else 0))

    def sum_fields(self, job: Job, place: walk.Placement, taps: int) -> dict[str, int]:
        """Fields of the walk over one sum."""
        source = place.source
        values = {"kernel_y": job.kernel[0], "kernel_x": job.kernel[1]}
        if job.kind != "dense":
            values |= {"blocks": taps, "words": 1, "last_words": 1, "last_elements": 1}
            return values | {"channel_step": place.channel % walk.ADDRESS_WORDS}
        size = source.pixel_words * source.lanes
        last = job.weights.shape[1] - (place.first + place.blocks - 1) * size
        last = min(last, size)
        words = -(-last // job.lanes)
        return values | {
            "blocks": place.blocks,
            "words": size // job.lanes,
            "last_words": words,
            "last_elements": last - (words - 1) * job.lanes,
            "block_step": place.block % walk.ADDRESS_WORDS,
        }

    def finish(
        self,
        job: Job,
        values: dict[str, int],
        reads: list[Span],
        lines: tuple[int, int],
        chunk: tuple[int, int],
        where: tuple[int, int],
    ) -> None:
        """Append an exec, given its walk: formats, weights, results.

        Args:
            lines: first output line of a block and how many.
            chunk: channel tiles.
            where: weight ring line and parameter tile.
        """
        steps = weight_steps(job.kind, values, job.lanes)
        count = chunk[1] - chunk[0]
        fold = self.layout(job.output).fold
        values = {
            **values,
            "fold": fold.bit_length() - 1,
            "tiles": count,
            "weight_line": where[0] % self.spec.memory.weight_lines,
            "parameter": where[1],
        }
        reads = [
            *reads,
            ("weights", where[0], where[0] + count * steps),
            ("parameters", where[1], where[1] + count),
        ]
        tiles = -(-lines[1] // self.spec.array.rows) * count
        self.results(job, values, reads, lines, chunk, tiles * self.cycles(job, fold))

    def results(
        self,
        job: Task,
        values: dict[str, int],
        reads: list[Span],
        lines: tuple[int, int],
        chunk: tuple[int, int],
        cycles: int,
    ) -> None:
        """Append an exec, given all but its formats and where its results go.

        Args:
            lines: first output line of a block and how many.
            chunk: channel tiles.
            cycles: what it takes, roughly, beside its begin and end.
        """
        out = self.layout(job.output)
        streamed = job.output in self.room.streamed
        step = lines[1] if streamed else out.block_lines
        count = chunk[1] - chunk[0]
        more, ratio = job.lanes // out.lanes, out.lanes // job.lanes
        first_block = job.channel // (out.pixel_words * out.lanes)
        out_tile = step * max(more, 1)
        first_block += chunk[0] * max(more, 1) // max(ratio, 1)
        blocks = -(-count // ratio) if ratio > 1 else count * max(more, 1)
        if streamed:
            out_line = self.stage(blocks * step)
        else:
            out_line = self.room.base[job.output] + lines[0] + first_block * step
        values = {
            **values,
            "lines": lines[1],
            "out_line": out_line,
            "out_tile": out_tile,
            "out_block": step if more > 1 else 0,
        }
        writes: list[Span] = [
            ("buffer", out_line + b * step, out_line + b * step + lines[1]) for b in range(blocks)
        ]
        self.execute(job, values, reads, writes, cycles)
        if streamed:
            for b in range(min(blocks, out.blocks - first_block)):
                skip = (first_block + b) * out.block_lines + lines[0]
                address = self.addresses[job.output] + skip * self.spec.line_bytes
                self.store(out_line + b * step, lines[1], address)

    def execute(
        self,
        job: Task,
        values: dict[str, int],
        reads: list[Span],
        writes: list[Span],
        cycles: int,
    ) -> None:
        """Append an exec: its kind, formats, bounds and table are the job's."""
        names = self.spec.mac.formats
        values = {
            **values,
            "kind": KINDS.index(job.kind),
            "mode_a": names.index(job.mode_a),
            "mode_b": names.index(job.mode_b),
            "out": names.index(job.out),
            "table": int(job.table is not None),
        }
        if job.clamp is not None:
            values |= {"clamp": 1, "low": job.clamp[0], "high": job.clamp[1]}
        if job.table is not None:
            reads = [*reads, ("table", 0, 1)]
        self.add("exec", {k: v for k, v in values.items() if v}, reads, writes)
        self.items[-1].cycles = cycles + EXEC_CYCLES

    def rows(self, job: Job, place: walk.Placement, head: int, first: int, stop: int) -> None:
        """Fill units of a job's input; ``head`` is the operand line of unit 0."""
        name, source = job.inputs[0], place.source
        step, line = source.block_lines, 1 if place.order == "lines" else source.width
        if name not in self.room.streamed:
            base = self.room.base[name] + place.first * step
            self._rows(job, place, head, (first, stop), base, step, 0)
            return
        most = max(self.room.staging // 4 // (place.blocks * line), 1)
        blocks = place.first, place.first + place.blocks
        for unit in range(first, stop, most):
            end = min(unit + most, stop)
            base = self.stage_in(name, blocks, unit * line, (end - unit) * line)
            self._rows(job, place, head, (unit, end), base, (end - unit) * line, unit)

    def _rows(
        self,
        job: Job,
        place: walk.Placement,
        head: int,
        units: tuple[int, int],
        base: int,
        step: int,
        start: int,
    ) -> None:
        """Fill units that lie in the buffer from line ``base`` on, blocks ``step`` lines apart."""
        for unit, fields in place.fills(*units, base, step, start):
            count = (fields["outer"] - 1) * fields.get("outer_stride", 0) + fields["run"]
            line = head + unit * place.unit_lines
            self.fill(job, job.inputs[0], fields, line, place.factor, (place.blocks, count), step)

    def fill(
        self,
        job: Task,
        name: str,
        fields: dict[str, int],
        line: int,
        factor: int,
        span: tuple[int, int],
        step: int,
    ) -> None:
        """Append a fill that reads ``span``: blocks, ``step`` lines apart, and lines of each."""
        memory = self.spec.memory
        total = fields["run"] * fields["inner"] * fields["outer"] * factor
        first = fields["source"]
        reads: list[Span] = [
            ("buffer", first + b * step, first + b * step + span[1]) for b in range(span[0])
        ]
        values = {
            **fields,
            "widen": job.widen(self.low.stored[name]),
            "line": line % memory.operand_lines,
        }
        writes: list[Span] = [("operands", line, line + total)]
        self.add("fill", {k: v for k, v in values.items() if v}, reads, writes)
