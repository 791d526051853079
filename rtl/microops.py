"""The front end of sparse execs: records out of the weight memory, one a step."""

from __future__ import annotations

from itertools import product
from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden import formats
from opennpe.golden.commands import FIELDS, WIDEN
from opennpe.golden.errors import ProgramError
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.microops import BLOCK_ROWS, DELTAS, Shape
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import command_layout

__all__ = ["INDEX_BITS", "WEIGHTS", "MicroOps", "stored_bits", "whole_records"]

WEIGHTS = max(BLOCK_ROWS)
"""Weights of the longest record."""
INDEX_BITS = 16
WIDTHS = (4, 8, 16)
"""Bits of a weight in a record."""
WIDTH_BITS = 2
WIDEN_BITS = dict(FIELDS["exec"])["weight_widen"]
_ONE = {4: "fp4", 8: "posit8", 16: "posit16"}


def _stored(widen: int, mode: int) -> int:
    """Index into WIDTHS of a weight as the stream holds it."""
    pair = WIDEN[widen] if widen < len(WIDEN) else None
    name = ENGINE_FORMATS[mode] if pair is None else pair[0]
    return WIDTHS.index(int(formats.get(name).bits))


def _table(values: list[int], bits: int, index: Value) -> Value:
    return Array(Const(v, bits) for v in values)[index]


def stored_bits(command: Any) -> Value:
    """Index into WIDTHS of a sparse exec's weights as the stream holds them."""
    choices = [_stored(w, mode) for w in range(1 << WIDEN_BITS) for mode in range(4)]
    place = (command.weight_widen << 2) | command.mode_b
    return _table(choices, WIDTH_BITS, place)


def _shapes(columns: int) -> list[tuple[int, int]]:
    """Records a line and bits a record by width, delta and block rows; none fits: 0 records."""
    found = []
    for width, delta, rows in product(range(4), range(4), range(4)):
        try:
            if width < len(WIDTHS) and delta < len(DELTAS):
                shape = Shape(_ONE[WIDTHS[width]], 1 << rows, DELTAS[delta], columns)
                found.append((shape.per_line, shape.record_bits))
                continue
        except ProgramError:
            pass
        found.append((0, 0))
    return found


def _place(command: Any) -> Value:
    return (stored_bits(command) << 4) | (command.delta << 2) | command.block_rows


def whole_records(spec: CoprocessorSpec, command: Any) -> Value:
    """Whether the command's records are some that there are, and fit in a line."""
    per_line = [int(n > 0) for n, _ in _shapes(spec.line_words)]
    return _table(per_line, 1, _place(command))


class MicroOps(wiring.Component):
    """Reads the stream's lines ahead and offers a record a cycle.

    Timing: after ``start`` in cycle t the first record is there from t + 3 on; the next one in the
    cycle after ``take``. The stream is read over and over, once for each pixel tile.

    Attributes:
        command: In, the exec under way; held still from ``start`` on. start: In, a pulse.
        take: In, the record is used; ``pass_last``: In, it is the last one of a pixel tile.
        last: Out, the record ends its row block. index: Out, its input channel.
        weights: Out, ``WEIGHTS`` words: the block's weights as the stream holds them.
        read_line: Out, read_enable: Out, read_data: In: the weight memory's read port.
        malformed: Out, sticky: an index there is not, or lines too few or too many. From then on
            every record is the last one of its block, so that the exec comes to its end.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "start": In(1),
                "take": In(1),
                "pass_last": In(1),
                "last": Out(1),
                "index": Out(INDEX_BITS),
                "weights": Out(WEIGHTS * 16),
                "read_line": Out(ceil_log2(spec.memory.weight_lines)),
                "read_enable": Out(1),
                "read_data": In(bits),
                "malformed": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.command
        bits = 8 * self.spec.line_bytes
        shapes = _shapes(self.spec.line_words)
        most = max(n for n, _ in shapes)
        width, place = Signal(WIDTH_BITS), Signal(6)
        per_line, record_bits = Signal(range(most + 1)), Signal(7)
        m.d.comb += [width.eq(stored_bits(c)), place.eq(_place(c))]
        # Static during an exec: registered, so that no path begins at the command.
        m.d.sync += [
            per_line.eq(_table([n for n, _ in shapes], len(per_line), place)),
            record_bits.eq(_table([n for _, n in shapes], len(record_bits), place)),
        ]
        line, left = Signal(bits, reset_less=True), Signal(range(most + 1))
        number = Signal(16)  # of the line that is taken apart
        refill, filling = Signal(), Signal(2)
        final = number + 1 == c.stream_lines
        m.d.comb += refill.eq((filling == 1) | (self.take & ((left == 1) | self.pass_last)))
        self._ahead(m, refill, filling)
        with m.If(self.start):
            m.d.sync += [filling.eq(2), number.eq(0), left.eq(0), self.malformed.eq(0)]
        with m.Elif(filling.any()):
            m.d.sync += filling.eq(filling - 1)
        with m.If(refill):
            m.d.sync += [line.eq(self.read_data), left.eq(per_line)]
        with m.Elif(self.take):
            m.d.sync += [line.eq(line >> record_bits), left.eq(left - 1)]
        with m.If(self.take & refill):
            m.d.sync += number.eq(Mux(final, 0, number + 1))
        wrong = self._record(m, line, width) >= c.inputs
        # A tile ends in the last line, and the last line ends a tile.
        uneven = Mux(self.pass_last, ~final, final & (left == 1))
        with m.If(self.take & (wrong | uneven)):
            m.d.sync += self.malformed.eq(1)
        return m

    def _ahead(self, m: Module, refill: Signal, filling: Signal) -> None:
        """The line after the one that is taken apart stands at the memory's output."""
        c = self.command
        behind = Signal(16)  # lines of the stream read so far, over again at its end
        wraps = behind + 1 == c.stream_lines
        m.d.comb += [
            self.read_enable.eq(filling.any() | refill),
            self.read_line.eq(c.weight_line + behind),
        ]
        with m.If(self.read_enable):
            m.d.sync += behind.eq(Mux(wraps, 0, behind + 1))
        with m.If(self.start):
            m.d.sync += behind.eq(0)

    def _record(self, m: Module, line: Signal, width: Signal) -> Value:
        """The lowest record's parts; the input channel it names, however large."""
        c = self.command
        at = Signal(INDEX_BITS)  # of the record before, 0 at the start of a block
        step, words = Signal(16), Signal(WEIGHTS * 16)
        ends, found = Signal(), Signal(INDEX_BITS + 1)
        with m.Switch(c.delta):
            for code, delta in enumerate(DELTAS):
                with m.Case(code):
                    m.d.comb += [step.eq(line[1:][:delta]), words.eq(line[1 + delta :])]
        with m.Switch(width):
            for code, bits in enumerate(WIDTHS):
                with m.Case(code):
                    for j in range(WEIGHTS):
                        own = words.word_select(j, bits)
                        m.d.comb += self.weights.word_select(j, 16).eq(own)
        m.d.comb += [
            ends.eq(line[0] | self.malformed),
            self.last.eq(ends),
            found.eq(at + step),
            self.index.eq(found),
        ]
        with m.If(self.take):
            m.d.sync += at.eq(Mux(ends, 0, self.index))
        with m.If(self.start):
            m.d.sync += at.eq(0)
        return found
