"""``opennpe bench``: which benchmark, in which surroundings, shown how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from opennpe.cli.progress import Progress
from opennpe.golden.errors import DataError

__all__ = ["KINDS", "check_pictures", "fair_environment", "run_bench", "save_pictures"]

KINDS = ("matmul", "networks", "coprocessor", "sparse", "sparse-engine", "softmax")
"""What ``opennpe bench`` times: products, unless told otherwise."""
PICTURED = KINDS[3:]
"""Those with a table and figures of their own."""


def fair_environment(threads: int) -> list[str]:
    """Limit the threads of both sides, and undo settings that would slow the float32 side."""
    for name in ("OPENBLAS", "OMP", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    notes = []
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        value = os.environ.pop(name, None)
        if value is not None:
            notes.append(f"{name}={value} of the environment is ignored: it may slow float32")
    if "OPENNPE_ISA" in os.environ:
        notes.append(f"OPENNPE_ISA={os.environ['OPENNPE_ISA']} limits our kernels")
    return notes


def run_bench(
    kind: str,
    formats: tuple[str, ...],
    size: int | None,
    repeat: int,
    threads: int,
    progress: Progress,
) -> tuple[Any, Any, int]:
    """The report of a benchmark, its table and the size it was made for.

    Modules are imported here, after the environment is set: they read it when they are loaded.
    """
    from opennpe.cli import tables

    if kind == "coprocessor":
        from opennpe.cli import bench_coprocessor as gates

        size = size or gates.IMAGE
        report: Any = gates.bench_coprocessor(formats, size, repeat, progress)
        return report, tables.run_bench_table(report.rows, size, threads), size
    if kind == "networks":
        from opennpe.cli import bench_networks as whole

        size = size or whole.IMAGE
        report = whole.bench_networks(formats, size, repeat, threads, progress)
        return report, tables.network_bench_table(report.rows, size, threads), size
    if kind == "matmul":
        from opennpe.cli import bench

        size = size or bench.TARGET_SIZE
        report = bench.bench(formats, size, repeat, threads, progress)
        return report, tables.bench_table(report.rows, size, threads), size
    module = _module(kind)
    if kind == "sparse":
        report = module.bench_sparse(repeat=repeat, progress=progress)
    elif kind == "sparse-engine":
        report = module.bench_sparse_engine(
            name=formats[0] if formats else module.FORMAT, progress=progress
        )
    else:
        report = module.bench_softmax(repeat=repeat, progress=progress)
    return report, module.table(report), size or 0


def _module(kind: str) -> Any:
    """The benchmark's module, with a table and figures of its own."""
    from importlib import import_module

    return import_module(f"opennpe.cli.bench_{kind.replace('-', '_')}")


def check_pictures(kind: str) -> None:
    """Refuse pictures of a benchmark that has none, before it runs.

    Raises:
        DataError: it has none.
    """
    if kind not in PICTURED:
        raise DataError(f"bench {kind} has no pictures: expected one of {', '.join(PICTURED)}")


def save_pictures(kind: str, report: Any, folder: Path) -> list[Path]:
    """Write a benchmark's figures as PNG files.

    Raises:
        OutputError: the folder cannot be written.
    """
    from opennpe.cli.files import output_folder
    from opennpe.cli.pictures import png

    made = _module(kind).figures(report)
    with output_folder(folder) as target:
        for name, figure in made.items():
            (target / name).write_bytes(png(figure))
    return [folder / name for name in made]
