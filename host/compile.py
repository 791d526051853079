"""A network and a specification to a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from opennpe.golden.errors import CompileError
from opennpe.golden.layout import Axis
from opennpe.golden.machine import Window
from opennpe.golden.network import Network
from opennpe.golden.program import Program, Symbol, facts
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.emit import Emitter
from opennpe.host.flat import flat
from opennpe.host.image import Image
from opennpe.host.jobs import Job, Records, Rows, Task, Turn
from opennpe.host.lower import lower
from opennpe.host.lowered import Lowered
from opennpe.host.place import Room, allocate, choose_folds, layout, traffic
from opennpe.host.prefetch import hoist
from opennpe.host.reorder import settle
from opennpe.host.rows import rows
from opennpe.host.schedule import schedule
from opennpe.host.sparse import Choice
from opennpe.host.sparse_execs import records
from opennpe.host.turn import turn
from opennpe.host.view import CHANNEL, plain
from opennpe.host.windowed import windowed
from opennpe.sim.stream_counts import Outside

__all__ = ["compile"]

LIST_BYTES_AN_ITEM = 96
"""Most bytes that a command takes in the list, refills included; sizes the room for it."""

SHARES = (8, 4, 2)
"""Parts of the buffer to set aside for tensors that stream, if any do."""


def compile(
    network: Network,
    spec: CoprocessorSpec,
    keep: Iterable[str] | Literal["all"] = (),
    sparse: Choice = "auto",
) -> Program:
    """The program that runs one sample of a network on a co-processor.

    Args:
        keep: tensors to be stored outside as well, by name; "all" for every one there is.
        sparse: which layers run sparse: "auto" or "cycles", those that take fewer cycles so;
            "bytes", those whose weights take less room; "never"; "always".

    Raises:
        CompileError: a layer the co-processor does not do, or that fits nowhere, by name.
        SpecError: an array the co-processor does not come in.
    """
    spec.check_coprocessor()
    keep = keep if keep == "all" else tuple(keep)
    if sparse in ("auto", "cycles", "bytes"):
        try:
            return _compiled(network, spec, keep, sparse)
        except CompileError:
            # Dense layers may fit where sparse ones do not; if not, this says why.
            return _compiled(network, spec, keep, "never")
    return _compiled(network, spec, keep, sparse)


def _compiled(
    network: Network,
    spec: CoprocessorSpec,
    keep: Iterable[str] | Literal["all"],
    sparse: Choice,
) -> Program:
    """The program, given which layers run sparse."""
    names = () if keep == "all" else tuple(keep)
    low = lower(spec, network, names, sparse)
    choose_folds(low)
    kept = _kept(low, keep)
    rooms = [room for share in SHARES for room in _rooms(low, share)]
    for room in rooms[:-1]:
        try:
            return _emit(low, room, kept)
        except CompileError:
            # More room on the way in and out, if that is what was missing.
            continue
    return _emit(low, rooms[-1], kept)


def _rooms(low: Lowered, share: int) -> list[Room]:
    """Where tensors may live, the best first."""
    room = allocate(low, share)
    if not room.streamed:
        return [room]
    other = allocate(low, share, often=True)
    costs = [sum(traffic(low, r)[n] for n in r.streamed if n in r.lines) for r in (room, other)]
    # Rough as the figure is, only a clear gain counts.
    return [other, room] if 4 * costs[1] < 3 * costs[0] else [room]


def _emit(low: Lowered, room: Room, kept: set[str]) -> Program:
    """The program, given where tensors live."""
    emitter = Emitter(low, room, Image(low.spec), {})
    roles = _outside(low, emitter, kept, room.streamed)
    used = _read(low)
    arrived: set[str] = set()
    for name in low.network.inputs:
        if name in used and name not in room.streamed:
            emitter.bring(name)
            arrived.add(name)
    last = {low.owner(job.output): index for index, job in enumerate(low.jobs)}
    for index, job in enumerate(low.jobs):
        for name in map(low.owner, job.inputs):
            resident = name not in arrived and name not in room.streamed
            if roles.get(name) == "constant" and resident:
                emitter.bring(name)
                arrived.add(name)
        emitter.layer = "+".join(job.layers)
        if job.table is not None:
            emitter.table(job)
        emit(emitter, job)
        name = low.owner(job.output)
        if name in emitter.addresses and name not in room.streamed and last[name] == index:
            emitter.store(room.base[name], emitter.layout(name).lines, emitter.addresses[name])
    return _program(low, emitter, roles)


def emit(emitter: Emitter, job: Task) -> None:
    """Append a job's commands."""
    match job:
        case Job():
            (flat if job.flat else windowed)(emitter, job)
        case Turn():
            turn(emitter, job)
        case Rows():
            rows(emitter, job)
        case Records():
            records(emitter, job)


