"""A lane of the streaming softmax: a code to 2**t, and the result back to a code's bits.

Blocks are combinational and named as golden's steps; :class:`opennpe.rtl.softmax.Softmax` puts the
registers between them.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import formats
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.golden.softmax_spec import MULTIPLIER_EXPONENT_BITS
from opennpe.rtl.codec import PositString
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import (
    FRACTION_BITS,
    HALF,
    NARROW,
    SCALE_BITS,
    SIGNIFICAND_BITS,
    WHOLE,
    WORD_BITS,
    table,
)

__all__ = ["Decode", "Exp2", "Fixed", "Logit", "Normalise", "Scale"]

BITS = SIGNIFICAND_BITS[WHOLE]


class Decode(wiring.Component):
    """One code of any engine format to a significand and an exponent.

    4-bit codes become posit16 by a table (formats nest), posit8 is read as the posit16 string that
    it begins. The value is ``significand * 2**(scale - 12)``, the significand's top bit set.

    Attributes:
        code: In, in the low bits. format: In, index of the engine's formats.
        significand: Out, signed; 0 for zero and NaR. scale: Out, signed. nan: Out.
    """

    module_name = "softmax_decode"

    def __init__(self) -> None:
        super().__init__(
            {
                "code": In(WORD_BITS),
                "format": In(2),
                "significand": Out(signed(BITS + 1)),
                "scale": Out(signed(SCALE_BITS[WHOLE])),
                "nan": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        half = self.format == formats.ENGINE_FORMATS.index(HALF)
        whole = self.format == formats.ENGINE_FORMATS.index(WHOLE)
        narrow = [int(code) for name in NARROW for code in formats.widen_table(name, WHOLE)]
        index = Cat(self.code[: len(narrow).bit_length() - 2], self.format[0])
        low = self.code[: WORD_BITS // 2]
        string = PositString(WORD_BITS)
        place(m, platform, "string", string)
        m.d.comb += string.code.eq(
            Mux(
                whole,
                self.code,
                Mux(half, low << WORD_BITS // 2, table(index, narrow, WORD_BITS)),
            )
        )
        tail = string.tail
        magnitude = Signal(BITS)
        sign = string.code[-1]
        m.d.comb += [
            # posit8 has no exponent bit: its fraction begins where posit16's exponent stands.
            magnitude.eq(Cat(Mux(half, tail[1:], tail[:-1]), string.hidden)),
            self.significand.eq(Mux(sign, -magnitude, magnitude)),
            self.scale.eq(
                Mux(
                    half,
                    string.regime.as_signed(),
                    Cat(tail[-1], string.regime).as_signed(),
                )
            ),
            self.nan.eq(string.nan),
        ]
        return m


class Scale(wiring.Component):
    """Significand times the multiplier, and how far the product lies from t's grid.

    Attributes:
        significand, scale: In, of :class:`Decode`.
        mantissa: In, its top bit set. exponent: In, signed.
        product: Out, signed.
        amount: Out, bits to shift right beyond those that are always, clipped.
        saturates: Out, the product is too large for t unless it is zero.
    """

    module_name = "softmax_scale"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "significand": In(signed(BITS + 1)),
                "scale": In(signed(SCALE_BITS[WHOLE])),
                "mantissa": In(spec.multiplier_bits),
                "exponent": In(signed(MULTIPLIER_EXPONENT_BITS)),
                "product": Out(signed(product_bits(spec))),
                "amount": Out(range(farthest(spec) + 1)),
                "saturates": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The lowest exponent of the product's unit at which all products but zero saturate.
        excess = saturation(self.spec)
        steps = Signal(signed(MULTIPLIER_EXPONENT_BITS + 2))
        unit = self.spec.fraction_bits - (BITS - 1)
        limit = farthest(self.spec)
        m.d.comb += [
            self.product.eq(self.significand * self.mantissa),
            steps.eq(Const(excess - 1 - unit, signed(8)) - (self.scale + self.exponent)),
            self.saturates.eq(steps < 0),
            self.amount.eq(Mux(steps < 0, 0, Mux(steps > limit, limit, steps))),
        ]
        return m


def product_bits(spec: SoftmaxSpec) -> int:
    """Signed bits of significand times multiplier."""
    return int(BITS + spec.multiplier_bits + 1)


def saturation(spec: SoftmaxSpec) -> int:
    """A product is at least 2**(BITS - 1 + W - 1): with this exponent and above, t saturates."""
    return int(spec.integer_bits + spec.fraction_bits - (BITS - 1) - spec.multiplier_bits)


def padding(spec: SoftmaxSpec) -> int:
    """Zeros below the product, where it is coarser than t's grid without saturating."""
    return max(0, saturation(spec) - 1)


def always(spec: SoftmaxSpec) -> int:
    """Bits that every product that does not saturate is shifted right by."""
    return padding(spec) - saturation(spec) + 1


def farthest(spec: SoftmaxSpec) -> int:
    """Shifts beyond this leave nothing: a product is below half of t's unit."""
    return product_bits(spec) + padding(spec) - always(spec)


