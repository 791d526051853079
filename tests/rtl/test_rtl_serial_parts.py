"""Parts of the serial link in Amaranth's simulator: port, CRC, frames."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from amaranth.sim import Simulator
from opennpe.golden import serial_frames as link
from opennpe.golden.errors import SpecError
from opennpe.golden.serial_frames import Request, frame
from opennpe.rtl import frames as rtl_frames
from opennpe.rtl.crc import Crc
from opennpe.rtl.frames import LEAST_BUFFER, FrameReceiver, FrameSender
from opennpe.rtl.uart import LEAST_DIVISOR, Receive, Transmit, divisor

pytestmark = pytest.mark.fast

SPACING = 10
"""Cycles between two characters: the least that parts are promised."""
WRITE = Request(7, 0x7D7E, link.WRITE, "memory", 0x7E7C, data=bytes([0x7E, 0x7D, 0x5E, 1])).body()
READ = Request(7, 1, link.READ, "link", 4, words=3).body()


def simulate(component, *benches, background=()):
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


def test_the_crc_is_that_of_zlib():
    crc, checked = Crc(), []

    async def bench(ctx):
        rng = np.random.default_rng(0)
        for size in (0, 1, 2, 9, 40):
            body = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            ctx.set(crc.clear, 1)
            await ctx.tick()
            ctx.set(crc.clear, 0)
            sums = zlib.crc32(body).to_bytes(4, "little")
            for at, byte in enumerate(body + sums):
                if at == size:
                    assert ctx.get(crc.register) ^ 0xFFFFFFFF == zlib.crc32(body)
                ctx.set(crc.data, byte)
                ctx.set(crc.enable, 1)
                await ctx.tick()
                ctx.set(crc.enable, 0)
                for _ in range(8):
                    assert ctx.get(crc.busy)
                    await ctx.tick()
                assert not ctx.get(crc.busy)
                assert ctx.get(crc.good) == (at == size + 3)
            checked.append(size)

    simulate(crc, bench)
    assert len(checked) == 5


async def bits(ctx, wire, byte, cycles, stop=1):
    """A character on a wire; ``cycles`` a bit, a fraction allowed."""
    passed = 0
    for index, level in enumerate([0, *(byte >> i & 1 for i in range(8)), stop]):
        ctx.set(wire, level)
        while passed < round(cycles * (index + 1)):
            await ctx.tick()
            passed += 1


def received(divisor, drive):
    """Characters, and whether each is broken, that a port makes of a wire."""
    port, found = Receive(divisor), []

    async def bench(ctx):
        await drive(ctx, port.wire)
        ctx.set(port.wire, 1)
        await ctx.tick().repeat(2 * divisor + 8)

    async def watch(ctx):
        async for *_, valid, data, error in ctx.tick().sample(port.valid, port.data, port.error):
            if valid:
                found.append((data, error))

    simulate(port, bench, background=(watch,))
    return found


@pytest.mark.parametrize("skew", [-0.035, 0.0, 0.035])
@pytest.mark.parametrize("cycles", [LEAST_DIVISOR, 5, 8, 27, 50])
def test_characters_at_rates_that_are_off(cycles, skew):
    """Two percent of the divisor at this end, nearly as much at the other; no rest between."""
    sent = [0x00, 0xFF, 0x55, 0xAA, 0x7E, 0x01, 0x80]

    async def drive(ctx, wire):
        for byte in sent:
            await bits(ctx, wire, byte, cycles * (1 + skew))

    assert received(cycles, drive) == [(byte, 0) for byte in sent]


def test_a_port_that_is_off_by_too_much_misreads():
    """What the test above would see: a tenth is half a bit in the middle of a character."""

    async def drive(ctx, wire):
        for byte in (0x55, 0xAA, 0x0F):
            await bits(ctx, wire, byte, 50 * 1.1)

    assert received(50, drive) != [(byte, 0) for byte in (0x55, 0xAA, 0x0F)]


@pytest.mark.parametrize("cycles", [LEAST_DIVISOR, 16, 50])
def test_short_pulses_are_not_seen(cycles):
    """A glitch of one sample in any cycle of a character, and one in front of it."""
    seen = 0
    for at in range(0, 9 * cycles, max(1, cycles // 2 + 1)):

        async def drive(ctx, wire, at=at):
            ctx.set(wire, 1)
            await ctx.tick().repeat(2 * cycles)
            if cycles > LEAST_DIVISOR:
                ctx.set(wire, 0)  # a start bit that is none
                await ctx.tick()
                ctx.set(wire, 1)
                await ctx.tick().repeat(2 * cycles)
            levels = [0, 1, 0, 1, 1, 0, 0, 1, 0, 1]
            for cycle in range(10 * cycles):
                glitch = cycle == at and cycle >= cycles
                ctx.set(wire, levels[cycle // cycles] ^ glitch)
                await ctx.tick()

        assert received(cycles, drive) == [(0b01001101, 0)], at
        seen += 1
    assert seen > 10


def test_a_missing_stop_bit_is_an_error_and_the_wire_has_to_rest():
    async def drive(ctx, wire):
        await bits(ctx, wire, 0x33, 8, stop=0)
        ctx.set(wire, 0)
        await ctx.tick().repeat(200)  # a break
        ctx.set(wire, 1)
        await ctx.tick().repeat(20)
        await bits(ctx, wire, 0x44, 8)

    assert received(8, drive) == [(0x33, 1), (0x44, 0)]


@pytest.mark.parametrize("cycles", [LEAST_DIVISOR, 7])
def test_a_port_hears_another(cycles):
    """Every character, at full rate: ten bits each, without a pause."""
    port, sent = Transmit(cycles), list(range(0, 256, 7))
    levels = []

    async def bench(ctx):
        for byte in sent:
            ctx.set(port.characters.payload, byte)
            ctx.set(port.characters.valid, 1)
            await ctx.tick().until(port.characters.ready)
        ctx.set(port.characters.valid, 0)
        await ctx.tick().repeat(12 * cycles)

    async def watch(ctx):
        async for *_, level in ctx.tick().sample(port.wire):
            levels.append(level)

    simulate(port, bench, background=(watch,))
    begin, found = levels.index(0), []
    assert len(levels) - begin < len(sent) * (10 * cycles + 2) + 14 * cycles
    while begin is not None:
        bits_of = [levels[begin + cycles * i + cycles // 2] for i in range(10)]
        assert bits_of[0] == 0 and bits_of[9] == 1
        found.append(sum(bit << i for i, bit in enumerate(bits_of[1:9])))
        rest = levels[begin + 9 * cycles :]
        ones = rest.index(0) if 0 in rest else None
        begin = None if ones is None else begin + 9 * cycles + ones
    assert found == sent


@pytest.mark.parametrize(
    ("hz", "baud", "expected"),
    [(50e6, 1_000_000, 50), (12e6, 1_000_000, 12), (27e6, 1_000_000, 27), (50e6, 12_500_000, 4)],
)
def test_divisors(hz, baud, expected):
    assert divisor(hz, baud) == expected


@pytest.mark.parametrize(
    ("hz", "baud", "text"),
    [
        (12e6, 4_000_000, "take a clock of 16000000 Hz at least, got 12000000"),
        (12e6, 2_200_000, "divide to 2400000 baud, \\+9.1% off 2200000: at most 2%, choose"),
        (0, 9600, "both are above 0"),
    ],
)
def test_rates_that_cannot_be(hz, baud, text):
    with pytest.raises(SpecError, match=text):
        divisor(hz, baud)


class Bench:
    """A frame receiver that is sent characters and asked for frames."""

    def __init__(self, part=None):
        self.part = part or FrameReceiver(LEAST_BUFFER)
        self.counts = {"whole": 0, "broken": 0, "dropped": 0}
        self.found = []

    def run(self, steps):
        """``steps``: bytes sent, or a number of frames taken; characters may be (byte, 1)."""
        part = self.part

        async def bench(ctx):
            for step in steps:
                if isinstance(step, int):
                    await self._take(ctx, step)
                    continue
                for one in step:
                    byte, error = one if isinstance(one, tuple) else (one, 0)
                    ctx.set(part.data, byte)
                    ctx.set(part.error, error)
                    ctx.set(part.valid, 1)
                    await ctx.tick()
                    ctx.set(part.valid, 0)
                    await ctx.tick().repeat(SPACING - 1)
            assert not ctx.get(part.frames.valid)

        async def watch(ctx):
            async for *_, whole, broken, dropped in ctx.tick().sample(
                part.whole, part.broken, part.dropped
            ):
                self.counts["whole"] += whole
                self.counts["broken"] += broken
                self.counts["dropped"] += dropped

        simulate(part, bench, background=(watch,))
        return self

    async def _take(self, ctx, count):
        part = self.part
        for _ in range(count):
            taken = []
            while not taken or len(taken) <= taken[0]:
                ctx.set(part.frames.ready, 1)
                *_, byte = await ctx.tick().sample(part.frames.payload).until(part.frames.valid)
                taken.append(byte)
            ctx.set(part.frames.ready, 0)
            self.found.append(bytes(taken[1 : -link.CRC_BYTES]))


def test_whole_frames_alone_come_out():
    """Golden's receiver and the gates, on frames cut, flipped, doubled and run together."""
    rng = np.random.default_rng(3)
    for _ in range(3):
        data = b""
        for _ in range(12):
            good = bytearray(frame([WRITE, READ][int(rng.integers(2))]))
            kind, place = rng.integers(8), int(rng.integers(1, len(good) - 1))
            if kind == 0:
                good[place] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del good[place:]
            elif kind == 2:
                good.insert(place, good[place])
            elif kind == 3:
                good = good[1:-1] + good[-1:]
            data += bytes(good)
        golden = link.Receiver(most=LEAST_BUFFER)
        expected = list(golden.feed(data))
        bench = Bench().run([data, len(expected)])
        assert bench.found == expected and 2 < len(expected) < 12
        assert bench.counts == {"whole": len(expected), "broken": golden.broken, "dropped": 0}


