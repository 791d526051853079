"""What a program's run asks of each memory and of the bus, counted from its commands.

The counts are those of the gates: a memory is read in a cycle in which its read port is enabled,
whether or not what it gives is used (``tests/agree`` counts the enables of the Verilated
co-processor). A line is what the spec calls one; of the operand memories every row has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden.program import Program
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec
from opennpe.sim.command_table import fields, places
from opennpe.sim.exec_cycles import Exec, describe
from opennpe.sim.stream_counts import Outside, record_counts
from opennpe.tech.memories import Shape

__all__ = ["COUNTS", "Accesses", "accesses", "by_layer", "memory_shapes", "sequence_counts"]

Ints = NDArray[np.int64]

COUNTS = (
    "bus_bits_read",
    "bus_bits_written",
    "buffer_reads",
    "buffer_writes",
    "operand_reads",
    "operand_writes",
    "weight_reads",
    "weight_writes",
    "parameter_reads",
    "parameter_writes",
    "table_reads",
    "table_writes",
    "command_reads",
    "command_writes",
    "steps",
    "row_steps",
    "moves",
    "roundings",
)
"""Lines read and written, or bits of the bus; then what execs did: steps of sums, steps of the row
units, elements transposed, and results rounded (a step is one of the whole array, a rounding one
of one engine's lane)."""


@dataclass(frozen=True, eq=False)
class Accesses:
    """Counts of each command of a list.

    Attributes:
        table: int64 (commands, COUNTS); the first row is the load that a start makes, the others
            are the list's commands without the end.
    """

    table: Ints

    def of(self, name: str) -> Ints:
        """A count of every command: int64 (commands,)."""
        return np.asarray(self.table[:, COUNTS.index(name)])

    def total(self) -> dict[str, int]:
        """All commands together."""
        return dict(zip(COUNTS, self.table.sum(axis=0).tolist(), strict=True))


def memory_shapes(spec: CoprocessorSpec) -> dict[str, Shape]:
    """The memories inside a co-processor, by the name that their counts begin with."""
    bits, memory = 8 * spec.line_bytes, spec.memory
    command_lines = memory.command_units * UNIT_BYTES // spec.line_bytes
    word = spec.engine.word_bits
    return {
        "buffer": Shape("buffer", memory.buffer_lines, bits),
        "operand": Shape("operands", memory.operand_lines, bits, spec.array.rows),
        "weight": Shape("weights", memory.weight_lines, bits),
        "parameter": Shape("parameters", memory.parameter_tiles, bits, C.PARAMETER_LINES),
        "table": Shape("table", C.TABLE_LINES, word, spec.array.columns),
        "command": Shape("commands", command_lines, bits),
    }


def accesses(spec: CoprocessorSpec, program: Program) -> Accesses:
    """What each command of a program asks of the memories.

    Raises:
        ProgramError: a list that is none, or a malformed stream of weights.
    """
    first = program.address - program.origin
    listed = program.image[first : first + program.list_bytes]
    ops, units = places(listed)
    table = np.zeros((len(ops), len(COUNTS)), dtype=np.int64)
    start = {"lines": np.array([program.lines]), "widen": np.array([0])}
    start["target"] = np.array([C.TARGETS.index("commands")])
    _loads(spec, table, np.array([0]), start)
    held = {}
    for code, op in enumerate(C.OPS):
        own = np.nonzero(ops == code)[0]
        held[op] = fields(listed, op, units[own]) | {"at": own + 1}
        if op != "end":
            lines = C.unit_count(op) * UNIT_BYTES // spec.line_bytes
            table[own + 1, COUNTS.index("command_reads")] += lines
    _loads(spec, table, held["load"]["at"], held["load"])
    _fills(spec, table, held["fill"])
    stores = held["store"]
    _add(table, stores["at"], "buffer_reads", stores["lines"])
    _add(table, stores["at"], "bus_bits_written", stores["lines"] * 8 * spec.line_bytes)
    outside = Outside(program.image, program.origin)
    _execs(spec, table, held["exec"], record_counts(spec, held["load"], held["exec"], outside))
    return Accesses(table)


def by_layer(found: Accesses, layers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts of each layer that has commands; what a start loads is called "start".

    Args:
        found: of a program.
        layers: the layer of each command, as ``Program.layers``.
    """
    rows: dict[str, Ints] = {"start": found.table[0].copy()}
    for name, row in zip(layers, found.table[1:], strict=False):
        rows[name] = rows.get(name, 0) + row
    return {name: dict(zip(COUNTS, row.tolist(), strict=True)) for name, row in rows.items()}


def _add(table: Ints, at: Ints, name: str, values: Ints) -> None:
    np.add.at(table[:, COUNTS.index(name)], at, values)


def _factors(widen: Ints) -> Ints:
    known = np.array([C.widen_factor(w) for w in range(len(C.WIDEN))], dtype=np.int64)
    return np.asarray(known[np.minimum(widen, len(known) - 1)])


def _loads(spec: CoprocessorSpec, table: Ints, at: Ints, found: dict[str, Ints]) -> None:
    lines = found["lines"] * _factors(found["widen"])
    _add(table, at, "bus_bits_read", found["lines"] * 8 * spec.line_bytes)
    names = {"buffer": "buffer", "weights": "weight", "parameters": "parameter",
             "commands": "command", "table": "table"}  # fmt: skip
    for target, name in names.items():
        own = found["target"] == C.TARGETS.index(target)
        # A line of the table is an entry of every column's own memory.
        share = spec.array.columns if target == "table" else 1
        _add(table, at[own], f"{name}_writes", share * lines[own])


def _fills(spec: CoprocessorSpec, table: Ints, found: dict[str, Ints]) -> None:
    lines = found["run"] * found["inner"] * found["outer"]
    _add(table, found["at"], "buffer_reads", lines)
    written = lines * _factors(found["widen"]) * spec.array.rows
    _add(table, found["at"], "operand_writes", written)


def sequence_counts(
    spec: CoprocessorSpec, found: dict[str, Ints], records: dict[int, Ints]
) -> dict[str, Ints]:
    """What the sequence of each exec does: int64 (execs,) each.

    Args:
        spec, found: the co-processor and the fields of execs.
        records: records of each row block, of sparse execs.

    Returns:
        ``fetches``: cycles in which the rows read. ``steps``: of whatever takes the operands.
        ``turns``: sums begun or gone on with, whether or not results leave.
        ``sums``: tiles of results, or rows and blocks of the row units. ``lines``: written.
        ``pixel_tiles``: turns of the walk over pixels.
    """
    e = Exec(*describe(spec, found).T)
    pixel_tiles = -(-e.lines // e.rows)
    groups = e.taps * ((e.blocks - 1) * e.words + e.last_words)
    inner = (e.last_words - 1) * e.steps + e.last_steps
    steps = e.taps * ((e.blocks - 1) * e.words * e.steps + inner)
    turns = pixel_tiles * e.tiles
    for index, own in records.items():
        groups[index] = steps[index] = own.sum()
        turns[index] = pixel_tiles[index]
    sums = pixel_tiles * np.where(e.by_rows == 1, e.blocks, e.tiles)
    tiles = np.where(e.by_rows == 1, e.blocks, e.tiles)
    written = np.where(
        e.transpose == 1, pixel_tiles * steps, e.lines * e.sub_lines * tiles * e.finish
    )
    return {
        "fetches": turns * groups * e.folds,
        "steps": turns * steps,
        "turns": pixel_tiles * e.tiles,
        "sums": sums * e.finish,
        "lines": written,
        "pixel_tiles": pixel_tiles,
        "lanes": np.asarray(e.lanes),
    }


def _parameters(spec: CoprocessorSpec, found: dict[str, Ints]) -> Ints:
    """Lines of parameters that a turn reads: the bias where a sum begins, shifts where it ends.

    What an earlier exec began is gone on with and asks for no bias; a maximum goes through the
    engines as a sum of its own, whatever the command says.
    """
    bias_lines = spec.engine.accumulator_bits // spec.engine.word_bits
    begins = (found["begin"] == 1) | (found["kind"] == C.KINDS.index("max"))
    shift_lines = (C.PARAMETER_LINES - bias_lines) * (found["finish"] == 1)
    return np.asarray(bias_lines * begins + shift_lines)


def _execs(
    spec: CoprocessorSpec, table: Ints, found: dict[str, Ints], records: dict[int, Ints]
) -> None:
    at, kind = found["at"], found["kind"]
    counts = sequence_counts(spec, found, records)
    rows = np.isin(kind, [C.KINDS.index(name) for name in C.ROW_KINDS])
    moved = kind == C.KINDS.index("transpose")
    sparse = kind == C.KINDS.index("sparse")
    _add(table, at, "operand_reads", counts["fetches"] * spec.array.rows)
    # A record's line is read once a turn, and two more at the start; weights that are lines are
    # read a step each.
    stream = 2 + counts["pixel_tiles"] * found["stream_lines"]
    _add(table, at, "weight_reads", np.where(sparse, stream, counts["steps"]))
    lines = np.where(rows | moved, 0, _parameters(spec, found))
    _add(table, at, "parameter_reads", counts["turns"] * lines)
    _add(table, at, "buffer_writes", counts["lines"])
    lanes = np.array([spec.engine.lanes(name) for name in spec.mac.formats])[found["out"]]
    looked = (found["table"] == 1) * counts["lines"] * (lanes + 1)
    _add(table, at, "table_reads", looked * spec.array.columns)
    _add(table, at, "steps", np.where(rows | moved, 0, counts["steps"]))
    _add(table, at, "row_steps", np.where(rows, counts["steps"], 0))
    _add(table, at, "moves", np.where(moved, counts["steps"], 0))
    engines = spec.array.rows * spec.array.columns
    rounded = np.where(rows | moved, 0, counts["sums"] * counts["lanes"] * engines)
    _add(table, at, "roundings", rounded)
