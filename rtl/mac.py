"""Multiply, align, accumulate: from decoded operands to exact sums.

Every block is combinational and serves all modes; :mod:`opennpe.rtl.engine` puts registers
between them. Slots, pairs and places are those of :mod:`opennpe.rtl.lanes`.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from opennpe.rtl.lanes import (
    HALF,
    NARROW,
    SCALE_BITS,
    SEGMENT,
    SHIFT_BITS,
    SIGNIFICAND_BITS,
    SLOTS,
    WHOLE,
    Pair,
    log2_maxpos,
    significand_places,
    table,
)

__all__ = ["Accumulate", "Align", "Multiply", "Operand", "Product", "add", "addend_bits"]

CARRY_GROUPS = (10, 12, 14, 16, 18, 18, 16, 14, 14)
"""Bits of the accumulator's adder that share a carry chain."""

Operand = data.StructLayout(
    {
        "significand": SIGNIFICAND_BITS[WHOLE],
        "scale": SCALE_BITS[WHOLE],
        "scale_half": SCALE_BITS[HALF],
        "shifts": 2 * SHIFT_BITS,
    }
)
"""A decoded word: what :class:`opennpe.rtl.codec.Decode` gives for the multiplier."""

Product = data.StructLayout(
    {
        "significand": 2 * SIGNIFICAND_BITS[WHOLE],
        "scale": SCALE_BITS[WHOLE] + 1,
        "scale_half": SCALE_BITS[HALF] + 1,
        "shifts": 2 * (SHIFT_BITS + 1),
    }
)
"""Products of the significands, each mode's at twice its places, and sums of the exponents."""


