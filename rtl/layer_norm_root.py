"""Between the passes of the normalisation unit: variance, reciprocal root, factor and offset.

One serial multiplier, a digit a cycle, follows ``spec.schedule``; steps and registers have golden's
names (:mod:`opennpe.golden.layer_norm`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.layer_norm import seed_table
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.rtl.lanes import table

__all__ = ["Root"]


@dataclass(frozen=True)
class Product:
    """A step of the schedule that multiplies: operands, and where the result goes."""

    multiplicand: Value
    multiplier: Value
    target: Signal
    result: Value


class Root(wiring.Component):
    """From a row's sums to what pass 2 needs. Runs ``sum(spec.schedule)`` cycles from ``start`` on.

    Attributes:
        start: In, for a cycle: the sums stand from the next one on.
        total: In, signed. squares: In.
        count, epsilon, epsilon_shift: In, static.
        resume: Out, in the cycle before the first beat of pass 2 may be accepted.
        factor: Out, ``count * rsqrt``. offset: Out, signed, ``total * rsqrt``.
        exponent: Out, of the root.
    """

    module_name = "layer_norm_root"

    def __init__(self, spec: NormSpec) -> None:
        self.spec = spec
        super().__init__(
            {
                "start": In(1),
                "total": In(signed(spec.sum_bits)),
                "squares": In(spec.square_sum_bits),
                "count": In(spec.count_bits),
                "epsilon": In(spec.epsilon_bits),
                "epsilon_shift": In(spec.epsilon_shift_bits),
                "resume": Out(1),
                "factor": Out(spec.factor_bits),
                "offset": Out(signed(spec.offset_bits)),
                "exponent": Out(spec.exponent_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        spec = self.spec
        steps = sum(cycles for _, cycles in spec.schedule)
        running = Signal()
        cycle = Signal(range(steps))
        with m.If(self.start):
            m.d.sync += [running.eq(1), cycle.eq(0)]
        with m.Elif(cycle == steps - 1):
            m.d.sync += running.eq(0)
        with m.Else():
            m.d.sync += cycle.eq(cycle + running)
        begun = spec.stages.index("accumulate") + 1
        m.d.comb += self.resume.eq(running & (cycle == spec.turnaround - begun - 1))
        with m.If(running):
            self._steps(m, cycle)
        return m

    def _steps(self, m: Module, cycle: Signal) -> None:
        spec = self.spec
        p, s, q = spec.rsqrt_bits, spec.seed_bits, spec.middle_bits
        magnitude = Signal(spec.sum_bits - 1)
        m.d.comb += magnitude.eq(Mux(self.total[-1], -self.total, self.total))
        # A number that waits for the next step: the square of the sum, the total, Newton's terms.
        held = Signal(max(spec.total_bits, p + 2 * q + 2), reset_less=True)
        operand = Signal(p + 2, reset_less=True)
        middle = Signal(q, reset_less=True)
        mantissa = Signal(p + 1, reset_less=True)
        seed = Signal(s)
        index = operand[p - spec.table_bits :]
        m.d.comb += seed.eq(table(index, list(seed_table(spec)), s))
        wide = max(spec.square_sum_bits, p + 2 * q + 2, spec.sum_bits - 1)
        longest = max(spec.sum_bits - 1, p + 1, spec.count_bits, q)
        sofar = Signal(wide + longest, reset_less=True)
        product = Signal(wide + longest)
        signed_offset = Mux(self.total[-1], -product, product)
        products = {
            "sum_squared": Product(magnitude, magnitude, held, product),
            "squares_scaled": Product(self.squares, self.count, sofar, product),
            "first_times": Product(operand, seed, held, product),
            "first_square": Product(held, seed, held, (3 << (p + 2 * s)) - product),
            "first_step": Product(held, seed, middle, product >> (p + 3 * s + 1 - q)),
            "second_times": Product(operand, middle, held, product),
            "second_square": Product(held, middle, held, (3 << (p + 2 * q)) - product),
            "second_step": Product(held, middle, mantissa, ((product >> 3 * q) + 1) >> 1),
            "factor": Product(mantissa, self.count, self.factor, product),
            "offset": Product(magnitude, mantissa, self.offset, signed_offset),
        }
        multiplicand, digit, first = Signal(wide), Signal(spec.digit_bits), Signal()
        m.d.comb += product.eq(Mux(first, 0, sofar << spec.digit_bits) + multiplicand * digit)
        m.d.sync += sofar.eq(product)
        with m.Switch(cycle):
            at = 0
            for name, cycles in spec.schedule:
                for left in reversed(range(cycles)):
                    with m.Case(at):
                        at += 1
                        if name not in products:
                            continue
                        step = products[name]
                        m.d.comb += [
                            multiplicand.eq(step.multiplicand),
                            digit.eq(step.multiplier[left * spec.digit_bits :]),
                            first.eq(left == cycles - 1),
                        ]
                        if left == 0:
                            m.d.sync += step.target.eq(step.result)
        self._variance(m, cycle, held, sofar)
        self._normalise(m, cycle, held, operand)

    def _at(self, name: str) -> int:
        """The first cycle of a step."""
        names = [step for step, _ in self.spec.schedule]
        return sum(cycles for _, cycles in self.spec.schedule[: names.index(name)])

    def _variance(self, m: Module, cycle: Signal, held: Signal, sofar: Signal) -> None:
        """``count * squares - total^2 + epsilon``."""
        epsilon = Signal(self.spec.variance_bits)
        m.d.comb += epsilon.eq(self.epsilon << self.epsilon_shift)
        with m.If(cycle == self._at("variance")):
            m.d.sync += held.eq(sofar - held + epsilon)

    def _normalise(self, m: Module, cycle: Signal, held: Signal, operand: Signal) -> None:
        """The total as ``operand * 4**exponent``, the operand in [1, 4).

        A total of zero gives anything: every difference is zero then.
        """
        pairs = -(-self.spec.total_bits // 2)
        bits = 2 * pairs
        value: Value = Cat(held[: self.spec.total_bits], Const(0, bits))[:bits]
        passed = Signal(self.spec.exponent_bits)
        for index in reversed(range(len(passed))):
            step = 2 << index
            if step >= bits:
                continue
            moved = Signal(bits, name=f"total{step}")
            m.d.comb += [
                passed[index].eq(~value[-step:].any()),
                moved.eq(Mux(passed[index], value << step, value)),
            ]
            value = moved
        with m.If(cycle == self._at("seed")):
            m.d.sync += [
                operand.eq(value[-len(operand) :]),
                self.exponent.eq(pairs - 1 - passed),
            ]
