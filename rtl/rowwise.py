"""Softmax and norm in the exec unit: a row's lines in twice, its results out once."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import KINDS, ROW_KINDS, SETTINGS
from opennpe.golden.machine_rows import NORM_FIELDS, SOFTMAX_FIELDS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import command_layout
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import SLOTS, WORD_BITS
from opennpe.rtl.layer_norm import LayerNorm
from opennpe.rtl.sequence import by_lanes, lanes_of
from opennpe.rtl.softmax import Softmax

__all__ = ["RowUnits", "settings_of"]

FIELDS = {"softmax": SOFTMAX_FIELDS, "norm": NORM_FIELDS}


def settings_of(command: Any, kind: str) -> Any:
    """The fields of the settings of a softmax or norm, as a view of the command's words."""
    words = Cat(command[f"setting{i}"] for i in range(SETTINGS))
    layout = data.StructLayout(dict(FIELDS[kind]))
    return data.View(layout, words[: layout.size])


class RowUnits(wiring.Component):
    """Hands a row's elements to the unit of the exec's kind, lane by lane of each line.

    Of softmax and norm only those that the spec has are there.

    A step is taken in the cycle in which ``ready`` is 1. Results come the unit's latency after the
    steps of pass 2, a lane of all columns a cycle; nothing may hold them up, and nothing does,
    because a line's results take as many cycles as its codes have lines.

    Attributes:
        command: In, the exec. start: In, a pulse before its steps: the command is kept.
        step: In, a line is there. element: In, the lane. line_last: In, the line's last lane.
            last: In, the pass's last step. words: In, the line.
        ready: Out, the step is taken.
        valid, codes, lane, last_lane: Out, results, a code a column.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "start": In(1),
                "step": In(1),
                "element": In(ceil_log2(SLOTS)),
                "line_last": In(1),
                "last": In(1),
                "words": In(bits),
                "ready": Out(1),
                "valid": Out(1),
                "codes": Out(bits),
                "lane": Out(ceil_log2(SLOTS)),
                "last_lane": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        c = Signal(command_layout("exec"), reset_less=True)
        with m.If(self.start):
            m.d.sync += c.eq(self.command)
        makers: dict[str, Any] = {
            "softmax": lambda: Softmax(spec.softmax_unit),
            "norm": lambda: LayerNorm(spec.norm_unit),
        }
        units: dict[str, Any] = {n: makers[n]() for n in ROW_KINDS if not spec.lacks(n)}
        lanes, second = Signal(3), Signal()
        keep = self._keep(m, c, lanes, second)
        m.d.comb += lanes.eq(lanes_of(c.mode_a, c.mode_b))
        taken = self.step & self.ready
        with m.If(taken & self.last):
            m.d.sync += second.eq(~second)
        with m.If(self.start):
            m.d.sync += second.eq(0)
        for name, unit in units.items():
            place(m, platform, name, unit)
            own = c.kind == KINDS.index(name)
            beat = unit.elements.payload
            m.d.comb += [
                unit.elements.valid.eq(self.step & own),
                beat.codes.eq(self._codes(lanes)),
                beat.keep.eq(keep),
                beat.second.eq(second),
                beat.last.eq(self.last),
                unit.results.ready.eq(1),
                unit.format.eq(c.mode_a),
                unit.out.eq(c.out),
                unit.out_shift.eq(c.out_shift),
                unit.underflow_zero.eq(spec.underflow == "zero"),
            ]
            given = settings_of(c, name)
            m.d.comb += [getattr(unit, field).eq(given[field]) for field, _ in FIELDS[name]]
            with m.If(own):
                m.d.comb += [
                    self.ready.eq(unit.elements.ready),
                    self.valid.eq(unit.results.valid),
                    self.codes.eq(unit.results.payload.codes),
                ]
        m.d.comb += self.last_lane.eq(self.lane + 1 == lanes)
        with m.If(self.valid):
            m.d.sync += self.lane.eq(Mux(self.last_lane, 0, self.lane + 1))
        return m

    def _codes(self, lanes: Value) -> Value:
        """The step's lane of every column, in the low bits of a word."""
        found = []
        for column in range(self.spec.array.columns):
            word = self.words.word_select(column, WORD_BITS)
            half = word.word_select(self.element[0], WORD_BITS // 2)
            quarter = word.word_select(self.element, WORD_BITS // SLOTS)
            found.append(by_lanes(lanes, word, half, quarter)[:WORD_BITS])
        return Cat(*found)

    def _keep(self, m: Module, c: Any, lanes: Signal, second: Signal) -> Value:
        """Which columns' elements count: the row's first ones."""
        columns = self.spec.array.columns
        kept, left = Signal(16), Signal(16)
        line = columns << ceil_log2(SLOTS)
        step = Signal(range(line + 1))
        m.d.comb += step.eq(by_lanes(lanes, columns, 2 * columns, 4 * columns))
        taken = self.step & self.ready
        # The row after this one, with a causal mask, keeps one element more.
        more = Signal(16)
        grows = c.causal & second & (kept < c.inputs)
        m.d.comb += more.eq(kept + grows)
        with m.If(taken & self.line_last):
            m.d.sync += left.eq(Mux(left > step, left - step, 0))
            with m.If(self.last):
                m.d.sync += [left.eq(more), kept.eq(more)]
        with m.If(self.start):
            given = self.command
            first = Mux(given.keep < given.inputs, given.keep, given.inputs)
            m.d.sync += [kept.eq(first), left.eq(first)]
        places = []
        for column in range(columns):
            at = by_lanes(lanes, column, 2 * column, 4 * column) + self.element
            places.append(at < left)
        return Cat(*places)
