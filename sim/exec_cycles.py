"""Cycles of one exec command, from its first fetch to its last line in the buffer.

Nothing outside an exec delays it once it runs, so its cycles are a function of the command alone.
The rules are those of the RTL (``Sequence``, ``Execute``, ``EngineArray``, ``Results``): groups of
fetches pass in *front time*, which stands still while the array does not take a step; a step
follows its group's last fetch by :data:`LEAD` cycles; the engines answer ``latency`` cycles after
a sum's last step; a tile's results are gathered, move on and are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import KINDS, ROW_KINDS
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.jit import inlined, kernel

__all__ = [
    "E_FINISH",
    "E_FOLDS",
    "E_LINE_CYCLES",
    "LEAD",
    "Exec",
    "Profile",
    "Profiles",
    "describe",
    "profiles_of",
]

Ints = NDArray[np.int64]
LEAD = 3
"""Cycles from a group's last fetch to its first step, in front time."""
DENSE, MAX, SPARSE, TRANSPOSE = (
    KINDS.index(name) for name in ("dense", "max", "sparse", "transpose")
)
ROWS = tuple(KINDS.index(name) for name in ROW_KINDS)


class Exec(NamedTuple):
    """What an exec's cycles depend on, as integers."""

    folds: Any
    lanes: Any
    steps: Any  # of a full word
    blocks: Any
    taps: Any
    words: Any
    last_words: Any
    last_steps: Any  # of the last word
    tiles: Any
    lines: Any
    rows: Any
    sub_lines: Any  # lines a row's results make
    line_cycles: Any
    finish: Any
    largest: Any
    latency: Any  # of the engines, or of a row's unit
    transpose: Any
    by_rows: Any
    turnaround: Any  # of a row's unit


class Profile(NamedTuple):
    """Cycles counted from the first fetch, which is cycle 0.

    Attributes:
        taken: cycle of the last step.
        written: cycle of the last line; of the last step where no results leave.
        busy: steps.
        blocked: cycles in which results kept a step waiting.
    """

    taken: int
    written: int
    busy: int
    blocked: int


E_FOLDS = Exec._fields.index("folds")
E_LINE_CYCLES = Exec._fields.index("line_cycles")
E_FINISH = Exec._fields.index("finish")


def describe(spec: CoprocessorSpec, found: Mapping[str, Ints]) -> Ints:
    """The numbers that count of execs whose fields are given: (execs, fields of Exec)."""
    engine = spec.engine
    lane_counts = np.array([engine.lanes(name) for name in ENGINE_FORMATS])
    lanes, out_lanes = lane_counts[found["mode_a"]], lane_counts[found["out"]]
    kind = found["kind"]
    dense = (kind == DENSE) | (kind == TRANSPOSE)
    by_rows = np.isin(kind, ROWS)
    units: dict[str, Any] = {"softmax": spec.softmax_unit, "norm": spec.norm_unit}
    latency, turnaround = np.full_like(lanes, engine.latency), np.zeros_like(lanes)
    for name, unit in units.items():
        own = kind == KINDS.index(name)
        latency[own], turnaround[own] = unit.latency, unit.turnaround
    columns = Exec(
        folds=1 << found["fold"],
        lanes=lanes,
        steps=np.where(dense | by_rows, lanes, 1),
        blocks=found["blocks"],
        taps=found["kernel_y"] * found["kernel_x"],
        words=found["words"],
        last_words=found["last_words"],
        last_steps=np.where(dense, found["last_elements"], np.where(by_rows, lanes, 1)),
        tiles=found["tiles"],
        lines=found["lines"],
        rows=np.where(by_rows, 1, spec.array.rows),
        sub_lines=np.maximum(1, lanes // out_lanes),
        line_cycles=np.where(found["table"] == 1, out_lanes + 2, 1),
        finish=np.where(kind == TRANSPOSE, 0, found["finish"]),
        largest=kind == MAX,
        latency=latency,
        transpose=kind == TRANSPOSE,
        by_rows=by_rows,
        turnaround=turnaround,
    )
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.int64)


