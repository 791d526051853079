"""The host's end of the serial link: requests in windows, repeated until each is answered.

The protocol is docs/serial.md; frames are those of :mod:`opennpe.golden.serial_frames`. A window
holds requests that may be under way together: reads, or writes, never both, so that a read that
is done again reads what the first would have read.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from opennpe.golden import serial_frames as frames
from opennpe.golden.errors import DeviceError
from opennpe.golden.serial_frames import (
    HELLO,
    LINK_REGISTERS,
    MAX_WORDS,
    READ,
    WORD,
    WRITE,
    Reply,
    Request,
)

__all__ = ["LinkCounts", "LinkSetup", "SerialLink", "Transport"]

MAX_UNDER_WAY = 3500
"""Bytes of answers that may be under way: what operating systems keep for a port unread."""
SPARE = 4
"""Bytes of a device's buffer that stay free."""
MOST_PATIENCE = 4
"""Times that a wait is as long as the first, after so many in vain."""
BATCH = 1024
"""Requests numbered together: far fewer than there are sequence numbers."""


class Transport(Protocol):
    """Characters to a board and back.

    Attributes:
        name: for messages.
        baud: characters take ten bits of it.
        latency: seconds that a character may be under way beside.
    """

    name: str
    baud: int
    latency: float

    def write(self, data: bytes) -> None:
        """Send characters; raises DeviceError if the port is gone."""

    def read(self, seconds: float) -> bytes:
        """What has come, after so many seconds at most; nothing if nothing came."""

    def now(self) -> float:
        """Seconds on the transport's clock."""

    def close(self) -> None:
        """Give up the port."""


@dataclass(frozen=True)
class LinkSetup:
    """How patient the host is.

    Attributes:
        tries: times that a request is sent in vain before the link is given up.
        hello_tries: the same for the first of all.
        words: most words of a request.
        check: whether the CRC of answers counts; only tests leave it out.
    """

    tries: int = 12
    hello_tries: int = 6
    words: int = MAX_WORDS
    check: bool = True


@dataclass
class LinkCounts:
    """What a link went through, at the host's end.

    Attributes:
        requests: done.
        sent: frames sent, the repeated ones included.
        repeated: of these, sent again.
        timeouts: waits in vain.
        broken: frames received that were not whole.
        stale: answers to nothing that is under way.
        bytes_out, bytes_in: characters.
    """

    requests: int = 0
    sent: int = 0
    repeated: int = 0
    timeouts: int = 0
    broken: int = 0
    stale: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


