"""From a specification to the bitstream of a board, step by step, each kept by its content."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from opennpe.fpga import boards, comparison, place_route, plls, shell, toolchain, utilisation
from opennpe.fpga.boards import Board
from opennpe.fpga.place_route import Clock
from opennpe.fpga.progress import Progress, Silent
from opennpe.fpga.wrapped import Wrapped
from opennpe.golden.errors import SpecError, ToolError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import verilated, verilog

__all__ = ["DESIGNS", "Fit", "build", "check_size", "fit", "program"]

DESIGNS = ("coprocessor", "engine", "separate")
"""What goes on a board: a co-processor behind a serial link, or a unit between registers."""
SEED = "seed"
SCHEMA = {"name": "opennpe.fpga.fit", "version": 1}
SEEDS = (1, 2, 3)
"""Tried in turn until the clock is reached."""


@dataclass(frozen=True)
class Fit:
    """A design on a board, placed and routed.

    Attributes:
        kinds: look-up tables, registers and so on of the synthesised design.
        used: the device's cells, used and there, by the maker's names.
        clocks: MHz reached and wanted.
        path: the slowest path: its ends, and ns in all and in cells.
        seconds: of each step when it ran.
        cached: the steps whose results were there already.
        bitstream: the file, if one was asked for.
    """

    board: str
    device: str
    spec: str
    design: str
    seed: int
    kinds: dict[str, float]
    used: dict[str, tuple[int, int]]
    clocks: tuple[Clock, ...]
    path: dict[str, Any]
    seconds: dict[str, float]
    cached: tuple[str, ...] = ()
    bitstream: str = ""
    folder: str = ""
    schema: dict[str, Any] = field(default_factory=lambda: dict(SCHEMA))

    @property
    def closes(self) -> bool:
        """Whether every clock is reached."""
        return all(clock.closes for clock in self.clocks)

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        about = asdict(self)
        about["closes"] = self.closes
        return about


def kind_of(spec: CoprocessorSpec, design: str | None = None) -> str:
    """What of a specification goes on a board: a co-processor, if it has one.

    Raises:
        SpecError: an unknown design.
    """
    if design is None:
        return "engine" if spec.array.rows * spec.array.columns == 1 else "coprocessor"
    if design not in DESIGNS:
        raise SpecError(f"unknown design '{design}': expected {' or '.join(DESIGNS)}")
    return design


def component(board: Board, spec: CoprocessorSpec, design: str, hz: float) -> wiring.Component:
    """The design for a board whose clock is ``hz``.

    Raises:
        SpecError: a specification without gates, or a clock that the link's rate does not divide.
    """
    if design != "coprocessor":
        return Wrapped(comparison.unit(spec.engine, design))
    from opennpe.rtl.board_top import BoardTop

    return BoardTop(spec, hz, board.baud, board.memory_bytes)


def memory_bits(board: Board, spec: CoprocessorSpec) -> int:
    """Bits of block RAM that a co-processor and its main memory take at least."""
    memory = spec.memory
    lines = memory.buffer_lines + memory.weight_lines
    rows = memory.operand_lines * spec.array.rows
    return 8 * (lines * spec.line_bytes + rows * spec.line_bytes + board.memory_bytes)


def check_size(board: Board, spec: CoprocessorSpec, design: str) -> None:
    """Refuse what cannot fit before it is synthesised: by its memories, then by its units alone.

    Raises:
        SpecError: too large; the message says by what.
        ToolError: pyosys is missing.
    """
    if design == "coprocessor":
        spec.check_coprocessor()
        bits = memory_bits(board, spec)
        if bits > board.memory_bits:
            raise SpecError(
                f"{spec.name} needs at least {bits / 8192:.0f} KiB of block RAM, {board.title} has "
                f"{board.memory_bits / 8192:.0f}: choose a smaller spec or another board"
            )
    units = spec.array.rows * spec.array.columns if design == "coprocessor" else 1
    unit = "engine" if design == "coprocessor" else design
    counted = utilisation.count_verilog(
        board.made_of,
        verilated.remembered(
            lambda: verilog.convert(comparison.unit(spec.engine, unit), verilog.TOP),
            *(unit, repr(spec.engine)),
        ),
        verilog.TOP,
    )
    luts = math.ceil(units * counted.kinds["luts"])
    if luts > board.capacity.luts:
        raise SpecError(
            f"{spec.name} needs more than {luts:,} LUT{board.made_of.lut_inputs} ({units} "
            f"{unit}{'s' if unit == 'engine' else ''} of {counted.kinds['luts']:,.0f}), "
            f"{board.title} has {board.capacity.luts:,}: choose a smaller spec or another board"
        )


def fit(
    board: Board,
    spec: CoprocessorSpec,
    out: Path,
    *,
    design: str | None = None,
    mhz: float | None = None,
    seeds: tuple[int, ...] = SEEDS,
    progress: Progress | None = None,
) -> Fit:
    """Synthesise, place and route; nothing is packed. Steps whose inputs stand are not repeated.

    Args:
        board: where it goes.
        spec: what goes there.
        out: the folder of all files.
        design: of :data:`DESIGNS`; the co-processor if the specification has one.
        mhz: of the design's clock; the board's usual one unless given.
        seeds: tried in turn until the clock is reached.
        progress: told what goes on.

    Raises:
        SpecError: it cannot fit, or its clock cannot be made.
        ToolError: a tool is missing or failed.
        OSError: the folder cannot be written.
    """
    told = progress or Silent()
    design = kind_of(spec, design)
    place_route.flow(board)
    toolchain.version(place_route.flow(board).place)
    ratio = shell.clock(board, mhz or board.mhz)
    check_size(board, spec, design)
    out.mkdir(parents=True, exist_ok=True)
    steps = Steps(out)
    made = ratio.mhz if ratio else board.clock_mhz
    text = board_verilog(board, spec, design, ratio)
    verilog.write_text(out / "top.v", text)
    verilog.write_text(out / place_route.PINS, boards.constraints(board))
    counts = _synthesise(board, text, out, made, steps, told)
    for seed in _order(out, seeds):
        placed = _place(board, out, made, seed, steps, told)
        if all(clock.closes for clock in placed.clocks):
            break
    path = {
        "from": placed.path_from,
        "to": placed.path_to,
        "ns": placed.path_ns,
        "logic_ns": placed.logic_ns,
    }
    verilog.write_text(out / SEED, f"{seed}\n")
    return Fit(
        *(board.name, board.device, spec.name, design, seed),
        kinds=counts,
        used=dict(placed.used),
        clocks=placed.clocks,
        path=path,
        seconds=steps.seconds,
        cached=tuple(steps.cached),
        folder=str(out),
    )


def board_verilog(
    board: Board, spec: CoprocessorSpec, design: str, ratio: plls.Ratio | None
) -> str:
    """Verilog of a design on a board's pins, module ``shell.TOP``; kept in the cache.

    Raises:
        SpecError: a specification without gates.
        ToolError: pyosys is missing.
    """
    hz = 1e6 * (ratio.mhz if ratio else board.clock_mhz)
    return verilated.remembered(
        lambda: verilog.convert(
            shell.Shell(board, ratio, component(board, spec, design, hz)), shell.TOP
        ),
        *("board", repr(board), repr(spec), design, repr(hz), _sources()),
    )


def _order(out: Path, seeds: tuple[int, ...]) -> list[int]:
    """Seeds, the one of the last time first: its results may be there."""
    note = out / SEED
    last = int(note.read_text()) if note.is_file() else None
    return sorted(seeds, key=lambda seed: seed != last)


def _sources() -> str:
    """What makes the Verilog around a design, for the key of its cache."""
    names = ("shell.py", "wrapped.py", "plls.py", "build.py")
    return verilated.content(*(Path(__file__).with_name(name).read_bytes() for name in names))


class Steps:
    """Steps whose results are kept in a folder, each known by what went into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []

    def run(self, name: str, key: str, files: tuple[str, ...], make: Callable[[], object]) -> None:
        """Make the files of a step unless they are there for this key."""
        note = self.folder / f"{name}.key"
        known = json.loads(note.read_text()) if note.is_file() else {}
        whole = all((self.folder / file).is_file() for file in files)
        if known.get("key") == key and whole:
            self.cached.append(name)
            self.seconds[name] = known["seconds"]
            return
        note.unlink(missing_ok=True)
        begun = time.perf_counter()
        make()
        self.seconds[name] = round(time.perf_counter() - begun, 2)
        verilog.write_text(note, json.dumps({"key": key, "seconds": self.seconds[name]}))


