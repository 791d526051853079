"""The array: what each engine of each row and column is fed, and what they all answer."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import KINDS
from opennpe.golden.formats import ENGINE_FORMATS, get
from opennpe.golden.microops import BLOCK_ROWS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import ports
from opennpe.rtl.axi import LINE_BITS
from opennpe.rtl.engine import Engine
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import SLOTS, WORD_BITS
from opennpe.rtl.mac import Operand
from opennpe.rtl.microops import WEIGHTS
from opennpe.rtl.operands import FOLDS, max_folds
from opennpe.rtl.order import Larger, spread
from opennpe.rtl.parameters import LANE_BITS, Parameters
from opennpe.rtl.sequence import by_lanes, lanes_of, of_kind
from opennpe.rtl.shared_operand import Flags, SharedOperand, shares_weights

__all__ = ["EngineArray"]


def _controls(spec: CoprocessorSpec) -> dict[str, Any]:
    """What all rows are told alike."""
    bits = 8 * spec.line_bytes
    return {
        "step": In(1),
        "group_first": In(1),
        "group_last": In(1),
        "sum_first": In(1),
        "sum_last": In(1),
        "element": In(2),
        "kind": In(3),
        "fold": In(2),
        "mode_a": In(2),
        "mode_b": In(2),
        "out": In(2),
        "weights": In(bits),
        "ready": In(1),
    }


def _shared(spec: CoprocessorSpec) -> dict[str, Any]:
    """What sparse execs tell rows by their place in a row block."""
    return {
        "scalars": In(WEIGHTS * WORD_BITS),
        "block_rows": In(2),
        "channel": In(ceil_log2(spec.array.columns)),
    }


def _parameters(spec: CoprocessorSpec) -> dict[str, Any]:
    """Whose parameters a step takes, and how parameters come in."""
    return {
        "record": In(ceil_log2(spec.memory.parameter_tiles)),
        "parameters_enable": In(1),
        "load_line": In(LINE_BITS),
        "load_lane": In(LANE_BITS),
        "load_data": In(8 * spec.line_bytes),
    }


def _decoded(spec: CoprocessorSpec) -> dict[str, Any]:
    """Every column's weight decoded, where engines do not decode it themselves."""
    if not shares_weights(spec):
        return {}
    columns = spec.array.columns
    return {
        "flags": In(data.ArrayLayout(Flags, columns)),
        "operand": In(data.ArrayLayout(Operand, columns)),
    }


def _answers(spec: CoprocessorSpec, codes: int) -> dict[str, Any]:
    """What a row or all of them answer."""
    return {
        "go": Out(1),
        "valid": Out(1),
        "codes": Out(codes * WORD_BITS),
        "lane": Out(ceil_log2(ports.lane_count(spec.engine))),
        "last_lane": Out(1),
    }


