"""The load unit: lines from the memory outside into the memories inside, by bursts."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from opennpe.golden.commands import FIELDS, PARAMETER_LINES, TABLE_LINES, TARGETS, WIDEN, WIDENED
from opennpe.golden.spec import LOAD_QUEUE, UNIT_BYTES, CoprocessorSpec
from opennpe.rtl import axi
from opennpe.rtl.hierarchy import place
from opennpe.rtl.parameters import LANE_BITS
from opennpe.rtl.widen import PART_BITS, WIDEN_BITS, Widen, doublings, last_part

__all__ = ["Load", "load_signature", "write_layout"]

TARGET_BITS = dict(FIELDS["load"])["target"]

TRANSFER = data.StructLayout(
    {
        "target": TARGET_BITS,
        "widen": WIDEN_BITS,
        "line": axi.LINE_BITS,
        "last": axi.LINE_BITS,  # index of the last line read
    }
)
"""What is left of a command when its bursts are asked for."""


def write_layout(spec: CoprocessorSpec) -> data.StructLayout:
    """A line on its way into a memory; fields from bit 0 up.

    ``target``: index into ``golden.commands.TARGETS``. ``line``: where, in lines; for parameters
    the channel tile. ``lane``: of a channel tile's lines the one written, 0 elsewhere.
    """
    return data.StructLayout(
        {
            "target": TARGET_BITS,
            "line": axi.LINE_BITS,
            "lane": LANE_BITS,
            "data": 8 * spec.line_bytes,
        }
    )


def _channels(spec: CoprocessorSpec, address: bool) -> wiring.Signature:
    """AR alone, or R alone."""
    members = axi.read_signature(spec).members
    return wiring.Signature({n: f for n, f in members.items() if n.startswith("ar") == address})


def load_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """Ports of the unit: see :class:`Load`."""
    return wiring.Signature(
        {
            "commands": In(stream.Signature(axi.command_layout("load"))),
            "bus": Out(axi.read_signature(spec)),
            "writes": Out(stream.Signature(write_layout(spec))),
            "read_base": In(axi.ADDRESS_BITS),
            "read_limit": In(axi.ADDRESS_BITS),
            "halt": In(1),
            "clear": In(1),
            "done": Out(1),
            "busy": Out(1),
            "beat": Out(1),
            "cause": Out(axi.CAUSE_BITS),
        }
    )


class Ask(wiring.Component):
    """The front end: checks commands, and turns each into bursts asked for on AR.

    Cycles: see :class:`Load`.

    Attributes:
        commands: In.
        transfers: Out, what the back end needs of each good command.
        bus: Out, AR.
        finished: In, a burst's last beat is taken.
        cause: Out, what is wrong with the command in CHECK; 0: nothing, or there is none.
        busy: Out, a command is held or a burst is asked for.
        burst, asking, asked: registers and the state ASK, for proofs.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        self.burst = axi.Burst(spec)
        self.asking = Signal()
        self.asked = Signal(range(spec.memory.bursts_in_flight + 1))
        super().__init__(
            {
                "commands": In(stream.Signature(axi.command_layout("load"))),
                "transfers": Out(stream.Signature(TRANSFER)),
                "bus": Out(_channels(spec, address=True)),
                "read_base": In(axi.ADDRESS_BITS),
                "read_limit": In(axi.ADDRESS_BITS),
                "stop": In(1),
                "finished": In(1),
                "cause": Out(axi.CAUSE_BITS),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus = self.bus
        asked, most = self.asked, self.spec.memory.bursts_in_flight
        asks = Signal()
        command = Signal(axi.command_layout("load"), reset_less=True)
        burst = self.burst
        burst.hold(m, bus, "ar")
        transfer = self.transfers.payload
        m.d.comb += [
            transfer.target.eq(command.target),
            transfer.widen.eq(command.widen),
            transfer.line.eq(command.line),
            transfer.last.eq(command.lines - 1),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.commands.ready.eq(~self.stop)
                with m.If(self.commands.valid & self.commands.ready):
                    m.d.sync += command.eq(self.commands.payload)
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [
                    self.cause.eq(self._fault(m, command)),
                    self.transfers.valid.eq(~self.cause.any()),
                ]
                burst.begin(m, command)
                with m.If(self.stop | self.cause.any()):
                    m.next = "IDLE"
                with m.Elif(self.transfers.ready):
                    m.next = "ASK"
            with m.State("ASK"):
                free = ~bus.arvalid | bus.arready
                m.d.comb += [self.asking.eq(1), asks.eq(free & (asked < most) & ~self.stop)]
                with m.If(self.stop | (asks & burst.last)):
                    m.next = "IDLE"
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE") | asked.any())
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(asks):
            burst.ask(m, bus, "ar")
        m.d.sync += asked.eq(asked + asks - self.finished)
        return m

    def _fault(self, m: Module, command: Any) -> Value:
        """What is wrong with a command, as an index into ``CAUSES``."""
        spec, rings = self.spec, _rings(self.spec)
        line, lines, target = command.line, command.lines, command.target
        takes_codes = target.matches(*map(TARGETS.index, WIDENED))
        in_tiles = target == TARGETS.index("parameters")
        illegal = (
            (target >= len(TARGETS))
            | (command.widen >= len(WIDEN))
            | (command.widen.any() & ~takes_codes)
            | (in_tiles & ~_whole_tiles(lines))
            | ~lines.any()
            | axi.misaligned(spec, command.address)
        )
        written = lines << doublings(command.widen)
        beyond = Signal()
        with m.Switch(target):
            for name, there_are in rings.items():
                with m.Case(TARGETS.index(name)):
                    m.d.comb += beyond.eq((line >= there_are) | (written > there_are))
            for name, there_are in (("buffer", spec.memory.buffer_lines), ("table", TABLE_LINES)):
                with m.Case(TARGETS.index(name)):
                    m.d.comb += beyond.eq(line + written > there_are)
            with m.Case(TARGETS.index("parameters")):
                there_are = spec.memory.parameter_tiles * PARAMETER_LINES
                m.d.comb += beyond.eq(line * PARAMETER_LINES + lines > there_are)
        window = axi.outside(spec, command, self.read_base, self.read_limit)
        return axi.first_cause(
            (illegal, "an illegal command"),
            (window, "a read outside the read window"),
            (beyond, "a line outside a memory"),
        )


def _rings(spec: CoprocessorSpec) -> dict[str, int]:
    """Lines of the targets that are rings, powers of two."""
    commands = spec.memory.command_units * UNIT_BYTES // spec.line_bytes
    return {"weights": spec.memory.weight_lines, "commands": commands}


def _whole_tiles(lines: Value) -> Value:
    """Whether lines are a multiple of a channel tile's 12: of 4, and of 3 in what is left."""
    digits = [lines[at : at + 2] for at in range(2, len(lines), 2)]
    # 4 is 1 modulo 3, so digits to the base 4 may be added up.
    total = sum(digits[1:], digits[0])
    threes = range(0, 3 * len(digits) + 1, 3)
    return ~lines[:2].any() & total.matches(*threes)


class Assemble(wiring.Component):
    """The back end: beats become lines, lines are widened and handed over.

    Cycles: see :class:`Load`.

    Attributes:
        transfers: In, commands asked for, in order.
        bus: Out, R.
        writes: Out, lines.
        stop: In, discard beats.
        done: Out, a command's last line is taken.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "transfers": In(stream.Signature(TRANSFER)),
                "bus": Out(_channels(spec, address=False)),
                "writes": Out(stream.Signature(write_layout(spec))),
                "stop": In(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        complete, free = Signal(), Signal()
        line = self._gather(m, complete, free)
        where, ends = self._place(m, complete)
        self._hand_over(m, platform, complete, free, line, where, ends)
        return m

    def _gather(self, m: Module, complete: Signal, free: Signal) -> Value:
        """Takes beats; the line, valid in the cycle in which its last beat is ``complete``."""
        bus = self.bus
        bits, beats = len(bus.rdata), self.spec.beats_per_line
        beat = Signal(range(beats))
        before = Signal(bits * (beats - 1), reset_less=True)
        line = Cat(before, bus.rdata)
        last = beat == beats - 1 if beats > 1 else Const(1)
        taken = Signal()
        m.d.comb += [
            bus.rready.eq(self.stop | (self.transfers.valid & (~last | free))),
            taken.eq(bus.rvalid & bus.rready & ~self.stop & (bus.rresp == axi.OKAY)),
            complete.eq(taken & last),
        ]
        with m.If(taken):
            m.d.sync += [before.eq(line[bits:]), beat.eq(beat + 1)]
        return line

    def _place(self, m: Module, complete: Signal) -> tuple[dict[str, Value], Value]:
        """Where the line being gathered goes, and whether it is the command's last."""
        transfer = self.transfers.payload
        index, line, lane = Signal(axi.LINE_BITS), Signal(axi.LINE_BITS), Signal(LANE_BITS)
        in_tiles = transfer.target == TARGETS.index("parameters")
        ends = index == transfer.last
        m.d.comb += self.transfers.ready.eq(complete & ends)
        with m.If(complete & ends):
            m.d.sync += [index.eq(0), line.eq(0), lane.eq(0)]
        with m.Elif(complete):
            m.d.sync += index.eq(index + 1)
            with m.If(in_tiles & (lane != PARAMETER_LINES - 1)):
                m.d.sync += lane.eq(lane + 1)
            with m.Else():
                m.d.sync += [line.eq(line + (1 << doublings(transfer.widen))), lane.eq(0)]
        return {"target": transfer.target, "line": transfer.line + line, "lane": lane}, ends

    def _hand_over(
        self,
        m: Module,
        platform: Any,
        complete: Signal,
        free: Signal,
        line: Value,
        where: dict[str, Value],
        ends: Value,
    ) -> None:
        """Offers the parts of the last line gathered."""
        writes = self.writes
        w_line = Signal(8 * self.spec.line_bytes, reset_less=True)
        w_widen = Signal(WIDEN_BITS, reset_less=True)
        w_where = Signal(
            data.StructLayout({"target": TARGET_BITS, "line": axi.LINE_BITS, "lane": LANE_BITS}),
            reset_less=True,
        )
        w_part, w_ends = Signal(PART_BITS), Signal(reset_less=True)
        widen = Widen(self.spec)
        place(m, platform, "widen", widen)
        m.d.comb += [
            widen.line.eq(w_line),
            widen.widen.eq(w_widen),
            widen.part.eq(w_part),
            writes.payload.target.eq(w_where.target),
            writes.payload.line.eq(w_where.line),
            writes.payload.lane.eq(w_where.lane),
            writes.payload.data.eq(widen.wide),
            free.eq(~writes.valid | (writes.ready & (w_part == last_part(w_widen)))),
            self.done.eq(writes.valid & free & w_ends),
        ]
        for name, there_are in _rings(self.spec).items():
            with m.If(w_where.target == TARGETS.index(name)):
                m.d.comb += writes.payload.line.eq(w_where.line & (there_are - 1))
        with m.If(complete):
            m.d.sync += [
                writes.valid.eq(1),
                w_line.eq(line),
                w_widen.eq(self.transfers.payload.widen),
                w_where.target.eq(where["target"]),
                w_where.line.eq(where["line"]),
                w_where.lane.eq(where["lane"]),
                w_part.eq(0),
                w_ends.eq(ends),
            ]
        with m.Elif(free):
            m.d.sync += writes.valid.eq(0)
        with m.Elif(writes.ready):
            m.d.sync += [w_part.eq(w_part + 1), w_where.line.eq(w_where.line + 1)]


class Load(wiring.Component):
    """Runs load commands: asks for bursts ahead, puts lines together, widens and hands them over.

    **Front end** (:class:`Ask`), in one of three states; AR is a register.

    - IDLE: ``commands.ready`` is 1 unless stopped. A command handed over in cycle ``t`` is in
    - CHECK in ``t + 1``: a bad one sets ``cause`` (seen in ``t + 2``) and is dropped; a good one
      enters the queue of `LOAD_QUEUE` commands, waiting in CHECK while that is full.
    - ASK from ``t + 2``: in every cycle in which AR is free (``arvalid`` 0 or ``arready`` 1) and
      fewer than ``bursts_in_flight`` bursts are asked for, the next burst enters AR and is
      offered from the cycle after. A burst counts as asked for from the cycle in which it is
      first offered to that in which its last beat is taken, both included. In the cycle after
      that in which the command's last burst enters AR the state is IDLE.

    So a command's first burst is offered in ``t + 3`` at the earliest, and ``n`` bursts keep the
    front end for ``n + 2`` cycles. Bursts end at multiples of the longest length
    (``spec.burst_beats``): all but the first and the last of a command have that length.

    **Back end** (:class:`Assemble`). ``rready`` is 1 while the queue holds a command, but for the
    last beat of a line only if the line before does not wait: nothing is offered on ``writes``, or
    its last part is taken in this cycle. A line whose last beat is taken in cycle ``u`` is offered
    from ``u + 1``; widened by ``f`` it is offered ``f`` times, the next part in the cycle after
    one is taken. A command leaves the queue with its last beat, so a queue that was full has room
    in ``u + 1``; one that enters in ``t + 1`` is seen by the back end in ``t + 2``. ``done`` is 1
    in the cycle in which the last part of a command's last line is taken.

    Throughput: a beat a cycle, across bursts and commands, while the front end is ahead.

    **Stopped** is the unit while ``halt`` or ``cause`` is not 0. It takes no command and asks for
    nothing more; a burst being offered stays offered; the queue is emptied, beats are taken and
    discarded (``rready`` is 1), a line being offered stays so. ``busy`` falls when all is over.
    ``halt`` once raised has to stay until ``clear``, and ``clear`` may only come while not busy.

    Attributes:
        commands: In, ``axi.command_layout("load")``; its waits are over.
        bus: Out, AR and R.
        writes: Out, ``write_layout``: lines, widened.
        read_base: In, static: lowest address that may be read.
        read_limit: In, static: the address after the last.
        halt: In, stop.
        clear: In, return to the state after reset.
        done: Out, a command is complete.
        busy: Out, a command is held, a burst is asked for or a line is offered.
        beat: Out, a beat is taken.
        cause: Out, index into ``golden.registers.CAUSES``, kept until ``clear``. Of one command:
            an illegal command before a read outside the window before a line outside a memory;
            an error response goes before what is found in the same cycle.

    Raises:
        SpecError: a spec that the co-processor has no gates for.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        spec.check_coprocessor()
        self.spec = spec
        self.ask = Ask(spec)
        super().__init__(load_signature(spec))

    def elaborate(self, platform: Any) -> Any:
        m = Module()
        bus = self.bus
        stop = Signal()
        m.submodules.ask = ask = self.ask
        m.submodules.assemble = assemble = Assemble(self.spec)
        fifo = SyncFIFO(width=data.StructLayout.cast(TRANSFER).size, depth=LOAD_QUEUE)
        m.submodules.queue = ResetInserter(stop)(fifo)
        wiring.connect(m, wiring.flipped(self.commands), ask.commands)
        wiring.connect(m, assemble.writes, wiring.flipped(self.writes))
        for name, member in self.bus.signature.members.items():
            unit = ask if name.startswith("ar") else assemble
            mine, its = getattr(bus, name), getattr(unit.bus, name)
            m.d.comb += mine.eq(its) if member.flow is Out else its.eq(mine)
        m.d.comb += [
            stop.eq(self.halt | self.cause.any()),
            ask.stop.eq(stop),
            ask.read_base.eq(self.read_base),
            ask.read_limit.eq(self.read_limit),
            ask.finished.eq(self.beat & bus.rlast),
            fifo.w_en.eq(ask.transfers.valid),
            fifo.w_data.eq(ask.transfers.payload),
            ask.transfers.ready.eq(fifo.w_rdy),
            assemble.transfers.valid.eq(fifo.r_rdy),
            assemble.transfers.payload.eq(fifo.r_data),
            fifo.r_en.eq(assemble.transfers.ready),
            assemble.stop.eq(stop),
            self.beat.eq(bus.rvalid & bus.rready),
            self.done.eq(assemble.done),
            self.busy.eq(ask.busy | fifo.r_rdy | self.writes.valid),
        ]
        with m.If(~self.cause.any()):
            m.d.sync += self.cause.eq(ask.cause)
            with m.If(self.beat & (bus.rresp != axi.OKAY)):
                m.d.sync += self.cause.eq(axi.CAUSE["an error response to a read"])
        return ResetInserter(self.clear)(m)
