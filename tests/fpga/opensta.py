"""OpenSTA, a static timer by others, on a netlist of ours: Verilog out, worst arrivals back.

``python tests/fpga/opensta.py LIBRARY...`` prints the comparison of docs/gates.md.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from mapped_verilog import structural
from numpy.typing import NDArray
from opennpe.fpga import liberty, liberty_text, synthesis, timing
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.timing import Timing

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import compare_cells

__all__ = ["FOUND", "arrivals", "compared"]

FOUND = shutil.which("sta")
CLOCK_NS = 1000
THRESHOLDS = "".join(
    f"  {what}_threshold_pct_{edge} : {percent};\n"
    for what, percent in (
        ("input", 50), ("output", 50), ("slew_lower", 20), ("slew_upper", 80)
    )
    for edge in ("rise", "fall")
)  # fmt: skip
"""What OpenSTA wants to know; it matters only where libraries meet."""


def _plain(file: Path, copy: Path) -> str:
    """A Liberty file unpacked, without what we do not take from it: wires by default, capacitances
    by edge and their ranges."""
    data = file.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("latin-1")
    text = re.sub(r"(default_wire_load\w*|(rise|fall)_capacitance)\s*:[^;]*;", "", text)
    text = re.sub(r"(rise|fall)_capacitance_range\s*\([^)]*\)\s*;", "", text)
    copy.write_text(text, encoding="latin-1")
    return str(copy)


def arrivals(
    netlist: Netlist, folder: Path, *, clock: str | None = None, clock_slew_ps: float = 0.0
) -> dict[str, float]:
    """Worst arrival at each output port bit, and the worst register path, ps.

    Args:
        netlist: what is timed, by its library's own files or by the text of its table.
        folder: for files.
        clock: name of the clock port; its path is then under "register".
        clock_slew_ps: of the clock.
    """
    assert FOUND is not None
    files = [
        _plain(Path(file), folder / f"cells{number}.lib")
        for number, file in enumerate(netlist.library.files)
    ]
    if not files:
        files = [str(folder / "cells.lib")]
        text = liberty_text.write(netlist.library)
        Path(files[0]).write_text(text.replace("{\n", "{\n" + THRESHOLDS, 1))
    (folder / "top.v").write_text(structural(netlist))
    lines = [f"read_liberty {file}" for file in files]
    lines += [
        f"read_verilog {folder / 'top.v'}",
        f"link_design {netlist.top}",
        "set_cmd_units -time ps -capacitance fF",
    ]
    if clock:
        lines += [
            f"create_clock -name c -period {CLOCK_NS * 1000} {clock}",
            f"set_clock_transition {clock_slew_ps} c",
        ]
    else:
        lines.append(f"create_clock -name c -period {CLOCK_NS * 1000}")
    for bit in _bits(netlist, "input"):
        if bit != clock:
            lines.append(f"set_input_delay -clock c 0 {{{bit}}}")
            lines.append(f"set_input_transition 0 {{{bit}}}")
    outputs = _bits(netlist, "output")
    lines += [f"set_output_delay -clock c 0 {{{bit}}}" for bit in outputs]
    for bit in outputs:
        lines += [f"puts {{END {bit}}}", f"report_checks -to {{{bit}}} -digits 4"]
    if clock:
        ends = "-from [all_registers -clock_pins] -to [all_registers -data_pins]"
        lines += ["puts {END register}", f"report_checks {ends} -digits 4"]
    lines.append("exit")
    script = folder / "sta.tcl"
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run([FOUND, "-no_init", "-exit", str(script)], capture_output=True, text=True)
    (folder / "sta.log").write_text(done.stdout + done.stderr)
    found = {}
    for part in done.stdout.split("END ")[1:]:
        name = part.split()[0]
        arrival = re.search(r"([\d.]+)\s+data arrival time", part)
        if arrival:
            found[name] = float(arrival[1])
            setup = re.search(r"(-?[\d.]+)\s+[\d.]+\s+library setup time", part)
            if name == "register" and setup:
                found["setup"] = -float(setup[1])
    return found


def compared(
    netlist: Netlist, folder: Path, *, clock: str | None = None, clock_slew_ps: float = 0.0
) -> tuple[NDArray[np.float64], Timing, dict[str, float]]:
    """OpenSTA's arrivals over ours less 1 at all outputs that hang on something, and both."""
    found = timing.analyse(netlist, clock_slew_ps=clock_slew_ps)
    theirs = arrivals(netlist, folder, clock=clock, clock_slew_ps=clock_slew_ps)
    errors = []
    for name, port in netlist.ports.items():
        for bit, net in enumerate(port.nets if port.direction == "output" else ()):
            ours = float(found.arrival_ps[net].max())
            if np.isfinite(ours) and ours > 0:
                errors.append(theirs[f"{name}[{bit}]" if len(port.nets) > 1 else name] / ours - 1)
    return np.array(errors), found, theirs


def _bits(netlist: Netlist, direction: str) -> list[str]:
    return [
        f"{name}[{bit}]" if len(port.nets) > 1 else name
        for name, port in netlist.ports.items()
        if port.direction == direction
        for bit in range(len(port.nets))
    ]


def _row(block: str, source: str) -> str:
    """Of the table: the worst path of a block by both, and the worst difference at an output."""
    name = f"opennpe_{block}"
    library = liberty.load(source)
    gates = synthesis.synthesise(compare_cells.design(block), library, top=name)
    clock = "clk" if "clk" in gates.ports else None
    with tempfile.TemporaryDirectory(prefix="opennpe-sta-") as folder:
        errors, found, theirs = compared(
            gates, Path(folder), clock=clock, clock_slew_ps=library.typical_slew_ps
        )
    between = found.worst_between_registers
    ours = found.worst.total_ps if between is None else between.total_ps
    worst = theirs["register"] + theirs["setup"] if clock else max(theirs.values())
    return (
        f"| {library.name} | {block} | {ours:,.1f} | {worst:,.1f} | {worst / ours - 1:+.2%} "
        f"| {np.abs(errors).max():.2%} |"
    )


def main() -> None:
    """Print the table for libraries by name or file."""
    print("| library | block | ours ps | OpenSTA ps | difference | one output, at most |")
    print("|---|---|---|---|---|---|")
    for source in sys.argv[1:]:
        for block in ("decode", "multiply", "normalise", "round", "engine"):
            print(_row(block, source), flush=True)


if __name__ == "__main__":
    main()
