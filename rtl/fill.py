"""The fill unit: lines of the buffer into every row's operand memory, widened on the way."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import WIDEN
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import CAUSE_BITS, command_layout
from opennpe.rtl.hierarchy import place
from opennpe.rtl.widen import Widen, last_part

__all__ = ["Fill"]


class Fill(wiring.Component):
    """Copies stretches of the buffer to the operand memories.

    Timing: a command taken in cycle t has its first line read in t + 1, and a line every f cycles
    from then on, f being what widening multiplies lines by. A line read in cycle u is written in
    u + 1 (part 0) to u + f. ``completed`` comes with the last write. The next command may be taken
    in the cycle after the last line's read has lasted f cycles. While a command runs the buffer's
    read port is its own.

    Attributes:
        commands: In, stream.
        active: Out, the buffer's read port is taken. read_line, read_enable: Out; the line is at
            ``data`` (In) in the next cycle and stays.
        write_enable, write_line, write_data: Out, to all operand memories.
        completed: Out, a pulse. busy: Out. cause: Out, sticky until ``clear``.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "commands": In(stream.Signature(command_layout("fill"))),
                "clear": In(1),
                "active": Out(1),
                "read_enable": Out(1),
                "read_line": Out(20),
                "data": In(bits),
                "write_enable": Out(1),
                "write_line": Out(ceil_log2(spec.memory.operand_lines)),
                "write_data": Out(bits),
                "completed": Out(1),
                "busy": Out(1),
                "cause": Out(CAUSE_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        given = self.commands.payload
        command = Signal(command_layout("fill"), reset_less=True)
        widen = Widen(self.spec)
        place(m, platform, "widen", widen)
        running = Signal()
        part = Signal(2)
        run, inner, outer = Signal(16), Signal(12), Signal(12)
        line, stretch, group = Signal(20), Signal(20), Signal(20)
        target = Signal(len(self.write_line))
        writing, write_part, ending = Signal(), Signal(2), Signal()
        bad = Signal()
        part_last, last = Signal(), Signal()
        m.d.comb += [
            self.commands.ready.eq(~running),
            self.active.eq(running),
            self.read_line.eq(line),
            self.read_enable.eq(running & (part == 0)),
            part_last.eq(part == last_part(command.widen)),
            last.eq((run == 1) & (inner == 1) & (outer == 1)),
            bad.eq(running & (line >= self.spec.memory.buffer_lines)),
            widen.line.eq(self.data),
            widen.widen.eq(command.widen),
            widen.part.eq(write_part),
            self.write_data.eq(widen.wide),
            self.write_line.eq(target),
            self.write_enable.eq(writing),
            self.completed.eq(writing & ending),
            self.busy.eq(running | writing),
        ]
        m.d.sync += [
            writing.eq(running & ~bad),
            write_part.eq(part),
            ending.eq(last & part_last),
        ]
        with m.If(writing):
            m.d.sync += target.eq(target + 1)
        with m.If(running):
            m.d.sync += part.eq(Mux(part_last, 0, part + 1))
        with m.If(running & part_last):
            self._next_line(m, command, (run, inner, outer), (line, stretch, group))
            with m.If(last):
                m.d.sync += running.eq(0)
        with m.If(bad):
            m.d.sync += [running.eq(0), self.cause.eq(CAUSES.index("a line outside a memory"))]
        nothing = ~given.run.any() | ~given.inner.any() | ~given.outer.any()
        with m.If(self.commands.valid & self.commands.ready):
            m.d.sync += [
                command.eq(given),
                part.eq(0),
                run.eq(given.run),
                inner.eq(given.inner),
                outer.eq(given.outer),
                line.eq(given.source),
                stretch.eq(given.source),
                group.eq(given.source),
                target.eq(given.line),
                running.eq(1),
            ]
            with m.If(nothing | (given.widen >= len(WIDEN))):
                m.d.sync += [running.eq(0), self.cause.eq(CAUSES.index("an illegal command"))]
        with m.If(self.clear):
            m.d.sync += [running.eq(0), writing.eq(0), self.cause.eq(0)]
        return m

    def _next_line(
        self, m: Module, command: Any, counts: tuple[Signal, ...], lines: tuple[Signal, ...]
    ) -> None:
        """The line after this one: of the run, of the next stretch, of the next group."""
        run, inner, outer = counts
        line, stretch, group = lines
        beside = stretch + command.inner_stride
        beyond = group + command.outer_stride
        with m.If(run != 1):
            m.d.sync += [run.eq(run - 1), line.eq(line + 1)]
        with m.Elif(inner != 1):
            m.d.sync += [run.eq(command.run), inner.eq(inner - 1)]
            m.d.sync += [line.eq(beside), stretch.eq(beside)]
        with m.Else():
            m.d.sync += [run.eq(command.run), inner.eq(command.inner), outer.eq(outer - 1)]
            m.d.sync += [line.eq(beyond), stretch.eq(beyond), group.eq(beyond)]
