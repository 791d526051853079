"""The SIMD multiply-accumulate engine: streams of operand words in, one code a lane out.

A register follows every step; the prefix of a signal names the step whose result it is:
``d_`` decode, ``m_`` multiply, ``l_`` align, ``a_`` accumulate, ``n_`` normalise, ``r_`` round.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports
from opennpe.rtl.codec import Decode, Round
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import FRACTION_BITS, SLOTS, Pair, Tag, pair_of
from opennpe.rtl.mac import Accumulate, Align, Multiply, Normalise, Operand, Product

__all__ = ["Engine"]


class Engine(wiring.Component):
    """``round((bias + sum of a*b) * 2**shift)`` in every lane, exactly, one rounding.

    Bits: those of ``golden.lanes.dot_words``; a NaR operand makes its lane's result NaR (an fp4
    result of NaR is undefined: golden refuses it).

    Latency: ``spec.latency`` cycles from a sum's last word accepted to its first result offered.
    Throughput: a word pair a cycle; a sum of K words occupies ``max(K, lanes)`` cycles, because
    the lanes share one round unit and leave one a cycle, lane 0 first. Sums follow each other
    without a gap, in any mix of modes. Both streams may pause at any cycle.

    Attributes:
        words: In, ``ports.word_layout``: operands and what starts and ends a sum.
        results: Out, ``ports.result_layout``: codes, a lane each.
        underflow_zero: In, static: 1 for the rule "zero", 0 for "minpos".

    Raises:
        SpecError: a spec that these gates do not implement.
    """

    def __init__(self, spec: EngineSpec) -> None:
        ports.check_spec(spec)
        self.spec = spec
        super().__init__(ports.engine_signature(spec))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._platform = platform
        word = self.words.payload
        pair = Signal(Pair)
        move, taken = Signal(), Signal()
        # The pipeline moves as one: it stands still while a result waits to be taken.
        m.d.comb += [
            Value.cast(pair).eq(pair_of(word.mode_a, word.mode_b)),
            move.eq(~self.results.valid | self.results.ready),
            taken.eq(self.words.valid & self.words.ready),
        ]
        self._pace(m, move, taken, pair)
        decoded = self._decode(m, move, taken, pair)
        multiplied = self._multiply(m, move, *decoded)
        aligned = self._align(m, move, *multiplied)
        summed = self._accumulate(m, move, *aligned)
        shift = self._shifts(m, move, taken)
        normalised = self._normalise(m, move, *summed, shift)
        self._round(m, move, *normalised)
        return m

    def _pace(self, m: Module, move: Signal, taken: Signal, pair: Any) -> None:
        """Accept a sum's last word only when the lanes of the sum before will have left."""
        last = self.words.payload.last
        lanes_ahead = _control("lanes_ahead", 2)
        m.d.comb += self.words.ready.eq(move & ~(last & lanes_ahead.any()))
        with m.If(move):
            with m.If(taken & last):
                m.d.sync += lanes_ahead.eq(pair.last_lane)
            with m.Elif(lanes_ahead.any()):
                m.d.sync += lanes_ahead.eq(lanes_ahead - 1)

    def _decode(self, m: Module, move: Signal, taken: Signal, pair: Any) -> tuple[Any, ...]:
        word = self.words.payload
        blocks = []
        for name, code, mode in (("a", word.a, word.mode_a), ("b", word.b, word.mode_b)):
            block = Decode()
            place(m, self._platform, f"decode_{name}", block)
            m.d.comb += [
                block.word.eq(code),
                Value.cast(block.pair).eq(pair),
                block.posit4.eq(mode[0]),
            ]
            blocks.append(block)
        d_valid, d_tag = _control("d_valid", 1), _held("d_tag", Tag)
        d_a, d_b = _held("d_a", Operand), _held("d_b", Operand)
        d_signs, d_nan = _held("d_signs", SLOTS), _held("d_nan", SLOTS)
        d_bias = _held("d_bias", self.spec.accumulator_bits)
        with m.If(move):
            m.d.sync += d_valid.eq(taken)
        with m.If(taken):
            for register, block in ((d_a, blocks[0]), (d_b, blocks[1])):
                m.d.sync += [
                    register.significand.eq(block.significand),
                    register.scale.eq(block.scale),
                    register.scale_half.eq(block.scale_half),
                    register.shifts.eq(block.shifts),
                ]
            m.d.sync += [
                Value.cast(d_tag.pair).eq(pair),
                d_tag.first.eq(word.first),
                d_tag.last.eq(word.last),
                d_tag.out.eq(word.out),
                d_signs.eq(blocks[0].signs ^ blocks[1].signs),
                d_nan.eq(blocks[0].nan | blocks[1].nan),
            ]
            with m.If(word.first):
                m.d.sync += d_bias.eq(word.bias)
        return d_valid, d_tag, d_bias, d_signs, d_nan, d_a, d_b

    def _multiply(
        self,
        m: Module,
        move: Signal,
        d_valid: Signal,
        d_tag: Any,
        d_bias: Signal,
        d_signs: Signal,
        d_nan: Signal,
        d_a: Any,
        d_b: Any,
    ) -> tuple[Any, ...]:
        multiply = Multiply()
        place(m, self._platform, "multiply", multiply)
        m.d.comb += [multiply.a.eq(d_a), multiply.b.eq(d_b), multiply.pair.eq(d_tag.pair)]
        m_valid, m_tag, m_bias, m_signs, m_nan = self._pass(
            m, "m", move, d_valid, d_tag, d_bias, d_signs, d_nan
        )
        m_product = _held("m_product", Product)
        with m.If(move & d_valid):
            m.d.sync += m_product.eq(multiply.product)
        return m_valid, m_tag, m_bias, m_signs, m_nan, m_product

    def _align(
        self,
        m: Module,
        move: Signal,
        m_valid: Signal,
        m_tag: Any,
        m_bias: Signal,
        m_signs: Signal,
        m_nan: Signal,
        m_product: Any,
    ) -> tuple[Any, ...]:
        align = Align(self.spec.accumulator_bits)
        place(m, self._platform, "align", align)
        m.d.comb += [
            align.product.eq(m_product),
            align.pair.eq(m_tag.pair),
            align.signs.eq(m_signs),
        ]
        l_valid, l_tag, l_bias, l_signs, l_nan = self._pass(
            m, "l", move, m_valid, m_tag, m_bias, m_signs, m_nan
        )
        l_addend = _held("l_addend", self.spec.accumulator_bits)
        with m.If(move & m_valid):
            m.d.sync += l_addend.eq(align.addend)
        return l_valid, l_tag, l_bias, l_signs, l_nan, l_addend

    def _pass(
        self,
        m: Module,
        stage: str,
        move: Signal,
        valid: Signal,
        tag: Any,
        bias: Signal,
        signs: Signal,
        nan: Signal,
    ) -> tuple[Any, ...]:
        """What a stage hands on unchanged."""
        next_valid, next_tag = _control(f"{stage}_valid", 1), _held(f"{stage}_tag", Tag)
        next_bias = _held(f"{stage}_bias", len(bias))
        next_signs, next_nan = _held(f"{stage}_signs", SLOTS), _held(f"{stage}_nan", SLOTS)
        with m.If(move):
            m.d.sync += next_valid.eq(valid)
        with m.If(move & valid):
            m.d.sync += [next_tag.eq(tag), next_signs.eq(signs), next_nan.eq(nan)]
        with m.If(move & valid & tag.first):
            m.d.sync += next_bias.eq(bias)
        return next_valid, next_tag, next_bias, next_signs, next_nan

    def _accumulate(
        self,
        m: Module,
        move: Signal,
        l_valid: Signal,
        l_tag: Any,
        l_bias: Signal,
        l_signs: Signal,
        l_nan: Signal,
        l_addend: Signal,
    ) -> tuple[Any, ...]:
        """Sums, and the lanes of a finished one as they leave: ``a_draining`` and ``a_lane``."""
        accumulate = Accumulate(self.spec.accumulator_bits)
        place(m, self._platform, "accumulate", accumulate)
        a_total, a_nan = _held("a_total", self.spec.accumulator_bits), _held("a_nan", SLOTS)
        a_pair, a_out = _held("a_pair", Pair), _held("a_out", 2)
        a_draining, a_lane = _control("a_draining", 1), _control("a_lane", 2)
        m.d.comb += [
            accumulate.total.eq(a_total),
            accumulate.bias.eq(l_bias),
            accumulate.first.eq(l_tag.first),
            accumulate.addend.eq(l_addend),
            accumulate.signs.eq(l_signs),
            accumulate.pair.eq(l_tag.pair),
            accumulate.nan.eq(a_nan),
            accumulate.nan_in.eq(l_nan),
        ]
        done = Signal()
        m.d.comb += done.eq(l_valid & l_tag.last)
        with m.If(move & l_valid):
            m.d.sync += [a_total.eq(accumulate.result), a_nan.eq(accumulate.nan_out)]
        with m.If(move & done):
            m.d.sync += [a_pair.eq(l_tag.pair), a_out.eq(l_tag.out)]
        with m.If(move):
            with m.If(done):
                m.d.sync += [a_draining.eq(1), a_lane.eq(0)]
            with m.Elif(a_lane == a_pair.last_lane):
                m.d.sync += a_draining.eq(0)
            with m.Else():
                m.d.sync += a_lane.eq(a_lane + 1)
        return a_draining, a_lane, a_pair, a_out, a_total, a_nan

    def _shifts(self, m: Module, move: Signal, taken: Signal) -> Signal:
        """The lanes' shifts, queued so that each comes out with its lane.

        A sum's lanes reach the normaliser one a cycle from a known cycle on, so one shift
        register of single shifts serves all modes.
        """
        bits = self.spec.shift_bits
        word = self.words.payload
        lead = self.spec.stages.index("normalise")
        queue = [_held(f"shift_{i}", bits) for i in range(lead - 1 + SLOTS)]
        enter = Signal()
        m.d.comb += enter.eq(taken & word.last)
        with m.If(move):
            for i, register in enumerate(queue):
                lane = i - (lead - 1)
                behind = queue[i + 1] if i + 1 < len(queue) else None
                source = word.shift.word_select(lane, bits) if lane >= 0 else behind
                if lane >= 0 and behind is not None:
                    source = Mux(enter, source, behind)
                m.d.sync += register.eq(source)
        return queue[0]

    def _normalise(
        self,
        m: Module,
        move: Signal,
        a_draining: Signal,
        a_lane: Signal,
        a_pair: Any,
        a_out: Signal,
        a_total: Signal,
        a_nan: Signal,
        shift: Signal,
    ) -> tuple[Any, ...]:
        bits = self.spec.accumulator_bits
        normalise = Normalise(bits, self.spec.shift_bits)
        place(m, self._platform, "normalise", normalise)
        slot = bits // SLOTS
        a_held = _held("a_held", bits - slot)
        a_nan_held = _held("a_nan_held", SLOTS - 1)
        m.d.comb += [
            normalise.total.eq(a_total),
            normalise.held.eq(a_held),
            normalise.nan.eq(a_nan[0]),
            normalise.nan_held.eq(a_nan_held),
            normalise.lane.eq(a_lane),
            normalise.pair.eq(a_pair),
            normalise.shift.eq(shift),
        ]
        # Lanes that wait for their turn step aside, because the next sum comes in behind.
        with m.If(move & a_draining & (a_lane == 0) & ~a_pair.whole):
            m.d.sync += [a_held.eq(a_total[slot:]), a_nan_held.eq(a_nan[1:])]
        n_valid, n_lane, n_last = _control("n_valid", 1), _held("n_lane", 2), _held("n_last", 1)
        n_out = _held("n_out", 2)
        n_sum = _held(
            "n_sum",
            data.StructLayout(
                {
                    "negative": 1,
                    "zero": 1,
                    "nan": 1,
                    "scale": normalise.scale_bits,
                    "fraction": FRACTION_BITS,
                    "sticky": 1,
                }
            ),
        )
        with m.If(move):
            m.d.sync += n_valid.eq(a_draining)
        with m.If(move & a_draining):
            m.d.sync += [
                n_lane.eq(a_lane),
                n_last.eq(a_lane == a_pair.last_lane),
                n_out.eq(a_out),
                n_sum.negative.eq(normalise.negative),
                n_sum.zero.eq(normalise.zero),
                n_sum.nan.eq(normalise.nan_out),
                n_sum.scale.eq(normalise.scale),
                n_sum.fraction.eq(normalise.fraction),
                n_sum.sticky.eq(normalise.sticky),
            ]
        return n_valid, n_lane, n_last, n_out, n_sum

    def _round(
        self,
        m: Module,
        move: Signal,
        n_valid: Signal,
        n_lane: Signal,
        n_last: Signal,
        n_out: Signal,
        n_sum: Any,
    ) -> None:
        block = Round(len(n_sum.scale))
        place(m, self._platform, "round", block)
        m.d.comb += [
            block.negative.eq(n_sum.negative),
            block.zero.eq(n_sum.zero),
            block.nan.eq(n_sum.nan),
            block.scale.eq(n_sum.scale),
            block.fraction.eq(n_sum.fraction),
            block.sticky.eq(n_sum.sticky),
            block.out.eq(n_out),
            block.underflow_zero.eq(self.underflow_zero),
        ]
        r_valid = _control("r_valid", 1)
        r_result = _held("r_result", ports.result_layout(self.spec))
        with m.If(move):
            m.d.sync += r_valid.eq(n_valid)
        with m.If(move & n_valid):
            m.d.sync += [
                r_result.code.eq(block.code),
                r_result.lane.eq(n_lane),
                r_result.last.eq(n_last),
            ]
        m.d.comb += [self.results.valid.eq(r_valid), self.results.payload.eq(r_result)]


def _control(name: str, width: int) -> Signal:
    """A register that a reset clears."""
    return Signal(width, name=name)


def _held(name: str, shape: Any) -> Any:
    """A data register: no reset, because nothing reads it before a valid flag says so."""
    return Signal(shape, name=name, reset_less=True)
