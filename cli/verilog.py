"""``opennpe rtl``: Verilog of the engine, or of the co-processor, and its manifest in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opennpe.cli.errors import OutputError
from opennpe.golden import catalog
from opennpe.rtl import verilog

__all__ = ["describe", "write"]


def write(out: str | Path, spec: str, coprocessor: bool = False) -> list[Path]:
    """Write a spec's engine, or its co-processor beside it; files whose text stands stay.

    Raises:
        SpecError: unknown spec, or one that there are no gates for.
        ToolError: pyosys is missing.
        OutputError: the folder cannot be written.
    """
    chosen = catalog.get(spec)
    try:
        if coprocessor:
            # Refused before anything is written.
            chosen.check_coprocessor()
        files = verilog.emit(chosen, out)
        if coprocessor:
            from opennpe.rtl import top_verilog

            files += top_verilog.emit(chosen, out)
        return files
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write to '{out}': {reason}; choose another --out") from error


def describe(paths: list[Path]) -> dict[str, Any]:
    """The files and the manifest, JSON-ready."""
    manifest = next(path for path in paths if path.name == verilog.MANIFEST)
    files = [str(path) for path in paths]
    return {"files": files, "manifest": json.loads(manifest.read_text())}
