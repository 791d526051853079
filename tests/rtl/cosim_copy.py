"""A small design with the co-processor's ports: it copies bursts, well or with a chosen fault.

The registers are the co-processor's: it copies ``program_lines`` rounds of two bursts from
``program`` to ``write_base``. Register ``FAULT`` chooses what it does wrong.
"""

from __future__ import annotations

import dataclasses

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.registers import REGISTERS, capabilities
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi
from opennpe.rtl.cosim import Start

FAULT = 0x60
FAULTS = (
    "none",
    "ar_moves",
    "ar_leaves",
    "aw_moves",
    "w_moves",
    "w_leaves",
    "last_early",
    "last_late",
    "write_first",
    "wide",
    "fixed",
    "long",
    "inside_a_beat",
    "crosses",
    "writes_below",
    "writes_above",
    "reads_outside",
    "hangs",
    "stops",
)
BEATS = 4
ROUND = 2 * BEATS


class Copy(wiring.Component):
    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "bus": Out(axi.master_signature(spec)),
                "control": In(axi.lite_signature()),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        held = {
            name: Signal(32, name=f"held_{name}")
            for name in ("interrupt", *(f.name for f in dataclasses.fields(Start)))
        }
        held["fault"] = Signal(32, name="held_fault")
        self.fault = held["fault"]
        self.registers(m, held)
        self.copy(m, held)
        return m

    def is_fault(self, name):
        return self.fault == FAULTS.index(name)

    def registers(self, m, held):
        lite = self.control
        self.start, self.done, self.error = Signal(), Signal(), Signal()
        self.cycles = Signal(64)
        busy = self.busy = Signal()
        offsets = {**REGISTERS, "fault": FAULT}
        readable = {offsets[n]: v for n, v in capabilities(self.spec).items()}
        readable |= {offsets[n]: s for n, s in held.items()}
        readable[offsets["status"]] = busy | self.done << 1 | self.error << 2
        readable[offsets["cause"]] = Mux(self.error, 1, 0)
        readable[offsets["culprit"]] = 7
        readable[offsets["cycles"]] = self.cycles[:32]
        readable[offsets["cycles"] + 4] = self.cycles[32:]
        write = Signal()
        m.d.comb += [
            write.eq(lite.awvalid & lite.wvalid & ~lite.bvalid),
            lite.awready.eq(write),
            lite.wready.eq(write),
            lite.arready.eq(~lite.rvalid),
            self.start.eq(write & (lite.awaddr == offsets["control"]) & lite.wdata[0]),
            self.interrupt.eq((self.done | self.error) & held["interrupt"][0]),
        ]
        with m.If(write):
            m.d.sync += [lite.bvalid.eq(1), lite.bresp.eq(0)]
            with m.If((lite.awaddr == offsets["control"]) & lite.wdata[1]):
                m.d.sync += [self.done.eq(0), self.error.eq(0)]
            for name, signal in held.items():
                with m.If(lite.awaddr == offsets[name]):
                    m.d.sync += signal.eq(lite.wdata)
        with m.Elif(lite.bready):
            m.d.sync += lite.bvalid.eq(0)
        with m.If(lite.arvalid & lite.arready):
            m.d.sync += [lite.rvalid.eq(1), lite.rdata.eq(0), lite.rresp.eq(lite.araddr >= 0xF0)]
            for offset, value in readable.items():
                with m.If(lite.araddr == offset):
                    m.d.sync += lite.rdata.eq(value)
        with m.Elif(lite.rready):
            m.d.sync += lite.rvalid.eq(0)

    def copy(self, m, held):
        bus, fault = self.bus, self.is_fault
        size = self.spec.memory.bus_bits // 8
        store = Array(Signal(8 * size, name=f"beat_{i}") for i in range(ROUND))
        source, target, rounds = Signal(32), Signal(32), Signal(32)
        burst, beat, answers, waited = Signal(2), Signal(4), Signal(2), Signal()
        wrong = Signal(2)
        m.d.comb += [
            bus.arlen.eq(Mux(fault("long"), 16, BEATS - 1)),
            bus.arsize.eq(size.bit_length() - 1 - fault("wide")),
            bus.arburst.eq(Mux(fault("fixed"), 0, axi.BURST_INCR)),
            bus.araddr.eq(
                source
                + burst * BEATS * size
                + Mux(fault("ar_moves") & waited, size, 0)
                + Mux(fault("inside_a_beat"), 1, 0)
                + Mux(fault("reads_outside"), 1 << 20, 0)
                + Mux(fault("crosses"), 4096 - size, 0)
            ),
            bus.awlen.eq(BEATS - 1),
            bus.awsize.eq(size.bit_length() - 1),
            bus.awburst.eq(axi.BURST_INCR),
            bus.awaddr.eq(
                target
                + burst * BEATS * size
                + Mux(fault("aw_moves") & waited, size, 0)
                - Mux(fault("writes_below"), 4 * size, 0)
                + Mux(fault("writes_above"), 4096, 0)
            ),
            bus.wdata.eq(store[beat] ^ (fault("w_moves") & waited)),
            bus.wstrb.eq(~0),
            bus.wlast.eq(
                (beat[:2] == BEATS - 1) & ~fault("last_late")
                | (beat[:2] == BEATS - 2) & fault("last_early")
            ),
            bus.bready.eq(1),
            self.busy.eq(0),
        ]
        with m.If(bus.bvalid):
            m.d.sync += [answers.eq(answers + 1), wrong.eq(wrong | bus.bresp)]
        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            m.d.sync += self.cycles.eq(self.cycles + self.busy)
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    source.eq(held["program"]),
                    target.eq(held["write_base"]),
                    rounds.eq(held["program_lines"]),
                    self.cycles.eq(0),
                    self.done.eq(0),
                    self.error.eq(0),
                    wrong.eq(0),
                    waited.eq(0),
                    burst.eq(0),
                    beat.eq(0),
                    answers.eq(0),
                ]
                m.next = "AR"
                with m.If(fault("write_first")):
                    m.next = "W"
                with m.If(fault("hangs")):
                    m.next = "HANG"
            with m.State("AR"):
                m.d.comb += bus.arvalid.eq(~(fault("ar_leaves") & waited))
                m.d.sync += waited.eq(1)
                with m.If(bus.arvalid & bus.arready):
                    m.d.sync += [burst.eq(~burst[0]), waited.eq(0)]
                    with m.If(burst[0]):
                        m.next = "R"
            with m.State("R"):
                m.d.comb += bus.rready.eq(1)
                with m.If(bus.rvalid):
                    m.d.sync += [store[beat].eq(bus.rdata), beat.eq(beat + 1)]
                    m.d.sync += wrong.eq(wrong | bus.rresp)
                    with m.If(beat == ROUND - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "AW"
            with m.State("AW"):
                m.d.comb += bus.awvalid.eq(1)
                m.d.sync += waited.eq(1)
                with m.If(bus.awready):
                    m.d.sync += waited.eq(0)
                    m.next = "W"
            with m.State("W"):
                m.d.comb += bus.wvalid.eq(~(fault("w_leaves") & waited))
                m.d.sync += waited.eq(1)
                with m.If(bus.wvalid & bus.wready):
                    m.d.sync += [beat.eq(beat + 1), waited.eq(0)]
                    with m.If(beat == BEATS - 1):
                        m.d.sync += burst.eq(1)
                        m.next = "AW"
                    with m.If(beat == ROUND - 1):
                        m.d.sync += [beat.eq(0), burst.eq(0)]
                        m.next = "B"
            with m.State("B"), m.If(answers == 2):
                m.d.sync += [
                    answers.eq(0),
                    rounds.eq(rounds - 1),
                    source.eq(source + ROUND * size),
                    target.eq(target + ROUND * size),
                ]
                m.next = "AR"
                with m.If((rounds == 1) | (wrong != 0) | fault("stops")):
                    m.d.sync += [
                        self.done.eq(1),
                        self.error.eq((wrong != 0) | fault("stops")),
                    ]
                    m.next = "IDLE"
            with m.State("HANG"):
                pass
