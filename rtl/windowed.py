"""A multiply-accumulate unit of one format: exact or through a window, of one lane or of many.

Baselines for ratios of area. The stages are the engine's; the accumulator is a running window
(:mod:`opennpe.golden.running_window`), or just as wide as is exact for the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from opennpe.golden import formats
from opennpe.golden.running_window import RunningWindow
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports
from opennpe.rtl.codec import Round
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import SEGMENT, SLOTS, grid_exponent
from opennpe.rtl.normalise import Normalise
from opennpe.rtl.pipeline import (
    accept,
    from_normalise,
    held,
    move_together,
    normalised,
    offer,
    to_round,
)
from opennpe.rtl.window_lane import (
    Shapes,
    accumulate,
    align_exact,
    align_window,
    decode,
    down,
    multiply,
)

__all__ = ["Unit", "bias_word", "units"]

WHOLE_PAIR = 5
"""Pair code of one lane that fills the normaliser."""


def units(spec: EngineSpec, bits: int, lanes: int | None = None) -> list[Unit]:
    """One unit a format of the spec; as many lanes as the engine has in it unless given."""
    return [Unit(spec, name, bits, lanes) for name in spec.mac.formats]


def bias_word(window: RunningWindow, biases: list[int]) -> int:
    """A bias a lane, in units of the grid, as the unit's port takes them.

    Each in its part of the accumulator's bits: the total below, the anchor above it.
    """
    shapes, word = Shapes(window), 0
    part = 128 // (16 // int(formats.get(window.name).bits))
    for lane, bias in enumerate(biases):
        total, anchor = window.preload(bias)
        packed = total & ((1 << window.width) - 1)
        if not window.exact:
            packed |= (anchor & ((1 << shapes.anchor.width) - 1)) << window.width
        word |= packed << (lane * part)
    return word


@dataclass(frozen=True)
class Stage:
    """What travels with the words of a stage: flags, and a struct a lane."""

    valid: Signal
    first: Signal
    last: Signal
    lanes: list[Any]


class Unit(wiring.Component):
    """The engine's ports; modes and ``out`` of a word are taken to be the unit's format.

    Latency and pace are the engine's for as many lanes. ``biases`` are of :func:`bias_word`; a
    window takes them a stage earlier than the engine, to know where it begins.

    Args:
        spec: of the engine whose ports these are.
        name: the format.
        bits: of the window.
        lanes: the word's unless given; others of the word are not looked at.

    Raises:
        SpecError: a spec without gates, or a window too narrow.
    """

    def __init__(self, spec: EngineSpec, name: str, bits: int, lanes: int | None = None) -> None:
        ports.check_spec(spec)
        self.spec, self.window = spec, RunningWindow(name, bits)
        self.shapes = Shapes(self.window)
        self.lanes = spec.lanes(name) if lanes is None else lanes
        self.module_name = f"unit_{name}_{self.window.width}_{self.lanes}"
        super().__init__(ports.engine_signature(spec))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        move, shapes, count = Signal(), self.shapes, self.lanes
        operands = data.StructLayout({"a": shapes.operand(), "b": shapes.operand()})
        d = self._stage(m, move, "d", self._words(m, move), operands)
        bits = int(formats.get(self.window.name).bits)
        word = self.words.payload
        for lane in range(count):
            sides = [
                decode(m, platform, shapes, f"decode_{side}{lane}", code.word_select(lane, bits))
                for side, code in (("a", word.a), ("b", word.b))
            ]
            self._hold(m, move & self.words.valid, d.lanes[lane], Cat(*sides))
        mul = self._stage(m, move, "m", d, shapes.product())
        for lane in range(count):
            found = multiply(shapes, d.lanes[lane].a, d.lanes[lane].b)
            self._hold(m, move & d.valid, mul.lanes[lane], found)
        al = self._align(m, move, mul)
        totals, anchors, nans, draining, lane_now = self._accumulate(m, move, al)
        n_valid, n_sum = self._normalise(
            m, platform, move, totals, anchors, nans, draining, lane_now
        )
        self._round(m, platform, move, n_valid, n_sum)
        taking = al if self.window.exact else mul
        move_together(m, self, move, taking.valid & taking.first, draining)
        return m

    def _words(self, m: Module, move: Signal) -> Stage:
        """The words that enter: a sum's last one only when the lanes before will have left."""
        word, taken = self.words.payload, Signal()
        m.d.comb += taken.eq(self.words.valid & self.words.ready)
        accept(m, self, (move, taken), self.lanes - 1, len(Const(max(self.lanes, 2) - 1)))
        return Stage(taken, word.first, word.last, [])

    def _stage(self, m: Module, move: Signal, name: str, before: Stage, lane: Any) -> Stage:
        """Registers of a stage; flags are handed on, lanes are for the caller to fill."""
        behind = Stage(
            Signal(name=f"{name}_valid"),
            held(f"{name}_first", 1),
            held(f"{name}_last", 1),
            [held(f"{name}_lane{i}", lane) for i in range(self.lanes)],
        )
        with m.If(move):
            m.d.sync += behind.valid.eq(before.valid)
        with m.If(move & before.valid):
            m.d.sync += [behind.first.eq(before.first), behind.last.eq(before.last)]
        return behind

    def _hold(self, m: Module, when: Value, register: Any, value: Value) -> None:
        with m.If(when):
            m.d.sync += Value.cast(register).eq(value)

    def _bias(self, lane: int) -> tuple[Value, Value]:
        """A lane's total of the bias, and the bits above it, where a window's anchor is."""
        bits = self.spec.lane_accumulator_bits(self.window.name)
        part = self.biases.payload.word_select(lane, bits)
        return part[: self.window.width], part[self.window.width :]

    def _align(self, m: Module, move: Signal, mul: Stage) -> Stage:
        shapes, window = self.shapes, self.window
        layout = {"addend": shapes.addend, "sign": 1, "nan": 1}
        if not window.exact:
            anchor = shapes.anchor
            layout |= {"anchor": anchor, "lowered": anchor.width, "bias": window.width}
        al = self._stage(m, move, "l", mul, data.StructLayout(layout))
        for lane, (p, kept) in enumerate(zip(mul.lanes, al.lanes, strict=True)):
            name = f"align{lane}"
            if window.exact:
                addend = align_exact(m, shapes, name, p)
            else:
                bias, begins = self._bias(lane)
                before = Signal(shapes.anchor, name=f"{name}_before")
                begins = begins[: shapes.anchor.width].as_signed()
                m.d.comb += before.eq(Mux(mul.first, begins, kept.anchor))
                addend, anchor, lowered = align_window(m, shapes, name, p, before)
                with m.If(move & mul.valid):
                    m.d.sync += [kept.anchor.eq(anchor), kept.lowered.eq(lowered)]
                with m.If(move & mul.valid & mul.first):
                    m.d.sync += kept.bias.eq(bias)
            with m.If(move & mul.valid):
                m.d.sync += [
                    # Inverted here: behind the register one sign would drive the whole addend.
                    kept.addend.eq(addend ^ p.sign.replicate(shapes.addend)),
                    kept.sign.eq(p.sign),
                    kept.nan.eq(p.nan),
                ]
        return al

    def _accumulate(
        self, m: Module, move: Signal, al: Stage
    ) -> tuple[list[Any], list[Any], list[Any], Signal, Signal]:
        window, count = self.window, range(self.lanes)
        totals = [held(f"a_total{i}", window.width) for i in count]
        anchors = [held(f"a_anchor{i}", self.shapes.anchor) for i in count]
        nans = [held(f"a_nan{i}", 1) for i in count]
        draining, now = Signal(name="a_draining"), Signal(2, name="a_lane")
        enters = move & al.valid
        # Gates that synthesis makes large: registers would drive all these bits themselves.
        first = al.first & al.valid
        for lane, kept in enumerate(al.lanes):
            start = self._bias(lane)[0] if window.exact else kept.bias
            base = Mux(first, start, totals[lane])
            if not window.exact:
                lowered = kept.lowered & al.valid.replicate(len(kept.lowered))
                base = down(m, f"total{lane}_down", base, lowered, base[-1])
                m.d.sync += anchors[lane].eq(Mux(enters, kept.anchor, anchors[lane]))
            with m.If(enters):
                m.d.sync += [
                    totals[lane].eq(accumulate(m, base, kept.addend, kept.sign)),
                    nans[lane].eq((nans[lane] & ~first) | kept.nan),
                ]
        with m.If(move):
            with m.If(al.valid & al.last):
                m.d.sync += [draining.eq(1), now.eq(0)]
            with m.Elif(now == self.lanes - 1):
                m.d.sync += draining.eq(0)
            with m.Else():
                m.d.sync += now.eq(now + 1)
        return totals, anchors, nans, draining, now

    def _normalise(
        self,
        m: Module,
        platform: Any,
        move: Signal,
        totals: list[Any],
        anchors: list[Any],
        nans: list[Any],
        draining: Signal,
        now: Signal,
    ) -> tuple[Signal, Any]:
        """Lane 0 from where it was summed, the others from where they wait."""
        window = self.window
        fields = {"total": window.width, "nan": 1}
        if not window.exact:
            fields["anchor"] = self.shapes.anchor
        layout = data.StructLayout(fields)
        waiting = [held(f"a_held{i}", layout) for i in range(1, self.lanes)]
        lanes = []
        for total, nan, anchor in zip(totals, nans, anchors, strict=True):
            parts = [total, nan] if window.exact else [total, nan, anchor]
            lanes.append(Cat(*parts))
        for register, lane in zip(waiting, lanes[1:], strict=True):
            self._hold(m, move & draining & (now == 0), register, lane)
        chosen = Signal(layout)
        there = [lanes[0], *(Value.cast(register) for register in waiting)]
        m.d.comb += Value.cast(chosen).eq(Array(there)[now] if self.lanes > 1 else there[0])
        # The normaliser takes whole segments in every slot: what a total lacks is zeros below it.
        bits = -(-window.width // (SLOTS * SEGMENT)) * SLOTS * SEGMENT
        block = Normalise(bits, self.spec.shift_bits + 1)
        block.module_name = f"normalise_{bits}_{block.scale_bits}"
        place(m, platform, "normalise", block)
        below = bits - window.width
        least = (window.grid if window.exact else 2 - window.room) - below
        unit: Any = least - grid_exponent(WHOLE_PAIR)
        if not window.exact:
            unit = chosen.anchor + unit
        m.d.comb += [
            block.total.eq(Cat(Const(0, below), chosen.total)),
            Value.cast(block.pair).eq(WHOLE_PAIR),
            block.fresh.eq(~0),
            block.nan.eq(chosen.nan),
            block.shift.eq(self.shifts.payload.as_signed() + unit),
        ]
        n_valid = Signal(name="n_valid")
        n_sum = held("n_sum", normalised(block.scale_bits, {"lane": 2}))
        with m.If(move):
            m.d.sync += n_valid.eq(draining)
        with m.If(move & draining):
            m.d.sync += [
                n_sum.lane.eq(now),
                *from_normalise(n_sum, block),
            ]
        return n_valid, n_sum

    def _round(self, m: Module, platform: Any, move: Signal, n_valid: Signal, n_sum: Any) -> None:
        block = Round(len(n_sum.scale))
        block.module_name = f"round_{len(n_sum.scale)}"
        place(m, platform, "round", block)
        m.d.comb += [
            *to_round(block, n_sum),
            block.out.eq(self.spec.mac.formats.index(self.window.name)),
            block.underflow_zero.eq(self.underflow_zero),
        ]
        r_valid = offer(m, self, move, n_valid)
        bits = int(formats.get(self.window.name).bits)
        r_code, r_lane = held("r_code", bits), held("r_lane", len(n_sum.lane))
        with m.If(move & n_valid):
            m.d.sync += [r_code.eq(block.code), r_lane.eq(n_sum.lane)]
        m.d.comb += [
            self.results.valid.eq(r_valid),
            self.results.payload.code.eq(r_code),
            self.results.payload.lane.eq(r_lane),
            self.results.payload.last.eq(r_lane == self.lanes - 1),
        ]
