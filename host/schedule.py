"""Commands in order: their waits, the loads of the list itself, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import TARGETS, UNITS, WAITS, Command, encode, unit_count
from opennpe.golden.errors import CompileError
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec

__all__ = ["Item", "List", "Span", "encoded", "schedule"]

Span = tuple[str, int, int]
"""A memory, the first line or channel tile in it, and the one past the last."""
COUNT_WINDOW = 1 << 14
"""A wait may lie this far behind a unit's count: half of what 16 bits tell apart, halved again."""


@dataclass
class Item:
    """A command before its waits are known.

    Attributes:
        op: its name. values: its fields, but for the waits.
        reads, writes: what it touches; rings are given without wrapping around.
        layer: the layer it belongs to.
        cycles: what an exec takes, roughly.
    """

    op: str
    values: dict[str, int]
    reads: list[Span] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)
    layer: str = ""
    cycles: int = 0


@dataclass(frozen=True)
class List:
    """The finished list: its bytes, the lines of it to load at the start, layers by command."""

    data: bytes
    lines: int
    layers: tuple[str, ...]


class _Tracker:
    """Who touched which line last, by unit; gives what the next command has to wait for."""

    def __init__(self, sizes: dict[str, int], rings: frozenset[str]) -> None:
        self.rings, self.sizes = rings, sizes
        shape = {name: (len(UNITS), size) for name, size in sizes.items()}
        self.written = {n: np.zeros(s, dtype=np.int64) for n, s in shape.items()}
        self.read = {n: np.zeros(s, dtype=np.int64) for n, s in shape.items()}
        self.count = dict.fromkeys(UNITS, 0)
        self.last = {unit: np.zeros(len(UNITS), dtype=np.int64) for unit in UNITS}

    def parts(self, span: Span) -> list[tuple[str, slice]]:
        """A span without wrapping around."""
        name, first, stop = span
        size = self.sizes[name]
        if stop <= first:
            return []
        if name not in self.rings:
            return [(name, slice(first, stop))]
        if stop - first >= size:
            return [(name, slice(0, size))]
        first, stop = first % size, (stop - 1) % size + 1
        if first < stop:
            return [(name, slice(first, stop))]
        return [(name, slice(first, size)), (name, slice(0, stop))]

    def waits(self, item: Item) -> NDArray[np.int64]:
        """Counts of each unit that a command needs, as small as the hazards allow."""
        need = np.zeros(len(UNITS), dtype=np.int64)
        for span in item.reads:
            for name, where in self.parts(span):
                need = np.maximum(need, self.written[name][:, where].max(axis=1))
        for span in item.writes:
            for name, where in self.parts(span):
                for table in (self.written, self.read):
                    need = np.maximum(need, table[name][:, where].max(axis=1))
        if item.op == "end":
            return np.array([self.count[unit] for unit in UNITS])
        own = UNITS.index(item.op)
        need[own] = 0
        # A unit's commands run in order: what one has waited for holds for the next. Very old
        # counts would be taken for future ones.
        far = np.array([self.count[unit] - COUNT_WINDOW for unit in UNITS])
        far[own] = 0
        need = np.maximum(np.maximum(need, self.last[item.op]), far)
        need[own] = max(self.count[item.op] - COUNT_WINDOW, 0)
        self.last[item.op] = need.copy()
        self.count[item.op] += 1
        for spans, table in ((item.reads, self.read), (item.writes, self.written)):
            for span in spans:
                for name, where in self.parts(span):
                    table[name][own, where] = self.count[item.op]
        return np.asarray(need)


def encoded(spec: CoprocessorSpec, items: list[Item], outside_lines: int) -> bytes:
    """Commands in this order, each with the waits that its hazards ask for.

    Args:
        outside_lines: lines of the memory outside.

    Raises:
        CompileError: a value that its field cannot hold; the message names the layer.
    """
    memory = spec.memory
    tracker = _Tracker(
        {
            "buffer": memory.buffer_lines,
            "operands": memory.operand_lines,
            "weights": memory.weight_lines,
            "parameters": memory.parameter_tiles,
            "table": 1,
            "outside": outside_lines,
        },
        frozenset({"operands", "weights"}),
    )
    data = []
    for item in items:
        waits = dict(zip(WAITS, (int(w) % (1 << 16) for w in tracker.waits(item)), strict=True))
        try:
            data.append(encode(Command(item.op, {**waits, **item.values})))
        except ValueError as error:
            raise CompileError(f"layer '{item.layer}': {error}") from error
    return b"".join(data)


def schedule(spec: CoprocessorSpec, items: list[Item], address: int, outside_lines: int) -> List:
    """Give every command its waits and insert the loads of the list.

    Args:
        address: byte address of the list outside.
        outside_lines: lines of the memory outside.

    Raises:
        CompileError: a value that its field cannot hold; the message names the layer.
    """
    ordered = _with_loads(spec, [*items, Item("end", {})], address)
    data = encoded(spec, ordered, outside_lines)
    half = spec.memory.command_units // 2 * UNIT_BYTES
    lines = -(-min(len(data), half) // spec.line_bytes)
    return List(data, lines, tuple(item.layer for item in ordered))


def _with_loads(spec: CoprocessorSpec, items: list[Item], address: int) -> list[Item]:
    """A load of the half after it in each half of the command memory: at its beginning, but in the
    first half, where the network's own first loads are urgent, a little later."""
    half = spec.memory.command_units // 2
    rest = sum(unit_count(item.op) for item in items)
    found: list[Item] = []
    refills: list[tuple[int, Item]] = []
    at, ahead = 0, 1
    for item in items:
        begin = (ahead - 1) * half + (half // 4 if ahead == 1 else 0)
        if at >= begin and at + rest > half * ahead:
            load = Item("load", {"target": TARGETS.index("commands")}, layer="commands")
            refills.append((ahead, load))
            found.append(load)
            at, ahead = at + 1, ahead + 1
        found.append(item)
        at += unit_count(item.op)
        rest -= unit_count(item.op)
    per_unit = UNIT_BYTES // spec.line_bytes
    for number, load in refills:
        units = min(half, at - number * half)
        load.values |= {
            "line": number % 2 * half * per_unit,
            "lines": units * per_unit,
            "address": address + number * half * UNIT_BYTES,
        }
    return found