def _read(low: Lowered) -> set[str]:
    """Stored tensors that fills read."""
    return {low.owner(name) for job in low.jobs for name in job.inputs}


def _loaded(low: Lowered) -> set[str]:
    """Stored tensors that are loaded as weights."""
    found = {job.second.stored for job in low.jobs if isinstance(job, Job) and job.second}
    return {low.owner(name) for name in found}


def _written(low: Lowered) -> set[str]:
    return {low.owner(job.output) for job in low.jobs}


def _kept(low: Lowered, keep: Iterable[str] | str) -> set[str]:
    """Stored tensors that go outside to be compared."""
    written = {name for name in _written(low) if name in low.network.tensors}
    if keep == "all":
        return written
    found = set()
    for name in keep:
        if name not in low.root:
            raise CompileError(f"nothing keeps '{name}': the network has no such tensor")
        found.add(low.root[name])
    return found & written


def _outside(low: Lowered, emitter: Emitter, kept: set[str], streamed: set[str]) -> dict[str, str]:
    """Addresses outside and roles of tensors, by name; those written come first."""
    roles: dict[str, str] = {}
    used = _read(low) | _loaded(low)
    wanted = [low.seen.get(output.symbol, output.symbol) for output in low.outputs]
    written = _written(low)
    for name in wanted:
        if name in written:
            roles[name] = "output"
    for name in kept:
        roles.setdefault(name, "kept")
    for name in sorted((streamed | _loaded(low)) & written):
        roles.setdefault(name, "stream")
    for name in roles:
        emitter.addresses[name] = emitter.image.reserve(_lines(low, emitter, name))
    emitter.image.writable = emitter.image.size
    for name in low.network.inputs:
        roles[name] = "input"
        emitter.addresses[name] = emitter.image.reserve(_lines(low, emitter, name))
    emitter.image.origin = emitter.image.size
    for name, stored in low.stored.items():
        shape = layout(stored, low.spec.line_words)
        codes = low.spread.get(name, low.network.constants.get(name))
        if codes is not None and name in used:
            if name not in low.spread:
                codes = low.scattered(low.views[name], codes)
            emitter.addresses[name] = emitter.image.put(shape.pack(codes))
            emitter.image.reserve(low.slack.get(name, 0))
            roles[name] = "constant"
    for name in wanted:
        if name not in roles:
            raise CompileError(f"output '{name}' is a constant")
    for name, stored in low.stored.items():
        if stored.within in emitter.addresses:
            skip = stored.first * emitter.layout(name).block_lines * low.spec.line_bytes
            emitter.addresses[name] = emitter.addresses[stored.within] + skip
    return roles


def _lines(low: Lowered, emitter: Emitter, name: str) -> int:
    """Lines outside of a tensor, with the zeros behind it."""
    return emitter.layout(name).lines + low.slack.get(name, 0)


def _program(low: Lowered, emitter: Emitter, roles: dict[str, str]) -> Program:
    """The finished program: the list goes behind everything else."""
    spec, image, network = low.spec, emitter.image, low.network
    most = LIST_BYTES_AN_ITEM * (len(emitter.items) + 2)
    lines = (image.size + most) // spec.line_bytes
    held = Outside(image.data, image.origin)
    items = settle(spec, hoist(spec, emitter.items), lines, held)
    listed = schedule(spec, items, image.size, lines)
    address = image.put(np.frombuffer(listed.data, dtype="<u2"))
    symbols = [_symbol(low, emitter, name, role) for name, role in roles.items()]
    for name, root in low.seen.items():
        symbols.append(_symbol(low, emitter, name, "kept", root))
    return Program(
        name=network.name,
        spec=spec.name,
        facts=facts(spec),
        image=image.data,
        origin=image.origin,
        size=image.size,
        address=address,
        lines=listed.lines,
        list_bytes=len(listed.data),
        window=Window(0, image.size, 0, image.writable),
        symbols=tuple(symbols),
        outputs=tuple(low.outputs),
        layers=listed.layers,
    )


def _symbol(low: Lowered, emitter: Emitter, name: str, role: str, root: str = "") -> Symbol:
    """Where a tensor is outside, and how its axes lie there."""
    root = root or name
    stored, tensor = low.stored[root], low.network.tensors.get(name)
    shape = tensor.shape if tensor else (1, *stored.shape)
    place = emitter.addresses[root], emitter.layout(root)
    view = low.views.get(name)
    if view is None or view == plain(root, stored.channels, stored.pixels):
        return Symbol(name, *place, shape, stored.scale, role)
    axes = view.axes or (Axis(CHANNEL, 1, 1),)
    return Symbol(name, *place, shape, stored.scale, role, axes, view.channel)
