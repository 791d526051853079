"""Choosing one option for every item under budgets, errors and costs adding up.

That is the multiple-choice knapsack. :func:`front` gives the best error at every cost,
:func:`greedy` upgrades what gains most for its cost, :func:`by_share` is the paper's own rule;
:mod:`opennpe.quant.knapsack` proves a choice the best under several budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import OpenNPEError

__all__ = [
    "BudgetError",
    "Choice",
    "Front",
    "Item",
    "Option",
    "by_share",
    "check_budgets",
    "fits",
    "front",
    "greedy",
    "merged",
    "pruned",
    "total",
    "undominated",
]

MOST_POINTS = 20_000
"""Points of a front that are kept from item to item."""
SLACK = 1e-9
"""Relative: sums of the same numbers in another order may differ by so much."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choice = tuple[int, ...]
"""The number of the option taken, by item."""


class BudgetError(OpenNPEError):
    """No choice fits a budget."""


@dataclass(frozen=True)
class Option:
    """What may be chosen.

    Attributes:
        error: what it adds to the error. costs: what it adds to each cost, by name.
        label: what it stands for.
    """

    error: float
    costs: Mapping[str, float]
    label: Any = None


@dataclass(frozen=True)
class Item:
    """Options of which exactly one is taken."""

    name: str
    options: tuple[Option, ...]

    def column(self, name: str) -> Floats:
        """One cost, or the ``"error"``, of all options."""
        if name == "error":
            return np.array([option.error for option in self.options])
        return np.array([float(option.costs[name]) for option in self.options])


def total(items: Sequence[Item], choice: Choice, name: str) -> float:
    """The ``"error"``, or a cost, of a choice."""
    taken = (item.options[index] for item, index in zip(items, choice, strict=True))
    return math.fsum(o.error if name == "error" else float(o.costs[name]) for o in taken)


def pruned(options: Sequence[Option], costs: Sequence[str]) -> tuple[Option, ...]:
    """The options that no other one beats or equals in the error and in every cost."""
    table = np.array([[o.error, *(float(o.costs[name]) for name in costs)] for o in options])
    return tuple(options[int(i)] for i in np.flatnonzero(undominated(table)))


def undominated(table: Floats) -> NDArray[np.bool_]:
    """Rows (n, d) that no other row is at least as good as in all columns; of equal ones the
    first."""
    order = np.lexsort(table.T[::-1])
    ranked = table[order]
    keep = np.ones(len(table), dtype=np.bool_)
    # In this order only an earlier row can dominate a later one.
    for row in range(1, len(ranked)):
        keep[row] = not (ranked[:row][keep[:row]] <= ranked[row]).all(axis=1).any()
    result = np.zeros(len(table), dtype=np.bool_)
    result[order[keep]] = True
    return result


def check_budgets(items: Sequence[Item], budgets: Mapping[str, float]) -> None:
    """Refuse a budget below the least that any choice has.

    Raises:
        BudgetError: naming the least.
    """
    for name, limit in budgets.items():
        least = math.fsum(float(item.column(name).min()) for item in items)
        if not least <= limit * (1 + SLACK):
            raise BudgetError(
                f"no choice has {name} of at most {limit:.6g}: the least possible is {least:.6g}; "
                "raise the budget, or offer narrower formats"
            )


# -- the whole front ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Front:
    """Choices of which none is beaten in both cost and error, ascending in cost.

    Attributes:
        cost, errors: float64 (points,).
        choices: (points, items), options' numbers.
        proven: whether every point of the true front is there; else points were thinned out.
    """

    axis: str
    cost: Floats
    errors: Floats
    choices: Ints
    proven: bool = True

    def best(self, budget: float) -> int:
        """The point of least error within a budget of the cost.

        Raises:
            BudgetError: none.
        """
        index = int(np.searchsorted(self.cost, budget * (1 + SLACK), side="right")) - 1
        if index < 0:
            raise BudgetError(
                f"no choice has {self.axis} of at most {budget:.6g}: the least possible is "
                f"{self.cost[0]:.6g}"
            )
        return index

    def choice(self, index: int) -> Choice:
        """The choice at a point."""
        return tuple(int(i) for i in self.choices[index])


