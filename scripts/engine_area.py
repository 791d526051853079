"""The SIMD engine beside the separate units it replaces, in a library's cells.

    python scripts/engine_area.py ihp130

Prints a table in Markdown, a row a recipe and design: area, registers, the worst stage with the
registers at both of its ends; on IHP130 also calibrated to 28 nm. One netlist gives all of a row.
"""

from __future__ import annotations

import argparse

from opennpe.fpga import liberty, synthesis, timing
from opennpe.golden import catalog
from opennpe.rtl.engine import Engine
from opennpe.rtl.separate import Separate
from opennpe.tech import scaling

SPEC = catalog.EDGE_4X4.engine
RECIPES = ("stock", "sized", "timing")


def main() -> None:
    """One library after the other; units of one format in the stock recipe only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="+")
    print("| library | recipe | design | um2 | registers | worst stage, ps | GHz | 28 nm, mm2 | "
          "28 nm, GHz |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in parser.parse_args().library:
        library = liberty.load(name)
        for recipe in RECIPES:
            designs = {"engine": Engine(SPEC), "separate": Separate(SPEC)}
            if recipe == "stock":
                designs |= {f"{f} alone": Engine(SPEC, only=f) for f in SPEC.mac.formats}
            for title, design in designs.items():
                top = title.replace(" ", "_")
                netlist = synthesis.synthesise(design, library, top=top, recipe=recipe)
                found = timing.analyse(netlist)
                path = found.worst_between_registers or found.worst
                cells = [
                    name,
                    recipe,
                    title,
                    f"{netlist.area_um2:.0f}",
                    str(len(netlist.registers)),
                    f"{path.stage}: {path.total_ps:.0f}",
                    f"{1000 / path.total_ps:.3f}",
                    *_calibrated(name, netlist.area_um2, path.total_ps),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


def _calibrated(library: str, area_um2: float, path_ps: float) -> tuple[str, str]:
    """As calibrated for this library, or dashes."""
    held = scaling.CALIBRATION.get(library)
    if held is None:
        return "-", "-"
    area, delay = held["area"].factor, held["delay"].factor
    return f"{area_um2 * area / 1e6:.4f}", f"{1000 / (path_ps * delay):.2f}"


if __name__ == "__main__":
    main()
