"""Sparsity grows as scheduled, where it should, and what is gone stays gone."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from opennpe.quant import prune  # noqa: E402
from opennpe.quant.qat import pruning  # noqa: E402
from opennpe.quant.qat.errors import RecipeError  # noqa: E402
from opennpe.quant.qat.recipe import Prune  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.fast


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.deep = nn.Conv2d(16, 16, 3, groups=16)
        self.point = nn.Conv2d(16, 32, 1)
        self.wide = nn.Conv2d(32, 16, 3)
        self.head = nn.Linear(16, 12)


def small():
    torch.manual_seed(0)
    return Small()


def test_the_schedule_is_the_cubic_of_zhu_and_gupta():
    plan = Prune(0.9, begin=0.1, end=0.6, every=5)
    found = [pruning.sparsity_at(step, 101, plan) for step in range(101)]
    assert found[0] == found[10] == 0.0
    assert found[35] == pytest.approx(0.9 * (1 - (1 - 25 / 51) ** 3))
    assert found[61] == found[100] == 0.9
    assert all(a <= b for a, b in pairwise(found))
    due = [step for step in range(101) if pruning.is_due(step, 101, plan)]
    assert due[0] == 10 and due[-1] == 61
    assert all(b - a <= 5 for a, b in pairwise(due))


@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.6)])
def test_every_stage_reaches_its_sparsity_however_short(total, begin, end):
    plan = Prune(0.75, begin=begin, end=end)
    due = [step for step in range(total) if pruning.is_due(step, total, plan)]
    assert due and pruning.sparsity_at(due[-1], total, plan) == 0.75


def test_layers_are_chosen_as_one_shot_pruning_does_or_by_name():
    products = pruning.of_module(small())
    assert list(products) == ["first", "deep", "point", "wide", "head"]
    assert pruning.chosen(products, Prune(0.5)) == ("point", "head")
    assert pruning.chosen(products, Prune(0.5, skip=("he*",))) == ("point",)
    everything = Prune(0.5, layers=("*",), skip=("deep",))
    assert pruning.chosen(products, everything) == ("first", "point", "wide", "head")


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Prune(0.5, skip=("haed",)), "'haed' matches no layer with weights; near it: 'head'"),
        (Prune(0.5, layers=("body*",)), "'body*' matches no layer"),
        (Prune(0.5, skip=("*",)), "no layer is left to prune of 5"),
    ],
)
def test_globs_that_match_nothing_are_refused(plan, expected):
    with pytest.raises(RecipeError) as caught:
        pruning.chosen(pruning.of_module(small()), plan)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "sparsity"), [("unstructured", 0.9), ("4x1", 0.75), ("2:4", 0.5)]
)
def test_masks_follow_the_schedule_while_an_optimiser_moves_the_weights(pattern, sparsity):
    model = small()
    plan = Prune(sparsity, pattern, begin=0.0, end=0.5, every=4)
    masks = pruning.Masks(pruning.of_module(model))
    names = pruning.chosen(masks.products, plan)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    gone = {name: torch.zeros_like(masks.products[name].weight, dtype=torch.bool) for name in names}
    seen = []
    for step in range(40):
        if pruning.is_due(step, 40, plan):
            pruning.update(masks, names, pruning.sparsity_at(step, 40, plan), pattern)
        optimiser.zero_grad()
        sum((p**2 - p).sum() for p in model.parameters()).backward()
        optimiser.step()
        masks.hold()
        for name in names:
            zero = masks.products[name].weight == 0
            assert (zero | ~gone[name]).all(), "a weight came back"
            gone[name] = zero
        seen.append(float(gone["point"].float().mean()))
    assert seen[0] == 0.0 and seen == sorted(seen)
    assert len(set(seen)) > 2, "sparsity came at once"
    assert seen[20] == seen[-1], "masks moved after the schedule's end"
    for name in names:
        weights = masks.products[name].weight.detach().reshape(len(gone[name]), -1).numpy()
        kept = weights != 0
        if pattern == "2:4":
            groups = kept.reshape(len(kept), -1, 4).sum(axis=2)
            assert (groups == 2).all()
        elif pattern == "4x1":
            blocks = kept.reshape(-1, 4, kept.shape[1])
            assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
            assert kept.sum() == 4 * round((1 - sparsity) * kept.size / 4)
        else:
            assert kept.sum() == round((1 - sparsity) * kept.size)
    assert (model.first.weight != 0).all() and (model.deep.weight != 0).all()


def test_the_choice_is_that_of_one_shot_pruning():
    model = small()
    masks = pruning.Masks(pruning.of_module(model))
    weights = model.point.weight.detach().clone()
    pruning.update(masks, ("point",), 0.8, "unstructured")
    wanted = prune.keep(weights.reshape(32, -1).numpy(), 1 - 0.8)
    assert np.array_equal(masks.held["point"].reshape(32, -1).numpy(), wanted)


def test_without_holding_momentum_brings_weights_back():
    """What :meth:`Masks.hold` is for: the test above would fail without it."""
    model = small()
    masks = pruning.Masks(pruning.of_module(model))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruning.update(masks, ("head",), 0.5, "unstructured")
    sum((p**2 - p).sum() for p in model.parameters()).backward()
    optimiser.step()
    assert (model.head.weight != 0).all()


def test_masks_can_be_handed_to_the_network_instead():
    model, put = small(), {}
    masks = pruning.Masks(pruning.of_module(model), put.__setitem__)
    before = model.head.weight.detach().clone()
    pruning.update(masks, ("head",), 0.5, "unstructured")
    assert put["head"].dtype == torch.float32 and put["head"].sum() == put["head"].numel() / 2
    assert torch.equal(model.head.weight, before)
    assert masks.sparsity() == pytest.approx(
        put["head"].numel() / 2 / sum(p.weight.numel() for p in masks.products.values())
    )


def test_masks_of_another_network_are_refused():
    masks = pruning.Masks(pruning.of_module(small()))
    with pytest.raises(RecipeError, match="names the layer 'tail', which the network has not"):
        masks.set("tail", torch.ones(1))
    with pytest.raises(RecipeError, match=r"weights \(12, 16\), its mask \(16, 12\)"):
        masks.set("head", torch.ones(16, 12))
