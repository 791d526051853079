"""The constants that carry our areas and delays to a commercial 28 nm flow, by recipe.

    python scripts/calibrate.py --pdpu FOLDER [--recipe stock] [--liberty FILE]

FOLDER holds PDPU's SystemVerilog (the ``sources`` of https://github.com/qleenju/PDPU); it is not
part of this project. Its six published configurations go through the recipes; a recipe's factor is
the mean of published over ours of the five windowed ones, the quire is held out. Below stands our
engine by each recipe, with the factors of the same recipe and with those in use. Tables are in
Markdown, those of docs/calibration.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.fpga import liberty, netlist, recipes, synthesis, timing
from opennpe.fpga.kept import kept
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.recipes import Recipe
from opennpe.golden import catalog
from opennpe.golden.errors import DataError, OpenNPEError
from opennpe.rtl import yosys
from opennpe.rtl.engine import Engine
from opennpe.tech import published, scaling
from opennpe.tech.cells import CellLibrary

__all__ = ["CONFIGURATIONS", "Configuration", "Fit", "fit"]

TOP = "pdpu_top"
RECIPES = tuple(scaling.CALIBRATION["ihp130"])
SPEC = catalog.EDGE_4X4.engine


@dataclass(frozen=True)
class Configuration:
    """Parameters of PDPU: bits of an input, products, bits of the aligned sum; ``row`` is its
    place among the published rows."""

    bits: int
    terms: int
    window: int
    row: int

    @property
    def design(self) -> published.Design:
        """As published."""
        return published.PDPU_ROWS[self.row]


CONFIGURATIONS = (
    Configuration(16, 4, 14, 0),
    Configuration(13, 4, 14, 1),
    Configuration(13, 8, 14, 2),
    Configuration(10, 8, 14, 3),
    Configuration(13, 8, 10, 4),
    Configuration(13, 4, 256, 5),
)
WINDOWED = 5
"""The first so many are fitted; the last holds its sum in a quire."""


@dataclass(frozen=True)
class Fit:
    """A factor and how well it holds.

    Attributes:
        factor: mean of published over ours.
        errors: of the factor on each fitted design.
        left_out: largest error when each is left out of the fit in turn.
    """

    factor: float
    errors: tuple[float, ...]
    left_out: float


def fit(ours: list[float], theirs: list[float]) -> Fit:
    """The factor that carries ours to theirs.

    Raises:
        DataError: fewer than two designs.
    """
    if len(ours) < 2 or len(ours) != len(theirs):
        raise DataError(f"a fit takes two or more pairs, got {len(ours)} and {len(theirs)}")
    ratios = np.array(theirs) / np.array(ours)
    others = (ratios.sum() - ratios) / (len(ratios) - 1)
    errors = ratios.mean() / ratios - 1
    return Fit(float(ratios.mean()), tuple(errors.tolist()), float(abs(others / ratios - 1).max()))


def front(folder: Path, chosen: Configuration) -> str:
    """A configuration after Yosys's ``synth -flatten``, as RTLIL: the same for every recipe.

    Raises:
        DataError: the folder does not hold PDPU.
    """
    sources = sorted(folder.glob("*.sv"))
    if not any(path.name == f"{TOP}.sv" for path in sources):
        raise DataError(f"{folder} holds no {TOP}.sv: give the folder 'sources' of PDPU")

    def make() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="opennpe-pdpu-") as name:
            for number, path in enumerate(sources):
                Path(name, f"{number:02}.sv").write_bytes(path.read_bytes())
            out = Path(name, "front.il")
            sets = f"-G n_i={chosen.bits} -G N={chosen.terms} -G ALIGN_WIDTH={chosen.window}"
            files = " ".join(str(Path(name, f"{n:02}.sv")) for n in range(len(sources)))
            yosys.run(
                f"read_slang --top {TOP} {sets} {files}",
                f"synth -flatten -top {TOP}",
                f"write_rtlil {out}",
            )
            return {"rtlil": out.read_text(encoding="utf-8")}

    texts = [path.read_text(encoding="utf-8") for path in sources]
    return str(kept("pdpu", make, repr(chosen), *texts)["rtlil"])


def mapped(text: str, library: CellLibrary, recipe: Recipe) -> Netlist:
    """What :func:`front` gives on a library's cells, by the commands of ``synthesise``."""

    def make() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="opennpe-pdpu-") as name:
            folder = Path(name)
            before, after = folder / "front.il", folder / "mapped.json"
            before.write_text(text, encoding="utf-8")
            cells = synthesis.library_files(library, folder)
            log = yosys.run(
                f"read_rtlil {before}",
                *synthesis.mapping(library, cells, recipe, folder),
                f"write_json -noscopeinfo {after}",
            )
            module = json.loads(after.read_text(encoding="utf-8"))["modules"][TOP]
        synthesis.check_mapped(module, library, TOP)
        return synthesis.to_keep(module, log)

    parts = text, repr(recipe), library.name, library.sha256, str(len(library.files))
    return netlist.from_json(kept("pdpu", make, *parts), TOP, library)


