"""The store unit: lines of the buffer to the memory outside, by bursts."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from opennpe.golden.spec import STORE_LINES, CoprocessorSpec
from opennpe.rtl import axi

__all__ = ["Store", "store_signature"]

ILLEGAL = "an illegal command"
BEYOND = "a line outside a memory"
OUTSIDE = "a write outside the write window"


def store_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """Ports of the unit: see :class:`Store`."""
    return wiring.Signature(
        {
            "commands": In(stream.Signature(axi.command_layout("store"))),
            "reads": Out(stream.Signature(axi.LINE_BITS)),
            "data": In(8 * spec.line_bytes),
            "bus": Out(axi.write_signature(spec)),
            "write_base": In(axi.ADDRESS_BITS),
            "write_limit": In(axi.ADDRESS_BITS),
            "halt": In(1),
            "clear": In(1),
            "done": Out(1),
            "busy": Out(1),
            "beat": Out(1),
            "cause": Out(axi.CAUSE_BITS),
        }
    )


class Store(wiring.Component):
    """Runs store commands, one at a time: reads lines of the buffer, writes them in bursts.

    One of five states; AW is a register, ``bready`` is always 1.

    - IDLE: ``commands.ready`` is 1 unless stopped. A command handed over in cycle ``t`` is in
    - CHECK in ``t + 1``: a bad one sets ``cause`` (seen in ``t + 2``) and is dropped. The whole
      range is checked before the first burst.
    - ADDRESS from ``t + 2``. In a cycle in which nothing is offered on AW and fewer than
      ``bursts_in_flight`` bursts are unanswered, the next burst enters AW, and is offered from
      the cycle after. With its handshake the state becomes, in the next cycle,
    - DATA: ``wvalid`` is 1 when a line is there. If the burst's last beat is taken in cycle ``u``,
      the state in ``u + 1`` is ADDRESS, and if fewer than ``bursts_in_flight`` bursts are
      unanswered in ``u`` the next burst has entered AW, so that it is offered in ``u + 1``;
      after the command's last burst the state is
    - ANSWERS: in the first cycle in which no burst is unanswered ``done`` is 1; IDLE in the next.

    A burst is unanswered from the cycle in which it is first offered to that of its B handshake,
    both included. Bursts end at multiples of the longest length (``spec.burst_beats``).

    ``reads.valid`` is 1 in ADDRESS and DATA while lines of the command are not asked for and fewer
    than `STORE_LINES` are claimed: a line is claimed from the cycle after its ``reads`` handshake
    to that in which its last beat is taken, both included. ``data`` is taken in the cycle after
    the handshake, and its first beat may be offered in the cycle after that.

    So with ``reads.ready`` and ``awready`` at 1 the first read is in ``t + 2``, AW in ``t + 3``,
    the first beat in ``t + 4``. Throughput: a beat a cycle within a burst, one cycle between
    bursts.

    **Stopped** is the unit while ``halt`` or ``cause`` is not 0. It takes no command and offers no
    further burst; one that is offered goes on to its last beat, then the state is ANSWERS; ``done``
    comes only if the command was complete. ``reads.valid`` may fall without a handshake then.
    ``busy`` falls when all is over. ``halt`` once raised has to stay until ``clear``, and
    ``clear`` may only come while not busy.

    Attributes:
        commands: In, ``axi.command_layout("store")``; its waits are over.
        reads: Out, lines of the buffer to read.
        data: In, a line, in the cycle after the handshake of its read.
        bus: Out, AW, W and B.
        write_base: In, static: lowest address that may be written.
        write_limit: In, static: the address after the last.
        halt: In, stop.
        clear: In, return to the state after reset.
        done: Out, a command is complete: the memory outside has answered for all of it.
        busy: Out, a command is held or a burst unanswered.
        beat: Out, a beat is taken.
        cause: Out, index into ``golden.registers.CAUSES``, kept until ``clear``. Of one command:
            an illegal command before a write outside the window before a line outside the buffer.

    Raises:
        SpecError: a spec that the co-processor has no gates for.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        spec.check_coprocessor()
        self.spec = spec
        # Also for proofs: what is not asked for, what is not yet written, the states.
        self.burst = axi.Burst(spec)
        beats = axi.LINE_BITS + exact_log2(spec.beats_per_line)
        self.beat_number, self.last_number = Signal(beats), Signal(beats)
        self.in_burst = Signal(range(spec.burst_beats))
        self.unanswered = Signal(range(spec.memory.bursts_in_flight + 1))
        self.addressing, self.moving = Signal(), Signal()
        self.lines = SyncFIFO(width=8 * spec.line_bytes, depth=STORE_LINES)
        super().__init__(store_signature(spec))

    def elaborate(self, platform: Any) -> Any:
        m = Module()
        bus, most = self.bus, self.spec.memory.bursts_in_flight
        stop, idle, begins, asks, moving = Signal(), Signal(), Signal(), Signal(), self.moving
        command = Signal(axi.command_layout("store"), reset_less=True)
        burst, unanswered, complete = self.burst, self.unanswered, Signal()
        burst.hold(m, bus, "aw")
        self._read_ahead(m, command, idle, begins)
        ends = self._beats(m, command, begins)
        may_ask = ~stop & (unanswered < most)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [idle.eq(1), self.commands.ready.eq(~stop)]
                with m.If(self.commands.valid & self.commands.ready):
                    m.d.sync += command.eq(self.commands.payload)
                    m.next = "CHECK"
            with m.State("CHECK"):
                fault = self._fault(command)
                m.d.comb += begins.eq(1)
                burst.begin(m, command)
                m.d.sync += [complete.eq(0), self.cause.eq(Mux(stop, self.cause, fault))]
                m.next = "ADDRESS"
                with m.If(stop | fault.any()):
                    m.next = "IDLE"
            with m.State("ADDRESS"):
                m.d.comb += [moving.eq(1), self.addressing.eq(1)]
                m.d.comb += asks.eq(~bus.awvalid & may_ask)
                with m.If(bus.awvalid & bus.awready):
                    m.d.sync += bus.awvalid.eq(0)
                    m.next = "DATA"
                with m.Elif(~bus.awvalid & stop):
                    m.next = "ANSWERS"
            with m.State("DATA"):
                m.d.comb += [moving.eq(1), bus.wvalid.eq(self.lines.r_rdy)]
                with m.If(self.beat & bus.wlast):
                    m.d.comb += asks.eq(~ends & may_ask)
                    m.d.sync += complete.eq(ends)
                    m.next = "ADDRESS"
                    with m.If(ends | stop):
                        m.next = "ANSWERS"
            with m.State("ANSWERS"), m.If(~unanswered.any()):
                m.d.comb += self.done.eq(complete & ~self.cause.any())
                m.next = "IDLE"
        with m.If(asks):
            burst.ask(m, bus, "aw")
        m.d.comb += [
            stop.eq(self.halt | self.cause.any()),
            self.busy.eq(~idle),
            self.beat.eq(bus.wvalid & bus.wready),
            bus.wstrb.eq(-1),
            bus.bready.eq(1),
        ]
        m.d.sync += unanswered.eq(unanswered + asks - bus.bvalid)
        with m.If(bus.bvalid & (bus.bresp != axi.OKAY) & ~self.cause.any()):
            m.d.sync += self.cause.eq(axi.CAUSE["an error response to a write"])
        return ResetInserter(self.clear)(m)

    def _fault(self, command: Any) -> Value:
        """What is wrong with a command, as an index into ``CAUSES``."""
        return axi.first_cause(
            (~command.lines.any() | axi.misaligned(self.spec, command.address), ILLEGAL),
            (axi.outside(self.spec, command, self.write_base, self.write_limit), OUTSIDE),
            (command.line + command.lines > self.spec.memory.buffer_lines, BEYOND),
        )

    def _read_ahead(self, m: Module, command: Any, idle: Signal, begins: Signal) -> None:
        """Lines of the buffer enter the queue."""
        lines = self.lines
        line, left = Signal(axi.LINE_BITS), Signal(axi.LINE_BITS)
        claimed, arrives, asked = Signal(range(STORE_LINES + 1)), Signal(), Signal()
        m.submodules.lines = ResetInserter(idle)(lines)
        m.d.comb += [
            self.reads.valid.eq(self.moving & left.any() & (claimed < STORE_LINES)),
            self.reads.payload.eq(line),
            asked.eq(self.reads.valid & self.reads.ready),
            lines.w_data.eq(self.data),
            lines.w_en.eq(arrives),
        ]
        m.d.sync += [arrives.eq(asked), claimed.eq(claimed + asked - lines.r_en)]
        with m.If(asked):
            m.d.sync += [line.eq(line + 1), left.eq(left - 1)]
        with m.If(begins):
            m.d.sync += [line.eq(command.line), left.eq(command.lines), claimed.eq(0)]

    def _beats(self, m: Module, command: Any, begins: Signal) -> Value:
        """W shows the beats of the lines in turn; whether this one is the command's last."""
        bus, lines, beats = self.bus, self.lines, self.spec.beats_per_line
        longest, skip = self.spec.burst_beats, exact_log2(len(bus.wdata) // 8)
        beat, last, in_burst = self.beat_number, self.last_number, self.in_burst
        in_line = beat[: exact_log2(beats)]
        ends = beat == last
        m.d.comb += [
            bus.wdata.eq(lines.r_data.word_select(in_line, len(bus.wdata))),
            bus.wlast.eq(ends | (in_burst == longest - 1)),
            lines.r_en.eq(self.beat & (in_line == beats - 1)),
        ]
        with m.If(self.beat):
            m.d.sync += [beat.eq(beat + 1), in_burst.eq(in_burst + 1)]
        with m.If(begins):
            m.d.sync += [
                beat.eq(0),
                last.eq((command.lines << exact_log2(beats)) - 1),
                in_burst.eq(command.address >> skip),
            ]
        return ends
