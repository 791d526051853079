"""The cell libraries that come along: condensed facts of public ones."""

from __future__ import annotations

from opennpe.golden.errors import TechError
from opennpe.tech.cells import CellLibrary

__all__ = ["NAMES", "shipped"]

NAMES = ("ihp130", "asap7")


def shipped(name: str) -> CellLibrary:
    """A library that comes along.

    Raises:
        TechError: none of that name.
    """
    raise TechError(f"no table of cells '{name}' yet")
