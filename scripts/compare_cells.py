"""Condensed tables of cells against the full Liberty files they come from, block by block.

``python scripts/compare_cells.py FOLDER`` where FOLDER holds ``ihp-sg13g2`` and ``asap7``; prints
the table of docs/gates.md. The mapper sees the tables as well, so it may choose other cells: that
is part of the error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from amaranth.lib import wiring
from opennpe.fpga import liberty, synthesis, timing
from opennpe.golden import catalog
from opennpe.golden.softmax_spec import SoftmaxSpec
from opennpe.rtl.codec import Decode, Round
from opennpe.rtl.engine import Engine
from opennpe.rtl.mac import Accumulate, Align, Multiply
from opennpe.rtl.normalise import Normalise
from opennpe.rtl.softmax import Softmax

__all__ = ["FILES", "blocks", "compared"]

FILES = {
    "ihp130": "ihp-sg13g2/sg13g2_stdcell_typ_1p20V_25C.lib",
    "asap7": "asap7",
}


def blocks() -> Iterator[tuple[str, wiring.Component]]:
    """Blocks of the default engine, the engine, and a softmax unit."""
    engine = catalog.EDGE_4X4.engine
    bits = engine.accumulator_bits
    yield "decode", Decode()
    yield "multiply", Multiply()
    yield "align", Align(bits)
    yield "accumulate", Accumulate(bits)
    yield "normalise", Normalise(bits, engine.shift_bits)
    yield "round", Round(Normalise(bits, engine.shift_bits).scale_bits)
    yield "engine", Engine(engine)
    yield "softmax", Softmax(SoftmaxSpec(lanes=2))


def compared(folder: Path, recipe: str = "stock") -> Iterator[tuple[str, str, list[float]]]:
    """Library, block, and area and longest path of the full files and of the table, um2 and ps."""
    for name, files in FILES.items():
        full, ours = liberty.load(folder / files), liberty.load(name)
        for block, design in blocks():
            found: list[float] = []
            for library in (full, ours):
                made = synthesis.synthesise(design, library, top=f"opennpe_{block}", recipe=recipe)
                found += [made.area_um2, timing.analyse(made).worst_logic.logic_ps]
            yield name, block, found


def main() -> None:
    """Print the table."""
    print("| library | block | area um2, full | table | path ps, full | table |")
    print("|---|---|---|---|---|---|")
    for name, block, (area, delay, our_area, our_delay) in compared(Path(sys.argv[1])):
        print(
            f"| {name} | {block} | {area:,.1f} | {our_area / area - 1:+.1%} "
            f"| {delay:,.0f} | {our_delay / delay - 1:+.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
