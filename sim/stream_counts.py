"""How many records each row block of a sparse exec has: the one thing cycles need of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden import machine_kinds
from opennpe.golden.errors import ProgramError
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["Outside", "record_counts"]

Ints = NDArray[np.int64]
SPARSE = C.KINDS.index("sparse")
WEIGHTS = C.TARGETS.index("weights")


@dataclass(frozen=True, eq=False)
class Outside:
    """Bytes of the memory outside that a run does not change.

    Attributes:
        data: uint8.
        origin: address of the first one.
    """

    data: NDArray[np.uint8]
    origin: int = 0

    def lines(self, addresses: Ints, size: int) -> NDArray[np.uint16]:
        """Lines of ``size`` bytes at these addresses, as words.

        Raises:
            ProgramError: one that lies elsewhere.
        """
        first = addresses - self.origin
        if (first < 0).any() or (first + size > len(self.data)).any():
            raise ProgramError("a stream of weights comes from outside the program's image")
        return np.ascontiguousarray(self.data[first[:, None] + np.arange(size)]).view("<u2")


def record_counts(
    spec: CoprocessorSpec,
    loads: Mapping[str, Ints],
    execs: Mapping[str, Ints],
    outside: Outside | None,
) -> dict[int, Ints]:
    """Records of each row block by exec, for the sparse ones.

    Args:
        spec: the co-processor.
        loads, execs: fields of all loads and execs, and ``at``: where in the list they are.
        outside: the memory that loads read.

    Raises:
        ProgramError: sparse execs and no memory; streams that are malformed or never loaded.
    """
    own = np.nonzero(execs["kind"] == SPARSE)[0]
    if not own.size:
        return {}
    if outside is None:
        raise ProgramError("cycles of sparse layers depend on the weights: give the memory outside")
    ring = np.full(spec.memory.weight_lines, -1, dtype=np.int64)
    weights = np.nonzero(loads["target"] == WEIGHTS)[0]
    found: dict[int, Ints] = {}
    turn = 0
    for index in own:
        while turn < len(weights) and loads["at"][weights[turn]] < execs["at"][index]:
            load = weights[turn]
            count = int(loads["lines"][load])
            places = (int(loads["line"][load]) + np.arange(count)) % len(ring)
            addresses = int(loads["address"][load]) + spec.line_bytes * np.arange(count)
            ring[places] = -1 if loads["widen"][load] else addresses
            turn += 1
        command = C.Command("exec", {n: int(v[index]) for n, v in execs.items() if n in _FIELDS})
        lines = (command["weight_line"] + np.arange(command["stream_lines"])) % len(ring)
        if (ring[lines] < 0).any():
            raise ProgramError("a sparse exec reads lines that no load brings, or widened ones")
        found[int(index)] = _counts(spec, command, outside.lines(ring[lines], spec.line_bytes))
    return found


_FIELDS = frozenset(name for name, _ in C.FIELDS["exec"]) - {"op"}


def _counts(spec: CoprocessorSpec, command: C.Command, lines: NDArray[Any]) -> Ints:
    shape = machine_kinds.stream_of(spec, command)
    bits = np.unpackbits(lines.view(np.uint8), axis=1, bitorder="little")
    last = bits[:, np.arange(shape.per_line) * shape.record_bits].reshape(-1)
    ends = np.nonzero(last)[0][: command["tiles"]]
    if len(ends) < command["tiles"]:
        raise ProgramError(f"a stream of {len(ends)} row blocks, expected {command['tiles']}")
    return np.diff(ends, prepend=-1).astype(np.int64)
