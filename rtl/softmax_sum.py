"""The sum of the streaming softmax: aligned, accumulated, and one over it once a row."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.softmax import SoftmaxSpec

__all__ = [
    "Accumulate",
    "Align",
    "Leading",
    "Maximum",
    "Reciprocal",
    "Window",
    "quotient_bits",
    "tile_bits",
    "window_bits",
]


class Maximum(wiring.Component):
    """The largest exponent so far, and how far each lane and the sum lie below it.

    Attributes:
        exponents: In, a lane each, concatenated. largest: In, of the row so far, signed.
        result: Out, signed.
        drop: Out, bits that the sum so far moves down.
        amounts: Out, bits that each lane's mantissa moves: down from the largest exponent
            (truncating), or up from the lowest (exact).
    """

    module_name = "softmax_maximum"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        bits = spec.integer_bits
        super().__init__(
            {
                "exponents": In(bits * spec.lanes),
                "largest": In(signed(bits)),
                "result": Out(signed(bits)),
                "drop": Out(bits),
                "amounts": Out(bits * spec.lanes),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.spec.integer_bits
        lanes = [self.exponents.word_select(i, bits).as_signed() for i in range(self.spec.lanes)]
        level: list[Value] = [*lanes, self.largest]
        while len(level) > 1:
            pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
            level = []
            for pair in pairs:
                larger = Signal(signed(bits))
                m.d.comb += larger.eq(Mux(pair[0] > pair[-1], pair[0], pair[-1]))
                level.append(larger)
        if self.spec.mode == "exact":
            amounts = [(lane - self.spec.lowest)[:bits] for lane in lanes]
        else:
            amounts = [(self.result - lane)[:bits] for lane in lanes]
        m.d.comb += [
            self.result.eq(level[0]),
            self.drop.eq(self.result - self.largest),
            self.amounts.eq(Cat(*amounts)),
        ]
        return m


class Align(wiring.Component):
    """Mantissas on the sum's grid, added up over the lanes.

    Attributes:
        mantissas: In, a lane each, concatenated. amounts: In, of :class:`Maximum`.
        tile: Out, their sum.
    """

    module_name = "softmax_align"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        self.term_bits = spec.total_bits - spec.carry_bits
        super().__init__(
            {
                "mantissas": In((spec.mantissa_bits + 1) * spec.lanes),
                "amounts": In(spec.integer_bits * spec.lanes),
                "tile": Out(tile_bits(spec)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        level: list[Value] = []
        for lane in range(spec.lanes):
            mantissa = self.mantissas.word_select(lane, spec.mantissa_bits + 1)
            amount = self.amounts.word_select(lane, spec.integer_bits)
            term = Signal(self.term_bits, name=f"term{lane}")
            if spec.mode == "exact":
                m.d.comb += term.eq(mantissa << amount)
            else:
                places = spec.accumulator_bits - spec.mantissa_bits
                m.d.comb += term.eq(Cat(Const(0, places), mantissa) >> amount)
            level.append(term)
        while len(level) > 1:
            odd = level[len(level) & ~1 :]
            level = [a + b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
        m.d.comb += self.tile.eq(level[0])
        return m


def tile_bits(spec: SoftmaxSpec) -> int:
    """Bits of a tile's sum."""
    return int(min(spec.total_bits - spec.carry_bits + ceil_log2(spec.lanes), spec.total_bits))


