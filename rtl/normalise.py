"""Normalise: a finished sum to the leading bits that the rounding looks at."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.rtl.lanes import (
    FRACTION_BITS,
    PAIRS,
    SEGMENT,
    SLOTS,
    Pair,
    grid_exponent,
    lane_count,
    slot_of,
    table,
)

__all__ = ["Normalise", "scale_bits"]

SCALE_FLOOR = 8
"""Signed bits of any sum's exponent before its shift."""


def scale_bits(shift_bits: int) -> int:
    """Signed bits of a normalised sum's exponent, the shift included."""
    return max(shift_bits, SCALE_FLOOR) + 1


class Normalise(wiring.Component):
    """One lane of a finished sum to sign, exponent and leading bits.

    The lane stays in its slots, everything else reads as zeros. The first bit that differs from
    the sign is found by segments, then inside one; only as many bits as a rounding looks at are
    moved, the rest leaves one bit that says whether any was set. Combinational, but for the
    registers of ``staged`` between the first half of this and the second.

    Attributes:
        total: In, the accumulator, for lane 0. held: In, its slots from 1 up, for the others.
        nan, nan_held: In, NaR flags of the slots likewise.
        lane: In. pair: In. shift: In, signed.
        take: In, with ``staged`` only: its registers take what is there.
        fresh: In, which slots of ``total`` are lane 0's: 0, 1, and 2 with 3; none for other lanes.
        waiting: In, which slots of ``held`` are the lane's.
        negative, zero, nan_out, scale, fraction, sticky: Out, for
            :class:`opennpe.rtl.codec.Round`.
    """

    module_name = "normalise"

    def __init__(self, accumulator_bits: int, shift_bits: int, staged: bool = False) -> None:
        self.bits, self.shift_bits = accumulator_bits, shift_bits
        self.staged = staged
        self.scale_bits = scale_bits(shift_bits)
        super().__init__(
            {
                "total": In(accumulator_bits),
                "held": In(accumulator_bits - accumulator_bits // SLOTS),
                "nan": In(1),
                "nan_held": In(SLOTS - 1),
                "lane": In(2),
                "pair": In(Pair),
                "fresh": In(SLOTS - 1),
                "waiting": In(SLOTS - 1),
                "shift": In(shift_bits),
                "negative": Out(1),
                "zero": Out(1),
                "nan_out": Out(1),
                "scale": Out(self.scale_bits),
                "fraction": Out(FRACTION_BITS),
                "sticky": Out(1),
                **({"take": In(1)} if staged else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slots, begins = self._slots(m)
        width = self.bits // SLOTS
        lane = Signal(self.bits)
        m.d.comb += lane.eq(Cat(*slots))
        # The lane's highest bit: only the slot that it ends in is not followed by another of it.
        tops = [slot[-1] for slot in slots]
        pair = self.pair
        sign = Signal()
        m.d.comb += sign.eq(tops[3] | (pair.narrow & (tops[2] | tops[0])) | (~pair.whole & tops[1]))
        count = self.bits // SEGMENT
        per_slot = width // SEGMENT
        segments = [lane.word_select(count - 1 - i, SEGMENT) for i in range(count)]
        # Segments above the lane are passed over; below a negative one, the first counts.
        above = [self._above(SLOTS - 1 - i // per_slot, begins) for i in range(count)]
        leads, before = [], Const(0, 1)
        occupied = [segment.any() for segment in segments]
        for i, segment in enumerate(segments):
            differs, lead = Signal(name=f"differs{i}"), Signal(name=f"leads{i}")
            m.d.comb += [
                differs.eq(Mux(sign, ~(segment.all() | above[i]), occupied[i])),
                lead.eq(differs & ~before),
            ]
            leads.append(lead)
            before = before | differs
        # From a segment on to the lowest: whether any bit is set.
        filled: list[Value] = []
        for i in reversed(range(count)):
            some = Signal(name=f"filled_from{i}")
            m.d.comb += some.eq(occupied[i] | (filled[0] if filled else 0))
            filled.insert(0, some)
        window, sticky_below = self._window(m, segments, filled, leads)
        negative, found = self._held(m, "negative", sign), self._held(m, "found", before)
        fine, picked, lost = self._fine(m, self._held(m, "window", window), negative)
        bits = [
            Cat(*(lead for i, lead in enumerate(leads) if i >> bit & 1)).any()
            for bit in range((count - 1).bit_length())
        ]
        segment = self._held(m, "segment", Cat(*bits))
        passed = Cat(fine, segment, ~found, Const(0, 1))
        nan = Mux(begins[0], self.nan, self._held_nan(begins))
        scale = self._unit(m).as_signed() + self.shift.as_signed()
        m.d.comb += [
            self.nan_out.eq(self._held(m, "nan", nan)),
            self.negative.eq(negative),
            self.zero.eq(~found & ~negative),
            self.fraction.eq(picked[:-1]),
            self.sticky.eq(self._held(m, "below", sticky_below) | lost),
            self.scale.eq(self._held(m, "scale", scale) + ~passed.as_signed()),
        ]
        return m

    def _held(self, m: Module, name: str, value: Value) -> Value:
        """What goes on through a register of the leading stage, if there is one."""
        if not self.staged:
            return value
        held = Signal(value.shape(), name=f"lead_{name}", reset_less=True)
        with m.If(self.take):
            m.d.sync += held.eq(value)
        return held

    def _slots(self, m: Module) -> tuple[list[Value], list[Value]]:
        """The lane in its slots, zeros in the others; and a flag where it begins."""
        width = self.bits // SLOTS
        fresh = [*self.fresh, self.fresh[-1]]
        waiting = [Const(0, 1), *self.waiting]
        begins = [Signal(name=f"begins_slot{slot}") for slot in range(SLOTS)]
        m.d.comb += [
            begins[0].eq(self.fresh[0]),
            begins[1].eq(self.waiting[0]),
            begins[2].eq(self.waiting[1]),
            begins[3].eq(self.waiting[2] & self.pair.narrow),
        ]
        # Lane 0 is read where it was summed, the others where they wait.
        slots = []
        for slot in range(SLOTS):
            value = self.total.word_select(slot, width) & fresh[slot].replicate(width)
            if slot:
                held = self.held.word_select(slot - 1, width)
                value = value | (held & waiting[slot].replicate(width))
            slots.append(value)
        return slots, begins

    def _above(self, slot: int, begins: list[Value]) -> Value:
        """Whether a slot lies above the lane."""
        pair = self.pair
        if slot == 0:
            return Const(0, 1)
        if slot == 1:
            return begins[0] & pair.narrow
        if slot == 2:
            return (begins[0] & ~pair.whole) | begins[1]
        return (begins[0] & ~pair.whole) | begins[1] | (begins[2] & pair.narrow)

    def _held_nan(self, begins: list[Value]) -> Value:
        return Cat(*(flag & nan for flag, nan in zip(begins[1:], self.nan_held, strict=True))).any()

    def _window(
        self, m: Module, segments: list[Value], filled: list[Value], leads: list[Value]
    ) -> tuple[Value, Value]:
        """The leading segment and what a shift inside it may bring up; OR of the rest."""
        width = SEGMENT + FRACTION_BITS
        lowest = Const(0, SEGMENT)
        window, sticky = Const(0, width), Const(0, 1)
        for i, lead in enumerate(leads):
            follows = segments[i + 1] if i + 1 < len(segments) else lowest
            cut = SEGMENT - FRACTION_BITS
            window = window | (Cat(follows[cut:], segments[i]) & lead.replicate(width))
            below = Cat(follows[:cut], *filled[i + 2 : i + 3]).any()
            sticky = sticky | (lead & below)
        named, rest = Signal(width, name="window"), Signal(name="below_window")
        m.d.comb += [named.eq(window), rest.eq(sticky)]
        return named, rest

    def _fine(self, m: Module, window: Value, sign: Value) -> tuple[Value, Value, Value]:
        """Shift the window's leading bit to the top: the count, the bits kept, OR of the lost."""
        kept = FRACTION_BITS + 1
        steps = [8, 4, 2, 1]
        count: list[Value] = []
        lost = Const(0, 1)
        value = window
        for step in steps:
            left = step - 1
            width = kept + left
            skip = Signal(name=f"skip{step}")
            top = value[-step:]
            m.d.comb += skip.eq(~(top ^ sign.replicate(step)).any())
            level = Signal(width, name=f"window{step}")
            spare = len(value) - width
            m.d.comb += level.eq(Mux(skip, value[:width], value[spare:]))
            lost = lost | (~skip & value[:spare].any())
            count.insert(0, skip)
            value = level
        return Cat(*count), value, lost

    def _unit(self, m: Module) -> Value:
        """Exponent of the bit above the accumulator, were the lane its lowest slots and more."""
        width = self.bits // SLOTS
        entries = []
        for key in range(8 * SLOTS):
            pair, lane = key & 7, key >> 3
            pair = pair if pair in PAIRS else pair & 5
            slot = slot_of(lane_count(pair), lane) % SLOTS
            entries.append((self.bits - slot * width + grid_exponent(pair)) % 256)
        unit = Signal(8)
        m.d.comb += unit.eq(table(Cat(self.pair, self.lane), entries, 8))
        return unit
