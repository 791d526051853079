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
            self._stable(channel, bus, payload)
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

    def _stable(self, channel: str, bus: Mapping[str, int], payload: tuple[str, ...]) -> None:
        valid, ready = bus[f"{channel}valid"], bus[f"{channel}ready"]
        now = tuple(bus[name] for name in payload)
        was = self.offered.pop(channel, None)
        if was is not None and not valid:
            raise ProtocolError(f"{channel} is withdrawn")
        if was is not None and now != was:
            raise ProtocolError(f"{channel} changes while it waits: {was} becomes {now}")
        if valid and not ready:
            self.offered[channel] = now
            self.count(f"{channel} waits")

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


SIGNALS = tuple(
    name
    for channel, payload in CHANNELS.items()
    for name in (*payload, f"{channel}valid", f"{channel}ready")
)


async def watch(dut: Any, edge: Any, rules: Rules, prefix: str = "bus__") -> None:
    """Judge every cycle for ever; for ``cocotb.start_soon``."""
    handles = [(name, getattr(dut, prefix + name)) for name in SIGNALS]
    while True:
        await edge
        if dut.rst.value:
            rules.reset()
        else:
            rules.step({name: int(handle.value) for name, handle in handles})
