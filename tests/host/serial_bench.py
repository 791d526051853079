"""What tests of the serial link talk to: a device in software, one in gates, a bad cable."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from opennpe.golden import serial_frames as frames
from opennpe.golden.serial_frames import HELLO, LINK_REGISTERS, READ, SPACES, WORD, WRITE, Reply
from opennpe.host.simulated_board import BAUD, CLOCK_HZ, SimulatedPort
from opennpe.rtl import board_cosim
from opennpe.rtl import frames as rtl_frames
from opennpe.rtl.board_top import board_signature
from opennpe.rtl.crc import Crc
from opennpe.rtl.link import Link, LinkSettings
from opennpe.rtl.uart import LEAST_DIVISOR

__all__ = ["DEVICE_BYTES", "FAULTS", "AlwaysGood", "BadCable", "Device", "SoftPort",
           "accumulate", "gates"]  # fmt: skip

DEVICE_BYTES = 4096
MASK = 0xFFFFFFFF


def accumulate(total, value):
    """What a write to a device's register does: no write may be lost, doubled, or change places."""
    return ((total << 1 | total >> 31) + value) & MASK


class Device:
    """The link's device as docs/serial.md says, and words behind it; bytes in, bytes out.

    Args:
        check: whether the CRC counts. once: whether a repeated write is not done again.
    """

    def __init__(self, check=True, once=True, buffer_bytes=2048):
        self.once = once
        self.receiver = frames.Receiver(check=check)
        self.memory, self.total = bytearray(DEVICE_BYTES), 0
        self.session = self.expected = 0
        self.link = {
            "identity": frames.LINK_IDENTITY,
            "version": frames.LINK_VERSION,
            "memory_bytes": DEVICE_BYTES,
            "buffer_bytes": buffer_bytes,
            "clock_hz": CLOCK_HZ,
            "state": 0,
        }

    def feed(self, data):
        out, broken = b"", self.receiver.broken
        for body in self.receiver.feed(data):
            out += frames.frame(self.answer(body).body())
        if self.receiver.broken > broken:
            out += frames.frame(Reply(self.session, self.expected, "expected").body())
        return out

    def answer(self, body):
        session, sequence = body[0], int.from_bytes(body[1:3], "little")
        operation, space, count = body[3] & 3, body[3] >> 4 & 3, body[4]
        address, data = int.from_bytes(body[5:9], "little"), body[9:]
        expected = WORD * count if operation == WRITE else 0
        if len(data) != expected or operation == 3 or space == 3 or count > frames.MAX_WORDS:
            return Reply(self.session, sequence, "malformed")
        if operation == HELLO:
            if session != self.session:
                self.session, self.expected = session, 0
            return Reply(session, self.expected, "expected")
        if session != self.session:
            return Reply(self.session, sequence, "session")
        distance = (sequence - self.expected) % frames.SEQUENCES
        if 0 < distance < frames.SEQUENCES // 2:
            return Reply(session, self.expected, "expected")
        found = b""
        try:
            if operation == READ:
                for at in range(count):
                    value = self.read(SPACES[space], address + WORD * at)
                    found += value.to_bytes(WORD, "little")
            elif distance == 0 or not self.once:
                for at in range(count):
                    word = int.from_bytes(data[WORD * at : WORD * at + WORD], "little")
                    self.write(SPACES[space], address + WORD * at, word)
        except KeyError:
            return Reply(session, sequence, "refused", found)
        if distance == 0:
            self.expected = (self.expected + 1) % frames.SEQUENCES
        return Reply(session, sequence, "done", found)

    def read(self, space, address):
        if space == "link":
            names = {place: name for name, place in LINK_REGISTERS.items()}
            return self.link[names[address]]
        if space == "registers":
            return self.total
        if address >= DEVICE_BYTES:
            raise KeyError(address)
        return int.from_bytes(self.memory[address : address + WORD], "little")

    def write(self, space, address, value):
        if space == "registers":
            self.total = accumulate(self.total, value)
        elif space == "memory" and address < DEVICE_BYTES:
            self.memory[address : address + WORD] = value.to_bytes(WORD, "little")
        elif space != "link" or address != LINK_REGISTERS["reset"]:
            raise KeyError(address)


class SoftPort:
    """A cable to a device in software; time passes only while nothing comes."""

    def __init__(self, device):
        self.device, self.name, self.baud, self.latency = device, "the bench", 1_000_000, 0.001
        self.time, self.held = 0.0, b""

    def write(self, data):
        self.held += self.device.feed(data)

    def read(self, seconds):
        found, self.held = self.held, b""
        self.time += 1e-5 if found else seconds
        return found

    def now(self):
        return self.time

    def close(self):
        pass


FAULTS = ("lose", "corrupt", "truncate", "duplicate", "delay")


