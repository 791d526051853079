"""Transposition: an element of every row's pixel becomes part of a line of pixels."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import command_layout
from opennpe.rtl.lanes import WORD_BITS
from opennpe.rtl.results import PARTS
from opennpe.rtl.sequence import by_lanes, lanes_of

__all__ = ["Transpose"]


class Transpose(wiring.Component):
    """Writes an element of all rows in the cycle of its step; nothing is kept back.

    For arrays of as many rows as columns: the rows' codes are then a whole part of a line.

    Attributes:
        command: In, the exec. start: In, a pulse before its steps.
        step: In, the words are there. element: In, which one of the word. last: In, the pixel's
            last element. words: In, a word a row.
        write_enable, write_line, write_data, write_parts: Out, the buffer's write port.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "start": In(1),
                "step": In(1),
                "element": In(2),
                "last": In(1),
                "words": In(spec.array.rows * WORD_BITS),
                "write_enable": Out(1),
                "write_line": Out(20),
                "write_data": Out(bits),
                "write_parts": Out(PARTS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.command
        rows = self.spec.array.rows
        base, line, first = Signal(20), Signal(20), Signal(20)
        part = Signal(2)
        lanes = Signal(3)
        whole = part + 1 == lanes
        m.d.comb += [
            lanes.eq(lanes_of(c.mode_a, c.mode_b)),
            self.write_enable.eq(self.step),
            self.write_line.eq(line),
            self.write_data.eq(self._data(m, first, lanes)),
            self.write_parts.eq(by_lanes(lanes, 0b1111, Mux(part[0], 0b1100, 0b0011), 1 << part)),
        ]
        after = Mux(whole, base + c.out_tile, base)
        with m.If(self.step):
            m.d.sync += line.eq(line + 1)
            with m.If(self.last):
                m.d.sync += [
                    first.eq(first + rows),
                    part.eq(Mux(whole, 0, part + 1)),
                    base.eq(after),
                    line.eq(after),
                ]
        with m.If(self.start):
            m.d.sync += [s.eq(c.out_line) for s in (base, line)]
            m.d.sync += [first.eq(0), part.eq(0)]
        return m

    def _data(self, m: Module, first: Signal, lanes: Signal) -> Signal:
        """The rows' codes side by side, in every part of a line."""
        rows = self.spec.array.rows
        data = Signal(len(self.write_data))
        words = []
        for r in range(rows):
            there = first + r < self.command.lines
            words.append(Mux(there, self.words.word_select(r, WORD_BITS), 0))
        for log2 in range(3):
            count, bits = 1 << log2, WORD_BITS >> log2
            codes = [word.word_select(self.element, bits) for word in words]
            with m.If(lanes == count):
                m.d.comb += data.eq(Cat(*codes).replicate(count)[: len(data)])
        return data
