"""The best choice under budgets, proven: one option for every item, errors and costs adding up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from opennpe.quant.pareto import (
    SLACK,
    BudgetError,
    Choice,
    Item,
    Option,
    check_budgets,
    front,
    merged,
    undominated,
)

__all__ = ["exact"]

MOST_LABELS = 4_000
"""Partial choices that the search of several budgets keeps."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def exact(
    items: Sequence[Item], budgets: Mapping[str, float], minimise: str = "error"
) -> tuple[Choice, bool]:
    """The choice of the least error (or cost) within all budgets, and whether that is proven.

    One budget: read off the front. Several: partial choices, dropped where another is as good in
    everything, or where even the best completion breaks a budget or does not beat the best choice
    known; completions are bounded by the fronts of the items that follow.

    Raises:
        BudgetError: no choice fits.
    """
    check_budgets(items, budgets)
    if len(budgets) == 1:
        ((axis, limit),) = budgets.items()
        found = front(items, axis, minimise)
        return found.choice(found.best(limit)), found.proven
    return _Labels(items, budgets, minimise).solve()


class _Labels:
    """Partial choices item by item, and fronts that bound how each can end.

    A sum of budgets, each weighted, is a budget too: its front bounds more tightly where several
    budgets bind at once.
    """

    def __init__(self, items: Sequence[Item], budgets: Mapping[str, float], minimise: str) -> None:
        self.items, self.budgets = items, budgets
        limits = np.array(list(budgets.values())) * (1 + SLACK)
        mixes = _mixes(len(limits)) / np.maximum(limits, 1e-300)
        self.axes, self.limits = len(limits), np.concatenate([limits, mixes @ limits])
        self.values = [item.column(minimise) for item in items]
        own = [np.stack([item.column(name) for name in budgets], axis=1) for item in items]
        self.costs = [np.concatenate([held, held @ mixes.T], axis=1) for held in own]
        self.tails, self.proven = self._tails()

    def _tails(self) -> tuple[list[list[tuple[Floats, Floats]]], bool]:
        """Fronts of the items from each one on, one a budget: what they reach at best."""
        tails, proven = [[(np.zeros(1), np.zeros(1))] * len(self.limits)], True
        for values, costs in zip(reversed(self.values), reversed(self.costs), strict=True):
            made = []
            for column, held in enumerate(tails[-1]):
                cost, errors, _, whole = merged(*held, costs[:, column], values)
                made.append((cost, errors))
                proven = proven and whole
            tails.append(made)
        return tails[::-1], proven

    def solve(self) -> tuple[Choice, bool]:
        known, bound = self._known()
        values, costs = np.zeros(1), np.zeros((1, len(self.limits)))
        back: list[tuple[Ints, Ints]] = []
        proven = self.proven
        for index, (own_values, own_costs) in enumerate(zip(self.values, self.costs, strict=True)):
            options = len(own_values)
            values = (values[:, None] + own_values).ravel()
            costs = (costs[:, None, :] + own_costs).reshape(-1, len(self.limits))
            reach = self._reach(index + 1, values, costs)
            keep = np.flatnonzero(np.isfinite(reach) & (reach <= bound * (1 + SLACK)))
            if len(keep) > MOST_LABELS:
                keep = np.sort(keep[np.argsort(reach[keep], kind="stable")[:MOST_LABELS]])
                proven = False
            table = np.column_stack([values[keep], costs[keep, : self.axes]])
            keep = keep[undominated(table)]
            values, costs = values[keep], costs[keep]
            back.append((keep // options, keep % options))
        if not len(values):
            if known is not None:
                return known, False
            stated = ", ".join(f"{name} {limit:.6g}" for name, limit in self.budgets.items())
            raise BudgetError(f"no choice fits all budgets together ({stated}): raise one of them")
        at, found = int(np.argmin(values)), [0] * len(self.items)
        for index in range(len(self.items) - 1, -1, -1):
            parents, taken = back[index]
            found[index], at = int(taken[at]), int(parents[at])
        return tuple(found), proven

    def _known(self) -> tuple[Choice | None, float]:
        """A choice within all budgets, from the fronts of their sums, and its value."""
        best: tuple[float, Choice] | None = None
        table = list(zip(self.values, self.costs, strict=True))
        for column in range(len(self.limits)):
            items = [
                Item(
                    "",
                    tuple(Option(v, {"": c}) for v, c in zip(own, costs[:, column], strict=True)),
                )
                for own, costs in table
            ]
            held = front(items, "")
            for index in range(len(held.cost) - 1, -1, -1):
                choice = held.choice(index)
                spent = sum(costs[o] for (_, costs), o in zip(table, choice, strict=True))
                if np.all(spent <= self.limits):
                    found = (float(held.errors[index]), choice)
                    best = found if best is None else min(best, found)
                    break
        return (None, math.inf) if best is None else (best[1], best[0])

    def _reach(self, index: int, values: Floats, costs: Floats) -> Floats:
        """The least that each partial choice can end at; infinite where it cannot fit."""
        rest = np.zeros(len(values))
        for column, (cost, errors) in enumerate(self.tails[index]):
            left = self.limits[column] - costs[:, column]
            at = np.searchsorted(cost, left, side="right") - 1
            rest = np.maximum(rest, np.where(at >= 0, errors[np.maximum(at, 0)], math.inf))
        return np.asarray(values + rest)


def _mixes(axes: int) -> Floats:
    """Weights of sums of budgets (mixes, axes): pairs in several proportions, and all alike."""
    rows = [np.full(axes, 1.0 / axes)]
    for a in range(axes):
        for b in range(a + 1, axes):
            for share in np.linspace(0.1, 0.9, 9):
                row = np.zeros(axes)
                row[a], row[b] = share, 1 - share
                rows.append(row)
    return np.array(rows)
