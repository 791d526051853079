"""The streaming softmax: a row twice past its lanes, a beat a cycle, one division a row.

A register follows every step; the prefix of a signal names the step whose result it is: ``d_``
decode, ``s_`` scale, ``l_`` logit, ``x_`` exp2, ``g_`` maximum, ``a_`` align, ``t_`` accumulate
(the total), ``w_`` window, ``v_`` leading and reciprocal, ``n_`` normalise, ``r_`` round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import formats
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.golden.softmax_spec import MULTIPLIER_EXPONENT_BITS, OUT_SHIFT_BITS
from opennpe.rtl.codec import Round
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import FRACTION_BITS, WORD_BITS
from opennpe.rtl.row_streams import element_layout, result_layout
from opennpe.rtl.softmax_lane import Decode, Exp2, Fixed, Logit, Normalise, Scale
from opennpe.rtl.softmax_sum import (
    Accumulate,
    Align,
    Leading,
    Maximum,
    Reciprocal,
    Window,
    quotient_bits,
    tile_bits,
    window_bits,
)

__all__ = ["Softmax", "softmax_signature"]


def softmax_signature(spec: SoftmaxSpec) -> wiring.Signature:
    """The unit's ports; see :class:`Softmax`."""
    members: dict[str, Any] = {
        "elements": In(stream.Signature(element_layout(spec.lanes))),
        "results": Out(stream.Signature(result_layout(spec.lanes))),
        "format": In(2),
        "out": In(2),
        "out_shift": In(signed(OUT_SHIFT_BITS)),
        "underflow_zero": In(1),
        "multiplier": In(spec.multiplier_bits),
        "multiplier_exponent": In(signed(MULTIPLIER_EXPONENT_BITS)),
        "deferred": In(1),
        "updated": Out(1),
        "total": Out(spec.total_bits),
        "exponent": Out(signed(spec.integer_bits)),
        "divisor": Out(spec.reciprocal_bits + 1),
        "places": Out(range(spec.carry_bits + 1)),
    }
    return wiring.Signature({**members, "fixed": In(1)} if spec.fixed else members)


@dataclass(frozen=True)
class Beat:
    """Registers of a stage that say what is in it."""

    valid: Signal
    first: Signal
    second: Signal
    last: Signal
    keep: Signal
    nan: Signal

    @classmethod
    def of(cls, stage: str, lanes: int) -> Beat:
        """New registers, named by the stage; ``nan``: some kept element is NaR."""
        first, second, last = (_held(f"{stage}_{name}", 1) for name in ("first", "second", "last"))
        return cls(
            Signal(name=f"{stage}_valid"),
            first,
            second,
            last,
            _held(f"{stage}_keep", lanes),
            _held(f"{stage}_nan", 1),
        )


