"""An asynchronous serial port: eight data bits, lowest first, no parity, one stop bit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out
from opennpe.golden.errors import SpecError

__all__ = ["LEAST_DIVISOR", "MOST_ERROR", "Receive", "Transmit", "divisor"]

LEAST_DIVISOR = 4
"""Clock cycles a bit: three samples of it and one to spare."""
MOST_ERROR = 0.02
"""Of a baud rate: at ten bits a character the other end may be off by as much again."""
DATA_BITS = 8


def divisor(clock_hz: float, baud: int) -> int:
    """Clock cycles a bit.

    Raises:
        SpecError: the clock is too slow, or divides to a rate that is off by over 2 %.
    """
    if clock_hz <= 0 or baud <= 0:
        raise SpecError(f"a clock of {clock_hz} Hz and {baud} baud: both are above 0")
    cycles = round(clock_hz / baud)
    if cycles < LEAST_DIVISOR:
        raise SpecError(
            f"{baud} baud take a clock of {LEAST_DIVISOR * baud} Hz at least, got {clock_hz:.0f}: "
            "choose a lower rate"
        )
    error = clock_hz / cycles / baud - 1
    if abs(error) > MOST_ERROR:
        nearest = round(clock_hz / cycles)
        raise SpecError(
            f"{clock_hz:.0f} Hz divide to {nearest} baud, {error:+.1%} off {baud}: at most "
            f"{MOST_ERROR:.0%}, choose {nearest}"
        )
    return cycles


class Receive(wiring.Component):
    """Characters from a wire.

    Each bit is the majority of three samples about its middle, so that a shorter pulse is not
    seen. A start bit that is none is passed over; after a stop bit that is none the wire has to
    go high before the next start.

    Args:
        divisor: clock cycles a bit, ``LEAST_DIVISOR`` at least.

    Attributes:
        wire: In, asynchronous.
        valid: Out, for one cycle: a character is there. data: Out, the character.
        error: Out, with ``valid``: its stop bit is missing.
    """

    def __init__(self, divisor: int) -> None:
        assert divisor >= LEAST_DIVISOR
        self.divisor = divisor
        super().__init__({"wire": In(1, init=1), "valid": Out(1), "data": Out(8), "error": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        middle, spread = (self.divisor - 1) // 2, max(1, self.divisor // 8)
        wire, count, bit = Signal(init=1), Signal(range(self.divisor)), Signal(range(DATA_BITS + 2))
        votes, vote = Signal(2), Signal()
        m.submodules += FFSynchronizer(self.wire, wire, init=1)
        ends = count == middle + spread
        m.d.comb += vote.eq((votes[0] & votes[1]) | (wire & (votes[0] | votes[1])))
        m.d.sync += self.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"), m.If(~wire):
                # This cycle is number 0 of the start bit, and may be its first sample.
                m.d.sync += [count.eq(1), bit.eq(0), votes.eq(0)]
                m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self.divisor - 1):
                    m.d.sync += count.eq(0)
                for vote_at, at in enumerate((middle - spread, middle)):
                    with m.If(count == at):
                        m.d.sync += votes[vote_at].eq(wire)
                with m.If(ends):
                    m.d.sync += bit.eq(bit + 1)
                    with m.If((bit == 0) & vote):
                        m.next = "IDLE"
                    with m.If(bit == DATA_BITS + 1):
                        m.d.sync += [self.valid.eq(1), self.error.eq(~vote)]
                        m.next = "IDLE"
                        with m.If(~vote):
                            m.next = "HIGH"
                        with m.Elif(~wire):
                            # A faster sender is in its next start bit already: a cycle lost here
                            # would be lost again with every character.
                            m.d.sync += [count.eq(1), bit.eq(0), votes.eq(0)]
                            m.next = "BITS"
                    with m.Elif(bit.any()):
                        m.d.sync += self.data.eq(Cat(self.data[1:], vote))
            with m.State("HIGH"), m.If(wire):
                m.next = "IDLE"
        return m


class Transmit(wiring.Component):
    """Characters to a wire, one after the other without a pause.

    Args:
        divisor: clock cycles a bit.

    Attributes:
        characters: In.
        wire: Out.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"characters": In(stream.Signature(8)), "wire": Out(1, init=1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count, held = Signal(range(self.divisor)), Signal(DATA_BITS + 1, init=-1)
        left = Signal(range(DATA_BITS + 3))
        ends = count == self.divisor - 1
        m.d.comb += self.characters.ready.eq(~left.any())
        m.d.sync += count.eq(count + 1)
        with m.If(ends & left.any()):
            m.d.sync += [
                count.eq(0),
                self.wire.eq(held[0]),
                held.eq(Cat(held[1:], 1)),
                left.eq(left - 1),
            ]
        with m.If(self.characters.valid & self.characters.ready):
            # The stop bit is the last that is shifted out, and `left` counts its end too.
            m.d.sync += [
                count.eq(0),
                self.wire.eq(0),
                held.eq(Cat(self.characters.payload, 1)),
                left.eq(DATA_BITS + 2),
            ]
        return m
