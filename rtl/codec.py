"""Decode and round: codes to significands and exponents, and the one rounding back to a code.

Both ends work as :mod:`opennpe.golden.codec` says. Posits share one decoder and one rounder: a
posit8 is decoded as the posit16 string it begins, and every posit is rounded at the same bit.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import codec, formats
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import (
    FRACTION_BITS,
    HALF,
    NARROW,
    SCALE_BITS,
    SHIFT_BITS,
    SIGNIFICAND_BITS,
    SLOTS,
    WHOLE,
    WORD_BITS,
    Pair,
    log2_maxpos,
    significand_places,
    slot_signs,
    table,
)

__all__ = ["Decode", "Round", "narrow_operand"]

FP4 = formats.get("fp4")


class Decode(wiring.Component):
    """One operand word to significands and exponents, a lane each. Combinational.

    Blocks that a mode does not use see zeros, so that nothing toggles in them.

    Attributes:
        word: In, the operand codes, lane 0 low.
        pair: In, the modes' :class:`Pair`.
        posit4: In, whether this operand's 4-bit codes are posit4 (else fp4).
        significand: Out, lanes at ``significand_places``; zero for zero and NaR.
        scale: Out, lane 0's exponent: of two for posit8 and posit16 (signed), else a left shift.
        scale_half: Out, the same for the lane in slot 2.
        shifts: Out, left shifts of the 4-bit lanes 1 and 3.
        signs: Out, a sign a slot.
        nan: Out, whether the lane that begins in the slot is NaR.
    """

    module_name = "decode"

    def __init__(self) -> None:
        super().__init__(
            {
                "word": In(WORD_BITS),
                "pair": In(Pair),
                "posit4": In(1),
                "significand": Out(SIGNIFICAND_BITS[WHOLE]),
                "scale": Out(SCALE_BITS[WHOLE]),
                "scale_half": Out(SCALE_BITS[HALF]),
                "shifts": Out(2 * SHIFT_BITS),
                "signs": Out(SLOTS),
                "nan": Out(SLOTS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pair, half_bits = self.pair, WORD_BITS // 2
        low_byte, high_byte = self.word[:half_bits], self.word[half_bits:]
        string, string_low = PositString(WORD_BITS), PositString(half_bits)
        place(m, platform, "string", string)
        place(m, platform, "string_low", string_low)
        # posit8's lane 1 begins a posit16 string, except that it has no exponent bit.
        m.d.comb += [
            string.code.eq(
                Cat(
                    Mux(pair.whole, low_byte, 0),
                    Mux(pair.narrow, 0, high_byte),
                )
            ),
            string_low.code.eq(Mux(pair.half, low_byte, 0)),
        ]
        lanes = [self._narrow(m, lane) for lane in range(SLOTS)]
        sigs, shifts, nans = zip(*lanes, strict=True)
        m.d.comb += [
            self.significand.eq(self._significand(string, string_low, sigs)),
            self.scale.eq(
                Mux(
                    pair.whole,
                    Cat(string.tail[-1], string.regime),
                    Mux(pair.half, string_low.regime.as_signed(), shifts[0]),
                )
            ),
            self.scale_half.eq(Mux(pair.half, string.regime, shifts[2])),
            self.shifts.eq(Cat(shifts[1], shifts[3])),
            self.signs.eq(slot_signs(pair, self.word)),
            self.nan.eq(
                Cat(
                    nans[0] | string_low.nan | (string.nan & pair.whole),
                    nans[1],
                    nans[2] | (string.nan & pair.half),
                    nans[3],
                )
            ),
        ]
        return m

    def _narrow(self, m: Module, lane: int) -> tuple[Value, Value, Value]:
        """Significand, shift and NaR of a 4-bit lane, by a table over code and format."""
        bits = FP4.bits
        code = Signal(bits, name=f"lane{lane}_code")
        m.d.comb += code.eq(Mux(self.pair.narrow, self.word.word_select(lane, bits), 0))
        entries = [narrow_operand(name, code) for name in NARROW for code in range(1 << bits)]
        packed = [s | k << 2 | n << (2 + SHIFT_BITS) for s, k, n in entries]
        width = 2 + SHIFT_BITS + 1
        found = Signal(width, name=f"lane{lane}")
        m.d.comb += found.eq(table(Cat(code, self.posit4), packed, width))
        return found[:2], found[2:-1], found[-1]

    def _significand(
        self, string: PositString, string_low: PositString, sigs: tuple[Value, ...]
    ) -> Value:
        """The lanes' significands, each mode's at its places."""
        bits, half = SIGNIFICAND_BITS[WHOLE], SIGNIFICAND_BITS[HALF]
        whole = Cat(string.tail[:-1], string.hidden)
        high = Cat(string.tail[-half + 1 :], string.hidden)
        low = Cat(string_low.tail, string_low.hidden)
        narrow = Const(0, bits)
        for at, sig in zip(significand_places(SLOTS), sigs, strict=True):
            narrow = narrow | (sig << at)
        halves = (low << significand_places(2)[0]) | (high << significand_places(2)[1])
        return Mux(self.pair.whole, whole, Mux(self.pair.half, halves, narrow[:bits]))


class PositString(wiring.Component):
    """A posit code taken apart: sign and run removed, what follows the run on the left.

    Attributes:
        code: In, ``bits`` wide.
        regime: Out, signed.
        hidden: Out, 0 for zero and NaR.
        tail: Out, the bits after the regime, ``bits - 3`` of them, zeros filled in.
        nan: Out, the code is NaR.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.module_name = f"posit_string_{bits}"
        super().__init__(
            {
                "code": In(bits),
                "regime": Out((bits - 1).bit_length() + 1),
                "hidden": Out(1),
                "tail": Out(bits - 3),
                "nan": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.bits - 1
        sign, body = self.code[-1], Signal(width)
        m.d.comb += body.eq(Mux(sign, -self.code[:-1], self.code[:-1]))
        first = body[-1]
        # The run's length less one is found and shifted out in steps of 8, 4, 2, 1. Zeros that
        # follow the code end the run of maxpos; the run of zero and NaR is never looked at.
        rest = body[:-1]
        run = Signal(range(width))
        for index in reversed(range(len(run))):
            step = 1 << index
            moved = Signal(width - 1, name=f"moved{step}")
            m.d.comb += [
                run[index].eq(~(rest[-step:] ^ first.replicate(step)).any()),
                moved.eq(Mux(run[index], rest << step, rest)),
            ]
            rest = moved
        empty = ~body.any()
        m.d.comb += [
            self.regime.eq(Cat(run, Const(0, 1)) ^ (~first).replicate(len(self.regime))),
            self.hidden.eq(~empty),
            self.tail.eq(rest[:-1]),
            self.nan.eq(sign & empty),
        ]
        return m


def narrow_operand(name: str, code: int) -> tuple[int, int, int]:
    """A 4-bit code as significand (2 bits), left shift onto the format's grid, and NaR.

    As golden unpacks it; posit4 is a power of two, so its significand is one. Only maxpos needs a
    longer shift than there are bits for: it is two times the power below.
    """
    fmt = formats.get(name)
    u = codec.unpack(fmt, code)
    if u.kind != "finite" or not u.significand:
        return 0, 0, int(u.kind == "nan")
    exponent = u.exponent - fmt.lsb_exponent
    shift = min(exponent, (1 << SHIFT_BITS) - 1)
    return u.significand << (exponent - shift), shift, 0


class Round(wiring.Component):
    """A normalised sum to a code, once. Combinational.

    The sum is ``(1 + f) * 2**scale``, or ``(f - 2) * 2**scale`` when negative, f in [0, 1): in
    this form a posit's bit string is the same for both signs once ``scale`` is inverted with the
    sign, and nearest-even on the string needs no negation (Posit Standard 2022, section 3.3).

    Attributes:
        negative, zero, nan: In.
        scale: In, signed.
        fraction: In, the leading bits of f.
        sticky: In, whether any bit of f lies below them.
        out: In, the result format's index.
        underflow_zero: In.
        code: Out, high bits 0.
    """

    module_name = "round"

    def __init__(self, scale_bits: int) -> None:
        self.scale_bits = scale_bits
        super().__init__(
            {
                "negative": In(1),
                "zero": In(1),
                "nan": In(1),
                "scale": In(scale_bits),
                "fraction": In(FRACTION_BITS),
                "sticky": In(1),
                "out": In(2),
                "underflow_zero": In(1),
                "code": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        is_fp4, is_posit4, is_half, is_whole = (self.out == index for index in range(4))
        body, flush = self._posit(m, is_posit4, is_half, is_whole)
        sign = Signal()
        magnitude = Signal(WORD_BITS - 1)
        with m.If(self.nan):
            m.d.comb += sign.eq(1)
        with m.Elif(~(self.zero | (flush & ~is_fp4))):
            m.d.comb += sign.eq(self.negative)
            m.d.comb += magnitude.eq(Mux(is_fp4, self._fp4(m), body))
        low, mid = formats.get("posit4").bits - 1, formats.get(HALF).bits - 1
        m.d.comb += self.code.eq(
            Cat(
                magnitude[:low],
                Mux(is_half | is_whole, magnitude[low], sign),
                Mux(is_half | is_whole, magnitude[low + 1 : mid], 0),
                Mux(is_half, sign, magnitude[mid] & is_whole),
                Mux(is_whole, magnitude[mid + 1 :], 0),
                sign & is_whole,
            )
        )
        return m

    def _posit(
        self, m: Module, is_posit4: Value, is_half: Value, is_whole: Value
    ) -> tuple[Value, Value]:
        """The code below its sign bit for every posit, and whether the sum becomes zero."""
        width = WORD_BITS - 1
        size = self.scale_bits - 1
        sign_of_scale = self.scale[-1]
        # |T| as a run: T where it is not negative, else -T - 1; the same for scale and ~scale.
        run = Signal(size)
        ones = Signal()
        m.d.comb += [
            run.eq(self.scale[:-1] ^ sign_of_scale.replicate(size)),
            ones.eq(~(sign_of_scale ^ self.negative)),
        ]
        string = Signal(WORD_BITS)
        exponent = self.scale[0] ^ self.negative
        tail = Mux(is_half, Cat(Const(0, 1), self.fraction), Cat(self.fraction, exponent))
        m.d.comb += string.eq(Cat(tail, ~ones, ones))

        amount = Signal(4)
        over = Signal()
        m.d.comb += [
            over.eq(
                Mux(
                    is_half,
                    _at_least(run, formats.get(HALF).bits - 1),
                    Mux(
                        is_whole,
                        _at_least(run[1:], formats.get(WHOLE).bits - 1),
                        _at_least(run[1:], formats.get("posit4").bits - 1),
                    ),
                )
            ),
            # A short code's string starts so much lower that all are cut at one bit.
            amount.eq(
                Mux(
                    over,
                    WORD_BITS - 2,
                    Mux(is_half, run, run[1:])[:4] | Cat(Const(0, 2), is_posit4, ~is_whole),
                )
            ),
        ]
        shifted, lost = string, Const(0, 1)
        for index in reversed(range(len(amount))):
            step, bit = 1 << index, amount[index]
            level = Signal(WORD_BITS, name=f"string{step}")
            m.d.comb += level.eq(Mux(bit, Cat(shifted[step:], ones.replicate(step)), shifted))
            lost = lost | (bit & shifted[:step].any())
            shifted = level
        kept = shifted[1:]
        sticky = Signal()
        up = Signal()
        m.d.comb += [
            sticky.eq(lost | self.sticky),
            up.eq(shifted[0] & (sticky | kept[0])),
        ]
        rounded = Signal(width)
        m.d.comb += rounded.eq(kept + up)
        low, mid = formats.get("posit4").bits - 1, formats.get(HALF).bits - 1
        none = ~(
            rounded[:low].any()
            | (rounded[low:mid].any() & ~is_posit4)
            | (rounded[mid:].any() & is_whole)
        )
        body = Signal(width)
        m.d.comb += body.eq(Cat(rounded[0] | none, rounded[1:]))
        return body, self._flush(m, run, ones, is_half, is_whole)

    def _flush(self, m: Module, run: Value, ones: Value, is_half: Value, is_whole: Value) -> Value:
        """Rule "zero": a sum of at most half of minpos becomes zero."""
        limit = {name: log2_maxpos(name) + 1 for name in ("posit4", HALF, WHOLE)}

        def chosen(test: Any) -> Value:
            return Mux(
                is_half,
                test(limit[HALF]),
                Mux(is_whole, test(limit[WHOLE]), test(limit["posit4"])),
            )

        beyond = chosen(lambda z: _at_least(run, z))
        on_it = chosen(lambda z: run == z - 1)
        exact = ~(self.fraction.any() | self.sticky)
        flush = Signal()
        small = beyond | (on_it & ~self.negative & exact)
        m.d.comb += flush.eq(self.underflow_zero & (ones == self.negative) & small)
        return flush

    def _fp4(self, m: Module) -> Value:
        """fp4 below its sign bit: a table over scale, two fraction bits and the rest."""
        near = Signal(3)
        high = self.scale[2:]
        inside = high.all() | ~high.any()
        m.d.comb += near.eq(
            Mux(inside, self.scale[:3], Cat((~self.scale[-1]).replicate(2), self.scale[-1]))
        )
        rest = self.fraction[:-2].any() | self.sticky
        index = Cat(rest, self.fraction[-2:], near, self.negative)
        entries = [_fp4_entry(key) for key in range(1 << len(index))]
        found = Signal(FP4.bits - 1, name="fp4")
        m.d.comb += found.eq(table(index, entries, FP4.bits - 1))
        return found


def _fp4_entry(key: int) -> int:
    """Golden's fp4 code, sign aside, of a sum that is described by the table's index."""
    eighths = (key & 7) + 8  # 1 + f; a nonzero rest is as good as a half of the last bit
    scale = (key >> 3 & 7) - (8 if key >> 5 & 1 else 0)
    numerator = eighths - 24 if key >> 6 else eighths
    code = codec.round_exact(FP4, numerator, scale - 3)
    return code & ((1 << (int(FP4.bits) - 1)) - 1)


def _at_least(value: Value, limit: int) -> Value:
    return value >= limit