class Softmax(wiring.Component):
    """``2**t / sum of 2**t`` in every lane: bits as :func:`opennpe.golden.softmax.softmax`.

    A row comes twice, in the same order: pass 1 is summed, pass 2 gives a result beat a beat.
    Beats are taken one a cycle, but for ``spec.turnaround`` cycles from the last beat of pass 1 to
    the first of pass 2; the next row may begin in the cycle after. Latency: ``spec.latency``
    cycles from a beat of pass 2 accepted to its results offered. Both streams may pause at any
    cycle. Rows have at most ``spec.max_length`` elements: longer ones are refused before they get
    here. An fp4 or fixed result of NaR is undefined: golden refuses it.

    Attributes:
        elements: In, stream of :func:`element_layout`; codes in the low bits of 16.
        results: Out, stream of :func:`result_layout`.
        format, out: In, indices of the engine's formats. out_shift: In, signed.
        underflow_zero: In. multiplier, multiplier_exponent: In, of golden's ``multiplier``.
        deferred: In: results are 2**t over the power of two of the largest, not divided.
        fixed: In, where the spec has it: results are U0.8 (``out`` posit8) or U0.16 (posit16).
        updated: Out: ``total`` and ``exponent`` hold the sum with one more tile since this cycle.
        total, exponent: Out, golden's ``trace``.
        divisor, places: Out, of the row whose pass 2 may come: golden's ``Deferred.mantissa``, and
            its exponent plus R.

    All settings are static while rows are under way.
    """

    module_name = "softmax"

    def __init__(self, spec: SoftmaxSpec) -> None:
        self.spec = spec
        reach = 2 * -spec.lowest + spec.carry_bits + 2 + (1 << OUT_SHIFT_BITS - 1)
        self.scale_bits = reach.bit_length() + 1
        super().__init__(softmax_signature(spec))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.move, self.taken = Signal(name="move"), Signal(name="taken")
        # The pipeline moves as one: it stands still while a result waits to be taken.
        m.d.comb += [
            self.move.eq(~self.results.valid | self.results.ready),
            self.taken.eq(self.elements.valid & self.elements.ready),
        ]
        fresh = self._pace(m)
        d, significands, scales = self._decode(m, platform, fresh)
        s, products, amounts, saturates = self._scale(m, platform, d, significands, scales)
        lo, logits = self._logit(m, platform, s, products, amounts, saturates)
        x, mantissas, exponents = self._exp2(m, platform, lo, logits)
        a, tile, drop, largest = self._align(m, platform, x, mantissas, exponents)
        total_last, nan = self._accumulate(m, platform, a, tile, drop, largest)
        inverse, exponent = self._reciprocal(m, platform, total_last)
        n, results, scale = self._normalise(m, x, mantissas, exponents, inverse, exponent, nan)
        self._round(m, platform, n, results, scale)
        return m

    def _pace(self, m: Module) -> Signal:
        """Nothing is accepted for ``turnaround`` cycles after pass 1; whether a row begins."""
        beat = self.elements.payload
        waiting = Signal(range(self.spec.turnaround))
        fresh = Signal(init=1)
        m.d.comb += self.elements.ready.eq(self.move & ~waiting.any())
        with m.If(self.taken):
            m.d.sync += fresh.eq(beat.last)
        with m.If(self.taken & beat.last & ~beat.second):
            m.d.sync += waiting.eq(self.spec.turnaround - 1)
        with m.Elif(self.move & waiting.any()):
            m.d.sync += waiting.eq(waiting - 1)
        return fresh

    def _pass(self, m: Module, ahead: Beat, stage: str) -> Beat:
        """What a stage hands on unchanged."""
        behind = Beat.of(stage, self.spec.lanes)
        with m.If(self.move):
            m.d.sync += [
                behind.valid.eq(ahead.valid),
                behind.first.eq(ahead.first),
                behind.second.eq(ahead.second),
                behind.last.eq(ahead.last),
                behind.keep.eq(ahead.keep),
                behind.nan.eq(ahead.nan),
            ]
        return behind

    def _lanes(self, name: str, shape: Any) -> list[Signal]:
        return [_held(f"{name}{lane}", shape) for lane in range(self.spec.lanes)]

    def _decode(
        self, m: Module, platform: Any, fresh: Signal
    ) -> tuple[Beat, list[Signal], list[Signal]]:
        beat = self.elements.payload
        d = Beat.of("d", self.spec.lanes)
        blocks = [Decode() for _ in range(self.spec.lanes)]
        significands = self._lanes("d_significand", blocks[0].significand.shape())
        scales = self._lanes("d_scale", blocks[0].scale.shape())
        for lane, block in enumerate(blocks):
            place(m, platform, f"decode{lane}", block)
            m.d.comb += [
                block.code.eq(beat.codes.word_select(lane, WORD_BITS)),
                block.format.eq(self.format),
            ]
            with m.If(self.taken):
                m.d.sync += [
                    significands[lane].eq(block.significand),
                    scales[lane].eq(block.scale),
                ]
        with m.If(self.move):
            m.d.sync += d.valid.eq(self.taken)
        with m.If(self.taken):
            m.d.sync += [
                d.first.eq(fresh),
                d.second.eq(beat.second),
                d.last.eq(beat.last),
                d.keep.eq(beat.keep),
                d.nan.eq((Cat(*(block.nan for block in blocks)) & beat.keep).any()),
            ]
        return d, significands, scales

    def _scale(
        self, m: Module, platform: Any, d: Beat, significands: list[Signal], scales: list[Signal]
    ) -> tuple[Beat, list[Signal], list[Signal], list[Signal]]:
        blocks = [Scale(self.spec) for _ in range(self.spec.lanes)]
        products = self._lanes("s_product", blocks[0].product.shape())
        amounts = self._lanes("s_amount", blocks[0].amount.shape())
        saturates = self._lanes("s_saturates", 1)
        for lane, block in enumerate(blocks):
            place(m, platform, f"scale{lane}", block)
            m.d.comb += [
                block.significand.eq(significands[lane]),
                block.scale.eq(scales[lane]),
                block.mantissa.eq(self.multiplier),
                block.exponent.eq(self.multiplier_exponent),
            ]
            with m.If(self.move & d.valid):
                m.d.sync += [
                    products[lane].eq(block.product),
                    amounts[lane].eq(block.amount),
                    saturates[lane].eq(block.saturates),
                ]
        return self._pass(m, d, "s"), products, amounts, saturates

    def _logit(
        self,
        m: Module,
        platform: Any,
        s: Beat,
        products: list[Signal],
        amounts: list[Signal],
        saturates: list[Signal],
    ) -> tuple[Beat, list[Signal]]:
        logits = self._lanes("l_t", signed(self.spec.logit_bits))
        for lane in range(self.spec.lanes):
            block = Logit(self.spec)
            place(m, platform, f"logit{lane}", block)
            m.d.comb += [
                block.product.eq(products[lane]),
                block.amount.eq(amounts[lane]),
                block.saturates.eq(saturates[lane]),
            ]
            with m.If(self.move & s.valid):
                m.d.sync += logits[lane].eq(block.t)
        return self._pass(m, s, "l"), logits

    def _exp2(
        self, m: Module, platform: Any, lo: Beat, logits: list[Signal]
    ) -> tuple[Beat, list[Signal], list[Signal]]:
        mantissas = self._lanes("x_mantissa", self.spec.mantissa_bits + 1)
        exponents = self._lanes("x_exponent", signed(self.spec.integer_bits))
        for lane in range(self.spec.lanes):
            block = Exp2(self.spec)
            place(m, platform, f"exp2_{lane}", block)
            m.d.comb += [block.t.eq(logits[lane]), block.keep.eq(lo.keep[lane])]
            with m.If(self.move & lo.valid):
                m.d.sync += [
                    mantissas[lane].eq(block.mantissa),
                    exponents[lane].eq(block.exponent),
                ]
        return self._pass(m, lo, "x"), mantissas, exponents

    def _align(
        self, m: Module, platform: Any, x: Beat, mantissas: list[Signal], exponents: list[Signal]
    ) -> tuple[Beat, Signal, Signal, Signal]:
        """Two stages of pass 1: the new largest exponent; mantissas shifted and added."""
        spec = self.spec
        maximum, align = Maximum(spec), Align(spec)
        place(m, platform, "maximum", maximum)
        place(m, platform, "align", align)
        g, largest = self._pass(m, x, "g"), _held("g_largest", signed(spec.integer_bits))
        amounts = _held("g_amounts", len(maximum.amounts))
        drop = [_held(f"{stage}_drop", spec.integer_bits) for stage in "ga"]
        held = _held("g_mantissas", len(align.mantissas))
        m.d.comb += [
            maximum.exponents.eq(Cat(*exponents)),
            maximum.largest.eq(Mux(x.first, spec.lowest, largest)),
            align.mantissas.eq(held),
            align.amounts.eq(amounts),
        ]
        with m.If(self.move & x.valid & ~x.second):
            m.d.sync += [
                largest.eq(maximum.result),
                amounts.eq(maximum.amounts),
                drop[0].eq(maximum.drop),
                held.eq(Cat(*mantissas)),
            ]
        a, tile = self._pass(m, g, "a"), _held("a_tile", tile_bits(spec))
        a_largest = _held("a_largest", signed(spec.integer_bits))
        with m.If(self.move & g.valid & ~g.second):
            m.d.sync += [tile.eq(align.tile), drop[1].eq(drop[0]), a_largest.eq(largest)]
        return a, tile, drop[1], a_largest

    def _accumulate(
        self, m: Module, platform: Any, a: Beat, tile: Signal, drop: Signal, largest: Signal
    ) -> tuple[Signal, Signal]:
        """Whether the sum is complete since this cycle, and whether its row holds a NaR."""
        spec = self.spec
        block = Accumulate(spec)
        place(m, platform, "accumulate", block)
        total, nan = _held("t_total", spec.total_bits), _held("t_nan", 1)
        exponent = _held("t_exponent", signed(spec.integer_bits))
        done, updated = Signal(name="t_done"), Signal(name="t_updated")
        adds = Signal()
        m.d.comb += [
            block.total.eq(total),
            block.first.eq(a.first),
            block.drop.eq(drop),
            block.tile.eq(tile),
            adds.eq(self.move & a.valid & ~a.second),
            self.total.eq(total),
            self.exponent.eq(exponent),
            self.updated.eq(updated),
        ]
        m.d.sync += updated.eq(adds)
        with m.If(self.move):
            m.d.sync += done.eq(a.valid & ~a.second & a.last)
        with m.If(adds):
            m.d.sync += [
                total.eq(block.result),
                exponent.eq(largest),
                nan.eq(a.nan | (nan & ~a.first)),
            ]
        return done, nan

    def _reciprocal(self, m: Module, platform: Any, done: Signal) -> tuple[Signal, Signal]:
        """One over the sum: rounded reciprocal, and the exponent that goes with it."""
        spec = self.spec
        window, leading, divide = Window(spec), Leading(spec), Reciprocal(spec)
        for name, block in (("window", window), ("leading", leading), ("reciprocal", divide)):
            place(m, platform, name, block)
        ahead = Signal(name="w_done")
        m.d.comb += [window.total.eq(self.total), window.largest.eq(self.exponent)]
        if spec.window_cycles:
            w_window = _held("w_window", window_bits(spec))
            with m.If(self.move):
                m.d.sync += [ahead.eq(done), w_window.eq(window.window)]
            m.d.comb += leading.window.eq(w_window)
        else:
            m.d.comb += [ahead.eq(done), leading.window.eq(window.window)]
        divisor, places = _held("v_divisor", len(self.divisor)), _held("v_places", len(self.places))
        remainder = _held("v_remainder", len(divide.remainder))
        quotient = _held("v_quotient", quotient_bits(spec))
        inverse = _held("v_inverse", spec.reciprocal_bits + 2)
        exponent = _held("v_exponent", signed(spec.sum_exponent_bits))
        m.d.comb += [
            divide.divisor.eq(divisor),
            divide.remainder.eq(remainder),
            divide.quotient.eq(quotient),
            self.divisor.eq(divisor),
            self.places.eq(places),
        ]
        with m.If(self.move):
            m.d.sync += [
                remainder.eq(divide.remainder_out),
                quotient.eq(divide.quotient_out),
            ]
            with m.If(ahead):
                m.d.sync += [
                    divisor.eq(leading.divisor),
                    places.eq(leading.places),
                    remainder.eq(1 << spec.reciprocal_bits),
                ]
        self._finish_reciprocal(m, ahead, divide.rounded, inverse, exponent)
        return inverse, exponent

    def _finish_reciprocal(
        self, m: Module, start: Signal, rounded: Value, inverse: Signal, exponent: Signal
    ) -> None:
        """Take the quotient when all its bits are there."""
        spec = self.spec
        steps = Signal(spec.reciprocal_cycles + 1, name="v_steps")
        with m.If(self.move):
            m.d.sync += steps.eq(Cat(start, steps))
        # Undivided results keep the exponent of the largest: mantissas lie one bit lower.
        with m.If(self.move & steps[-1]):
            m.d.sync += [
                inverse.eq(Mux(self.deferred, 1 << spec.reciprocal_bits, rounded)),
                exponent.eq(self.exponent + Mux(self.deferred, -1, self.places)),
            ]

    def _normalise(
        self,
        m: Module,
        x: Beat,
        mantissas: list[Signal],
        exponents: list[Signal],
        inverse: Signal,
        exponent: Signal,
        nan: Signal,
    ) -> tuple[Beat, list[Signal], list[Signal]]:
        n = Beat.of("n", self.spec.lanes)
        width = self.spec.mantissa_bits + self.spec.reciprocal_bits + 2
        products = self._lanes("n_product", width)
        scales = self._lanes("n_scale", signed(self.scale_bits))
        gives = x.valid & x.second
        with m.If(self.move):
            m.d.sync += n.valid.eq(gives)
        with m.If(self.move & gives):
            m.d.sync += [n.last.eq(x.last), n.keep.eq(x.keep), n.nan.eq(nan)]
            for lane in range(self.spec.lanes):
                m.d.sync += [
                    products[lane].eq(mantissas[lane] * inverse),
                    scales[lane].eq(exponents[lane] - exponent + self.out_shift),
                ]
        return n, products, scales

    def _round(
        self, m: Module, platform: Any, n: Beat, products: list[Signal], scales: list[Signal]
    ) -> None:
        codes = self._lanes("r_code", WORD_BITS)
        valid, last = Signal(name="r_valid"), _held("r_last", 1)
        for lane in range(self.spec.lanes):
            normalise = Normalise(self.spec, self.scale_bits)
            rounding = Round(self.scale_bits)
            place(m, platform, f"normalise{lane}", normalise)
            place(m, platform, f"round{lane}", rounding)
            significand = normalise.significand
            rest = len(significand) - 1 - FRACTION_BITS
            zero = ~n.keep[lane]
            m.d.comb += [
                normalise.product.eq(products[lane]),
                normalise.scale.eq(scales[lane]),
                rounding.negative.eq(0),
                rounding.zero.eq(zero),
                rounding.nan.eq(n.nan & n.keep[lane]),
                rounding.scale.eq(normalise.top),
                rounding.fraction.eq(significand[rest:-1]),
                rounding.sticky.eq(normalise.sticky | significand[:rest].any()),
                rounding.out.eq(self.out),
                rounding.underflow_zero.eq(self.underflow_zero),
            ]
            code: Value = rounding.code
            if self.spec.fixed:
                fixed = Fixed(self.scale_bits)
                place(m, platform, f"fixed{lane}", fixed)
                m.d.comb += [
                    fixed.top.eq(normalise.top),
                    fixed.significand.eq(significand),
                    fixed.sticky.eq(normalise.sticky),
                    fixed.zero.eq(zero),
                    fixed.half.eq(self.out == formats.ENGINE_FORMATS.index("posit8")),
                ]
                code = Mux(self.fixed, fixed.code, code)
            with m.If(self.move & n.valid):
                m.d.sync += codes[lane].eq(code)
        with m.If(self.move):
            m.d.sync += [valid.eq(n.valid), last.eq(n.last)]
        m.d.comb += [
            self.results.valid.eq(valid),
            self.results.payload.codes.eq(Cat(*codes)),
            self.results.payload.last.eq(last),
        ]


def _held(name: str, shape: Any) -> Signal:
    """A data register: no reset, because nothing reads it before a valid flag says so."""
    return Signal(shape, name=name, reset_less=True)
