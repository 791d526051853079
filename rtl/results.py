"""Results on their way to the buffer: gathered by tile, packed into lines, held, looked up."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.commands import TABLE_LINES
from opennpe.golden.formats import ENGINE_FORMATS, get
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import ports
from opennpe.rtl.axi import CAUSE_BITS, command_layout
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import SLOTS, WORD_BITS
from opennpe.rtl.memories import Lines
from opennpe.rtl.order import Clamp, spread
from opennpe.rtl.sequence import lanes_of, of_kind, row_kind

__all__ = ["PARTS", "Gather", "Results"]

PARTS = 4
"""Parts of a line that are written on their own."""
SUM_BITS = SLOTS * WORD_BITS
"""Widest results of one sum: four 16-bit codes."""


def code_lanes(index: Value) -> Value:
    """Codes of a format in a word (3 bits)."""
    return Array(Const(WORD_BITS // get(name).bits, 3) for name in ENGINE_FORMATS)[index]


class Gather(wiring.Component):
    """A row's sums as their lanes arrive, codes packed as the output format has them.

    Attributes:
        take: In, a lane is there. format: In, index into ENGINE_FORMATS. lane: In, which one.
        codes: In, one a column. gathered: Out, ``SUM_BITS`` a column.
    """

    module_name = "gather"

    def __init__(self, columns: int) -> None:
        self.columns = columns
        super().__init__(
            {
                "take": In(1),
                "format": In(2),
                "lane": In(ceil_log2(SLOTS)),
                "codes": In(columns * WORD_BITS),
                "gathered": Out(columns * SUM_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        held = Signal(len(self.gathered), reset_less=True)
        m.d.comb += self.gathered.eq(held)
        with m.If(self.take), m.Switch(self.format):
            for index, name in enumerate(ENGINE_FORMATS):
                bits = int(get(name).bits)
                with m.Case(index):
                    for column in range(self.columns):
                        code = self.codes.word_select(column, WORD_BITS)
                        own = held[column * SUM_BITS : (column + 1) * SUM_BITS]
                        m.d.sync += own.word_select(self.lane, bits).eq(code[:bits])
        return m


class Results(wiring.Component):
    """Takes the engines' results and writes them to the buffer, a line a cycle at most.

    Timing: results are taken as they are offered, unless a whole tile stands gathered in front of
    one that is being written. A tile gathered in cycle t (its last lane taken) moves on in t + 1,
    or in the cycle in which the tile ahead writes its last line; from the next cycle on it writes
    a line a cycle, or with the table one every ``lanes + 2`` cycles.

    Attributes:
        start: In, a pulse: a new exec's results follow. command: In, that exec; kept here.
        valid, codes, lane, last: In, what the engines offer, all in step: a code an engine, row
            by row. ready: Out.
        write_enable, write_line, write_data, write_parts: Out, the buffer's write port.
        table_enable, table_line, table_data: In, a line of the table.
        completed: Out, a pulse with the last line of an exec.
        blocked: Out, results wait.
        cause: Out, sticky until ``clear``.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        array = spec.array
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "clear": In(1),
                "start": In(1),
                "command": In(command_layout("exec")),
                "valid": In(1),
                "codes": In(array.rows * array.columns * WORD_BITS),
                "lane": In(ceil_log2(ports.lane_count(spec.engine))),
                "last": In(1),
                "ready": Out(1),
                "write_enable": Out(1),
                "write_line": Out(20),
                "write_data": Out(bits),
                "write_parts": Out(PARTS),
                "table_enable": In(1),
                "table_line": In(ceil_log2(TABLE_LINES)),
                "table_data": In(bits),
                "completed": Out(1),
                "blocked": Out(1),
                "cause": Out(CAUSE_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        rows, columns = self.spec.array.rows, self.spec.array.columns
        c = Signal(command_layout("exec"), reset_less=True)
        with m.If(self.start):
            m.d.sync += c.eq(self.command)
        lanes, out_lanes = Signal(3), Signal(3)
        m.d.comb += [lanes.eq(lanes_of(c.mode_a, c.mode_b)), out_lanes.eq(code_lanes(c.out))]
        row_bits = columns * SUM_BITS
        gathered = Signal(rows * row_bits)
        held = Signal(rows * row_bits, reset_less=True)
        full = Signal()
        left, sub, subs = Signal(range(rows + 1)), Signal(2), Signal(3)
        line_done, row_done, tile_done, move = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            # A row's results never wait: the tile moves on in the cycle in which the next begins.
            self.ready.eq(~full | (move & row_kind(self.spec, c.kind))),
            self.blocked.eq(self.valid & full),
            subs.eq(Mux(lanes > out_lanes, Mux(lanes > 2 * out_lanes, 4, 2), 1)),
            row_done.eq(line_done & (sub + 1 == subs)),
            tile_done.eq(row_done & (left == 1)),
            move.eq(full & (~left.any() | tile_done)),
        ]
        self._gather(m, platform, c, gathered)
        with m.If(move):
            m.d.sync += [full.eq(0), held.eq(gathered)]
        with m.Elif(row_done):
            m.d.sync += held.eq(held[row_bits:])
        with m.If(self.valid & self.ready & self.last):
            m.d.sync += full.eq(1)
        with m.If(line_done):
            m.d.sync += sub.eq(Mux(row_done, 0, sub + 1))
        with m.If(row_done):
            m.d.sync += left.eq(left - 1)
        share = Signal(2)
        m.d.comb += share.eq(Mux(out_lanes > lanes, Mux(out_lanes > 2 * lanes, 2, 1), 0))
        ending = self._tiles(m, c, move, left, share, (line_done, row_done))
        m.d.comb += self.completed.eq(tile_done & ending)
        line = self._line(m, platform, c, held[:row_bits], sub, subs, share)
        self._write(m, c, line, left.any(), out_lanes, line_done)
        with m.If(self.clear):
            m.d.sync += [full.eq(0), left.eq(0), sub.eq(0), self.cause.eq(0)]
        return m

    def _gather(self, m: Module, platform: Any, c: Any, gathered: Signal) -> None:
        """A lane of every sum to its place, codes packed as the output format has them."""
        rows, columns = self.spec.array.rows, self.spec.array.columns
        for r in range(rows):
            row = Gather(columns)
            place(m, platform, f"gather{r}", row)
            m.d.comb += [
                row.take.eq(self.valid & self.ready),
                row.format.eq(c.out),
                row.lane.eq(self.lane),
                row.codes.eq(self.codes.word_select(r, len(row.codes))),
                gathered.word_select(r, len(row.gathered)).eq(row.gathered),
            ]

    def _tiles(
        self,
        m: Module,
        c: Any,
        move: Signal,
        left: Signal,
        share: Signal,
        done: tuple[Signal, Signal],
    ) -> Value:
        """Counts tiles as they move on, and lines as they are written; whether this is the last."""
        rows = self.spec.array.rows
        line_done, row_done = done
        tile, first, base = Signal(12), Signal(20), Signal(20)
        line, beside, ending = Signal(20), Signal(20), Signal()
        part = Signal(2)
        after = Signal(20)
        tile_last, line_last = Signal(), Signal()
        by_rows = row_kind(self.spec, c.kind)
        sparse = of_kind(self.spec, c.kind, "sparse")
        block = Signal(3)  # channels that a row block of a sparse exec has
        origin = Signal(20)  # where its pixel tile's first channel goes
        in_block = Signal(2)
        m.d.comb += [
            block.eq(1 << c.block_rows),
            # A row of softmax or norm is a tile, its blocks are the channel tiles.
            after.eq(first + Mux(by_rows, 1, rows)),
            tile_last.eq(tile + 1 == Mux(by_rows, c.blocks, c.tiles)),
            line_last.eq(after >= c.lines),
            self.write_line.eq(line + beside),
        ]
        with m.If(line_done):
            m.d.sync += beside.eq(Mux(row_done, 0, beside + c.out_block))
        with m.If(row_done):
            block_done = sparse & (in_block + 1 == block)
            m.d.sync += [
                line.eq(line + Mux(block_done, c.out_block - (block - 1), 1)),
                in_block.eq(Mux(block_done, 0, in_block + 1)),
            ]
        with m.If(move):
            m.d.sync += [
                left.eq(Mux(line_last, c.lines - first, Mux(by_rows, 1, rows))),
                line.eq(base + Mux(sparse, 0, first)),
                in_block.eq(0),
                beside.eq(0),
                part.eq(tile[:2] & Mux(share == 0, 0, Mux(share == 1, 1, 3))),
                ending.eq(tile_last & line_last),
                tile.eq(Mux(tile_last, 0, tile + 1)),
            ]
            whole = Mux(share == 0, 1, Mux(share == 1, tile[0], tile[:2].all()))
            following = Mux(sparse, origin + c.out_tile, c.out_line)
            with m.If(tile_last):
                m.d.sync += [first.eq(after), base.eq(following), origin.eq(following)]
            with m.Elif(sparse):
                m.d.sync += base.eq(base + block)
            with m.Elif(whole):
                m.d.sync += base.eq(base + c.out_tile)
        with m.If(self.start):
            begin = self.command.out_line
            m.d.sync += [tile.eq(0), first.eq(0), base.eq(begin), origin.eq(begin)]
        halves = Mux(part[0], 0b1100, 0b0011)
        m.d.comb += self.write_parts.eq(Mux(share == 0, 0b1111, Mux(share == 1, halves, 1 << part)))
        return ending

    def _line(
        self, m: Module, platform: Any, c: Any, row: Value, sub: Signal, subs: Signal, share: Signal
    ) -> Value:
        """The line that leaves next, its codes held between the bounds."""
        columns = self.spec.array.columns
        own = [row[i * SUM_BITS : (i + 1) * SUM_BITS] for i in range(columns)]
        bits = columns * WORD_BITS
        packed = {n: Cat(*(sums[: n * WORD_BITS] for sums in own)) for n in (1, 2, 4)}
        shared = {n: Cat(*(sums[: WORD_BITS >> n] for sums in own)) for n in (1, 2)}
        line = Signal(bits)
        m.d.comb += line.eq(
            Mux(
                subs == 4,
                packed[4].word_select(sub, bits),
                Mux(subs == 2, packed[2].word_select(sub[0], bits), packed[1]),
            )
        )
        with m.If(share == 1):
            m.d.comb += line.eq(shared[1].replicate(2))
        with m.If(share == 2):
            m.d.comb += line.eq(shared[2].replicate(4))
        low, high = Signal(WORD_BITS), Signal(WORD_BITS)
        m.d.comb += [low.eq(spread(c.low, c.out)), high.eq(spread(c.high, c.out))]
        held = []
        for i in range(columns):
            clamp = Clamp()
            place(m, platform, f"clamp{i}", clamp)
            word = line.word_select(i, WORD_BITS)
            m.d.comb += [
                clamp.word.eq(word),
                clamp.low.eq(low),
                clamp.high.eq(high),
                clamp.format.eq(c.out),
            ]
            held.append(Mux(c.clamp, clamp.held, word))
        return Cat(*held)

    def _write(
        self, m: Module, c: Any, line: Value, there: Value, out_lanes: Signal, done: Signal
    ) -> None:
        """A line a cycle, or by way of the table."""
        columns = self.spec.array.columns
        phase = Signal(3)
        bits = columns * WORD_BITS
        found = Signal(bits, reset_less=True)
        half = c.out == ENGINE_FORMATS.index("posit8")
        looked = Signal()
        lane = Signal(2)
        m.d.comb += [
            looked.eq(there & c.table & (phase != out_lanes + 1)),
            done.eq(there & ~looked),
            lane.eq(phase - 1),
        ]
        m.d.sync += phase.eq(Mux(looked, phase + 1, 0))
        for i in range(columns):
            entries = Lines(WORD_BITS, TABLE_LINES)
            m.submodules[f"table{i}"] = entries
            write, read = entries.write_port(), entries.read_port()
            word = line[i * WORD_BITS : (i + 1) * WORD_BITS]
            own = found[i * WORD_BITS : (i + 1) * WORD_BITS]
            code = Mux(half, word.word_select(phase[0], 8), word.word_select(phase[:2], 4))
            m.d.comb += [
                write.addr.eq(self.table_line),
                write.data.eq(self.table_data.word_select(i, WORD_BITS)),
                write.en.eq(self.table_enable),
                read.addr.eq(code),
                read.en.eq(looked),
            ]
            with m.If(looked & phase.any()):
                with m.If(half):
                    m.d.sync += own.word_select(lane[0], 8).eq(read.data[:8])
                with m.Else():
                    m.d.sync += own.word_select(lane, 4).eq(read.data[:4])
        outside = self.write_line >= self.spec.memory.buffer_lines
        m.d.comb += [
            self.write_data.eq(Mux(c.table, found, line)),
            self.write_enable.eq(done & ~outside),
        ]
        with m.If(done & outside):
            m.d.sync += self.cause.eq(CAUSES.index("a line outside a memory"))