class SerialLink:
    """Reads and writes a device's spaces over a transport that may lose, break, repeat and delay.

    Args:
        transport: open.
        setup: how patient.
        progress: told of bytes moved since the last call.

    Attributes:
        counts: what happened.
        buffer_bytes: of the device's buffer, once it answered.
    """

    def __init__(
        self,
        transport: Transport,
        setup: LinkSetup | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.transport, self.setup, self.progress = transport, setup or LinkSetup(), progress
        self.counts = LinkCounts()
        self.buffer_bytes = 0
        self._session, self._sequence = 0, 0
        self._greeted = False
        self._replies: deque[Reply] = deque()
        most = frames.REPLY_BYTES + WORD * MAX_WORDS
        self._receiver = frames.Receiver(most, self.setup.check)

    def close(self) -> None:
        """Give up the transport."""
        self.transport.close()

    # -- what the device holds ---------------------------------------------------------------
    def read(self, space: str, address: int, size: int) -> bytes:
        """Bytes of a space; address and size are multiples of a word.

        Raises:
            DeviceError: no answer, a device that was reset meanwhile, or one that refuses.
        """
        step = WORD * self.setup.words
        wanted = [
            Request(0, 0, READ, space, at, min(step, address + size - at) // WORD)
            for at in range(address, address + size, step)
        ]
        return b"".join(self._do(wanted))

    def write(self, space: str, address: int, data: bytes) -> None:
        """Change bytes of a space; alignment and errors as in :meth:`read`."""
        step = WORD * self.setup.words
        self._do(
            [
                Request(0, 0, WRITE, space, address + at, data=data[at : at + step])
                for at in range(0, len(data), step)
            ]
        )

    def register(self, name: str) -> int:
        """A register of the link's own."""
        return int.from_bytes(self.read("link", LINK_REGISTERS[name], WORD), "little")

    def reset_device(self) -> None:
        """Reset what is behind the link."""
        self.write("link", LINK_REGISTERS["reset"], (1).to_bytes(WORD, "little"))

    def statistics(self) -> dict[str, int]:
        """The device's counts of frames."""
        return {name: self.register(name) for name in frames.STATISTICS}

    def idle(self, seconds: float) -> None:
        """Let time pass; what comes meanwhile is an answer to nothing."""
        end = self.transport.now() + seconds
        while (left := end - self.transport.now()) > 0:
            self._listen(left)
        self.counts.stale += len(self._replies)
        self._replies.clear()

    # -- the window --------------------------------------------------------------------------
    def _do(self, wanted: Sequence[Request]) -> list[bytes]:
        """The answers to requests of one kind, in order."""
        if not self._greeted:
            self._hello()
        found: list[bytes] = []
        try:
            for at in range(0, len(wanted), BATCH):
                numbered = [
                    replace(one, session=self._session, sequence=self._next(index))
                    for index, one in enumerate(wanted[at : at + BATCH])
                ]
                found += self._window(numbered)
        except BaseException:
            # Requests may be under way whose numbers would be used again: another session.
            self._greeted = False
            raise
        return found

    def _next(self, ahead: int) -> int:
        return (self._sequence + ahead) % frames.SEQUENCES

    def _window(self, wanted: Sequence[Request]) -> list[bytes]:
        found: dict[int, bytes] = {}
        place = {one.sequence: index for index, one in enumerate(wanted)}
        base = following = furthest = tries = 0
        rewound = False
        end: float | None = None  # when an answer is overdue; only what moves things on extends it
        while base < len(wanted):
            for index in self._fitting(wanted, base, following):
                if index not in found:
                    self._send(wanted[index].body(), repeated=index < furthest)
                following = index + 1
                furthest = max(furthest, following)
            if end is None:
                patience = self._patience(wanted[base:following]) * min(tries + 1, MOST_PATIENCE)
                end = self.transport.now() + patience
            reply = self._reply(end)
            if reply is None:
                tries += 1
                self.counts.timeouts += 1
                if tries >= self.setup.tries:
                    raise DeviceError(self._silence(tries))
                following, rewound, end = base, False, None
            elif reply.status == "expected":
                # One rewind for all that is under way: more would multiply what is repeated.
                if reply.session == self._session and not rewound:
                    following, rewound, end = base, True, None
            elif reply.session != self._session:
                if reply.status == "session":
                    raise DeviceError(
                        f"{self.transport.name}: the board was reset, or another host uses it: "
                        "run again"
                    )
                self.counts.stale += 1
            elif self._answers(reply, wanted, place, found):
                before = base
                while base in found:
                    base += 1
                if base > before:
                    tries, rewound, end = 0, False, None
                following = max(base, following)
        self._sequence = self._next(len(wanted))
        self.counts.requests += len(wanted)
        return [found[index] for index in range(len(wanted))]

    def _answers(
        self,
        reply: Reply,
        wanted: Sequence[Request],
        place: dict[int, int],
        found: dict[int, bytes],
    ) -> bool:
        """Take an answer; whether it is one to a request that has none yet."""
        index = place.get(reply.sequence)
        if index is None or index in found:
            self.counts.stale += 1
            return False
        one = wanted[index]
        if reply.status != "done":
            raise DeviceError(
                f"{self.transport.name}: the board answers '{reply.status}' to "
                f"{'a write' if one.operation == WRITE else 'a read'} of {one.count} words of "
                f"{one.space} at {one.address:#x}"
            )
        if len(reply.data) != one.reply_bytes - frames.REPLY_BYTES:
            self.counts.stale += 1
            return False
        found[index] = reply.data
        if self.progress is not None:
            self.progress(WORD * one.count)
        return True

    def _fitting(self, wanted: Sequence[Request], base: int, following: int) -> Iterator[int]:
        """The next requests that the device's buffer and the host's have room for."""
        stored = sum(one.stored_bytes for one in wanted[base:following])
        answers = sum(one.reply_bytes for one in wanted[base:following])
        for index in range(following, len(wanted)):
            stored += wanted[index].stored_bytes
            answers += wanted[index].reply_bytes
            room = self.buffer_bytes - SPARE
            if index > base and (stored > room or answers > MAX_UNDER_WAY):
                return
            yield index

    def _patience(self, under_way: Sequence[Request]) -> float:
        """Seconds in which an answer has to come, everything that goes before it included."""
        characters = sum(one.stored_bytes + one.reply_bytes + 8 for one in under_way)
        # Stuffing may double a frame.
        return self.transport.latency + 2.5 * 10 * characters / self.transport.baud

    def _hello(self) -> None:
        """Begin a session: agree on the next sequence number."""
        self._session = 1 + secrets.randbelow(255)
        self._replies.clear()
        for _ in range(self.setup.hello_tries):
            request = Request(self._session, 0, HELLO)
            self._send(request.body())
            end = self.transport.now() + self._patience([request])
            while (reply := self._reply(end)) is not None:
                if reply.status == "expected" and reply.session == self._session:
                    self._sequence, self._greeted = reply.sequence, True
                    if not self.buffer_bytes:
                        self._meet()
                    return
                self.counts.stale += 1
            self.counts.timeouts += 1
        raise DeviceError(self._silence(self.setup.hello_tries))

    def _meet(self) -> None:
        """Find out what answers; until then one request is under way at a time."""
        identity, version = self.register("identity"), self.register("version") & 0xFF
        if (identity, version) != (frames.LINK_IDENTITY, frames.LINK_VERSION):
            raise DeviceError(
                f"{self.transport.name}: what answers is {identity:#010x} of version {version}, "
                f"not a link of version {frames.LINK_VERSION}"
            )
        self.buffer_bytes = self.register("buffer_bytes")

    def _silence(self, tries: int) -> str:
        bad = self._receiver.broken
        heard = f"; {bad} broken frames came" if bad else ""
        return (
            f"no answer from {self.transport.name} at {self.transport.baud} baud, asked {tries} "
            f"times{heard}: is the board programmed, and is this its port and rate?"
        )

    # -- frames ------------------------------------------------------------------------------
    def _send(self, body: bytes, repeated: bool = False) -> None:
        data = frames.frame(body)
        self.counts.sent += 1
        self.counts.repeated += repeated
        self.counts.bytes_out += len(data)
        self.transport.write(data)

    def _reply(self, end: float) -> Reply | None:
        """The next answer of whatever kind; None: none came by that time."""
        while not self._replies:
            left = end - self.transport.now()
            if left <= 0:
                return None
            self._listen(left)
        return self._replies.popleft()

    def _listen(self, seconds: float) -> None:
        data = self.transport.read(seconds)
        self.counts.bytes_in += len(data)
        for body in self._receiver.feed(data):
            reply = Reply.parse(body)
            if reply is not None:
                self._replies.append(reply)
        self.counts.broken = self._receiver.broken