def test_a_broken_character_breaks_its_frame():
    sent = list(frame(READ))
    sent[5] = (sent[5], 1)
    bench = Bench().run([sent, frame(WRITE), 1])
    assert bench.found == [WRITE] and bench.counts == {"whole": 1, "broken": 1, "dropped": 0}


def test_what_finds_no_room_is_dropped_and_nothing_else():
    """Largest requests into a buffer that holds one and a bit; then again, around its end."""
    rng = np.random.default_rng(1)
    large = [
        Request(1, n, link.WRITE, "memory", 0, data=rng.bytes(4 * link.MAX_WORDS)).body()
        for n in range(6)
    ]
    steps = [b"".join(frame(body) for body in large[:3]), 2]
    for body in large[3:]:
        steps += [frame(body), 1]
    bench = Bench().run(steps)
    assert bench.found == [*large[:2], *large[3:]]
    assert bench.counts["dropped"] == 1 and bench.counts["broken"] == 0


def test_without_its_crc_the_receiver_takes_what_is_broken(monkeypatch):
    """The fault that the tests above look for, planted."""

    wrong = bytearray(frame(READ))
    wrong[4] ^= 1
    assert Bench().run([wrong]).counts == {"whole": 0, "broken": 1, "dropped": 0}
    monkeypatch.setattr(rtl_frames, "Crc", AlwaysGood)
    bench = Bench(FrameReceiver(LEAST_BUFFER)).run([wrong, 1])
    assert bench.counts["whole"] == 1 and bench.found != [READ]


