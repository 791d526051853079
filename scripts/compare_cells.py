"""Condensed tables of cells against the full Liberty files they come from.

``python scripts/compare_cells.py FOLDER`` where FOLDER holds ``ihp-sg13g2`` and ``asap7``; prints
the table of docs/gates.md. First cell by cell: what a table took over has to be what the files say.
Then block by block, each mapped on the files and on the table: the mapper sees the table as well,
so it may choose other cells, and that is part of the error. The last column times the gates that
were mapped on the files with the table's delays. Exit status 1 if anything is beyond its limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from amaranth.lib import wiring
from opennpe.fpga import condense, liberty, recipes, synthesis, timing
from opennpe.golden import catalog
from opennpe.golden.softmax_spec import SoftmaxSpec
from opennpe.rtl.codec import Decode, Round
from opennpe.rtl.engine import Engine
from opennpe.rtl.mac import Accumulate, Align, Multiply
from opennpe.rtl.normalise import Normalise, scale_bits
from opennpe.rtl.softmax import Softmax
from opennpe.tech.cells import CellLibrary

__all__ = ["AREA_LIMIT", "BLOCKS", "DELAY_LIMIT", "FILES", "Comparison", "compared", "design"]

FILES = {
    "ihp130": "ihp-sg13g2/sg13g2_stdcell_typ_1p20V_25C.lib",
    "asap7": "asap7",
}
AREA_LIMIT, DELAY_LIMIT = 0.05, 0.10
"""How far a block's area and longest path may be off."""
BLOCKS = ("decode", "multiply", "align", "accumulate", "normalise", "round", "engine", "softmax")


def design(block: str) -> wiring.Component:
    """One of BLOCKS: of the default engine, the engine itself, a softmax unit of two lanes."""
    engine = catalog.EDGE_4X4.engine
    bits, shift_bits = engine.accumulator_bits, engine.shift_bits
    makers = {
        "decode": Decode,
        "multiply": Multiply,
        "align": lambda: Align(bits),
        "accumulate": lambda: Accumulate(bits),
        "normalise": lambda: Normalise(bits, shift_bits),
        "round": lambda: Round(scale_bits(shift_bits)),
        "engine": lambda: Engine(engine),
        "softmax": lambda: Softmax(SoftmaxSpec(lanes=2)),
    }
    return makers[block]()


@dataclass(frozen=True)
class Comparison:
    """A block on the full files and on the table, um2 and ps; relative errors of the table."""

    block: str
    area_um2: float
    path_ps: float
    area_error: float
    path_error: float
    same_gates_error: float

    def faults(self) -> list[str]:
        """What is beyond its limit, a line each."""
        errors = (
            ("area", self.area_error, AREA_LIMIT),
            ("path", self.path_error, DELAY_LIMIT),
            ("path of the same gates", self.same_gates_error, DELAY_LIMIT),
        )
        return [
            f"{self.block}: {what} is {error:+.1%} off, at most {limit:.0%} allowed"
            for what, error, limit in errors
            if abs(error) > limit
        ]


def compared(block: str, full: CellLibrary, table: CellLibrary, recipe: str) -> Comparison:
    """A block mapped on either, each timed by its own delays."""
    made = design(block)
    text = synthesis.verilog_of(made, f"opennpe_{block}")
    gates, ours = (
        synthesis.synthesise(text, library, top=f"opennpe_{block}", recipe=recipe)
        for library in (full, table)
    )
    path, our_path, same = (
        timing.analyse(netlist).worst_logic.logic_ps
        for netlist in (gates, ours, replace(gates, library=table))
    )
    return Comparison(
        block,
        gates.area_um2,
        path,
        ours.area_um2 / gates.area_um2 - 1,
        our_path / path - 1,
        same / path - 1,
    )


def rows(
    folder: Path, libraries: list[str], blocks: list[str], recipe: str, faults: list[str]
) -> Iterator[str]:
    """Of the table, while faults are gathered."""
    for name in libraries:
        full, table = liberty.load(folder / FILES[name]), liberty.load(name)
        faults += [f"{name}, {fault}" for fault in condense.faults(full, table)]
        for block in blocks:
            found = compared(block, full, table, recipe)
            faults += [f"{name}, {fault}" for fault in found.faults()]
            yield (
                f"| {name} | {block} | {found.area_um2:,.1f} | {found.area_error:+.1%} "
                f"| {found.path_ps:,.0f} | {found.path_error:+.1%} "
                f"| {found.same_gates_error:+.1%} |"
            )


def main() -> int:
    """Print the table and whatever is wrong; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the folders of the full libraries")
    parser.add_argument("--library", action="append", choices=FILES, help="all, if not given")
    parser.add_argument("--block", action="append", choices=BLOCKS, help="all, if not given")
    parser.add_argument("--recipe", default="stock", choices=recipes.RECIPES)
    chosen = parser.parse_args()
    faults: list[str] = []
    print(
        "| library | block | area um2, full | table | path ps, full | table | table, same gates |"
    )
    print("|---|---|---|---|---|---|---|")
    libraries, blocks = chosen.library or list(FILES), chosen.block or list(BLOCKS)
    for row in rows(chosen.folder, libraries, blocks, chosen.recipe, faults):
        print(row, flush=True)
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
