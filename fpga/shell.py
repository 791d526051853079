"""What stands around a design on a board: its clock, its reset, its pins."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out
from opennpe.fpga import plls
from opennpe.fpga.boards import LIGHTS, Board
from opennpe.fpga.plls import Ratio
from opennpe.rtl.hierarchy import place

__all__ = ["RESET_CYCLES", "TOP", "Shell", "clock"]

TOP = "opennpe_board"
RESET_CYCLES = 15
"""A design rests that long once its clock is steady."""


def clock(board: Board, mhz: float) -> Ratio | None:
    """How the clock of a design is made; None where the board gives that very clock.

    Raises:
        SpecError: the family's PLL does not come near it.
    """
    if mhz == board.clock_mhz and not board.differential:
        return None
    return plls.solve(board.made_of.pll, board.clock_mhz, mhz)


class Shell(wiring.Component):
    """A design with a serial port and lights, on the pins of a board.

    Args:
        board: whose clock, pins and PLL.
        ratio: of the PLL; None for the board's own clock.
        design: a component with ``receive``, ``transmit`` and some of ``LIGHTS``.

    Attributes:
        clk_in: In, or ``clk_p`` and ``clk_n``. receive: In. transmit: Out. Lights: Out, as pins
            have them: low is on where the board inverts.
    """

    def __init__(self, board: Board, ratio: Ratio | None, design: wiring.Component) -> None:
        self.board, self.ratio, self.design = board, ratio, design
        clocks = ("clk_p", "clk_n") if board.differential else ("clk_in",)
        self.lit = {pin.port: pin.inverted for pin in board.pins if pin.port in LIGHTS}
        super().__init__(
            {
                **dict.fromkeys(clocks, In(1)),
                "receive": In(1, init=1),
                "transmit": Out(1),
                **dict.fromkeys(self.lit or LIGHTS, Out(1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = domain = ClockDomain("sync")
        locked = Signal()
        self._clock(m, domain.clk, locked)
        # Registers start as told when the device is configured: these count from there.
        steady = Signal()
        m.submodules.steady = FFSynchronizer(locked, steady, reset_less=True)
        rest = Signal(range(RESET_CYCLES + 1), reset_less=True)
        begun = Signal(reset_less=True)
        with m.If(~steady):
            m.d.sync += [rest.eq(0), begun.eq(0)]
        with m.Elif(rest == RESET_CYCLES):
            m.d.sync += begun.eq(1)
        with m.Else():
            m.d.sync += rest.eq(rest + 1)
        m.d.comb += domain.rst.eq(~begun)
        self._design(m, platform)
        return m

    def _design(self, m: Module, platform: Any) -> None:
        design: Any = self.design
        if hasattr(design, "module_name"):
            place(m, platform, "design", design)
        else:
            m.submodules.design = design
        m.d.comb += [design.receive.eq(self.receive), self.transmit.eq(design.transmit)]
        for name in self.lit or LIGHTS:
            on = getattr(design, name, Const(0))
            m.d.comb += getattr(self, name).eq(~on if self.lit.get(name) else on)

    def _clock(self, m: Module, clk: Signal, locked: Signal) -> None:
        """The family's PLL, or a wire."""
        given: Any
        if self.board.differential:
            given = Signal()
            m.submodules.clock_pair = Instance("IBUFDS", i_I=self.clk_p, i_IB=self.clk_n, o_O=given)
        else:
            given = self.clk_in
        if self.ratio is None:
            m.d.comb += [clk.eq(given), locked.eq(1)]
            return
        cell = self.board.made_of.pll
        settings = {f"p_{k}": v for k, v in plls.parameters(cell, self.ratio).items()}
        m.submodules.pll = Instance(cell, **settings, **WIRES[cell](m, given, clk, locked))


def _ecp5(m: Module, given: Any, clk: Signal, locked: Signal) -> dict[str, Any]:
    low = ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG")
    return {
        "i_CLKI": given,
        "i_CLKFB": clk,
        "o_CLKOP": clk,
        "o_LOCK": locked,
        "i_ENCLKOP": Const(0, 1),
        "i_PLLWAKESYNC": Const(0, 1),
        **{f"i_{name}": Const(0, 1) for name in low},
    }


def _ice40(m: Module, given: Any, clk: Signal, locked: Signal) -> dict[str, Any]:
    return {
        "i_PACKAGEPIN": given,
        "i_RESETB": Const(1, 1),
        "i_BYPASS": Const(0, 1),
        "o_PLLOUTGLOBAL": clk,
        "o_LOCK": locked,
    }


def _gowin(m: Module, given: Any, clk: Signal, locked: Signal) -> dict[str, Any]:
    low = {"CLKFB": 1, "RESET": 1, "RESET_P": 1, "FBDSEL": 6, "IDSEL": 6, "ODSEL": 6}
    low |= {"PSDA": 4, "DUTYDA": 4, "FDLY": 4}
    return {
        "i_CLKIN": given,
        "o_CLKOUT": clk,
        "o_LOCK": locked,
        **{f"i_{name}": Const(0, width) for name, width in low.items()},
    }


def _xilinx(m: Module, given: Any, clk: Signal, locked: Signal) -> dict[str, Any]:
    feedback, made = Signal(), Signal()
    m.submodules.clock_buffer = Instance("BUFG", i_I=made, o_O=clk)
    return {
        "i_CLKIN1": given,
        "i_CLKFBIN": feedback,
        "o_CLKFBOUT": feedback,
        "o_CLKOUT0": made,
        "o_LOCKED": locked,
        "i_RST": Const(0, 1),
        "i_PWRDWN": Const(0, 1),
    }


WIRES = {
    "EHXPLLL": _ecp5,
    "SB_PLL40_PAD": _ice40,
    "rPLL": _gowin,
    "PLLE2_BASE": _xilinx,
    "MMCME4_BASE": _xilinx,
}
"""Ports of each PLL."""
