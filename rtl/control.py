"""The registers: what the host sees of the co-processor, through AXI4-Lite."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.registers import COUNTERS, REGISTERS, capabilities
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi

__all__ = ["SETTINGS", "Control", "control_signature"]

SETTINGS = ("program", "program_lines", "read_base", "read_limit", "write_base", "write_limit")
"""Registers of 32 bits that the host sets and the units read."""
COUNTER_BITS = 64
START, FORGET = 0, 1
"""Bits of the register ``control``."""


def control_signature() -> wiring.Signature:
    """Ports of the block: see :class:`Control`."""
    return wiring.Signature(
        {
            "bus": In(axi.lite_signature()),
            "start": Out(1),
            "interrupt": Out(1),
            **{name: Out(32) for name in SETTINGS},
            "busy": In(1),
            "done": In(1),
            "error": In(1),
            "cause": In(axi.CAUSE_BITS),
            "culprit": In(32),
            **{f"count_{name}": In(1) for name in COUNTERS},
        }
    )


class Control(wiring.Component):
    """The registers of ``golden.registers``, one read and one write under way at a time.

    Write: in a cycle in which ``awvalid`` and ``wvalid`` are 1 and ``bvalid`` is 0, the next one
    has ``awready`` and ``wready`` at 1 and is the cycle of the write; what it changes shows in the
    cycle after, in which ``bvalid`` is 1. Read: in a cycle with ``arvalid`` at 1 and ``rvalid`` at
    0, the next one has ``arready`` at 1, the register's value in it is offered from the cycle
    after. Byte strobes count; the two lowest bits of an address do not. What is not there reads 0
    and answers SLVERR, a write to what cannot be written SLVERR too, and changes nothing.

    A start while ``busy`` is ignored. One that is not shows as ``start`` at 1 for the cycle after
    that of the write, in which counters, cause, culprit and the flags are already cleared, and
    ``status`` shows busy. ``done`` and ``error`` set their flags, and the interrupt if it is
    enabled in that cycle; the interrupt stays until it is cleared or a start.

    Attributes:
        bus: In, AXI4-Lite.
        start: Out, a pulse.
        interrupt: Out, a level.
        program, program_lines, read_base, read_limit, write_base, write_limit: Out.
        busy: In, from the cycle after ``start`` to the one of ``done`` or ``error``.
        done: In, a pulse: the program has ended.
        error: In, a pulse: the program was stopped.
        cause: In, taken with ``error``.
        culprit: In, taken with ``error``.
        count_*: In, a counter counts in this cycle; one for each of ``golden.registers.COUNTERS``.

    Raises:
        SpecError: a spec that the co-processor has no gates for.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        spec.check_coprocessor()
        self.spec = spec
        super().__init__(control_signature())

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enable, started, forget = Signal(), Signal(), Signal()
        values: dict[str, Value] = {
            name: Const(value, 32) for name, value in capabilities(self.spec).items()
        }
        settings = {name: getattr(self, name) for name in SETTINGS} | {"interrupt": enable}
        command = self._write(m, settings)
        m.d.comb += [
            started.eq(command[START] & ~self.busy & ~self.start),
            forget.eq(command[FORGET]),
        ]
        m.d.sync += self.start.eq(started)
        values |= settings | {"control": Const(0, 1)}
        values |= self._outcome(m, enable, started, forget)
        places = {REGISTERS[name]: value for name, value in values.items()}
        for name, count in self._counters(m, started).items():
            places |= {REGISTERS[name] + 4 * i: count.word_select(i, 32) for i in range(2)}
        self._read(m, places)
        return m

    def _write(self, m: Module, settings: dict[str, Signal]) -> Signal:
        """Serves AW, W and B; what is written to ``control``, in the cycle of the write."""
        bus, command = self.bus, Signal(2)
        accepts = bus.awvalid & bus.wvalid & ~bus.bvalid & ~bus.awready
        mask = Cat(strobe.replicate(8) for strobe in bus.wstrb)
        m.d.sync += [bus.awready.eq(accepts), bus.wready.eq(accepts)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(bus.awready):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(axi.OKAY)]
            with m.Switch(bus.awaddr[2:]):
                for name, register in settings.items():
                    with m.Case(REGISTERS[name] >> 2):
                        m.d.sync += register.eq((bus.wdata & mask) | (register & ~mask))
                with m.Case(REGISTERS["control"] >> 2):
                    m.d.comb += command.eq(bus.wdata & mask)
                with m.Default():
                    m.d.sync += bus.bresp.eq(axi.SLVERR)
        return command

    def _read(self, m: Module, places: dict[int, Value]) -> None:
        """Serves AR and R."""
        bus = self.bus
        m.d.sync += bus.arready.eq(bus.arvalid & ~bus.rvalid & ~bus.arready)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rresp.eq(axi.OKAY)]
            with m.Switch(bus.araddr[2:]):
                for place, value in places.items():
                    with m.Case(place >> 2):
                        m.d.sync += bus.rdata.eq(value)
                with m.Default():
                    m.d.sync += [bus.rdata.eq(0), bus.rresp.eq(axi.SLVERR)]

    def _outcome(
        self, m: Module, enable: Signal, started: Signal, forget: Signal
    ) -> dict[str, Value]:
        """How the last program went: ``status``, ``cause`` and ``culprit``."""
        done, error = Signal(), Signal()
        cause, culprit = Signal.like(self.cause), Signal.like(self.culprit)
        with m.If(started | forget):
            m.d.sync += [done.eq(0), error.eq(0), self.interrupt.eq(0)]
        with m.If(started):
            m.d.sync += [cause.eq(0), culprit.eq(0)]
        # Last, so that an end in the cycle of a clear is not lost.
        with m.If((self.done | self.error) & enable):
            m.d.sync += self.interrupt.eq(1)
        with m.If(self.done):
            m.d.sync += done.eq(1)
        with m.If(self.error):
            m.d.sync += [error.eq(1), cause.eq(self.cause), culprit.eq(self.culprit)]
        status = Cat(self.busy | self.start, done, error, self.interrupt)
        return {"status": status, "cause": cause, "culprit": culprit}

    def _counters(self, m: Module, started: Signal) -> dict[str, Signal]:
        """Counters of 64 bits, cleared by a start."""
        counters = {}
        for name in COUNTERS:
            counters[name] = counter = Signal(COUNTER_BITS, name=f"counter_{name}")
            with m.If(started):
                m.d.sync += counter.eq(0)
            with m.Elif(getattr(self, f"count_{name}")):
                m.d.sync += counter.eq(counter + 1)
        return counters