def _synthesise(
    board: Board, text: str, out: Path, mhz: float, steps: Steps, progress: Progress
) -> dict[str, float]:
    family = board.made_of
    recipe = utilisation.passes(family, out / "top.v", shell.TOP, None, mhz)

    def make() -> None:
        progress.stage("synthesise", 1)
        made = utilisation.synthesise(
            family, text, shell.TOP, out / place_route.NETLIST, out / "yosys.log", mhz
        )
        (out / "cells.json").write_text(json.dumps(dict(made.cells), indent=2) + "\n")
        progress.advance()

    key = verilated.content(text, *recipe[1:], toolchain.yosys_version())
    steps.run("synthesise", key, (place_route.NETLIST, "cells.json"), make)
    return family.count(json.loads((out / "cells.json").read_text()))


def _place(
    board: Board, out: Path, mhz: float, seed: int, steps: Steps, progress: Progress
) -> place_route.Placed:
    files = (place_route.ROUTED, place_route.REPORT)
    key = verilated.content(
        (out / place_route.NETLIST).read_bytes(),
        (out / place_route.PINS).read_bytes(),
        *place_route.options(board, mhz, seed),
        toolchain.version(place_route.flow(board).place),
    )
    steps.run(
        "place",
        key,
        files,
        lambda: place_route.place_and_route(board, out, mhz, seed, progress),
    )
    return place_route.read_report(out / place_route.REPORT)


