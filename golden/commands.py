"""Commands of the co-processor: fields, widths, bits. What they do: :mod:`opennpe.golden.machine`.

A command is a whole number of 32-byte units, its fields packed from bit 0 up in the order listed
here, little-endian. The RTL takes its layouts from these tables, the compiler and the disassembler
theirs. Addresses in memory are bytes; everywhere else a line is counted (a 16-bit word a column)
or a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from opennpe.golden.errors import ProgramError
from opennpe.golden.formats import get
from opennpe.golden.spec import OPTIONAL_KINDS, UNIT_BYTES

__all__ = [
    "FIELDS",
    "KINDS",
    "OPS",
    "PARAMETER_LINES",
    "ROW_KINDS",
    "SETTINGS",
    "SIGNED",
    "SUM_KINDS",
    "TABLE_LINES",
    "TARGETS",
    "UNITS",
    "WAITS",
    "WIDEN",
    "WIDENED",
    "Command",
    "Walk",
    "decode",
    "encode",
    "pixel_elements",
    "unit_count",
    "weight_steps",
    "widen_factor",
]

OPS = ("end", "load", "fill", "exec", "store")
"""Opcode of each command; all but ``end`` are also the names of the units that run them."""
UNITS = OPS[1:]
WAITS = tuple(f"wait_{unit}" for unit in UNITS)
"""A command may wait until each unit has completed so many since the start (mod 2**16)."""
TARGETS = ("buffer", "weights", "parameters", "commands", "table")
"""Where a load puts its lines."""
WIDEN = (None, ("fp4", "posit8"), ("posit4", "posit8"), ("fp4", "posit16"), ("posit4", "posit16"),
         ("posit8", "posit16"))  # fmt: skip
"""Formats before and after a load's or a fill's widening; none is index 0."""
WIDENED = ("buffer", "weights")
"""Targets of a load that may widen."""
SUM_KINDS = ("dense", "depth", "max")
"""Kinds whose weights are lines."""
KINDS = (*SUM_KINDS, *OPTIONAL_KINDS)
"""How an exec maps a layer: see :mod:`opennpe.golden.machine`."""
ROW_KINDS = ("softmax", "norm")
"""Kinds that take a row of elements twice and have no weights."""
PARAMETER_LINES = 12
"""Lines of a channel tile's parameters: 8 of the biases' 16-bit words, low first, then 4 shifts."""
TABLE_LINES = 256
"""Entries of the activation table: a line each, the same code in every word."""

SETTINGS = 3
"""32-bit words of what a row unit is told of numbers."""

_HEAD = (("op", 4), *((name, 16) for name in WAITS))

FIELDS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "end": _HEAD,
    "load": (
        *_HEAD,
        ("target", 3),
        ("widen", 3),
        ("line", 20),  # first line written
        ("lines", 20),  # lines read, before widening
        ("address", 32),
    ),
    "fill": (
        *_HEAD,
        ("widen", 3),
        ("source", 20),  # line of the buffer
        ("line", 16),  # first line written in every row's operand memory, which is a ring
        ("run", 16),  # lines at a stretch, before widening
        ("inner", 12),
        ("inner_stride", 20),  # buffer lines from one stretch to the next
        ("outer", 12),
        ("outer_stride", 20),
    ),
    "exec": (
        *_HEAD,
        ("kind", 3),
        ("mode_a", 2),
        ("mode_b", 2),
        ("out", 2),
        ("fold", 2),  # log2 of the pixels a row works on at a time
        ("begin", 1),  # sums start here
        ("finish", 1),  # sums end here, results leave
        # The walk over one sum: block, tap, word, element, innermost last.
        ("blocks", 12),
        ("kernel_y", 8),
        ("kernel_x", 8),
        ("words", 8),
        ("last_words", 8),
        ("last_elements", 3),
        ("block_step", 16),  # words of operand memory, as all steps
        ("tap_y", 16),
        ("tap_x", 16),
        # Where the input ends.
        ("dilation_y", 6),
        ("dilation_x", 6),
        ("height", 14),
        ("width", 14),
        # The walk over pixels: the first one, the step to the next, to the next row, to the next
        # tile.
        ("base", 16),
        ("iy", 15),
        ("ix", 15),
        ("stride_y", 6),
        ("stride_x", 6),
        ("pixel_step", 16),
        ("limit", 15),
        ("span", 15),
        ("wrap_step", 16),
        ("tile_y", 14),
        ("tile_x", 15),
        ("tile_step", 16),
        # The walk over channel tiles.
        ("tiles", 12),
        ("channel_step", 16),
        ("weight_line", 16),
        ("parameter", 10),
        # Where results go.
        ("lines", 20),
        ("out_line", 20),
        ("out_tile", 20),
        ("out_block", 20),
        ("clamp", 1),
        ("low", 16),
        ("high", 16),
        ("table", 1),
        # Sparse: the stream of micro-operations (golden.microops).
        ("block_rows", 2),  # log2 of the output channels that share a record
        ("delta", 2),  # index into microops.DELTAS
        ("weight_widen", 3),  # of the records' weights
        ("stream_lines", 16),
        ("inputs", 16),  # input channels; of softmax and norm, the elements of a row
        # Softmax and norm.
        ("causal", 1),  # a row keeps one element more than the row before
        ("keep", 16),  # elements that the first row keeps
        ("out_shift", 10),
        *((f"setting{i}", 32) for i in range(SETTINGS)),
    ),
    "store": (*_HEAD, ("line", 20), ("lines", 20), ("address", 32)),
}
SIGNED = frozenset({"iy", "ix", "limit", "out_shift"})


@dataclass(frozen=True)
class Command:
    """One command: its name and its fields; those left out are 0.

    Raises:
        ProgramError: no such command or field, or a value its field cannot hold.
    """

    op: str
    values: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ProgramError(f"unknown command '{self.op}': expected one of {', '.join(OPS)}")
        widths = dict(FIELDS[self.op])
        for name, value in self.values.items():
            if name not in widths or name == "op":
                raise ProgramError(f"command {self.op} has no field '{name}'")
            bits = widths[name]
            low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if name in SIGNED else (0, 1 << bits)
            if not low <= value < high:
                raise ProgramError(f"{name} of {self.op} lies in {low}..{high - 1}, got {value}")

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    @property
    def units(self) -> int:
        """32-byte units the command takes."""
        return unit_count(self.op)


class Walk(Protocol):
    """Fields of an exec by name: a command, or what is to become one."""

    def __getitem__(self, name: str, /) -> int: ...


def pixel_elements(walk: Walk, per_word: int) -> int:
    """Elements of a pixel that a dense sum meets at one tap; ``per_word``: lanes of a word."""
    last = (walk["last_words"] - 1) * per_word + walk["last_elements"]
    return (walk["blocks"] - 1) * walk["words"] * per_word + last


def weight_steps(kind: str, walk: Walk, per_word: int) -> int:
    """Weight lines of a channel tile of an exec of one of ``SUM_KINDS``."""
    if kind == "max":
        return 1
    taps = walk["kernel_y"] * walk["kernel_x"]
    return taps * (pixel_elements(walk, per_word) if kind == "dense" else walk["blocks"])


def widen_factor(widen: int) -> int:
    """Lines that a line becomes by a widening: 1, 2 or 4.

    Raises:
        IndexError: no such widening.
    """
    pair = WIDEN[widen]
    return 1 if pair is None else int(get(pair[1]).bits // get(pair[0]).bits)


def unit_count(op: str) -> int:
    """32-byte units of a command of this name."""
    bits = sum(width for _, width in FIELDS[op])
    return -(-bits // (8 * UNIT_BYTES))


def encode(command: Command) -> bytes:
    """A command's bytes, a whole number of units."""
    word, place = 0, 0
    for name, width in FIELDS[command.op]:
        value = OPS.index(command.op) if name == "op" else command[name]
        word |= (value & ((1 << width) - 1)) << place
        place += width
    return word.to_bytes(command.units * UNIT_BYTES, "little")


def decode(data: bytes) -> Iterator[tuple[int, Command]]:
    """Offset in bytes and command of each in a list, up to and including the first ``end``.

    Raises:
        ProgramError: an opcode there is not, or a list that stops short.
    """
    at = 0
    while True:
        code = data[at] & 15 if at < len(data) else None
        if code is None or code >= len(OPS):
            what = "stops without an end" if code is None else f"holds opcode {code}"
            raise ProgramError(f"the command list {what} at byte {at}")
        op = OPS[code]
        size = unit_count(op) * UNIT_BYTES
        if at + size > len(data):
            raise ProgramError(f"the command list stops inside a command at byte {at}")
        yield at, Command(op, _fields(op, int.from_bytes(data[at : at + size], "little")))
        if op == "end":
            return
        at += size


def _fields(op: str, word: int) -> dict[str, int]:
    values: dict[str, Any] = {}
    place = 0
    for name, width in FIELDS[op]:
        value = word >> place & ((1 << width) - 1)
        place += width
        if name in SIGNED and value >> (width - 1):
            value -= 1 << width
        if name != "op" and value:
            values[name] = value
    return values
