"""The normalisation unit: LayerNorm and RMSNorm of rows of codes, a beat of lanes a cycle.

A register follows every step; the prefix of a signal names the step whose result it is: ``d_``
decode, ``m_`` multiply, ``l_`` align, ``a_`` accumulate, ``n_`` normalise, ``r_`` round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.rtl.codec import Round
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import FRACTION_BITS, SIGNIFICAND_BITS, WHOLE, WORD_BITS
from opennpe.rtl.layer_norm_blocks import Align, Leading, ToGrid
from opennpe.rtl.layer_norm_root import Root
from opennpe.rtl.row_streams import element_layout, result_layout

__all__ = ["LayerNorm", "sums_layout"]

BITS = SIGNIFICAND_BITS[WHOLE]


def sums_layout(spec: NormSpec) -> data.StructLayout:
    """What pass 1 found: golden's :class:`opennpe.golden.layer_norm.Sums`."""
    return data.StructLayout(
        {"total": signed(spec.sum_bits), "squares": spec.square_sum_bits, "nan": 1}
    )


@dataclass(frozen=True)
class Beat:
    """Registers of a stage that say what is in it."""

    valid: Signal
    second: Signal
    last: Signal

    @classmethod
    def of(cls, stage: str) -> Beat:
        """New registers, named by the stage."""
        return cls(Signal(name=f"{stage}_valid"), _held(f"{stage}_second"), _held(f"{stage}_last"))


