"""What the pipelines of all multiply-accumulate units have in common: registers, pace, ends.

A unit has the engine's ports (:func:`opennpe.rtl.ports.engine_signature`); its pipeline moves as
one, and its lanes leave one a cycle through one normaliser and one rounding.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data
from opennpe.rtl.lanes import FRACTION_BITS

__all__ = [
    "accept",
    "control",
    "from_normalise",
    "held",
    "move_together",
    "normalised",
    "offer",
    "to_round",
]


def control(name: str, width: int) -> Signal:
    """A register that a reset clears."""
    return Signal(width, name=name)


def held(name: str, shape: Any, begin: Any = None) -> Any:
    """A data register: no reset, because nothing reads it before a valid flag says so."""
    return Signal(shape, name=name, init=begin, reset_less=True)


def move_together(m: Module, unit: Any, move: Signal, begins_now: Value, draining: Value) -> None:
    """The pipeline moves as one, once every stream that this cycle needs is there.

    Args:
        begins_now: a sum takes its bias. draining: a lane takes its shift.
    """
    begins = Signal()
    flows, biased, scaled = Signal(), Signal(), Signal()
    m.d.comb += [
        begins.eq(begins_now),
        flows.eq(~unit.results.valid | unit.results.ready),
        biased.eq(~begins | unit.biases.valid),
        scaled.eq(~draining | unit.shifts.valid),
        move.eq(flows & biased & scaled),
        unit.biases.ready.eq(begins & flows & scaled),
        unit.shifts.ready.eq(draining & flows & biased),
    ]


def accept(
    m: Module, unit: Any, flags: tuple[Signal, Signal], last_lane: Value | int, bits: int
) -> None:
    """Accept a sum's last word only when the lanes of the sum before will have left.

    Args:
        flags: the pipeline moves; and takes a word.
        last_lane: number of lanes less one, of the sum that the word ends. bits: of it.
    """
    move, taken = flags
    last = unit.words.payload.last
    lanes_ahead = control("lanes_ahead", bits)
    m.d.comb += unit.words.ready.eq(move & ~(last & lanes_ahead.any()))
    with m.If(move):
        with m.If(taken & last):
            m.d.sync += lanes_ahead.eq(last_lane)
        with m.Elif(lanes_ahead.any()):
            m.d.sync += lanes_ahead.eq(lanes_ahead - 1)


def normalised(scale_bits: int, beside: dict[str, int]) -> data.StructLayout:
    """A lane's sum between normalise and round, behind what goes along ``beside`` it."""
    return data.StructLayout(
        {
            **beside,
            "negative": 1,
            "zero": 1,
            "nan": 1,
            "scale": scale_bits,
            "fraction": FRACTION_BITS,
            "sticky": 1,
        }
    )


def from_normalise(found: Any, block: Any) -> list[Any]:
    """What :class:`opennpe.rtl.normalise.Normalise` says, to the register of :func:`normalised`."""
    return [
        found.negative.eq(block.negative),
        found.zero.eq(block.zero),
        found.nan.eq(block.nan_out),
        found.scale.eq(block.scale),
        found.fraction.eq(block.fraction),
        found.sticky.eq(block.sticky),
    ]


def to_round(block: Any, found: Any) -> list[Any]:
    """That register to :class:`opennpe.rtl.codec.Round`."""
    return [
        block.negative.eq(found.negative),
        block.zero.eq(found.zero),
        block.nan.eq(found.nan),
        block.scale.eq(found.scale),
        block.fraction.eq(found.fraction),
        block.sticky.eq(found.sticky),
    ]


def offer(m: Module, unit: Any, move: Signal, n_valid: Signal) -> Signal:
    """Whether a result is offered: until it is taken, whatever the pipeline does."""
    r_valid = control("r_valid", 1)
    with m.If(move):
        m.d.sync += r_valid.eq(n_valid)
    with m.Elif(unit.results.ready):  # taken while what follows waits for a bias or a shift
        m.d.sync += r_valid.eq(0)
    return r_valid
