"""The co-processor's registers (AXI4-Lite, 32 bits each) and what it can complain of."""

from __future__ import annotations

from dataclasses import dataclass

from opennpe.golden.commands import KINDS
from opennpe.golden.errors import DataError
from opennpe.golden.spec import CoprocessorSpec

__all__ = [
    "CAUSES",
    "COUNTERS",
    "IDENTITY",
    "REGISTERS",
    "VERSION",
    "WINDOW_BYTES",
    "Counters",
    "MemorySettings",
    "capabilities",
]

IDENTITY = 0x4F4E5045  # "ONPE"
VERSION = 3
"""Of the commands and registers; a program of another version is refused."""
WINDOW_BYTES = 256

COUNTERS = ("cycles", "busy", "read_stalls", "write_stalls", "beats_read", "beats_written")
"""Counters in the order of their registers, each 64 bits (low word first)."""

REGISTERS = {
    "identity": 0x00,  # read only
    "version": 0x04,  # read only
    "array": 0x08,  # read only: rows, columns << 8, log2 bus bytes << 16, log2 burst beats << 24
    "buffer_lines": 0x0C,  # read only
    "operand_lines": 0x10,  # read only
    "weight_lines": 0x14,  # read only
    "parameter_tiles": 0x18,  # read only: tiles, command units << 16
    "kinds": 0x1C,  # read only: a bit for each of commands.KINDS that there are gates for
    "control": 0x20,  # write 1: start; bit 1: clear done, error and interrupt
    "status": 0x24,  # read only: bit 0 busy, bit 1 done, bit 2 error, bit 3 interrupt pending
    "cause": 0x28,  # read only: index into CAUSES
    "culprit": 0x2C,  # read only: commands dispatched when the error was raised
    "interrupt": 0x30,  # bit 0: raise the interrupt on done or error
    "program": 0x40,  # byte address of the command list, a multiple of a line
    "program_lines": 0x44,  # lines of it to load at the start, at most half the command memory
    "read_base": 0x48,  # reads outside [read_base, read_limit) are refused
    "read_limit": 0x4C,
    "write_base": 0x50,  # writes outside [write_base, write_limit) are refused
    "write_limit": 0x54,
    **{name: 0x80 + 8 * i for i, name in enumerate(COUNTERS)},
}
"""Byte offset of each register."""

CAUSES = (
    "none",
    "an illegal command",
    "a line outside a memory",
    "a read outside the read window",
    "a write outside the write window",
    "an error response to a read",
    "an error response to a write",
    "commands that wait for what does not come",
    "a malformed stream of weights",
)


@dataclass(frozen=True)
class Counters:
    """What a run of a program counted.

    Attributes:
        cycles: from the start accepted to the end, the cycle that sets done included.
        busy: cycles in which the array took a step of a sum.
        read_stalls: cycles in which the array had nothing to do while a load was under way.
        write_stalls: cycles in which finished results kept the array from going on.
        beats_read: bus beats read, commands included.
        beats_written: bus beats written.
    """

    cycles: int = 0
    busy: int = 0
    read_stalls: int = 0
    write_stalls: int = 0
    beats_read: int = 0
    beats_written: int = 0


@dataclass(frozen=True)
class MemorySettings:
    """How fast the memory outside answers, in cycles of the bus; each is at least 1.

    AR and AW are accepted at once. The first beat of a read burst accepted in cycle t is offered
    from t + ``read_latency`` on, in order; the beat after one taken in cycle u from u +
    ``read_interval`` on. A written beat is taken from ``write_interval`` cycles after the one
    before on; the answer is offered from ``write_latency`` cycles after a burst's last beat on,
    one a cycle.

    Raises:
        DataError: a setting below 1.
    """

    read_latency: int = 20
    read_interval: int = 1
    write_latency: int = 20
    write_interval: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise DataError(f"{name} of the memory is at least 1 cycle, got {value}")


def capabilities(spec: CoprocessorSpec) -> dict[str, int]:
    """Values of the read-only registers that describe a co-processor."""
    memory, array = spec.memory, spec.array
    log2 = {"bus": (memory.bus_bits // 8).bit_length() - 1}
    log2["burst"] = memory.burst_beats.bit_length() - 1
    return {
        "identity": IDENTITY,
        "version": VERSION,
        "array": array.rows | array.columns << 8 | log2["bus"] << 16 | log2["burst"] << 24,
        "buffer_lines": memory.buffer_lines,
        "operand_lines": memory.operand_lines,
        "weight_lines": memory.weight_lines,
        "parameter_tiles": memory.parameter_tiles | memory.command_units << 16,
        "kinds": sum(1 << i for i, kind in enumerate(KINDS) if not spec.lacks(kind)),
    }
