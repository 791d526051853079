"""The co-processor's units cycle by cycle, but only in cycles in which something happens.

Each function is one unit in one cycle, with the rules that the unit's docstring in the RTL states.
All read registered state and write what the next cycle sees; what crosses units within a cycle
(completions, queue heads, the buffer's ports) is passed on in the order of the calls.
"""

from __future__ import annotations

import numpy as np
from opennpe.golden.commands import TARGETS
from opennpe.golden.spec import LOAD_QUEUE, STORE_LINES
from opennpe.sim.cycle_state import (
    C_COUNT,
    C_ENTRIES,
    C_FACTOR,
    C_FINISH,
    C_FIRST_BEAT,
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
    Ints,
    Machine,
)
from opennpe.sim.jit import inlined, kernel

__all__ = ["simulate"]

BUFFER, COMMANDS = TARGETS.index("buffer"), TARGETS.index("commands")
FIRST, READ, DECODE, PUSH, END, DONE = range(6)
IDLE, CHECK, ASK = range(3)
S_IDLE, S_CHECK, S_ADDRESS, S_DATA, S_ANSWERS = range(5)
RING = 256
UNITS = 4
"""Loads, fills, execs, stores: a unit's index is its opcode less one."""

# Places in the arrays of state. All hold what registers hold at the start of a cycle.
D_STATE, D_THERE, D_INDEX, D_GOAL, D_NEXT, D_WAKE = range(6)
(
    L_STATE, L_COMMAND, L_BEAT, L_LEFT, L_ASKED, L_HEAD, L_TAIL, L_LINES, L_IN_LINE, L_VALID,
    L_PART, L_ENDS, L_OF, R_HEAD, R_TAIL, R_BEATS, R_FREE, L_READ, L_WROTE,
) = range(19)  # fmt: skip
F_BEGUN, F_END, F_COMMAND = range(3)
X_READY, X_OWED, X_HEAD, X_TAIL, X_ENTRY, X_EXEC = range(6)
(
    S_STATE, S_COMMAND, S_BEAT, S_LEFT, S_IN_BURST, S_OPEN, S_AW, S_CLAIMED, S_UNASKED, S_ARRIVES,
    S_LINES, S_IN_LINE, S_UNSENT, S_FREE, B_HEAD, B_TAIL, S_WRITTEN,
) = range(17)  # fmt: skip


@inlined
def _burst(beat: int, left: int, longest: int) -> int:
    """Beats of the burst that begins at ``beat``: up to the next multiple of the longest."""
    return min(left, longest - beat % longest)


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
def _load_back(
    m: Machine, c: Ints, s: Ints, fifo: Ints, bursts: Ints, blocked: bool, cycle: int
) -> tuple[bool, bool]:
    """Beats to lines to memories; whether a burst finished, whether a command did."""
    valid = s[L_VALID] == 1
    ready = not (blocked and c[C_TARGET, s[L_OF]] == BUFFER)
    free = not valid or (ready and s[L_PART] == c[C_FACTOR, s[L_OF]] - 1)
    done = valid and free and s[L_ENDS] == 1
    s[L_WROTE] = int(valid and ready and c[C_TARGET, s[L_OF]] == COMMANDS)
    finished = complete = False
    if s[R_HEAD] < s[R_TAIL] and s[L_HEAD] < s[L_TAIL]:
        at = s[R_HEAD] % RING
        last = s[L_IN_LINE] == m.beats - 1
        if cycle >= max(bursts[2 * at], s[R_FREE]) and (not last or free):
            s[L_READ] += 1
            s[R_FREE] = cycle + m.read_interval
            s[R_BEATS] += 1
            if s[R_BEATS] == bursts[2 * at + 1]:
                finished = True
                s[R_BEATS] = 0
                s[R_HEAD] += 1
            s[L_IN_LINE] = 0 if last else s[L_IN_LINE] + 1
            complete = last
    if complete:
        command = fifo[s[L_HEAD] % RING]
        s[L_LINES] += 1
        s[L_VALID], s[L_OF], s[L_PART] = 1, command, 0
        s[L_ENDS] = int(s[L_LINES] == c[C_LINES, command])
        if s[L_ENDS]:
            s[L_LINES] = 0
            s[L_HEAD] += 1
    elif free:
        s[L_VALID] = 0
    elif ready:
        s[L_PART] += 1
    return finished, done