class EngineArray(wiring.Component):
    """``rows x columns`` engines in step. All take a word pair in the same cycle or none does.

    Attributes:
        step: In, this cycle's operands are there. group_first, group_last: In, of the sum's steps.
            sum_first, sum_last: In, what the engines are told. element: In, which one of a word.
        kind, fold, mode_a, mode_b, out: In, of the exec.
        words, inside: In, every row's line and which folds lie inside, row 0 lowest.
        weights: In, a line.
        scalars, block_rows, channel: In, of a sparse exec: the record's weights, log2 of the rows a
            block, the column whose parameters are those of the block's first channel.
        record: In, the parameters of the step's channel tile. parameters_enable, load_line,
            load_lane, load_data: In, parameters that come in.
        go: Out, the step is taken (or there is none).
        valid, codes, lane, last_lane: Out; ready: In: results, as
            :class:`opennpe.rtl.results.Results` takes them.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        rows, columns = spec.array.rows, spec.array.columns
        lines = {"words": In(rows * 8 * spec.line_bytes), "inside": In(rows * FOLDS)}
        answers = _answers(spec, rows * columns)
        super().__init__(_controls(spec) | _shared(spec) | _parameters(spec) | lines | answers)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        rows = [EngineRow(self.spec) for _ in range(self.spec.array.rows)]
        parameters = self._parameters(m)
        columns = self._columns(m, platform)
        for r, row in enumerate(rows):
            # The row's place in its block of 1, 2 or 4 rows.
            own = [r % rows_a_block for rows_a_block in BLOCK_ROWS]
            scalars = [self.scalars.word_select(j, WORD_BITS) for j in own]
            m.d.comb += [
                row.scalar.eq(Array(scalars)[self.block_rows]),
                row.biases.eq(parameters.biases),
                row.shifts.eq(parameters.shifts),
                *(
                    part.eq(getattr(column, port))
                    for port in _decoded(self.spec)
                    for part, column in zip(getattr(row, port), columns, strict=True)
                ),
            ]
            for name, values in (
                ("block_bias", parameters.block_biases),
                ("block_shift", parameters.block_shifts),
            ):
                if len(values):
                    port = getattr(row, name)
                    count = len(values) // len(port)
                    m.d.comb += port.eq(values.word_select(r % count, len(port)))
            place(m, platform, f"row{r}", row)
            m.d.comb += [
                getattr(row, name).eq(getattr(self, name)) for name in _controls(self.spec)
            ]
            m.d.comb += [
                row.words.eq(self.words.word_select(r, len(row.words))),
                row.covered.eq(self.inside.word_select(r, FOLDS)),
                self.codes.word_select(r, len(row.codes)).eq(row.codes),
            ]
        # All rows are in step: one speaks for all.
        m.d.comb += [
            getattr(self, name).eq(getattr(rows[0], name))
            for name in ("go", "valid", "lane", "last_lane")
        ]
        return m

    def _columns(self, m: Module, platform: Any) -> list[SharedOperand]:
        """What decodes every column's weight, if engines do not."""
        if not shares_weights(self.spec):
            return []
        columns = [SharedOperand() for _ in range(self.spec.array.columns)]
        for c, column in enumerate(columns):
            place(m, platform, f"column{c}", column)
            m.d.comb += [
                column.move.eq(~self.valid | self.ready),
                column.taken.eq(_offered(self) & self.go),
                column.word.eq(self.weights.word_select(c, WORD_BITS)),
                column.mode_a.eq(self.mode_a),
                column.mode_b.eq(self.mode_b),
            ]
        return columns

    def _parameters(self, m: Module) -> Parameters:
        """Biases and shifts, which follow the steps that the engines take."""
        m.submodules.parameters = parameters = Parameters(self.spec)
        m.d.comb += [
            parameters.move.eq(~self.valid | self.ready),
            parameters.taken.eq(_offered(self) & self.go),
            parameters.first.eq(self.sum_first),
            parameters.last.eq(self.sum_last),
            parameters.lanes.eq(lanes_of(self.mode_a, self.mode_b)),
            parameters.sparse.eq(of_kind(self.spec, self.kind, "sparse")),
            parameters.load_enable.eq(self.parameters_enable),
            *(
                getattr(parameters, name).eq(getattr(self, name))
                for name in ("record", "channel", "block_rows", "load_line", "load_lane")
            ),
            parameters.load_data.eq(self.load_data),
        ]
        return parameters


def _offered(controls: Any) -> Value:
    """Whether engines are offered a step: a maximum is found first, it goes through them once."""
    return controls.step & ((controls.kind != KINDS.index("max")) | controls.group_last)


