"""The SIMD engine beside the separate units it replaces, in a library's cells.

    python scripts/engine_area.py ihp130 [--recipe timing] [--design engine ...]

Prints a table in Markdown, a row a recipe and design: area, registers, the worst stage with the
registers at both of its ends; on IHP130 also calibrated to 28 nm. One netlist gives all of a row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from opennpe.fpga import liberty, synthesis, timing
from opennpe.golden import catalog
from opennpe.rtl.engine import Engine
from opennpe.rtl.separate import Separate
from opennpe.rtl.windowed import Unit, units
from opennpe.tech import scaling

SPEC = catalog.EDGE_4X4.engine
RECIPES = tuple(scaling.CALIBRATION["ihp130"])
EXACT = SPEC.accumulator_bits
"""A window in which every format is exact."""
WINDOWS = (32, 48, 64)


def windowed(bits: int, lanes: int | None) -> Separate:
    """Separate units whose accumulators are no wider than a window or than is exact."""
    return Separate(SPEC, units(SPEC, bits, lanes))


def designs() -> dict[str, Callable[[], Any]]:
    """By title: separate units of all formats, then single units."""
    found: dict[str, Callable[[], Any]] = {
        "engine": partial(Engine, SPEC),
        "separate": partial(Separate, SPEC),
        "separate, just exact": partial(windowed, EXACT, None),
        "separate, one lane": partial(windowed, EXACT, 1),
    }
    for bits in WINDOWS:
        found[f"separate, window {bits}"] = partial(windowed, bits, None)
    for name in SPEC.mac.formats:
        found[f"{name} alone"] = partial(Engine, SPEC, only=name)
    for bits in WINDOWS:
        found[f"posit16 alone, window {bits}"] = partial(Unit, SPEC, "posit16", bits)
    return found


def main() -> None:
    """One library after the other; all recipes and designs unless some are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="+")
    parser.add_argument("--recipe", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--design", nargs="+", default=list(designs()), choices=list(designs()))
    given = parser.parse_args()
    print("| library | recipe | design | um2 | registers | worst stage, ps | GHz | 28 nm, mm2 | "
          "28 nm, GHz |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.library:
        library = liberty.load(name)
        for recipe in given.recipe:
            for title in given.design:
                top = title.replace(",", "").replace(" ", "_")
                design = designs()[title]()
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
                    *_calibrated((name, recipe), netlist.area_um2, path.total_ps),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


def _calibrated(made: tuple[str, str], area_um2: float, path_ps: float) -> tuple[str, str]:
    """As calibrated for this library and recipe, or dashes."""
    held = scaling.CALIBRATION.get(made[0], {}).get(made[1])
    if held is None:
        return "-", "-"
    area, delay = held["area"].factor, held["delay"].factor
    return f"{area_um2 * area / 1e6:.4f}", f"{1000 / (path_ps * delay):.2f}"


if __name__ == "__main__":
    main()