class Multiply(wiring.Component):
    """One array of partial products for all modes, and the adders of the exponents.

    A partial product of bits of two lanes is held at zero; what is left are the products of each
    lane with itself, side by side. Four 2x2 blocks on the diagonal serve the 4-bit modes, with
    the blocks between them they make two 6x6, with the rest one 13x13.

    Or, ``hard``: by multipliers that the fabric has, one for the lowest lane of all modes.

    Attributes:
        a, b: In, :data:`Operand`.
        narrow, whole: In, of the pair; by themselves, because they reach far and come first.
        product: Out, :data:`Product`.
    """

    module_name = "multiply"

    def __init__(self, hard: bool = False) -> None:
        self.hard = hard
        super().__init__(
            {
                "a": In(Operand),
                "b": In(Operand),
                "narrow": In(1),
                "whole": In(1),
                "product": Out(Product),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        a, b, product = self.a, self.b, self.product
        m.d.comb += [
            product.significand.eq(self._by_blocks(m) if self.hard else self._by_rows(m)),
            product.scale.eq(a.scale.as_signed() + b.scale.as_signed()),
            product.scale_half.eq(a.scale_half.as_signed() + b.scale_half.as_signed()),
        ]
        bits = SHIFT_BITS
        sums = [
            (a.shifts.word_select(i, bits) + b.shifts.word_select(i, bits))[: bits + 1]
            for i in range(2)
        ]
        m.d.comb += product.shifts.eq(Cat(*sums))
        return m

    def _by_rows(self, m: Module) -> Value:
        """Partial products, and the sum of their rows."""
        a, b = self.a, self.b
        width = SIGNIFICAND_BITS[WHOLE]
        # The same operand three times, as blocks see it: always, in wide modes, in posit16 only.
        a_half = Signal(width)
        a_whole = Signal(width)
        m.d.comb += [
            a_half.eq(Mux(self.narrow, 0, a.significand)),
            a_whole.eq(Mux(self.whole, a.significand, 0)),
        ]
        rows = []
        for i in range(width):
            seen = [(a.significand, a_half, a_whole)[_block(i, j)][j] for j in range(width)]
            row = Signal(width, name=f"row{i}")
            m.d.comb += row.eq(Cat(*seen) & b.significand[i].replicate(width))
            rows.append(row << i)
        total = rows[0]
        for row in rows[1:]:
            total = (total + row)[: 2 * width]
        return total

    def _by_blocks(self, m: Module) -> Value:
        """Two multipliers: of the lowest lane, which posit16 has alone, and of the highest.

        Those of the two 4-bit lanes between are small enough for look-up tables. Where a mode has
        no product anything may stand: :class:`Align` does not look there.
        """
        operands = self.a.significand, self.b.significand
        width, half = SIGNIFICAND_BITS[WHOLE], SIGNIFICAND_BITS[HALF]
        places, high_at = significand_places(SLOTS), significand_places(2)[1]
        quarter = SIGNIFICAND_BITS[NARROW[0]]

        def lowest(operand: Value) -> Value:
            wide, whole = ~self.narrow, self.whole
            parts = operand[:quarter], operand[quarter:half], operand[half:]
            return Cat(
                parts[0], *(bit & wide for bit in parts[1]), *(bit & whole for bit in parts[2])
            )

        def highest(operand: Value) -> Value:
            part = operand[high_at:]
            at = places[3] - high_at
            return Cat(*(bit & ~self.narrow for bit in part[:at]), part[at:])

        low, high = Signal(2 * width, name="lowest"), Signal(2 * half, name="highest")
        between = [Signal(2 * quarter, name=f"lane{lane}") for lane in (1, 2)]
        m.d.comb += [
            low.eq(lowest(operands[0]) * lowest(operands[1])),
            high.eq(highest(operands[0]) * highest(operands[1])),
        ]
        for lane, product in zip((1, 2), between, strict=True):
            own = [operand[places[lane] :][:quarter] for operand in operands]
            m.d.comb += product.eq(_small(*own))
        second, third, above = 2 * places[1], 2 * places[2], 2 * high_at
        bits = list(low)
        for i in range(2 * quarter):
            bits[second + i] = Mux(self.narrow, between[0][i], low[second + i])
        for i in range(2 * half):
            bits[above + i] = Mux(self.whole, low[above + i], high[i])
        for i in range(2 * quarter):
            bits[third + i] = Mux(self.narrow, between[1][i], bits[third + i])
        return Cat(*bits)


def _small(a: Value, b: Value) -> Value:
    """A product of two bits each, as a table: a multiplier would be wasted on it."""
    width = len(a)
    entries = [(key & (1 << width) - 1) * (key >> width) for key in range(1 << 2 * width)]
    return table(Cat(a, b), entries, 2 * width)


def _block(i: int, j: int) -> int:
    """Which modes use the partial product of bits i and j: 0 all, 1 the wide ones, 2 posit16."""
    half, quarter = (_lane(i, n) == _lane(j, n) for n in (2, SLOTS))
    return 2 - half - (half and quarter)


def _lane(bit: int, lanes: int) -> int:
    return sum(bit >= place for place in significand_places(lanes)) - 1


class Align(wiring.Component):
    """Products onto the accumulator's grid, in two's complement but for the last carry.

    Attributes:
        product: In, :data:`Product`.
        pair: In.
        signs: In, a sign a slot; a negative addend is inverted, its lane's carry-in is its sign.
        addend: Out, the accumulator's width, lanes in their slots.
    """

    module_name = "align"

    def __init__(self, accumulator_bits: int) -> None:
        self.bits = accumulator_bits
        super().__init__(
            {
                "product": In(Product),
                "pair": In(Pair),
                "signs": In(SLOTS),
                "addend": Out(accumulator_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pair, p = self.pair, self.product
        places = [2 * place for place in significand_places(SLOTS)]
        narrow = [Mux(pair.narrow, p.significand[at : at + 4], 0) for at in places]
        wide = 2 * SIGNIFICAND_BITS[HALF]
        half = [p.significand[2 * at :][:wide] << _lag(HALF)[0] for at in significand_places(2)]
        fine = len(Const(SEGMENT - 1))
        inputs = [
            Mux(pair.whole, p.significand, Mux(pair.half, half[0], narrow[0])),
            narrow[1],
            Mux(pair.half, half[1], narrow[2]),
            narrow[3],
        ]
        amounts = [
            p.scale[:fine],
            p.shifts[:fine],
            p.scale_half[:fine],
            p.shifts[fine:],
        ]
        moved = [
            _shift_left(m, f"slot{slot}", value, amount)
            for slot, (value, amount) in enumerate(zip(inputs, amounts, strict=True))
        ]
        magnitude = self._coarse(m, moved)
        slot_bits = self.bits // SLOTS
        mask = Cat(*(sign.replicate(slot_bits) for sign in self.signs))
        m.d.comb += self.addend.eq(magnitude ^ mask)
        return m

    def _coarse(self, m: Module, moved: list[Value]) -> Value:
        """Whole segments: slot 0's product to where its high exponent bits say, the others up."""
        pair, p = self.pair, self.product
        count, per_slot = self.bits // SEGMENT, self.bits // SEGMENT // SLOTS
        first = _segments(moved[0])
        place = self._places(m, count)
        out: list[Value] = []
        for segment in range(count):
            terms = [
                part & place[segment - k].replicate(SEGMENT)
                for k, part in enumerate(first)
                if segment - k in place
            ]
            slot, inside = divmod(segment, per_slot)
            if slot in (1, 3) and inside < 2:
                terms.append(_segments(moved[slot])[inside])
            out.append(terms)
        # Slot 2 has posit8's lane 1, whose lowest segment lies below the grid when it is small.
        low, high = _segments(moved[2])
        small = pair.half & p.scale_half[-1]
        out[2 * per_slot].append(Mux(small, high, low))
        out[2 * per_slot + 1].append(Mux(small, 0, high))
        segments = []
        for terms in out:
            total = terms[0]
            for term in terms[1:]:
                total = total | term
            segments.append(total)
        return Cat(*segments)

    def _places(self, m: Module, count: int) -> dict[int, Value]:
        """One-hot: the segment in which slot 0's shifted product begins; it may be below 0."""
        pair, scale = self.pair, self.product.scale
        fine = len(Const(SEGMENT - 1))
        # Exponents are offset by half their range, which inverts their highest bit.
        whole = Cat(scale[fine:-1], ~scale[-1])
        half = ~scale[fine]
        back = {name: _lag(name)[1] for name in (HALF, WHOLE)}
        place: dict[int, Value] = {}
        for at in range(-back[WHOLE], count):
            hits: list[Value] = []
            if at + back[WHOLE] < 1 << len(whole):
                hits.append(pair.whole & (whole == at + back[WHOLE]))
            if at + back[HALF] in (0, 1):
                hits.append(pair.half & (half == at + back[HALF]))
            if at == 0:
                hits.append(pair.narrow)
            if hits:
                place[at] = Signal(name=f"begins_{at}" if at >= 0 else f"begins_below_{-at}")
                m.d.comb += place[at].eq(Cat(*hits).any())
        return place


def addend_bits() -> int:
    """Bits that products reach into, those of the largest posit16 product: the rest is sign."""
    return 4 * log2_maxpos(WHOLE) + 1


def _lag(name: str) -> tuple[int, int]:
    """How an offset exponent places a product: bits to append below it, segments to go back.

    The product's lowest bit weighs ``2**(exponent - 2 * (significand bits - 1))``, the grid's
    ``2**grid``; the exponent, offset by half its range, shifts left.
    """
    offset = 1 << SCALE_BITS[name]
    grid = -2 * log2_maxpos(name)
    lag = offset + grid + 2 * (SIGNIFICAND_BITS[name] - 1)
    pad = -lag % SEGMENT
    return pad, (lag + pad) // SEGMENT


def _segments(value: Value) -> list[Value]:
    """Bits in segments, the last one filled with zeros."""
    parts = [value[at : at + SEGMENT] for at in range(0, len(value), SEGMENT)]
    return [*parts[:-1], Cat(parts[-1], Const(0, SEGMENT - len(parts[-1])))]


def _shift_left(m: Module, name: str, value: Value, amount: Value) -> Value:
    """A barrel shifter that grows level by level."""
    for index in range(len(amount)):
        step = 1 << index
        level = Signal(len(value) + step, name=f"{name}_by{step}")
        m.d.comb += level.eq(Mux(amount[index], value << step, value))
        value = level
    return value


class Accumulate(wiring.Component):
    """Add to the sums, the carry broken between lanes.

    By groups that a carry passes in one step; or ``chain``: by the one carry chain that an FPGA
    has beside its look-up tables.

    Attributes:
        total: In, the sums so far. bias: In, taken instead with ``first``.
        addend, signs: In, of :class:`Align`. adds: In, else zero is added instead.
        nan: In, NaR so far. nan_in: In, NaR among the operands.
        result, nan_out: Out.
    """

    module_name = "accumulate"

    def __init__(self, accumulator_bits: int, chain: bool = False) -> None:
        self.bits = accumulator_bits
        self.chain = chain
        super().__init__(
            {
                "total": In(accumulator_bits),
                "bias": In(accumulator_bits),
                "first": In(1),
                "adds": In(1),
                "addend": In(accumulator_bits),
                "signs": In(SLOTS),
                "pair": In(Pair),
                "nan": In(SLOTS),
                "nan_in": In(SLOTS),
                "result": Out(accumulator_bits),
                "nan_out": Out(SLOTS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.bits // SLOTS
        base = Signal(self.bits)
        addend = Signal(self.bits)
        m.d.comb += [
            base.eq(Mux(self.first, self.bias, self.total)),
            addend.eq(self.addend & self.adds.replicate(self.bits)),
        ]
        # A guard bit below each slot: 1 + 0 hands the carry on, x + x makes it x.
        joined = [Const(0, 1), ~self.pair.narrow, self.pair.whole, ~self.pair.narrow]
        left, right = [], []
        for slot, join in enumerate(joined):
            sign = self.signs[slot] & self.adds
            left += [join | sign, base.word_select(slot, bits)]
            right += [~join & sign, addend.word_select(slot, bits)]
        total = Signal(self.bits + SLOTS)
        summands = Cat(*left), Cat(*right)
        m.d.comb += total.eq(summands[0] + summands[1] if self.chain else add(m, *summands))
        m.d.comb += [
            self.result.eq(Cat(*(total.word_select(slot, bits + 1)[1:] for slot in range(SLOTS)))),
            self.nan_out.eq(Mux(self.first, 0, self.nan) | self.nan_in),
        ]
        return m


def add(m: Module, left: Value, right: Value) -> Value:
    """The sum, without its carry out, in groups that a carry passes in one step.

    Synthesis turns a prefix tree back into a chain. Two chains it keeps: one of the carries that
    a group makes by itself, and one of its sums, begun by the carry that comes in.
    """
    parts: list[Value] = []
    carry: Value = Const(0, 1)
    at = 0
    for name, size in enumerate(CARRY_GROUPS):
        a, b = left[at : at + size], right[at : at + size]
        at += size
        begins, group = carry, Signal(size, name=f"group{name}")
        m.d.comb += group.eq((Cat(Const(1, 1), a) + Cat(begins, b))[1:])
        parts.append(group)
        if at < len(left):
            alone, carry = Signal(size + 1, name=f"alone{name}"), Signal(name=f"carry{name}")
            m.d.comb += [alone.eq(a + b), carry.eq(alone[-1] | ((a ^ b).all() & begins))]
    return Cat(*parts)
