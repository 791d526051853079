"""A mix for a budget: searched on the sums, measured, and searched again until it keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from opennpe.cli.assign_bench import Bench, Mix
from opennpe.cli.assign_cost import AXES, assignment, items
from opennpe.golden.errors import DataError
from opennpe.quant.evolution import evolve
from opennpe.quant.knapsack import exact
from opennpe.quant.pareto import SLACK, BudgetError, Choice, Front, Item, by_share, front, greedy
from opennpe.quant.sensitivity import rounding_errors

__all__ = [
    "METHODS",
    "Found",
    "fronts",
    "paper_scores",
    "rule_mixes",
    "rule_within",
    "search",
    "uniform_mix",
]

METHODS = ("exact", "greedy", "evolve")
ROUNDS = 12
"""Searches until the measured cost keeps the budget."""
PAPER = (0.5, 0.3, 0.2)
"""XR-NPE's weights of Fisher information, gradient norm and weight error in a layer's score."""


class Found:
    """The mix found, and whether its sum is proven the least.

    Attributes:
        mix: measured. proven: by the exact search, for budgets by the table's sums.
        tries: mixes that were measured on the way.
    """

    def __init__(self, mix: Mix, proven: bool, tries: int) -> None:
        self.mix, self.proven, self.tries = mix, proven, tries


def search(
    bench: Bench,
    method: str,
    budgets: Mapping[str, float],
    minimise: str,
    evaluations: int,
) -> Found:
    """The mix of least error within the budgets, or of least cost where the error has a budget.

    Budgets of costs hold as measured: where the table's sum is too low, the search is repeated
    with that much less. A budget of the error is measured too.

    Args:
        budgets: by :data:`~opennpe.cli.assign_cost.AXES`, and "error".
        minimise: the cost to make small where the error has a budget.

    Raises:
        BudgetError: none fits.
        DataError: an unknown method.
    """
    if method not in METHODS:
        raise DataError(f"unknown method '{method}': expected {', '.join(METHODS)}")
    found = items(bench.decided, bench.table, bench.sensitivity)
    costs = {name: limit for name, limit in budgets.items() if name != "error"}
    if "error" in budgets:
        return _cheapest(bench, found, costs, budgets["error"], minimise)
    if method == "evolve":
        return _evolved(bench, found, costs, evaluations)
    limits, before = dict(costs), len(bench.mixes)
    for number in range(ROUNDS):
        try:
            choice, proven = _searched(bench, found, method, limits)
        except BudgetError:
            if number == 0:
                raise
            break
        mix = bench.mix("mix", "found", assignment(found, choice))
        over = _over(mix, costs)
        if not over:
            return Found(mix, proven and number == 0, len(bench.mixes) - before)
        for name, ratio in over.items():
            limits[name] = min(limits[name], mix.foretold_costs[name]) * 0.9995 / math.sqrt(ratio)
    return Found(_best(bench, costs), False, len(bench.mixes) - before)


def _best(bench: Bench, costs: Mapping[str, float]) -> Mix:
    """The least error of all mixes measured so far that keep budgets, whoever proposed them:
    uniform formats, the rule's shares and points of the front are among them."""
    fitting = [mix for mix in bench.mixes.values() if not mix.refusal and not _over(mix, costs)]
    if not fitting:
        raise BudgetError("no mix keeps the budgets as measured: raise them a little")
    return bench.mix("mix", "found", min(fitting, key=lambda mix: mix.error).chosen)


def _searched(
    bench: Bench, found: Sequence[Item], method: str, limits: Mapping[str, float]
) -> tuple[Choice, bool]:
    left = _left(bench, limits)
    if method == "greedy":
        return greedy(found, left), False
    return exact(found, left)


def _left(bench: Bench, limits: Mapping[str, float]) -> dict[str, float]:
    """Budgets without what belongs to no decision."""
    base = {"cycles": bench.table.base[0], "energy_pj": bench.table.base[1]}
    return {name: limit - base.get(name, 0.0) for name, limit in limits.items()}


def _over(mix: Mix, costs: Mapping[str, float]) -> dict[str, float]:
    """By how much a mix breaks budgets, as factors."""
    if mix.refusal:
        return dict.fromkeys(costs, 1.02)
    ratios = {name: mix.cost(name) / limit for name, limit in costs.items()}
    return {name: ratio for name, ratio in ratios.items() if ratio > 1 + SLACK}


def _cheapest(
    bench: Bench,
    found: Sequence[Item],
    costs: Mapping[str, float],
    error: float,
    minimise: str,
) -> Found:
    """The cheapest mix whose measured error keeps a budget: the sum's budget is moved until the
    measured error just keeps its own."""
    before = len(bench.mixes)
    best: Mix | None = None
    tried: set[Choice] = set()
    low, high = math.log(error) - 6, math.log(error) + 3
    # The sum is seldom far from the measured error; halving in logarithms finds the border.
    for at in [math.log(error), *([None] * 12)]:
        bound = at if at is not None else (low + high) / 2
        try:
            limits = {**_left(bench, costs), "error": math.exp(bound)}
            choice, _ = exact(found, limits, minimise)
        except BudgetError:
            low = max(low, bound)
            continue
        mix = bench.mix("mix", "found", assignment(found, choice))
        keeps = mix.error <= error and not _over(mix, costs)
        if keeps and (best is None or mix.cost(minimise) < best.cost(minimise)):
            best = mix
        low, high = (bound, high) if keeps else (low, bound)
        if choice in tried and high - low < 0.02:
            break
        tried.add(choice)
    held = [
        mix
        for mix in bench.mixes.values()
        if not mix.refusal and not _over(mix, {**costs, "error": error})
    ]
    for mix in held:
        if best is None or mix.cost(minimise) < best.cost(minimise):
            best = bench.mix("mix", "found", mix.chosen)
    if best is None:
        raise BudgetError(
            f"no mix found with an error of at most {error:.4g}: raise it, or offer wider formats"
        )
    return Found(best, False, len(bench.mixes) - before)


