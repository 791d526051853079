"""A figure is never a bare number: it says what it is, how it came about and from where."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from opennpe.golden.errors import DataError

__all__ = ["LABELS", "Band", "Figure", "Label", "worst"]

Label = Literal["measured", "scaled", "calibrated"]
LABELS: dict[Label, str] = {
    "measured": "from our own netlist and the cells' own data, at the node that is named; in the "
    "table of published designs, by that design's authors",
    "scaled": "carried from one node or size to another by published factors",
    "calibrated": "measured by us, times the one constant that maps a published family of designs "
    "through our flow onto its authors' figures",
}
"""What each label promises, a line each."""


@dataclass(frozen=True)
class Figure:
    """A number with its unit, its label and its source.

    Attributes:
        value: in ``unit``.
        unit: as it is printed: "um2", "pJ", "GHz".
        label: how it came about, one of :data:`LABELS`.
        source: from where: a file, a paper, a rule.
        spread: a factor that the true value may be off by, both ways; 1 where none is known.

    Raises:
        DataError: no label, no source, or no number.
    """

    value: float
    unit: str
    label: Label
    source: str
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.label not in get_args(Label):
            raise DataError(
                f"a figure is {', '.join(get_args(Label))}, got '{self.label}' for {self.value}"
            )
        if not self.source or not math.isfinite(self.value):
            raise DataError(f"a figure needs a source and a number, got {self.value} {self.unit}")

    def times(self, factor: float, label: Label | None = None, source: str = "") -> Figure:
        """The same by a factor; ``source`` is added to what is there."""
        return replace(
            self,
            value=self.value * factor,
            label=label or self.label,
            source=f"{self.source}; {source}" if source else self.source,
        )

    def summary(self) -> dict[str, object]:
        """JSON-ready; the unit is part of the key of the value."""
        unit = self.unit.replace("/", "_per_").replace(" ", "_")
        found: dict[str, object] = {
            f"value_{unit}" if unit else "value": self.value,
            "label": self.label,
            "source": self.source,
        }
        return found if self.spread == 1 else {**found, "spread_factor": self.spread}


def worst(*labels: Label) -> Label:
    """The label of a sum: that of its part that is farthest from a measurement."""
    order: tuple[Label, ...] = ("measured", "calibrated", "scaled")
    return max(labels, key=order.index, default="measured")


@dataclass(frozen=True)
class Band:
    """One quantity at another node, by every method there is; never by one alone.

    Attributes:
        what: the quantity.
        figures: by method, in the order they are printed.

    Raises:
        DataError: fewer than two methods, or methods in different units.
    """

    what: str
    figures: dict[str, Figure]

    def __post_init__(self) -> None:
        if len(self.figures) < 2:
            raise DataError(f"{self.what}: a band takes two methods or more")
        if len({figure.unit for figure in self.figures.values()}) > 1:
            raise DataError(f"{self.what}: a band is in one unit")

    @property
    def unit(self) -> str:
        """Of all its figures."""
        return next(iter(self.figures.values())).unit

    @property
    def low(self) -> float:
        """The least, spread included."""
        return min(figure.value / figure.spread for figure in self.figures.values())

    @property
    def high(self) -> float:
        """The largest, spread included."""
        return max(figure.value * figure.spread for figure in self.figures.values())

    def calibrated(self) -> Figure | None:
        """The calibrated one, if there is one."""
        return next((f for f in self.figures.values() if f.label == "calibrated"), None)

    def summary(self) -> dict[str, object]:
        """JSON-ready."""
        return {name: figure.summary() for name, figure in self.figures.items()}
