"""Rounding as PyTorch operators, with straight-through gradients.

They are operators of PyTorch's library, so that ``torch.compile`` takes them as they are.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.formats import Underflow
from opennpe.quant.qat import rounding

__all__ = ["fake_quantize", "on_grid"]

Tensor = torch.Tensor


def fake_quantize(
    x: Tensor,
    exponent: Tensor,
    name: str,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    *,
    underflow: Underflow = "zero",
    clipped: bool = True,
    chance: Tensor | None = None,
) -> Tensor:
    """The nearest values of a format at ``2**exponent``; float32, of x's shape.

    Args:
        exponent: whole numbers, () or (O,): one for each of x's axis 0. It may be a parameter that
            is learned; then it is rounded first.
        bounds: a clip before the rounding.
        clipped: no gradient where the bounds or the format's largest value cut. Else it passes
            through everywhere but where the bounds cut.
        chance: float32 like x, even in [0, 1): rounds to either neighbour by chance.
    """
    whole = exponent.detach().round()
    if exponent.requires_grad:
        whole = exponent + (whole - exponent.detach())
    return cast(
        Tensor, torch.ops.opennpe.round(x, whole, name, *bounds, str(underflow), clipped, chance)
    )


def on_grid(values: Tensor, exponents: Tensor) -> Tensor:
    """Values as whole multiples of ``2**exponents``, the gradient straight through."""
    with torch.no_grad():
        unit = torch.exp2(exponents.to(values.dtype))
        change = torch.round(values / unit) * unit - values
    return values + change


def _flat(x: Tensor) -> Tensor:
    """A dense tensor's numbers in the order in which they lie in memory."""
    return x.as_strided((x.numel(),), (1,), x.storage_offset())


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _array(x: Tensor, exponent: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
    """The tensor, made dense where it is not, and its numbers; by axis 0 if exponents are."""
    held = x if _dense(x) and exponent.ndim == 0 else x.contiguous()
    return held, _flat(held).numpy()


def _exponents(exponent: Tensor) -> NDArray[np.int64]:
    return np.asarray(exponent.detach().numpy()).round().astype(np.int64)


@torch.library.custom_op("opennpe::round", mutates_args=())  # type: ignore[untyped-decorator]
def _round(
    x: Tensor,
    exponent: Tensor,
    name: str,
    low: float,
    high: float,
    underflow: str,
    clipped: bool,
    chance: Tensor | None,
) -> Tensor:
    held, numbers = _array(x.detach(), exponent)
    out = torch.empty_like(held)
    exponents, threads = _exponents(exponent), torch.get_num_threads()
    if chance is None:
        rule = cast(Underflow, underflow)
        result = _flat(out).numpy()
        rounding.nearest(numbers, name, exponents, low, high, rule, threads, result)
    else:
        _, chances = _array(chance, exponent)
        found = rounding.draw(numbers, chances, name, exponents, low, high)
        _flat(out).copy_(torch.from_numpy(found))
    return out


@_round.register_fake  # type: ignore[untyped-decorator]
def _(
    x: Tensor,
    exponent: Tensor,
    name: str,
    low: float,
    high: float,
    underflow: str,
    clipped: bool,
    chance: Tensor | None,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("opennpe::round_backward", mutates_args=())  # type: ignore[untyped-decorator]
def _backward(
    grad: Tensor,
    x: Tensor,
    rounded: Tensor,
    exponent: Tensor,
    name: str,
    low: float,
    high: float,
    clipped: bool,
    learned: bool,
) -> tuple[Tensor, Tensor]:
    held, numbers = _array(x.detach(), exponent)
    if grad.stride() != held.stride():
        grad = torch.empty_like(held).copy_(grad)
    of_rounded = _array(rounded.detach(), exponent)[1] if learned else numbers
    out = torch.empty_like(held)
    _, totals = rounding.gradients(
        _flat(grad.detach()).numpy(),
        numbers,
        of_rounded,
        name,
        _exponents(exponent),
        low,
        high,
        clipped,
        learned,
        torch.get_num_threads(),
        _flat(out).numpy(),
    )
    return out, torch.from_numpy(totals).to(exponent.dtype)


@_backward.register_fake  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    x: Tensor,
    rounded: Tensor,
    exponent: Tensor,
    name: str,
    low: float,
    high: float,
    clipped: bool,
    learned: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(exponent)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, exponent, ctx.name, ctx.low, ctx.high, _, ctx.clipped, _ = inputs
    ctx.learned = exponent.requires_grad
    ctx.save_for_backward(x, output if ctx.learned else x, exponent)


def _through(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, rounded, exponent = ctx.saved_tensors
    found, of_exponent = torch.ops.opennpe.round_backward(
        grad, x, rounded, exponent, ctx.name, ctx.low, ctx.high, ctx.clipped, ctx.learned
    )
    return found, of_exponent if ctx.learned else None, None, None, None, None, None, None


_round.register_autograd(_through, setup_context=_keep)