class LayerNorm(wiring.Component):
    """``(N*x - S1) / sqrt(N*S2 - S1^2 + E)`` in every lane: bits as ``golden.layer_norm``.

    A row comes twice, in the same order: pass 1 is summed, pass 2 gives a result beat a beat.
    Beats are taken one a cycle, but for the ``spec.turnaround`` cycles between a row's passes; the
    next row may begin in the cycle after. Latency: ``spec.latency`` cycles from a beat of pass 2
    accepted to its results offered. Both streams may pause at any cycle. Rows have at most
    ``spec.max_length`` kept elements: longer ones are refused before they get here. An fp4 result
    of NaR is undefined: golden refuses it.

    Attributes:
        elements: In, stream of :func:`element_layout`; codes in the low bits of 16, zeros above.
        results: Out, stream of :func:`result_layout`.
        format, out, out_shift, underflow_zero, kind, count, epsilon, epsilon_shift: In, static
            while rows are under way: golden's :class:`opennpe.golden.layer_norm.Settings`.
        sums: Out, :func:`sums_layout`: of the row whose pass 2 is awaited. For observers.
    """

    module_name = "layer_norm"

    def __init__(self, spec: NormSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "elements": In(stream.Signature(element_layout(spec.lanes))),
                "results": Out(stream.Signature(result_layout(spec.lanes))),
                "format": In(2),
                "out": In(2),
                "out_shift": In(signed(spec.shift_bits)),
                "underflow_zero": In(1),
                "kind": In(1),
                "count": In(spec.count_bits),
                "epsilon": In(spec.epsilon_bits),
                "epsilon_shift": In(spec.epsilon_shift_bits),
                "sums": Out(sums_layout(spec)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        move, taken = Signal(), Signal()
        root = Root(spec)
        place(m, platform, "root", root)
        # The pipeline moves as one: it stands still while a result waits to be taken.
        m.d.comb += [
            move.eq(~self.results.valid | self.results.ready),
            taken.eq(self.elements.valid & self.elements.ready),
        ]
        self._pace(m, move, taken, root)
        d, d_lanes = self._decode(m, platform, move, taken)
        mul, m_lanes = self._multiply(m, move, d, d_lanes, root.factor)
        al, l_lanes = self._align(m, platform, move, mul, m_lanes)
        a, a_lanes, a_unit = self._accumulate(m, move, al, l_lanes, root)
        n, n_lanes = self._normalise(m, platform, move, a, a_lanes, a_unit)
        self._round(m, platform, move, n, n_lanes)
        return m

    def _pace(self, m: Module, move: Signal, taken: Signal, root: Root) -> None:
        """Nothing is accepted between a row's passes until the root is on its way."""
        turning = Signal()
        element = self.elements.payload
        m.d.comb += [
            self.elements.ready.eq(move & ~turning),
            root.count.eq(self.count),
            root.epsilon.eq(self.epsilon),
            root.epsilon_shift.eq(self.epsilon_shift),
        ]
        with m.If(taken & element.last & ~element.second):
            m.d.sync += turning.eq(1)
        with m.Elif(root.resume):
            m.d.sync += turning.eq(0)

    def _pass(self, m: Module, move: Signal, ahead: Beat, stage: str) -> Beat:
        """What a stage hands on unchanged."""
        beat = Beat.of(stage)
        with m.If(move):
            m.d.sync += [
                beat.valid.eq(ahead.valid),
                beat.second.eq(ahead.second),
                beat.last.eq(ahead.last),
            ]
        return beat

    def _decode(
        self, m: Module, platform: Any, move: Signal, taken: Signal
    ) -> tuple[Beat, list[Any]]:
        element = self.elements.payload
        beat, lanes = Beat.of("d"), []
        with m.If(move):
            m.d.sync += [
                beat.valid.eq(taken),
                beat.second.eq(element.second),
                beat.last.eq(element.last),
            ]
        layout = {"keep": 1, "nan": 1, "negative": 1, "significand": BITS}
        for lane in range(self.spec.lanes):
            grid = ToGrid(self.spec)
            place(m, platform, f"decode{lane}", grid)
            register = _held(
                f"d_lane{lane}", data.StructLayout(layout | {"shift": len(grid.shift)})
            )
            m.d.comb += [
                grid.code.eq(element.codes.word_select(lane, WORD_BITS)),
                grid.format.eq(self.format),
                grid.keep.eq(element.keep[lane]),
            ]
            with m.If(taken):
                m.d.sync += [
                    register.keep.eq(element.keep[lane]),
                    *(register[key].eq(getattr(grid, key))
                      for key in ("nan", "negative", "significand", "shift")),
                ]  # fmt: skip
            lanes.append(register)
        return beat, lanes

    def _multiply(
        self, m: Module, move: Signal, d: Beat, lanes: list[Any], factor: Value
    ) -> tuple[Beat, list[Any]]:
        """Pass 1 squares the significand, pass 2 multiplies it by the row's factor."""
        behind = []
        for lane, element in enumerate(lanes):
            layout = data.StructLayout(
                {
                    "element": Value.cast(element).shape(),
                    "product": BITS + self.spec.factor_bits,
                }
            )
            register = _held(f"m_lane{lane}", layout)
            other = Signal(self.spec.factor_bits, name=f"multiplier{lane}")
            m.d.comb += other.eq(Mux(d.second, factor, element.significand))
            with m.If(move & d.valid):
                m.d.sync += [
                    register.element.eq(Value.cast(element)),
                    register.product.eq(element.significand * other),
                ]
            behind.append((data.View(element.shape(), register.element), register.product))
        return self._pass(m, move, d, "m"), behind

    def _align(
        self, m: Module, platform: Any, move: Signal, mul: Beat, lanes: list[Any]
    ) -> tuple[Beat, list[Any]]:
        """Products on their grid; in pass 1 the element itself as well."""
        spec, behind = self.spec, []
        for lane, (element, product) in enumerate(lanes):
            align = Align(spec)
            place(m, platform, f"align{lane}", align)
            layout = data.StructLayout(
                {
                    "keep": 1,
                    "nan": 1,
                    "negative": 1,
                    "element": spec.magnitude_bits,
                    "addend": len(align.addend),
                }
            )
            register = _held(f"l_lane{lane}", layout)
            m.d.comb += [
                align.product.eq(product),
                align.shift.eq(element.shift),
                align.second.eq(mul.second),
            ]
            with m.If(move & mul.valid):
                m.d.sync += [
                    *(register[key].eq(element[key]) for key in ("keep", "nan", "negative")),
                    register.addend.eq(align.addend),
                ]
                with m.If(~mul.second):
                    m.d.sync += register.element.eq(element.significand << element.shift)
            behind.append(register)
        return self._pass(m, move, mul, "l"), behind

    def _accumulate(
        self, m: Module, move: Signal, al: Beat, lanes: list[Any], root: Root
    ) -> tuple[Beat, list[Any], Signal]:
        spec = self.spec
        total = _held("a_total", signed(spec.sum_bits))
        squares, nan = _held("a_squares", spec.square_sum_bits), _held("a_nan")
        fresh = Signal(init=1, name="a_fresh")
        mean = Mux(self.kind, 0, total)
        finished = Signal()
        m.d.comb += [
            finished.eq(move & al.valid & al.last & ~al.second),
            root.start.eq(finished),
            root.total.eq(mean),
            root.squares.eq(squares),
            self.sums.total.eq(total),
            self.sums.squares.eq(squares),
            self.sums.nan.eq(nan),
        ]
        with m.If(move & al.valid & ~al.second):
            m.d.sync += [
                total.eq(sum((_signed(x.negative, x.element) for x in lanes),
                             Mux(fresh, 0, total))),
                squares.eq(sum((x.addend for x in lanes), Mux(fresh, 0, squares))),
                nan.eq((nan & ~fresh) | _any(x.nan & x.keep for x in lanes)),
                fresh.eq(al.last),
            ]  # fmt: skip
        unit = _held("a_unit", signed(self._scale_bits))
        with m.If(move & al.valid & al.second):
            # A register, so that this sum is not in the way of normalise.
            m.d.sync += unit.eq(self.out_shift - spec.rsqrt_bits - root.exponent)
        behind = []
        for lane, x in enumerate(lanes):
            layout = {"keep": 1, "nan": 1, "difference": signed(spec.difference_bits)}
            register = _held(f"a_lane{lane}", data.StructLayout(layout))
            with m.If(move & al.valid & al.second):
                m.d.sync += [
                    register.keep.eq(x.keep),
                    register.nan.eq(nan & x.keep),
                    register.difference.eq(_signed(x.negative, x.addend) - root.offset),
                ]
            behind.append(register)
        beat = Beat.of("a")
        with m.If(move):
            m.d.sync += [beat.valid.eq(al.valid & al.second), beat.last.eq(al.last)]
        return beat, behind, unit

    @property
    def _scale_bits(self) -> int:
        """Signed bits of a result's exponent: the shift's, or of what the row itself may need."""
        return max(self.spec.shift_bits, 8) + 1

    def _normalise(
        self, m: Module, platform: Any, move: Signal, a: Beat, lanes: list[Any], unit: Signal
    ) -> tuple[Beat, list[Any]]:
        behind = []
        layout = {"zero": 1, "nan": 1, "negative": 1, "scale": signed(self._scale_bits)}
        layout |= {"fraction": FRACTION_BITS, "sticky": 1}
        for lane, x in enumerate(lanes):
            leading = Leading(self.spec.difference_bits, self._scale_bits)
            place(m, platform, f"normalise{lane}", leading)
            register = _held(f"n_lane{lane}", data.StructLayout(layout))
            m.d.comb += [leading.value.eq(x.difference), leading.unit.eq(unit)]
            with m.If(move & a.valid):
                m.d.sync += [
                    register.zero.eq(leading.zero | ~x.keep),
                    register.nan.eq(x.nan),
                    *(register[key].eq(getattr(leading, key))
                      for key in ("negative", "scale", "fraction", "sticky")),
                ]  # fmt: skip
            behind.append(register)
        return self._pass(m, move, a, "n"), behind

    def _round(self, m: Module, platform: Any, move: Signal, n: Beat, lanes: list[Any]) -> None:
        r_result = _held("r_result", result_layout(self.spec.lanes))
        r_valid = Signal(name="r_valid")
        with m.If(move):
            m.d.sync += r_valid.eq(n.valid)
        for lane, x in enumerate(lanes):
            rounding = Round(self._scale_bits)
            place(m, platform, f"round{lane}", rounding)
            m.d.comb += [
                *(getattr(rounding, key).eq(x[key])
                  for key in ("negative", "zero", "nan", "scale", "fraction", "sticky")),
                rounding.out.eq(self.out),
                rounding.underflow_zero.eq(self.underflow_zero),
            ]  # fmt: skip
            with m.If(move & n.valid):
                m.d.sync += r_result.codes.word_select(lane, WORD_BITS).eq(rounding.code)
        with m.If(move & n.valid):
            m.d.sync += r_result.last.eq(n.last)
        m.d.comb += [self.results.valid.eq(r_valid), self.results.payload.eq(r_result)]


def _signed(negative: Value, magnitude: Value) -> Value:
    return Mux(negative, -magnitude, magnitude)


def _any(flags: Any) -> Value:
    found: Value = Const(0, 1)
    for flag in flags:
        found = found | flag
    return found


def _held(name: str, shape: Any = 1) -> Any:
    """A data register: no reset, because nothing reads it before a valid flag says so."""
    return Signal(shape, name=name, reset_less=True)
