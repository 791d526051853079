"""Codes in order: comparing, the larger of two, holding between bounds; all lanes of a word."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.rtl.lanes import HALF, SLOTS, WHOLE, WORD_BITS

__all__ = ["Clamp", "Larger", "spread"]

NIBBLE = WORD_BITS // SLOTS


def _is(name: str, index: Value) -> Value:
    return index == ENGINE_FORMATS.index(name)


def _named(m: Module, value: Value, name: str) -> Signal:
    """A wire for a value that is used more than once: a bare one would be built at every use."""
    wire = Signal(len(value), name=name)
    m.d.comb += wire.eq(value)
    return wire


def _keys(word: Value, index: Value) -> Value:
    """Nibbles whose unsigned order, lane by lane, is that of the codes (``Format.order_key``)."""
    found = []
    for i in range(SLOTS):
        nibble = word[NIBBLE * i : NIBBLE * (i + 1)]
        top = {"posit8": i % 2 == 1, "posit16": i == SLOTS - 1}
        flips = Mux(
            _is("fp4", index),
            Cat(nibble[-1].replicate(NIBBLE - 1), Const(1, 1)),
            Cat(
                Const(0, NIBBLE - 1),
                Mux(
                    _is(HALF, index),
                    int(top["posit8"]),
                    Mux(_is(WHOLE, index), int(top["posit16"]), 1),
                ),
            ),
        )
        found.append(nibble ^ flips)
    return Cat(*found)


def _by_lane(parts: list[Value], index: Value, join: Any) -> Value:
    """A bit a nibble, from what the nibbles of its lane say together."""
    half = [join(parts[2 * (i // 2)], parts[2 * (i // 2) + 1]) for i in range(SLOTS)]
    whole = join(half[0], half[2])
    return Cat(
        Mux(_is(WHOLE, index), whole, Mux(_is(HALF, index), half[i], parts[i]))[0]
        for i in range(SLOTS)
    )


def _above(m: Module, a: Value, b: Value, index: Value) -> Value:
    """Whether a's lane is above b's: a bit a nibble."""
    keys_a, keys_b = (_named(m, _keys(word, index), "keys") for word in (a, b))
    parts: list[Value] = []
    for i in range(SLOTS):
        x, y = keys_a.word_select(i, NIBBLE), keys_b.word_select(i, NIBBLE)
        parts.append(_named(m, Cat(x > y, x == y), "part"))
    return _by_lane(
        parts, index, lambda low, high: Cat(high[0] | (high[1] & low[0]), high[1] & low[1])
    )


def _pick(choice: Value, a: Value, b: Value) -> Value:
    """a where the nibble's bit is set, else b."""
    return Cat(
        Mux(choice[i], a.word_select(i, NIBBLE), b.word_select(i, NIBBLE)) for i in range(SLOTS)
    )


def spread(code: Value, index: Value) -> Value:
    """A code in every lane of a word."""
    return Mux(
        _is(WHOLE, index),
        code,
        Mux(_is(HALF, index), code[: WORD_BITS // 2].replicate(2), code[:NIBBLE].replicate(SLOTS)),
    )


class Larger(wiring.Component):
    """The larger code of each lane. NaR is below all others.

    Attributes:
        a, b: In, words. format: In, index into ENGINE_FORMATS. larger: Out.
    """

    module_name = "larger"

    def __init__(self) -> None:
        super().__init__(
            {"a": In(WORD_BITS), "b": In(WORD_BITS), "format": In(2), "larger": Out(WORD_BITS)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        choice = Signal(SLOTS)
        m.d.comb += [
            choice.eq(_above(m, self.a, self.b, self.format)),
            self.larger.eq(_pick(choice, self.a, self.b)),
        ]
        return m


class Clamp(wiring.Component):
    """Codes held between bounds, lane by lane; NaR stays. A bound of NaR as ``low`` is none.

    Attributes:
        word: In. low, high: In, words with a bound in every lane. format: In. held: Out.
    """

    module_name = "clamp"

    def __init__(self) -> None:
        super().__init__(
            {
                "word": In(WORD_BITS),
                "low": In(WORD_BITS),
                "high": In(WORD_BITS),
                "format": In(2),
                "held": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        index = self.format
        # NaR is a sign and zeros: the highest nibble 1000, all below it zero.
        nibbles = [self.word.word_select(i, NIBBLE) for i in range(SLOTS)]
        parts = [Cat(n == 1 << (NIBBLE - 1), ~n.any()) for n in nibbles]
        nar = Signal(SLOTS)
        m.d.comb += nar.eq(
            _by_lane(parts, index, lambda low, high: Cat(high[0] & low[1], high[1] & low[1]))
            & (~_is("fp4", index)).replicate(SLOTS)
        )
        below, above = Signal(SLOTS), Signal(SLOTS)
        m.d.comb += [
            below.eq(_above(m, self.low, self.word, index) & ~nar),
            above.eq(_above(m, self.word, self.high, index)),
            self.held.eq(_pick(below, self.low, _pick(above, self.high, self.word))),
        ]
        return m