class EngineRow(wiring.Component):
    """The engines of a row; ports as those of :class:`EngineArray`, ``covered`` is ``inside``.

    ``flags`` and ``operand``, if there are any, are the columns' weights decoded. In a sparse
    exec ``scalar`` is the row's weight, for all lanes of all columns. ``biases`` and
    ``shifts`` are those of the columns, ``block_bias`` and ``block_shift`` those of the row's
    channel in a sparse exec; whichever do not count are zeros.
    """

    module_name = "engine_row"

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        # "inside" is a word of SystemVerilog.
        lines = {
            "words": In(8 * spec.line_bytes),
            "covered": In(FOLDS),
            "scalar": In(WORD_BITS),
            "biases": In(spec.array.columns * spec.engine.accumulator_bits),
            "shifts": In(spec.array.columns * spec.engine.shift_bits),
            "block_bias": In(spec.engine.accumulator_bits),
            "block_shift": In(spec.engine.shift_bits),
        }
        answers = _answers(spec, spec.array.columns)
        super().__init__(_controls(spec) | _decoded(spec) | lines | answers)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        dense = self.kind == KINDS.index("dense")
        largest = self.kind == KINDS.index("max")
        lanes = Signal(3)
        offered = Signal()
        m.d.comb += [
            lanes.eq(lanes_of(self.mode_a, self.mode_b)),
            offered.eq(_offered(self)),
        ]
        elements = self._elements(m, self.words, lanes)
        sparse = of_kind(spec, self.kind, "sparse")
        half, quarter = self.scalar[: WORD_BITS // 2], self.scalar[: WORD_BITS // SLOTS]
        spread_weight = by_lanes(lanes, self.scalar, half.replicate(2), quarter.replicate(SLOTS))
        shared = shares_weights(spec)
        engines = [Engine(spec.engine, shared=shared) for _ in range(spec.array.columns)]
        for column, engine in enumerate(engines):
            own = self.words.word_select(column, WORD_BITS)
            found = self._largest(m, platform, own, column)
            place(m, platform, f"engine{column}", engine)
            word = engine.words.payload
            m.d.comb += [
                engine.words.valid.eq(offered),
                word.a.eq(Mux(dense, self._of_fold(elements, column), Mux(largest, found, own))),
                word.b.eq(Mux(sparse, spread_weight, self.weights.word_select(column, WORD_BITS))),
                word.mode_a.eq(self.mode_a),
                word.mode_b.eq(self.mode_b),
                word.first.eq(self.sum_first),
                word.last.eq(self.sum_last),
                word.out.eq(self.out),
                # The pipeline never waits for these: they keep pace with it.
                engine.biases.valid.eq(1),
                engine.biases.payload.eq(self._of(self.biases, column) | self.block_bias),
                engine.shifts.valid.eq(1),
                engine.shifts.payload.eq(self._of(self.shifts, column) | self.block_shift),
                engine.results.ready.eq(self.ready),
                engine.underflow_zero.eq(spec.underflow == "zero"),
            ]
            if shared:
                m.d.comb += [
                    engine.shared_flags.eq(self.flags[column]),
                    engine.shared_operand.eq(self.operand[column]),
                ]
        m.d.comb += [
            self.go.eq(~offered | engines[0].words.ready),
            self.valid.eq(engines[0].results.valid),
            self.codes.eq(Cat(engine.results.payload.code for engine in engines)),
            self.lane.eq(engines[0].results.payload.lane),
            self.last_lane.eq(engines[0].results.payload.last),
        ]
        return m

    def _of(self, all_columns: Value, column: int) -> Value:
        return all_columns.word_select(column, len(all_columns) // self.spec.array.columns)

    def _elements(self, m: Module, line: Value, lanes: Signal) -> list[Value]:
        """The current element of every fold's word, in all lanes."""
        found = []
        for fold in range(max_folds(self.spec)):
            word = line.word_select(fold, WORD_BITS)
            element = Signal(WORD_BITS, name=f"element{fold}")
            half = word.word_select(self.element[0], WORD_BITS // 2)
            quarter = word.word_select(self.element, WORD_BITS // SLOTS)
            m.d.comb += element.eq(
                by_lanes(lanes, word, half.replicate(2), quarter.replicate(SLOTS))
            )
            found.append(element)
        return found

    def _of_fold(self, words: list[Value], column: int) -> Value:
        """The word of the fold that a column works on."""
        return Array(words[self._fold_of(column, log2)] for log2 in self._folds())[self.fold]

    def _folds(self) -> range:
        return range(ceil_log2(max_folds(self.spec)) + 1)

    def _fold_of(self, column: int, log2: int) -> int:
        return (column << log2) // self.spec.array.columns

    def _largest(self, m: Module, platform: Any, own: Value, column: int) -> Value:
        """The largest of the column's words so far, this one included if it lies inside."""
        so_far = Signal(WORD_BITS, name=f"largest{column}", reset_less=True)
        block = Larger()
        place(m, platform, f"larger{column}", block)
        lies = Array(self.covered[self._fold_of(column, log2)] for log2 in self._folds())[self.fold]
        fp4 = self.mode_a == ENGINE_FORMATS.index("fp4")
        # The lowest code of each format: NaR, and for fp4 the largest negative number.
        lowest = Mux(
            fp4,
            Const((1 << WORD_BITS) - 1, WORD_BITS),
            spread(
                Array(Const(1 << (get(n).bits - 1), WORD_BITS) for n in ENGINE_FORMATS)[
                    self.mode_a
                ],
                self.mode_a,
            ),
        )
        m.d.comb += [
            block.a.eq(Mux(lies, own, lowest)),
            block.b.eq(Mux(self.group_first, lowest, so_far)),
            block.format.eq(self.mode_a),
        ]
        with m.If(self.step & self.go):
            m.d.sync += so_far.eq(block.larger)
        return block.larger