class Direction:
    """Frames one way: most as they are, some not."""

    def __init__(self, rng, rate, kinds, delay):
        self.rng, self.rate, self.kinds, self.delay = rng, rate, kinds, delay
        self.counts, self.frames = Counter(), 0
        self.late = deque()

    def pass_on(self, frame, now):
        """What goes on at once."""
        self.frames += 1
        if self.rng.random() >= self.rate:
            return frame
        kind = self.kinds[int(self.rng.integers(len(self.kinds)))]
        self.counts[kind] += 1
        place = int(self.rng.integers(1, len(frame)))
        if kind == "corrupt":
            wrong = bytearray(frame)
            for _ in range(int(self.rng.integers(1, 4))):
                wrong[int(self.rng.integers(len(frame)))] ^= 1 << int(self.rng.integers(8))
            return bytes(wrong)
        if kind == "truncate":
            return frame[:place]
        if kind == "duplicate":
            return frame + frame
        if kind == "delay":
            self.late.append((now + self.delay * self.rng.random(), frame))
        return b""

    def due(self, now):
        """What was held and is due, and when the next is."""
        found = b""
        for one in list(self.late):
            if one[0] <= now:
                found += one[1]
                self.late.remove(one)
        return found, min((when for when, _ in self.late), default=None)


class BadCable:
    """A transport that loses, breaks, cuts, doubles and delays frames, both ways.

    Args:
        rate: of frames that are ill-treated. delay: most seconds that one is late.
    """

    def __init__(self, inner, rate, seed=0, kinds=FAULTS, delay=0.01, back_kinds=None):
        rng = np.random.default_rng(seed)
        self.inner = inner
        self.name, self.baud, self.latency = inner.name, inner.baud, inner.latency
        self.there = Direction(rng, rate, kinds, delay)
        self.back = Direction(rng, rate, kinds if back_kinds is None else back_kinds, delay)
        self.partial = b""

    @property
    def counts(self):
        return self.there.counts + self.back.counts

    def write(self, data):
        self.inner.write(self.there.pass_on(data, self.now()))

    def read(self, seconds):
        end = self.now() + seconds
        while True:
            now = self.now()
            out, next_there = self.there.due(now)
            if out:
                self.inner.write(out)
            found, next_back = self.back.due(now)
            if found or now >= end:
                return found
            until = min(when for when in (end, next_there, next_back) if when is not None)
            found = b"".join(self._split(self.inner.read(max(until - now, 1e-9))))
            if found:
                return found

    def _split(self, data):
        """Whole frames, flag to flag, each as the cable has it."""
        self.partial += data
        while (end := self.partial.find(frames.FLAG, 1)) > 0:
            frame, self.partial = self.partial[: end + 1], self.partial[end + 1 :]
            yield self.back.pass_on(frame, self.now())

    def now(self):
        return self.inner.now()

    def close(self):
        self.inner.close()


class AlwaysGood(Crc):
    """A CRC that finds nothing: a planted fault."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.good.eq(1)
        return m


class LinkBench(wiring.Component):
    """The link in gates, and words behind it as ``Device`` has them."""

    def __init__(self, baud, buffer_bytes):
        self.settings = LinkSettings(CLOCK_HZ, baud, DEVICE_BYTES, "coprocessor", buffer_bytes)
        super().__init__(board_signature())

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = Link(self.settings)
        m.submodules.held = held = memory.Memory(shape=32, depth=DEVICE_BYTES // WORD, init=[])
        write, read = held.write_port(), held.read_port()
        access, total, asked = link.access, Signal(32), Signal(2)
        in_memory = access.space == SPACES.index("memory")
        beyond = in_memory & (access.address >= DEVICE_BYTES)
        m.d.sync += asked.eq((asked + 1) & access.valid.replicate(2))
        m.d.comb += [
            link.receive.eq(self.receive),
            self.transmit.eq(link.transmit),
            access.ready.eq(asked == 3),
            access.error.eq(beyond),
            write.addr.eq(access.address >> 2),
            write.data.eq(access.data),
            write.en.eq(access.valid & access.write & access.ready & in_memory & ~beyond),
            read.addr.eq(access.address >> 2),
            access.result.eq(total),
            self.busy.eq(link.active),
            self.error.eq(link.broken),
        ]
        with m.If(in_memory):
            m.d.comb += access.result.eq(read.data)
        with m.If(access.valid & access.write & access.ready & ~in_memory):
            m.d.sync += total.eq(Cat(total[31], total[:31]) + access.data)
        return m


def gates(baud=BAUD, buffer_bytes=2048, crc=None, skew=0.0):
    """A port to the link in gates, Verilated; ``crc``: what its receiver takes for one."""
    from opennpe.rtl.verilog import convert

    whole = rtl_frames.Crc
    try:
        rtl_frames.Crc = crc or whole
        text = convert(LinkBench(baud, buffer_bytes), board_cosim.BOARD)
    finally:
        rtl_frames.Crc = whole
    library = board_cosim.build(text, board_cosim.BOARD)
    divisor = round(CLOCK_HZ / baud)
    assert divisor >= LEAST_DIVISOR
    return SimulatedPort(board_cosim.Pins(library, divisor, skew), CLOCK_HZ, baud)
