"""The engine's ports: what a word of operands and a result look like, from the spec alone."""

from __future__ import annotations

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from opennpe.golden.errors import SpecError
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.spec import EngineSpec

__all__ = [
    "check_spec",
    "engine_signature",
    "lane_count",
    "result_layout",
    "word_layout",
]


def check_spec(spec: EngineSpec) -> None:
    """Refuse what the engine has no gates for.

    Raises:
        SpecError: other formats than the engine's four, a windowed accumulator, other widths.
    """
    if spec.mac.formats != ENGINE_FORMATS:
        raise SpecError(
            f"the engine's gates are for {', '.join(ENGINE_FORMATS)}, got "
            f"{', '.join(spec.mac.formats)}: choose a spec with these formats"
        )
    if spec.mac.accumulator != "exact":
        raise SpecError("the engine's gates have an exact accumulator, got a windowed one")
    if (spec.word_bits, spec.accumulator_bits) != (16, 128):
        raise SpecError(
            "the engine's gates take words of 16 bits and 128 accumulator bits, got "
            f"{spec.word_bits} and {spec.accumulator_bits}"
        )
    if not 4 <= spec.shift_bits <= 12:
        raise SpecError(f"the engine's gates take shifts of 4 to 12 bits, got {spec.shift_bits}")


def lane_count(spec: EngineSpec) -> int:
    """Most lanes of any mode."""
    return max(spec.lane_counts)


def word_layout(spec: EngineSpec) -> data.StructLayout:
    """One word pair of a sum; fields from bit 0 up.

    ``a``, ``b``: operand words, lane 0 in the low bits. ``mode_a``, ``mode_b``: indices into the
    spec's formats, of equal width (the two 4-bit formats mix). ``first``, ``last``: of a sum.
    ``out``: index of the result format, taken with ``last``.
    """
    index = ceil_log2(len(spec.mac.formats))
    return data.StructLayout(
        {
            "a": spec.word_bits,
            "b": spec.word_bits,
            "mode_a": index,
            "mode_b": index,
            "first": 1,
            "last": 1,
            "out": index,
        }
    )


def result_layout(spec: EngineSpec) -> data.StructLayout:
    """One lane's result: ``code`` (unused high bits 0), its ``lane``, ``last`` lane of the sum."""
    widest = spec.word_bits // min(spec.lane_counts)
    return data.StructLayout({"code": widest, "lane": ceil_log2(lane_count(spec)), "last": 1})


def engine_signature(spec: EngineSpec) -> wiring.Signature:
    """The engine's ports: words in, results out, the static underflow rule.

    What a sum starts from and what its results are scaled by come in streams of their own, in the
    order of the sums, each at the stage that needs it: ``biases``, one a sum, preloads in units of
    the grid, lanes packed as in the accumulator, taken when the sum's first word is accumulated;
    ``shifts``, one a lane, signed powers of two, taken when the lane is normalised.
    """
    return wiring.Signature(
        {
            "words": In(stream.Signature(word_layout(spec))),
            "biases": In(stream.Signature(spec.accumulator_bits)),
            "shifts": In(stream.Signature(spec.shift_bits)),
            "results": Out(stream.Signature(result_layout(spec))),
            "underflow_zero": In(1),
        }
    )
