"""The co-processor as Verilog text, and what the Verilated harness needs to know of its ports."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from opennpe.golden.registers import CAUSES, COUNTERS, REGISTERS, VERSION
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.array import EngineRow
from opennpe.rtl.results import Gather
from opennpe.rtl.verilog import PREFIX, convert, write_text

__all__ = ["MANIFEST", "TOP", "coprocessor_verilog", "emit", "hierarchical", "layout", "manifest"]

TOP = f"{PREFIX}_coprocessor"
MANIFEST = "coprocessor.json"
SCHEMA = {"name": "opennpe.rtl.coprocessor", "version": 1}
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
    constants = {"BUS_BYTES": spec.memory.bus_bits // 8, "BURST_BEATS": spec.burst_beats}
    lines = ["#pragma once", f"#define TOP_CLASS V{TOP}"]
    lines += [f"#define TRACE_{kind.upper()} {int(waves == kind)}" for kind in ("fst", "vcd")]
    lines += [f"constexpr int {name} = {value};" for name, value in constants.items()]
    return "\n".join(lines) + "\n"


def manifest(spec: CoprocessorSpec) -> dict[str, Any]:
    """What a user of the co-processor's Verilog needs to know, all of it derived from the spec."""
    from opennpe.rtl.coprocessor import coprocessor_signature

    signature = coprocessor_signature(spec)
    ports = [{"name": name, "direction": "input", "width": 1} for name in ("clk", "rst")]
    for path, member, _ in signature.flatten(signature.create()):
        ports.append(
            {
                "name": "__".join(map(str, path)),
                "direction": "input" if member.flow.name == "In" else "output",
                "width": Shape.cast(member.shape).width,
            }
        )
    return {
        "schema": SCHEMA,
        "top": TOP,
        "spec": {
            "name": spec.name,
            "rows": spec.array.rows,
            "columns": spec.array.columns,
            "underflow": spec.underflow,
            **asdict(spec.memory),
        },
        "commands_version": VERSION,
        "line_bytes": spec.line_bytes,
        "registers": REGISTERS,
        "counters": list(COUNTERS),
        "causes": list(CAUSES),
        "ports": ports,
    }


def emit(spec: CoprocessorSpec, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the co-processor's Verilog and its manifest; files whose text stands are left alone.

    Returns:
        The Verilog file and the manifest.

    Raises:
        SpecError: a spec the co-processor has no gates for.
        ToolError: pyosys is missing.
        OSError: the folder cannot be written.
    """
    texts = {
        f"{TOP}.v": coprocessor_verilog(spec),
        MANIFEST: json.dumps(manifest(spec), indent=2) + "\n",
    }
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(place / name, text)
    return [place / name for name in texts]
