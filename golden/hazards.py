"""Whether a list's waits order everything that must not overlap.

Units run side by side; only waits and the order within a unit hold them back. From these follows
what is complete before a command starts; a command that touches what another one writes, or writes
what another one reads, without either being complete before the other starts, is a race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden import lanes
from opennpe.golden.errors import ProgramError
from opennpe.golden.machine import exec_places
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["Touched", "check", "touched"]

Lines = NDArray[np.int64]
COUNTS = 1 << 16


@dataclass
class Touched:
    """Lines a command reads and writes, by memory; channel tiles of parameters, 0 for the table."""

    reads: dict[str, Lines] = field(default_factory=dict)
    writes: dict[str, Lines] = field(default_factory=dict)


def check(spec: CoprocessorSpec, commands: Sequence[C.Command]) -> int:
    """Find the first race of a list.

    Returns:
        How many pairs of a command and a memory were compared.

    Raises:
        ProgramError: two commands that may overlap and must not; or an end that comes too early,
            or a wait for what cannot come.
    """
    sizes = _sizes(spec, commands)
    units = len(C.UNITS)
    last = {
        kind: {name: np.zeros((units, size), dtype=np.int64) for name, size in sizes.items()}
        for kind in ("reads", "writes")
    }
    count = [0] * units
    known: list[list[Lines]] = [[np.zeros(units, dtype=np.int64)] for _ in range(units)]
    compared = 0
    for number, command in enumerate(commands):
        before = _complete_before(command, number, count, known)
        if command.op == "end":
            if (before < count).any():
                late = C.UNITS[int(np.argmax(before < count))]
                raise ProgramError(f"the end does not wait for the last {late}")
            return compared
        own = C.UNITS.index(command.op)
        before[own] = count[own]
        what = touched(spec, command)
        for mine, others in (("reads", ("writes",)), ("writes", ("reads", "writes"))):
            for memory, lines in getattr(what, mine).items():
                if not lines.size:
                    continue
                compared += 1
                for other in others:
                    newest = last[other][memory][:, lines].max(axis=1)
                    _refuse(number, command, memory, mine, other, newest, before)
        count[own] += 1
        known[own].append(before)
        for kind in ("reads", "writes"):
            for memory, lines in getattr(what, kind).items():
                last[kind][memory][own, lines] = count[own]
    raise ProgramError("the list has no end")


def _complete_before(
    command: C.Command, number: int, count: list[int], known: list[list[Lines]]
) -> Lines:
    """How many commands of each unit are complete when a command starts."""
    before = np.zeros(len(C.UNITS), dtype=np.int64)
    if command.op != "end":
        before = known[C.UNITS.index(command.op)][-1].copy()
    for unit, name in enumerate(C.WAITS):
        # The count nearest to what has been handed out that has these low bits.
        wait = command[name]
        wait += (count[unit] - wait + COUNTS // 2) // COUNTS * COUNTS
        if wait > count[unit]:
            raise ProgramError(
                f"command {number} ({command.op}) waits for {wait} {C.UNITS[unit]} commands, only "
                f"{count[unit]} come before it"
            )
        if wait > 0:
            before = np.maximum(before, known[unit][wait])
            before[unit] = max(before[unit], wait)
    return before


def _refuse(
    number: int,
    command: C.Command,
    memory: str,
    mine: str,
    other: str,
    newest: Lines,
    before: Lines,
) -> None:
    racing = newest > before
    if racing.any():
        unit = int(np.argmax(racing))
        raise ProgramError(
            f"command {number} ({command.op}) {mine} {memory} that {C.UNITS[unit]} "
            f"{int(newest[unit])} {other}: it waits for {int(before[unit])} of them"
        )


def _sizes(spec: CoprocessorSpec, commands: Sequence[C.Command]) -> dict[str, int]:
    memory, line = spec.memory, spec.line_bytes
    ends = [c["address"] // line + c["lines"] for c in commands if c.op in ("load", "store")]
    return {
        "buffer": memory.buffer_lines,
        "operands": memory.operand_lines,
        "weights": memory.weight_lines,
        "parameters": memory.parameter_tiles,
        "table": 1,
        "outside": max(ends, default=1),
    }


def _range(first: int, count: int, ring: int = 0) -> Lines:
    lines = first + np.arange(count, dtype=np.int64)
    return np.unique(lines % ring) if ring else lines


def touched(spec: CoprocessorSpec, command: C.Command) -> Touched:
    """What a command reads and writes, from its fields alone."""
    memory = spec.memory
    if command.op in ("load", "store"):
        outside = _range(command["address"] // spec.line_bytes, command["lines"])
        if command.op == "store":
            buffer = _range(command["line"], command["lines"])
            return Touched({"buffer": buffer}, {"outside": outside})
        return Touched({"outside": outside}, _loaded(spec, command))
    if command.op == "fill":
        o, i, r = np.ogrid[: command["outer"], : command["inner"], : command["run"]]
        lines = command["source"] + o * command["outer_stride"] + i * command["inner_stride"] + r
        count = lines.size * C.widen_factor(command["widen"])
        return Touched(
            {"buffer": np.unique(lines)},
            {"operands": _range(command["line"], count, memory.operand_lines)},
        )
    return _executed(spec, command)


def _loaded(spec: CoprocessorSpec, command: C.Command) -> dict[str, Lines]:
    """What a load writes; when the list may be overwritten is the machine's to check."""
    target = C.TARGETS[command["target"]]
    count = command["lines"] * C.widen_factor(command["widen"])
    if target == "commands":
        return {}
    if target == "table":
        return {"table": np.zeros(1, dtype=np.int64)}
    if target == "parameters":
        return {target: _range(command["line"], count // C.PARAMETER_LINES)}
    return {target: _range(command["line"], count, spec.memory.weight_lines
                           if target == "weights" else 0)}  # fmt: skip


def _executed(spec: CoprocessorSpec, command: C.Command) -> Touched:
    names = [spec.mac.formats[command[m]] for m in ("mode_a", "mode_b", "out")]
    kind = C.KINDS[command["kind"]]
    if kind == "sparse":
        return _sparse(spec, command)
    if kind == "transpose":
        share = lanes.lanes(names[0])
        elements = C.pixel_elements(command, share)
        tiles = -(-command["lines"] // spec.array.rows)
        block, element = np.ogrid[: -(-tiles // share), :elements]
        lines = command["out_line"] + block * command["out_tile"] + element
        return Touched({"operands": _operands(spec, command)}, {"buffer": np.unique(lines)})
    if kind in C.ROW_KINDS:
        results = _results(command, names, command["blocks"])
        return Touched({"operands": _operands(spec, command)}, {"buffer": results})
    steps = C.weight_steps(kind, command, lanes.lanes(names[0]))
    reads = {
        "operands": _operands(spec, command),
        "weights": _range(
            command["weight_line"], command["tiles"] * steps, spec.memory.weight_lines
        ),
        "parameters": _range(command["parameter"], command["tiles"]),
    }
    if command["table"]:
        reads["table"] = np.zeros(1, dtype=np.int64)
    finish = command["finish"]
    writes = {"buffer": _results(command, names, command["tiles"])} if finish else {}
    return Touched(reads, writes)


def _sparse(spec: CoprocessorSpec, command: C.Command) -> Touched:
    """A sparse exec: any input channel may be read."""
    block, columns = 1 << command["block_rows"], spec.line_words
    _, _, base = exec_places(spec, command)
    first = base[:, :1] // columns + np.arange(command["inputs"])
    channels = command["tiles"] * block
    q = np.arange(len(base), dtype=np.int64)[:, None]
    share = spec.array.rows // block
    lines = command["out_line"] + q // share * command["out_tile"] + np.arange(channels)
    lines = lines + q % share * command["out_block"]
    return Touched(
        {
            "operands": np.unique(first % (COUNTS // columns) % spec.memory.operand_lines),
            "weights": _range(
                command["weight_line"], command["stream_lines"], spec.memory.weight_lines
            ),
            "parameters": _range(command["parameter"], -(-channels // columns)),
        },
        {"buffer": np.unique(lines)},
    )


def _operands(spec: CoprocessorSpec, command: C.Command) -> Lines:
    """Lines of operands that pixels which count read."""
    iy, ix, base = exec_places(spec, command)
    dense = C.KINDS[command["kind"]] in ("dense", "transpose")
    size, columns = spec.memory.operand_lines, spec.line_words
    seen = np.zeros(size, dtype=bool)
    for n in range(1 if dense and not command["channel_step"] else command["tiles"]):
        for block in range(command["blocks"]):
            words = command["words"]
            if block == command["blocks"] - 1:
                words = command["last_words"]
            for y in range(command["kernel_y"]):
                for x in range(command["kernel_x"]):
                    row, column = iy + y * command["dilation_y"], ix + x * command["dilation_x"]
                    inside = (row >= 0) & (row < command["height"])
                    inside &= (column >= 0) & (column < command["width"])
                    offset = n * command["channel_step"] + block * command["block_step"]
                    offset += y * command["tap_y"] + x * command["tap_x"]
                    first = (base[inside] + offset) % COUNTS
                    for line in range(-(-words // columns) + 1) if dense else (0,):
                        word = np.minimum(first + line * columns, first + words - 1)
                        seen[word // columns % size] = True
    return np.nonzero(seen)[0]


def _results(command: C.Command, names: list[str], count: int) -> Lines:
    wide, out = lanes.lanes(names[0]), lanes.lanes(names[2])
    own = np.arange(command["lines"], dtype=np.int64) + command["out_line"]
    tiles = np.arange(count, dtype=np.int64)[:, None, None]
    if out > wide:
        return np.unique(own + tiles * wide // out * command["out_tile"])
    parts = np.arange(wide // out, dtype=np.int64)[None, :, None]
    return np.unique(own + tiles * command["out_tile"] + parts * command["out_block"])