class Accumulate(wiring.Component):
    """The sum so far, moved down to the new exponent, and a tile.

    Attributes:
        total: In. first: In, nothing has been summed. drop: In, of :class:`Maximum`.
        tile: In, of :class:`Align`.
        result: Out.
    """

    module_name = "softmax_accumulate"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "total": In(spec.total_bits),
                "first": In(1),
                "drop": In(spec.integer_bits),
                "tile": In(tile_bits(spec)),
                "result": Out(spec.total_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        moved = self.total if self.spec.mode == "exact" else self.total >> self.drop
        m.d.comb += self.result.eq(Mux(self.first, 0, moved) + self.tile)
        return m


class Window(wiring.Component):
    """The part of the sum that holds its leading bits: R below the largest element's first bit.

    Attributes:
        total: In. largest: In, signed, the largest exponent.
        window: Out, ``R + 1 + carry_bits`` wide.
    """

    module_name = "softmax_window"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "total": In(spec.total_bits),
                "largest": In(signed(spec.integer_bits)),
                "window": Out(window_bits(spec)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        if spec.mode == "truncating":
            m.d.comb += self.window.eq(self.total[spec.accumulator_bits - spec.reciprocal_bits :])
            return m
        below = spec.mantissa_bits - spec.reciprocal_bits
        grid = self.total[below:] if below >= 0 else Cat(Const(0, -below), self.total)
        amount = (self.largest - spec.lowest)[: spec.integer_bits]
        m.d.comb += self.window.eq(grid >> amount)
        return m


def window_bits(spec: SoftmaxSpec) -> int:
    """The sum of 2**carry_bits elements reaches that far above the largest."""
    return spec.reciprocal_bits + 1 + spec.carry_bits


class Leading(wiring.Component):
    """The leading R + 1 bits of the sum, and how far it lies above the largest element.

    Attributes:
        window: In, of :class:`Window`.
        divisor: Out, in [2**R, 2**(R+1)), 0 for an empty sum.
        places: Out, exponent of the sum less the largest exponent.
    """

    module_name = "softmax_leading"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "window": In(window_bits(spec)),
                "divisor": Out(spec.reciprocal_bits + 1),
                "places": Out(range(spec.carry_bits + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.spec.reciprocal_bits + 1
        m.d.comb += self.divisor.eq(self.window[:width])
        for places in range(1, self.spec.carry_bits + 1):
            with m.If(self.window[places + width - 1]):
                m.d.comb += [
                    self.places.eq(places),
                    self.divisor.eq(self.window[places : places + width]),
                ]
        return m


class Reciprocal(wiring.Component):
    """A few quotient bits of ``2**(2R + 2) / divisor`` by restoring division.

    From ``remainder = 2**R`` on, ``spec.reciprocal_cycles`` steps give every quotient bit. For the
    one divisor that needs a bit more, 2**R, they give all ones, one below the quotient: the
    rounding makes up for it.

    Attributes:
        divisor, remainder, quotient: In.
        remainder_out, quotient_out: Out.
        rounded: Out, the finished ``quotient`` rounded to ``2**(2R + 1) / divisor``.
    """

    module_name = "softmax_reciprocal"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        width, bits = spec.reciprocal_bits + 1, quotient_bits(spec)
        super().__init__(
            {
                "divisor": In(width),
                "remainder": In(width),
                "quotient": In(bits),
                "remainder_out": Out(width),
                "quotient_out": Out(bits),
                "rounded": Out(spec.reciprocal_bits + 2),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        remainder: Value = self.remainder
        found: list[Value] = []
        for step in range(self.spec.reciprocal_step):
            less = Signal(signed(len(self.divisor) + 2), name=f"less{step}")
            bit = ~less[-1]
            m.d.comb += less.eq((remainder << 1) - self.divisor)
            remainder = Mux(bit, less, remainder << 1)[: len(self.divisor)]
            found.insert(0, bit)
        spare = quotient_bits(self.spec) - (self.spec.reciprocal_bits + 1)
        m.d.comb += [
            self.remainder_out.eq(remainder),
            self.quotient_out.eq(Cat(*found, self.quotient)),
            self.rounded.eq((self.quotient + (1 << spare - 1)) >> spare),
        ]
        return m


def quotient_bits(spec: SoftmaxSpec) -> int:
    """Quotient bits of all steps: R + 2, and what the last step has more."""
    return spec.reciprocal_cycles * spec.reciprocal_step
