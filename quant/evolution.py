"""Improving a choice by an error that does not add up, measured anew for every candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from opennpe.quant.pareto import SLACK, BudgetError, Choice, Item, fits, total

__all__ = ["evolve"]


def evolve(
    items: Sequence[Item],
    budgets: Mapping[str, float],
    starts: Sequence[Choice],
    measure: Callable[[Choice], float],
    rng: np.random.Generator,
    evaluations: int = 120,
    parents: int = 6,
) -> tuple[Choice, float]:
    """Improve choices by a measured error: change one or two items, keep the best few.

    Args:
        budgets: of costs; a change that breaks one is paid for by downgrades elsewhere, those of
            the least added error for the cost that they save.
        starts: choices to begin with; those that break a budget are left out.
        measure: the error of a choice; called once for each, ``evaluations`` times at most.
        rng: the same generator gives the same choice.

    Raises:
        BudgetError: no start fits.
    """
    known: dict[Choice, float] = {}
    for start in dict.fromkeys(starts):
        if fits(items, start, budgets) and len(known) < evaluations:
            known[start] = measure(start)
    if not known:
        raise BudgetError("none of the choices to begin with fits the budgets")
    misses = 0
    while len(known) < evaluations and misses < 50 * evaluations:
        best = sorted(known, key=lambda c: (known[c], c))[:parents]
        child = _repaired(items, _mutated(items, best[int(rng.integers(len(best)))], rng), budgets)
        if child is None or child in known:
            misses += 1
            continue
        known[child] = measure(child)
    found = min(known, key=lambda c: (known[c], c))
    return found, known[found]


def _mutated(items: Sequence[Item], choice: Choice, rng: np.random.Generator) -> list[int]:
    changed = list(choice)
    for index in rng.integers(len(items), size=int(rng.integers(1, 3))):
        changed[index] = int(rng.integers(len(items[index].options)))
    return changed


def _repaired(
    items: Sequence[Item], choice: list[int], budgets: Mapping[str, float]
) -> Choice | None:
    """The choice with downgrades until it fits; None where none helps."""
    while True:
        over = {
            name: total(items, tuple(choice), name) / limit
            for name, limit in budgets.items()
            if total(items, tuple(choice), name) > limit * (1 + SLACK)
        }
        if not over:
            return tuple(choice)
        axis = max(over, key=lambda name: over[name])
        best: tuple[float, int, int] | None = None
        for index, item in enumerate(items):
            held = item.options[choice[index]]
            for other, option in enumerate(item.options):
                saved = held.costs[axis] - option.costs[axis]
                if saved > 0:
                    found = ((option.error - held.error) / saved, index, other)
                    best = found if best is None or found < best else best
        if best is None:
            return None
        choice[best[1]] = best[2]
