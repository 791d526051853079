"""State of the cycle model: one int64 array a unit, its places named here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import OPS, UNITS, unit_count
from opennpe.golden.registers import MemorySettings
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec

__all__ = ["NEVER", "Commands", "Machine", "Times", "machine_of"]

Ints = NDArray[np.int64]
NEVER = 1 << 62
"""A cycle that does not come."""


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
    boundary = 4096 * 8 // memory.bus_bits
    unit_lines = UNIT_BYTES // spec.line_bytes
    return Machine(
        rows=spec.array.rows,
        unit_lines=unit_lines,
        exec_lines=unit_count("exec") * unit_lines,
        queue=memory.queue,
        beats=spec.beats_per_line,
        burst=min(memory.burst_beats, boundary),
        in_flight=memory.bursts_in_flight,
        read_latency=settings.read_latency,
        read_interval=settings.read_interval,
        write_latency=settings.write_latency,
        write_interval=settings.write_interval,
    )


class Commands(NamedTuple):
    """A command list as arrays, a command an entry.

    Attributes:
        op: index into OPS.
        waits: (commands, units).
        lines: lines of a load, store or fill, before widening.
        factor: what widening multiplies them by.
        first_beat: address of a load or store, in beats of the bus.
        target: of a load; -1 elsewhere.
        folds: of an exec.
        taken, written: of an exec, from its first fetch (:class:`sim.exec_cycles.Profile`).
        finish: of an exec.
        entries: of the schedule, where an exec's begin; one more than there are commands.
        schedule: (tiles, 2), of all execs.
        spacing: cycles from one written line to the next.
    """

    op: Ints
    waits: Ints
    lines: Ints
    factor: Ints
    first_beat: Ints
    target: Ints
    folds: Ints
    taken: Ints
    written: Ints
    finish: Ints
    entries: Ints
    schedule: Ints
    spacing: Ints


class Times(NamedTuple):
    """What the model finds out, a cycle a command: the start in cycle 0.

    Attributes:
        pushed: into its queue. begun: taken by its unit. ended: completed.
        totals: cycles, read stalls, beats read, beats written.
    """

    pushed: Ints
    begun: Ints
    ended: Ints
    totals: Ints


OP_END, OP_LOAD, OP_FILL, OP_EXEC, OP_STORE = (OPS.index(name) for name in ("end", *UNITS))
