"""The SIMD multiply-accumulate engine: streams of operand words in, one code a lane out.

A register follows every step; the prefix of a signal names the step whose result it is:
``d_`` decode, ``m_`` multiply, ``l_`` align, ``a_`` accumulate, ``n_`` normalise, ``r_`` round;
on FPGAs also ``o_`` operands, before all, and ``lead_`` lead, before normalise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports
from opennpe.rtl.codec import Decode, Round
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import PAIRS, SLOTS, WHOLE, Pair, Tag, pair_of
from opennpe.rtl.mac import Accumulate, Align, Multiply, Operand, Product, addend_bits
from opennpe.rtl.normalise import Normalise
from opennpe.rtl.pipeline import (
    accept,
    control,
    from_normalise,
    held,
    move_together,
    normalised,
    offer,
    to_round,
)
from opennpe.rtl.shared_operand import Flags

__all__ = ["Engine"]


@dataclass(frozen=True)
class Words:
    """Registers of a stage that word pairs pass through, beside what the stage computes."""

    valid: Signal
    tag: Any
    signs: Signal
    nan: Signal

    @classmethod
    def of(cls, stage: str, begin: dict[str, Any]) -> Words:
        """New registers, named by the stage; of the tag, fields that begin with something."""
        return cls(
            control(f"{stage}_valid", 1),
            held(f"{stage}_tag", Tag, begin),
            held(f"{stage}_signs", SLOTS),
            held(f"{stage}_nan", SLOTS),
        )


@dataclass(frozen=True)
class Sums:
    """The accumulator, and the finished sum whose lanes leave: ``draining`` and ``lane``.

    ``fresh`` and ``waiting`` are what ``lane`` and ``pair`` say, as the normaliser asks for it.
    """

    total: Signal
    nan: Signal
    pair: Any
    out: Signal
    draining: Signal
    lane: Signal
    fresh: Signal
    waiting: Signal


class Engine(wiring.Component):
    """``round((bias + sum of a*b) * 2**shift)`` in every lane, exactly, one rounding.

    Bits: those of ``golden.lanes.dot_words``; a NaR operand makes its lane's result NaR (an fp4
    result of NaR is undefined: golden refuses it).

    Latency: ``spec.latency`` cycles from a sum's last word accepted to its first result offered.
    Throughput: a word pair a cycle; a sum of K words occupies ``max(K, lanes)`` cycles, because
    the lanes share one round unit and leave one a cycle, lane 0 first. Sums follow each other
    without a gap, in any mix of modes. Every stream may pause at any cycle.

    Attributes:
        words: In, ``ports.word_layout``: operands and what starts and ends a sum.
        biases: In, one a sum, taken as its first word enters the accumulator.
        shifts: In, one a lane, taken as the lane is normalised.
        results: Out, ``ports.result_layout``: codes, a lane each.
        underflow_zero: In, static: 1 for the rule "zero", 0 for "minpos".

    Args:
        spec: what it computes.
        only: a format of the spec's: its gates alone, whatever modes the words name. Synthesis then
            finds constants where modes would be (:mod:`opennpe.rtl.separate`).
        shared: operand b comes decoded, in ``shared_flags`` and ``shared_operand``, from a
            :class:`opennpe.rtl.shared_operand.SharedOperand`; that of the words is not looked at.
            For the fabric "fpga" only.

    Raises:
        SpecError: a spec that these gates do not implement.
    """

    module_name = "engine"

    def __init__(self, spec: EngineSpec, only: str | None = None, shared: bool = False) -> None:
        ports.check_spec(spec)
        self.spec = spec
        self.shared = shared
        self.on_fpga = spec.fabric == "fpga"
        self.modes: tuple[Value, Value, Value] | None = None
        self.begin: dict[str, Any] = {}
        self.begin_kind: tuple[int, int] = 0, 0
        if only is not None:
            self.module_name = f"engine_{only}"
            index = spec.mac.formats.index(only)
            self.modes = (Const(index, 2), Const(index, 2), Const(index, 2))
            # A register that begins with the constant that it always takes is none.
            code = next(code for code, pair in PAIRS.items() if pair == (only, only))
            self.begin = {"pair": {"count": code & 3, "wide": code >> 2}, "out": index}
            self.begin_kind = int(not code >> 2), int(PAIRS[code][0] == WHOLE)
        members = dict(ports.engine_signature(spec).members)
        if shared:
            members |= {"shared_flags": In(Flags), "shared_operand": In(Operand)}
        super().__init__(members)

    def _modes(self, word: Any) -> tuple[Value, Value, Value]:
        """Of both operands and of the result."""
        return self.modes or (word.mode_a, word.mode_b, word.out)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        move = Signal()
        taken = Signal()
        m.d.comb += taken.eq(self.words.valid & self.words.ready)
        bits = self.spec.accumulator_bits
        decode = (Decode(),) if self.shared else (Decode(), Decode())
        multiply, align = Multiply(self.on_fpga), Align(bits)
        accumulate = Accumulate(bits, self.on_fpga)
        normalise = Normalise(bits, self.spec.shift_bits, self.on_fpga)
        rounding = Round(normalise.scale_bits)
        for name, block in (
            *zip(("decode_a", "decode_b"), decode, strict=False),
            ("multiply", multiply),
            ("align", align),
            ("accumulate", accumulate),
            ("normalise", normalise),
            ("round", rounding),
        ):
            place(m, platform, name, block)
        word, pair = self.words.payload, Signal(Pair)
        m.d.comb += Value.cast(pair).eq(pair_of(*self._modes(word)[:2]))
        accept(m, self, (move, taken), pair.last_lane, 2)
        if self.on_fpga:
            word, taken = self._enter(m, move, taken)
            pair = Signal(Pair, name="o_pair")
            m.d.comb += Value.cast(pair).eq(pair_of(*self._modes(word)[:2]))
        d, d_a, d_b = self._decode(m, move, (taken, word), pair, decode)
        self._kinds(m, taken, pair, multiply)
        mul, m_product = self._multiply(m, move, d, d_a, d_b, multiply)
        al, l_addend = self._align(m, move, mul, m_product, align)
        a = self._accumulate(m, move, al, l_addend, accumulate)
        n_valid, n_sum = self._normalise(m, move, a, normalise)
        self._round(m, move, n_valid, n_sum, rounding)
        move_together(m, self, move, al.valid & al.tag.first, a.draining)
        return m

    def _enter(self, m: Module, move: Signal, taken: Signal) -> tuple[Any, Value]:
        """Word pairs in registers before they are decoded, and whether one goes on."""
        o_valid, o_word = control("o_valid", 1), held("o_word", self.words.payload.shape())
        with m.If(move):
            m.d.sync += o_valid.eq(taken)
        with m.If(taken):
            m.d.sync += o_word.eq(self.words.payload)
        return o_word, o_valid & move

    def _decode(
        self,
        m: Module,
        move: Signal,
        offered: tuple[Value, Any],
        pair: Any,
        blocks: tuple[Decode, ...],
    ) -> tuple[Words, Any, Any]:
        taken, word = offered
        mode_a, mode_b, out = self._modes(word)
        sides = ((word.a, mode_a), (word.b, mode_b))
        for block, (code, mode) in zip(blocks, sides, strict=False):
            m.d.comb += [
                block.word.eq(code),
                Value.cast(block.pair).eq(pair),
                block.posit4.eq(mode[0]),
            ]
        d = Words.of("d", self.begin)
        operands = [held(f"d_{side}", Operand) for side in "ab"[: len(blocks)]]
        other = self.shared_flags if self.shared else blocks[1]
        some = self.shared_flags.some if self.shared else word.b.any()
        d_tag = d.tag
        with m.If(move):
            m.d.sync += d.valid.eq(taken)
        # Words of zeros add nothing: what multiplies and aligns stands still; a flag goes along.
        nothing = Signal()
        m.d.comb += nothing.eq(~word.a.any() | ~some)
        with m.If(taken & ~nothing):
            for register, block in zip(operands, blocks, strict=True):
                m.d.sync += [register[name].eq(getattr(block, name)) for name, _ in Operand]
        with m.If(taken):
            m.d.sync += [
                Value.cast(d_tag.pair).eq(pair),
                d_tag.first.eq(word.first),
                d_tag.last.eq(word.last),
                d_tag.out.eq(out),
                d_tag.nothing.eq(nothing),
                d.signs.eq(Mux(nothing, 0, blocks[0].signs ^ other.signs)),
                d.nan.eq(blocks[0].nan | other.nan),
            ]
        d_a, d_b = (*operands, self.shared_operand) if self.shared else operands
        return d, d_a, d_b

    def _kinds(self, m: Module, taken: Signal, pair: Any, block: Multiply) -> None:
        """Registers beside the tag's: the multiplier's slowest paths begin here."""
        narrow, whole = self.begin_kind
        d_narrow, d_whole = held("d_narrow", 1, narrow), held("d_whole", 1, whole)
        with m.If(taken):
            m.d.sync += [d_narrow.eq(pair.narrow), d_whole.eq(pair.whole)]
        m.d.comb += [block.narrow.eq(d_narrow), block.whole.eq(d_whole)]

    def _pass(self, m: Module, move: Signal, words: Words, stage: str) -> Words:
        """What a stage hands on unchanged."""
        behind = Words.of(stage, self.begin)
        with m.If(move):
            m.d.sync += behind.valid.eq(words.valid)
        with m.If(move & words.valid):
            m.d.sync += [
                behind.tag.eq(words.tag),
                behind.signs.eq(words.signs),
                behind.nan.eq(words.nan),
            ]
        return behind

    def _multiply(
        self, m: Module, move: Signal, d: Words, d_a: Any, d_b: Any, block: Multiply
    ) -> tuple[Words, Any]:
        m.d.comb += [block.a.eq(d_a), block.b.eq(d_b)]
        m_product = held("m_product", Product)
        with m.If(move & d.valid & ~d.tag.nothing):
            m.d.sync += m_product.eq(block.product)
        return self._pass(m, move, d, "m"), m_product

    def _align(
        self, m: Module, move: Signal, mul: Words, m_product: Any, block: Align
    ) -> tuple[Words, Value]:
        m.d.comb += [
            block.product.eq(m_product),
            block.pair.eq(mul.tag.pair),
            block.signs.eq(mul.signs),
        ]
        behind = self._pass(m, move, mul, "l")
        # Above the largest product there is nothing but its sign, which is kept anyway.
        l_addend = held("l_addend", addend_bits())
        with m.If(move & mul.valid & ~mul.tag.nothing):
            m.d.sync += l_addend.eq(block.addend)
        return behind, l_addend

    def _accumulate(
        self, m: Module, move: Signal, al: Words, l_addend: Value, block: Accumulate
    ) -> Sums:
        a = Sums(
            total=held("a_total", self.spec.accumulator_bits),
            nan=held("a_nan", SLOTS),
            pair=held("a_pair", Pair, self.begin.get("pair")),
            out=held("a_out", 2, self.begin.get("out")),
            draining=control("a_draining", 1),
            lane=control("a_lane", 2),
            fresh=held("a_fresh", SLOTS - 1),
            waiting=held("a_waiting", SLOTS - 1),
        )
        enters, done = Signal(), Signal()
        # An FPGA's registers have enables anyway, and whether words enter is known late.
        counts = Const(1, 1) if self.on_fpga else enters
        fill = self.spec.accumulator_bits - len(l_addend)
        m.d.comb += [
            enters.eq(move & al.valid),
            done.eq(al.valid & al.tag.last),
            block.total.eq(a.total),
            block.bias.eq(self.biases.payload),
            block.first.eq(counts & al.tag.first),
            block.adds.eq(counts & ~al.tag.nothing),
            block.addend.eq(Cat(l_addend, al.signs[-1].replicate(fill))),
            block.signs.eq(al.signs),
            block.pair.eq(al.tag.pair),
            block.nan.eq(a.nan),
            block.nan_in.eq(al.nan),
        ]
        if self.on_fpga:
            with m.If(enters):
                m.d.sync += a.total.eq(block.result)
        else:
            # No enable behind the adder: a sum to which nothing is added stays what it is.
            m.d.sync += a.total.eq(block.result)
        with m.If(enters):
            m.d.sync += a.nan.eq(block.nan_out)
        with m.If(move & done):
            m.d.sync += [a.pair.eq(al.tag.pair), a.out.eq(al.tag.out)]
        with m.If(move):
            with m.If(done):
                m.d.sync += [a.draining.eq(1), a.lane.eq(0)]
            with m.Elif(a.lane == a.pair.last_lane):
                m.d.sync += a.draining.eq(0)
            with m.Else():
                m.d.sync += a.lane.eq(a.lane + 1)
            self._slots(m, done, al.tag.pair, a)
        return a

    def _slots(self, m: Module, done: Signal, pair: Any, a: Sums) -> None:
        """Where the next lane is, known a cycle before: the normaliser's slowest paths begin here.

        Lane 0 is in the accumulator; behind it the second of two has two slots, of four each one.
        """
        second = Cat(a.pair.narrow, a.pair.half, a.pair.half)
        with m.If(done):
            m.d.sync += [a.fresh.eq(Cat(1, ~pair.narrow, pair.whole)), a.waiting.eq(0)]
        with m.Else():
            m.d.sync += [
                a.fresh.eq(0),
                a.waiting.eq(Mux(a.fresh[0], second, a.waiting << 1)),
            ]

    def _normalise(self, m: Module, move: Signal, a: Sums, block: Normalise) -> tuple[Signal, Any]:
        """Also moves aside the lanes that wait, because the next sum comes in behind."""
        slot = self.spec.accumulator_bits // SLOTS
        a_held = held("a_held", self.spec.accumulator_bits - slot)
        a_nan_held = held("a_nan_held", SLOTS - 1)
        m.d.comb += [
            block.total.eq(a.total),
            block.held.eq(a_held),
            block.nan.eq(a.nan[0]),
            block.nan_held.eq(a_nan_held),
            block.lane.eq(a.lane),
            block.pair.eq(a.pair),
            # Gates that synthesis makes large: registers would drive all these bits themselves.
            block.fresh.eq(a.fresh & a.draining.replicate(len(a.fresh))),
            block.waiting.eq(a.waiting & a.draining.replicate(len(a.waiting))),
            block.shift.eq(self.shifts.payload),
        ]
        with m.If(move & a.draining & (a.lane == 0) & ~a.pair.whole):
            m.d.sync += [a_held.eq(a.total[slot:]), a_nan_held.eq(a.nan[1:])]
        begin = {"out": self.begin["out"]} if self.begin else None
        valid = a.draining
        leaves = Signal(Leaves)
        m.d.comb += [
            leaves.lane.eq(a.lane),
            leaves.last.eq(a.lane == a.pair.last_lane),
            leaves.out.eq(a.out),
        ]
        if self.on_fpga:
            m.d.comb += block.take.eq(move & valid)
            lead_valid, lead = control("lead_valid", 1), held("lead", Leaves, begin)
            with m.If(move):
                m.d.sync += lead_valid.eq(valid)
            with m.If(move & valid):
                m.d.sync += lead.eq(leaves)
            valid, leaves = lead_valid, lead
        n_valid = control("n_valid", 1)
        n_sum = held("n_sum", normalised(block.scale_bits, LEAVES), begin)
        with m.If(move):
            m.d.sync += n_valid.eq(valid)
        with m.If(move & valid):
            m.d.sync += [
                n_sum.lane.eq(leaves.lane),
                n_sum.last.eq(leaves.last),
                n_sum.out.eq(leaves.out),
                *from_normalise(n_sum, block),
            ]
        return n_valid, n_sum

    def _round(self, m: Module, move: Signal, n_valid: Signal, n_sum: Any, block: Round) -> None:
        m.d.comb += [
            *to_round(block, n_sum),
            block.out.eq(n_sum.out),
            block.underflow_zero.eq(self.underflow_zero),
        ]
        r_valid = offer(m, self, move, n_valid)
        r_result = held("r_result", ports.result_layout(self.spec))
        with m.If(move & n_valid):
            m.d.sync += [
                r_result.code.eq(block.code),
                r_result.lane.eq(n_sum.lane),
                r_result.last.eq(n_sum.last),
            ]
        m.d.comb += [self.results.valid.eq(r_valid), self.results.payload.eq(r_result)]


LEAVES = {"lane": 2, "last": 1, "out": 2}
Leaves = data.StructLayout(LEAVES)
"""What goes beside a lane's sum through normalise."""
