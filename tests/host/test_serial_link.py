"""The host's end of the serial link over a bad cable, to a device in software and to the gates."""

from __future__ import annotations

import numpy as np
import pytest
import serial_bench as bench
from opennpe.golden import serial_frames as frames
from opennpe.golden.errors import DeviceError
from opennpe.golden.serial_frames import Request
from opennpe.host.serial_link import LinkSetup, SerialLink
from serial_bench import DEVICE_BYTES, FAULTS, BadCable, Device, SoftPort, accumulate

fast = pytest.mark.fast
rtl = pytest.mark.rtl
CLOCKS = pytest.param(bench.gates, id="gates", marks=rtl)
SLOW_CLOCKS = pytest.param(bench.gates, id="gates", marks=[rtl, pytest.mark.regress])
SOFT = pytest.param(lambda: SoftPort(Device()), id="software", marks=fast)


class Wrong(Exception):
    """What was read is not what was written."""


def exercise(link, rounds, words=4, seed=1):
    """Writes and reads whose loss, doubling or change of places shows; how many requests."""
    rng = np.random.default_rng(seed)
    total = int.from_bytes(link.read("registers", 0, 4), "little")
    mirror = bytearray(link.read("memory", 0, DEVICE_BYTES))
    for _ in range(rounds):
        size = 4 * int(rng.integers(1, min(20 * words, DEVICE_BYTES // 8)))
        at = 4 * int(rng.integers(0, (DEVICE_BYTES - size) // 4))
        data = rng.bytes(size)
        link.write("memory", at, data)
        mirror[at : at + size] = data
        values = [int(x) for x in rng.integers(0, 1 << 32, int(rng.integers(1, 12)))]
        link.write("registers", 0, b"".join(x.to_bytes(4, "little") for x in values))
        for value in values:
            total = accumulate(total, value)
        if int.from_bytes(link.read("registers", 0, 4), "little") != total:
            raise Wrong("a write was lost, doubled or changed places")
        first = 4 * int(rng.integers(0, DEVICE_BYTES // 8))
        if link.read("memory", first, DEVICE_BYTES // 4) != mirror[first:][: DEVICE_BYTES // 4]:
            raise Wrong("memory holds something else")
    return link.counts.requests


@pytest.mark.parametrize("port", [SOFT, CLOCKS])
def test_a_good_cable(port):
    link = SerialLink(port())
    exercise(link, 8, words=60)
    counts = link.counts
    assert (counts.repeated, counts.timeouts, counts.broken, counts.stale) == (0, 0, 0, 0)
    assert link.buffer_bytes == 2048 and link.register("memory_bytes") == DEVICE_BYTES


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("port", [SOFT, SLOW_CLOCKS])
def test_every_fault_at_one_frame_in_ten(port, kind):
    cable = BadCable(port(), 0.1, seed=3, kinds=(kind,))
    link = SerialLink(cable, LinkSetup(words=4, tries=20))
    exercise(link, 12)
    assert cable.there.counts[kind] > 5 and cable.back.counts[kind] > 5
    if kind != "duplicate":
        assert link.counts.repeated > 0


@pytest.mark.parametrize(("rate", "rounds"), [(1e-3, 600), (1e-2, 250)])
@pytest.mark.parametrize("port", [SOFT, CLOCKS])
def test_noise(port, rate, rounds):
    """Frames of all faults both ways: nothing lost, and no wait without an end."""
    cable = BadCable(port(), rate, seed=5)
    link = SerialLink(cable, LinkSetup(words=8))
    begun = cable.now()
    requests = exercise(link, rounds if port is not bench.gates else rounds // 6, words=4)
    faults = cable.counts
    sent = cable.there.frames + cable.back.frames
    assert sum(faults.values()) > 0.4 * rate * sent > 0.5
    assert len(faults) >= 3 and sent > 2 * requests > 1000
    # Every fault costs a wait at most, and what it holds up.
    ideal = 10 * (link.counts.bytes_out + link.counts.bytes_in) / cable.baud
    assert cable.now() - begun < 3 * ideal + 0.05 * sum(faults.values()) + 1


def test_without_the_crc_of_the_device_noise_is_noticed():
    noisy(SoftPort(Device(check=False)))


def test_without_the_crc_of_the_host_noise_is_noticed():
    noisy(SoftPort(Device()), check=False)


def test_without_repetitions_noise_is_noticed():
    noisy(SoftPort(Device()), tries=1, match="no answer")


def test_writes_that_are_done_again_are_noticed():
    noisy(SoftPort(Device(once=False)))


@rtl
def test_without_the_crc_of_the_gates_noise_is_noticed():
    noisy(bench.gates(crc=ReceiverBlind))


class ReceiverBlind(bench.AlwaysGood):
    """The sender makes sums all the same: only the judgement is missing."""


def noisy(port, match=None, **setup):
    """A cable of faults at one frame in twenty, on which this link has to fail."""
    link = SerialLink(BadCable(port, 0.05, seed=2), LinkSetup(words=4, **setup))
    with pytest.raises((Wrong, DeviceError), match=match):
        exercise(link, 100)


@fast
def test_a_device_that_is_silent_is_given_up():
    port = SoftPort(Device())
    port.write = lambda data: None
    with pytest.raises(DeviceError, match="no answer from the bench at 1000000 baud, asked 6 "):
        SerialLink(port).register("identity")
    assert port.now() < 1


@fast
def test_a_cable_that_is_lost_in_the_middle_is_given_up_and_taken_up_again():
    port = SoftPort(Device())
    link, whole = SerialLink(port), port.write
    exercise(link, 2)
    port.write = lambda data: None
    before = port.now()
    with pytest.raises(DeviceError, match="asked 12 times"):
        exercise(link, 2)
    assert port.now() - before < 5
    port.write = whole
    exercise(link, 2)


@fast
def test_noise_alone_is_given_up_and_said():
    port, rng = SoftPort(Device()), np.random.default_rng(0)
    port.device.feed = lambda data: rng.bytes(40) + b"\x7e"
    with pytest.raises(DeviceError, match=r"asked 6 times; \d+ broken frames came: is the board"):
        SerialLink(port).register("identity")
    assert port.now() < 1


@fast
def test_what_babbles_for_ever_is_given_up():
    """Answers to nothing, one after the other: they do not put off the end."""
    port = SoftPort(Device())
    link = SerialLink(port)
    exercise(link, 1)
    stale = frames.frame(frames.Reply(link._session, 0, "done").body())
    port.device.feed = lambda data: b""
    port.read = lambda seconds: (setattr(port, "time", port.time + 1e-4), stale)[1]
    with pytest.raises(DeviceError, match="asked 12 times"):
        link.read("memory", 0, 64)
    assert link.counts.stale > 10


@pytest.mark.parametrize("port", [SOFT, CLOCKS])
def test_what_the_device_refuses_is_said_and_the_next_request_is_done(port):
    link = SerialLink(port())
    with pytest.raises(DeviceError, match="'refused' to a read of 1 words of memory at 0x1000"):
        link.read("memory", DEVICE_BYTES, 4)
    with pytest.raises(DeviceError, match="'refused' to a write of 2 words of memory at 0xffc"):
        link.write("memory", DEVICE_BYTES - 4, bytes(8))
    with pytest.raises(DeviceError, match="'refused' to a write of 1 words of link at 0x0"):
        link.write("link", 0, bytes(4))
    exercise(link, 2)


@pytest.mark.parametrize("port", [SOFT, CLOCKS])
def test_a_board_that_was_reset_is_noticed(port):
    """Another session took it: nothing of the old one is done."""
    where = port()
    first, second = SerialLink(where), SerialLink(where)
    exercise(first, 1)
    second._session = first._session
    while second._session == first._session:
        second._greeted = False
        exercise(second, 1)
    with pytest.raises(DeviceError, match="was reset, or another host uses it: run again"):
        first.read("memory", 0, 4)
    exercise(first, 1)


@fast
def test_another_device_is_no_link_of_ours():
    device = Device()
    device.link["identity"] = 0xDEAD
    with pytest.raises(DeviceError, match="0x0000dead of version 1, not a link of version 1"):
        SerialLink(SoftPort(device)).read("memory", 0, 4)


@fast
def test_sequence_numbers_go_round():
    device = Device()
    link = SerialLink(BadCable(SoftPort(device), 0.02), LinkSetup(words=1))
    link.register("version")
    link._sequence = device.expected = frames.SEQUENCES - 700
    exercise(link, 8)
    assert link.counts.requests > 1000 and device.expected < frames.SEQUENCES // 2


def raw(port, *bodies, cycles=40_000):
    """What the gates answer to bodies, by golden's parser."""
    receiver = frames.Receiver()
    port.write(b"".join(bodies))
    found = b""
    end = port.now() + cycles / port.clock_hz
    while port.now() < end:
        found += port.read(end - port.now())
    return [frames.Reply.parse(body) for body in receiver.feed(found)]


@rtl
def test_the_gates_answer_as_the_device_in_software():
    """Random requests, sound and unsound, broken and not: reply for reply."""
    rng, port, device = np.random.default_rng(7), bench.gates(), Device()
    seen = set()
    for index in range(150):
        sequence = (device.expected + int(rng.choice([0, 0, 0, -1, -5, 1, 30000, 40000]))) % 65536
        session = device.session if index and rng.random() < 0.9 else int(rng.integers(1, 256))
        operation, space = int(rng.choice([0, 1, 1, 2, 2, 2, 3])), int(rng.choice([0, 1, 1, 3]))
        count = int(rng.integers(0, 4))
        address = 4 * int(rng.integers(900, 1100))
        data = rng.bytes(4 * count) if operation == 2 else b""
        if rng.random() < 0.1:
            data += b"x"
        head = bytes([session]) + sequence.to_bytes(2, "little")
        body = head + bytes([operation | space << 4, count]) + address.to_bytes(4, "little") + data
        sent = bytearray(frames.frame(body))
        if rng.random() < 0.15:
            sent[int(rng.integers(1, len(sent) - 1))] ^= 4
        told = Device.feed(device, bytes(sent))
        expected = [frames.Reply.parse(body) for body in frames.Receiver().feed(told)]
        assert raw(port, bytes(sent), cycles=4000) == expected, (index, body.hex())
        seen |= {reply.status for reply in expected}
    assert seen == set(frames.STATUSES)


@rtl
def test_the_gates_take_a_whole_buffer_and_drop_what_is_more():
    port = bench.gates(buffer_bytes=512)
    (hello,) = raw(port, frames.frame(Request(9, 0).body()))
    assert hello == frames.Reply(9, 0, "expected")
    large = [
        frames.frame(Request(9, n, frames.WRITE, "memory", 0, data=bytes(240)).body())
        for n in range(8)
    ]
    replies = raw(port, *large, cycles=150_000)
    assert [reply.status for reply in replies][:8] == ["done"] * 8  # it is faster than the cable
    assert SerialLink(port).statistics()["dropped"] == 0


@rtl
def test_glitches_on_the_wire():
    """A cycle now and then is not even seen; a bit now and then costs a repetition."""
    port = bench.gates(baud=bench.BAUD // 4)
    link = SerialLink(port, LinkSetup(words=4))
    inner, rng, length = port.write, np.random.default_rng(1), [1]

    def write(data):
        inner(data)
        port.pins.glitch(int(rng.integers(0, 160 * len(data))), length[0])

    port.write = write
    exercise(link, 3)
    assert link.counts.repeated == 0 and link.statistics()["broken"] == 0
    length[0] = 16
    port.write = lambda data: write(data) if rng.random() < 0.2 else inner(data)
    exercise(link, 3)
    assert link.counts.repeated > 0 and link.statistics()["broken"] > 0


@rtl
@pytest.mark.parametrize("skew", [-0.02, 0.02])
@pytest.mark.parametrize("baud", [bench.CLOCK_HZ // 5, bench.CLOCK_HZ // 50])
def test_rates_that_are_off(baud, skew):
    link = SerialLink(bench.gates(baud=baud, skew=skew))
    exercise(link, 1)
    assert link.counts.repeated == 0
