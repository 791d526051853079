"""Families of FPGAs: how Yosys synthesises for each, and what its cells count as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opennpe.golden.errors import ToolError

__all__ = ["FAMILIES", "KINDS", "Family", "get"]

KINDS = ("luts", "ffs", "dsps", "brams", "carries")
"""What cells count as. ``luts`` holds those that carries and small memories take as well."""


@dataclass(frozen=True)
class Family:
    """A family of FPGAs.

    Attributes:
        name: as the command line calls it.
        title: as its maker calls it.
        synthesis: Yosys' pass; ``-top NAME`` is added to it.
        paced: commands before it, for logic no faster than a design needs it, ``{ps}`` its longest
            path without wires. What is faster than that is made smaller.
        cells: kind, then a pattern of cell names, and how many of the kind such a cell takes.
        lut_inputs: of its largest look-up table.
        bram_bits: in one block RAM.
        placed: whether nextpnr places and routes it; else counts are an estimate.
        pll: the cell that makes clocks.
        attributes: of that cell, which its analogue parts need.
    """

    name: str
    title: str
    synthesis: str
    cells: Mapping[str, Mapping[str, float]]
    lut_inputs: int
    bram_bits: int
    pll: str
    placed: bool = True
    attributes: Mapping[str, str] | None = None
    paced: tuple[str, ...] = ()

    def count(self, cells: Mapping[str, int]) -> dict[str, float]:
        """Cells by name, as Yosys counts them, by kind."""
        found = dict.fromkeys(KINDS, 0.0)
        for kind, patterns in self.cells.items():
            for name, number in cells.items():
                weight = next((w for p, w in patterns.items() if re.fullmatch(p, name)), 0)
                found[kind] += weight * number
        return found


XILINX: Mapping[str, Mapping[str, float]] = {
    "luts": {
        r"LUT[1-6]": 1,
        r"SRL(16E|C32E)": 1,
        r"RAM(32M|64M)": 4,
        r"RAM(32|64)X1D": 2,
        r"RAM128X1D": 4,
        r"RAM(32M16|64M8)": 8,
    },
    "ffs": {r"FD[RSCP]E(_1)?": 1},
    "dsps": {r"DSP48E[12]": 1},
    "brams": {r"RAMB36E[12]": 1, r"RAMB18E[12]": 0.5},
    "carries": {r"CARRY[48]": 1},
}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="ecp5",
            title="Lattice ECP5",
            synthesis="synth_ecp5",
            cells={
                "luts": {r"LUT4": 1, r"CCU2C": 2, r"TRELLIS_DPR16X4": 6},
                "ffs": {r"TRELLIS_FF": 1},
                "dsps": {r"MULT18X18D": 1},
                "brams": {r"(DP16KD|PDPW16KD)": 1},
                "carries": {r"CCU2C": 1},
            },
            paced=(
                "scratchpad -set abc9.D {ps}",
                "scratchpad -copy abc9.script.flow2 abc9.script",
            ),
            lut_inputs=4,
            bram_bits=18 * 1024,
            pll="EHXPLLL",
            attributes={
                "ICP_CURRENT": "12",
                "LPF_RESISTOR": "8",
                "MFG_ENABLE_FILTEROPAMP": "1",
                "MFG_GMCREF_SEL": "2",
            },
        ),
        Family(
            name="ice40",
            title="Lattice iCE40 UltraPlus",
            synthesis="synth_ice40 -dsp -device u",
            cells={
                "luts": {r"SB_LUT4": 1},
                "ffs": {r"SB_DFF\w*": 1},
                "dsps": {r"SB_MAC16": 1},
                "brams": {r"SB_RAM40_4K\w*": 1},
                "carries": {r"SB_CARRY": 1},
            },
            lut_inputs=4,
            bram_bits=4 * 1024,
            pll="SB_PLL40_PAD",
        ),
        Family(
            name="gowin",
            title="Gowin GW1N",
            synthesis="synth_gowin",
            cells={
                "luts": {r"LUT[1-4]": 1, r"ALU": 1, r"RAM16SDP4": 6},
                "ffs": {r"DFF\w*": 1},
                "dsps": {r"MULT(9X9|18X18|36X36)|MULTALU\w+|MULTADDALU\w+": 1},
                "brams": {r"(SP|DPB|SDPB|pROM)(X9)?": 1},
                "carries": {r"ALU": 1},
            },
            lut_inputs=4,
            bram_bits=18 * 1024,
            pll="rPLL",
        ),
        Family(
            name="xc7",
            title="Xilinx 7-series",
            synthesis="synth_xilinx -flatten -family xc7",
            cells=XILINX,
            lut_inputs=6,
            bram_bits=36 * 1024,
            pll="PLLE2_BASE",
            placed=False,
        ),
        Family(
            name="xcup",
            title="Xilinx UltraScale+",
            synthesis="synth_xilinx -flatten -family xcup",
            cells=XILINX,
            lut_inputs=6,
            bram_bits=36 * 1024,
            pll="MMCME4_BASE",
            placed=False,
        ),
    )
}


def get(name: str) -> Family:
    """The family called ``name``.

    Raises:
        ToolError: there is none; the message lists those there are.
    """
    if name not in FAMILIES:
        raise ToolError(f"unknown family '{name}': expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