class AlwaysGood(Crc):
    """A CRC that finds nothing."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.good.eq(1)
        return m


def test_buffers_that_cannot_be():
    with pytest.raises(SpecError, match="a power of two from 512 bytes on, got 500"):
        FrameReceiver(500)


@pytest.mark.parametrize("rest", [SPACING, 37])
def test_bodies_leave_as_frames(rest):
    """Bytes as golden's frames have them, whatever the pace of the port."""
    part, out = FrameSender(), bytearray()
    bodies = [WRITE, bytes([0x7E]), bytes([0x7D, 0x7E, 0x7D]), READ, bytes(range(0x70, 0x90))]

    async def send(ctx):
        for body in bodies:
            for index, byte in enumerate(body):
                ctx.set(part.bodies.payload, {"data": byte, "last": index == len(body) - 1})
                ctx.set(part.bodies.valid, 1)
                await ctx.tick().until(part.bodies.ready)
            ctx.set(part.bodies.valid, 0)
        await ctx.tick().repeat(20 * rest)

    async def take(ctx):
        while len(out) < len(expected):
            ctx.set(part.characters.ready, 1)
            *_, byte = await ctx.tick().sample(part.characters.payload).until(part.characters.valid)
            out.append(byte)
            ctx.set(part.characters.ready, 0)
            await ctx.tick().repeat(rest - 1)

    expected = b"".join(frame(body) for body in bodies)
    simulate(part, send, take)
    assert bytes(out) == expected
