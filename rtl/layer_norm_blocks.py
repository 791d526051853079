"""The lane of the normalisation unit: a code to the grid, products onto it, a sum's leading bits.

Blocks are combinational; :mod:`opennpe.rtl.layer_norm` puts registers between them.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import formats
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.rtl.codec import Decode
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import (
    FRACTION_BITS,
    HALF,
    NARROW,
    SIGNIFICAND_BITS,
    WHOLE,
    WORD_BITS,
    pair_of,
)

__all__ = ["Align", "Leading", "ToGrid"]

BITS = SIGNIFICAND_BITS[WHOLE]


class ToGrid(wiring.Component):
    """A code as a sign, a significand and a left shift on the unit's grid (the decode step).

    A significand that reaches below the grid is rounded to nearest even; what is too large
    saturates. Both leave a significand of 13 bits.

    Attributes:
        code: In, a code in the low bits, zeros above.
        format: In, its format's index.
        keep: In; 0 makes it a zero.
        negative, significand, shift, nan: Out.
    """

    module_name = "layer_norm_to_grid"

    def __init__(self, spec: NormSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "code": In(WORD_BITS),
                "format": In(2),
                "keep": In(1),
                "negative": Out(1),
                "significand": Out(BITS),
                "shift": Out(range(spec.max_shift + 1)),
                "nan": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        decode = Decode()
        place(m, platform, "decode", decode)
        pair = decode.pair
        m.d.comb += [
            # A dropped code reads as zero in every format.
            decode.word.eq(Mux(self.keep, self.code, 0)),
            Value.cast(pair).eq(pair_of(self.format, self.format)),
            decode.posit4.eq(self.format[0]),
        ]
        half, narrow = SIGNIFICAND_BITS[HALF], SIGNIFICAND_BITS[NARROW[0]]
        # Every significand on the left of 13 bits, and its exponent on the grid.
        left = Signal(BITS)
        place_on_grid = Signal(signed(7))
        units = [
            self.spec.fraction_bits + formats.get(name).lsb_exponent - (BITS - narrow)
            for name in NARROW
        ]
        point = self.spec.fraction_bits - (BITS - 1)
        m.d.comb += [
            left.eq(
                Mux(
                    pair.whole,
                    decode.significand,
                    Mux(
                        pair.half,
                        decode.significand[:half] << (BITS - half),
                        decode.significand[:narrow] << (BITS - narrow),
                    ),
                )
            ),
            place_on_grid.eq(
                Mux(
                    pair.narrow,
                    decode.scale.as_unsigned() + Mux(self.format[0], units[1], units[0]),
                    decode.scale.as_signed() + point,
                )
            ),
            self.negative.eq(decode.signs[0]),
            self.nan.eq(decode.nan[0]),
        ]
        self._round(m, left, place_on_grid)
        return m

    def _round(self, m: Module, left: Signal, at: Signal) -> None:
        """Bits below the grid rounded away, magnitudes beyond it held."""
        down = Signal(range(BITS + 2))
        too_low, too_high = Signal(), Signal()
        m.d.comb += [
            too_low.eq(at < -(BITS + 1)),
            too_high.eq(at > self.spec.max_shift),
            down.eq(Mux(at[-1], Mux(too_low, BITS + 1, (-at)[: len(down)]), 0)),
        ]
        # Two more bits below: the half, and whether anything lies below it.
        shifted: Value = Cat(Const(0, 1), left)
        lost: Value = Const(0, 1)
        for index, bit in enumerate(down):
            step = 1 << index
            level = Signal(BITS + 1, name=f"down{step}")
            m.d.comb += level.eq(Mux(bit, shifted >> step, shifted))
            lost = lost | (bit & shifted[:step].any())
            shifted = level
        kept = Signal(BITS)
        m.d.comb += kept.eq(shifted[1:] + (shifted[0] & (lost | shifted[1])))
        with m.If(too_high & left.any()):
            m.d.comb += [
                self.significand.eq(~Const(0, BITS)),
                self.shift.eq(self.spec.max_shift),
            ]
        with m.Else():
            m.d.comb += [
                self.significand.eq(kept),
                self.shift.eq(Mux(at[-1] | too_high, 0, at[: len(self.shift)])),
            ]


class Align(wiring.Component):
    """A product moved onto its grid: squares by twice the shift, scaled elements by the shift.

    Attributes:
        product: In. shift: In. second: In, pass 2.
        addend: Out, unsigned.
    """

    module_name = "layer_norm_align"

    def __init__(self, spec: NormSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "product": In(BITS + spec.factor_bits),
                "shift": In(range(spec.max_shift + 1)),
                "second": In(1),
                "addend": Out(spec.difference_bits - 1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        amount = Signal(len(self.shift) + 1)
        m.d.comb += [
            amount.eq(Mux(self.second, self.shift, self.shift << 1)),
            self.addend.eq(self.product << amount),
        ]
        return m


class Leading(wiring.Component):
    """A signed number to sign, exponent and leading bits (the normalise step).

    The number is ``(1 + f) * 2**scale``, or ``(f - 2) * 2**scale`` when negative: see
    :class:`opennpe.rtl.codec.Round`.

    Attributes:
        value: In, signed.
        unit: In, signed: the exponent of its lowest bit.
        negative, zero, scale, fraction, sticky: Out.
    """

    module_name = "layer_norm_leading"

    def __init__(self, bits: int, scale_bits: int) -> None:
        self.bits = bits
        super().__init__(
            {
                "value": In(signed(bits)),
                "unit": In(signed(scale_bits)),
                "negative": Out(1),
                "zero": Out(1),
                "scale": Out(signed(scale_bits)),
                "fraction": Out(FRACTION_BITS),
                "sticky": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sign = self.value[-1]
        # A zero below the lowest bit ends the run of ones of minus one.
        rest: Value = Cat(Const(0, 1), self.value[:-1])
        width = len(rest)
        passed = Signal((width - 1).bit_length())
        for index in reversed(range(len(passed))):
            step = 1 << index
            if step >= width:
                continue
            moved = Signal(width, name=f"moved{step}")
            m.d.comb += [
                passed[index].eq(~(rest[-step:] ^ sign.replicate(step)).any()),
                moved.eq(Mux(passed[index], rest << step, rest)),
            ]
            rest = moved
        fraction = rest[:-1]
        m.d.comb += [
            self.negative.eq(sign),
            self.zero.eq(~self.value.any()),
            self.fraction.eq(fraction[-FRACTION_BITS:]),
            self.sticky.eq(fraction[:-FRACTION_BITS].any()),
            self.scale.eq(self.unit + (width - 2) - passed),
        ]
        return m
