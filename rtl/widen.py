"""Widening: a line of codes of a narrow format becomes 2 or 4 lines of a wider one, code by code.

Every narrow value is a wide one (``golden.formats.widen_table``), so nothing is rounded.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from opennpe.golden import formats
from opennpe.golden.commands import FIELDS, WIDEN, widen_factor
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["PART_BITS", "WIDEN_BITS", "Widen", "doublings", "last_part", "widened_code"]

WIDEN_BITS = dict(FIELDS["load"])["widen"]


PART_BITS = ceil_log2(max(widen_factor(index) for index in range(len(WIDEN))))


def doublings(widen: Value) -> Value:
    """log2 of the factor, for a widening known only at run time; 0 for those there are not."""
    return Array([Const(exact_log2(f), 2) for f in _factors()])[widen]


def last_part(widen: Value) -> Value:
    """Number of a line's last part, for a widening known only at run time."""
    return Array([Const(f - 1, PART_BITS) for f in _factors()])[widen]


def _factors() -> list[int]:
    return [widen_factor(index) if index < len(WIDEN) else 1 for index in range(1 << WIDEN_BITS)]


def widened_code(code: Value, widen: Value) -> Value:
    """One code in the low bits of a word, in the wider format; index 0 and others hand it on."""
    found = [
        _widened(code[: formats.get(pair[0]).bits], *pair) if pair else code
        for pair in (WIDEN[i] if i < len(WIDEN) else None for i in range(1 << len(widen)))
    ]
    return Array(found)[widen]


class Widen(wiring.Component):
    """One part of a narrow line, in the wider format. Combinational.

    Part ``j`` of factor ``f`` holds the codes in bits ``[j L/f, (j+1) L/f)`` of the line of ``L``
    bits, in order. Index 0 (none) and indices there are not hand the line on.

    Attributes:
        line: In(L), the narrow line.
        widen: In, index into ``golden.commands.WIDEN``.
        part: In, 0 to ``widen_factor(widen) - 1``.
        wide: Out(L).
    """

    module_name = "widen"

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        bits = 8 * spec.line_bytes
        super().__init__(
            {
                "line": In(bits),
                "widen": In(WIDEN_BITS),
                "part": In(PART_BITS),
                "wide": Out(bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        chunks = {f: self._chunk(m, f) for f in {widen_factor(i) for i in range(len(WIDEN))} - {1}}
        with m.Switch(self.widen):
            for index, pair in enumerate(WIDEN):
                if pair is not None:
                    with m.Case(index):
                        m.d.comb += self.wide.eq(_widened(chunks[widen_factor(index)], *pair))
            with m.Default():
                m.d.comb += self.wide.eq(self.line)
        return m

    def _chunk(self, m: Module, f: int) -> Signal:
        """The part's share of the line, for factor ``f``."""
        bits = len(self.line) // f
        chunk = Signal(bits, name=f"chunk_{f}")
        m.d.comb += chunk.eq(self.line.word_select(self.part[: ceil_log2(f)], bits))
        return chunk


def _widened(chunk: Value, narrow: str, wide: str) -> Value:
    """Every code of the chunk through golden's table."""
    bits, width = formats.get(narrow).bits, formats.get(wide).bits
    table = Array([Const(int(code), width) for code in formats.widen_table(narrow, wide)])
    return Cat(table[chunk[at : at + bits]] for at in range(0, len(chunk), bits))
