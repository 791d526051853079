"""A column's weights, decoded once for the engines of all rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.codec import Decode
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import SLOTS, WORD_BITS, Pair, pair_of
from opennpe.rtl.mac import Operand
from opennpe.rtl.pipeline import held

__all__ = ["Flags", "SharedOperand", "shares_weights"]

Flags = data.StructLayout({"signs": SLOTS, "nan": SLOTS, "some": 1})
"""Of a word that is being decoded: a sign and NaR a slot; whether any of its bits is set."""


def shares_weights(spec: CoprocessorSpec) -> bool:
    """Whether engines are handed decoded weights.

    On FPGAs, whose engines have a register at their operands that a column can hold for all of its
    rows; and where all rows of a column take the same weight, as in all execs but sparse ones.
    """
    return spec.engine.fabric == "fpga" and spec.lacks("sparse")


class SharedOperand(wiring.Component):
    """The stages "operands" and "decode" of :class:`opennpe.rtl.engine.Engine`, for operand b.

    Attributes:
        move: In, the engines' pipelines move. taken: In, and take a word.
        word, mode_a, mode_b: In, as the engines take them.
        flags: Out, :data:`Flags` of the word that the engines decode.
        operand: Out, of the word that they multiply.
    """

    module_name = "shared_operand"

    def __init__(self) -> None:
        super().__init__(
            {
                "move": In(1),
                "taken": In(1),
                "word": In(WORD_BITS),
                "mode_a": In(2),
                "mode_b": In(2),
                "flags": Out(Flags),
                "operand": Out(Operand),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word, mode_a, mode_b = (held(f"o_{n}", w) for n, w in (("word", 16), ("a", 2), ("b", 2)))
        with m.If(self.taken):
            m.d.sync += [word.eq(self.word), mode_a.eq(self.mode_a), mode_b.eq(self.mode_b)]
        pair, decode = Signal(Pair), Decode()
        place(m, platform, "decode", decode)
        m.d.comb += [
            Value.cast(pair).eq(pair_of(mode_a, mode_b)),
            decode.word.eq(word),
            Value.cast(decode.pair).eq(pair),
            decode.posit4.eq(mode_b[0]),
            self.flags.signs.eq(decode.signs),
            self.flags.nan.eq(decode.nan),
            self.flags.some.eq(word.any()),
        ]
        operand = held("d_operand", Operand)
        # A word that no engine took is loaded too: none looks at it.
        with m.If(self.move):
            m.d.sync += [operand[name].eq(getattr(decode, name)) for name, _ in Operand]
        m.d.comb += self.operand.eq(operand)
        return m
