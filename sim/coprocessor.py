"""The cycle model: what the co-processor's counters will say, without running it.

Given a spec, a program and how fast the memory outside answers, :func:`cycles` gives exactly the
counters that the RTL gives (``tests/agree`` compares them), and when each command ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import OPS, TARGETS, UNITS, WAITS, WIDEN, Command
from opennpe.golden.errors import ProgramError
from opennpe.golden.formats import get
from opennpe.golden.program import Program
from opennpe.golden.registers import Counters, MemorySettings
from opennpe.golden.spec import CoprocessorSpec
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
    OP_FILL,
    OP_LOAD,
    machine_of,
)
from opennpe.sim.exec_cycles import Profile, describe, profile, tile_count

__all__ = ["Timing", "cycles", "cycles_of"]

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
    commands = [command for _, command in program.commands]
    return cycles_of(spec, commands, program.address, program.lines, settings)


def cycles_of(
    spec: CoprocessorSpec,
    commands: Sequence[Command],
    address: int,
    lines: int,
    settings: MemorySettings | None = None,
) -> Timing:
    """The same for a bare command list at byte ``address``, of which a start loads ``lines``.

    Raises:
        ProgramError: a list that never ends: its waits cannot all be satisfied.
    """
    spec.check_coprocessor()
    first = Command("load", {"target": TARGETS.index("commands"), "lines": lines})
    table, schedule, busy, blocked = _table(spec, [first, *commands], address)
    pushed, begun, ended = (np.zeros(table.shape[1], dtype=np.int64) for _ in range(3))
    total = np.zeros(4, dtype=np.int64)
    machine = machine_of(spec, settings or MemorySettings())
    order = _order(table[C_OP])
    if not simulate(machine, table, schedule, order, pushed, begun, ended, total, LIMIT):
        raise ProgramError("the program never ends: commands wait for others that do not come")
    counters = Counters(
        cycles=int(total[0]),
        busy=int(busy.sum()),
        read_stalls=int(total[1]),
        write_stalls=int(blocked.sum()),
        beats_read=int(total[2]),
        beats_written=int(total[3]),
    )
    listed = slice(1, -1)
    names = tuple(OPS[op] for op in table[C_OP, listed])
    parts = (pushed, begun, ended, busy, blocked)
    return Timing(counters, names, *(part[listed] for part in parts))


def _order(op: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each unit's commands, (units, commands)."""
    order = np.zeros((len(UNITS), len(op)), dtype=np.int64)
    for unit in range(len(UNITS)):
        own = np.nonzero(op == unit + 1)[0]
        order[unit, : len(own)] = own
    return order


def _factor(widen: int) -> int:
    pair = WIDEN[widen]
    return 1 if pair is None else int(get(pair[1]).bits // get(pair[0]).bits)


def _table(
    spec: CoprocessorSpec, commands: Sequence[Command], address: int
) -> tuple[NDArray[np.int64], ...]:
    """The list as an array; the schedule, steps and blocked cycles of all its execs."""
    table = np.zeros((C_ROWS, len(commands)), dtype=np.int64)

    def column(name: str) -> NDArray[np.int64]:
        return np.array([c.values.get(name, 0) for c in commands], dtype=np.int64)

    table[C_OP] = op = np.array([OPS.index(c.op) for c in commands], dtype=np.int64)
    for unit, name in enumerate(WAITS):
        table[C_WAITS + unit] = column(name)
    table[C_WAITS + UNITS.index("load"), 0] = -1
    fill = op == OP_FILL
    table[C_LINES] = column("lines")
    table[C_LINES, fill] = (column("run") * column("inner") * column("outer"))[fill]
    moves = (op == OP_LOAD) | fill
    factors = np.array([_factor(widen) for widen in range(len(WIDEN))])
    table[C_FACTOR] = 1
    table[C_FACTOR, moves] = factors[np.minimum(column("widen"), len(WIDEN) - 1)][moves]
    table[C_FIRST_BEAT] = column("address") // (spec.memory.bus_bits // 8)
    table[C_FIRST_BEAT, 0] = address // (spec.memory.bus_bits // 8)
    table[C_TARGET] = np.where(op == OP_LOAD, column("target"), -1)
    return table, *_execs(spec, commands, table)


def _execs(
    spec: CoprocessorSpec, commands: Sequence[Command], table: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """Fills in what is known of execs; their schedule, steps and blocked cycles."""
    described = {i: describe(spec, c) for i, c in enumerate(commands) if c.op == "exec"}
    busy, blocked = np.zeros((2, len(commands)), dtype=np.int64)
    schedule = np.zeros((sum(map(tile_count, described.values())) + 1, 2), dtype=np.int64)
    known: dict[Any, Any] = {}
    at = 0
    for i, e in described.items():
        count = tile_count(e)
        own = schedule[at : at + count]
        if e in known:
            own[:] = known[e][1]
        else:
            known[e] = (profile(e, own), own)
        found: Profile = known[e][0]
        busy[i], blocked[i] = found.busy, found.blocked
        values = (e.folds, found.taken, found.written, e.finish, at, count, e.line_cycles)
        table[C_FOLDS : C_SPACING + 1, i] = values
        at += count
    return schedule, busy, blocked
