"""The co-processor's main memory in block RAM: an AXI4 slave, and a port for words of the link."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from opennpe.golden.errors import SpecError
from opennpe.golden.serial_frames import MEMORY_SETTINGS, WORD
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi

__all__ = ["MainMemory"]

READ_LATENCY = MEMORY_SETTINGS.read_latency
AHEAD = 4
"""Beats read ahead of the bus: one more than a place takes to be free again."""
WORD_BITS = 8 * WORD


class MainMemory(wiring.Component):
    """Bursts of one master, in order, and single words beside them.

    AR and AW are accepted while fewer than ``bursts_in_flight`` wait. A burst accepted in cycle
    ``t`` is read from the block RAM from ``t + 1`` on, a beat a cycle, and offered from ``t + 3``
    on; a beat of W is taken in any cycle after that in which its AW was accepted, its answer is
    offered in the cycle after the burst's last beat. What lies outside the memory reads 0 and is
    not written, and is answered SLVERR.

    A word of the link goes before the bus in the one cycle in which it needs the memory.

    Args:
        spec: whose bus.
        size: in bytes, a power of two.

    Attributes:
        bus: In, AXI4. Bursts are INCR, as wide as the bus.
        clear: In, forget all that is under way on the bus; the contents stay.
        valid: In, a word of the link: ``write``, ``address``, ``data`` stay until ``ready``.
        ready: Out. result: Out, with ``ready``. error: Out, with ``ready``: there is no such word.
    """

    def __init__(self, spec: CoprocessorSpec, size: int) -> None:
        self.spec, self.size = spec, size
        least = 2 * spec.memory.bus_bits // 8
        if size < least or size & (size - 1):
            raise SpecError(f"a main memory is a power of two from {least} bytes on, got {size}")
        super().__init__(
            {
                "bus": In(axi.master_signature(spec)),
                "clear": In(1),
                "valid": In(1),
                "write": In(1),
                "address": In(axi.ADDRESS_BITS),
                "data": In(WORD_BITS),
                "ready": Out(1),
                "error": Out(1),
                "result": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.spec.memory.bus_bits
        self.skip = exact_log2(bits // 8)
        m.submodules.memory = held = memory.Memory(shape=bits, depth=self.size * 8 // bits, init=[])
        self.writes, self.reads = held.write_port(granularity=8), held.read_port()
        # A word of the link is read in one cycle, and is there in the next.
        asked = Signal()
        single = self.valid & ~asked
        m.d.sync += asked.eq(single)
        self._read(m, single & ~self.write)
        self._write(m, single & self.write)
        self._word(m, single, asked)
        return m

    def _beyond(self, address: Value) -> Value:
        """Whether a byte address is outside."""
        return address[exact_log2(self.size) :].any()

    def _beats(self, m: Module, name: str, advance: Value) -> tuple[Value, Value, Value, Signal]:
        """Bursts of AR or AW in order.

        Returns:
            Whether there is one; byte address of its next beat; whether that is its last; an
            error of it, to be set.
        """
        bus = self.bus
        layout = data.StructLayout({"address": axi.ADDRESS_BITS, "len": 8})
        queue = SyncFIFO(width=layout.size, depth=self.spec.memory.bursts_in_flight)
        m.submodules[f"{name}_queue"] = ResetInserter(self.clear)(queue)
        head = data.View(layout, queue.r_data)
        beat = Signal(8, name=f"{name}_beat")
        last = beat == head.len
        m.d.comb += [
            queue.w_en.eq(getattr(bus, f"{name}valid")),
            queue.w_data.eq(Cat(getattr(bus, f"{name}addr"), getattr(bus, f"{name}len"))),
            getattr(bus, f"{name}ready").eq(queue.w_rdy),
            queue.r_en.eq(advance & last),
        ]
        with m.If(advance):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        with m.If(self.clear):
            m.d.sync += beat.eq(0)
        address = head.address + (beat << self.skip)
        wrong = Signal(name=f"{name}_wrong")
        m.d.comb += wrong.eq(self._beyond(address))
        return queue.r_rdy, address, last, wrong

    def _read(self, m: Module, single: Value) -> None:
        bus, issues, arrives = self.bus, Signal(), Signal()
        there, address, last, wrong = self._beats(m, "ar", issues)
        beat = data.StructLayout({"data": len(bus.rdata), "last": 1, "wrong": 1})
        queue = SyncFIFO(width=beat.size, depth=AHEAD)
        m.submodules.beats = ResetInserter(self.clear)(queue)
        head = data.View(beat, queue.r_data)
        claimed, was_last, was_wrong = Signal(range(AHEAD + 1)), Signal(), Signal()
        taken = bus.rvalid & bus.rready
        m.d.comb += [
            issues.eq(there & (claimed != AHEAD) & ~single),
            queue.w_en.eq(arrives),
            queue.w_data.eq(Cat(Mux(was_wrong, 0, self.reads.data), was_last, was_wrong)),
            queue.r_en.eq(bus.rready),
            bus.rvalid.eq(queue.r_rdy),
            bus.rdata.eq(head.data),
            bus.rlast.eq(head.last),
            bus.rresp.eq(Mux(head.wrong, axi.SLVERR, axi.OKAY)),
            self.reads.en.eq(1),
            self.reads.addr.eq(Mux(single, self.address, address)[self.skip :]),
        ]
        m.d.sync += [
            arrives.eq(issues),
            was_last.eq(last),
            was_wrong.eq(wrong),
            claimed.eq(claimed + issues - taken),
        ]
        with m.If(self.clear):
            m.d.sync += [arrives.eq(0), claimed.eq(0)]

    def _write(self, m: Module, single: Value) -> None:
        bus, takes = self.bus, Signal()
        there, address, last, wrong = self._beats(m, "aw", takes)
        failed = Signal()
        words = len(bus.wdata) // WORD_BITS
        place = self.address[exact_log2(WORD) : self.skip]
        lanes = Cat((place == i).replicate(WORD) for i in range(words))
        m.d.comb += [
            bus.wready.eq(there & ~single & (~bus.bvalid | bus.bready)),
            takes.eq(bus.wvalid & bus.wready),
            self.writes.addr.eq(Mux(single, self.address, address)[self.skip :]),
            self.writes.data.eq(Mux(single, self.data.replicate(words), bus.wdata)),
        ]
        with m.If(single):
            m.d.comb += self.writes.en.eq(Mux(self._beyond(self.address), 0, lanes))
        with m.Elif(takes & ~wrong):
            m.d.comb += self.writes.en.eq(bus.wstrb)
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(takes):
            m.d.sync += failed.eq(Mux(last, 0, failed | wrong))
            with m.If(last):
                m.d.sync += [
                    bus.bvalid.eq(1),
                    bus.bresp.eq(Mux(failed | wrong, axi.SLVERR, axi.OKAY)),
                ]
        with m.If(self.clear):
            m.d.sync += [bus.bvalid.eq(0), failed.eq(0)]

    def _word(self, m: Module, single: Value, asked: Signal) -> None:
        """The link's answer, in the cycle after its turn."""
        words = len(self.reads.data) // WORD_BITS
        place = self.address[exact_log2(WORD) : self.skip]
        found = self.reads.data.word_select(place, WORD_BITS) if words > 1 else self.reads.data
        m.d.comb += [
            self.ready.eq(asked),
            self.error.eq(self._beyond(self.address)),
            self.result.eq(found),
        ]
