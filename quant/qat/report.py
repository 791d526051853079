"""What a training run tells: its progress as it goes, its figures at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from opennpe.golden.network import Network
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.run_folder import finite
from opennpe.quant.workloads.base import Predict

__all__ = ["Report", "Silent", "Simulate", "Watcher"]

Simulate = Callable[[Network], Predict]
"""From a converted network to what runs it, the simulator for one."""


class Watcher(Protocol):
    """What training reports to."""

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, steps: int = 1) -> None:
        """Steps are done."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done; its row of ``metrics.csv``."""


class Silent:
    """Says nothing."""

    def stage(self, text: str, total: int) -> None:
        """Ignored."""

    def advance(self, steps: int = 1) -> None:
        """Ignored."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Ignored."""


@dataclass(frozen=True)
class Report:
    """What a run gave.

    Attributes:
        recipe: as it was run.
        folder: where its files lie.
        results: a record a stage; its metrics are of the test split.
        score, higher: the workload's own metric, and whether more of it is better.
    """

    recipe: Recipe
    folder: Path
    results: tuple[dict[str, Any], ...]
    score: str
    higher: bool

    def summary(self) -> dict[str, Any]:
        """JSON-ready; None for numbers that JSON has not."""
        return {
            "recipe": self.recipe.summary(),
            "folder": str(self.folder),
            "score": self.score,
            "higher_is_better": self.higher,
            "stages": finite(list(self.results)),
        }
