"""Place and route by nextpnr, and the bitstream by the family's packer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opennpe.fpga import toolchain
from opennpe.fpga.boards import Board
from opennpe.fpga.progress import Progress
from opennpe.golden.errors import ToolError

__all__ = ["BITSTREAMS", "Clock", "Placed", "flow", "pack", "place_and_route", "read_report"]


@dataclass(frozen=True)
class Clock:
    """A clock of a placed design: MHz reached, MHz wanted."""

    name: str
    mhz: float
    wanted_mhz: float

    @property
    def closes(self) -> bool:
        """Whether it is fast enough."""
        return self.mhz >= self.wanted_mhz


@dataclass(frozen=True)
class Placed:
    """What nextpnr reports.

    Attributes:
        clocks: each with what it reaches.
        used: the device's cells, used and there, by the maker's names.
        path_from, path_to: ends of the slowest path between registers.
        path_ns: its delay, of which ``logic_ns`` in cells, the rest in wires.
    """

    clocks: tuple[Clock, ...]
    used: Mapping[str, tuple[int, int]]
    path_from: str
    path_to: str
    path_ns: float
    logic_ns: float


@dataclass(frozen=True)
class Flow:
    """Programs and files of a family.

    Attributes:
        place: nextpnr's name. pins: its option for constraints. routed: of what it writes.
        pack: the packer's name.
    """

    place: str
    pins: tuple[str, ...]
    routed: tuple[str, ...]
    pack: str


FLOWS = {
    "ecp5": Flow("nextpnr-ecp5", ("--lpf", "{}"), ("--textcfg", "{}"), "ecppack"),
    "ice40": Flow("nextpnr-ice40", ("--pcf", "{}"), ("--asc", "{}"), "icepack"),
    "gowin": Flow(
        "nextpnr-himbaechel-gowin", ("--vopt", "cst={}"), ("--write", "{}"), "gowin_pack"
    ),
}
BITSTREAMS = {"ecp5": "top.bit", "ice40": "top.bin", "gowin": "top.fs"}
NETLIST, PINS, ROUTED, REPORT = "netlist.json", "pins.txt", "routed.txt", "nextpnr.json"
LOG, PACK_LOG = "nextpnr.log", "pack.log"


def flow(board: Board) -> Flow:
    """The programs for a board.

    Raises:
        ToolError: there are none for its family.
    """
    if board.family not in FLOWS:
        raise ToolError(
            f"{board.title} needs Vivado: write its project with 'opennpe fpga vivado "
            f"{board.name}'; the boards with free tools are of {', '.join(FLOWS)}"
        )
    return FLOWS[board.family]


def options(board: Board, mhz: float, seed: int) -> list[str]:
    """What nextpnr is told beside its files."""
    return [*board.place, "--freq", f"{mhz:g}", "--seed", str(seed)]


def place_and_route(
    board: Board, folder: Path, mhz: float, seed: int, progress: Progress
) -> Placed:
    """Place and route ``netlist.json`` of a folder; the report and its log stay there.

    Timing is reported, not judged.

    Raises:
        ToolError: nextpnr is missing, or failed: the design does not fit.
    """
    files = flow(board)
    arguments = [
        *toolchain.command(files.place),
        *options(board, mhz, seed),
        *("--json", NETLIST, "--report", REPORT, "--timing-allow-fail"),
        *(part.format(PINS) for part in files.pins),
        *(part.format(ROUTED) for part in files.routed),
    ]
    listen = _listener(progress)
    toolchain.run(arguments, folder, folder / LOG, listen)
    return read_report(folder / REPORT)


ITERATIONS = 30
"""About as many as the analytical placer takes."""


def _listener(progress: Progress) -> Callable[[str], None]:
    """Turns nextpnr's log into stages: placing by iterations, routing by hundreds of arcs."""
    state = {"arcs": 0, "routed": 0}
    progress.stage("place", ITERATIONS)

    def listen(line: str) -> None:
        if "at iteration #" in line:
            progress.advance(1)
        elif begun := re.match(r"Info: Routing (\d+) arcs", line):
            state["arcs"], state["routed"] = int(begun[1]), 0
            progress.stage("route", state["arcs"] // 100)
        elif row := re.match(r"Info:\s+\d+ \|[^|]*\|[^|]*\|\s+(\d+)\|", line):
            routed = max(0, state["arcs"] - int(row[1])) // 100
            progress.advance(max(0, routed - state["routed"]))
            state["routed"] = max(routed, state["routed"])

    return listen


def read_report(path: Path) -> Placed:
    """nextpnr's report.

    Raises:
        ToolError: it has no clock or no count.
    """
    about = json.loads(path.read_text(encoding="utf-8"))
    clocks = tuple(
        Clock(name, float(found["achieved"]), float(found["constraint"]))
        for name, found in about["fmax"].items()
    )
    if not clocks or not about["utilization"]:
        raise ToolError(f"nextpnr reports no clock or no cells: see {path}")
    used = {
        name: (int(found["used"]), int(found["available"]))
        for name, found in about["utilization"].items()
    }
    inside = [path for path in about["critical_paths"] if path["from"] == path["to"]]
    slowest = max(inside, key=_delay, default=None)
    if slowest is None:
        return Placed(clocks, used, "", "", 0.0, 0.0)
    steps = slowest["path"]
    logic = sum(step["delay"] for step in steps if step["type"] != "routing")
    first, last = steps[0]["from"]["cell"], steps[-1]["to"]["cell"]
    return Placed(clocks, used, first, last, _delay(slowest), logic)


def _delay(path: Any) -> float:
    return float(sum(step["delay"] for step in path["path"]))


def pack(board: Board, folder: Path) -> Path:
    """The bitstream of what is placed and routed in a folder.

    Raises:
        ToolError: the packer is missing, or failed.
    """
    name = BITSTREAMS[board.family]
    part = f".part-{name}"
    arguments = {
        "ecp5": ["--compress", ROUTED, part],
        "ice40": [ROUTED, part],
        "gowin": [*board.pack, "-o", part, ROUTED],
    }[board.family]
    toolchain.run([*toolchain.command(flow(board).pack), *arguments], folder, folder / PACK_LOG)
    if not (folder / part).is_file() or not (folder / part).stat().st_size:
        raise ToolError(f"{flow(board).pack} wrote no bitstream: see {folder / PACK_LOG}")
    os.replace(folder / part, folder / name)
    return folder / name
