"""What makes a streaming softmax unit: its choices; widths, limits, bounds and cycles follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opennpe.golden.errors import SpecError
from opennpe.golden.softmax_table import Exp2Table, exp2_table

__all__ = ["MULTIPLIER_EXPONENT_BITS", "OUT_SHIFT_BITS", "SoftmaxSpec"]

MULTIPLIER_EXPONENT_BITS = 10
"""Signed bits of the multiplier's exponent of two."""
OUT_SHIFT_BITS = 10
"""Signed bits of the power of two that results are multiplied by before their rounding."""


@dataclass(frozen=True)
class SoftmaxSpec:
    """A softmax of two passes without a maximum (Two-Pass Softmax, arXiv 2001.04438).

    Logits become base-2 exponents t in Q(integer_bits).(fraction_bits); 2**t is kept as a mantissa
    in [1, 2) and the exponent floor(t), and so is the running sum.

    Attributes:
        lanes: elements a beat.
        mode: "exact": the sum is a fixed-point number over every exponent, so neither the order
            of elements nor the lanes can change a bit. "truncating": mantissa and exponent, cut
            when the exponent grows; lanes and order are part of the contract.
        integer_bits: of t, with its sign; t saturates.
        fraction_bits: F, of t.
        table_bits: T; 2**T lines approximate 2**f.
        mantissa_bits: P, fraction bits of a mantissa.
        accumulator_bits: FA, fraction bits of the truncating sum below its exponent.
        carry_bits: rows have at most 2**carry_bits elements.
        reciprocal_bits: R, fraction bits of the sum that is divided by.
        reciprocal_step: quotient bits a cycle.
        multiplier_bits: of the constant that turns logits into base-2 exponents.
        fixed: whether the gates can also round to unsigned fractions U0.8 and U0.16.
    """

    lanes: int = 4
    mode: Literal["exact", "truncating"] = "exact"
    integer_bits: int = 8
    fraction_bits: int = 12
    table_bits: int = 5
    mantissa_bits: int = 16
    accumulator_bits: int = 28
    carry_bits: int = 12
    reciprocal_bits: int = 16
    reciprocal_step: int = 3
    multiplier_bits: int = 16
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "truncating"):
            raise SpecError(f"softmax mode is '{self.mode}': expected exact or truncating")
        for name, low, high in (
            ("lanes", 1, 64),
            ("integer_bits", 4, 8),
            ("fraction_bits", 1, 16),
            ("table_bits", 0, 10),
            ("mantissa_bits", 4, 20),
            ("accumulator_bits", 4, 40),
            ("carry_bits", 1, 16),
            ("reciprocal_bits", 4, 20),
            ("reciprocal_step", 1, 6),
            ("multiplier_bits", 4, 20),
        ):
            if not low <= getattr(self, name) <= high:
                raise SpecError(
                    f"a softmax unit's {name} lies in {low}..{high}, got {getattr(self, name)}"
                )
        if self.table_bits > self.fraction_bits:
            raise SpecError(
                f"a table of 2**{self.table_bits} lines needs as many fraction bits, got "
                f"{self.fraction_bits}: raise fraction_bits or lower table_bits"
            )
        below = max(self.mantissa_bits, self.reciprocal_bits)
        if self.mode == "truncating" and self.accumulator_bits < below:
            raise SpecError(
                f"a truncating sum keeps at least the mantissa's and the reciprocal's bits, "
                f"{below}, got accumulator_bits = {self.accumulator_bits}: raise it"
            )

    # -- limits ------------------------------------------------------------------------------
    @property
    def max_length(self) -> int:
        """Elements of the longest row, masked ones and padding to whole beats included."""
        return 1 << self.carry_bits

    @property
    def lowest(self) -> int:
        """Smallest exponent of an element, floor(t) of the lowest t."""
        return -(1 << (self.integer_bits - 1))

    @property
    def exponents(self) -> int:
        """Number of different exponents of an element."""
        return 1 << self.integer_bits

    # -- widths ------------------------------------------------------------------------------
    @property
    def logit_bits(self) -> int:
        """Signed bits of t."""
        return self.integer_bits + self.fraction_bits

    @property
    def total_bits(self) -> int:
        """Bits of the running sum.

        Exact: units of 2**(lowest - P); an element is below 2**(exponents + P) of them.
        Truncating: units of 2**(e - FA); an element is below 2**(FA + 1) of them.
        Either way 2**carry_bits elements fit.
        """
        if self.mode == "exact":
            return self.exponents + self.mantissa_bits + self.carry_bits
        return self.accumulator_bits + 1 + self.carry_bits

    @property
    def sum_exponent_bits(self) -> int:
        """Signed bits of floor(log2(sum))."""
        return (self.carry_bits - self.lowest).bit_length() + 1

    @property
    def table(self) -> Exp2Table:
        """The lines that approximate 2**f."""
        return exp2_table(self.table_bits, self.mantissa_bits, self.fraction_bits)

    @property
    def rom_bits(self) -> int:
        """Bits of the tables: a base (its hidden one left out) and a slope a line."""
        slope = int(self.table.slope.max()).bit_length()
        return (self.mantissa_bits + slope) << self.table_bits

    # -- error bounds ------------------------------------------------------------------------
    @property
    def exp2_error(self) -> float:
        """Largest relative error of 2**t, over all t."""
        return self.table.error

    @property
    def reciprocal_error(self) -> float:
        """Largest relative error of one over the sum: cut to R bits, quotient rounded."""
        return 2.0 ** -(self.reciprocal_bits - 1)

    def sum_error(self, length: int) -> float:
        """Largest relative loss of the sum of ``length`` elements by cutting."""
        return 0.0 if self.mode == "exact" else (length + 2) * 2.0**-self.accumulator_bits

    def error_bound(self, length: int) -> float:
        """Relative error before the last rounding, of a row of ``length`` exponents t.

        Against exact softmax (base 2) of the same t: each of the element, the sum's elements, the
        sum and the reciprocal contributes once; to first order these add.
        """
        parts = (self.exp2_error, self.exp2_error, self.sum_error(length), self.reciprocal_error)
        product = 1.0
        for part in parts:
            product /= 1.0 - part
        return product - 1.0

    # -- cycles ------------------------------------------------------------------------------
    @property
    def stages(self) -> tuple[str, ...]:
        """Registers that a result passes, in order."""
        return ("decode", "scale", "logit", "exp2", "normalise", "round")

    @property
    def latency(self) -> int:
        """Cycles from a beat of pass 2 accepted to its result offered."""
        return len(self.stages)

    @property
    def sum_stages(self) -> tuple[str, ...]:
        """Registers that an element of pass 1 passes until it is summed."""
        return ("decode", "scale", "logit", "exp2", "maximum", "align", "accumulate")

    @property
    def reciprocal_cycles(self) -> int:
        """Cycles of the division: R + 2 quotient bits."""
        return -(-(self.reciprocal_bits + 2) // self.reciprocal_step)

    @property
    def window_cycles(self) -> int:
        """Cycles that the leading bits of the sum are brought to their place in."""
        return int(self.mode == "exact")

    @property
    def turnaround(self) -> int:
        """Cycles from the last beat of pass 1 accepted to the first of pass 2 accepted.

        The sum is complete, its leading bits are found, divided by, the quotient rounded; meanwhile
        the first beat of pass 2 comes up to "normalise".
        """
        ready = len(self.sum_stages) + self.window_cycles + 1 + self.reciprocal_cycles + 1
        return ready - self.stages.index("normalise")

    def row_cycles(self, length: int) -> int:
        """Cycles from a row's first beat accepted to the next row's, when nothing holds back."""
        beats = -(-length // self.lanes)
        return 2 * beats + self.turnaround - 1
