"""``opennpe fpga``: bitstreams, what they take of a board, and projects for Vivado."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from opennpe.cli.errors import OutputError

__all__ = ["app"]

app = typer.Typer(
    help="Bitstreams of boards, with no vendor tool.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(metavar="BOARD", help="A board; `opennpe fpga boards`.")]
ONE = "FPGA_1X1"
Spec = Annotated[str, typer.Option("--spec", help="What goes there, a name of the catalog.")]
Design = Annotated[
    str | None,
    typer.Option(help="coprocessor; or engine, or separate: one unit between registers."),
]
Freq = Annotated[float | None, typer.Option("--freq", min=0.1, help="MHz of the design's clock.")]
Seeds = Annotated[str, typer.Option(help="Of placement, tried in turn until the clock is reached.")]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder; build/fpga/BOARD-SPEC unless given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def folder(board: str, spec: str, design: str | None, out: Path | None) -> Path:
    """Where the files of a design on a board go."""
    name = "-".join(part for part in (board, spec, design) if part)
    return out or Path("build", "fpga", name)


def seeds_of(text: str) -> tuple[int, ...]:
    """``1,2,3`` as numbers.

    Raises:
        BadParameter: something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"seeds are numbers with commas between, got '{text}'") from None


def _run(name: str, spec: str, out: Path | None, as_json: bool, pack: bool, **options: Any) -> int:
    from opennpe.cli import fpga_tables, tables
    from opennpe.cli.main import _print_json
    from opennpe.cli.progress import reporter
    from opennpe.fpga import boards, build
    from opennpe.golden import catalog

    board = boards.get(name)
    chosen = catalog.get(spec)
    place = folder(name, spec, options["design"], out)
    make = build.build if pack else build.fit
    try:
        with reporter() as progress:
            found = make(board, chosen, place, progress=progress, **options)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write to '{place}': {reason}; choose another --out") from error
    if as_json:
        _print_json(found.summary())
    else:
        tables.show(fpga_tables.fit_table(found), fpga_tables.fit_lines(found))
    return 0


@app.command("fit")
def fit(
    board: Name,
    spec: Spec = ONE,
    design: Design = None,
    freq: Freq = None,
    seeds: Seeds = "1,2,3",
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Place and route a design; say what it takes and how fast it is."""
    return _run(board, spec, out, as_json, False, design=design, mhz=freq, seeds=seeds_of(seeds))


@app.command("build")
def build(
    board: Name,
    spec: Spec = ONE,
    design: Design = None,
    freq: Freq = None,
    seeds: Seeds = "1,2,3",
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Make the bitstream of a design that reaches its clock."""
    return _run(board, spec, out, as_json, True, design=design, mhz=freq, seeds=seeds_of(seeds))


@app.command("program")
def program(board: Name, spec: Spec = ONE, design: Design = None, out: Out = None) -> int:
    """Send a bitstream to a board that is plugged in."""
    from opennpe.fpga import boards, place_route
    from opennpe.fpga import build as making
    from opennpe.golden import catalog

    found = boards.get(board)
    place_route.flow(found)
    catalog.get(spec)
    place = folder(board, spec, design, out)
    making.program(found, place / place_route.BITSTREAMS[found.family])
    print(f"{found.title} runs {spec}")
    return 0


@app.command("vivado")
def vivado(
    board: Name,
    spec: Spec = ONE,
    design: Design = None,
    freq: Freq = None,
    out: Out = None,
    as_json: Json = False,
) -> int:
    """Write a complete Vivado project for a board that needs it."""
    from opennpe.cli.main import _print_json
    from opennpe.fpga import boards
    from opennpe.fpga import vivado as project
    from opennpe.golden import catalog

    place = folder(board, spec, design, out)
    try:
        files = project.emit(boards.get(board), catalog.get(spec), place, design, freq)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write to '{place}': {reason}; choose another --out") from error
    if as_json:
        _print_json({"files": [str(path) for path in files]})
    else:
        print("\n".join(f"wrote {path}" for path in files))
        print(f"make the bitstream: cd {place} && vivado -mode batch -source {project.SCRIPT}")
    return 0


@app.command("compare")
def compare(
    family: Annotated[
        list[str] | None, typer.Option("--family", help="A family; all of them else.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option("--unit", help="Beside the engine; all of them else.")
    ] = None,
    spec: Spec = "EDGE_1X1",
    as_json: Json = False,
) -> int:
    """Count the cells of one engine in every family of FPGAs, and of what it replaces."""
    from opennpe.cli import fpga_tables, tables
    from opennpe.cli.main import _print_json
    from opennpe.cli.progress import reporter
    from opennpe.fpga import comparison
    from opennpe.golden import catalog

    with reporter() as progress:
        others = tuple(unit or comparison.UNITS[1:])
        rows = comparison.compare(catalog.get(spec), family or None, progress, others)
    if as_json:
        _print_json(rows)
    else:
        tables.show(fpga_tables.compare_table(rows), comparison.notes(rows))
    return 0


@app.command("boards")
def boards(as_json: Json = False) -> int:
    """List the boards."""
    from opennpe.cli import fpga_tables, tables
    from opennpe.cli.main import _print_json
    from opennpe.fpga.boards import BOARDS

    rows = [fpga_tables.board_row(board) for board in BOARDS.values()]
    if as_json:
        _print_json(rows)
    else:
        tables.show(fpga_tables.board_table(rows))
    return 0
