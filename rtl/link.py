"""The serial link: requests that come over a wire are done on a device, each once; docs/serial.md.

The device is whatever answers on ``access``: the co-processor's registers and memory, or an
engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import serial_frames as link
from opennpe.rtl.frames import BodyByte, FrameReceiver, FrameSender
from opennpe.rtl.uart import Receive, Transmit, divisor

__all__ = ["SPACE_BITS", "Executor", "Link", "LinkSettings", "access_signature"]

WORD_BITS = 8 * link.WORD
SEQUENCE_BITS = (link.SEQUENCES - 1).bit_length()
SPACE_BITS = 2
COUNTER_BITS = 16
HEADER = (("session", 8), ("sequence", SEQUENCE_BITS), ("command", 8), ("count", 8))
HEADER_BITS = 8 * link.HEADER_BYTES
"""Of ``serial_frames.Request``, the address behind the rest."""
DONE, EXPECTED, SESSION, MALFORMED, REFUSED = range(len(link.STATUSES))


@dataclass(frozen=True)
class LinkSettings:
    """What a link says of itself and of its device.

    Attributes:
        clock_hz: of the clock domain "sync".
        baud: nominal rate; the clock divides to it within 2 %.
        memory_bytes: of the space "memory".
        kind: what the device is.
        buffer_bytes: of requests that came and are not done; a power of two.
        statistics: whether there are counters.
    """

    clock_hz: float
    baud: int
    memory_bytes: int
    kind: Literal["coprocessor", "engine"] = "coprocessor"
    buffer_bytes: int = 2048
    statistics: bool = True

    def __post_init__(self) -> None:
        divisor(self.clock_hz, self.baud)

    @property
    def divisor(self) -> int:
        """Clock cycles a bit."""
        return divisor(self.clock_hz, self.baud)

    @property
    def constants(self) -> dict[str, int]:
        """Values of the link's registers that never change."""
        return {
            "identity": link.LINK_IDENTITY,
            "version": link.LINK_VERSION | link.KINDS.index(self.kind) << 8,
            "memory_bytes": self.memory_bytes,
            "buffer_bytes": self.buffer_bytes,
            "clock_hz": round(self.clock_hz),
        }


def access_signature() -> wiring.Signature:
    """A word read or written: ``valid`` stays, with all of its payload, until ``ready``.

    ``space``: index into ``serial_frames.SPACES``. ``address``: in bytes, a multiple of a word.
    With ``ready``: ``result``, what was read, or ``error``, and nothing was done.
    """
    return wiring.Signature(
        {
            "valid": Out(1),
            "write": Out(1),
            "space": Out(SPACE_BITS),
            "address": Out(WORD_BITS),
            "data": Out(WORD_BITS),
            "ready": In(1),
            "error": In(1),
            "result": In(WORD_BITS),
        }
    )


