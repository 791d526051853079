"""Frames of the serial link to a board: what its bytes mean, to the host and to the gates.

docs/serial.md is the prose to this module. A frame lies between two flags, in which the flag's
byte occurs nowhere (octet stuffing of RFC 1662, section 4.2), and ends with the CRC-32 of IEEE
802.3. So a receiver is in step again at the next flag, whatever came before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from opennpe.golden.errors import DataError
from opennpe.golden.registers import MemorySettings

__all__ = [
    "CRC_BYTES",
    "CRC_RESIDUE",
    "CRC_START",
    "DEFAULT_BAUD",
    "ESCAPE",
    "FLAG",
    "FLIP",
    "HEADER_BYTES",
    "HELLO",
    "KINDS",
    "LINK_IDENTITY",
    "LINK_REGISTERS",
    "LINK_VERSION",
    "MAX_WORDS",
    "MEMORY_SETTINGS",
    "READ",
    "REPLY_BYTES",
    "SEQUENCES",
    "SPACES",
    "STATISTICS",
    "STATUSES",
    "WORD",
    "WRITE",
    "Receiver",
    "Reply",
    "Request",
    "crc32",
    "crc_bit",
    "frame",
]

FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
"""A frame's border; what precedes a flag or an escape inside, sent with the bit FLIP inverted."""
POLYNOMIAL = 0xEDB88320
"""Of CRC-32, its lowest coefficient in the highest bit: bits go lowest first."""
CRC_START = 0xFFFFFFFF
CRC_BYTES = 4
DEFAULT_BAUD = 1_000_000
"""Of boards and hosts unless told otherwise."""
WORD = 4
"""Bytes of a word: what addresses are multiples of, and what counts count."""
MAX_WORDS = 60
"""Most words of a request or a reply: a frame's length fits a byte."""
SEQUENCES = 1 << 16
"""Sequence numbers, after which they begin again."""
HELLO, READ, WRITE = range(3)
"""What a request asks for: bits 0 and 1 of its command."""
SPACES = ("registers", "memory", "link")
"""What is read or written, bits 4 and 5 of a command: the device's registers, its memory, or the
link's own registers."""
STATUSES = ("done", "expected", "session", "malformed", "refused")
"""What a reply says: done; not done, the sequence number expected is the reply's; not done, this
is another session's; a request that is none; the device does not take it."""
LINK_IDENTITY = 0x4F4E504C  # "ONPL"
LINK_VERSION = 1
KINDS = ("coprocessor", "engine")
"""What a board holds."""
STATISTICS = ("frames", "broken", "dropped", "repeated", "gaps")
"""Counters of a link, 16 bits each, that stop at their largest value: frames that were whole;
broken ones; those without room; requests that were repeated; those that came too early."""
LINK_REGISTERS = {
    "identity": 0x00,
    "version": 0x04,  # version, kind << 8
    "memory_bytes": 0x08,
    "buffer_bytes": 0x0C,  # what requests under way may take
    "clock_hz": 0x10,
    "state": 0x14,  # bit 0: the device's interrupt
    "reset": 0x18,  # write only: resets the device, not the link
    **{name: 0x20 + WORD * i for i, name in enumerate(STATISTICS)},
}
"""Byte offsets in the space "link"."""

MEMORY_SETTINGS = MemorySettings(read_latency=3, read_interval=1, write_latency=1, write_interval=1)
"""How fast a board's main memory answers its co-processor, as the cycle model takes it."""

_HEADER = struct.Struct("<BHBBI")
_REPLY = struct.Struct("<BH")
HEADER_BYTES = _HEADER.size
REPLY_BYTES = _REPLY.size + 1
"""Of a reply without data: session, sequence number, status at the end."""


def crc_bit(register: int, bit: int) -> int:
    """The CRC's register after another bit: the step that the gates take."""
    return register >> 1 ^ (POLYNOMIAL if (register ^ bit) & 1 else 0)


def _crc_byte(register: int, byte: int) -> int:
    for place in range(8):
        register = crc_bit(register, byte >> place & 1)
    return register


_TABLE = tuple(_crc_byte(value, 0) for value in range(256))


def _crc(data: bytes) -> int:
    register = CRC_START
    for byte in data:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register


def crc32(data: bytes) -> int:
    """CRC-32 of bytes: every bit of the register inverted at the end."""
    return _crc(data) ^ CRC_START