def rows(
    folder: Path, library: CellLibrary, name: str, configurations: tuple[Configuration, ...]
) -> tuple[Fit, Fit]:
    """The table of a recipe, and the fits of area and delay."""
    areas, delays = [], []
    for chosen in configurations:
        gates = mapped(front(folder, chosen), library, recipes.get(name))
        path = timing.analyse(gates).worst_logic.logic_ps
        areas.append(gates.area_um2)
        delays.append(path)
        design = chosen.design
        assert design.area_um2 is not None and design.delay_ns is not None
        print(
            f"| {name} | {design.name.removeprefix('PDPU ')} | {gates.area_um2:,.0f} "
            f"| {design.area_um2:,.0f} | {design.area_um2 / gates.area_um2:.4f} "
            f"| {(gates.abc_delay_ps or np.nan) / 1000:.2f} | {path / 1000:.2f} "
            f"| {design.delay_ns} | {1000 * design.delay_ns / path:.4f} |",
            flush=True,
        )
    their_areas = [c.design.area_um2 or 0.0 for c in configurations]
    their_delays = [1000 * (c.design.delay_ns or 0.0) for c in configurations]
    area = fit(areas[:WINDOWED], their_areas[:WINDOWED])
    delay = fit(delays[:WINDOWED], their_delays[:WINDOWED])
    for ours, theirs, found, what in (
        (areas, their_areas, area, "area"),
        (delays, their_delays, delay, "delay"),
    ):
        for held, true in zip(ours[WINDOWED:], theirs[WINDOWED:], strict=True):
            error = held * found.factor / true - 1
            print(f"{name}: {what} of the quire {error:+.1%}", file=sys.stderr, flush=True)
    return area, delay


def engine(library: CellLibrary, name: str, fits: tuple[Fit, Fit]) -> str:
    """A row of the engine by a recipe, with these factors and with those in use."""
    gates = synthesis.synthesise(Engine(SPEC), library, top="engine", recipe=name)
    found = timing.analyse(gates)
    path = found.worst_between_registers or found.worst
    used = scaling.CALIBRATION["ihp130"].get(name)
    cells = [name, f"{gates.area_um2:,.0f}", f"{path.total_ps / 1000:.2f}"]
    pairs = [(fits[0].factor, fits[1].factor)]
    if used is not None:
        pairs.append((used["area"].factor, used["delay"].factor))
    for area, delay in pairs:
        cells += [f"{gates.area_um2 * area / 1e6:.4f}", f"{1000 / (path.total_ps * delay):.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the tables; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pdpu", type=Path, required=True, help="folder of PDPU's sources")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="all, if not given")
    parser.add_argument(
        "--liberty", default="ihp130", help="IHP's library; the table, if not given"
    )
    parser.add_argument(
        "--without-quire", action="store_true", help="leave it out: it takes longest"
    )
    chosen = parser.parse_args()
    configurations = CONFIGURATIONS[: WINDOWED if chosen.without_quire else None]
    try:
        library = liberty.load(chosen.liberty)
        print("| recipe | configuration | ours um2 | published um2 | ratio | ABC ns | ours ns "
              "| published ns | ratio |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
        fits = {
            name: rows(chosen.pdpu, library, name, configurations)
            for name in chosen.recipe or RECIPES
        }
        print("\n| recipe | area factor | off at most | left out | delay factor | off at most "
              "| left out |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        for name, both in fits.items():
            cells = [f"{f.factor:.4f} | {max(map(abs, f.errors)):.1%} | {f.left_out:.1%}"
                     for f in both]  # fmt: skip
            print(f"| {name} | {' | '.join(cells)} |")
        print("\n| recipe | engine um2 | worst stage ns | mm2, this fit | GHz, this fit "
              "| mm2, factor in use | GHz, factor in use |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        for name, both in fits.items():
            print(engine(library, name, both), flush=True)
    except OpenNPEError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
