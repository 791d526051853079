"""AXI4 and AXI4-Lite as the co-processor speaks them, and commands as they cross its units.

Members carry the AXI names in lower case, so that a top with ``bus: Out(master_signature(spec))``
has ports ``bus__awaddr`` and so on: the names that cocotbext-axi finds by the prefix ``bus_``.

Source: AMBA AXI and ACE Protocol Specification, ARM IHI 0022H, chapters A2, A3 and B1.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from opennpe.golden.commands import FIELDS, SIGNED
from opennpe.golden.registers import CAUSES, WINDOW_BYTES
from opennpe.golden.spec import CoprocessorSpec

__all__ = [
    "ADDRESS_BITS",
    "BURST_INCR",
    "CAUSE",
    "CAUSE_BITS",
    "LINE_BITS",
    "OKAY",
    "SLVERR",
    "Burst",
    "command_layout",
    "first_cause",
    "lite_signature",
    "master_signature",
    "misaligned",
    "outside",
    "read_signature",
    "write_signature",
]

ADDRESS_BITS = 32
BURST_INCR = 1
BUFFERABLE = 3
"""AxCACHE: normal memory, not cacheable, bufferable (A4.4)."""
OKAY, SLVERR = 0, 2
LINE_BITS = dict(FIELDS["load"])["line"]
"""Of a line's number, in any memory."""
CAUSE = {text: index for index, text in enumerate(CAUSES)}
"""Index of each cause of an error."""
CAUSE_BITS = (len(CAUSES) - 1).bit_length()


def command_layout(op: str) -> data.StructLayout:
    """Fields of a command, the lowest bit first, as ``golden.commands`` packs them.

    Raises:
        KeyError: no such command.
    """
    return data.StructLayout(
        {name: signed(bits) if name in SIGNED else unsigned(bits) for name, bits in FIELDS[op]}
    )


def first_cause(*faults: tuple[Value, str]) -> Value:
    """Index of the cause of the first fault that is 1; 0: there is none."""
    found: Value = Const(0, CAUSE_BITS)
    for fault, text in reversed(faults):
        found = Mux(fault, CAUSE[text], found)
    return found


def misaligned(spec: CoprocessorSpec, address: Value) -> Value:
    """Whether a byte address is no multiple of a line."""
    return address[: exact_log2(spec.line_bytes)].any()


def outside(spec: CoprocessorSpec, command: Any, base: Value, limit: Value) -> Value:
    """Whether a command's bytes, ``lines`` from ``address`` on, leave ``[base, limit)``."""
    end = command.address + (command.lines << exact_log2(spec.line_bytes))
    return (command.address < base) | (end > limit)


class Burst:
    """What is left of a transfer, and the next burst of it.

    Bursts end at multiples of the longest length, so none crosses a boundary of 4 KiB and all but
    a transfer's first and last are of that length.

    Attributes:
        beat: Signal, the next burst's first beat, counted from address 0.
        left: Signal, beats not asked for.
        beats: Value, the next burst's.
        last: Value, it is the transfer's last.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        self.skip = exact_log2(spec.memory.bus_bits // 8)
        longest = spec.burst_beats
        self.beat = Signal(ADDRESS_BITS - self.skip, name="burst_beat")
        self.left = Signal(LINE_BITS + exact_log2(spec.beats_per_line), name="burst_left")
        room = longest - self.beat[: exact_log2(longest)]
        self.last = self.left <= room
        self.beats = Mux(self.last, self.left, room)[: exact_log2(longest) + 1]

    def begin(self, m: Module, command: Any) -> None:
        """The next cycle's transfer is that of a command with ``address`` and ``lines``."""
        m.d.sync += [
            self.beat.eq(command.address >> self.skip),
            self.left.eq(command.lines << exact_log2(self.spec.beats_per_line)),
        ]

    def ask(self, m: Module, bus: Any, prefix: str) -> None:
        """The next burst enters the registers of an address channel, ``aw`` or ``ar``."""
        m.d.sync += [
            getattr(bus, f"{prefix}valid").eq(1),
            getattr(bus, f"{prefix}addr").eq(Cat(Const(0, self.skip), self.beat)),
            getattr(bus, f"{prefix}len").eq(self.beats - 1),
            self.beat.eq(self.beat + self.beats),
            self.left.eq(self.left - self.beats),
        ]

    def hold(self, m: Module, bus: Any, prefix: str) -> None:
        """What an address channel says of every burst."""
        for name, value in (("size", self.skip), ("burst", BURST_INCR), ("cache", BUFFERABLE)):
            m.d.comb += getattr(bus, f"{prefix}{name}").eq(value)


def _address(prefix: str) -> dict[str, wiring.Member]:
    """An address channel, AW or AR."""
    widths = {
        "id": 1,  # constant 0: everything stays in order
        "addr": ADDRESS_BITS,
        "len": 8,
        "size": 3,
        "burst": 2,
        "lock": 1,
        "cache": 4,
        "prot": 3,
        "qos": 4,
        "valid": 1,
    }
    members = {f"{prefix}{name}": Out(width) for name, width in widths.items()}
    return members | {f"{prefix}ready": In(1)}


def write_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """The channels AW, W and B of a master."""
    bits = spec.memory.bus_bits
    return wiring.Signature(
        {
            **_address("aw"),
            "wdata": Out(bits),
            "wstrb": Out(bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        }
    )


def read_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """The channels AR and R of a master."""
    return wiring.Signature(
        {
            **_address("ar"),
            "rid": In(1),
            "rdata": In(spec.memory.bus_bits),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def master_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """All five channels of an AXI4 master with the spec's bus."""
    return wiring.Signature({**write_signature(spec).members, **read_signature(spec).members})


def lite_signature() -> wiring.Signature:
    """AXI4-Lite of 32 bits over the registers' window, as its master sees it (a slave is In)."""
    address = (WINDOW_BYTES - 1).bit_length()
    return wiring.Signature(
        {
            "awaddr": Out(address),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(address),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )
