"""Golden's layers on real PyTorch tensors, before their clip and their rounding.

What :mod:`opennpe.quant.float_eval` does in NumPy, with gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from opennpe.golden import attention, shapes
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError
from opennpe.golden.pooling import average_counts, patches
from opennpe.golden.rounding import reciprocal
from torch.nn import functional as F

__all__ = ["KINDS", "activation", "run"]

Tensor: TypeAlias = torch.Tensor
Parameters: TypeAlias = Mapping[str, Tensor]
"""A layer's own: ``weights``, ``bias``, ``slope``, ``gamma``, ``beta``."""


def run(layer: L.Layer, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    """One layer.

    Args:
        given: its inputs; indices are integers.
        own: its parameters as they are used.
        batch: samples along axis 0 at hand, None where the network's axis 0 is no batch.

    Raises:
        NetworkError: a kind of layer that is not trained.
    """
    if type(layer) not in _HANDLERS:
        raise NetworkError(
            f"layer '{layer.name}': {type(layer).__name__} cannot be trained: expected one of "
            f"{', '.join(sorted(kind.__name__ for kind in _HANDLERS))}"
        )
    return _HANDLERS[type(layer)](layer, given, own, batch)


def _conv(layer: L.Conv, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    rank = len(layer.strides)
    x, pads = given[0], layer.pads
    if pads[:rank] != pads[rank:]:
        x, pads = F.pad(x, _torch_pads(pads, rank)), (0,) * (2 * rank)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(
        x, own["weights"], own["bias"], layer.strides, pads[:rank], layer.dilations, layer.groups
    )


def _torch_pads(pads: tuple[int, ...], rank: int) -> list[int]:
    """Begins and ends of every axis, the last axis first."""
    return [n for i in reversed(range(rank)) for n in (pads[i], pads[rank + i])]


def _pool(layer: L.Pool, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    x = given[0]
    if layer.kind == "average":
        return window_sums(layer, x) * factors(layer, tuple(x.shape[2:])).to(x.dtype)
    rank = len(layer.kernel)
    pads, out = _reach(layer, x)
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    padded = F.pad(x, pads, value=-torch.inf) if any(pads) else x
    found = function(padded, layer.kernel, layer.strides, 0, layer.dilations)
    return found[(slice(None), slice(None), *(slice(n) for n in out))]


def _reach(layer: L.Pool, x: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """Padding that every window lies in, and how many windows there are."""
    rank = len(layer.kernel)
    out = shapes.windows(layer, tuple(x.shape[2:]), layer.kernel, layer.ceil_mode)
    ends = []
    for i in range(rank):
        reach = (out[i] - 1) * layer.strides[i] + layer.dilations[i] * (layer.kernel[i] - 1) + 1
        ends.append(max(layer.pads[rank + i], reach - x.shape[2 + i] - layer.pads[i]))
    return _torch_pads((*layer.pads[:rank], *ends), rank), out


def window_sums(layer: L.Pool, x: Tensor) -> Tensor:
    """Sums over the windows of an average, padding counted as zeros."""
    rank = len(layer.kernel)
    if tuple(x.shape[2:]) == tuple(layer.kernel) and not any(layer.pads):
        return x.sum(dim=tuple(range(2, 2 + rank)), keepdim=True)
    pads, out = _reach(layer, x)
    padded = F.pad(x, pads) if any(pads) else x
    ones = torch.ones((x.shape[1], 1, *layer.kernel), dtype=x.dtype)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    sums = function(padded, ones, None, layer.strides, 0, layer.dilations, x.shape[1])
    return sums[(slice(None), slice(None), *(slice(n) for n in out))]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def factors(layer: L.Pool, spatial: tuple[int, ...]) -> Tensor:
    """What the sums are multiplied by, float64."""
    return torch.from_numpy(np.vectorize(_factor, otypes=[np.float64])(counts(layer, spatial)))


def _factor(count: int) -> float:
    """Golden's reciprocal of 17 bits: means that are rounding ties fall where the engine's do."""
    m, q = reciprocal(int(count))
    return math.ldexp(m, -q)


def counts(layer: L.Pool, spatial: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Elements that each window of an average divides by, int64 (outputs...)."""
    inside = patches(np.ones((1, 1, *spatial), dtype=np.int64), layer.kernel, layer, 0)
    return np.asarray(average_counts(layer, spatial, inside))


def _resize(layer: L.Resize, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    x = given[0]
    for axis, (index, weight) in enumerate(zip(layer.indices, layer.weights, strict=True)):
        if axis == 0 and len(index) == 1:
            continue
        taps = [x.index_select(axis, torch.from_numpy(index[:, t])) for t in range(index.shape[1])]
        if len(taps) == 1:
            x = taps[0]
            continue
        side = [1] * x.ndim
        side[axis] = len(index)
        real = torch.from_numpy(np.ldexp(weight.astype(np.float64), -layer.fraction_bits))
        x = sum(
            (tap * real[:, t].reshape(side).to(x.dtype) for t, tap in enumerate(taps)),
            torch.zeros((), dtype=x.dtype),
        )
    return x


def _pad(layer: L.Pad, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    x = given[0]
    pads = _torch_pads(layer.pads, x.ndim)
    if layer.mode == "constant":
        return F.pad(x, pads, value=layer.value)
    for axis in range(x.ndim):
        reach = torch.arange(-layer.pads[axis], x.shape[axis] + layer.pads[x.ndim + axis])
        last = x.shape[axis] - 1
        if layer.mode == "reflect":
            reach = reach.abs()
            reach = torch.where(reach > last, 2 * last - reach, reach)
        x = x.index_select(axis, reach.clamp(0, last))
    return x


def _slice(layer: L.Slice, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    x = given[0]
    for axis, (start, stop, step) in enumerate(layer.slices):
        if axis == 0 and batch is not None:
            continue
        places = np.ascontiguousarray(np.arange(x.shape[axis])[slice(start, stop, step)])
        if len(places) != x.shape[axis] or step < 0:
            x = x.index_select(axis, torch.from_numpy(places))
    return x


def _reshape(layer: L.Reshape, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    shape = layer.shape if batch is None else (batch, *layer.shape[1:])
    return given[0].reshape(shape)


def _concat(layer: L.Concat, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    if layer.axis and batch is not None:
        given = [x.expand(batch, *x.shape[1:]) if len(x) != batch else x for x in given]
    return torch.cat(given, dim=layer.axis)


def _activate(layer: L.Activate, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    x = given[0]
    if layer.slope is not None:
        return torch.where(x < 0, x * own["slope"].to(x.dtype), x)
    return activation(layer.kind, x, dict(layer.params))


def activation(kind: str, x: Tensor, params: Mapping[str, float]) -> Tensor:
    """A function of :mod:`opennpe.golden.activations`."""
    return KINDS[kind](x, params)


def _softmax(layer: L.Softmax, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    function = F.log_softmax if layer.log else F.softmax
    return function(given[0], dim=layer.axis)


def _stream_softmax(
    layer: L.StreamSoftmax, given: list[Tensor], own: Parameters, batch: int | None
) -> Tensor:
    x = given[0] * layer.scale
    keep = attention.kept(layer, tuple(x.shape), [mask.numpy() for mask in given[1:]])
    if keep is None:
        return F.softmax(x, dim=-1)
    kept = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(keep, tuple(x.shape))))
    powers = F.softmax(torch.where(kept, x, torch.full_like(x, -1e30)), dim=-1)
    return torch.where(kept, powers, torch.zeros_like(powers))


def x_hat(layer: L.Normalise, x: Tensor) -> Tensor:
    """Normalised rows, before gamma and beta."""
    centred = x - x.mean(dim=-1, keepdim=True) if layer.kind == "layer" else x
    return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + layer.epsilon)


def _normalise(
    layer: L.Normalise, given: list[Tensor], own: Parameters, batch: int | None
) -> Tensor:
    return normalised(x_hat(layer, given[0]), own)


def normalised(rows: Tensor, own: Parameters) -> Tensor:
    """Gamma and beta on normalised rows."""
    rows = rows * own["gamma"] if "gamma" in own else rows
    return rows + own["beta"] if "beta" in own else rows


def _gather(layer: L.Gather, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    return given[0][given[1].long()]


def _reduce(layer: L.Reduce, given: list[Tensor], own: Parameters, batch: int | None) -> Tensor:
    total = torch.sum(given[0], dim=layer.axes, keepdim=True)
    if layer.kind == "sum":
        return total
    return total * _factor(given[0].numel() // total.numel())


KINDS: dict[str, Callable[[Tensor, Mapping[str, float]], Tensor]] = {
    "relu": lambda x, p: F.relu(x),
    "relu6": lambda x, p: F.relu6(x),
    "clip": lambda x, p: x.clamp(p.get("min", -torch.inf), p.get("max", torch.inf)),
    "sigmoid": lambda x, p: torch.sigmoid(x),
    "tanh": lambda x, p: torch.tanh(x),
    "silu": lambda x, p: F.silu(x),
    "hard_swish": lambda x, p: F.hardswish(x),
    "hard_sigmoid": lambda x, p: (x * p.get("alpha", 0.2) + p.get("beta", 0.5)).clamp(0, 1),
    "gelu": lambda x, p: F.gelu(x),
    "gelu_tanh": lambda x, p: F.gelu(x, approximate="tanh"),
    "elu": lambda x, p: F.elu(x, p.get("alpha", 1.0)),
    "selu": lambda x, p: p["gamma"] * F.elu(x, p["alpha"]),
    "softplus": lambda x, p: F.softplus(x),
    "softsign": lambda x, p: F.softsign(x),
    "mish": lambda x, p: F.mish(x),
    "exp": lambda x, p: torch.exp(x),
    "log": lambda x, p: torch.log(x),
    "sqrt": lambda x, p: torch.sqrt(x),
    "reciprocal": lambda x, p: 1 / x,
    "erf": lambda x, p: torch.erf(x),
    "abs": lambda x, p: torch.abs(x),
}
"""Functions by name, as golden's tables hold them."""

_HANDLERS: dict[type, Callable[[Any, list[Tensor], Parameters, int | None], Tensor]] = {
    L.Conv: _conv,
    L.Linear: lambda layer, given, own, batch: F.linear(given[0], own["weights"], own["bias"]),
    L.MatMul: lambda layer, given, own, batch: torch.matmul(*given),
    L.Add: lambda layer, given, own, batch: layer.signs[0] * given[0] + layer.signs[1] * given[1],
    L.Mul: lambda layer, given, own, batch: given[0] * given[1],
    L.Pool: _pool,
    L.Concat: _concat,
    L.Resize: _resize,
    L.Pad: _pad,
    L.Slice: _slice,
    L.Reshape: _reshape,
    L.Transpose: lambda layer, given, own, batch: given[0].permute(layer.permutation),
    L.Activate: _activate,
    L.Convert: lambda layer, given, own, batch: given[0],
    L.Softmax: _softmax,
    L.StreamSoftmax: _stream_softmax,
    L.Normalise: _normalise,
    L.Gather: _gather,
    L.Select: lambda layer, given, own, batch: torch.where(given[0] != 0, given[1], given[2]),
    L.Reduce: _reduce,
}
