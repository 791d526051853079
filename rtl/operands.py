"""One row of the array: its pixels, its operand memory, the words it hands to its engines."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import command_layout
from opennpe.rtl.memories import Lines
from opennpe.rtl.sequence import of_kind

__all__ = ["FOLDS", "Place", "Row", "max_folds", "next_place"]

FOLDS = 4
"""Most pixels a row works on at a time."""

Place = data.StructLayout({"iy": signed(15), "ix": signed(15), "base": 16})
"""A pixel: the input row and column of its first tap, and the word where that lies."""


def max_folds(spec: CoprocessorSpec) -> int:
    """Most pixels a row of this array works on: a column group has a column."""
    return min(FOLDS, spec.array.columns)


def next_place(m: Module, command: Any, place: Any, tile: bool, name: str) -> Any:
    """The pixel after ``place``, or the one a tile further."""
    moved, found = Signal(Place, name=f"{name}_moved"), Signal(Place, name=name)
    x = command.tile_x if tile else command.stride_x
    step = command.tile_step if tile else command.pixel_step
    past = moved.ix >= command.limit
    m.d.comb += [
        moved.ix.eq(place.ix + x),
        moved.iy.eq(place.iy + (command.tile_y if tile else 0)),
        moved.base.eq(place.base + step),
        found.ix.eq(Mux(past, moved.ix - command.span, moved.ix)),
        found.iy.eq(Mux(past, moved.iy + command.stride_y, moved.iy)),
        found.base.eq(Mux(past, moved.base + command.wrap_step, moved.base)),
    ]
    return found


class Row(wiring.Component):
    """Fetches words of its pixels and gathers a word of every fold.

    Timing: a word fetched in cycle t (with ``go``) is gathered in t + 1; ``take`` makes what was
    gathered before visible at ``words`` in the next cycle.

    Attributes:
        command: In, the exec under way.
        set_enable, set_fold, set_place: In, the place of a fold's first pixel.
        fetch, fold, offset, dy, dx, advance: In, as :class:`opennpe.rtl.sequence.Sequence` has
            them.
        take: In. go: In, nothing moves without it.
        write_enable, write_line, write_data: In, a line of the operand memory.
        words: Out, a line: dense has word f of fold f, the others every column's own word.
        inside: Out, whether each fold's word lies inside the input.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        self.folds = max_folds(spec)
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "set_enable": In(1),
                "set_fold": In(2),
                "set_place": In(Place),
                "fetch": In(1),
                "fold": In(2),
                "offset": In(16),
                "dy": In(14),
                "dx": In(14),
                "advance": In(1),
                "take": In(1),
                "go": In(1),
                "write_enable": In(1),
                "write_line": In(ceil_log2(spec.memory.operand_lines)),
                "write_data": In(bits),
                "words": Out(bits),
                "inside": Out(FOLDS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.command
        bits = 8 * self.spec.line_bytes
        places = [Signal(Place, name=f"place{f}", reset_less=True) for f in range(self.folds)]
        place = Signal(Place)
        m.d.comb += place.eq(Array(Value.cast(p) for p in places)[self.fold])
        ahead = next_place(m, c, place, True, "ahead")
        for f, held in enumerate(places):
            with m.If(self.fetch & self.advance & self.go & (self.fold == f)):
                m.d.sync += held.eq(ahead)
            with m.If(self.set_enable & (self.set_fold == f)):
                m.d.sync += held.eq(self.set_place)
        iy, ix = Signal(signed(16)), Signal(signed(16))
        address = Signal(16)
        inside = Signal()
        m.d.comb += [
            address.eq(place.base + self.offset),
            iy.eq(place.iy + self.dy),
            ix.eq(place.ix + self.dx),
            inside.eq((iy >= 0) & (iy < c.height) & (ix >= 0) & (ix < c.width)),
        ]
        word_bits = ceil_log2(self.spec.line_words)
        m.submodules.memory = store = Lines(bits, self.spec.memory.operand_lines)
        write, read = store.write_port(), store.read_port()
        m.d.comb += [
            write.addr.eq(self.write_line),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
            read.addr.eq(address >> word_bits),
            read.en.eq(self.fetch & self.go),
        ]
        g_valid, g_fold, g_word, g_inside = Signal(), Signal(2), Signal(word_bits), Signal()
        with m.If(self.go):
            m.d.sync += [
                g_valid.eq(self.fetch),
                g_fold.eq(self.fold),
                g_word.eq(address),
                g_inside.eq(inside),
            ]
        self._gather(m, read.data, (g_valid, g_fold, g_word, g_inside))
        return m

    def _gather(self, m: Module, line: Value, fetched: tuple[Signal, ...]) -> None:
        """The fetched word, or part of a line, to its fold's place."""
        valid, fold, word, inside = fetched
        width = len(self.words)
        gathered = Signal(width, reset_less=True)
        gathered_inside = Signal(FOLDS, reset_less=True)
        kind = self.command.kind
        dense = of_kind(self.spec, kind, "dense", "transpose")
        with m.If(self.go & valid):
            with m.If(dense):
                found = Mux(inside, line.word_select(word, 16), 0)
                m.d.sync += gathered.word_select(fold[: ceil_log2(self.folds)], 16).eq(found)
            with m.Else(), m.Switch(self.command.fold):
                for log2 in range(ceil_log2(self.folds) + 1):
                    part = width >> log2
                    with m.Case(log2):
                        start = word[len(word) - log2 :] if log2 else 0
                        found = line.word_select(start, part) if log2 else line
                        aim = gathered.word_select(fold[:log2], part) if log2 else gathered
                        m.d.sync += aim.eq(Mux(inside, found, 0))
            m.d.sync += gathered_inside.bit_select(fold, 1).eq(inside)
        with m.If(self.go & self.take):
            m.d.sync += [self.words.eq(gathered), self.inside.eq(gathered_inside)]
