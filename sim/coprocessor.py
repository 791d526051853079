"""The cycle model: what the co-processor's counters will say, without running it.

Given a spec, a program and how fast the memory outside answers, :func:`cycles` gives exactly the
counters that the RTL gives (``tests/agree`` compares them), and when each command ran.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import OPS, TARGETS, UNITS, WAITS, WIDEN, widen_factor
from opennpe.golden.errors import ProgramError
from opennpe.golden.program import Program
from opennpe.golden.registers import Counters, MemorySettings
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.command_table import fields, places
from opennpe.sim.coprocessor_kernel import simulate
from opennpe.sim.cycle_state import (
    C_FACTOR,
    C_FIRST_BEAT,
    C_FOLDS,
    C_LINES,
    C_OP,
    C_ROWS,
    C_SPACING,
    C_TARGET,
    C_WAITS,
    OP_LOAD,
    Machine,
    machine_of,
)
from opennpe.sim.exec_cycles import (
    E_FINISH,
    E_FOLDS,
    E_LINE_CYCLES,
    describe,
    profiles_of,
)
from opennpe.sim.stream_counts import Outside, record_counts

__all__ = ["Outside", "Timing", "cycles", "cycles_of", "unhindered"]

LIMIT = 1 << 50
"""Cycles after which a run is taken for endless."""


@dataclass(frozen=True, eq=False)
class Timing:
    """What a run takes.

    Attributes:
        counters: as the registers give them.
        units: unit of each command of the list, the end left out.
        pushed: int64 (commands,), cycle in which a command entered its unit's queue.
        begun: cycle in which its unit took it.
        ended: cycle in which it completed.
        busy: steps of the array, for execs.
        blocked: cycles in which results kept the array waiting, for execs.
    """

    counters: Counters
    units: tuple[str, ...]
    pushed: NDArray[np.int64]
    begun: NDArray[np.int64]
    ended: NDArray[np.int64]
    busy: NDArray[np.int64]
    blocked: NDArray[np.int64]


def cycles(
    spec: CoprocessorSpec, program: Program, settings: MemorySettings | None = None
) -> Timing:
    """Counters and times of a program's run.

    Raises:
        ProgramError: a program for another co-processor, or one that never ends.
    """
    program.check(spec)
    first = program.address - program.origin
    listed = program.image[first : first + program.list_bytes]
    outside = Outside(program.image, program.origin)
    return cycles_of(spec, listed, program.address, program.lines, settings, outside)


def cycles_of(
    spec: CoprocessorSpec,
    listed: NDArray[np.uint8],
    address: int,
    lines: int,
    settings: MemorySettings | None = None,
    outside: Outside | None = None,
) -> Timing:
    """The same for a bare command list.

    Args:
        spec: the co-processor.
        listed: uint8, the list's bytes.
        address: where it lies outside.
        lines: lines of it that a start loads.
        settings: how fast the memory answers.
        outside: the memory outside, which lists with sparse execs take.

    Raises:
        ProgramError: a list that is none, with a malformed stream of weights, or that never ends:
            its waits cannot all be satisfied.
    """
    spec.check_coprocessor()
    table, schedule, busy, blocked = _table(spec, listed, address, lines, outside)
    machine = machine_of(spec, settings or MemorySettings())
    pushed, begun, ended, total = _simulated(machine, table, schedule)
    counters = Counters(
        cycles=int(total[0]),
        busy=int(busy.sum()),
        read_stalls=int(total[1]),
        write_stalls=int(blocked.sum()),
        beats_read=int(total[2]),
        beats_written=int(total[3]),
    )
    # Left out: the load of the list's first part, and the end.
    own = slice(1, -1)
    names = tuple(OPS[op] for op in table[C_OP, own])
    return Timing(counters, names, *(part[own] for part in (pushed, begun, ended, busy, blocked)))


def unhindered(
    spec: CoprocessorSpec, listed: NDArray[np.uint8], outside: Outside | None = None
) -> NDArray[np.int64]:
    """Cycle in which each command's unit would take it if queues were never full: (commands,).

    Raises:
        ProgramError: a list that never ends.
    """
    table, schedule, *_ = _table(spec, listed, 0, len(listed) // spec.line_bytes, outside)
    machine = machine_of(spec, MemorySettings())._replace(queue=table.shape[1])
    return _simulated(machine, table, schedule)[1][1:-1]


def _simulated(
    machine: Machine, table: NDArray[np.int64], schedule: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """When each command was pushed, begun and ended, and the kernel's totals."""
    times = [np.zeros(table.shape[1], dtype=np.int64) for _ in range(3)]
    total = np.zeros(4, dtype=np.int64)
    if not simulate(machine, table, schedule, _order(table[C_OP]), *times, total, LIMIT):
        raise ProgramError("the program never ends: commands wait for others that do not come")
    return *times, total


