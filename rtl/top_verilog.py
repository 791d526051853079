"""The co-processor as Verilog text, and what the Verilated harness needs to know of its ports."""

from __future__ import annotations

import re

from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi
from opennpe.rtl.array import EngineRow
from opennpe.rtl.results import Gather
from opennpe.rtl.verilog import PREFIX, convert

__all__ = ["TOP", "coprocessor_verilog", "hierarchical", "layout"]

TOP = f"{PREFIX}_coprocessor"
BLOCKS = tuple(f"{PREFIX}_{block.module_name}" for block in (EngineRow, Gather))
"""Modules of which there are many, with registers: Verilator compiles each once."""


def coprocessor_verilog(spec: CoprocessorSpec) -> str:
    """The co-processor of ``spec``; its engines are instances of one module.

    Raises:
        SpecError: a spec the co-processor has no gates for.
        ToolError: pyosys is not installed, or refuses.
    """
    from opennpe.rtl.coprocessor import Coprocessor

    spec.check_coprocessor()
    return convert(Coprocessor(spec), TOP)


def hierarchical(text: str) -> str:
    """Verilog of which Verilator compiles a row of engines once, however many there are.

    Compiled flat, 64 engines take minutes.
    """
    head = rf"^(module (?:{'|'.join(BLOCKS)})\([^;]*\);)$"
    return re.sub(head, r"\1 /*verilator hier_block*/", text, flags=re.MULTILINE)


def layout(spec: CoprocessorSpec, waves: str) -> str:
    """The C++ header that describes a co-processor to the harness."""
    constants = {"BUS_BYTES": spec.memory.bus_bits // 8, "BURST_BEATS": axi.burst_beats(spec)}
    lines = ["#pragma once", f"#define TOP_CLASS V{TOP}"]
    lines += [f"#define TRACE_{kind.upper()} {int(waves == kind)}" for kind in ("fst", "vcd")]
    lines += [f"constexpr int {name} = {value};" for name, value in constants.items()]
    return "\n".join(lines) + "\n"