def front(
    items: Sequence[Item], axis: str, error: str = "error", points: int = MOST_POINTS
) -> Front:
    """The best error (or other column) at every cost, by merging items one by one.

    A partial choice that another beats in cost and error cannot be part of a point of the front,
    whatever follows: dropping it loses nothing. More than ``points`` partial choices are thinned
    to the best in each of as many steps of cost; what remains is still what it says.
    """
    cost, errors = np.zeros(1), np.zeros(1)
    back: list[tuple[Ints, Ints]] = []
    proven = True
    for item in items:
        own = item.column(axis), item.column(error)
        cost, errors, keep, whole = merged(cost, errors, *own, points)
        proven = proven and whole
        back.append((keep // len(item.options), keep % len(item.options)))
    choices = np.zeros((len(cost), len(items)), dtype=np.int64)
    at = np.arange(len(cost))
    for index in range(len(items) - 1, -1, -1):
        parents, taken = back[index]
        choices[:, index] = taken[at]
        at = parents[at]
    return Front(axis, cost, errors, choices, proven)


def merged(
    cost: Floats, errors: Floats, own_cost: Floats, own_errors: Floats, points: int = MOST_POINTS
) -> tuple[Floats, Floats, Ints, bool]:
    """The front of all sums of a front's points and an item's options.

    Returns:
        Its cost and errors, for each point ``point * options + option``, and whether it is whole.
    """
    cost = (cost[:, None] + own_cost).ravel()
    errors = (errors[:, None] + own_errors).ravel()
    order = np.lexsort((errors, cost))
    lowest = np.minimum.accumulate(errors[order])
    keep = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
    whole = len(keep) <= points
    if not whole:
        keep = _thinned(cost, keep, points)
    return cost[keep], errors[keep], keep, whole


def _thinned(cost: Floats, keep: Ints, points: int) -> Ints:
    """The last, so the best, of each step of cost, and the cheapest."""
    held = cost[keep]
    steps = ((held - held[0]) / (held[-1] - held[0]) * (points - 1)).astype(np.int64)
    last = np.concatenate([steps[1:] != steps[:-1], [True]])
    last[0] = True
    return np.asarray(keep[last])


# -- greedy ---------------------------------------------------------------------------------------
def greedy(items: Sequence[Item], budgets: Mapping[str, float], minimise: str = "error") -> Choice:
    """From the cheapest choice, take the upgrade of the best ratio of error to cost that fits.

    Args:
        budgets: the most of each cost, and of the ``"error"`` where a cost is minimised.
        minimise: ``"error"``, or a cost: then upgrades stop once the error's budget is met.

    Raises:
        BudgetError: no choice fits, or this way finds none.
    """
    check_budgets(items, budgets)
    limits = {name: limit for name, limit in budgets.items() if name != "error"}
    weights = {name: 1 / max(limit, 1e-300) for name, limit in limits.items()}
    if minimise != "error":
        weights[minimise] = 1.0 / max(total(items, _widest(items, minimise), minimise), 1e-300)
    scalar = [
        np.sum([item.column(name) * weight for name, weight in weights.items()], axis=0)
        if weights
        else np.zeros(len(item.options))
        for item in items
    ]
    choice = [
        int(np.lexsort((item.column("error"), s))[0]) for item, s in zip(items, scalar, strict=True)
    ]
    if not fits(items, tuple(choice), limits):
        raise BudgetError(
            "greedy search finds no choice within all budgets together: use the exact method"
        )
    goal = budgets.get("error") if minimise != "error" else None
    while goal is None or total(items, tuple(choice), "error") > goal:
        step = _best_upgrade(items, choice, scalar, limits)
        if step is None:
            break
        choice[step[0]] = step[1]
    found = tuple(choice)
    if goal is not None and total(items, found, "error") > goal * (1 + SLACK):
        raise BudgetError(f"greedy search finds no choice with an error of at most {goal:.6g}")
    return found


def _widest(items: Sequence[Item], name: str) -> Choice:
    return tuple(int(np.argmax(item.column(name))) for item in items)


def fits(items: Sequence[Item], choice: Choice, budgets: Mapping[str, float]) -> bool:
    """Whether a choice keeps all budgets."""
    return all(total(items, choice, name) <= limit * (1 + SLACK) for name, limit in budgets.items())


def _best_upgrade(
    items: Sequence[Item],
    choice: Sequence[int],
    scalar: Sequence[Floats],
    limits: Mapping[str, float],
) -> tuple[int, int] | None:
    """Item and option whose error falls most for its cost and that fits; None if there is none."""
    spent = {name: total(items, tuple(choice), name) for name in limits}
    best: tuple[float, float, int, int] | None = None
    for index, item in enumerate(items):
        now = choice[index]
        held = item.options[now]
        for other, option in enumerate(item.options):
            gain = held.error - option.error
            if gain <= 0 or not all(
                spent[name] + option.costs[name] - held.costs[name] <= limit * (1 + SLACK)
                for name, limit in limits.items()
            ):
                continue
            price = float(scalar[index][other] - scalar[index][now])
            ratio = math.inf if price <= 0 else gain / price
            found = (ratio, gain, -index, -other)
            best = found if best is None or found > best else best
    return None if best is None else (-best[2], -best[3])


# -- the paper's rule -----------------------------------------------------------------------------
def by_share(scores: Mapping[str, float], share: float) -> frozenset[str]:
    """The names of the highest scores, a share of all of them (rounded to whole names).

    Raises:
        BudgetError: a share outside 0 to 1, or scores that are no numbers.
    """
    if not 0 <= share <= 1:
        raise BudgetError(f"a share of layers lies in 0 to 1, got {share:g}")
    if not all(math.isfinite(score) for score in scores.values()):
        raise BudgetError("scores of layers must be finite numbers")
    ranked = sorted(scores, key=lambda name: -scores[name])
    return frozenset(ranked[: round(share * len(ranked))])