@inlined
def _load_front(
    m: Machine,
    c: Ints,
    s: Ints,
    fifo: Ints,
    bursts: Ints,
    room: bool,
    finished: bool,
    cycle: int,
) -> None:
    """Commands to bursts. ``room``: the queue to the back end had some when the cycle began."""
    asks = 0
    if s[L_STATE] == CHECK:
        if room:
            command = s[L_COMMAND]
            fifo[s[L_TAIL] % RING] = command
            s[L_TAIL] += 1
            s[L_BEAT] = c[C_FIRST_BEAT, command]
            s[L_LEFT] = c[C_LINES, command] * m.beats
            s[L_STATE] = ASK
    elif s[L_STATE] == ASK and s[L_ASKED] < m.in_flight:
        asks = 1
        beats = _burst(s[L_BEAT], s[L_LEFT], m.burst)
        at = s[R_TAIL] % RING
        bursts[2 * at] = cycle + 1 + m.read_latency
        bursts[2 * at + 1] = beats
        s[R_TAIL] += 1
        s[L_BEAT] += beats
        s[L_LEFT] -= beats
        if s[L_LEFT] == 0:
            s[L_STATE] = IDLE
    s[L_ASKED] += asks - int(finished)


@inlined
def _store(m: Machine, c: Ints, s: Ints, answers: Ints, fill_active: bool, cycle: int) -> bool:
    """Lines of the buffer to bursts of the bus; whether a command is done."""
    done = answered = asks = asked = taken_line = False
    if s[B_HEAD] < s[B_TAIL] and cycle >= answers[s[B_HEAD] % RING]:
        answered = True
        s[B_HEAD] += 1
    state = s[S_STATE]
    moving = state in (S_ADDRESS, S_DATA)
    may_ask = s[S_OPEN] < m.in_flight
    if moving and s[S_UNASKED] > 0 and s[S_CLAIMED] < STORE_LINES and not fill_active:
        asked = True
    if state == S_CHECK:
        command = s[S_COMMAND]
        s[S_BEAT] = c[C_FIRST_BEAT, command]
        s[S_LEFT] = s[S_UNSENT] = c[C_LINES, command] * m.beats
        s[S_UNASKED] = c[C_LINES, command]
        s[S_IN_BURST] = c[C_FIRST_BEAT, command] % m.burst
        s[S_CLAIMED] = s[S_LINES] = s[S_ARRIVES] = s[S_IN_LINE] = 0
        s[S_STATE] = S_ADDRESS
    elif state == S_ADDRESS:
        if s[S_AW] == 1:
            s[S_AW] = 0
            s[S_STATE] = S_DATA
        elif may_ask:
            asks = True
    elif state == S_DATA:
        if s[S_LINES] > 0 and cycle >= s[S_FREE]:
            s[S_WRITTEN] += 1
            s[S_FREE] = cycle + m.write_interval
            s[S_UNSENT] -= 1
            ends = s[S_UNSENT] == 0
            last = ends or s[S_IN_BURST] == m.burst - 1
            s[S_IN_BURST] = (s[S_IN_BURST] + 1) % m.burst
            taken_line = s[S_IN_LINE] == m.beats - 1
            s[S_IN_LINE] = 0 if taken_line else s[S_IN_LINE] + 1
            if last:
                answers[s[B_TAIL] % RING] = cycle + m.write_latency
                s[B_TAIL] += 1
                asks = not ends and may_ask
                s[S_STATE] = S_ANSWERS if ends else S_ADDRESS
    elif state == S_ANSWERS and s[S_OPEN] == 0:
        done = True
        s[S_STATE] = S_IDLE
    if asks:
        beats = _burst(s[S_BEAT], s[S_LEFT], m.burst)
        s[S_BEAT] += beats
        s[S_LEFT] -= beats
        s[S_AW] = 1
    if state != S_CHECK:
        s[S_LINES] += s[S_ARRIVES] - int(taken_line)
        s[S_ARRIVES] = int(asked)
        s[S_CLAIMED] += int(asked) - int(taken_line)
        s[S_UNASKED] -= int(asked)
    s[S_OPEN] += int(asks) - int(answered)
    return done


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
def _store_next(m: Machine, s: Ints, answers: Ints, fill_end: int, cycle: int) -> int:
    """The next cycle in which the store unit does something."""
    found = NEVER
    if s[B_HEAD] < s[B_TAIL]:
        found = max(cycle + 1, answers[s[B_HEAD] % RING])
    state = s[S_STATE]
    if state == S_CHECK or s[S_ARRIVES] or s[S_AW]:
        return cycle + 1
    if state in (S_ADDRESS, S_DATA):
        if s[S_UNASKED] > 0 and s[S_CLAIMED] < STORE_LINES:
            found = min(found, max(cycle + 1, fill_end + 1))
        if state == S_ADDRESS and s[S_OPEN] < m.in_flight:
            return cycle + 1
        if state == S_DATA and s[S_LINES] > 0:
            found = min(found, max(cycle + 1, s[S_FREE]))
    if state == S_ANSWERS and s[S_OPEN] == 0:
        return cycle + 1
    return found