class Logit(wiring.Component):
    """The product on t's grid: halves up, saturated.

    Attributes:
        product, amount, saturates: In, of :class:`Scale`.
        t: Out, signed.
    """

    module_name = "softmax_logit"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "product": In(signed(product_bits(spec))),
                "amount": In(range(farthest(spec) + 1)),
                "saturates": In(1),
                "t": Out(signed(spec.logit_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        # One bit more than t's grid, for the rounding, and all that is below cut.
        doubled = Cat(Const(0, padding(spec) + 1), self.product).as_signed() >> always(spec)
        shifted = Signal(signed(spec.logit_bits + 2))
        rounded = Signal(signed(spec.logit_bits + 2))
        high, negative = Signal(), self.product[-1]
        top = Cat(Const(-1, spec.logit_bits - 1), Const(0, 1))
        m.d.comb += [
            shifted.eq(doubled >> self.amount),
            rounded.eq((shifted + 1) >> 1),
            high.eq(
                (self.saturates & self.product.any())
                | (rounded[spec.logit_bits - 1] != rounded[spec.logit_bits])
            ),
            self.t.eq(Mux(high, Mux(negative, ~top, top), rounded[: spec.logit_bits])),
        ]
        return m


class Exp2(wiring.Component):
    """``2**t``: mantissa by a line over the fraction, exponent the integer part.

    Attributes:
        t: In, signed. keep: In; elements not kept are mantissa 0 with the lowest exponent.
        mantissa: Out, P + 1 bits. exponent: Out, signed.
    """

    module_name = "softmax_exp2"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        self.lines = spec.table
        super().__init__(
            {
                "t": In(signed(spec.logit_bits)),
                "keep": In(1),
                "mantissa": Out(spec.mantissa_bits + 1),
                "exponent": Out(signed(spec.integer_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        lines = self.lines
        fraction = self.t[: spec.fraction_bits]
        rest, index = fraction[: lines.shift], fraction[lines.shift :]
        hidden = 1 << spec.mantissa_bits
        base, slope = Signal(spec.mantissa_bits), Signal(range(int(lines.slope.max()) + 1))
        mantissa = Signal(spec.mantissa_bits + 1)
        bases = [int(value) - hidden for value in lines.base]
        m.d.comb += [
            base.eq(table(index, bases, len(base))),
            slope.eq(table(index, [int(value) for value in lines.slope], len(slope))),
            mantissa.eq(hidden + base + ((slope * rest + lines.half) >> lines.shift)),
            self.mantissa.eq(Mux(self.keep, mantissa, 0)),
            self.exponent.eq(Mux(self.keep, self.t[spec.fraction_bits :], spec.lowest)),
        ]
        return m


class Normalise(wiring.Component):
    """The exact result ``product * 2**(scale - (P + R + 1))`` to the bits that a rounding looks at.

    Attributes:
        product: In, mantissa times reciprocal: its leading bit is the first or the second.
        scale: In, signed: exponent of the first bit.
        top: Out, signed: exponent of the leading bit.
        significand: Out, bits from the leading one on, ``bits`` of them.
        sticky: Out, whether any bit lies below.
    """

    module_name = "softmax_normalise"

    def __init__(self, spec: SoftmaxSpec, scale_bits: int) -> None:
        self.bits = significand_bits(spec)
        self.width = spec.mantissa_bits + spec.reciprocal_bits + 2
        super().__init__(
            {
                "product": In(self.width),
                "scale": In(signed(scale_bits)),
                "top": Out(signed(scale_bits)),
                "significand": Out(self.bits),
                "sticky": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        first = self.product[-1]
        aligned = Signal(self.width + self.bits)
        # Zeros below, for mantissas shorter than what a rounding looks at.
        m.d.comb += [
            aligned.eq(Mux(first, self.product, self.product << 1)[: self.width] << self.bits),
            self.significand.eq(aligned[-self.bits :]),
            self.sticky.eq(aligned[: -self.bits].any()),
            self.top.eq(self.scale - ~first),
        ]
        return m


def significand_bits(spec: SoftmaxSpec) -> int:
    """Leading bits that the roundings look at, the hidden one among them."""
    return WORD_BITS + 1 if spec.fixed else FRACTION_BITS + 1


class Fixed(wiring.Component):
    """Round to an unsigned fraction of 8 or 16 bits, ties to even, saturated.

    Attributes:
        top, significand, sticky: In, of :class:`Normalise`. zero: In. half: In, 8 bits, else 16.
        code: Out, high bits 0.
    """

    module_name = "softmax_fixed"

    def __init__(self, scale_bits: int) -> None:
        super().__init__(
            {
                "top": In(signed(scale_bits)),
                "significand": In(WORD_BITS + 1),
                "sticky": In(1),
                "zero": In(1),
                "half": In(1),
                "code": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        short = WORD_BITS // 2
        amount = Signal(range(WORD_BITS + 3))
        distance = Signal(signed(len(self.top) + 2))
        kept, below = Signal(WORD_BITS), Signal(WORD_BITS + 2)
        rounded = Signal(WORD_BITS + 1)
        m.d.comb += [
            # The significand is in units of 2**(top - 16).
            distance.eq(Mux(self.half, short, 0) - self.top),
            amount.eq(Mux(distance > WORD_BITS + 2, WORD_BITS + 2, distance)),
            Cat(below, kept).eq(Cat(Const(0, WORD_BITS + 2), self.significand) >> amount),
            rounded.eq(kept + (below[-1] & (below[:-1].any() | self.sticky | kept[0]))),
        ]
        over: Value = (self.top >= 0) | Mux(self.half, rounded[short:].any(), rounded[-1])
        largest = Cat(Const(-1, short), (~self.half).replicate(short))
        with m.If(~self.zero):
            m.d.comb += self.code.eq(Mux(over, largest, rounded))
        return m
