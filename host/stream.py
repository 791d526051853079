"""A job's input rows on their way into the operand memories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opennpe.host import walk
from opennpe.host.jobs import Job
from opennpe.host.plan import input_rows
from opennpe.host.schedule import Span

if TYPE_CHECKING:
    from opennpe.host.emit import Emitter

__all__ = ["Stream"]


class Stream:
    """Rows of a job's input, appended to the operand memories as bands need them."""

    def __init__(self, emitter: Emitter, job: Job, place: walk.Placement) -> None:
        self.emitter, self.job, self.place = emitter, job, place
        self.done: int | None = None
        self.head = 0  # operand line where unit 0 lies, or would lie

    def units(self, band: tuple[int, int]) -> tuple[int, int]:
        """Units that a band reads."""
        rows = input_rows(self.job, self.place.source.height, band)
        return self.place.units(*rows) if rows[1] > rows[0] else (0, 0)

    def span(self, band: tuple[int, int]) -> Span:
        """Operand lines that a band reads."""
        out = self.emitter.layout(self.job.output)
        first, stop = self.units(band)
        if (band[1] - band[0]) * out.width % out.fold:
            # The last line's spare pixels read where the next output row would.
            stop = max(stop, self.units((band[0], band[1] + 1))[1])
        size = self.place.unit_lines
        return ("operands", self.head + first * size, self.head + stop * size)

    def need(self, band: tuple[int, int]) -> None:
        """Fill what a band reads and is not there yet."""
        first, stop = self.units(band)
        if stop == first:
            return
        emitter, place = self.emitter, self.place
        if self.done is None:
            self.head = emitter.operand_head - first * place.unit_lines
            self.done = first
        elif first > self.done:
            # Rows that no band reads are left out; what follows keeps its place.
            self.done = first
        ready = place.units(0, emitter.ready.get(self.job.inputs[0], 0))[1]
        if self.done < ready < stop:
            # What the last exec of the layer before writes is filled by itself.
            emitter.rows(self.job, place, self.head, self.done, ready)
            self.done = ready
        emitter.rows(self.job, place, self.head, self.done, stop)
        self.done = max(self.done, stop)
        emitter.operand_head = self.head + self.done * place.unit_lines
