"""Frames of the serial link in gates: stuffing, CRC, and a buffer that holds whole ones alone."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import serial_frames as link
from opennpe.golden.errors import SpecError
from opennpe.rtl.crc import Crc

__all__ = ["LEAST_BUFFER", "BodyByte", "FrameReceiver", "FrameSender"]

LEAST_BYTES = link.HEADER_BYTES + link.CRC_BYTES
LEAST_BUFFER = 512
"""Bytes: two frames of the largest request."""
BodyByte = data.StructLayout({"data": 8, "last": 1})
"""A byte of a body on its way out."""


class FrameReceiver(wiring.Component):
    """Characters in, whole frames out: each its length, its body and its CRC.

    Characters enter the buffer as they come, and count only when the flag behind them finds them
    whole: by the CRC, by length, without an error of a stop bit. What is broken is forgotten at
    that flag, what finds no room at its first character that does not. Nothing waits: a sender
    that keeps its requests under way within ``buffer_bytes`` loses none.

    Characters are 10 cycles apart at least.

    Args:
        buffer_bytes: a power of two.

    Attributes:
        valid: In, a character. data: In. error: In, it is broken.
        frames: Out, bytes.
        whole, broken, dropped: Out, for one cycle at the end of such a frame.
    """

    def __init__(self, buffer_bytes: int) -> None:
        if buffer_bytes < LEAST_BUFFER or buffer_bytes & (buffer_bytes - 1):
            raise SpecError(
                f"a link's buffer is a power of two from {LEAST_BUFFER} bytes on, got "
                f"{buffer_bytes}"
            )
        self.buffer_bytes = buffer_bytes
        super().__init__(
            {
                "valid": In(1),
                "data": In(8),
                "error": In(1),
                "frames": Out(stream.Signature(8)),
                "whole": Out(1),
                "broken": Out(1),
                "dropped": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.buffer = buffer = memory.Memory(shape=8, depth=self.buffer_bytes, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        m.submodules.crc = crc = Crc()
        # `start` is the place of the length of the frame that is coming in, `tail` of its next
        # byte; frames between `head` and `start` are whole.
        places = range(self.buffer_bytes)
        start, tail, head = Signal(places), Signal(places, init=1), Signal(places)
        length = Signal(8)
        escaped, bad, lost = Signal(), Signal(), Signal()
        at_flag, at_escape, byte = Signal(), Signal(), Signal(8)
        empty, good, full, takes = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            at_flag.eq(self.valid & (self.data == link.FLAG) & ~self.error),
            at_escape.eq(self.valid & (self.data == link.ESCAPE) & ~escaped),
            byte.eq(self.data ^ Mux(escaped, link.FLIP, 0)),
            takes.eq(self.valid & ~at_flag & ~at_escape),
            empty.eq(~(length.any() | escaped | bad)),
            good.eq(crc.good & (length >= LEAST_BYTES) & ~escaped & ~bad),
            self.whole.eq(at_flag & good),
            self.dropped.eq(at_flag & lost),
            self.broken.eq(at_flag & ~good & ~empty & ~lost),
            # The byte behind `tail` stays free: it is the place of the next frame's length.
            full.eq(((tail + 1)[: len(tail)] == head) | (tail == head) | length.all()),
            crc.data.eq(byte),
            crc.enable.eq(takes),
            crc.clear.eq(at_flag),
            write.addr.eq(tail),
            write.data.eq(byte),
        ]
        with m.If(self.valid & self.error):
            m.d.sync += bad.eq(1)
        with m.If(at_escape):
            m.d.sync += escaped.eq(1)
        with m.If(takes):
            m.d.sync += escaped.eq(0)
            with m.If(full | bad):
                m.d.sync += [bad.eq(1), lost.eq(lost | (full & ~bad & ~length.all()))]
            with m.Else():
                m.d.comb += write.en.eq(1)
                m.d.sync += [tail.eq(tail + 1), length.eq(length + 1)]
        with m.If(at_flag):
            m.d.sync += [length.eq(0), escaped.eq(0), bad.eq(0), lost.eq(0), tail.eq(start + 1)]
            with m.If(good):
                m.d.comb += [write.addr.eq(start), write.data.eq(length), write.en.eq(1)]
                m.d.sync += [start.eq(tail), tail.eq(tail + 1)]
        self._give(m, read, head, start)
        return m

    def _give(self, m: Module, read: Any, head: Signal, start: Signal) -> None:
        """Bytes of whole frames, a cycle after their place is known."""
        there, settled = Signal(), Signal()
        taken = self.frames.valid & self.frames.ready
        m.d.comb += [
            there.eq(head != start),
            read.addr.eq(head),
            read.en.eq(1),
            self.frames.valid.eq(there & settled),
            self.frames.payload.eq(read.data),
        ]
        m.d.sync += settled.eq(there & ~taken)
        with m.If(taken):
            m.d.sync += head.eq(head + 1)


class FrameSender(wiring.Component):
    """Bodies in, characters out: stuffed, with their CRC, between flags.

    Attributes:
        bodies: In, ``BodyByte``.
        characters: Out; taken 10 cycles apart at least.
    """

    def __init__(self) -> None:
        super().__init__(
            {"bodies": In(stream.Signature(BodyByte)), "characters": Out(stream.Signature(8))}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc()
        bodies, out = self.bodies, self.characters
        byte, special, escaped, sent = Signal(8), Signal(), Signal(), Signal()
        left = Signal(range(link.CRC_BYTES))
        m.d.comb += [
            special.eq(((byte == link.FLAG) | (byte == link.ESCAPE)) & ~escaped),
            sent.eq(out.valid & out.ready & ~special),
            crc.data.eq(bodies.payload.data),
        ]
        with m.FSM():
            with m.State("FLAG"):
                m.d.comb += [out.payload.eq(link.FLAG), out.valid.eq(bodies.valid)]
                m.d.comb += crc.clear.eq(1)
                with m.If(bodies.valid & out.ready):
                    m.next = "BODY"
            with m.State("BODY"):
                m.d.comb += [byte.eq(bodies.payload.data), bodies.ready.eq(sent)]
                self._stuff(m, byte, special, escaped, bodies.valid & ~crc.busy)
                m.d.comb += crc.enable.eq(sent)
                with m.If(sent & bodies.payload.last):
                    m.d.sync += left.eq(link.CRC_BYTES - 1)
                    m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += byte.eq(~crc.register[:8])
                self._stuff(m, byte, special, escaped, ~crc.busy)
                m.d.comb += crc.shift.eq(sent)
                with m.If(sent):
                    m.d.sync += left.eq(left - 1)
                    with m.If(~left.any()):
                        m.next = "END"
            with m.State("END"):
                m.d.comb += [out.payload.eq(link.FLAG), out.valid.eq(1)]
                with m.If(out.ready):
                    m.next = "FLAG"
        return m

    def _stuff(self, m: Module, byte: Signal, special: Signal, escaped: Signal, valid: Any) -> None:
        """Offers a byte, behind an escape where it needs one."""
        out = self.characters
        m.d.comb += [
            out.valid.eq(valid),
            out.payload.eq(Mux(special, link.ESCAPE, byte ^ Mux(escaped, link.FLIP, 0))),
        ]
        with m.If(out.valid & out.ready):
            m.d.sync += escaped.eq(special)
