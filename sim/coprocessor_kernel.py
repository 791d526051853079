"""The co-processor's units cycle by cycle, but only in cycles in which something happens.

Each function is one unit in one cycle, with the rules that the unit's docstring in the RTL states.
All read registered state and write what the next cycle sees; what crosses units within a cycle
(completions, queue heads, the buffer's ports) is passed on in the order of the calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.spec import LOAD_QUEUE
from opennpe.sim.cycle_state import (
    C_COUNT,
    C_ENTRIES,
    C_FACTOR,
    C_FINISH,
    C_FOLDS,
    C_LINES,
    C_OP,
    C_SPACING,
    C_TAKEN,
    C_TARGET,
    C_WAITS,
    C_WRITTEN,
    NEVER,
    OP_END,
    OP_EXEC,
    OP_FILL,
    OP_LOAD,
    OP_STORE,
    RING,
    Ints,
    Machine,
)
from opennpe.sim.jit import inlined, kernel
from opennpe.sim.load_cycles import (
    ASK,
    BUFFER,
    CHECK,
    IDLE,
    L_ASKED,
    L_COMMAND,
    L_HEAD,
    L_OF,
    L_READ,
    L_STATE,
    L_TAIL,
    L_VALID,
    L_WROTE,
    LOAD_STATE,
    load_back,
    load_busy,
    load_front,
    load_next,
    stream_load,
    to_buffer,
)
from opennpe.sim.store_cycles import (
    S_CHECK,
    S_COMMAND,
    S_IDLE,
    S_STATE,
    S_WRITTEN,
    STORE_STATE,
    step_store,
    store_next,
)

__all__ = ["simulate"]

FIRST, READ, DECODE, PUSH, END, DONE = range(6)
Bools = NDArray[np.bool_]
UNITS = 4
"""Loads, fills, execs, stores: a unit's index is its opcode less one."""

# Places in the arrays of state. All hold what registers hold at the start of a cycle.
D_STATE, D_THERE, D_INDEX, D_GOAL, D_NEXT, D_WAKE = range(6)
F_BEGUN, F_END, F_COMMAND = range(3)
X_READY, X_OWED, X_HEAD, X_TAIL, X_ENTRY, X_EXEC = range(6)


@inlined
def _results_write(x: Ints, execs: Ints, fetch: Ints, c: Ints, schedule: Ints, cycle: int) -> bool:
    """Whether the exec unit writes a line of the buffer in this cycle; cycles only grow."""
    while x[X_EXEC] < x[X_TAIL]:
        command = execs[x[X_EXEC] % RING]
        first = c[C_ENTRIES, command]
        count = c[C_COUNT, command]
        while x[X_ENTRY] < count:
            since = cycle - fetch[command] - schedule[first + x[X_ENTRY], 0]
            if since <= schedule[first + x[X_ENTRY], 1]:
                return bool(since >= 1 and since % c[C_SPACING, command] == 0)
            x[X_ENTRY] += 1
        x[X_ENTRY] = 0
        x[X_EXEC] += 1
    return False


@inlined
def _results_from(x: Ints, execs: Ints, fetch: Ints, c: Ints, schedule: Ints, cycle: int) -> int:
    """A cycle from ``cycle`` on before which the exec unit writes nothing."""
    if _results_write(x, execs, fetch, c, schedule, cycle) or x[X_EXEC] >= x[X_TAIL]:
        return cycle if x[X_EXEC] < x[X_TAIL] else NEVER
    command = execs[x[X_EXEC] % RING]
    begins = fetch[command] + schedule[c[C_ENTRIES, command] + x[X_ENTRY], 0] + 1
    return int(max(begins, cycle))


@inlined
def _reached(c: Ints, counts: Ints, command: int) -> bool:
    """Whether every unit has completed what the command waits for."""
    for unit in range(UNITS):  # noqa: SIM110 - numba has no all() of a generator
        if (counts[unit] - c[C_WAITS + unit, command]) & 0xFFFF >= 0x8000:
            return False
    return True


@inlined
def _dispatch(
    m: Machine,
    c: Ints,
    s: Ints,
    counts: Ints,
    pushed: Ints,
    popped: Ints,
    wrote: int,
    entered: Ints,
    cycle: int,
) -> bool:
    """Reads commands and hands them on; whether the list has ended. ``popped``: before now."""
    state = s[D_STATE]
    taken = 0
    if cycle < s[D_WAKE]:
        state = DONE
    if state == FIRST:
        pushed[OP_LOAD - 1] += 1
        entered[0] = cycle
        s[D_STATE] = READ
    elif state == READ:
        # A line a cycle; those that are there already are one after the other.
        taken = min(s[D_THERE], s[D_GOAL] - s[D_INDEX])
        s[D_INDEX] += taken
        if s[D_INDEX] == s[D_GOAL]:
            s[D_STATE] = DECODE
            s[D_WAKE] = cycle + taken + 1
        elif taken:
            s[D_WAKE] = cycle + taken
    elif state == DECODE:
        op = c[C_OP, s[D_NEXT]]
        if op == OP_EXEC and s[D_INDEX] != m.exec_lines:
            s[D_GOAL] = m.exec_lines
            s[D_STATE] = READ
        else:
            s[D_STATE] = END if op == OP_END else PUSH
    elif state == PUSH:
        unit = c[C_OP, s[D_NEXT]] - 1
        if pushed[unit] - popped[unit] < m.queue:
            pushed[unit] += 1
            entered[s[D_NEXT]] = cycle
            s[D_NEXT] += 1
            s[D_INDEX] = 0
            s[D_GOAL] = m.unit_lines
            s[D_STATE] = READ
    elif state == END and _reached(c, counts, s[D_NEXT]):
        s[D_STATE] = DONE
    s[D_THERE] += wrote - taken
    return bool(s[D_STATE] == DONE)


