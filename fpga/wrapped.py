"""A block between registers, so that pins neither run out nor limit its clock."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Wrapped"]


class Wrapped(wiring.Component):
    """A block whose inputs come from, and whose outputs go to, shift registers.

    Every input has a register of its own, every output as well: the clock that place and route
    finds is the block's. Bits enter at ``receive`` and leave at ``transmit``, a bit a cycle;
    outputs are taken whenever the bits sent in ask for it.

    Attributes:
        receive: In. transmit: Out.
    """

    def __init__(self, block: wiring.Component) -> None:
        self.block = block
        super().__init__({"receive": In(1), "transmit": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.block = self.block
        inputs: list[Any] = []
        outputs: list[Any] = []
        for _, member, value in self.block.signature.flatten(self.block):
            (inputs if member.flow is In else outputs).append(Value.cast(value))
        bits_in, bits_out = Cat(*inputs), Cat(*outputs)
        chain = Signal(len(bits_in) + 1)
        held = Signal(len(bits_in))
        take = Signal()
        taken = Signal(len(bits_out))
        m.d.sync += [
            chain.eq(Cat(self.receive, chain)),
            take.eq(chain[-1]),
            taken.eq(Cat(taken[1:], self.receive)),
        ]
        with m.If(take):
            m.d.sync += taken.eq(bits_out)
        # A second register: shifting does not burden what the block reads.
        m.d.sync += held.eq(chain[:-1])
        m.d.comb += [self.transmit.eq(taken[0])]
        low = 0
        for value in inputs:
            m.d.comb += value.eq(held[low : low + len(value)])
            low += len(value)
        return m
