"""The normalisation unit's specification: its choices; widths, limits, latencies follow.

The unit computes ``(x - mean) / sqrt(variance + epsilon)`` (LayerNorm, arXiv 1607.06450) or
``x / sqrt(mean square + epsilon)`` (RMSNorm, arXiv 1910.07467) along rows, without the affine part.
See :mod:`opennpe.golden.layer_norm` for the arithmetic and docs/layer_norm.md for its proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from opennpe.golden import formats
from opennpe.golden.errors import SpecError

__all__ = ["KINDS", "NormSpec"]

KINDS = ("layer", "rms")
"""What the unit's ``kind`` bit means."""
WIDEST = formats.get(formats.ENGINE_FORMATS[-1])


@dataclass(frozen=True)
class NormSpec:
    """A unit of ``lanes`` lanes on one fixed-point grid.

    Attributes:
        lanes: elements a beat, 1 to 16.
        fraction_bits: the grid's unit is ``2**-fraction_bits`` of a code's value.
        integer_bits: magnitudes on the grid stay below ``2**integer_bits``.
        length_bits: rows have at most ``2**length_bits`` kept elements.
        rsqrt_bits: fraction bits of the reciprocal square root and of its operand.
        table_bits: fraction bits of the operand that choose a seed.
        seed_bits: fraction bits of a seed.
        middle_bits: fraction bits after the first of two Newton steps.
        digit_bits: bits of a multiplier that the serial multiplier takes a cycle.
        epsilon_bits: significant bits of epsilon on the variance's grid.
        shift_bits: signed bits of ``out_shift``.
    """

    lanes: int = 4
    fraction_bits: int = 16
    integer_bits: int = 10
    length_bits: int = 12
    rsqrt_bits: int = 20
    table_bits: int = 5
    seed_bits: int = 8
    middle_bits: int = 16
    digit_bits: int = 8
    epsilon_bits: int = 20
    shift_bits: int = 10

    def __post_init__(self) -> None:
        for name, low, high, why in (
            ("lanes", 1, 16, "a column of the array each"),
            ("fraction_bits", 6, 28, "posit8 is a multiple of 2^-6, posit16 of 2^-28"),
            ("integer_bits", 7, 29, "posit8 reaches 64, posit16 2^28"),
            ("length_bits", 1, 16, "the counter's bits"),
            ("rsqrt_bits", 14, 24, "posit16 has 12 fraction bits, its round bit and a guard"),
            ("table_bits", 3, 8, "a table of 2^2 times as many seeds"),
            ("seed_bits", 4, 12, "a seed is one or two digits"),
            ("middle_bits", 8, 24, "half of the final precision or more"),
            ("digit_bits", 1, 16, "of the serial multiplier"),
            ("epsilon_bits", 8, 32, "of epsilon's mantissa"),
            ("shift_bits", 4, 12, "as the engine's"),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SpecError(f"{name} lies in {low}..{high} ({why}), got {value}")
        if not self.seed_bits <= self.middle_bits <= self.rsqrt_bits:
            raise SpecError(
                "a Newton step adds bits: expected seed_bits <= middle_bits <= rsqrt_bits, got "
                f"{self.seed_bits}, {self.middle_bits}, {self.rsqrt_bits}"
            )

    # -- widths -----------------------------------------------------------------------------
    @property
    def max_length(self) -> int:
        """Most kept elements in a row: sums of so many can never overflow."""
        return 1 << self.length_bits

    @property
    def significand_bits(self) -> int:
        """Bits of the longest significand a code has: the lane multiplier's operand."""
        return int(WIDEST.significand_bits)

    @property
    def magnitude_bits(self) -> int:
        """Bits of a magnitude on the grid."""
        return self.fraction_bits + self.integer_bits

    @property
    def largest(self) -> int:
        """Where magnitudes saturate: the largest full significand below ``2**integer_bits``."""
        return ((1 << self.significand_bits) - 1) << self.max_shift

    @property
    def max_shift(self) -> int:
        """Farthest a significand moves up onto the grid."""
        return self.magnitude_bits - self.significand_bits

    @property
    def count_bits(self) -> int:
        """Bits of a row's length."""
        return self.max_length.bit_length()

    @property
    def sum_bits(self) -> int:
        """Bits of the sum of a row, sign included."""
        return self.magnitude_bits + self.length_bits + 1

    @property
    def square_sum_bits(self) -> int:
        """Bits of the sum of squares (unsigned)."""
        return 2 * self.magnitude_bits + self.length_bits

    @property
    def variance_bits(self) -> int:
        """Bits of ``count * square_sum`` and so of the variance before epsilon (unsigned)."""
        return self.square_sum_bits + self.length_bits

    @property
    def total_bits(self) -> int:
        """Bits of variance and epsilon together."""
        return self.variance_bits + 1

    @property
    def epsilon_shift_bits(self) -> int:
        """Bits of the power of two that epsilon's mantissa is multiplied by."""
        return (self.variance_bits - self.epsilon_bits).bit_length()

    @property
    def exponent_bits(self) -> int:
        """Bits of the exponent of the root, ``(total.bit_length() - 1) // 2``."""
        return ((self.total_bits - 1) // 2).bit_length()

    @property
    def factor_bits(self) -> int:
        """Bits of ``count * rsqrt``, what a lane multiplies its significand by."""
        return self.rsqrt_bits + self.length_bits + 1

    @property
    def offset_bits(self) -> int:
        """Bits of ``sum * rsqrt``, sign included."""
        return self.sum_bits + self.rsqrt_bits

    @property
    def difference_bits(self) -> int:
        """Bits of ``(count * x - sum) * rsqrt``, sign included."""
        return self.offset_bits + 1

    # -- accuracy ---------------------------------------------------------------------------
    @cached_property
    def rsqrt_error(self) -> float:
        """Largest relative error of the reciprocal square root, its operand's cut included.

        Seed: half a table step and half a unit; a Newton step turns an error e into at most
        ``1.5 e^2 + 0.5 e^3``, and cuts or rounds; last comes half the operand's cut bits.
        """
        step = 2.0**-self.table_bits
        seed = step / 4 * (1 + step) + 2.0**-self.seed_bits
        middle = 1.5 * seed**2 + 0.5 * seed**3 + 2.0 ** (1 - self.middle_bits)
        last = 1.5 * middle**2 + 0.5 * middle**3 + 2.0**-self.rsqrt_bits
        return float(last + 2.0 ** -(self.rsqrt_bits + 1))

    @property
    def relative_error(self) -> float:
        """Bound of a result's relative error before its one rounding.

        Against exact arithmetic on the same inputs *on the grid* and the same integer epsilon:
        everything but the root is exact.
        """
        return float(self.rsqrt_error)

    # -- cycles -----------------------------------------------------------------------------
    @property
    def stages(self) -> tuple[str, ...]:
        """Pipeline stages of a beat, in order; pass 1 ends with accumulate."""
        return ("decode", "multiply", "align", "accumulate", "normalise", "round")

    @cached_property
    def schedule(self) -> tuple[tuple[str, int], ...]:
        """What the row's serial multiplier does between the passes: (step, cycles), in order.

        A product takes a cycle a digit of its multiplier; ``variance`` and ``seed`` one cycle.
        """
        return (
            ("sum_squared", self._digits(self.sum_bits - 1)),
            ("squares_scaled", self._digits(self.count_bits)),
            ("variance", 1),
            ("seed", 1),
            ("first_times", self._digits(self.seed_bits)),
            ("first_square", self._digits(self.seed_bits)),
            ("first_step", self._digits(self.seed_bits)),
            ("second_times", self._digits(self.middle_bits)),
            ("second_square", self._digits(self.middle_bits)),
            ("second_step", self._digits(self.middle_bits)),
            ("factor", self._digits(self.count_bits)),
            ("offset", self._digits(self.rsqrt_bits + 1)),
        )

    def _digits(self, bits: int) -> int:
        return -(-bits // self.digit_bits)

    @property
    def latency(self) -> int:
        """Cycles from a beat of pass 2 accepted to its result offered."""
        return len(self.stages)

    @property
    def turnaround(self) -> int:
        """Cycles from the last beat of pass 1 accepted to the first of pass 2 accepted."""
        steps = sum(cycles for _, cycles in self.schedule)
        # The schedule begins when the last beat is in the sums. Its last step is needed only by
        # accumulate, its last but one by multiply: a beat may be on its way there.
        accumulated, offset = self.stages.index("accumulate"), self.schedule[-1][1]
        return accumulated + steps - min(offset, accumulated - 1)

    def cycles(self, beats: int) -> int:
        """Cycles that a row of so many beats a pass occupies the unit's input."""
        return 2 * beats + self.turnaround - 1
