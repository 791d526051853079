"""The store unit of the cycle model: lines of the buffer to bursts of the bus.

The rules are those of the RTL's ``Store``, for a memory outside that keeps ``MemorySettings``.
"""

from __future__ import annotations

from opennpe.golden.spec import STORE_LINES
from opennpe.sim.cycle_state import C_FIRST_BEAT, C_LINES, NEVER, RING, Ints, Machine
from opennpe.sim.jit import inlined
from opennpe.sim.load_cycles import burst_beats

__all__ = ["step_store", "store_next"]

S_IDLE, S_CHECK, S_ADDRESS, S_DATA, S_ANSWERS = range(5)
# Places in the unit's state, which holds what registers hold at the start of a cycle.
(
    S_STATE, S_COMMAND, S_BEAT, S_LEFT, S_IN_BURST, S_OPEN, S_AW, S_CLAIMED, S_UNASKED, S_ARRIVES,
    S_LINES, S_IN_LINE, S_UNSENT, S_FREE, B_HEAD, B_TAIL, S_WRITTEN,
) = range(17)  # fmt: skip
STORE_STATE = S_WRITTEN + 1
"""Places of it."""


@inlined
def step_store(m: Machine, c: Ints, s: Ints, answers: Ints, fill_active: bool, cycle: int) -> bool:
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
        beats = burst_beats(s[S_BEAT], s[S_LEFT], m.burst)
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
def store_next(m: Machine, s: Ints, answers: Ints, fill_end: int, cycle: int) -> int:
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
