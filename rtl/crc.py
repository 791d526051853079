"""CRC-32, a bit a cycle: a byte of a serial link takes longer than its eight."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden import serial_frames

__all__ = ["Crc"]

BITS = 8 * serial_frames.CRC_BYTES


def _step(register: Value, bit: Value) -> Value:
    """Golden's ``crc_bit`` as gates."""
    taps = serial_frames.crc_bit(0, 1)
    return Cat(register[1:], Const(0, 1)) ^ Mux(register[0] ^ bit, Const(taps, BITS), 0)


class Crc(wiring.Component):
    """The register of :func:`opennpe.golden.serial_frames.crc32`.

    A byte that is taken in cycle ``t`` shows in the register from ``t + 9`` on; ``busy`` is 1 in
    between, in which ``enable`` and ``shift`` have to be 0.

    Attributes:
        clear: In, the register begins again.
        enable: In, take ``data``, a byte.
        shift: In, the register moves down by a byte.
        register: Out.
        good: Out, the register is what it is behind a body and its CRC.
        busy: Out.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "data": In(8),
                "shift": In(1),
                "register": Out(BITS, init=serial_frames.CRC_START),
                "good": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        byte, left = Signal(8), Signal(range(9))
        m.d.comb += [
            self.busy.eq(left.any()),
            self.good.eq(self.register == serial_frames.CRC_RESIDUE),
        ]
        with m.If(self.busy):
            m.d.sync += [
                self.register.eq(_step(self.register, byte[0])),
                byte.eq(byte >> 1),
                left.eq(left - 1),
            ]
        with m.Elif(self.enable):
            m.d.sync += [byte.eq(self.data), left.eq(8)]
        with m.Elif(self.shift):
            m.d.sync += self.register.eq(self.register >> 8)
        with m.If(self.clear):
            m.d.sync += [self.register.eq(serial_frames.CRC_START), left.eq(0)]
        return m
