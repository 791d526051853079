"""Loads moved ahead of the execs that hide them."""

from __future__ import annotations

from opennpe.golden.commands import TARGETS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.schedule import Item, Span

__all__ = ["hoist"]

RINGS = {"operands": "operand_lines", "weights": "weight_lines"}
LATENCY = 64
"""Cycles a load takes beside its beats, roughly: the memory's latency and the way in."""
MARGIN = 1.5
"""How much more work than its own time a load is put ahead of."""
BUFFER = TARGETS.index("buffer")


def hoist(spec: CoprocessorSpec, items: list[Item]) -> list[Item]:
    """The same commands, loads so early that work hides them; hazards and loads keep their order.

    Only at the start, before anything is computed, do weights overtake tensors: the array needs
    all of the former and little of the latter.
    """
    found: list[Item] = []
    busy = False
    for item in items:
        if item.op != "load":
            busy |= item.op == "exec"
            found.append(item)
            continue
        time = MARGIN * item.values["lines"] * spec.beats_per_line + LATENCY
        small = item.values.get("target", 0) != BUFFER
        place, hidden = len(found), 0.0
        while place and hidden < time:
            before = found[place - 1]
            overtakes = small and not busy and before.values.get("target", 0) == BUFFER
            if before.op == "load" and not overtakes:
                break
            if _conflict(spec, before, item):
                break
            hidden += before.cycles
            place -= 1
        found.insert(place, item)
    return found


def _conflict(spec: CoprocessorSpec, first: Item, second: Item) -> bool:
    """Whether two commands must keep their order."""
    return (
        _overlap(spec, first.writes, second.writes)
        or _overlap(spec, first.writes, second.reads)
        or _overlap(spec, first.reads, second.writes)
    )


def _overlap(spec: CoprocessorSpec, some: list[Span], others: list[Span]) -> bool:
    for name, first, stop in some:
        for other, begin, end in others:
            if name != other or stop <= first or end <= begin:
                continue
            if name not in RINGS:
                if first < end and begin < stop:
                    return True
                continue
            size = int(getattr(spec.memory, RINGS[name]))
            gap = (begin - first) % size
            if gap < stop - first or gap + end - begin > size:
                return True
    return False
