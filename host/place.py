"""Where tensors live: pixels a line, lines in the buffer, bytes outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from opennpe.golden import formats, lanes
from opennpe.golden.layout import FOLDS, Layout
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job, Rows, Stored, Task
from opennpe.host.lowered import Lowered
from opennpe.host.weights import channel_tiles

__all__ = ["Room", "allocate", "choose_folds", "layout", "traffic"]


def layout(stored: Stored, columns: int) -> Layout:
    """The layout of a stored tensor."""
    return Layout(
        stored.channels,
        stored.height,
        stored.width,
        stored.format,
        stored.fold,
        columns,
        stored.packed,
    )


def choose_folds(low: Lowered) -> None:
    """As many pixels a line as the channels and the layers on both sides allow."""
    columns = low.spec.line_words
    written = {job.output: job for job in low.jobs}
    for stored in low.stored.values():
        if stored.format in low.spec.mac.formats:
            stored.fold = max(_folds(stored, written.get(stored.name), low, columns))
    changed = True
    while changed:
        changed = sum(_agree(low, job) for job in low.jobs) > 0
    for name in low.network.inputs:
        if name in low.stored and name not in written and not low.stored[name].plain:
            _pack(low, low.stored[name])


def _pack(low: Lowered, stored: Stored) -> None:
    """An input's pixels take no more words than they need, if all that read it can."""
    fits = stored.channels <= low.spec.line_words * lanes.lanes(stored.format)
    if fits and all(job.by_element for job in low.jobs if stored.name in job.inputs):
        stored.fold, stored.packed = 1, True


def _folds(stored: Stored, job: Task | None, low: Lowered, columns: int) -> list[int]:
    per_word = lanes.lanes(stored.format)
    found = [1]
    if stored.plain:
        return found
    for fold in FOLDS[1:]:
        fits = fold <= columns and stored.channels <= columns // fold * per_word
        if job is not None:
            same = formats.get(stored.format).bits == formats.get(job.mode_a).bits
            fits &= same and job.lanes >= fold and stored.name not in low.whole
        if fits:
            found.append(fold)
    return found


def _agree(low: Lowered, job: Task) -> bool:
    """Folds that a column-wise job can take: a pixel begins at a column group."""
    if job.kind not in ("depth", "max"):
        return False
    changed = False
    out = low.stored[job.output].fold
    sources = [low.stored[name] for name in job.inputs]
    limits = [job.factor(s) * out for s in sources]
    if len(sources) > 1:
        # Pixels of both tensors take the same number of words.
        words = [s.fold / job.factor(s) for s in sources]
        limits = [
            min(limit, int(min(words) * job.factor(s)) or 1)
            for limit, s in zip(limits, sources, strict=True)
        ]
        if job.factor(sources[0]) != job.factor(sources[1]):
            limits = [1, 1]
    for stored, limit in zip(sources, limits, strict=True):
        if stored.fold > limit:
            stored.fold, changed = limit, True
    return changed


@dataclass
class Room:
    """Lines of the buffer by stored tensor, and which tensors stay outside."""

    base: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    streamed: set[str] = field(default_factory=set)
    staging: int = 0


def _needed(low: Lowered, spec: CoprocessorSpec) -> dict[str, int]:
    """Lines of every stored tensor, with those that a job writes or reads beyond its blocks."""
    found: dict[str, int] = {}

    def wants(stored: Stored, blocks: int) -> None:
        own = layout(stored, spec.line_words)
        lines = (stored.first + blocks) * own.block_lines
        owner = low.owner(stored.name)
        found[owner] = max(found.get(owner, 0), lines)

    for job in low.jobs:
        for name in (*job.inputs, job.output):
            wants(low.stored[name], layout(low.stored[name], spec.line_words).blocks)
        out = low.stored[job.output]
        shape = layout(out, spec.line_words)
        ratio = job.lanes // shape.lanes
        if ratio > 1 and isinstance(job, Job):
            blocks = channel_tiles(job, spec.line_words, 1) * ratio
            wants(out, job.channel // (spec.line_words * shape.lanes) + blocks)
        elif ratio > 1 and isinstance(job, Rows):
            wants(out, layout(low.stored[job.inputs[0]], spec.line_words).blocks * ratio)
        if len(job.inputs) > 1:
            sources = [low.stored[n] for n in job.inputs]
            blocks = max(layout(s, spec.line_words).blocks * job.factor(s) for s in sources)
            for source in sources:
                wants(source, -(-blocks // job.factor(source)))
    return found


def allocate(low: Lowered, share: int, often: bool = False) -> Room:
    """First fit over lifetimes; tensors that find no room stay outside.

    Args:
        share: the part of the buffer set aside for tensors that stream, as a divisor.
        often: whether tensors stay inside that are read often, rather than small ones.
    """
    spec = low.spec
    room = Room(lines=_needed(low, spec))
    first, last = _lifetimes(low)
    moves = traffic(low, room)
    order = {name: -moves[name] if often else lines for name, lines in room.lines.items()}
    while True:
        failed = _first_fit(low, room, first, last, order)
        if failed is None:
            _place_parts(low, room)
            return room
        room.streamed.add(failed)
        room.staging = spec.memory.buffer_lines // share


def traffic(low: Lowered, room: Room) -> dict[str, int]:
    """Lines that cross the bus if a tensor streams, roughly: a read for every weight memory full
    of weights that meets it."""
    spec = low.spec
    found = dict(room.lines)
    for job in low.jobs:
        passes = 1
        if isinstance(job, Job) and job.kind == "dense":
            lines = channel_tiles(job, spec.line_words, 1) * job.weights[0].size
            passes = -(-lines // spec.memory.weight_lines)
        for name in job.inputs:
            own = layout(low.stored[name], spec.line_words).lines
            found[low.owner(name)] += own * passes
    return found


def _place_parts(low: Lowered, room: Room) -> None:
    """Parts of tensors lie in these."""
    for stored in low.stored.values():
        if not stored.within:
            continue
        if stored.within in room.streamed:
            room.streamed.add(stored.name)
        elif stored.within in room.base:
            shape = layout(stored, low.spec.line_words)
            room.base[stored.name] = room.base[stored.within] + stored.first * shape.block_lines


def _lifetimes(low: Lowered) -> tuple[dict[str, int], dict[str, int]]:
    """Job that first writes (or first needs) a tensor and the last one that touches it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, job in enumerate(low.jobs):
        for name in map(low.owner, (*job.inputs, job.output)):
            first.setdefault(name, index)
            last[name] = index
    for name in low.network.inputs:
        # Inputs come in before anything runs.
        if name in first:
            first[name] = 0
    return first, last


def _first_fit(
    low: Lowered,
    room: Room,
    first: dict[str, int],
    last: dict[str, int],
    order: dict[str, int],
) -> str | None:
    """Place every resident tensor; of those that stand in the way, if one finds no room, the first
    to leave, by a number that is largest for it."""
    size = low.spec.memory.buffer_lines - room.staging
    room.base = {}
    names = sorted(
        (n for n in first if n not in room.streamed), key=lambda n: (first[n], -room.lines[n])
    )
    for name in names:
        others = [n for n in room.base if first[n] <= last[name] and last[n] >= first[name]]
        at = 0
        for other in sorted(others, key=lambda n: room.base[n]):
            if at + room.lines[name] <= room.base[other]:
                break
            at = max(at, room.base[other] + room.lines[other])
        if at + room.lines[name] > size:
            return max([name, *others], key=lambda n: order[n])
        room.base[name] = at
    return None
