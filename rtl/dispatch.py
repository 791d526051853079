"""The dispatcher: commands out of their memory, in order, each to the queue of its unit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, ResetInserter, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import FIELDS, OPS, TARGETS, UNITS, WAITS, unit_count
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec
from opennpe.rtl.axi import CAUSE_BITS, command_layout
from opennpe.rtl.memories import Lines

__all__ = ["COUNT_BITS", "Dispatcher", "Queue"]

COUNT_BITS = 16
"""Bits of a unit's count of completed commands."""


OP_BITS = dict(FIELDS["end"])["op"]


class State(enum.Enum):
    """What the dispatcher is at."""

    IDLE = 0
    FIRST = 1
    READ = 2
    ARRIVE = 3
    DECODE = 4
    PUSH = 5
    END = 6
    ILLEGAL = 7


def reached(command: Any, counts: Value) -> Value:
    """Whether every unit has completed as many commands as this one waits for."""
    ahead = [
        (counts.word_select(i, COUNT_BITS) - command[name])[COUNT_BITS - 1]
        for i, name in enumerate(WAITS)
    ]
    return ~Cat(*ahead).any()


class Queue(wiring.Component):
    """Commands of one unit, held back until the counts that they wait for are reached.

    A command pushed in cycle t may leave from t + 1 on; one leaves a cycle.

    Attributes:
        push: In, stream of the unit's commands. pop: Out, likewise.
        counts: In, completed commands of every unit.
        clear: In, empties the queue. halt: In, lets nothing leave.
    """

    def __init__(self, op: str, depth: int) -> None:
        self.op, self.depth = op, depth
        layout = command_layout(op)
        super().__init__(
            {
                "push": In(stream.Signature(layout)),
                "pop": Out(stream.Signature(layout)),
                "counts": In(COUNT_BITS * len(UNITS)),
                "clear": In(1),
                "halt": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Small memories that read at once: shifting registers cost five times the look-up tables.
        fifo = SyncFIFO(width=command_layout(self.op).size, depth=self.depth)
        m.submodules.entries = ResetInserter(self.clear)(fifo)
        ready = Signal()
        m.d.comb += [
            self.push.ready.eq(fifo.w_rdy),
            fifo.w_en.eq(self.push.valid),
            fifo.w_data.eq(self.push.payload),
            ready.eq(reached(self.pop.payload, self.counts)),
            self.pop.valid.eq(fifo.r_rdy & ready & ~self.halt),
            self.pop.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.pop.valid & self.pop.ready),
        ]
        return m


class Dispatcher(wiring.Component):
    """Reads commands and hands them on; keeps the counts that commands wait for.

    Timing, from a start in cycle t: in t + 1 the first load is pushed; from t + 2 on a line of the
    command memory is read in every cycle in which one is there. The line read last arrives a cycle
    later, in the next cycle the opcode is looked at, in the one after that the command is pushed
    (as soon as its queue has room), and in the next cycle reading goes on. An exec reads the rest
    of its lines after the opcode was looked at, which is looked at again.

    Attributes:
        start: In, a pulse; everything else starts over. program, program_lines: In.
        write: In, a line for the command memory: ``line``, ``data``, ``enable``.
        load, fill, exec, store: Out, streams of commands.
        completed: In, a bit a unit: it has completed a command.
        resting: In, no unit has anything to do.
        halt: In, hands out nothing more.
        finish: Out, a pulse: the ``end`` was reached and its waits are satisfied.
        cause: Out, what is wrong: an illegal command, or nothing moves and nothing ever will.
        dispatched: Out, commands handed out since the start.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        self.depth = spec.memory.command_units * UNIT_BYTES // spec.line_bytes
        line = 8 * spec.line_bytes
        super().__init__(
            {
                "start": In(1),
                "program": In(32),
                "program_lines": In(20),
                "write_enable": In(1),
                "write_line": In(ceil_log2(self.depth)),
                "write_data": In(line),
                **{unit: Out(stream.Signature(command_layout(unit))) for unit in UNITS},
                "completed": In(len(UNITS)),
                "resting": In(1),
                "halt": In(1),
                "finish": Out(1),
                "cause": Out(CAUSE_BITS),
                "dispatched": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        bits = 8 * spec.line_bytes
        m.submodules.memory = store = Lines(bits, self.depth)
        write, read = store.write_port(), store.read_port()
        m.d.comb += [
            write.addr.eq(self.write_line),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
        ]
        counts = Signal(COUNT_BITS * len(UNITS))
        queues = {unit: Queue(unit, spec.memory.queue) for unit in UNITS}
        for i, (unit, queue) in enumerate(queues.items()):
            m.submodules[f"{unit}_queue"] = queue
            m.d.comb += [
                queue.counts.eq(counts),
                queue.clear.eq(self.start),
                queue.halt.eq(self.halt),
            ]
            wiring.connect(m, queue.pop, wiring.flipped(getattr(self, unit)))
            count = counts.word_select(i, COUNT_BITS)
            m.d.sync += count.eq(count + self.completed[i])
        self._read(m, read, queues, counts)
        return m

    def _read(self, m: Module, read: Any, queues: dict[str, Queue], counts: Signal) -> None:
        bits = 8 * self.spec.line_bytes
        unit_lines = UNIT_BYTES // self.spec.line_bytes
        longest = max(unit_count(op) for op in OPS)
        word = Signal(longest * UNIT_BYTES * 8, reset_less=True)
        lines = Array(word.word_select(i, bits) for i in range(longest * unit_lines))
        there = Signal(range(self.depth + 1))
        at = Signal(ceil_log2(self.depth))
        index = Signal(range(len(lines) + 1))
        arriving, place = Signal(), Signal(range(len(lines)))
        goal = Signal(range(len(lines) + 1))
        taken = Signal()
        m.d.comb += [read.addr.eq(at), read.en.eq(taken)]
        m.d.sync += [
            there.eq(there + self.write_enable - taken),
            arriving.eq(taken),
            place.eq(index),
        ]
        with m.If(taken):
            m.d.sync += [at.eq(at + 1), index.eq(index + 1)]
        with m.If(arriving):
            m.d.sync += lines[place].eq(read.data)
        state = Signal(State, init=State.IDLE)
        # Nobody acts, no command may start, and none can be handed on: counts stay as they are.
        stuck, leaving = Signal(), Cat(queue.pop.valid for queue in queues.values()).any()
        idle = self.resting & ~leaving
        end = data.View(command_layout("end"), word[: command_layout("end").size])
        with m.Switch(state):
            with m.Case(State.FIRST):
                self._first_load(m, queues["load"])
                m.d.sync += state.eq(State.READ)
            with m.Case(State.READ):
                m.d.comb += [taken.eq(there.any() & ~self.halt), stuck.eq(idle & ~there.any())]
                with m.If(taken & (index + 1 == goal)):
                    m.d.sync += state.eq(State.ARRIVE)
            with m.Case(State.ARRIVE):
                m.d.sync += state.eq(State.DECODE)
            with m.Case(State.DECODE):
                self._decode(m, state, word[:OP_BITS], index, goal)
            with m.Case(State.PUSH):
                pushed = self._push(m, word, queues)
                m.d.comb += stuck.eq(idle & ~pushed)
                with m.If(pushed):
                    m.d.sync += [
                        index.eq(0),
                        goal.eq(unit_lines),
                        self.dispatched.eq(self.dispatched + 1),
                        state.eq(State.READ),
                    ]
            with m.Case(State.END):
                m.d.comb += stuck.eq(idle & ~reached(end, counts))
                with m.If(reached(end, counts) & ~self.halt):
                    m.d.comb += self.finish.eq(1)
                    m.d.sync += state.eq(State.IDLE)
            with m.Case(State.ILLEGAL):
                m.d.comb += self.cause.eq(CAUSES.index("an illegal command"))
        with m.If(stuck):
            m.d.comb += self.cause.eq(CAUSES.index("commands that wait for what does not come"))
        with m.If(self.start):
            none_yet = (1 << COUNT_BITS) - 1
            m.d.sync += [
                state.eq(State.FIRST),
                there.eq(0),
                at.eq(0),
                index.eq(0),
                goal.eq(unit_lines),
                arriving.eq(0),
                self.dispatched.eq(0),
                # The load of the list's first part is not one of the list.
                counts.eq(none_yet << COUNT_BITS * UNITS.index("load")),
            ]

    def _decode(self, m: Module, state: Signal, op: Value, index: Signal, goal: Signal) -> None:
        lines = UNIT_BYTES // self.spec.line_bytes
        m.d.sync += state.eq(State.PUSH)
        for code, name in enumerate(OPS):
            whole = unit_count(name) * lines
            if whole > lines:
                with m.If((op == code) & (index != whole)):
                    m.d.sync += [goal.eq(whole), state.eq(State.READ)]
        with m.If(op == OPS.index("end")):
            m.d.sync += state.eq(State.END)
        with m.If(op >= len(OPS)):
            m.d.sync += state.eq(State.ILLEGAL)

    def _push(self, m: Module, word: Signal, queues: dict[str, Queue]) -> Value:
        """Offer the command to its unit's queue; whether it was taken."""
        taken = Signal(name="pushed")
        with m.Switch(word[:OP_BITS]):
            for unit, queue in queues.items():
                layout = command_layout(unit)
                with m.Case(OPS.index(unit)):
                    m.d.comb += [
                        queue.push.payload.eq(word[: layout.size]),
                        queue.push.valid.eq(~self.halt),
                        taken.eq(queue.push.valid & queue.push.ready),
                    ]
        return taken

    def _first_load(self, m: Module, queue: Queue) -> None:
        load = queue.push.payload
        m.d.comb += [
            queue.push.valid.eq(1),
            load.op.eq(OPS.index("load")),
            load.target.eq(TARGETS.index("commands")),
            load.lines.eq(self.program_lines),
            load.address.eq(self.program),
        ]
        # Its own count stands at one before the first.
        m.d.comb += load[WAITS[UNITS.index("load")]].eq((1 << COUNT_BITS) - 1)
