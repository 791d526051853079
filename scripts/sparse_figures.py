"""The sparse pictures and tables of the documentation: ``python scripts/sparse_figures.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

for library in ("OPENBLAS", "OMP", "NUMBA"):  # before NumPy is loaded
    os.environ[f"{library}_NUM_THREADS"] = "1"

from opennpe.cli import bench_sparse, pictures
from opennpe.cli.progress import reporter
from rich.console import Console

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main() -> int:
    """Run the bench, draw it, print its tables; fails if a target is missed."""
    with reporter() as progress:
        report = bench_sparse.bench_sparse(progress=progress)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, figure in bench_sparse.figures(report).items():
        (IMAGES / name).write_bytes(pictures.png(figure))
    Console(width=150).print(bench_sparse.table(report))
    for claim in report.claims:
        print(claim)
    densities = sorted({row.density for row in report.storage}, reverse=True)
    print("| bits a weight, 4-bit codes |", " | ".join(f"{100 * (1 - d):.0f} %" for d in densities))
    for packing in dict.fromkeys(row.packing for row in report.storage):
        held = {r.density: r.per_weight for r in report.storage if r.packing == packing}
        cells = (f"{held[d]:.2f}" if d in held else "" for d in densities)
        print(f"| {packing} |", " | ".join(cells))
    return 0 if all(claim.met for claim in report.claims) else 1


if __name__ == "__main__":
    sys.exit(main())
