"""What long jobs report to."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """What long jobs report to: named stages, each with a number of steps."""

    def stage(self, text: str, total: int) -> None:
        """Begin a stage of ``total`` steps; it ends when the next begins."""

    def advance(self, steps: int = 1) -> None:
        """Report steps done."""


class Silent:
    """Says nothing."""

    def stage(self, text: str, total: int) -> None:
        """Ignored."""

    def advance(self, steps: int = 1) -> None:
        """Ignored."""