@inlined
def _dispatcher_next(m: Machine, c: Ints, s: Ints, counts: Ints, level: Ints, cycle: int) -> int:
    """The next cycle in which the dispatcher does something."""
    state = s[D_STATE]
    acts = state != DONE
    if state == READ:
        acts = s[D_THERE] > 0
    elif state == PUSH:
        acts = level[c[C_OP, s[D_NEXT]] - 1] < m.queue
    elif state == END:
        acts = _reached(c, counts, s[D_NEXT])
    return int(max(cycle + 1, s[D_WAKE])) if acts else NEVER


@inlined
def _take_exec(
    m: Machine,
    c: Ints,
    x: Ints,
    execs: Ints,
    fetch: Ints,
    ends: Ints,
    command: int,
    cycle: int,
) -> None:
    """Places are set up, the results of the exec before waited for; the rest is known."""
    begins = cycle + m.rows * c[C_FOLDS, command] + 1
    fetch[command] = max(begins, x[X_OWED] + 1) + 1
    x[X_READY] = fetch[command] + c[C_TAKEN, command] + 1
    ends[command] = fetch[command] + c[C_WRITTEN, command]
    if c[C_FINISH, command]:
        x[X_OWED] = ends[command]
    execs[x[X_TAIL] % RING] = command
    x[X_TAIL] += 1


@inlined
def _take(
    m: Machine,
    c: Ints,
    units: tuple[Ints, Ints, Ints, Ints],
    execs: Ints,
    fetch: Ints,
    ends: Ints,
    command: int,
    cycle: int,
) -> None:
    """A unit that is idle takes a command; ``units`` are the states of load, fill, exec, store."""
    s, f, x, w = units
    op = c[C_OP, command]
    if op == OP_LOAD:
        s[L_STATE], s[L_COMMAND] = CHECK, command
    elif op == OP_FILL:
        f[F_BEGUN], f[F_COMMAND] = cycle, command
        f[F_END] = cycle + c[C_LINES, command] * c[C_FACTOR, command]
        ends[command] = f[F_END] + 1
    elif op == OP_EXEC:
        _take_exec(m, c, x, execs, fetch, ends, command, cycle)
    else:
        w[S_STATE], w[S_COMMAND] = S_CHECK, command


@inlined
def _units_next(f: Ints, x: Ints, execs: Ints, ends: Ints, cycle: int) -> int:
    """The next cycle in which a fill or an exec completes, or the exec unit is free."""
    following = NEVER
    if f[F_COMMAND] > 0:
        following = f[F_END] + 1
    if x[X_HEAD] < x[X_TAIL]:
        following = min(following, ends[execs[x[X_HEAD] % RING]])
    if x[X_READY] > cycle:
        following = min(following, x[X_READY])
    return int(following)


@inlined
def _free_from(unit: int, f: Ints, x: Ints, idle: Bools, cycle: int) -> int:
    """The next cycle in which a unit could take a command, if that is known."""
    if unit == OP_FILL - 1:
        return int(max(cycle, f[F_END]) + 1)
    if unit == OP_EXEC - 1:
        return int(max(cycle + 1, x[X_READY]))
    return cycle + 1 if idle[unit] else NEVER


