"""A command list's bytes as arrays of fields, all commands of a kind at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import FIELDS, OPS, SIGNED, unit_count
from opennpe.golden.errors import ProgramError
from opennpe.golden.spec import UNIT_BYTES

__all__ = ["fields", "places"]

Ints = NDArray[np.int64]
OP_MASK = (1 << dict(FIELDS["end"])["op"]) - 1


def places(data: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Opcode and first unit of each command of a list, up to and including its ``end``.

    Args:
        data: uint8, whole units.

    Raises:
        ProgramError: an opcode there is not, or a list that stops short.
    """
    codes = (data[::UNIT_BYTES] & OP_MASK).tolist()
    sizes = [unit_count(op) for op in OPS]
    ops, units, at = [], [], 0
    while True:
        if at >= len(codes) or codes[at] >= len(OPS):
            raise ProgramError(f"the command list is none from byte {at * UNIT_BYTES} on")
        ops.append(codes[at])
        units.append(at)
        if codes[at] == OPS.index("end"):
            return np.array(ops, dtype=np.int64), np.array(units, dtype=np.int64)
        at += sizes[codes[at]]


def fields(data: NDArray[np.uint8], op: str, units: Ints) -> dict[str, Ints]:
    """Every field of the commands of one kind, (commands,) each.

    Args:
        units: where they begin.
    """
    count = unit_count(op) * UNIT_BYTES
    own: NDArray[Any] = np.zeros((len(units), count + 8), dtype=np.uint8)
    own[:, :count] = data[units[:, None] * UNIT_BYTES + np.arange(count)]
    found, place = {}, 0
    for name, width in FIELDS[op]:
        first = place // 8
        word = np.ascontiguousarray(own[:, first : first + 8]).view("<u8")[:, 0]
        value = (word >> np.uint64(place % 8) & np.uint64((1 << width) - 1)).astype(np.int64)
        if name in SIGNED:
            value -= value >> (width - 1) << width
        found[name] = value
        place += width
    return found
