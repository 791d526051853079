"""A project for Vivado: Verilog, constraints and one script that makes the bitstream.

Nothing here runs Vivado, which is not free software; tests check that the script names files and
ports that exist.
"""

from __future__ import annotations

from pathlib import Path

from opennpe.fpga import boards, build, shell
from opennpe.fpga.boards import Board
from opennpe.golden.errors import ToolError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import verilog

__all__ = ["CONSTRAINTS", "PINS", "SCRIPT", "SOURCE", "emit", "script"]

SOURCE, SCRIPT, CONSTRAINTS, PINS = "top.v", "build.tcl", "clock.xdc", "pins.xdc"


def script(board: Board) -> str:
    """The script: ``vivado -mode batch -source build.tcl`` in the project's folder.

    Where the board's pins are not known, a ``pins.xdc`` beside it is read if it is there; without
    it the design is placed and routed, and no bitstream is written.
    """
    return f"""\
# Run in this folder: vivado -mode batch -source {SCRIPT}
set part {board.device}
set top {shell.TOP}
create_project -force -part $part opennpe project
add_files -norecurse {SOURCE}
add_files -fileset constrs_1 -norecurse {CONSTRAINTS}
set pins [file exists {PINS}]
if {{$pins}} {{ add_files -fileset constrs_1 -norecurse {PINS} }}
set_property top $top [current_fileset]
synth_design -top $top -part $part
report_utilization -file utilization_synth.rpt
report_utilization -hierarchical -file utilization_hierarchical.rpt
opt_design
place_design
phys_opt_design
route_design
report_utilization -file utilization.rpt
report_timing_summary -file timing.rpt
report_power -file power.rpt
write_checkpoint -force routed.dcp
if {{[get_property SLACK [get_timing_paths]] < 0}} {{
  puts "ERROR: the clock is not reached: see timing.rpt"
  exit 1
}}
if {{$pins}} {{
  write_bitstream -force top.bit
}} else {{
  puts "{PINS} is missing: no bitstream. Give every port of top a PACKAGE_PIN and IOSTANDARD there."
}}
"""


def clock_constraints(board: Board) -> str:
    """The clock that the board gives, and ports that no clock judges."""
    port = "clk_p" if board.differential else "clk_in"
    outputs = " ".join(("transmit", *_lights(board)))
    return (
        f"create_clock -name board -period {1000 / board.clock_mhz:.4f} [get_ports {port}]\n"
        "set_false_path -from [get_ports receive]\n"
        f"set_false_path -to [get_ports {{{outputs}}}]\n"
    )


def _lights(board: Board) -> list[str]:
    known = [pin.port for pin in board.pins if pin.port in boards.LIGHTS]
    return known or list(boards.LIGHTS)


def emit(
    board: Board,
    spec: CoprocessorSpec,
    folder: Path,
    design: str | None = None,
    mhz: float | None = None,
) -> list[Path]:
    """Write a project's files.

    Returns:
        The Verilog, the script, the constraints.

    Raises:
        ToolError: a board that needs no Vivado; pyosys is missing.
        SpecError: it cannot fit, or its clock cannot be made.
        OSError: the folder cannot be written.
    """
    if board.made_of.placed:
        raise ToolError(f"{board.title} needs no Vivado: use 'opennpe fpga build {board.name}'")
    design = build.kind_of(spec, design)
    ratio = shell.clock(board, mhz or board.mhz)
    build.check_size(board, spec, design)
    texts = {
        SOURCE: build.board_verilog(board, spec, design, ratio),
        SCRIPT: script(board),
        CONSTRAINTS: clock_constraints(board),
    }
    if board.pins:
        texts[PINS] = boards.constraints(board)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        verilog.write_text(folder / name, text)
    return [folder / name for name in texts]