CRC_RESIDUE = _crc(crc32(b"").to_bytes(CRC_BYTES, "little"))
"""The register behind any body and its CRC."""


@dataclass(frozen=True)
class Request:
    """What a host asks for.

    Attributes:
        session: 1 to 255, the host's choice; every session begins with a ``HELLO``.
        sequence: of the request, one more than the one before; any for ``HELLO``.
        operation: ``HELLO``, ``READ`` or ``WRITE``.
        space: one of ``SPACES``.
        address: in bytes, a multiple of ``WORD``.
        words: how many to read.
        data: what to write, a whole number of words.
    """

    session: int
    sequence: int
    operation: int = HELLO
    space: str = SPACES[0]
    address: int = 0
    words: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.address % WORD or len(self.data) % WORD:
            raise DataError(
                f"the link moves whole words of {WORD} bytes, got {len(self.data)} bytes at "
                f"{self.address:#x}"
            )
        if not 0 <= self.count <= MAX_WORDS:
            raise DataError(f"a request moves at most {MAX_WORDS} words, got {self.count}")

    @property
    def count(self) -> int:
        """Words moved."""
        return len(self.data) // WORD if self.operation == WRITE else self.words

    @property
    def reply_bytes(self) -> int:
        """Bytes of the reply's body if it is done."""
        return REPLY_BYTES + (WORD * self.words if self.operation == READ else 0)

    @property
    def stored_bytes(self) -> int:
        """What it takes of a device's buffer: its length, its body and its CRC."""
        return 1 + HEADER_BYTES + len(self.data) + CRC_BYTES

    def body(self) -> bytes:
        """Bytes, without the CRC."""
        command = self.operation | SPACES.index(self.space) << 4
        head = (self.session, self.sequence, command, self.count, self.address)
        return _HEADER.pack(*head) + self.data


@dataclass(frozen=True)
class Reply:
    """What a device answers: one reply a request, and one that nobody asked for a broken frame.

    Attributes:
        session: the device's.
        sequence: the request's; with the status "expected" the one that it waits for.
        status: one of ``STATUSES``.
        data: what was read.
    """

    session: int
    sequence: int
    status: str
    data: bytes = b""

    def body(self) -> bytes:
        """Bytes, without the CRC."""
        status = STATUSES.index(self.status)
        return _REPLY.pack(self.session, self.sequence) + self.data + bytes([status])

    @staticmethod
    def parse(body: bytes) -> Reply | None:
        """A reply from its body; None: it is none."""
        if len(body) < REPLY_BYTES or body[-1] >= len(STATUSES):
            return None
        session, sequence = _REPLY.unpack_from(body)
        return Reply(session, sequence, STATUSES[body[-1]], body[_REPLY.size : -1])


def frame(body: bytes) -> bytes:
    """A body as it goes over the cable: with its CRC, stuffed, between flags."""
    found = bytearray([FLAG])
    for byte in body + crc32(body).to_bytes(CRC_BYTES, "little"):
        if byte in (FLAG, ESCAPE):
            found += bytes([ESCAPE, byte ^ FLIP])
        else:
            found.append(byte)
    found.append(FLAG)
    return bytes(found)


class Receiver:
    """Takes bytes, gives the bodies of whole frames.

    Args:
        most: longest body; what is longer is broken.
        check: whether the CRC counts; only tests that show what it is for leave it out.

    Attributes:
        broken: frames that were not whole so far.
    """

    def __init__(self, most: int = 256, check: bool = True) -> None:
        self.most, self.check = most, check
        self.broken = 0
        self._bytes = bytearray()
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Bodies that end within these bytes."""
        for byte in data:
            if byte == FLAG:
                body = self._end()
                if body is not None:
                    yield body
            elif byte == ESCAPE and not self._escaped:
                self._escaped = True
            else:
                if len(self._bytes) <= self.most + CRC_BYTES:
                    self._bytes.append(byte ^ (FLIP if self._escaped else 0))
                self._escaped = False

    def _end(self) -> bytes | None:
        held, escaped = bytes(self._bytes), self._escaped
        self._bytes.clear()
        self._escaped = False
        if not held and not escaped:
            return None  # two flags beside each other
        whole = CRC_BYTES < len(held) <= self.most + CRC_BYTES and not escaped
        if whole and (_crc(held) == CRC_RESIDUE or not self.check):
            return held[:-CRC_BYTES]
        self.broken += 1
        return None
