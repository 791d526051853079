"""Formats by layer: what is decided, what it costs, and searches against trying everything."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opennpe.cli import assign, assign_bench
from opennpe.cli.assign_cost import CostTable
from opennpe.cli.data import fit
from opennpe.cli.main import main
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, FormatError, PolicyError
from opennpe.quant import Policy, calibration, load_onnx, lower, sensitivity
from opennpe.quant.decisions import Decisions, decisions, pin
from opennpe.quant.evolution import evolve
from opennpe.quant.graph import Graph
from opennpe.quant.knapsack import exact
from opennpe.quant.pareto import BudgetError, Item, Option, by_share, front, greedy, pruned, total
from opennpe.quant.policy import Rule, exactly
from opennpe.quant.sensitivity import Information, Reference
from quant_models import save, small_cnn

X = np.random.default_rng(0).normal(size=(6, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return load_onnx(save(small_cnn(), tmp_path_factory.mktemp("model")))


def networks(graph: Graph, decided: Decisions) -> dict[str, object]:
    samples = calibration.observe(graph, X)
    return {
        fmt: lower.lower(graph, samples, decided.policy(decided.uniform(fmt, fmt)), "mse")
        for fmt in decided.formats
    }


def reference(graph: Graph, measure: str = "kl") -> Reference:
    return Reference(graph, list(calibration.batches(graph, {graph.inputs[0]: X})), measure)


# -- searches -------------------------------------------------------------------------------------
def problem(seed: int, count: int = 5) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(
            str(index),
            tuple(
                Option(
                    float(rng.random()),
                    {"bytes": float(rng.integers(1, 20)), "energy": float(rng.random())},
                )
                for _ in range(rng.integers(1, 5))
            ),
        )
        for index in range(count)
    ]


def everything(items: list[Item]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(item.options)) for item in items)))


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(12))
def test_the_front_is_that_of_all_choices(seed: int) -> None:
    items = problem(seed)
    points = sorted((total(items, c, "bytes"), total(items, c, "error")) for c in everything(items))
    best: list[tuple[float, float]] = []
    for cost, error in points:
        if not best or error < best[-1][1] - 1e-12:
            best.append((cost, error))
    found = front(items, "bytes")
    assert found.proven
    np.testing.assert_allclose(np.column_stack([found.cost, found.errors]), best)
    for index in range(len(found.cost)):
        choice = found.choice(index)
        assert total(items, choice, "error") == pytest.approx(found.errors[index])
        assert total(items, choice, "bytes") == pytest.approx(found.cost[index])


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("budgets", [{"bytes": 30.0}, {"bytes": 30.0, "energy": 2.0}])
def test_exact_search_finds_what_trying_everything_finds(
    seed: int, budgets: dict[str, float]
) -> None:
    items = problem(seed)
    fitting = [
        c for c in everything(items) if all(total(items, c, n) <= b for n, b in budgets.items())
    ]
    if not fitting:
        with pytest.raises(BudgetError, match="raise"):
            exact(items, budgets)
        return
    least = min(total(items, c, "error") for c in fitting)
    choice, proven = exact(items, budgets)
    assert proven and choice in fitting
    assert total(items, choice, "error") == pytest.approx(least)
    # The dual question: of choices as good as that, the one of least energy.
    dual, proven = exact(items, {**budgets, "error": least * 1.5}, "energy")
    good = [c for c in fitting if total(items, c, "error") <= least * 1.5]
    assert proven
    assert total(items, dual, "energy") == pytest.approx(
        min(total(items, c, "energy") for c in good)
    )


def test_a_corrupted_cost_shows_against_trying_everything() -> None:
    """The comparison above can fail: a search told wrong costs breaks the budget of the true."""
    caught = 0
    for seed in range(12):
        items = problem(seed)
        limit = 3 + sum(float(item.column("bytes").min()) for item in items)
        free = tuple(replace(o, costs=dict.fromkeys(o.costs, 0.0)) for o in items[0].options)
        wrong, _ = exact([replace(items[0], options=free), *items[1:]], {"bytes": limit})
        right, _ = exact(items, {"bytes": limit})
        assert total(items, right, "bytes") <= limit
        caught += total(items, wrong, "bytes") > limit
    assert caught >= 6


@pytest.mark.fast
def test_greedy_keeps_budgets_and_is_never_better_than_exact() -> None:
    gaps = []
    for seed in range(20):
        items = problem(seed, 8)
        least = {n: sum(float(i.column(n).min()) for i in items) for n in ("bytes", "energy")}
        budgets = {"bytes": least["bytes"] + 30, "energy": least["energy"] + 2}
        choice = greedy(items, budgets)
        assert all(total(items, choice, n) <= b for n, b in budgets.items())
        best, _ = exact(items, budgets)
        gaps.append(total(items, choice, "error") - total(items, best, "error"))
    assert min(gaps) > -1e-12
    assert max(gaps) > 0  # else greedy would do


def test_a_thinned_front_says_so_and_stays_true() -> None:
    items = problem(1, 9)
    whole, thin = front(items, "energy"), front(items, "energy", points=8)
    assert whole.proven and not thin.proven and len(thin.cost) <= 9
    for index in range(len(thin.cost)):
        assert total(items, thin.choice(index), "error") == pytest.approx(thin.errors[index])
        assert thin.errors[index] >= whole.errors[whole.best(float(thin.cost[index]))] - 1e-12


def test_evolution_finds_what_sums_hide_and_repeats_itself() -> None:
    items, budgets = problem(5), {"bytes": 40.0}
    secret = exact(items, {"bytes": 35.0})[0]
    target = tuple((i + 1) % len(item.options) for i, item in zip(secret, items, strict=True))
    if total(items, target, "bytes") > 40:
        target = secret

    def measure(choice: tuple[int, ...]) -> float:
        return float(sum(a != b for a, b in zip(choice, target, strict=True)))

    starts = [exact(items, budgets)[0]]
    found, error = evolve(items, budgets, starts, measure, np.random.default_rng(0), 200)
    again, _ = evolve(items, budgets, starts, measure, np.random.default_rng(0), 200)
    assert error <= measure(starts[0]) and found == again
    assert total(items, found, "bytes") <= 40.0
    with pytest.raises(BudgetError, match="begin with"):
        evolve(items, {"bytes": 1.0}, starts, measure, np.random.default_rng(0))


@pytest.mark.fast
def test_dominated_options_go() -> None:
    made = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (1.0, 5.0), (0.5, 9.0)]
    kept = pruned([Option(e, {"c": c}) for e, c in made], ["c"])
    assert [(o.error, o.costs["c"]) for o in kept] == [(1.0, 5.0), (2.0, 4.0), (0.5, 9.0)]


@pytest.mark.fast
def test_the_papers_rule_takes_the_highest_scores() -> None:
    scores = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.2}
    assert by_share(scores, 0.5) == {"b", "c"}
    assert by_share(scores, 0) == frozenset() and by_share(scores, 1) == set(scores)
    for share, message in ((1.5, "0 to 1"), (-1, "0 to 1")):
        with pytest.raises(BudgetError, match=message):
            by_share(scores, share)
    with pytest.raises(BudgetError, match="finite"):
        by_share({"a": math.nan}, 0.5)


# -- decisions ------------------------------------------------------------------------------------
def test_layers_that_read_one_tensor_decide_together(graph: Graph) -> None:
    decided = decisions(graph)
    names = [name for group in decided.groups for name in group.layers]
    assert len(names) == len(set(names))
    for group in decided.groups:
        for other in decided.groups:
            assert group is other or not set(group.tensors) & set(other.tensors)
    # A mix converts nothing, whatever it holds.
    rng = np.random.default_rng(1)
    samples = calibration.observe(graph, X)
    for _ in range(4):
        chosen = decided.nearest(
            {name: str(rng.choice(decided.formats)) for name in decided.products},
            {g.layers[0]: str(rng.choice(decided.formats)) for g in decided.groups},
        )
        network = lower.lower(graph, samples, decided.policy(chosen), "mse")
        assert not any(isinstance(layer, L.Convert) for layer in network.layers)
        for layer in network.layers:
            if isinstance(layer, L.Conv | L.Linear):
                assert layer.weight_format == chosen.weights[layer.name]
                held = network.tensors[layer.inputs[0]].format
                assert held == chosen.inputs[decided.home[layer.name].name]


def test_pins_hold_and_are_checked(graph: Graph) -> None:
    pins = pin(graph, "posit8", "fp4xposit16")
    first, last = pins
    decided = decisions(graph, ("fp4", "posit4"), pins=pins)
    chosen = decided.uniform("fp4", "fp4")
    assert chosen.weights[first] == "posit8" and chosen.weights[last] == "fp4"
    assert chosen.inputs[decided.home[last].name] == "posit16"
    with pytest.raises(PolicyError, match="no layer 'nose'"):
        decisions(graph, pins={"nose": "fp4"})
    with pytest.raises(FormatError, match="fp5"):
        decisions(graph, pins={first: "fp5"})
    with pytest.raises(FormatError, match="no format of the engine"):
        decisions(graph, ("fp4", "int8"))
    with pytest.raises(FormatError, match="twice"):
        decisions(graph, ("fp4", "fp4"))


@pytest.mark.fast
def test_a_policy_comes_back_from_its_text() -> None:
    rules = (
        Rule((exactly("a[0]*"), 'b"\\'), "fp4", "posit8"),
        Rule(("*",), output="posit16", kind=("Add", "Mul")),
        Rule(("ü\x7f\n",), inputs="model"),
    )
    policy = Policy("posit8", "posit4", "fp4", "posit8", rules, "maxabs", 99.5)
    text = policy.dump("two\nlines")
    assert text.startswith("# two\n# lines\nversion = 1\n")
    assert replace(Policy.parse(text), source="policy") == policy
    assert Policy.parse(Policy.uniform("fp4").dump(), "format fp4") == Policy.uniform("fp4")


@pytest.mark.fast
def test_a_glob_for_one_name_matches_no_other() -> None:
    rule = Rule((exactly("a[0]*"),), "fp4")
    assert rule.matches("a[0]*") and not rule.matches("a0") and not rule.matches("a[0]b")


# -- sensitivity ----------------------------------------------------------------------------------
def test_output_error_is_that_of_one_rounding(graph: Graph) -> None:
    decided = decisions(graph, ("fp4", "posit16"))
    held, nets = reference(graph), networks(graph, decided)
    found = sensitivity.output_error(decided, nets, held, lambda: None)
    assert held.error({}, {}) == 0.0
    for (name, fmt), error in found.weights.items():
        assert math.isfinite(error) and error >= 0
        if fmt == "fp4":
            assert error > 10 * found.weights[name, "posit16"]
    chosen = decided.uniform("fp4", "fp4")
    assert found.total(chosen) == pytest.approx(
        sum(e for (_, f), e in (*found.weights.items(), *found.inputs.items()) if f == "fp4")
    )


def test_a_planted_fault_shows_in_the_output_error(graph: Graph) -> None:
    held = reference(graph)
    name = next(layer.name for layer in graph.layers if isinstance(layer, L.Conv))
    layer = next(layer for layer in graph.layers if layer.name == name)
    assert held.error({}, {name: layer}) == 0.0
    assert held.error({}, {name: replace(layer, weights=layer.weights * 1.1)}) > 0
    tensor = layer.output
    assert held.error({tensor: lambda v: v + 0.05}, {}) > 0


@pytest.mark.fast
def test_distances_of_outputs(graph: Graph) -> None:
    name = graph.outputs[0]
    p = np.full((2, 4), 0.25)
    q = np.array([[0.4, 0.2, 0.2, 0.2]] * 2)
    kind = sensitivity.ending(graph, name)
    assert kind == "probabilities"
    wanted = float((0.25 * np.log(0.25 / q[0])).sum())
    assert sensitivity.distance(graph, "kl", {name: q}, {name: p}) == pytest.approx(wanted)
    assert sensitivity.distance(graph, "mse", {name: 2 * p}, {name: p}) == pytest.approx(1.0)
    assert sensitivity.distance(graph, "mse", {name: p * math.nan}, {name: p}) == math.inf
    with pytest.raises(DataError, match="unknown measure"):
        sensitivity.distance(graph, "taste", {name: p}, {name: p})


def test_fisher_information_foretells_the_divergence(graph: Graph) -> None:
    pytest.importorskip("torch")
    from opennpe.quant.qat.fisher import information

    runs = list(calibration.batches(graph, {graph.inputs[0]: X}))
    # Several draws: one a sample is noisy with six samples.
    many = [information(graph, runs, seed) for seed in range(20)]
    assert information(graph, runs, 0).gradients == many[0].gradients
    held = reference(graph)
    for name, weights in many[0].weights.items():
        layer = next(one for one in graph.layers if one.name == name)
        rng = np.random.default_rng(2)
        wanted, seen = 0.0, 0.0
        fisher = np.mean([one.weights[name] for one in many], axis=0)
        for _ in range(15):
            step = rng.choice([-1.0, 1.0], weights.shape) * 1e-3
            wanted += 0.5 * float((fisher * step**2).sum())
            seen += held.error({}, {name: replace(layer, weights=layer.weights + step)})
        assert 0.5 < seen / wanted < 2.0, name


def test_fisher_information_of_another_network_is_refused(graph: Graph) -> None:
    decided = decisions(graph, ("fp4",))
    nets, held = networks(graph, decided), reference(graph)
    with pytest.raises(DataError, match="no Fisher information"):
        sensitivity.fisher_error(decided, nets, held, Information({}, {}))
    wrong = {name: np.ones(3) for name in decided.products}
    with pytest.raises(DataError, match="has shape"):
        sensitivity.fisher_error(decided, nets, held, Information(wrong, {}))


# -- the command ----------------------------------------------------------------------------------
def test_the_command_writes_a_policy_within_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(small_cnn(), tmp_path)
    data = tmp_path / "x.npz"
    np.savez(data, x=X)
    out = tmp_path / "out"
    common = ["assign", str(model), "--calibration", str(data), "--out", str(out), "--json"]
    asked = [*common, "--formats", "fp4,posit8", "--budget-size-percent", "20"]
    asked += ["--data", str(data), "--method", "evolve", "--evaluations", "30"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    mix = found["mixes"][-1]
    assert mix["mix"] == "mix" and mix["within_budget"]
    assert mix["weight_bytes"] <= 0.2 * found["float_weight_bytes"]
    rivals = [row for row in found["mixes"][:-1] if row["within_budget"]]
    assert rivals and mix["error"] <= min(row["error"] for row in rivals)
    policy = Policy.load(out / "policy.toml")
    for name, fmt in found["weights"].items():
        assert policy.choice(name).weights == fmt
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    for name in ("mixes.csv", "layers.csv", "sensitivity.csv"):
        with (out / name).open(newline="") as file:
            assert len(list(csv.DictReader(file))) > 2
    # A table of costs that foretells nothing would show here.
    assert mix["cycles_foretold"] == pytest.approx(mix["cycles"], rel=0.1)

    assert main([*common, "--formats", "fp4,posit8", "--budget-loss", "0.02"]) == 0
    cheap = json.loads(capsys.readouterr().out)["mixes"][-1]
    assert cheap["error"] <= 0.02


def test_a_table_that_lies_is_noticed_by_what_is_measured(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Budgets hold as measured: costs foretold too low lead to another search, not to a lie."""
    truth = assign_bench.cost_table

    def lying(*given: Any) -> CostTable:
        table = truth(*given)
        layers = {}
        for (name, w, i), (cycles, energy) in table.layers.items():
            least = table.layers[name, "fp4", "fp4"][1]
            layers[name, w, i] = (cycles, least + 0.3 * (energy - least))
        return CostTable(layers, table.groups, table.base, table.scope)

    monkeypatch.setattr(assign_bench, "cost_table", lying)
    given = fit({"x": X}, {graph.inputs[0]: graph.shapes[graph.inputs[0]]}, "x")
    settings = assign.Settings(formats=("fp4", "posit8"), points=2, fisher=False)
    narrow, wide = (
        mix.energy_pj / 1e6
        for mix in assign.assign_graph(
            graph, given, assign.Budgets(energy_uj=1e6), settings
        ).uniform
    )
    budget = narrow + 0.6 * (wide - narrow)
    found = assign.assign_graph(graph, given, assign.Budgets(energy_uj=budget), settings)
    assert found.found.mix.energy_pj <= budget * 1e6
    assert not found.found.proven and found.found.tries > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs a budget"),
        (["--budget-bytes", "10"], "least possible"),
        (["--budget-bytes", "-1"], "must be positive"),
        (["--budget-bytes", "900", "--formats", "fp4,fp9"], "fp9"),
        (["--budget-bytes", "900", "--pin", "nose=fp4"], "no layer 'nose'"),
        (["--budget-bytes", "900", "--pin", "nose"], "LAYER=FORMAT"),
        (["--budget-bytes", "900", "--method", "luck"], "unknown method"),
        (["--budget-loss", "1", "--minimise", "beauty"], "cannot minimise"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    model = save(small_cnn(), tmp_path)
    data = tmp_path / "x.npz"
    np.savez(data, x=X)
    out = tmp_path / "out"
    given = ["assign", str(model), "--calibration", str(data), "--out", str(out)]
    status = main([*given, "--formats", "fp4", *options])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and message in error
    assert not out.exists()
