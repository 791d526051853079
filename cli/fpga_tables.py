"""What ``opennpe fpga`` prints."""

from __future__ import annotations

from typing import Any

from opennpe.cli.tables import table
from opennpe.fpga.boards import Board
from opennpe.fpga.build import Fit
from rich.table import Table

__all__ = ["board_row", "board_table", "compare_table", "fit_lines", "fit_table"]

KIND_NAMES = {
    "luts": "LUTs",
    "ffs": "registers",
    "dsps": "multipliers",
    "brams": "block RAMs",
    "carries": "carry cells",
}


def fit_table(found: Fit) -> Table:
    """The table of ``opennpe fpga fit``: what the device's cells are used for."""
    columns = {"what": "left", "used": "right", "of": "right", "%": "right"}
    rows = [
        [f"{KIND_NAMES[kind]}, synthesised", f"{number:,.0f}", "", ""]
        for kind, number in found.kinds.items()
    ]
    rows += [
        # Cells that nextpnr adds for itself are not of the device: there are 0.
        [name, f"{used:,}", f"{there:,}", f"{100 * used / there:.0f}" if there else ""]
        for name, (used, there) in found.used.items()
        if used
    ]
    return table(f"{found.spec}, {found.design}, on {found.board} ({found.device})", columns, rows)


def fit_lines(found: Fit) -> list[str]:
    """Clocks, the slowest path, times and files."""
    lines = [
        f"clock {clock.name}: {clock.mhz:.1f} MHz, wanted {clock.wanted_mhz:.1f}"
        + ("" if clock.closes else ": too slow")
        for clock in found.clocks
    ]
    path = found.path
    lines.append(
        f"slowest path: {path['ns']:.1f} ns, {path['logic_ns']:.1f} of it in cells, from "
        f"{path['from']} to {path['to']}"
    )
    times = ", ".join(
        f"{name} {seconds:.0f} s" + (" (kept)" if name in found.cached else "")
        for name, seconds in found.seconds.items()
    )
    lines.append(f"{times}; seed {found.seed}; files in {found.folder}")
    if found.bitstream:
        lines.append(f"bitstream: {found.bitstream}")
    return lines


def board_row(board: Board) -> dict[str, Any]:
    """A board, JSON-ready."""
    return {
        "name": board.name,
        "title": board.title,
        "device": board.device,
        "luts": board.capacity.luts,
        "ffs": board.capacity.ffs,
        "block_ram_kib": board.memory_bits // 8192,
        "dsps": board.capacity.dsps,
        "mhz": board.mhz,
        "tools": "nextpnr" if board.made_of.placed else "Vivado",
    }


def board_table(rows: list[dict[str, Any]]) -> Table:
    """The table of ``opennpe fpga boards``."""
    left = ("name", "title", "device", "tools")
    columns = {name: "left" if name in left else "right" for name in rows[0]}
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows]
    return table("Boards", columns, cells)


def compare_table(rows: list[dict[str, Any]]) -> Table:
    """The table of ``opennpe fpga compare``."""
    columns = {"family": "left", "unit": "left"}
    columns |= dict.fromkeys(KIND_NAMES.values(), "right")
    cells = [
        [row["family"], row["unit"], *(f"{row[kind]:,.0f}" for kind in KIND_NAMES)] for row in rows
    ]
    return table("Cells of one unit, synthesised by Yosys", columns, cells)
