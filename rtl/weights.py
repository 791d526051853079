"""Weights of execs: their memory, and which of its lines and of the parameters' a step takes."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.axi import LINE_BITS, command_layout
from opennpe.rtl.lanes import WORD_BITS
from opennpe.rtl.memories import Lines
from opennpe.rtl.microops import INDEX_BITS, WEIGHTS, MicroOps
from opennpe.rtl.sequence import of_kind
from opennpe.rtl.widen import widened_code

__all__ = ["Weights"]


class Weights(wiring.Component):
    """Weight lines step by step, over again for each pixel tile; parameters by channel tile.

    A line read for a step is there in the step's cycle. A sparse exec's records are fetched with
    their operands; their weights go along with the group and are there in the step's cycle too.

    Attributes:
        command: In, the exec under way. load: In, a pulse: it changes in the next cycle.
            start: In, from the first line on. go: In, nothing moves without it.
        ahead: In, the next cycle's step is known. sum_done: In, it is the sum's last one.
        record_take, pass_last: In, as :class:`opennpe.rtl.sequence.Sequence` has them; record_last,
            record_index: Out, for it. take: In, the group gathered makes its steps next.
        weights: Out, a line. scalars: Out, the step's record. parameters: Out, the record of the
            parameters that the step's sum takes. channel: Out, the column whose parameters are
            those of the row block's first channel.
        malformed: Out, sticky until ``load``.
        weights_enable, load_line, load_data: In, lines that come in.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "command": In(command_layout("exec")),
                "load": In(1),
                "start": In(1),
                "go": In(1),
                "ahead": In(1),
                "sum_done": In(1),
                "record_take": In(1),
                "pass_last": In(1),
                "take": In(1),
                "record_last": Out(1),
                "record_index": Out(INDEX_BITS),
                "weights": Out(bits),
                "scalars": Out(WEIGHTS * WORD_BITS),
                "parameters": Out(ceil_log2(spec.memory.parameter_tiles)),
                "channel": Out(ceil_log2(spec.line_words)),
                "malformed": Out(1),
                "weights_enable": In(1),
                "load_line": In(LINE_BITS),
                "load_data": In(bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec, c = self.spec, self.command
        bits = 8 * spec.line_bytes
        largest, sparse = (of_kind(spec, c.kind, name) for name in ("max", "sparse"))
        m.submodules.weights = held = Lines(bits, spec.memory.weight_lines)
        microops = None if spec.lacks("sparse") else MicroOps(spec)
        write, read = held.write_port(), held.read_port()
        line, tile = Signal(ceil_log2(spec.memory.weight_lines)), Signal(12)
        over = Signal()
        m.d.comb += [
            over.eq(self.sum_done & (tile + 1 == c.tiles)),
            write.addr.eq(self.load_line),
            write.data.eq(self.load_data),
            write.en.eq(self.weights_enable),
            read.addr.eq(line),
            read.en.eq(self.ahead),
            self.weights.eq(read.data),
        ]
        if microops is not None:
            m.submodules.microops = microops
            m.d.comb += microops.read_data.eq(read.data)
            with m.If(sparse):
                m.d.comb += [read.addr.eq(microops.read_line), read.en.eq(microops.read_enable)]
            self._records(m, microops)
        with m.If(self.ahead):
            with m.If(self.sum_done | ~largest):
                m.d.sync += line.eq(Mux(over, c.weight_line, line + 1))
            with m.If(self.sum_done):
                m.d.sync += tile.eq(Mux(over, 0, tile + 1))
        with m.If(self.start):
            m.d.sync += [line.eq(c.weight_line), tile.eq(0)]
        self._parameters(m, tile, sparse)
        return m

    def _records(self, m: Module, microops: MicroOps) -> None:
        """Records for the sequence; their weights, in the operands' format, for the steps."""
        c = self.command
        widened = Cat(
            widened_code(microops.weights.word_select(j, WORD_BITS), c.weight_widen)
            for j in range(WEIGHTS)
        )
        fetched, gathered = (
            Signal(len(self.scalars), name=f"{stage}_scalars", reset_less=True) for stage in "fg"
        )
        with m.If(self.go):
            m.d.sync += [fetched.eq(widened), gathered.eq(fetched)]
        with m.If(self.go & self.take):
            m.d.sync += self.scalars.eq(gathered)
        m.d.comb += [
            microops.command.eq(c),
            microops.start.eq(self.load),
            microops.take.eq(self.record_take),
            microops.pass_last.eq(self.pass_last),
            self.record_last.eq(microops.last),
            self.record_index.eq(microops.index),
            self.malformed.eq(microops.malformed),
        ]

    def _parameters(self, m: Module, tile: Signal, sparse: Value) -> None:
        spec, c = self.spec, self.command
        columns = exact_log2(spec.line_words)
        channel = Signal(14)
        m.d.comb += channel.eq(tile << c.block_rows)
        with m.If(self.ahead):
            m.d.sync += [
                self.channel.eq(channel),
                self.parameters.eq(c.parameter + Mux(sparse, channel >> columns, tile)),
            ]
