"""Gradual magnitude pruning of a network in training, float or rounded.

Sparsity grows by the cubic schedule of Zhu and Gupta, *To prune, or not to prune* (arXiv
1710.01878), equation 1, from zero; which weights go is :func:`opennpe.quant.prune.keep`'s choice,
layer by layer. A weight that is gone stays gone, and after the schedule's end the masks are fixed.
A pattern N:M sheds one weight of every M after the other until N are left.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from opennpe.golden import layers as L
from opennpe.quant import prune
from opennpe.quant.qat.errors import RecipeError
from opennpe.quant.qat.recipe import Prune
from torch import nn

__all__ = [
    "Masks",
    "Product",
    "chosen",
    "is_due",
    "of_layers",
    "of_module",
    "sparsity_at",
    "update",
]

SetMask = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True)
class Product:
    """A layer with weights (O, I, ...) that gradients move."""

    name: str
    weight: torch.Tensor
    groups: int = 1


def of_module(model: nn.Module) -> dict[str, Product]:
    """The convolutions and linear layers of a module, by the names of their modules."""
    return {
        name: Product(name, module.weight, getattr(module, "groups", 1))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    }


def of_layers(layers: Iterable[L.Layer], weights: Mapping[str, torch.Tensor]) -> dict[str, Product]:
    """The products among golden layers with their weights in training, by layer name."""
    return {
        layer.name: Product(layer.name, weights[layer.name], getattr(layer, "groups", 1))
        for layer in layers
        if layer.name in weights
    }


def chosen(products: Mapping[str, Product], plan: Prune) -> tuple[str, ...]:
    """Names of the layers that a plan prunes: its own ``layers``, or linear layers and 1x1
    convolutions but the first; without those to skip.

    Raises:
        RecipeError: a glob that matches no layer, or nothing to prune.
    """
    for glob in (*plan.layers, *plan.skip):
        if not any(fnmatchcase(name, glob) for name in products):
            near = difflib.get_close_matches(glob.strip("*?"), products, n=3, cutoff=0.4)
            near = near or list(products)[:3]
            raise RecipeError(
                f"prune: '{glob}' matches no layer with weights; near it: "
                f"{', '.join(map(repr, near))}"
            )
    first = next((p.name for p in products.values() if p.weight.ndim > 2), None)
    names = []
    for name, product in products.items():
        if plan.layers:
            wanted = any(fnmatchcase(name, glob) for glob in plan.layers)
        else:
            shape = tuple(product.weight.shape)
            wanted = not prune.stays_dense(shape, product.groups, name == first)
        if wanted and not any(fnmatchcase(name, glob) for glob in plan.skip):
            names.append(name)
    if not names:
        raise RecipeError(
            f"prune: no layer is left to prune of {len(products)}: give layers = ['glob']"
        )
    return tuple(names)


def sparsity_at(step: int, total: int, plan: Prune) -> float:
    """The sparsity that a plan asks for at a step of ``total``, from 0."""
    begin, end = _span(total, plan)
    if step < begin:
        return 0.0
    if step >= end:
        return plan.sparsity
    return plan.sparsity * (1.0 - (1.0 - (step - begin) / (end - begin)) ** 3)


def is_due(step: int, total: int, plan: Prune) -> bool:
    """Whether masks are chosen anew before a step."""
    begin, end = _span(total, plan)
    return step == end or (begin <= step < end and (step - begin) % plan.every == 0)


def _span(total: int, plan: Prune) -> tuple[int, int]:
    """The first and the last step at which masks are chosen."""
    last = max(0, total - 1)
    return min(last, round(plan.begin * total)), min(last, round(plan.end * total))


class Masks:
    """Which weights of a network stay.

    Args:
        products: the layers, by name.
        put: hands a mask to the network; without it zeros are written into the weights, again
            after every step (:meth:`hold`), because an optimiser's momentum moves them.
    """

    def __init__(self, products: Mapping[str, Product], put: SetMask | None = None) -> None:
        self.products = dict(products)
        self.held: dict[str, torch.Tensor] = {}
        self._put = put

    def set(self, name: str, mask: torch.Tensor) -> None:
        """Let those weights stay where the mask, a bool each, is true.

        Raises:
            RecipeError: no such layer, or of another shape.
        """
        if name not in self.products:
            raise RecipeError(f"a mask names the layer '{name}', which the network has not")
        weight = self.products[name].weight
        if mask.shape != weight.shape:
            raise RecipeError(
                f"layer '{name}' has weights {tuple(weight.shape)}, its mask {tuple(mask.shape)}"
            )
        self.held[name] = mask.bool()
        if self._put:
            self._put(name, self.held[name].to(weight.dtype))
        else:
            self._write(name)

    def hold(self) -> None:
        """Write the zeros again that a step may have moved."""
        if not self._put:
            for name in self.held:
                self._write(name)

    def _write(self, name: str) -> None:
        with torch.no_grad():
            self.products[name].weight.masked_fill_(~self.held[name], 0.0)

    def effective(self, name: str) -> torch.Tensor:
        """A layer's weights with its mask, detached."""
        weight = self.products[name].weight.detach()
        return weight * self.held[name] if name in self.held else weight

    def sparsity(self) -> float:
        """Share of all products' weights that are zero."""
        zeros = sum(int((self.effective(name) == 0).sum()) for name in self.products)
        count = sum(product.weight.numel() for product in self.products.values())
        return zeros / count if count else 0.0


def update(masks: Masks, names: Iterable[str], sparsity: float, pattern: str) -> None:
    """Prune layers to a sparsity each; what is gone stays gone."""
    wanted = prune.pattern(pattern)
    if wanted.kind == "structured":
        left = math.ceil(wanted.m * (1.0 - sparsity) - 1e-9)
        wanted = prune.Pattern("structured", n=max(wanted.n, left), m=wanted.m)
    for name in names:
        weight = masks.effective(name)
        flat = weight.reshape(len(weight), -1).double().numpy()
        kept = torch.from_numpy(prune.keep(flat, 1.0 - sparsity, wanted)).reshape(weight.shape)
        before = masks.held.get(name)
        masks.set(name, kept if before is None else kept & before)