class Executor(wiring.Component):
    """Judges requests, does each once, and answers every one.

    A request of the current session with the sequence number expected is done; if that succeeds
    the next one is expected. One from before is a repetition, because the host missed the answer:
    a write is answered "done" and not done again, a read is done again. One that comes too early
    is not done. A write is done word by word: of one that is refused, words before may be written.

    Attributes:
        frames: In, bytes as ``FrameReceiver`` gives them.
        broken: In, a frame was lost: the host is told what is expected, once it is its turn.
        bodies: Out, replies.
        access: Out, the device.
        repeated, gaps: Out, for one cycle: such a request came.
        active: Out, a request is under way.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "frames": In(stream.Signature(8)),
                "broken": In(1),
                "bodies": Out(stream.Signature(BodyByte)),
                "access": Out(access_signature()),
                "repeated": Out(1),
                "gaps": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.header = Signal(HEADER_BITS)
        fields, at = {}, 0
        for name, bits in HEADER:
            fields[name] = self.header[at : at + bits]
            at += bits
        self.fields, self.address = fields, self.header[at:]
        self.session, self.expected = Signal(8), Signal(SEQUENCE_BITS)
        self.status = Signal(range(len(link.STATUSES)))
        self.left, self.index = Signal(8), Signal(range(link.HEADER_BYTES))
        self.word = Signal(WORD_BITS)
        self.advance, self.writing, self.pending = Signal(), Signal(), Signal()
        count = fields["count"]
        m.d.comb += [
            self.access.write.eq(self.writing),
            self.access.space.eq(fields["command"][4 : 4 + SPACE_BITS]),
            self.access.address.eq(self.address),
            self.access.data.eq(self.word),
        ]
        with m.If(self.broken):
            m.d.sync += self.pending.eq(1)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                self._idle(m)
            with m.State("HEADER"), m.If(self._take(m)):
                m.d.sync += [
                    self.header.eq(Cat(self.header[8:], self.frames.payload)),
                    self.index.eq(self.index + 1),
                ]
                with m.If(self.index == link.HEADER_BYTES - 1):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                self._judge(m)
            with m.State("GATHER"), m.If(self._take(m)):
                m.d.sync += [
                    self.word.eq(Cat(self.word[8:], self.frames.payload)),
                    self.index.eq(self.index + 1),
                ]
                with m.If(self.index == link.WORD - 1):
                    m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += self.access.valid.eq(1)
                m.d.sync += self.index.eq(0)
                with m.If(self.access.ready):
                    m.d.sync += [count.eq(count - 1), self.address.eq(self.address + link.WORD)]
                    m.next = "DRAIN"
                    with m.If(self.access.error):
                        m.d.sync += [self.status.eq(REFUSED), self.advance.eq(0)]
                        with m.If(~self.writing):
                            m.next = "STATUS"
                    with m.Elif(~self.writing):
                        m.d.sync += self.word.eq(self.access.result)
                        m.next = "WORD"
                    with m.Elif(count != 1):
                        m.next = "GATHER"
            with m.State("DRAIN"):
                # What is left of the frame, its CRC at least; then the reply begins.
                m.d.comb += self.frames.ready.eq(self.left.any())
                with m.If(self.frames.valid & self.frames.ready):
                    m.d.sync += self.left.eq(self.left - 1)
                with m.If(~self.left.any()):
                    self._begin_reply(m)
            with m.State("HEAD"):
                self._send(m, "NEXT", 2)
            with m.State("NEXT"):
                m.next = "STATUS"
                with m.If(~self.writing & (self.status == DONE) & count.any()):
                    m.next = "ACCESS"
            with m.State("WORD"):
                self._send(m, "NEXT", link.WORD - 1)
            with m.State("STATUS"):
                m.d.comb += [
                    self.bodies.valid.eq(1),
                    self.bodies.payload.data.eq(self.status),
                    self.bodies.payload.last.eq(1),
                ]
                with m.If(self.bodies.ready):
                    m.d.sync += self.expected.eq(self.expected + self.advance)
                    m.next = "IDLE"
            m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
        return m

    def _take(self, m: Module) -> Value:
        """Takes a byte of the frame; whether there is one."""
        m.d.comb += self.frames.ready.eq(1)
        with m.If(self.frames.valid):
            m.d.sync += self.left.eq(self.left - 1)
        return self.frames.valid

    def _idle(self, m: Module) -> None:
        """A frame's length, or, when there is no frame, what is due for a broken one."""
        m.d.comb += self.frames.ready.eq(1)
        m.d.sync += [self.index.eq(0), self.writing.eq(0), self.advance.eq(0)]
        with m.If(self.frames.valid):
            m.d.sync += self.left.eq(self.frames.payload)
            m.next = "HEADER"
        with m.Elif(self.pending):
            m.d.sync += [self.status.eq(EXPECTED), self.left.eq(0)]
            m.next = "DRAIN"

    def _judge(self, m: Module) -> None:
        """What to do with the request whose header is there."""
        fields, count = self.fields, self.fields["count"]
        operation, space = fields["command"][:2], self.access.space
        hello, writes = operation == link.HELLO, operation == link.WRITE
        payload = Mux(writes, count << 2, 0)
        distance = Signal(SEQUENCE_BITS)
        sound, due, before = Signal(), Signal(), Signal()
        m.d.comb += [
            sound.eq(
                (self.left == payload + link.CRC_BYTES)
                & (count <= link.MAX_WORDS)
                & (operation != 3)
                & (space != 3)
                & ~self.address[:2].any()
            ),
            distance.eq(fields["sequence"] - self.expected),
            due.eq(~distance.any()),
            before.eq(distance[-1]),
        ]
        m.d.sync += [self.index.eq(0), self.writing.eq(writes)]
        m.next = "DRAIN"
        with m.If(~sound):
            m.d.sync += self.status.eq(MALFORMED)
        with m.Elif(hello):
            m.d.sync += [self.status.eq(EXPECTED), self.session.eq(fields["session"])]
            with m.If(fields["session"] != self.session):
                m.d.sync += self.expected.eq(0)
        with m.Elif(fields["session"] != self.session):
            m.d.sync += self.status.eq(SESSION)
        with m.Elif(due | before):
            m.d.sync += [self.status.eq(DONE), self.advance.eq(due)]
            m.d.comb += self.repeated.eq(before)
            with m.If(due & writes & count.any()):
                m.next = "GATHER"
        with m.Else():
            m.d.comb += self.gaps.eq(1)
            m.d.sync += self.status.eq(EXPECTED)

    def _begin_reply(self, m: Module) -> None:
        """Session and sequence number are the first three bytes."""
        sequence = Mux(self.status == EXPECTED, self.expected, self.fields["sequence"])
        m.d.sync += [self.word.eq(Cat(self.session, sequence)), self.index.eq(0)]
        with m.If(self.status == EXPECTED):
            m.d.sync += self.pending.eq(self.broken)
        m.next = "HEAD"

    def _send(self, m: Module, then: str, last: int) -> None:
        """Sends the lowest bytes of ``word``, up to number ``last``."""
        m.d.comb += [self.bodies.valid.eq(1), self.bodies.payload.data.eq(self.word[:8])]
        with m.If(self.bodies.ready):
            m.d.sync += [self.word.eq(self.word >> 8), self.index.eq(self.index + 1)]
            with m.If(self.index == last):
                m.next = then


