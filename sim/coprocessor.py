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
from opennpe.sim.cycle_state import Commands, Times, machine_of
from opennpe.sim.exec_cycles import describe, profile, tile_count

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
    table, busy, blocked = _table(spec, [first, *commands], address)
    order = _order(table.op)
    times = Times(*(np.zeros(len(table.op), dtype=np.int64) for _ in range(3)), np.zeros(4, int))
    machine = machine_of(spec, settings or MemorySettings())
    if not simulate(machine, table, order, times, LIMIT):
        raise ProgramError("the program never ends: commands wait for others that do not come")
    total = times.totals
    counters = Counters(
        cycles=int(total[0]),
        busy=int(busy.sum()),
        read_stalls=int(total[1]),
        write_stalls=int(blocked.sum()),
        beats_read=int(total[2]),
        beats_written=int(total[3]),
    )
    listed = slice(1, -1)
    names = tuple(OPS[op] for op in table.op[listed])
    parts = (times.pushed, times.begun, times.ended, busy, blocked)
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
) -> tuple[Commands, NDArray[np.int64], NDArray[np.int64]]:
    """The list as arrays, and steps and blocked cycles of every command."""
    count = len(commands)

    def column(name: str) -> NDArray[np.int64]:
        return np.array([c.values.get(name, 0) for c in commands], dtype=np.int64)

    op = np.array([OPS.index(c.op) for c in commands], dtype=np.int64)
    waits = np.stack([column(name) for name in WAITS], axis=1)
    waits[0, UNITS.index("load")] = -1
    fill = op == OPS.index("fill")
    lines = column("lines")
    lines[fill] = (column("run") * column("inner") * column("outer"))[fill]
    factor = np.array([_factor(c["widen"]) if c.op in ("load", "fill") else 1 for c in commands])
    begins = column("address")
    begins[0] = address
    target = column("target")
    target[op != OPS.index("load")] = -1
    described = [describe(spec, c) if c.op == "exec" else None for c in commands]
    sizes = [tile_count(e) if e else 0 for e in described]
    entries = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    schedule = np.zeros((max(1, int(entries[-1])), 2), dtype=np.int64)
    taken, written, busy, blocked, folds, finish = (np.zeros(count, np.int64) for _ in range(6))
    spacing = np.ones(count, dtype=np.int64)
    known: dict[Any, Any] = {}
    for i, e in enumerate(described):
        if e is None:
            continue
        own = schedule[entries[i] : entries[i + 1]]
        if e not in known:
            known[e] = (profile(e, own), own)
        else:
            own[:] = known[e][1]
        taken[i], written[i], busy[i], blocked[i] = known[e][0]
        folds[i], finish[i], spacing[i] = e.folds, e.finish, e.line_cycles
    table = Commands(
        op, waits, lines, factor.astype(np.int64), begins // (spec.memory.bus_bits // 8), target,
        folds, taken, written, finish, entries, schedule, spacing,
    )  # fmt: skip
    return table, busy, blocked