@kernel()
def simulate(
    m: Machine,
    c: Ints,
    schedule: Ints,
    order: Ints,
    entered: Ints,
    begun: Ints,
    ends: Ints,
    totals: Ints,
    limit: int,
) -> bool:
    """Run a command list. False: nothing could happen any more, or the limit is reached.

    Args:
        c: (``C_ROWS``, commands), see :mod:`opennpe.sim.cycle_state`.
        schedule: (tiles, 2), of all execs.
        order: (units, commands), each unit's commands in order.
        entered, begun, ends: (commands,), filled: when each entered its queue, was taken by its
            unit and completed, the start in cycle 0.
        totals: (4,), filled: cycles, read stalls, beats read, beats written.
    """
    d = np.zeros(6, dtype=np.int64)
    s = np.zeros(LOAD_STATE, dtype=np.int64)
    f = np.zeros(3, dtype=np.int64)
    x = np.zeros(6, dtype=np.int64)
    w = np.zeros(STORE_STATE, dtype=np.int64)
    fifo = np.zeros(RING, dtype=np.int64)
    execs = np.zeros(RING, dtype=np.int64)
    answers = np.zeros(RING, dtype=np.int64)
    bursts = np.zeros(2 * RING, dtype=np.int64)
    counts = np.zeros(UNITS, dtype=np.int64)
    pushed = np.zeros(UNITS, dtype=np.int64)
    popped = np.zeros(UNITS, dtype=np.int64)
    before = np.zeros(UNITS, dtype=np.int64)
    level = np.zeros(UNITS, dtype=np.int64)
    idle = np.zeros(UNITS, dtype=np.bool_)
    fetch = np.zeros(c.shape[1], dtype=np.int64)
    read_stalls = 0
    counts[OP_LOAD - 1] = -1
    d[D_STATE], d[D_GOAL], d[D_NEXT] = FIRST, m.unit_lines, 1
    f[F_END] = -1
    x[X_OWED] = -1
    cycle = 1
    while cycle < limit:
        room = s[L_TAIL] - s[L_HEAD] < LOAD_QUEUE
        waiting = cycle >= x[X_READY]
        read_stalls += int(waiting and load_busy(s))
        blocked = False
        if s[L_VALID] == 1 and c[C_TARGET, s[L_OF]] == BUFFER:
            blocked = _results_write(x, execs, fetch, c, schedule, cycle)
        before[:] = popped
        idle[OP_LOAD - 1] = s[L_STATE] == IDLE
        idle[OP_FILL - 1] = cycle > f[F_END]
        idle[OP_EXEC - 1] = waiting
        idle[OP_STORE - 1] = w[S_STATE] == S_IDLE
        finished, load_done = load_back(m, c, s, fifo, bursts, blocked, cycle)
        load_front(m, c, s, fifo, bursts, room, finished, cycle)
        store_done = step_store(m, c, w, answers, f[F_BEGUN] < cycle <= f[F_END], cycle)
        fill_done = f[F_COMMAND] > 0 and cycle == f[F_END] + 1
        if fill_done:
            f[F_COMMAND] = 0
        exec_done = x[X_HEAD] < x[X_TAIL] and ends[execs[x[X_HEAD] % RING]] == cycle
        if exec_done:
            x[X_HEAD] += 1
        for unit in range(UNITS):
            command = order[unit, popped[unit]]
            if popped[unit] == pushed[unit] or entered[command] >= cycle:
                continue
            if idle[unit] and _reached(c, counts, command):
                _take(m, c, (s, f, x, w), execs, fetch, ends, command, cycle)
                begun[command] = cycle
                popped[unit] += 1
        ended = _dispatch(m, c, d, counts, pushed, before, s[L_WROTE], entered, cycle)
        if ended:
            totals[0] = cycle + 1
            totals[1] = read_stalls
            totals[2] = s[L_READ]
            totals[3] = w[S_WRITTEN]
            return True
        if load_done:
            ends[order[OP_LOAD - 1, counts[OP_LOAD - 1] + 1]] = cycle
        if store_done:
            ends[order[OP_STORE - 1, counts[OP_STORE - 1]]] = cycle
        counts[OP_LOAD - 1] += int(load_done)
        counts[OP_FILL - 1] += int(fill_done)
        counts[OP_EXEC - 1] += int(exec_done)
        counts[OP_STORE - 1] += int(store_done)
        for unit in range(UNITS):
            level[unit] = pushed[unit] - popped[unit]
        following = store_next(m, w, answers, f[F_END], cycle)
        following = min(following, _units_next(f, x, execs, ends, cycle))
        idle[OP_LOAD - 1] = s[L_STATE] == IDLE
        idle[OP_STORE - 1] = w[S_STATE] == S_IDLE
        for unit in range(UNITS):
            if level[unit] > 0 and _reached(c, counts, order[unit, popped[unit]]):
                following = min(following, _free_from(unit, f, x, idle, cycle))
        following = min(following, _dispatcher_next(m, c, d, counts, level, cycle))
        loads = load_next(m, s, bursts, cycle)
        if loads < following:
            asks = s[L_STATE] == CHECK or (s[L_STATE] == ASK and s[L_ASKED] < m.in_flight)
            if asks or following == cycle + 1:
                following = loads
            else:
                event = following
                if to_buffer(c, s, fifo):
                    free = _results_from(x, execs, fetch, c, schedule, cycle + 1)
                    event = min(event, free)
                starving = d[D_STATE] == READ and d[D_THERE] == 0
                after = stream_load(m, c, s, fifo, bursts, starving, cycle, event)
                following = max(loads, after)
                d[D_THERE] += s[L_WROTE]
        if following == NEVER:
            return False
        if following > cycle + 1 and cycle + 1 >= x[X_READY] and load_busy(s):
            read_stalls += following - cycle - 1
        cycle = following
    return False
