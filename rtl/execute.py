"""The exec unit: sequence, rows, weights, parameters, array and results in one pipeline."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import TABLE_LINES
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.array import EngineArray
from opennpe.rtl.axi import CAUSE_BITS, LINE_BITS, command_layout
from opennpe.rtl.lanes import WORD_BITS
from opennpe.rtl.legal import illegal
from opennpe.rtl.operands import Place, Row, max_folds, next_place
from opennpe.rtl.parameters import LANE_BITS
from opennpe.rtl.results import PARTS, Results
from opennpe.rtl.rowwise import RowUnits
from opennpe.rtl.sequence import Group, Sequence, of_kind, row_kind
from opennpe.rtl.transpose import Transpose
from opennpe.rtl.weights import Weights

__all__ = ["Execute"]


class State(enum.Enum):
    """What the unit is at."""

    IDLE = 0
    SETUP = 1
    WAIT = 2
    RUN = 3
    FLUSH = 4


class Execute(wiring.Component):
    """Runs exec commands one after the other.

    Timing, for a command taken in cycle t with F folds: in t + 1 to t + R F every pixel slot gets
    its first place; from the next cycle on the unit waits until the results of the exec before
    are written (one cycle at least); then groups of fetches follow (:class:`Sequence`). A group
    whose last cycle is u has its first step in u + 3, its others in the cycles after. When the
    array does not take a step, everything stands still but the results. The unit takes the next
    command when the last step has been taken; results then still come out.

    Attributes:
        commands: In, stream.
        operand_enable, operand_line, operand_data: In, a line for the operand memories.
        load_enable: In, a bit each for weights, parameters and table; load_line, load_lane,
            load_data: In.
        write_enable, write_line, write_data, write_parts: Out, to the buffer.
        completed: Out, a pulse. busy: Out. cause: Out, sticky until ``clear``.
        stepped: Out, the array took a step. blocked: Out, results keep it from one.
        waiting: Out, there is no exec to run.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "clear": In(1),
                "commands": In(stream.Signature(command_layout("exec"))),
                "operand_enable": In(1),
                "operand_line": In(ceil_log2(spec.memory.operand_lines)),
                "operand_data": In(bits),
                "weights_enable": In(1),
                "parameters_enable": In(1),
                "table_enable": In(1),
                "load_line": In(LINE_BITS),
                "load_lane": In(LANE_BITS),
                "load_data": In(bits),
                "write_enable": Out(1),
                "write_line": Out(LINE_BITS),
                "write_data": Out(bits),
                "write_parts": Out(PARTS),
                "completed": Out(1),
                "busy": Out(1),
                "cause": Out(CAUSE_BITS),
                "stepped": Out(1),
                "blocked": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        c = Signal(command_layout("exec"), reset_less=True)
        state = Signal(State, init=State.IDLE)
        m.submodules.sequence = sequence = Sequence(spec)
        m.submodules.array = array = EngineArray(spec)
        m.submodules.results = results = Results(spec)
        m.submodules.transpose = transpose = Transpose(spec)
        m.submodules.weights = weights = Weights(spec)
        rows = [Row(spec) for _ in range(spec.array.rows)]
        for r, row in enumerate(rows):
            m.submodules[f"row{r}"] = row
        go, take = Signal(), Signal()
        stepping, ended = Signal(), Signal()
        owing = Signal()  # results of an exec are under way, in the engines or behind them
        m.submodules.rowwise = rowwise = RowUnits(spec)
        transposing, by_rows = of_kind(spec, c.kind, "transpose"), row_kind(spec, c.kind)
        m.d.comb += [
            go.eq(Mux(by_rows, rowwise.ready | ~stepping, array.go)),
            sequence.command.eq(c),
            sequence.running.eq(state == State.RUN),
            sequence.go.eq(go),
            sequence.start.eq(state == State.WAIT),
            self.busy.eq((state != State.IDLE) | owing),
            self.waiting.eq(state == State.IDLE),
            self.stepped.eq(stepping & go & ~transposing & ~by_rows),
            self.blocked.eq(stepping & ~go & results.blocked & ~by_rows),
        ]
        self._states(m, c, state, sequence, results, (ended, owing))
        self._set_up(m, c, state, rows)
        for row in rows:
            m.d.comb += [
                row.command.eq(c),
                row.fetch.eq(sequence.fetch),
                row.fold.eq(sequence.fold),
                row.offset.eq(sequence.offset),
                row.dy.eq(sequence.dy),
                row.dx.eq(sequence.dx),
                row.advance.eq(sequence.advance),
                row.take.eq(take),
                row.go.eq(go),
                row.write_enable.eq(self.operand_enable),
                row.write_line.eq(self.operand_line),
                row.write_data.eq(self.operand_data),
            ]
        self._weights(m, c, state, (go, take), sequence, weights)
        self._steps(
            m, c, sequence, (array, rowwise, transpose), weights, (go, take, stepping, ended)
        )
        m.d.comb += [
            array.words.eq(Cat(row.words for row in rows)),
            array.inside.eq(Cat(row.inside for row in rows)),
        ]
        for taker in (rowwise, transpose):
            m.d.comb += [
                taker.command.eq(c),
                taker.start.eq((state == State.WAIT) & ~owing),
            ]
        m.d.comb += [
            rowwise.words.eq(rows[0].words),
            transpose.words.eq(Cat(row.words[:WORD_BITS] for row in rows)),
            array.weights.eq(weights.weights),
            array.record.eq(weights.parameters),
            array.parameters_enable.eq(self.parameters_enable),
            array.load_line.eq(self.load_line),
            array.load_lane.eq(self.load_lane),
            array.load_data.eq(self.load_data),
            array.scalars.eq(weights.scalars),
            array.channel.eq(weights.channel),
            array.block_rows.eq(c.block_rows),
        ]
        self._results(m, (array, rowwise, transpose), results)
        return m

    def _weights(
        self,
        m: Module,
        c: Any,
        state: Signal,
        flags: tuple[Signal, Signal],
        sequence: Sequence,
        weights: Weights,
    ) -> None:
        """What steps take beside operands."""
        go, take = flags
        m.d.comb += [
            weights.command.eq(c),
            weights.load.eq(self.commands.ready & self.commands.valid),
            weights.start.eq(state == State.WAIT),
            weights.go.eq(go),
            weights.take.eq(take),
            weights.record_take.eq(sequence.record_take),
            weights.pass_last.eq(sequence.pass_last),
            sequence.record_last.eq(weights.record_last),
            sequence.record_index.eq(weights.record_index),
            weights.weights_enable.eq(self.weights_enable),
            weights.load_line.eq(self.load_line),
            weights.load_data.eq(self.load_data),
        ]
        with m.If(weights.malformed & (state != State.IDLE)):
            m.d.sync += self.cause.eq(CAUSES.index("a malformed stream of weights"))

    def _states(
        self,
        m: Module,
        c: Any,
        state: Signal,
        sequence: Sequence,
        results: Results,
        flags: tuple[Signal, Signal],
    ) -> None:
        given = self.commands.payload
        ended, owing = flags
        starts = (state == State.WAIT) & ~owing
        finishes = c.finish & ~of_kind(self.spec, c.kind, "transpose")
        slot_last = Signal()
        slots = Signal(range(self.spec.array.rows * max_folds(self.spec) + 1))
        m.d.comb += [
            self.commands.ready.eq(state == State.IDLE),
            slot_last.eq(slots == 1),
            results.start.eq(starts),
            results.command.eq(c),
            results.clear.eq(self.clear),
        ]
        with m.Switch(state):
            with m.Case(State.IDLE), m.If(self.commands.valid):
                m.d.sync += [c.eq(given), state.eq(State.SETUP)]
                m.d.sync += slots.eq(self.spec.array.rows << given.fold)
                with m.If(illegal(self.spec, given)):
                    m.d.sync += [
                        state.eq(State.IDLE),
                        self.cause.eq(CAUSES.index("an illegal command")),
                    ]
            with m.Case(State.SETUP):
                m.d.sync += slots.eq(slots - 1)
                with m.If(slot_last):
                    m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT), m.If(~owing):
                m.d.sync += state.eq(State.RUN)
            with m.Case(State.RUN), m.If(sequence.finished & sequence.go):
                m.d.sync += state.eq(State.FLUSH)
            with m.Case(State.FLUSH), m.If(ended):
                m.d.sync += state.eq(State.IDLE)
        with m.If(results.completed):
            m.d.sync += owing.eq(0)
        with m.If(starts):
            m.d.sync += owing.eq(finishes)
        m.d.comb += self.completed.eq(
            results.completed | ((state == State.FLUSH) & ended & ~finishes)
        )
        with m.If(results.cause.any()):
            m.d.sync += self.cause.eq(results.cause)
        with m.If(self.clear):
            m.d.sync += [state.eq(State.IDLE), owing.eq(0), self.cause.eq(0)]

    def _set_up(self, m: Module, c: Any, state: Signal, rows: list[Row]) -> None:
        """Every slot its first place: a row's folds are neighbours, then comes the next row."""
        place = Signal(Place, reset_less=True)
        fold, row = Signal(2), Signal(range(len(rows)))
        following = next_place(m, c, place, False, "following")
        given = self.commands.payload
        for r, target in enumerate(rows):
            m.d.comb += [
                target.set_enable.eq((state == State.SETUP) & (row == r)),
                target.set_fold.eq(fold),
                target.set_place.eq(place),
            ]
        with m.If(state == State.IDLE):
            m.d.sync += [
                place.iy.eq(given.iy),
                place.ix.eq(given.ix),
                place.base.eq(given.base),
                fold.eq(0),
                row.eq(0),
            ]
        # The rows of a sparse exec's row block have their pixels in common.
        sparse = of_kind(self.spec, c.kind, "sparse")
        among = row & ((1 << c.block_rows) - 1)
        with m.If((state == State.SETUP) & (~sparse | (among + 1 == 1 << c.block_rows))):
            m.d.sync += place.eq(following)
        with m.If(state == State.SETUP):
            with m.If(fold + 1 == 1 << c.fold):
                m.d.sync += [fold.eq(0), row.eq(row + 1)]
            with m.Else():
                m.d.sync += fold.eq(fold + 1)

    def _steps(
        self,
        m: Module,
        c: Any,
        sequence: Sequence,
        takers: tuple[EngineArray, RowUnits, Transpose],
        weights: Weights,
        flags: tuple[Signal, ...],
    ) -> None:
        """From groups to steps; weights and parameters are read a cycle ahead of their step."""
        go, take, stepping, ended = flags
        array, rowwise, transpose = takers
        e_valid, e_group = Signal(), Signal(Group)
        f_valid, f_group = Signal(), Signal(Group)
        s_valid, s_group, element = Signal(), Signal(Group), Signal(2)
        final, more = Signal(), Signal()
        largest = of_kind(self.spec, c.kind, "max")
        by_rows = row_kind(self.spec, c.kind)
        transposing = of_kind(self.spec, c.kind, "transpose")
        with m.If(go):
            m.d.sync += [
                e_valid.eq(sequence.ends),
                e_group.eq(sequence.group),
                f_valid.eq(e_valid),
                f_group.eq(e_group),
            ]
        m.d.comb += [
            take.eq(f_valid),
            stepping.eq(s_valid),
            final.eq(element + 1 == s_group.elements),
            more.eq(s_valid & ~final),
            ended.eq(go & ~(sequence.ends | e_valid | f_valid | more)),
            array.step.eq(s_valid & ~by_rows & ~transposing),
            rowwise.step.eq(s_valid & by_rows),
            transpose.step.eq(s_valid & transposing),
            *(taker.element.eq(element) for taker in takers),
            rowwise.line_last.eq(final),
            *(taker.last.eq(s_group.last & final) for taker in (rowwise, transpose)),
            array.group_first.eq(s_group.first),
            array.group_last.eq(s_group.last & final),
            array.sum_first.eq(((s_group.first & (element == 0)) & c.begin) | largest),
            array.sum_last.eq(s_group.last & final & c.finish),
            array.kind.eq(c.kind),
            array.fold.eq(c.fold),
            array.mode_a.eq(c.mode_a),
            array.mode_b.eq(c.mode_b),
            array.out.eq(c.out),
        ]
        with m.If(go & take):
            m.d.sync += [s_valid.eq(1), s_group.eq(f_group), element.eq(0)]
        with m.Elif(go & more):
            m.d.sync += element.eq(element + 1)
        with m.Elif(go):
            m.d.sync += s_valid.eq(0)
        # The step that is read for now: the first of the group taken, or the group's next one.
        ahead, sum_done = Signal(), Signal()
        m.d.comb += [
            ahead.eq(go & (take | more)),
            sum_done.eq(
                Mux(
                    take,
                    f_group.last & (f_group.elements == 1),
                    s_group.last & (element + 2 == s_group.elements),
                )
            ),
        ]
        m.d.comb += [weights.ahead.eq(ahead), weights.sum_done.eq(sum_done)]

    def _results(
        self, m: Module, takers: tuple[EngineArray, RowUnits, Transpose], results: Results
    ) -> None:
        """Results of the array or of row 0's unit, whichever there are; then the buffer's port."""
        array, rowwise, transpose = takers
        bits = ceil_log2(TABLE_LINES)
        m.d.comb += [
            results.valid.eq(array.valid | rowwise.valid),
            results.codes.eq(Mux(rowwise.valid, rowwise.codes, array.codes)),
            results.lane.eq(Mux(rowwise.valid, rowwise.lane, array.lane)),
            results.last.eq(Mux(rowwise.valid, rowwise.last_lane, array.last_lane)),
            array.ready.eq(results.ready),
            results.table_enable.eq(self.table_enable),
            results.table_line.eq(self.load_line[:bits]),
            results.table_data.eq(self.load_data),
        ]
        writers = (transpose, results)
        # No transposition begins before the last results are written.
        for part in ("write_line", "write_data", "write_parts"):
            chosen = Mux(transpose.step, *(getattr(writer, part) for writer in writers))
            m.d.comb += getattr(self, part).eq(chosen)
        outside = transpose.write_line >= self.spec.memory.buffer_lines
        m.d.comb += self.write_enable.eq(
            Mux(transpose.step, transpose.write_enable & ~outside, results.write_enable)
        )
        with m.If(transpose.step & outside):
            m.d.sync += self.cause.eq(CAUSES.index("a line outside a memory"))
