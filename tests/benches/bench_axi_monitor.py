"""A judge of AXI4: sees every cycle of a master's bus and refuses what the protocol does.

``Rules`` is plain Python, a cycle at a time, so that it is tested without a simulator; ``watch``
feeds it from a cocotb bench, block or whole co-processor. A violation ends the bench.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CHANNELS = {
    "aw": ("awid", "awaddr", "awlen", "awsize", "awburst", "awlock", "awcache", "awprot", "awqos"),
    "w": ("wdata", "wstrb", "wlast"),
    "b": ("bid", "bresp"),
    "ar": ("arid", "araddr", "arlen", "arsize", "arburst", "arlock", "arcache", "arprot", "arqos"),
    "r": ("rid", "rdata", "rresp", "rlast"),
}
BOUNDARY = 4096
INCR = 1
ANYWHERE = (0, 1 << 32)


class ProtocolError(AssertionError):
    """What the bus did that AXI or the co-processor's contract forbids."""


LITE = {
    "aw": ("awaddr", "awprot"),
    "w": ("wdata", "wstrb"),
    "b": ("bresp",),
    "ar": ("araddr", "arprot"),
    "r": ("rdata", "rresp"),
}


@dataclass
class LiteRules:
    """The judge of AXI4-Lite, of both sides of it: stability, and an answer for every request.

    Attributes:
        seen: handshakes and waits a channel.
    """

    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what is under way, as a reset does."""
        self.offered: dict[str, tuple[int, ...]] = {}
        self.open = dict.fromkeys(LITE, 0)  # handshakes not answered

    def step(self, bus: Mapping[str, int]) -> None:
        """Judge a cycle.

        Raises:
            ProtocolError: what is wrong.
        """
        for channel, payload in LITE.items():
            stable(channel, bus, payload, self.offered, self.seen)
        taken = {x: bool(bus[f"{x}valid"] and bus[f"{x}ready"]) for x in LITE}
        for channel, requests in (("b", ("aw", "w")), ("r", ("ar",))):
            if bus[f"{channel}valid"] and not all(self.open[x] for x in requests):
                raise ProtocolError(f"{channel} without its request")
            for request in requests:
                self.open[request] += taken[request] - taken[channel]
        for channel in LITE:
            if taken[channel]:
                self.seen[channel] = self.seen.get(channel, 0) + 1

    @property
    def quiet(self) -> bool:
        """Nothing is under way."""
        return not (any(self.open.values()) or self.offered)


def stable(
    channel: str,
    bus: Mapping[str, int],
    payload: tuple[str, ...],
    offered: dict[str, tuple[int, ...]],
    seen: dict[str, int],
) -> None:
    """What is offered stays the same until it is taken; ``offered`` is from the cycle before.

    Raises:
        ProtocolError: it does not.
    """
    valid, ready = bus[f"{channel}valid"], bus[f"{channel}ready"]
    now = tuple(bus[name] for name in payload) if valid else ()
    was = offered.pop(channel, None)
    if was is not None and not valid:
        raise ProtocolError(f"{channel} is withdrawn")
    if was is not None and now != was:
        raise ProtocolError(f"{channel} changes while it waits: {was} becomes {now}")
    if valid and not ready:
        offered[channel] = now
        seen[f"{channel} waits"] = seen.get(f"{channel} waits", 0) + 1


@dataclass
class Rules:
    """The judge, and what it has seen.

    Attributes:
        bus_bytes: bytes of a beat.
        burst_beats: longest burst allowed.
        in_flight: read bursts accepted and not ended, at most.
        windows: of reads and writes, asked in each cycle: {"ar": (base, limit), "aw": ...}.
        seen: bursts and beats, stalls a channel, bursts that end or begin at a boundary.
    """

    bus_bytes: int
    burst_beats: int
    in_flight: int
    windows: Callable[[], Mapping[str, tuple[int, int]]] = dict
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what is under way, as a reset does."""
        self.offered: dict[str, tuple[int, ...]] = {}
        self.reads: deque[int] = deque()  # beats that accepted bursts still have to bring
        self.writes: deque[int] = deque()
        self.answers = 0  # bursts written to the end and not answered

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def step(self, bus: Mapping[str, int]) -> None:
        """Judge a cycle: the value of every signal at its end, by name.

        Raises:
            ProtocolError: what is wrong.
        """
        for channel, payload in CHANNELS.items():
            stable(channel, bus, payload, self.offered, self.seen)
        # What comes back answers what was accepted in an earlier cycle, W likewise.
        self._r(bus)
        self._b(bus)
        self._w(bus)
        for channel, open_ in (("ar", self.reads), ("aw", self.writes)):
            if bus[f"{channel}valid"]:
                beats = self._burst(channel, bus)
                if bus[f"{channel}ready"]:
                    open_.append(beats)
                    self.count(f"{channel} bursts")
        if len(self.reads) > self.in_flight:
            raise ProtocolError(
                f"{len(self.reads)} read bursts in flight, at most {self.in_flight}"
            )

    def _burst(self, channel: str, bus: Mapping[str, int]) -> int:
        """A legal burst's beats."""
        names = ("addr", "len", "size", "burst")
        address, length, size, burst = (bus[f"{channel}{name}"] for name in names)
        beats, what = length + 1, f"{channel} {address:#x} of {length + 1} beats"
        end = address + beats * self.bus_bytes
        if 1 << size != self.bus_bytes or burst != INCR:
            raise ProtocolError(f"{what}: size {size}, burst {burst}")
        if address % self.bus_bytes:
            raise ProtocolError(f"{what} begins inside a beat")
        if beats > self.burst_beats:
            raise ProtocolError(f"{what}: at most {self.burst_beats}")
        if address // BOUNDARY != (end - 1) // BOUNDARY:
            raise ProtocolError(f"{what} crosses 4 KiB")
        base, limit = self.windows().get(channel, ANYWHERE)
        if not base <= address < end <= limit:
            raise ProtocolError(f"{what} leaves {base:#x} to {limit:#x}")
        if bus[f"{channel}ready"] and (address % BOUNDARY == 0 or end % BOUNDARY == 0):
            self.count(f"{channel} at 4 KiB")
        return beats

    def _r(self, bus: Mapping[str, int]) -> None:
        if not bus["rvalid"]:
            return
        if not self.reads:
            raise ProtocolError("r without a burst")
        if bus["rlast"] != (self.reads[0] == 1):
            raise ProtocolError("rlast in the wrong beat")
        if bus["rready"]:
            self.count("r beats")
            self.count("r errors" if bus["rresp"] else "r good")
            self.reads[0] -= 1
            if not self.reads[0]:
                self.reads.popleft()

    def _w(self, bus: Mapping[str, int]) -> None:
        if not bus["wvalid"]:
            return
        if not self.writes:
            raise ProtocolError("w without its aw")
        if bus["wlast"] != (self.writes[0] == 1):
            raise ProtocolError("wlast in the wrong beat")
        if bus["wstrb"] != (1 << self.bus_bytes) - 1:
            raise ProtocolError(f"wstrb {bus['wstrb']:#x} has holes")
        if bus["wready"]:
            self.count("w beats")
            self.writes[0] -= 1
            if not self.writes[0]:
                self.writes.popleft()
                self.answers += 1

    def _b(self, bus: Mapping[str, int]) -> None:
        if not bus["bvalid"]:
            return
        if not self.answers:
            raise ProtocolError("b without a burst")
        if bus["bready"]:
            self.count("b errors" if bus["bresp"] else "b good")
            self.answers -= 1

    @property
    def quiet(self) -> bool:
        """Nothing is under way."""
        return not (self.reads or self.writes or self.answers or self.offered)


def signals(channels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of all signals of a bus."""
    return tuple(
        name
        for channel, payload in channels.items()
        for name in (*payload, f"{channel}valid", f"{channel}ready")
    )


class Sampled(dict[str, int]):
    """Values of a cycle's signals, each read when it is asked for: most channels are silent."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        super().__init__()
        self.handles = handles

    def __missing__(self, name: str) -> int:
        value = self[name] = int(self.handles[name].value)
        return value


async def watch(dut: Any, edge: Any, rules: Rules | LiteRules, prefix: str) -> None:
    """Judge every cycle of the ports ``prefix`` for ever; for ``cocotb.start_soon``."""
    names = signals(LITE if isinstance(rules, LiteRules) else CHANNELS)
    handles = {name: getattr(dut, prefix + name) for name in names}
    while True:
        await edge
        if dut.rst.value:
            rules.reset()
        else:
            rules.step(Sampled(handles))
