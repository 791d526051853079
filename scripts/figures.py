"""The pictures of the documentation, from a real run of the shipped network: ``make figures``."""

from __future__ import annotations

import sys
from pathlib import Path

from opennpe.cli import pictures, tables
from opennpe.cli.progress import reporter
from opennpe.cli.simulate import simulate
from opennpe.golden import formats
from opennpe.quant import zoo

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
TILES = 2


def main() -> int:
    """Run what ``make sim`` runs and draw it."""
    with reporter() as progress:
        result = simulate(
            zoo.MODEL,
            zoo.TEST_DATA,
            formats=formats.ENGINE_FORMATS,
            policies=[zoo.MIXED],
            calibration=zoo.CALIBRATION,
            check=TILES,
            progress=progress,
        )
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture = tables.svg("make sim", tables.run_table(result), tables.check_lines(result))
    (IMAGES / "sim.svg").write_text(picture, encoding="utf-8")
    drawn = {
        "cycles.png": pictures.cycles_per_layer(result),
        "error.png": pictures.error_per_layer(result),
    }
    for name, figure in drawn.items():
        if figure is not None:
            (IMAGES / name).write_bytes(pictures.png(figure))
    for file in sorted(IMAGES.iterdir()):
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