def _evolved(
    bench: Bench, found: Sequence[Item], costs: Mapping[str, float], evaluations: int
) -> Found:
    """From the exact and greedy mixes of every measure and the front's neighbours, by measured
    error; a mix that breaks a budget as measured counts as infinitely bad. The best of all that was
    measured is taken, whoever proposed it."""
    before = len(bench.mixes)
    left = _left(bench, costs)
    starts = [start for scale in (1.0, 0.995, 0.98, 0.96) for start in _starts(found, left, scale)]
    bench.progress.stage("measuring mixes", evaluations)

    def measured(choice: Choice) -> float:
        bench.progress.advance()
        mix = bench.mix("mix", "found", assignment(found, choice))
        return math.inf if _over(mix, costs) else mix.error

    rng = np.random.default_rng(bench.seed)
    evolve(found, left, starts, measured, rng, evaluations)
    return Found(_best(bench, costs), False, len(bench.mixes) - before)


def _starts(found: Sequence[Item], left: Mapping[str, float], scale: float) -> list[Choice]:
    limits = {name: limit * scale for name, limit in left.items()}
    made: list[Choice] = []
    with suppress(BudgetError):
        made.append(exact(found, limits)[0])
    with suppress(BudgetError):
        made.append(greedy(found, limits))
    return made


# -- the front and the paper's rule ----------------------------------------------------------------
def fronts(bench: Bench, axis: str, points: int) -> tuple[Front, list[Mix]]:
    """The foretold front along a cost, and as many of its points measured, evenly spread in the
    logarithm of the error."""
    found = items(bench.decided, bench.table, bench.sensitivity, AXES)
    whole = front(found, axis)
    logs = np.log(np.maximum(whole.errors, 1e-12))
    wanted = np.linspace(logs[0], logs[-1], points)
    chosen = sorted({int(np.argmin(np.abs(logs - at))) for at in wanted})
    bench.progress.stage("measuring the front", len(chosen))
    mixes = []
    for number, index in enumerate(chosen):
        made = assignment(found, whole.choice(index))
        mixes.append(bench.mix(f"front {number}", "front", made))
        bench.progress.advance()
    return whole, mixes


def paper_scores(bench: Bench, narrow: str, wide: str) -> dict[str, float]:
    """XR-NPE's score of each product: Fisher information, gradient norm and what the wide format
    saves of the weights' squared error, each over its largest; without Fisher information the last
    alone."""
    errors = rounding_errors(bench.decided, bench.uniform).weights
    names = [n for n in bench.decided.products if (n, narrow) in errors and (n, wide) in errors]
    gained = {name: max(0.0, errors[name, narrow] - errors[name, wide]) for name in names}
    held = bench.information
    if held is None:
        return _normalised(gained)
    parts = (
        {name: float(held.weights[name].mean()) for name in names},
        {name: held.gradients[name] for name in names},
        gained,
    )
    ranked = [_normalised(part) for part in parts]
    return {
        name: math.fsum(w * part[name] for w, part in zip(PAPER, ranked, strict=True))
        for name in names
    }


def _normalised(scores: Mapping[str, float]) -> dict[str, float]:
    most = max(scores.values(), default=0.0)
    return {name: score / most if most else 0.0 for name, score in scores.items()}


def rule_mixes(bench: Bench, narrow: str, wide: str) -> list[Mix]:
    """The paper's rule at every share: the highest scores get the wide format for weights and
    inputs, the other products the narrow one; layers without weights take either, so that each
    share is there twice."""
    scores = paper_scores(bench, narrow, wide)
    decided = bench.decided
    others = [name for name in decided.home if name not in decided.products]
    bench.progress.stage("measuring the paper's rule", 2 * (len(scores) + 1))
    mixes = []
    for rest in (narrow, wide):
        for count in range(len(scores) + 1):
            share = count / len(scores)
            wider = by_share(scores, share)
            own = {n: wide if n in wider else narrow for n in decided.products}
            chosen = decided.nearest(own, own | dict.fromkeys(others, rest))
            between = "" if rest == narrow else f", {wide} between"
            name = f"rule {100 * share:.0f} % {wide}, else {narrow}{between}"
            mixes.append(bench.mix(name, "rule", chosen))
            bench.progress.advance()
    return mixes


def rule_within(mixes: Sequence[Mix], budgets: Mapping[str, float], minimise: str) -> Mix | None:
    """Of the rule's mixes that keep all budgets, that of least measured error; the cheapest where
    the error has a budget."""
    fitting = [mix for mix in mixes if not mix.refusal and not _over(mix, budgets)]
    axis = minimise if "error" in budgets else "error"
    return min(fitting, key=lambda mix: mix.cost(axis)) if fitting else None


def uniform_mix(bench: Bench, name: str) -> Mix:
    """One format for everything but pins and outputs."""
    return bench.mix(name, "uniform", bench.decided.uniform(name, name))
