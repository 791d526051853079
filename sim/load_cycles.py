"""The load unit of the cycle model: bursts asked for, beats to lines, lines to memories.

The rules are those of the RTL's ``Load``, for a memory outside that keeps ``MemorySettings``.
"""

from __future__ import annotations

from opennpe.golden.commands import TARGETS
from opennpe.golden.spec import LOAD_QUEUE
from opennpe.sim.cycle_state import (
    C_FACTOR,
    C_FIRST_BEAT,
    C_LINES,
    C_TARGET,
    NEVER,
    RING,
    Ints,
    Machine,
)
from opennpe.sim.jit import inlined

__all__ = [
    "BUFFER",
    "burst_beats",
    "load_back",
    "load_busy",
    "load_front",
    "load_next",
    "stream_load",
    "to_buffer",
]

BUFFER, COMMANDS = TARGETS.index("buffer"), TARGETS.index("commands")
IDLE, CHECK, ASK = range(3)
# Places in the unit's state, which holds what registers hold at the start of a cycle.
(
    L_STATE, L_COMMAND, L_BEAT, L_LEFT, L_ASKED, L_HEAD, L_TAIL, L_LINES, L_IN_LINE, L_VALID,
    L_PART, L_ENDS, L_OF, R_HEAD, R_TAIL, R_BEATS, R_FREE, L_READ, L_WROTE,
) = range(19)  # fmt: skip
LOAD_STATE = L_WROTE + 1
"""Places of it."""


@inlined
def burst_beats(beat: int, left: int, longest: int) -> int:
    """Beats of the burst that begins at ``beat``: up to the next multiple of the longest."""
    return min(left, longest - beat % longest)


@inlined
def load_back(
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
def load_front(
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
        beats = burst_beats(s[L_BEAT], s[L_LEFT], m.burst)
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
def load_busy(s: Ints) -> bool:
    """Whether a command is held, a burst asked for or a line offered."""
    return bool(s[L_STATE] != IDLE or s[L_ASKED] > 0 or s[L_HEAD] < s[L_TAIL] or s[L_VALID] == 1)


@inlined
def load_next(m: Machine, s: Ints, bursts: Ints, cycle: int) -> int:
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
def _in_step(c: Ints, command: int, starving: bool) -> bool:
    """Lines of this load go in as they come, if no results are in the way: nobody waits for one.

    A dispatcher that is ``starving`` waits for every line of the list.
    """
    listed = c[C_TARGET, command] == COMMANDS
    return bool(c[C_FACTOR, command] == 1 and not (listed and starving))


@inlined
def to_buffer(c: Ints, s: Ints, fifo: Ints) -> bool:
    """Whether a line that stands to be written, or the next one, goes to the buffer."""
    if s[L_VALID] and c[C_TARGET, s[L_OF]] == BUFFER:
        return True
    return bool(s[L_HEAD] < s[L_TAIL] and c[C_TARGET, fifo[s[L_HEAD] % RING]] == BUFFER)


@inlined
def stream_load(
    m: Machine,
    c: Ints,
    s: Ints,
    fifo: Ints,
    bursts: Ints,
    starving: bool,
    cycle: int,
    event: int,
) -> int:
    """Beats of one burst but its last, before the cycle of the next ``event``, all at once.

    Returns the cycle to go on with; lines of the list that went in are counted in ``L_WROTE``.
    """
    s[L_WROTE] = 0
    if s[R_HEAD] >= s[R_TAIL]:
        return cycle + 1
    if s[L_VALID] and (s[L_ENDS] or not _in_step(c, s[L_OF], starving)):
        return cycle + 1
    command = fifo[s[L_HEAD] % RING]
    at = s[R_HEAD] % RING
    first = max(cycle + 1, s[R_FREE], bursts[2 * at])
    room = (event - first + m.read_interval - 1) // m.read_interval
    count = min(bursts[2 * at + 1] - s[R_BEATS] - 1, room)
    if count < 1 or not _in_step(c, command, starving):
        return cycle + 1
    if s[L_VALID]:
        s[L_WROTE] = int(c[C_TARGET, s[L_OF]] == COMMANDS)
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
    if c[C_TARGET, command] == COMMANDS:
        s[L_WROTE] += beats // m.beats - s[L_VALID]
    return int(following)
