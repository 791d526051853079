"""The co-processor: registers, dispatcher, four units and their memories around one array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import TABLE_LINES, TARGETS, UNITS
from opennpe.golden.registers import COUNTERS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi, ports
from opennpe.rtl.control import Control
from opennpe.rtl.dispatch import Dispatcher
from opennpe.rtl.execute import Execute
from opennpe.rtl.fill import Fill
from opennpe.rtl.load import Load
from opennpe.rtl.memories import Lines
from opennpe.rtl.results import PARTS
from opennpe.rtl.store import Store

__all__ = ["Coprocessor", "coprocessor_signature"]


def coprocessor_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """Ports of the co-processor: an AXI4 master, an AXI4-Lite slave, an interrupt."""
    return wiring.Signature(
        {
            "bus": Out(axi.master_signature(spec)),
            "control": In(axi.lite_signature()),
            "interrupt": Out(1),
        }
    )


class Coprocessor(wiring.Component):
    """Runs command lists on an array of engines; see ``docs/coprocessor.md``.

    A start is accepted in the cycle in which the registers raise it and clears all units; the
    run ends in the cycle in which the ``end`` command's waits are satisfied, or, after an error,
    when the last unit has come to rest. Both cycles are counted.

    Attributes:
        bus: Out, AXI4 master. control: In, AXI4-Lite slave. interrupt: Out.

    Raises:
        SpecError: a spec that these gates do not implement.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        spec.check_coprocessor()
        ports.check_spec(spec.engine)
        self.spec = spec
        super().__init__(coprocessor_signature(spec))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        m.submodules.registers = control = Control(spec)
        m.submodules.dispatcher = dispatcher = Dispatcher(spec)
        m.submodules.load = load = Load(spec)
        m.submodules.fill = fill = Fill(spec)
        m.submodules.execute = execute = Execute(spec)
        m.submodules.store = store = Store(spec)
        units: dict[str, Any] = {"load": load, "fill": fill, "exec": execute, "store": store}
        for name, unit in units.items():
            wiring.connect(m, getattr(dispatcher, name), unit.commands)
        for member, part in ((axi.read_signature(spec), load), (axi.write_signature(spec), store)):
            for name, port in member.members.items():
                mine, its = getattr(self.bus, name), getattr(part.bus, name)
                m.d.comb += mine.eq(its) if port.flow is Out else its.eq(mine)
        wiring.connect(m, wiring.flipped(self.control), control.bus)
        self._run(m, control, dispatcher, units)
        self._loads(m, load, dispatcher, execute)
        self._buffer(m, load, fill, execute, store)
        m.d.comb += [
            self.interrupt.eq(control.interrupt),
            load.read_base.eq(control.read_base),
            load.read_limit.eq(control.read_limit),
            store.write_base.eq(control.write_base),
            store.write_limit.eq(control.write_limit),
        ]
        return m

    def _run(
        self, m: Module, control: Control, dispatcher: Dispatcher, units: dict[str, Any]
    ) -> None:
        """From a start to the end or an error, and what is counted on the way."""
        load, fill, execute, store = (units[name] for name in UNITS)
        running, halt, resting = Signal(), Signal(), Signal()
        cause = Signal(axi.CAUSE_BITS)
        start = control.start
        m.d.comb += [
            control.busy.eq(running),
            halt.eq(cause.any()),
            resting.eq(~Cat(unit.busy for unit in units.values()).any()),
            dispatcher.start.eq(start),
            dispatcher.program.eq(control.program),
            dispatcher.program_lines.eq(control.program_lines),
            dispatcher.halt.eq(halt),
            dispatcher.resting.eq(resting),
            dispatcher.completed.eq(Cat(load.done, fill.completed, execute.completed, store.done)),
            load.halt.eq(halt),
            store.halt.eq(halt),
            *(unit.clear.eq(start) for unit in units.values()),
            control.done.eq(running & dispatcher.finish),
            control.error.eq(running & halt & resting),
            control.cause.eq(cause),
            control.culprit.eq(dispatcher.dispatched),
            control.count_cycles.eq(running | start),
            control.count_busy.eq(execute.stepped),
            control.count_read_stalls.eq(running & execute.waiting & load.busy),
            control.count_write_stalls.eq(execute.blocked),
            control.count_beats_read.eq(load.beat),
            control.count_beats_written.eq(store.beat),
        ]
        with m.If(control.done | control.error):
            m.d.sync += running.eq(0)
        with m.If(running & ~halt):
            # One cause is kept: the first, and of several in one cycle the unit's listed first.
            for part in (dispatcher, *reversed(units.values())):
                with m.If(part.cause.any()):
                    m.d.sync += cause.eq(part.cause)
        with m.If(start):
            m.d.sync += [running.eq(1), cause.eq(0)]
        assert set(COUNTERS) == {
            "cycles", "busy", "read_stalls", "write_stalls", "beats_read", "beats_written",
        }  # fmt: skip

    def _loads(self, m: Module, load: Load, dispatcher: Dispatcher, execute: Execute) -> None:
        """Lines that a load hands over, but for the buffer's, which may have to wait."""
        write = load.writes.payload
        there = load.writes.valid

        def aims(target: str) -> Any:
            return there & (write.target == TARGETS.index(target))

        m.d.comb += [
            dispatcher.write_enable.eq(aims("commands")),
            dispatcher.write_line.eq(write.line),
            dispatcher.write_data.eq(write.data),
            execute.weights_enable.eq(aims("weights")),
            execute.parameters_enable.eq(aims("parameters")),
            execute.table_enable.eq(aims("table")),
            execute.load_line.eq(write.line),
            execute.load_lane.eq(write.lane),
            execute.load_data.eq(write.data),
        ]
        assert 1 << len(execute.load_line) >= TABLE_LINES

    def _buffer(self, m: Module, load: Load, fill: Fill, execute: Execute, store: Store) -> None:
        """One write port, results first; one read port, fills first."""
        spec = self.spec
        depth, bits = spec.memory.buffer_lines, 8 * spec.line_bytes
        m.submodules.buffer = buffer = Lines(bits, depth)
        write = buffer.write_port(granularity=bits // PARTS)
        read = buffer.read_port()
        loaded = load.writes.payload
        aims = load.writes.valid & (loaded.target == TARGETS.index("buffer"))
        address = ceil_log2(depth)
        m.d.comb += [
            load.writes.ready.eq(~(aims & execute.write_enable)),
            write.addr.eq(loaded.line[:address]),
            write.data.eq(loaded.data),
            write.en.eq(aims.replicate(PARTS)),
            store.reads.ready.eq(~fill.active),
            read.addr.eq(store.reads.payload[:address]),
            read.en.eq(fill.read_enable | (store.reads.valid & store.reads.ready)),
            fill.data.eq(read.data),
            store.data.eq(read.data),
            execute.operand_enable.eq(fill.write_enable),
            execute.operand_line.eq(fill.write_line),
            execute.operand_data.eq(fill.write_data),
        ]
        with m.If(execute.write_enable):
            m.d.comb += [
                write.addr.eq(execute.write_line[:address]),
                write.data.eq(execute.write_data),
                write.en.eq(execute.write_parts),
            ]
        with m.If(fill.active):
            m.d.comb += read.addr.eq(fill.read_line[:address])