def build(board: Board, spec: CoprocessorSpec, out: Path, **options: Any) -> Fit:
    """:func:`fit`, then the bitstream, if the clock is reached.

    Raises:
        ToolError: the clock is not reached, or a tool is missing or failed.
        SpecError: it cannot fit, or its clock cannot be made.
        OSError: the folder cannot be written.
    """
    packer = toolchain.version(place_route.flow(board).pack)
    progress = options.get("progress") or Silent()
    found = fit(board, spec, out, **options)
    slow = [clock for clock in found.clocks if not clock.closes]
    if slow:
        raise ToolError(
            f"{spec.name} on {board.title} reaches {slow[0].mhz:.1f} MHz, wanted "
            f"{slow[0].wanted_mhz:.1f}: choose a lower --freq or other --seeds; what was found is "
            f"in {out}"
        )
    steps = Steps(out)
    routed = (out / place_route.ROUTED).read_bytes()
    name = place_route.BITSTREAMS[board.family]

    def make() -> None:
        progress.stage("pack", 1)
        place_route.pack(board, out)
        progress.advance()

    steps.run("pack", verilated.content(routed, *board.pack, packer), (name,), make)
    return replace(
        found,
        seconds={**found.seconds, **steps.seconds},
        cached=(*found.cached, *steps.cached),
        bitstream=str(out / name),
    )


def program(board: Board, bitstream: Path) -> None:
    """Send a bitstream to a board that is plugged in.

    Raises:
        ToolError: openFPGALoader is missing or failed, or there is no bitstream.
    """
    if not bitstream.is_file():
        raise ToolError(
            f"there is no bitstream at {bitstream}: make it with 'opennpe fpga build {board.name}'"
        )
    command = [toolchain.loader(), "-b", board.loader, bitstream.name]
    toolchain.run(command, bitstream.parent, bitstream.parent / "loader.log")
