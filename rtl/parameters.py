"""Biases and shifts of the array's columns, each there in the cycle in which the engines take it.

An engine holds neither (:class:`opennpe.rtl.engine.Engine`): all rows take the same ones in the
same cycle, so they are held once a column, and for sparse execs once a row of a row block.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import PARAMETER_LINES
from opennpe.golden.microops import BLOCK_ROWS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import LINE_BITS
from opennpe.rtl.lanes import SLOTS, WORD_BITS
from opennpe.rtl.memories import Lines
from opennpe.rtl.sequence import by_lanes

__all__ = ["LANE_BITS", "Parameters", "block_rows"]

SHIFT_WORDS = 4
"""Words of a parameter record that hold shifts, one a lane."""
BIAS_WORDS = PARAMETER_LINES - SHIFT_WORDS
LANE_BITS = ceil_log2(PARAMETER_LINES)
"""Bits that choose a line of a record."""


def block_rows(spec: CoprocessorSpec) -> int:
    """Rows of the largest row block of a sparse exec that the array has; none without sparse."""
    return 0 if spec.lacks("sparse") else min(spec.array.rows, max(BLOCK_ROWS))


def _step(spec: CoprocessorSpec) -> data.StructLayout:
    """What is known of a step that the engines took, until its parameters are read."""
    return data.StructLayout(
        {
            "first": 1,
            "last": 1,
            "record": ceil_log2(spec.memory.parameter_tiles),
            "channel": ceil_log2(spec.line_words),
            "sparse": 1,
            "block_rows": 2,
            "lanes": 3,
        }
    )


class Parameters(wiring.Component):
    """The parameter memories, and what the engines start from and scale by.

    A step goes through registers beside the engines' own, moved as they are. The bias is read two
    stages ahead of the accumulator and put together one ahead, the shifts are read one stage
    ahead; a lane's shift stays until the pipeline moves.

    Attributes:
        move: In, the engines' pipeline moves. taken: In, and takes a step; first, last: In, of
            its sum. lanes: In, of its formats.
        record, channel: In, of the step, as :class:`opennpe.rtl.weights.Weights` has them.
        sparse, block_rows: In, of the exec.
        biases, shifts: Out, a column each; zeros in sparse execs.
        block_biases, block_shifts: Out, a row of the largest row block each; zeros in all others.
        load_enable, load_line, load_lane, load_data: In, lines that come in.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        engine, columns, rows = spec.engine, spec.line_words, block_rows(spec)
        step = _step(spec)
        super().__init__(
            {
                "move": In(1),
                "taken": In(1),
                **{name: In(field.width) for name, field in step},
                "biases": Out(columns * engine.accumulator_bits),
                "shifts": Out(columns * engine.shift_bits),
                "block_biases": Out(rows * engine.accumulator_bits),
                "block_shifts": Out(rows * engine.shift_bits),
                "load_enable": In(1),
                "load_line": In(LINE_BITS),
                "load_lane": In(LANE_BITS),
                "load_data": In(8 * spec.line_bytes),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        stages = self.spec.engine.stages
        ahead = stages.index("accumulate")
        steps = [Signal(_step(self.spec), name=f"{name}_step") for name in stages[:ahead]]
        given = Signal(_step(self.spec))
        m.d.comb += [
            *(given[name].eq(getattr(self, name)) for name, _ in _step(self.spec)),
            given.first.eq(self.taken & self.first),
            given.last.eq(self.taken & self.last),
        ]
        with m.If(self.move):
            for step, before in zip(steps, [given, *steps], strict=False):
                m.d.sync += step.eq(before)
        reads_bias, reads_shifts, leaves = steps[ahead - 3 :]
        bias = self._read(m, range(BIAS_WORDS), reads_bias.record, reads_bias.first)
        self._biases(m, bias, reads_shifts)
        shifts = range(BIAS_WORDS, PARAMETER_LINES)
        self._shifts(m, self._read(m, shifts, reads_shifts.record, reads_shifts.last), leaves)
        return m

    def _read(self, m: Module, lines: range, record: Value, enable: Value) -> list[Value]:
        """Every column's words of these lines of a record, there when the pipeline has moved."""
        columns = self.spec.line_words
        found = []
        for i in lines:
            held = Lines(8 * self.spec.line_bytes, self.spec.memory.parameter_tiles)
            m.submodules[f"parameters{i}"] = held
            write, read = held.write_port(), held.read_port()
            m.d.comb += [
                write.addr.eq(self.load_line),
                write.data.eq(self.load_data),
                write.en.eq(self.load_enable & (self.load_lane == i)),
                read.addr.eq(record),
                read.en.eq(self.move & enable),
            ]
            found.append(read.data)
        return [Cat(line.word_select(c, WORD_BITS) for line in found) for c in range(columns)]

    def _of_row(self, columns: list[Value], step: Any, row: int) -> Value:
        """Of the column that holds the parameters of a row's channel in its row block."""
        own = Array(row % rows for rows in BLOCK_ROWS)[step.block_rows]
        return Array(columns)[(step.channel + own)[: ceil_log2(len(columns))]]

    def _biases(self, m: Module, columns: list[Value], step: Any) -> None:
        width = self.spec.engine.accumulator_bits
        with m.If(self.move & step.first):
            for c, column in enumerate(columns):
                m.d.sync += self.biases.word_select(c, width).eq(Mux(step.sparse, 0, column))
            for row in range(block_rows(self.spec)):
                own = self._of_row(columns, step, row)
                half, quarter = own[: width // 2], own[: width // SLOTS]
                spread = by_lanes(step.lanes, own, half.replicate(2), quarter.replicate(SLOTS))
                m.d.sync += self.block_biases.word_select(row, width).eq(
                    Mux(step.sparse, spread, 0)
                )

    def _shifts(self, m: Module, columns: list[Value], step: Any) -> None:
        """A lane's shift lies lowest, those of the lanes that leave after it above."""
        width = self.spec.engine.shift_bits
        columns = [
            Cat(column.word_select(lane, WORD_BITS)[:width] for lane in range(SHIFT_WORDS))
            for column in columns
        ]
        with m.If(self.move & step.last):
            for row in range(block_rows(self.spec)):
                own = self._of_row(columns, step, row)[:width]
                m.d.sync += self.block_shifts.word_select(row, width).eq(Mux(step.sparse, own, 0))
        for c, column in enumerate(columns):
            lanes = Signal(SHIFT_WORDS * width, name=f"shifts{c}", reset_less=True)
            with m.If(self.move):
                m.d.sync += lanes.eq(lanes >> width)
                with m.If(step.last):
                    m.d.sync += lanes.eq(Mux(step.sparse, 0, column))
            m.d.comb += self.shifts.word_select(c, width).eq(lanes[:width])