@inlined
def _load_next(m: Machine, s: Ints, bursts: Ints, cycle: int) -> int:
    """The next cycle in which the load unit does something."""
    room = s[L_TAIL] - s[L_HEAD] < LOAD_QUEUE
    if s[L_VALID] or (s[L_STATE] == CHECK and room):
        return cycle + 1
    if s[L_STATE] == ASK and s[L_ASKED] < m.in_flight:
        return cycle + 1
    if s[R_HEAD] < s[R_TAIL]:
        return int(max(cycle + 1, bursts[2 * (s[R_HEAD] % RING)], s[R_FREE]))
    return NEVER


@inlined
def _in_step(c: Ints, command: int) -> bool:
    """Lines of this load go in as they come, if no results are in the way: nobody is told."""
    target = c[C_TARGET, command]
    return bool(c[C_FACTOR, command] == 1 and target != BUFFER and target != COMMANDS)


@inlined
def _to_buffer(c: Ints, s: Ints, fifo: Ints) -> bool:
    """Whether a line that stands to be written, or the next one, goes to the buffer."""
    if s[L_VALID] and c[C_TARGET, s[L_OF]] == BUFFER:
        return True
    return bool(s[L_HEAD] < s[L_TAIL] and c[C_TARGET, fifo[s[L_HEAD] % RING]] == BUFFER)


