"""PyTorch's multi-head attention as four linear layers, whose batch stays on axis 0."""

from __future__ import annotations

import copy
from typing import Any

import torch
from opennpe.golden.errors import ModelError
from torch import nn

__all__ = ["split"]


class SplitAttention(nn.Module):  # type: ignore[misc]
    """What :class:`torch.nn.MultiheadAttention` computes, its joint projection taken apart.

    PyTorch's own mixes samples with heads on one axis, which nothing after it can tell apart.
    """

    def __init__(self, whole: nn.MultiheadAttention, name: str) -> None:
        super().__init__()
        if not whole.batch_first or whole.bias_k is not None or whole.add_zero_attn:
            raise ModelError(
                f"'{name}': attention is taken with batch_first=True, without bias_k and "
                "add_zero_attn"
            )
        self.heads, self.batch_first = whole.num_heads, True
        joint = whole.in_proj_weight
        weights = (
            (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight)
            if joint is None
            else joint.detach().chunk(3)
        )
        bias = whole.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.detach().chunk(3)
        self.q, self.k, self.v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = whole.out_proj

    def forward(
        self, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
        need_weights: bool = False, attn_mask: Any = None, **_: Any,
    ) -> tuple[Any, None]:  # fmt: skip
        if key_padding_mask is not None or attn_mask is not None:
            raise ModelError("attention with masks: write it with linear layers and softmax")
        batch, steps, width = query.shape
        size = width // self.heads
        q, k, v = (
            linear(x).reshape(batch, -1, self.heads, size).transpose(1, 2)
            for linear, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        powers = torch.softmax(q @ k.transpose(-1, -2) / size**0.5, dim=-1)
        return self.out((powers @ v).transpose(1, 2).reshape(batch, steps, width)), None


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def split(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in which every multi-head attention is taken apart.

    Raises:
        ModelError: an attention of a kind that is not taken.
    """
    if not any(isinstance(part, nn.MultiheadAttention) for part in model.modules()):
        return model
    held = copy.deepcopy(model)
    for name, part in list(held.named_modules()):
        for child, inner in list(part.named_children()):
            if isinstance(inner, nn.MultiheadAttention):
                setattr(part, child, SplitAttention(inner, f"{name}.{child}".lstrip(".")))
    if isinstance(held, nn.MultiheadAttention):
        raise ModelError("a lone attention: put it into a module that calls it")
    return held
