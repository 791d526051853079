"""Every figure of the cost pages: ``make cost``.

Measures the supported specs in the shipped libraries (what is kept in ``tech/areas.json`` counts if
its key is that of the design as it stands), writes the file, the tables of ``docs/cost.md`` and the
page ``build/cost.html``. With ``--kept`` nothing is mapped: tables are of what is kept, as after a
change of energies or of scaling.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from opennpe.cli import cost_tables
from opennpe.cli.cost import Report, SpecCost, of_area, spec_cost
from opennpe.cli.cost_files import write
from opennpe.cli.progress import reporter
from opennpe.fpga.recipes import RECIPES
from opennpe.golden import catalog
from opennpe.tech import areas

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "cost.md"
SPECS = ("EDGE_1X1", "FPGA_1X1", "EDGE_2X2", "EDGE_4X4", "EDGE_8X8", "STRICT_4X4", "ULX3S_4X4")
"""The catalog's supported ones."""
SHOWN = "EDGE_4X4"
"""Whose engine stands beside the published designs: it is the same in all of them."""
LIBRARIES = ("ihp130", "asap7")
ALONE = "EDGE_1X1"
"""One engine, which every recipe makes."""


def filled(text: str, tables: dict[str, str]) -> str:
    """The document with each table between its markers."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"docs/cost.md lacks the markers of '{name}'")
        text = re.sub(f"{begin}.*?{end}", lambda _, t=table, b=begin, e=end: f"{b}\n{t}\n{e}",
                      text, flags=re.DOTALL)  # fmt: skip
    return text


def main() -> None:
    """Measure, keep, write."""
    parser = argparse.ArgumentParser(description="Every figure of the cost pages.")
    parser.add_argument("--kept", action="store_true", help="map nothing: tables of what is kept")
    only_kept = parser.parse_args().kept
    kept = areas.stored()

    def measured(library: str, name: str, recipe: str) -> SpecCost | None:
        spec, entry = catalog.get(name), areas.entry_name(library, name, recipe)
        if only_kept:
            return of_area(spec, kept[entry]) if entry in kept else None
        one = spec_cost(spec, library, progress, recipe)
        kept[entry] = one.area
        areas.save(kept)
        print(f"{entry}: {one.area.area_um2 / 1e6:.4g} mm2 of cells", file=sys.stderr)
        return one

    with reporter() as progress:
        alone = [measured(library, ALONE, recipe) for library in LIBRARIES for recipe in RECIPES]
        whole = [measured(library, name, areas.RECIPE) for library in LIBRARIES for name in SPECS]
    engines, found = ([one for one in held if one] for held in (alone, whole))
    areas.save({one.area.name: one.area for one in (*engines, *found)})
    _write(engines, found)
    lacking = len(alone) + len(whole) - len(engines) - len(found)
    if lacking:
        raise SystemExit(f"{lacking} of {len(alone) + len(whole)} are not kept: run `make cost`")


def _write(engines: list[SpecCost], found: list[SpecCost]) -> None:
    shown = [one for one in found if one.spec.name == SHOWN]
    tables = {
        "specs": cost_tables.spec_markdown(found),
        "blocks": cost_tables.block_markdown(shown),
        "recipes": cost_tables.recipe_markdown(engines),
        "peaks": cost_tables.peak_markdown(shown),
        "comparison": cost_tables.comparison_markdown(Report(tuple(shown)).comparison()),
    }
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
    own = tuple(one for one in found if one.area.library == LIBRARIES[0])
    write(Report(own), page=ROOT / "build" / "cost.html")


if __name__ == "__main__":
    main()