@inlined
def _stream(m: Machine, c: Ints, s: Ints, fifo: Ints, bursts: Ints, cycle: int, event: int) -> int:
    """Beats of one burst but its last, before the cycle of the next ``event``, all at once.

    Returns the cycle to go on with.
    """
    if s[R_HEAD] >= s[R_TAIL] or (s[L_VALID] and (s[L_ENDS] or not _in_step(c, s[L_OF]))):
        return cycle + 1
    command = fifo[s[L_HEAD] % RING]
    at = s[R_HEAD] % RING
    first = max(cycle + 1, s[R_FREE], bursts[2 * at])
    room = (event - first + m.read_interval - 1) // m.read_interval
    count = min(bursts[2 * at + 1] - s[R_BEATS] - 1, room)
    if count < 1 or not _in_step(c, command):
        return cycle + 1
    last = first + (count - 1) * m.read_interval
    beats = s[L_IN_LINE] + count
    s[L_READ] += count
    s[R_BEATS] += count
    s[R_FREE] = last + m.read_interval
    s[L_LINES] += beats // m.beats
    s[L_IN_LINE] = beats % m.beats
    following = min(event, last + m.read_interval)
    # A line stands to be written only in the cycle after its last beat.
    closed = last - s[L_IN_LINE] * m.read_interval
    s[L_VALID] = int(beats >= m.beats and closed + 1 == following)
    s[L_OF], s[L_PART], s[L_ENDS] = command, 0, 0
    return int(following)


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
    s = np.zeros(19, dtype=np.int64)
    f = np.zeros(3, dtype=np.int64)
    x = np.zeros(6, dtype=np.int64)
    w = np.zeros(17, dtype=np.int64)
    fifo = np.zeros(RING, dtype=np.int64)
    execs = np.zeros(RING, dtype=np.int64)
    answers = np.zeros(RING, dtype=np.int64)
    bursts = np.zeros(2 * RING, dtype=np.int64)
    counts = np.zeros(UNITS, dtype=np.int64)
    pushed = np.zeros(UNITS, dtype=np.int64)
    popped = np.zeros(UNITS, dtype=np.int64)
    before = np.zeros(UNITS, dtype=np.int64)
    level = np.zeros(UNITS, dtype=np.int64)
    fetch = np.zeros(c.shape[1], dtype=np.int64)
    read_stalls = 0
    counts[OP_LOAD - 1] = -1
    d[D_STATE], d[D_GOAL], d[D_NEXT] = FIRST, m.unit_lines, 1
    f[F_END] = -1
    x[X_OWED] = -1
    cycle = 1
    while cycle < limit:
        room = s[L_TAIL] - s[L_HEAD] < LOAD_QUEUE
        load_busy = s[L_STATE] != IDLE or s[L_ASKED] > 0 or s[L_HEAD] < s[L_TAIL] or s[L_VALID] == 1
        waiting = cycle >= x[X_READY]
        read_stalls += int(load_busy and waiting)
        blocked = False
        if s[L_VALID] == 1 and c[C_TARGET, s[L_OF]] == BUFFER:
            blocked = _results_write(x, execs, fetch, c, schedule, cycle)
        before[:] = popped
        load_idle, store_idle = s[L_STATE] == IDLE, w[S_STATE] == S_IDLE
        finished, load_done = _load_back(m, c, s, fifo, bursts, blocked, cycle)
        _load_front(m, c, s, fifo, bursts, room, finished, cycle)
        store_done = _store(m, c, w, answers, f[F_BEGUN] < cycle <= f[F_END], cycle)
        fill_done = f[F_COMMAND] > 0 and cycle == f[F_END] + 1
        if fill_done:
            f[F_COMMAND] = 0
        exec_done = x[X_HEAD] < x[X_TAIL] and ends[execs[x[X_HEAD] % RING]] == cycle
        if exec_done:
            x[X_HEAD] += 1
        for unit in range(UNITS):
            if popped[unit] == pushed[unit]:
                continue
            command = order[unit, popped[unit]]
            if entered[command] >= cycle or not _reached(c, counts, command):
                continue
            if unit == OP_LOAD - 1:
                if not load_idle:
                    continue
                s[L_STATE], s[L_COMMAND] = CHECK, command
            elif unit == OP_FILL - 1:
                if cycle <= f[F_END]:
                    continue
                f[F_BEGUN], f[F_COMMAND] = cycle, command
                f[F_END] = cycle + c[C_LINES, command] * c[C_FACTOR, command]
                ends[command] = f[F_END] + 1
            elif unit == OP_EXEC - 1:
                if not waiting:
                    continue
                _take_exec(m, c, x, execs, fetch, ends, command, cycle)
            else:
                if not store_idle:
                    continue
                w[S_STATE], w[S_COMMAND] = S_CHECK, command
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
        following = _store_next(m, w, answers, f[F_END], cycle)
        if f[F_COMMAND] > 0:
            following = min(following, f[F_END] + 1)
        if x[X_HEAD] < x[X_TAIL]:
            following = min(following, ends[execs[x[X_HEAD] % RING]])
        if x[X_READY] > cycle:
            following = min(following, x[X_READY])
        for unit in range(UNITS):
            if level[unit] > 0 and _reached(c, counts, order[unit, popped[unit]]):
                if unit == OP_FILL - 1:
                    following = min(following, max(cycle, f[F_END]) + 1)
                elif unit == OP_EXEC - 1:
                    following = min(following, max(cycle + 1, x[X_READY]))
                elif unit == OP_LOAD - 1:
                    if s[L_STATE] == IDLE:
                        following = cycle + 1
                elif w[S_STATE] == S_IDLE:
                    following = cycle + 1
        following = min(following, _dispatcher_next(m, c, d, counts, level, cycle))
        loads = _load_next(m, s, bursts, cycle)
        if loads < following:
            asks = s[L_STATE] == CHECK or (s[L_STATE] == ASK and s[L_ASKED] < m.in_flight)
            if asks or following == cycle + 1:
                following = loads
            else:
                event = following
                if _to_buffer(c, s, fifo):
                    free = _results_from(x, execs, fetch, c, schedule, cycle + 1)
                    event = min(event, free)
                following = max(loads, _stream(m, c, s, fifo, bursts, cycle, event))
        if following == NEVER:
            return False
        if following > cycle + 1:
            load_busy = (
                s[L_STATE] != IDLE or s[L_ASKED] > 0 or s[L_HEAD] < s[L_TAIL] or s[L_VALID] == 1
            )
            if load_busy and cycle + 1 >= x[X_READY]:
                read_stalls += following - cycle - 1
        cycle = following
    return False
