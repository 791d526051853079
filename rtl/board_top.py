"""The top of a board: a serial link, the co-processor, and its main memory in block RAM."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.registers import WINDOW_BYTES
from opennpe.golden.serial_frames import SPACES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi
from opennpe.rtl.coprocessor import Coprocessor
from opennpe.rtl.link import Link, LinkSettings, access_signature
from opennpe.rtl.main_memory import MainMemory

__all__ = ["BoardTop", "Lights", "board_signature"]

BLINK_SECONDS = 0.5
"""Half the period of the heartbeat, and how long the other lights stay on at most."""


def board_signature() -> wiring.Signature:
    """Pins of a board, its clock and reset aside."""
    return wiring.Signature(
        {
            "receive": In(1, init=1),
            "transmit": Out(1, init=1),
            "busy": Out(1),
            "error": Out(1),
            "heartbeat": Out(1),
        }
    )


class Lights(wiring.Component):
    """What a person sees: pulses made long, and that the clock runs.

    Args:
        clock_hz: of the clock domain "sync".

    Attributes:
        works, fails: In, pulses.
        busy, error: Out, such a pulse in this or the last period.
        heartbeat: Out, blinks.
    """

    def __init__(self, clock_hz: float) -> None:
        self.period = max(2, round(clock_hz * BLINK_SECONDS))
        super().__init__(
            {
                "works": In(1),
                "fails": In(1),
                "busy": Out(1),
                "error": Out(1),
                "heartbeat": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = Signal(range(self.period))
        m.d.sync += count.eq(count - 1)
        with m.If(~count.any()):
            m.d.sync += [
                count.eq(self.period - 1),
                self.heartbeat.eq(~self.heartbeat),
                self.busy.eq(0),
                self.error.eq(0),
            ]
        with m.If(self.works):
            m.d.sync += self.busy.eq(1)
        with m.If(self.fails):
            m.d.sync += self.error.eq(1)
        return m


class Registers(wiring.Component):
    """A word of the link as an access of AXI4-Lite.

    Attributes:
        access: In, ``link.access_signature``; its space is not looked at.
        bus: Out, AXI4-Lite.
    """

    def __init__(self) -> None:
        super().__init__({"access": In(access_signature()), "bus": Out(axi.lite_signature())})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        access, bus = self.access, self.bus
        beyond = access.address[(WINDOW_BYTES - 1).bit_length() :].any()
        m.d.comb += [
            bus.awaddr.eq(access.address),
            bus.araddr.eq(access.address),
            bus.wdata.eq(access.data),
            bus.wstrb.eq(-1),
            bus.bready.eq(1),
            bus.rready.eq(1),
            access.result.eq(bus.rdata),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(access.valid):
                with m.If(beyond):
                    m.d.comb += [access.ready.eq(1), access.error.eq(1)]
                with m.Else():
                    m.d.sync += [
                        bus.awvalid.eq(access.write),
                        bus.wvalid.eq(access.write),
                        bus.arvalid.eq(~access.write),
                    ]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                for name in ("aw", "w", "ar"):
                    with m.If(getattr(bus, f"{name}ready")):
                        m.d.sync += getattr(bus, f"{name}valid").eq(0)
                with m.If(bus.bvalid | bus.rvalid):
                    wrong = (bus.bvalid & bus.bresp.any()) | (bus.rvalid & bus.rresp.any())
                    m.d.comb += [access.ready.eq(1), access.error.eq(wrong)]
                    m.next = "IDLE"
        return m


class BoardTop(wiring.Component):
    """A co-processor behind a serial port: what is synthesised, and what is simulated.

    Args:
        spec: the co-processor.
        clock_hz: of the clock domain "sync".
        baud: nominal rate; the clock divides to it within 2 %.
        memory_bytes: of main memory, a power of two.

    Attributes:
        receive: In, asynchronous. transmit: Out.
        busy: Out, a light: the co-processor uses its memory, or a request is under way.
        error: Out, a light: a frame was broken.
        heartbeat: Out, a light: blinks.

    Raises:
        SpecError: a co-processor without gates, a rate or a size that cannot be.
    """

    def __init__(
        self, spec: CoprocessorSpec, clock_hz: float, baud: int, memory_bytes: int
    ) -> None:
        self.spec = spec
        self.settings = LinkSettings(clock_hz, baud, memory_bytes)
        self.coprocessor = Coprocessor(spec)
        self.memory = MainMemory(spec, memory_bytes)
        super().__init__(board_signature())

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.link = link = Link(self.settings)
        m.submodules.memory = memory = self.memory
        m.submodules.registers = registers = Registers()
        m.submodules.lights = lights = Lights(self.settings.clock_hz)
        m.submodules.coprocessor = ResetInserter(link.reset)(self.coprocessor)
        coprocessor = self.coprocessor
        wiring.connect(m, coprocessor.bus, memory.bus)
        wiring.connect(m, registers.bus, coprocessor.control)
        access = link.access
        in_registers = access.space == SPACES.index("registers")
        m.d.comb += [
            link.receive.eq(self.receive),
            self.transmit.eq(link.transmit),
            link.interrupt.eq(coprocessor.interrupt),
            memory.clear.eq(link.reset),
            registers.access.valid.eq(access.valid & in_registers),
            registers.access.write.eq(access.write),
            registers.access.address.eq(access.address),
            registers.access.data.eq(access.data),
            memory.valid.eq(access.valid & ~in_registers),
            memory.write.eq(access.write),
            memory.address.eq(access.address),
            memory.data.eq(access.data),
        ]
        with m.If(in_registers):
            m.d.comb += [
                access.ready.eq(registers.access.ready),
                access.error.eq(registers.access.error),
                access.result.eq(registers.access.result),
            ]
        with m.Else():
            m.d.comb += [
                access.ready.eq(memory.ready),
                access.error.eq(memory.error),
                access.result.eq(memory.result),
            ]
        working = Signal()
        m.d.comb += working.eq(link.active | coprocessor.bus.rvalid | coprocessor.bus.wvalid)
        m.d.comb += [
            lights.works.eq(working),
            lights.fails.eq(link.broken),
            self.busy.eq(lights.busy),
            self.error.eq(lights.error),
            self.heartbeat.eq(lights.heartbeat),
        ]
        return m
