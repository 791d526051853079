"""State of the cycle model: one int64 array a unit, its places named here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import OPS, UNITS, unit_count
from opennpe.golden.registers import MemorySettings
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec

__all__ = ["C_ROWS", "NEVER", "RING", "Machine", "machine_of"]

Ints = NDArray[np.int64]
NEVER = 1 << 62
"""A cycle that does not come."""
RING = 256
"""Places of a ring of things under way."""


class Machine(NamedTuple):
    """What of a co-processor and of the memory outside cycles depend on."""

    rows: int
    unit_lines: int  # lines of a command unit
    exec_lines: int  # lines of an exec command
    queue: int
    beats: int  # of a line
    burst: int  # beats of the longest
    in_flight: int
    read_latency: int
    read_interval: int
    write_latency: int
    write_interval: int


def machine_of(spec: CoprocessorSpec, settings: MemorySettings) -> Machine:
    """The numbers of a spec and of memory settings."""
    memory = spec.memory
    unit_lines = UNIT_BYTES // spec.line_bytes
    return Machine(
        rows=spec.array.rows,
        unit_lines=unit_lines,
        exec_lines=unit_count("exec") * unit_lines,
        queue=memory.queue,
        beats=spec.beats_per_line,
        burst=spec.burst_beats,
        in_flight=memory.bursts_in_flight,
        read_latency=settings.read_latency,
        read_interval=settings.read_interval,
        write_latency=settings.write_latency,
        write_interval=settings.write_interval,
    )


(
    C_OP,  # index into OPS
    C_LINES,  # of a load, store or fill, before widening
    C_FACTOR,  # what widening multiplies them by
    C_FIRST_BEAT,  # address of a load or store, in beats of the bus
    C_TARGET,  # of a load; -1 elsewhere
    C_FOLDS,  # of an exec, as all below
    C_TAKEN,  # from its first fetch to its last step
    C_WRITTEN,  # from its first fetch to its last line
    C_FINISH,
    C_ENTRIES,  # its first entry in the schedule
    C_COUNT,  # its entries
    C_SPACING,  # cycles from one written line to the next
    C_WAITS,  # the first of as many rows as there are units
) = range(13)
C_ROWS = C_WAITS + len(UNITS)
"""Rows of a command list as an array, a command a column."""

OP_END, OP_LOAD, OP_FILL, OP_EXEC, OP_STORE = (OPS.index(name) for name in ("end", *UNITS))
