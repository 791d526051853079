"""Layers as the engine computes them, on float64: exact sums, then golden's one rounding.

A sum of products of codes is a whole number of units of the accumulator's grid. Float64 holds it
exactly, in whatever order it is summed, while the magnitudes of its terms sum to less than 2**53
units; that bound is computed beside every product, and where it fails the sum is put together from
parts (:mod:`opennpe.quant.qat.wide_sums`). Layers whose arithmetic is golden's own (softmax,
normalisation, tables) are golden's here too, with the gradients of the real function.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from opennpe.golden import activations, formats, mac, reference
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor as Described
from opennpe.golden.rounding import RECIPROCAL_BITS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant.grouping import moves
from opennpe.quant.qat import functions
from opennpe.quant.qat.wide_sums import odd, sum_of_products, two_sum

__all__ = ["CERTAIN", "run", "written"]

Tensor: TypeAlias = torch.Tensor
CERTAIN = 2.0**53
"""Units up to which float64 sums are exact."""
LARGEST_RECIPROCAL = 2.0 ** (RECIPROCAL_BITS + 1)
"""Of :func:`opennpe.golden.rounding.reciprocal`, as a whole number."""
SPEC = CoprocessorSpec()


class _Written(torch.autograd.Function):  # type: ignore[misc]
    """Golden's rounding of float64, the gradient straight through inside bounds and range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, tensor: Described, clip: L.Clip | None) -> Tensor:
        low, high = clip or (-math.inf, math.inf)
        numbers = values.detach().numpy()
        held = np.clip(numbers, low, high)
        found = tensor.decode(tensor.encode(held, SPEC.underflow))
        reach = np.ldexp(formats.get(tensor.format).maxpos, tensor.scale)
        inside = (np.abs(numbers) <= reach) & (numbers >= low) & (numbers <= high)
        ctx.save_for_backward(torch.from_numpy(inside))
        return torch.from_numpy(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def written(values: Tensor, tensor: Described, clip: L.Clip | None) -> Tensor:
    """A tensor's real values from exact ones (float64)."""
    return _Written.apply(values, tensor, clip)


def run(
    layer: L.Layer,
    ins: list[Described],
    given: list[Tensor],
    own: dict[str, Tensor],
    out: Described,
    batch: int | None,
) -> Tensor:
    """A layer's output, real values that its tensor holds (float64).

    Args:
        layer: with the codes of its parameters, as golden has it.
        ins, out: formats and scales.
        given: real values of codes, float64; indices are integers.
        own: parameters as they are used, and for products ``unit``, (O,): the grid in real units.
    """
    clip = getattr(layer, "clip", None)
    if isinstance(layer, L.Conv | L.Linear | L.MatMul):
        value = _product(layer, ins, given, own, batch)
    elif isinstance(layer, L.Add):
        value = _add(layer, ins, given)
    elif isinstance(layer, L.Pool) and layer.kind == "average":
        value = _average(layer, ins, given, batch)
    elif isinstance(layer, L.Activate) and layer.slope is None:
        value = _activated(layer, ins, given, out)
    elif isinstance(layer, L.Mul | L.Convert | L.Activate) or moves(layer):
        # Products of two significands of 13 bits, and values as they are.
        value = functions.run(layer, given, own, batch)
    else:
        return _by_golden(layer, ins, given, own, out, batch)
    if value is None:
        return _by_golden(layer, ins, given, own, out, batch)
    return written(value, out, clip)


def _product(
    layer: L.Conv | L.Linear | L.MatMul,
    ins: list[Described],
    given: list[Tensor],
    own: dict[str, Tensor],
    batch: int | None,
) -> Tensor:
    """The sum, exact or rounded to odd."""
    real = functions.run(layer, given, own, batch)
    with torch.no_grad():
        sizes = {name: values.abs() for name, values in own.items()}
        most = functions.run(layer, [x.abs() for x in given], sizes, batch)
        if isinstance(layer, L.MatMul):
            exponent = mac.grid_exponent(*(t.format for t in ins)) + sum(t.scale for t in ins)
            unit = torch.tensor(math.ldexp(1.0, exponent), dtype=torch.float64)
        else:
            rank = most.ndim - 2 if isinstance(layer, L.Conv) else 0
            unit = own["unit"].reshape(-1, *(1,) * rank)
        if bool((most / unit < CERTAIN).all()):
            return real
        return with_gradient(real, _wide(layer, given, own, batch))


def _wide(
    layer: L.Conv | L.Linear | L.MatMul,
    given: list[Tensor],
    own: dict[str, Tensor],
    batch: int | None,
) -> Tensor:
    """A sum beyond 53 bits."""
    if isinstance(layer, L.MatMul):
        start = torch.zeros((), dtype=torch.float64)
        a, b = given
        return sum_of_products(torch.matmul, a, b, int(a.shape[-1]), start)
    rank = given[0].ndim - 2 if isinstance(layer, L.Conv) else 0
    nothing = torch.zeros_like(own["bias"])

    def product(x: Tensor, weights: Tensor) -> Tensor:
        return functions.run(layer, [x], {"weights": weights, "bias": nothing}, batch)

    terms = math.prod(own["weights"].shape[1:])
    start = own["bias"].reshape(-1, *(1,) * rank)
    return sum_of_products(product, given[0], own["weights"], terms, start)


def _add(layer: L.Add, ins: list[Described], given: list[Tensor]) -> Tensor:
    """Both operands on the grid of the larger scale; their sum rounded to odd at 53 bits."""
    grid = mac.grid_exponent(ins[0].format, ins[1].format) + max(t.scale for t in ins)
    unit = math.ldexp(1.0, grid)
    a, b = (
        sign * (x + (torch.round(x / unit) * unit - x).detach())
        for sign, x in zip(layer.signs, given, strict=True)
    )
    total = a + b
    with torch.no_grad():
        low = two_sum(a, b)[1]
    return with_gradient(total, odd(total, low)) if bool((low != 0).any()) else total


def _average(
    layer: L.Pool, ins: list[Described], given: list[Tensor], batch: int | None
) -> Tensor | None:
    """Exact sums times golden's 17-bit reciprocals, or None where float64 might not hold them."""
    x = given[0]
    sums = functions.window_sums(layer, x)
    unit = math.ldexp(1.0, formats.get(ins[0].format).lsb_exponent + ins[0].scale)
    with torch.no_grad():
        most = functions.window_sums(layer, x.abs()) / unit * LARGEST_RECIPROCAL
        if not bool((most < CERTAIN).all()):
            return None
    return sums * functions.factors(layer, tuple(x.shape[2:]))


def _activated(
    layer: L.Activate, ins: list[Described], given: list[Tensor], out: Described
) -> Tensor:
    """By golden's table; the gradient is the real function's."""
    where = (ins[0].format, ins[0].scale, out.format, out.scale)
    table = activations.table(layer.kind, *where, layer.params, SPEC.underflow)
    codes = ins[0].encode(given[0].detach().numpy(), SPEC.underflow)
    return with_gradient(
        functions.activation(layer.kind, given[0], dict(layer.params)),
        torch.from_numpy(out.decode(table[codes])),
    )


def with_gradient(real: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``real``."""
    return value if not real.requires_grad else _Replaced.apply(real, value)


class _Replaced(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, real: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _by_golden(
    layer: L.Layer,
    ins: list[Described],
    given: list[Tensor],
    own: dict[str, Tensor],
    out: Described,
    batch: int | None,
) -> Tensor:
    """Golden's own evaluation of a layer: slow, and exact whatever comes."""
    codes = []
    for tensor, x in zip(ins, given, strict=True):
        numbers = x.detach().numpy()
        index = tensor.format == formats.INDEX.name
        codes.append(numbers if index else tensor.encode(numbers, SPEC.underflow))
    found = out.decode(reference.evaluate_layer(SPEC, layer, ins, codes, out))
    real = functions.run(layer, given, own, batch)
    clip = getattr(layer, "clip", None)
    return with_gradient(real if clip is None else real.clamp(*clip), torch.from_numpy(found))
