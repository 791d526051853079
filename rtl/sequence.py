"""The loops of an exec: which operand words are fetched in which cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from opennpe.golden.commands import KINDS, ROW_KINDS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import command_layout
from opennpe.rtl.lanes import Pair, pair_of
from opennpe.rtl.microops import INDEX_BITS

__all__ = ["Group", "Sequence", "by_lanes", "lanes_of", "of_kind", "row_kind"]

WORD_BITS = 16
"""Bits of an operand address, in words."""

Group = data.StructLayout(
    {
        "elements": 3,  # steps of the array
        "first": 1,  # of a sum
        "last": 1,
    }
)
"""What the array is told of the words that a group of fetches brings: one a fold."""


def of_kind(spec: CoprocessorSpec, kind: Value, *names: str) -> Value:
    """Whether an exec is of one of these kinds; constant where there are gates for none."""
    return Cat(
        Const(0, 1), *(kind == KINDS.index(name) for name in names if not spec.lacks(name))
    ).any()


def row_kind(spec: CoprocessorSpec, kind: Value) -> Value:
    """Whether an exec takes rows twice."""
    return of_kind(spec, kind, *ROW_KINDS)


def lanes_of(mode_a: Value, mode_b: Value) -> Value:
    """Lanes of a pair of formats (3 bits)."""
    pair = Pair(pair_of(mode_a, mode_b))
    return Mux(pair.whole, 1, Mux(pair.half, 2, 4))


def by_lanes(lanes: Value, one: Any, two: Any, four: Any) -> Value:
    """What holds for 1, 2 or 4 lanes."""
    return Mux(lanes == 1, one, Mux(lanes == 2, two, four))


class Sequence(wiring.Component):
    """Counts through pixel tiles, channel tiles, blocks, taps and words.

    A *group* is a word of every fold, fetched a fold a cycle while the group before makes its
    steps: it lasts as many cycles as there are folds or as the group before has steps, whichever
    are more (the first: folds).

    Attributes:
        command: In, the exec under way. running: In. start: In, everything from the first.
        go: In, nothing moves without it.
        fetch: Out, a word of fold ``fold`` is fetched. offset: Out, what is added to a pixel's
            base. dy, dx: Out, what is added to its place.
        advance: Out, the fold's pixel moves on to the next tile after this fetch.
        ends: Out, the group's last cycle; ``group``: Out, what it was.
        finished: Out, with the last cycle of the last group.
        record_last, record_index: In, of a sparse exec's next record. record_take: Out, it is
            fetched. pass_last: Out, this sum is its pixel tile's last one, and this its last word.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "start": In(1),
                "running": In(1),
                "go": In(1),
                "fetch": Out(1),
                "fold": Out(2),
                "offset": Out(WORD_BITS),
                "dy": Out(14),
                "dx": Out(14),
                "advance": Out(1),
                "ends": Out(1),
                "group": Out(Group),
                "finished": Out(1),
                "record_last": In(1),
                "record_index": In(INDEX_BITS),
                "record_take": Out(1),
                "pass_last": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c = self.command
        cycle = Signal(3)
        word, kx, ky = Signal(8), Signal(8), Signal(8)
        block, tile, line = Signal(12), Signal(12), Signal(20)
        spec = self.spec
        elementwise = of_kind(spec, c.kind, "dense", "transpose")
        by_rows = row_kind(spec, c.kind)
        sparse = of_kind(spec, c.kind, "sparse")
        folds, elements = Signal(3), Signal(3)
        later = Signal()  # not the sum's first block
        before = Signal(3)  # steps of the group before, which this one's fetches hide behind
        block_last, word_last, kx_last, ky_last = Signal(), Signal(), Signal(), Signal()
        tile_last, line_last, sum_last = Signal(), Signal(), Signal()
        last_word = Mux(block_last, c.last_words, c.words)
        m.d.comb += [
            folds.eq(1 << c.fold),
            # A sparse sum is a block a record.
            block_last.eq(Mux(sparse, self.record_last, block + 1 == c.blocks)),
            word_last.eq(word + 1 == last_word),
            kx_last.eq(kx + 1 == c.kernel_x),
            ky_last.eq(ky + 1 == c.kernel_y),
            tile_last.eq(tile + 1 == c.tiles),
            line_last.eq(line + Mux(by_rows, 1, self.spec.array.rows) >= c.lines),
            elements.eq(
                Mux(
                    elementwise & block_last & word_last,
                    c.last_elements,
                    Mux(elementwise | by_rows, lanes_of(c.mode_a, c.mode_b), 1),
                )
            ),
            sum_last.eq(word_last & kx_last & ky_last & block_last),
            self.fold.eq(cycle),
            self.fetch.eq(self.running & (cycle < folds)),
            self.advance.eq(sum_last & tile_last),
            self.ends.eq(self.running & (cycle + 1 == Mux(folds > before, folds, before))),
            self.group.elements.eq(elements),
            self.group.first.eq(~(word.any() | kx.any() | ky.any() | later)),
            self.group.last.eq(sum_last),
            self.finished.eq(self.ends & sum_last & tile_last & line_last),
            self.record_take.eq(self.ends & self.go & sparse),
            self.pass_last.eq(sum_last & tile_last),
        ]
        with m.If(self.running & self.go):
            m.d.sync += cycle.eq(Mux(self.ends, 0, cycle + 1))
        with m.If(self.ends & self.go):
            m.d.sync += before.eq(elements)
            with m.If(~word_last):
                m.d.sync += word.eq(word + 1)
            with m.Else():
                m.d.sync += word.eq(0)
                with m.If(~kx_last):
                    m.d.sync += kx.eq(kx + 1)
                with m.Else():
                    m.d.sync += kx.eq(0)
                    with m.If(~ky_last):
                        m.d.sync += ky.eq(ky + 1)
                    with m.Else():
                        m.d.sync += ky.eq(0)
                        with m.If(~block_last):
                            m.d.sync += [block.eq(block + 1), later.eq(1)]
                        with m.Else():
                            m.d.sync += [block.eq(0), later.eq(0)]
                            m.d.sync += tile.eq(Mux(tile_last, 0, tile + 1))
                            with m.If(tile_last):
                                m.d.sync += line.eq(line + Mux(by_rows, 1, self.spec.array.rows))
        self._places(m, sparse, (word_last, kx_last, ky_last, block_last, tile_last))
        with m.If(self.start):
            m.d.sync += [s.eq(0) for s in (cycle, word, kx, ky, block, later, tile, line)]
            m.d.sync += before.eq(1)
        return m

    def _places(self, m: Module, sparse: Value, lasts: tuple[Signal, ...]) -> None:
        """The offset of the word and of the tap, and where each loop's current turn began."""
        word_last, kx_last, ky_last, block_last, tile_last = lasts
        c = self.command
        offset = Signal(WORD_BITS)
        channel = self.record_index << exact_log2(self.spec.line_words)
        m.d.comb += self.offset.eq(Mux(sparse, channel, offset))
        at_x, at_y, at_block, at_tile = (Signal(WORD_BITS, name=f"at_{n}") for n in "xybt")
        next_x, next_y = at_x + c.tap_x, at_y + c.tap_y
        next_block, next_tile = at_block + c.block_step, at_tile + c.channel_step
        dy, dx = self.dy, self.dx
        with m.If(self.ends & self.go):
            with m.If(~word_last):
                m.d.sync += offset.eq(offset + 1)
            with m.Elif(~kx_last):
                m.d.sync += [s.eq(next_x) for s in (offset, at_x)]
                m.d.sync += dx.eq(dx + c.dilation_x)
            with m.Elif(~ky_last):
                m.d.sync += [s.eq(next_y) for s in (offset, at_x, at_y)]
                m.d.sync += [dx.eq(0), dy.eq(dy + c.dilation_y)]
            with m.Elif(~block_last):
                m.d.sync += [s.eq(next_block) for s in (offset, at_x, at_y, at_block)]
                m.d.sync += [dx.eq(0), dy.eq(0)]
            with m.Else():
                following = Mux(tile_last, 0, next_tile)
                m.d.sync += [s.eq(following) for s in (offset, at_x, at_y, at_block, at_tile)]
                m.d.sync += [dx.eq(0), dy.eq(0)]
        with m.If(self.start):
            m.d.sync += [s.eq(0) for s in (offset, at_x, at_y, at_block, at_tile, dy, dx)]
