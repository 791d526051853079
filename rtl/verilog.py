"""Amaranth to readable Verilog and a manifest of its ports, by RTLIL and Yosys."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Shape
from amaranth.lib import data, wiring
from opennpe.golden import formats
from opennpe.golden.mac import grid_exponent
from opennpe.golden.spec import CoprocessorSpec, EngineSpec
from opennpe.golden.whole import replacing
from opennpe.rtl import ports, yosys
from opennpe.rtl.engine import Engine
from opennpe.rtl.hierarchy import Blocks

__all__ = [
    "MANIFEST",
    "PREFIX",
    "SCHEMA",
    "TOP",
    "convert",
    "emit",
    "manifest",
    "verilog",
    "write_text",
]

PREFIX = "opennpe"
TOP = f"{PREFIX}_engine"
MANIFEST = "manifest.json"
SCHEMA = {"name": "opennpe.rtl.manifest", "version": 1}
CLEARED = re.compile(
    r"^  cell \$meminit_v2 (?:(?!^  end$).)*?connect \\DATA \d+'0+\n(?:(?!^  end$).)*?^  end\n",
    re.MULTILINE | re.DOTALL,
)
"""In RTLIL, contents of a memory at the start that are all zero."""
UNTOLD = re.compile(r"^ *\(\* (?!no_rw_check\b).* \*\)\n", re.MULTILINE)
"""In Verilog, attributes that say nothing to synthesis; one does (:mod:`opennpe.rtl.memories`)."""


def verilog(spec: EngineSpec, top: str = TOP) -> str:
    """The engine of ``spec`` as Verilog text, one module a block.

    Raises:
        ToolError: pyosys is not installed, or refuses.
    """
    ports.check_spec(spec)
    return convert(Engine(spec), top)


def convert(design: wiring.Component, top: str) -> str:
    """A design as Verilog text: module ``top`` and one module a block that it places.

    Raises:
        ToolError: pyosys is not installed, or refuses.
    """
    blocks = Blocks(PREFIX)
    texts = {top: rtlil.convert(design, name=top, platform=blocks, emit_src=False)}
    texts.update(blocks.texts)
    with tempfile.TemporaryDirectory(prefix="opennpe-") as folder:
        target = Path(folder, "top.v")
        for name, text in texts.items():
            # A memory that begins with zeros begins with anything: nothing reads it unwritten, and
            # gates do not clear it.
            Path(folder, f"{name}.il").write_text(CLEARED.sub("", text))
        yosys.run(
            *(f"read_rtlil {Path(folder, name)}.il" for name in texts),
            f"hierarchy -top {top}",
            "proc -nomux -norom",
            "memory_collect",
            "opt_clean",
            f"write_verilog -norename {target}",
        )
        # The writer numbers the register that starts its processes by all that came before.
        text = UNTOLD.sub("", target.read_text())
        return re.sub(r"\\\$auto\$verilog_backend\.cc:\d+:\w+\$\d+", r"\\$start", text)


def manifest(spec: EngineSpec, top: str = TOP) -> dict[str, Any]:
    """What a user of the Verilog needs to know, all of it derived from the spec."""
    choices = {
        "formats": list(spec.mac.formats),
        "underflow": spec.mac.underflow,
        "accumulator": spec.mac.accumulator,
        "word_bits": spec.word_bits,
        "accumulator_bits": spec.accumulator_bits,
        "shift_bits": spec.shift_bits,
    }
    return {
        "schema": SCHEMA,
        "top": top,
        "spec": choices,
        "stages": list(spec.stages),
        "latency_cycles": spec.latency,
        "initiation_interval_cycles": {"word": 1, "sum": "max(words, lanes)"},
        "formats": [_format(spec, index, name) for index, name in enumerate(spec.mac.formats)],
        "modes": _modes(spec),
        "underflow_zero": {"0": "minpos", "1": "zero"},
        "ports": _ports(spec),
    }


def _format(spec: EngineSpec, index: int, name: str) -> dict[str, Any]:
    fmt = formats.get(name)
    return {
        "index": index,
        "name": name,
        "bits": fmt.bits,
        "lanes": spec.lanes(name),
        "lane_accumulator_bits": spec.lane_accumulator_bits(name),
        "nan_code": fmt.nan_code,
    }


def _modes(spec: EngineSpec) -> list[dict[str, Any]]:
    return [
        {
            "a": a,
            "b": b,
            "grid_exponent": grid_exponent(a, b),
            "max_terms": spec.max_terms(a, b),
        }
        for a in spec.mac.formats
        for b in spec.mac.formats
        if spec.lanes(a) == spec.lanes(b)
    ]


def _ports(spec: EngineSpec) -> list[dict[str, Any]]:
    signature = ports.engine_signature(spec)
    payloads = {
        "words__payload": ports.word_layout(spec),
        "results__payload": ports.result_layout(spec),
    }
    found = [
        {"name": "clk", "direction": "input", "width": 1},
        {"name": "rst", "direction": "input", "width": 1},
    ]
    for path, member, _ in signature.flatten(signature.create()):
        name = "__".join(str(part) for part in path)
        port: dict[str, Any] = {
            "name": name,
            "direction": "input" if member.flow.name == "In" else "output",
            "width": Shape.cast(member.shape).width,
        }
        if name in payloads:
            port["fields"] = _fields(payloads[name])
        found.append(port)
    return found


def _fields(layout: data.StructLayout) -> list[dict[str, Any]]:
    return [
        {"name": str(key), "offset": field.offset, "width": field.width} for key, field in layout
    ]


def emit(spec: CoprocessorSpec | EngineSpec, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the engine's Verilog and its manifest; files whose text stands are left alone.

    Returns:
        The Verilog file and the manifest.

    Raises:
        ToolError: pyosys is missing.
        SpecError: a spec the engine has no gates for.
        OSError: the folder cannot be written.
    """
    engine = spec.engine if isinstance(spec, CoprocessorSpec) else spec
    described: dict[str, Any] = manifest(engine)
    if isinstance(spec, CoprocessorSpec):
        described["spec"] = {"name": spec.name, **described["spec"]}
    place = Path(folder)
    texts = {
        f"{TOP}.v": verilog(engine),
        MANIFEST: json.dumps(described, indent=2) + "\n",
    }
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(place / name, text)
    return [place / name for name in texts]


def write_text(path: Path, text: str) -> None:
    """Atomically, and only when the text changed."""
    if path.is_file() and path.read_text() == text:
        return
    with replacing(path) as temporary:
        temporary.write_text(text)