def _tile_counts(described: Ints) -> Ints:
    """Results of each exec that leave as tiles, and so entries of a schedule."""
    e = Exec(*described.T)
    whole = -(-e.lines // e.rows) * np.where(e.by_rows == 1, e.blocks, e.tiles) * e.finish
    return np.asarray(np.where(e.transpose == 1, 1, whole))


@inlined
def _sum_cycles(e: Exec) -> int:
    """Fetch cycles of a sum."""
    full = max(e.folds, e.steps)
    last = max(e.folds, e.last_steps)
    inner = (e.last_words - 1) * full + last
    return int(e.taps * ((e.blocks - 1) * e.words * full + inner))


@inlined
def _lead(e: Exec) -> int:
    """Front time of the first step: a group is fetched, gathered and taken."""
    return int(e.folds + LEAD - 1)


@inlined
def _last_front(e: Exec) -> int:
    """Front time of a sum's last step, less the cycles of its sum."""
    return int(_lead(e) - max(e.folds, e.last_steps) + e.last_steps - 1)


@inlined
def _sum_steps(e: Exec) -> int:
    """Steps of a sum."""
    inner = (e.last_words - 1) * e.steps + e.last_steps
    return int(e.taps * ((e.blocks - 1) * e.words * e.steps + inner))


@inlined
def _tile_cycles(e: Exec, line: int) -> int:
    """Cycles that writing a tile takes whose first pixel line is ``line``."""
    return int(min(e.rows, e.lines - line) * e.sub_lines * e.line_cycles)


@inlined
def _offers(e: Exec, front: int, period: int) -> bool:
    """Whether there is a step in this cycle of front time, given fetches that never end."""
    at = front - _lead(e)
    if at < 0:
        return False
    within = at % period
    full, last = max(e.folds, e.steps), max(e.folds, e.last_steps)
    if e.largest:
        return bool(within == period - last)
    head = (e.blocks - 1) * e.taps * e.words * full
    if within < head:
        return bool(within % full < e.steps)
    inner = (e.last_words - 1) * full
    rest = (within - head) % (inner + last)
    if rest < inner:
        return bool(rest % full < e.steps)
    return bool(rest - inner < e.last_steps)


@inlined
def _transposition(e: Exec, schedule: Ints) -> Profile:
    """Every step writes a line."""
    lines = -(-e.lines // e.rows) * _sum_steps(e)
    schedule[0, 0] = _lead(e) - 1
    schedule[0, 1] = lines
    taken = _lead(e) + lines - 1
    return Profile(taken, taken, 0, 0)


@inlined
def _by_rows(e: Exec, schedule: Ints) -> Profile:
    """Two passes a row with the unit's turnaround between them; nothing holds results up."""
    steps = e.blocks * e.lanes
    period = 2 * steps + e.turnaround - 1
    taken = moved = 0
    for line in range(e.lines):
        second = _lead(e) + line * period + steps + e.turnaround - 1
        for block in range(e.blocks):
            taken = second + (block + 1) * e.lanes - 1
            moved = taken + e.latency + 1
            schedule[line * e.blocks + block, 0] = moved
            schedule[line * e.blocks + block, 1] = _tile_cycles(e, line)
    return Profile(taken, moved + _tile_cycles(e, e.lines - 1), 0, 0)


@inlined
def _sparse(e: Exec, schedule: Ints, counts: Ints) -> Profile:
    """Sums of as many steps as their row blocks have records, over again for each pixel tile."""
    row_tiles = -(-e.lines // e.rows)
    sums = row_tiles * e.tiles
    shortest = counts.min()
    steps = row_tiles * counts.sum()
    if not (shortest > e.lanes and _tile_cycles(e, 0) <= shortest):
        found: Profile = _stepped(e, schedule, counts, steps, sums)
        return found
    accepted, moved = _lead(e) - 1, 0
    for s in range(sums):
        accepted += counts[s % e.tiles]
        moved = accepted + e.latency + e.lanes
        schedule[s, 0] = moved
        schedule[s, 1] = _tile_cycles(e, s // e.tiles * e.rows)
    return Profile(accepted, moved + schedule[sums - 1, 1], steps, 0)


@inlined
def _profile(e: Exec, schedule: Ints, counts: Ints) -> Profile:
    """Cycles of an exec; fills ``schedule``, (tiles, 2): first written cycle less one, cycles.

    ``counts``: of a sparse exec, the records of its row blocks.
    """
    found: Profile
    if e.transpose:
        found = _transposition(e, schedule)
        return found
    if e.by_rows:
        found = _by_rows(e, schedule)
        return found
    if len(counts) > 0:
        found = _sparse(e, schedule, counts)
        return found
    period, steps = _sum_cycles(e), _sum_steps(e)
    last_front = _last_front(e)
    if not e.finish:
        taken = period + last_front
        return Profile(taken, taken, steps, 0)
    row_tiles = -(-e.lines // e.rows)
    sums = row_tiles * e.tiles
    longest = _tile_cycles(e, 0)
    if period > e.lanes and longest <= period:
        found = _even(e, schedule, period, steps, sums, last_front)
    else:
        found = _stepped(e, schedule, counts, steps * sums, sums)
    return found


@inlined
def _even(e: Exec, schedule: Ints, period: int, steps: int, sums: int, last_front: int) -> Profile:
    """Sums that are long enough for the results of the one before: nothing ever waits."""
    moved = 0
    for s in range(sums):
        accepted = (s + 1) * period + last_front
        moved = accepted + e.latency + e.lanes
        schedule[s, 0] = moved
        schedule[s, 1] = _tile_cycles(e, s // e.tiles * e.rows)
    taken = sums * period + last_front
    return Profile(taken, moved + schedule[sums - 1, 1], steps * sums, 0)


@inlined
def _stepped(e: Exec, schedule: Ints, counts: Ints, steps: int, sums: int) -> Profile:
    """Cycle by cycle: results may keep the array waiting."""
    # Sums whose results are under way: the engines' time at which each was accepted, in a ring.
    ring = np.zeros(64, dtype=np.int64)
    accepted = answered = gathered = 0
    front = moves = 0
    ahead = 0  # lanes of the sum before that have not left
    full = False
    left = 0
    blocked = taken = cycle = 0
    sparse = len(counts) > 0
    period = 0 if sparse else _sum_cycles(e)
    end = counts[0] + _lead(e) - 1 if sparse else period + _last_front(e)
    while True:
        valid = answered < accepted and moves >= ring[answered % 64] + e.latency
        lane = moves - ring[answered % 64] - e.latency
        move = not valid or not full
        done = left == 1
        go = True
        lasts = accepted < sums and front == end
        if accepted < sums and (front >= _lead(e) if sparse else _offers(e, front, period)):
            go = move and not (lasts and ahead > 0)
            if not go and valid and full:
                blocked += 1
        takes = go and lasts
        passes = full and (left == 0 or done)
        if left > 0:
            left -= 1
        if passes:
            width = _tile_cycles(e, gathered // e.tiles * e.rows)
            schedule[gathered, 0] = cycle
            schedule[gathered, 1] = width
            left = width
            gathered += 1
            full = False
        if valid and move and lane == e.lanes - 1:
            full = True
            answered += 1
        if takes:
            ring[accepted % 64] = moves
            accepted += 1
            taken = cycle
            end += counts[accepted % e.tiles] if sparse else period
        if move:
            if takes:
                ahead = e.lanes - 1
            elif ahead > 0:
                ahead -= 1
            moves += 1
        if go:
            front += 1
        if done and gathered == sums and left == 0:
            return Profile(taken, cycle, steps, blocked)
        cycle += 1


class Profiles(NamedTuple):
    """Profiles of many execs.

    Attributes:
        first: (execs + 1,), where each one's entries of the schedule begin.
        schedule: (tiles, 2): the cycle before a tile's first written one, its cycles.
        found: (execs, fields of Profile).
    """

    first: Ints
    schedule: Ints
    found: Ints


def profiles_of(described: Ints, records: Mapping[int, Ints]) -> Profiles:
    """Profiles of execs that :func:`describe` gave; ``records``: row blocks' records by exec."""
    first = np.concatenate([[0], np.cumsum(_tile_counts(described))])
    schedule = np.zeros((int(first[-1]) + 1, 2), dtype=np.int64)
    found = np.zeros((len(described), 4), dtype=np.int64)
    blocks = np.zeros(len(described) + 1, dtype=np.int64)
    for index, own in records.items():
        blocks[index + 1] = len(own)
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *(records[i] for i in sorted(records))])
    _profile_all(described, first, schedule, np.cumsum(blocks), counts, found)
    return Profiles(first, schedule, found)


@kernel()
def _profile_all(
    described: Ints, first: Ints, schedule: Ints, counts_first: Ints, counts: Ints, profiles: Ints
) -> None:
    """Profiles of many execs.

    Args:
        described: (execs, fields of Exec).
        first: (execs + 1,), where each one's entries of the schedule begin.
        schedule: (tiles, 2), filled: the cycle before a tile's first written one, its cycles.
        counts_first: (execs + 1,), where each one's row blocks begin.
        counts: (row blocks,), records of each, for sparse execs.
        profiles: (execs, fields of Profile), filled.
    """
    for i in range(len(described)):
        d = described[i]
        e = Exec(
            d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8], d[9], d[10], d[11], d[12],
            d[13], d[14], d[15], d[16], d[17], d[18],
        )  # fmt: skip
        own = counts[counts_first[i] : counts_first[i + 1]]
        found = _profile(e, schedule[first[i] : first[i + 1]], own)
        profiles[i, 0] = found.taken
        profiles[i, 1] = found.written
        profiles[i, 2] = found.busy
        profiles[i, 3] = found.blocked