def _order(op: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each unit's commands, (units, commands)."""
    order = np.zeros((len(UNITS), len(op)), dtype=np.int64)
    for unit in range(len(UNITS)):
        own = np.nonzero(op == unit + 1)[0]
        order[unit, : len(own)] = own
    return order


FACTORS = np.array([widen_factor(widen) if widen < len(WIDEN) else 1 for widen in range(8)])


def _table(
    spec: CoprocessorSpec,
    listed: NDArray[np.uint8],
    address: int,
    lines: int,
    outside: Outside | None,
) -> tuple[NDArray[np.int64], ...]:
    """The list as an array; the schedule, steps and blocked cycles of all its execs.

    Its first column is the load that a start makes.
    """
    ops, units = places(listed)
    bus_bytes = spec.memory.bus_bits // 8
    table = np.zeros((C_ROWS, len(ops) + 1), dtype=np.int64)
    table[C_OP, 1:] = ops
    table[C_FACTOR] = 1
    table[C_TARGET] = -1
    first = (OP_LOAD, lines, 1, address // bus_bytes, TARGETS.index("commands"))
    table[C_OP : C_TARGET + 1, 0] = first
    table[C_WAITS + UNITS.index("load"), 0] = -1
    kept: dict[str, dict[str, NDArray[np.int64]]] = {}
    for code, op in enumerate(OPS):
        own = np.nonzero(ops == code)[0]
        found = fields(listed, op, units[own])
        at = own + 1
        for unit, name in enumerate(WAITS):
            table[C_WAITS + unit, at] = found[name]
        if op in ("load", "store"):
            table[C_LINES, at] = found["lines"]
            table[C_FIRST_BEAT, at] = found["address"] // bus_bytes
        if op == "fill":
            table[C_LINES, at] = found["run"] * found["inner"] * found["outer"]
        if op in ("load", "fill"):
            table[C_FACTOR, at] = FACTORS[found["widen"]]
        if op == "load":
            table[C_TARGET, at] = found["target"]
        if op in ("exec", "load"):
            kept[op] = found | {"at": at}
    counts = record_counts(spec, kept["load"], kept["exec"], outside)
    return table, *_execs(spec, kept["exec"], counts, table)


def _execs(
    spec: CoprocessorSpec,
    found: dict[str, NDArray[np.int64]],
    records: dict[int, NDArray[np.int64]],
    table: NDArray[np.int64],
) -> tuple[NDArray[np.int64], ...]:
    """Fills in what is known of execs; their schedule, steps and blocked cycles."""
    described = describe(spec, found)
    first, schedule, profiles = profiles_of(described, records)
    at = found["at"]
    taken, written, busy, blocked = profiles.T
    table[C_FOLDS : C_SPACING + 1, at] = (
        described[:, E_FOLDS], taken, written, described[:, E_FINISH], first[:-1],
        np.diff(first),
        described[:, E_LINE_CYCLES],
    )  # fmt: skip
    spread = np.zeros((2, table.shape[1]), dtype=np.int64)
    spread[:, at] = busy, blocked
    return schedule, spread[0], spread[1]