class Link(wiring.Component):
    """A wire in, a wire out, a device behind them.

    Attributes:
        receive: In, asynchronous. transmit: Out.
        access: Out, to the device; the spaces "registers" and "memory" alone.
        interrupt: In, the device's; the host reads it.
        reset: Out, for one cycle: the host resets the device.
        active: Out, a request is under way. broken: Out, for one cycle: a frame was broken.

    Raises:
        SpecError: a rate that the clock does not divide to.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.settings = settings
        super().__init__(
            {
                "receive": In(1, init=1),
                "transmit": Out(1, init=1),
                "access": Out(access_signature()),
                "interrupt": In(1),
                "reset": Out(1),
                "active": Out(1),
                "broken": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        settings = self.settings
        m.submodules.receive = receive = Receive(settings.divisor)
        m.submodules.transmit = transmit = Transmit(settings.divisor)
        m.submodules.frames = frames = FrameReceiver(settings.buffer_bytes)
        m.submodules.sender = sender = FrameSender()
        m.submodules.executor = executor = Executor()
        wiring.connect(m, frames.frames, executor.frames)
        wiring.connect(m, executor.bodies, sender.bodies)
        wiring.connect(m, sender.characters, transmit.characters)
        m.d.comb += [
            receive.wire.eq(self.receive),
            self.transmit.eq(transmit.wire),
            frames.valid.eq(receive.valid),
            frames.data.eq(receive.data),
            frames.error.eq(receive.error),
            executor.broken.eq(frames.broken | frames.dropped),
            self.active.eq(executor.active),
            self.broken.eq(executor.broken),
        ]
        self._decode(m, executor, self._registers(m, frames, executor))
        return m

    def _registers(self, m: Module, frames: Any, executor: Any) -> dict[str, Value]:
        """What the link's own registers hold."""
        values: dict[str, Value] = {
            name: Const(value, WORD_BITS) for name, value in self.settings.constants.items()
        }
        values["state"] = self.interrupt
        pulses = (
            frames.whole, frames.broken, frames.dropped, executor.repeated, executor.gaps,
        )  # fmt: skip
        if self.settings.statistics:
            for name, pulse in zip(link.STATISTICS, pulses, strict=True):
                values[name] = counter = Signal(COUNTER_BITS, name=f"count_{name}")
                with m.If(pulse & ~counter.all()):
                    m.d.sync += counter.eq(counter + 1)
        return values

    def _decode(self, m: Module, executor: Any, values: dict[str, Value]) -> None:
        """Accesses go to the device, or to the link's registers."""
        mine, its = self.access, executor.access
        own = its.space == link.SPACES.index("link")
        offset = Signal(8)
        m.d.comb += offset.eq(its.address[:8])
        result, known, writable = Signal(WORD_BITS), Signal(), Signal()
        with m.Switch(offset):
            for name, value in values.items():
                with m.Case(link.LINK_REGISTERS[name]):
                    m.d.comb += [result.eq(value), known.eq(1)]
            with m.Case(link.LINK_REGISTERS["reset"]):
                m.d.comb += writable.eq(1)
        fault = its.address[8:].any() | ~Mux(its.write, writable, known)
        m.d.comb += [
            mine.valid.eq(its.valid & ~own),
            mine.write.eq(its.write),
            mine.space.eq(its.space),
            mine.address.eq(its.address),
            mine.data.eq(its.data),
            its.ready.eq(Mux(own, 1, mine.ready)),
            its.error.eq(Mux(own, fault, mine.error)),
            its.result.eq(Mux(own, result, mine.result)),
            self.reset.eq(its.valid & own & its.write & ~fault),
        ]
