"""A design's blocks, mapped one by one, put together again to time paths that cross them.

Instances are called by the place of their block: ``top/execute/row0/place1[3]``. What leaves a
block was mapped without knowing where it leads, so that high fan-outs between blocks have no
buffers: such a path is longer here than after any flow that sees both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga.boxes import memory_name
from opennpe.fpga.netlist import CONSTANTS, Netlist, Port
from opennpe.golden.errors import ToolError

__all__ = ["assembled", "blocks_of", "live", "place_of"]

Ints = NDArray[np.int32]


@dataclass
class _Parts:
    """What is collected on the way down."""

    nets: int = CONSTANTS
    instances: list[str] = field(default_factory=list)
    kind: list[Ints] = field(default_factory=list)
    widths: list[Ints] = field(default_factory=list)
    pins: list[Ints] = field(default_factory=list)
    pairs: list[Ints] = field(default_factory=list)
    ports: dict[str, tuple[str, Ints]] = field(default_factory=dict)


def assembled(
    top: str, netlists: Mapping[str, Netlist], placed: Mapping[str, Mapping[str, str]]
) -> Netlist:
    """One flat netlist of all blocks in all their copies.

    Args:
        top: the outermost block.
        netlists: of each block, its own boxes left out (:mod:`opennpe.fpga.boxes`).
        placed: of each block, the blocks in it by instance.

    Raises:
        ToolError: a box whose pins are not the ports of its block.
    """
    kinds = tuple(sorted({kind for one in netlists.values() for kind in one.kinds}))
    index = {kind: at for at, kind in enumerate(kinds)}
    parts = _Parts()

    def place(block: str, path: str) -> Callable[[Ints], Ints]:
        one = netlists[block]
        offset = parts.nets - CONSTANTS
        parts.nets += len(one.nets) - CONSTANTS

        def outside(nets: Ints) -> Ints:
            return np.where(nets >= CONSTANTS, nets + offset, nets).astype(np.int32)

        parts.instances += [f"{path}/{name}" for name in one.instances]
        of_kind = np.array([index[kind] for kind in one.kinds], np.int32)
        parts.kind.append(of_kind[one.kind])
        parts.widths.append(np.diff(one.first_pin))
        parts.pins.append(outside(one.pin_net))
        for instance, inner in placed[block].items():
            own = place(inner, f"{path}/{instance}")
            _connect(parts, one, instance, netlists[inner], outside, own)
        for name, port in one.ports.items():
            own_port = block == top and not _boxed(name, placed[block])
            if memory_name(name) or own_port:
                kept = name.replace("memory ", f"memory {path}/", 1)
                parts.ports[kept] = port.direction, outside(port.nets)
        return outside

    place(top, top)
    root = _joined(parts)
    pins = np.concatenate(parts.pins)
    library = next(iter(netlists.values())).library
    return Netlist(
        top,
        library,
        kinds,
        tuple(parts.instances),
        np.concatenate(parts.kind),
        np.concatenate(([0], np.cumsum(np.concatenate(parts.widths)))).astype(np.int32),
        np.where(pins >= 0, root[pins], pins).astype(np.int32),
        ("0", "1", *(f"n{at}" for at in range(CONSTANTS, parts.nets))),
        {name: Port(name, way, root[nets]) for name, (way, nets) in parts.ports.items()},
    )


def place_of(name: str) -> str:
    """The block's place in the name of an instance or of a memory's port."""
    return name.removeprefix("memory ").rsplit("/", 1)[0]


def _boxed(port: str, placed: Mapping[str, str]) -> bool:
    return port.rsplit(" ", 1)[0] in placed


def _connect(
    parts: _Parts,
    around: Netlist,
    instance: str,
    inner: Netlist,
    outside: Callable[[Ints], Ints],
    own: Callable[[Ints], Ints],
) -> None:
    for name, port in around.ports.items():
        box, _, pin = name.rpartition(" ")
        if box != instance:
            continue
        if pin not in inner.ports or len(inner.ports[pin].nets) != len(port.nets):
            raise ToolError(f"{inner.top} has no port {pin} as wide as {instance} has around it")
        parts.pairs.append(np.stack([outside(port.nets), own(inner.ports[pin].nets)], axis=1))


def _joined(parts: _Parts) -> Ints:
    """int32 (nets,): the net that each is one with; a constant is its own."""
    root = list(range(parts.nets))

    def of(net: int) -> int:
        while root[net] != net:
            root[net] = root[root[net]]
            net = root[net]
        return net

    for left, right in np.concatenate(parts.pairs).tolist() if parts.pairs else ():
        a, b = sorted((of(left), of(right)))
        if b >= CONSTANTS:
            root[b] = a
    return np.array([of(net) for net in range(parts.nets)], np.int32)


def blocks_of(
    netlist: Netlist, top: str, placed: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[str, ...], Ints]:
    """Names of the blocks, and of each instance of an assembled netlist which it is in: int32."""
    names = tuple(placed)
    numbers: dict[str, int] = {}

    def walk(block: str, path: str) -> None:
        numbers[path] = names.index(block)
        for instance, inner in placed[block].items():
            walk(inner, f"{path}/{instance}")

    walk(top, top)
    return names, np.array([numbers[place_of(name)] for name in netlist.instances], np.int32)


def live(netlist: Netlist, always: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (instances,): whether an instance leads to an output or a memory, or is kept anyway.

    A block mapped on its own has registers for what nothing outside takes, such as fields of
    commands that no unit looks at; a mapping of the whole drops them.

    Args:
        netlist: of :func:`assembled`.
        always: bool (instances,), what is kept whether or not something takes it.
    """
    owner, driver, ends = _drivers(netlist)
    wanted = np.zeros(len(netlist.nets), dtype=bool)
    for port in netlist.ports.values():
        if port.direction == "output":
            wanted[port.nets] = True
    reached = np.zeros_like(always)
    todo = always.copy()
    while True:
        todo[driver[wanted & (driver >= 0)]] = True
        new = todo & ~reached
        if not new.any():
            return reached
        reached |= new
        pins = netlist.pin_net[new[owner] & ends]
        wanted[:] = False
        wanted[pins[pins >= 0]] = True


def _drivers(netlist: Netlist) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Instances of pins (pins,); those that drive nets (nets,), -1 for none; which pins are inputs.

    int32, int32, bool (pins,).
    """
    cells = [netlist.library.cells[kind] for kind in netlist.kinds]
    outputs = [np.array([pin.direction == "output" for pin in c.pins.values()]) for c in cells]
    drives = np.concatenate([outputs[kind] for kind in netlist.kind])
    instances = np.arange(len(netlist.instances), dtype=np.int32)
    owner = np.repeat(instances, np.diff(netlist.first_pin))
    driver = np.full(len(netlist.nets), -1, np.int32)
    used = drives & (netlist.pin_net >= 0)
    driver[netlist.pin_net[used]] = owner[used]
    return owner, driver, ~drives
