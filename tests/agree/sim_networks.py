"""A small network that has every kind of layer, in any formats, built directly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor

__all__ = ["everything", "inputs"]

Pick = Callable[[int], str]


class Builder:
    """Adds layers one by one; formats and scales of tensors and weights by ``pick``."""

    def __init__(self, pick: Pick, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pick = pick
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Any] = {}
        self.layers: list[Any] = []

    def tensor(self, name: str, shape: tuple[int, ...], fmt: str | None = None) -> str:
        chosen = fmt or self.pick(len(self.tensors))
        scale = int(self.rng.integers(-1, 2))
        self.tensors[name] = Tensor(name, shape, chosen, scale)
        return name

    def constant(self, name: str, values: Any) -> str:
        self.tensor(name, np.shape(values))
        self.constants[name] = self.tensors[name].encode(values, "zero")
        return name

    def add(self, cls: Any, ins: tuple[str, ...], *args: Any, **options: Any) -> str:
        """The name of the new layer's output, which is also the layer's."""
        name = f"{cls.__name__.lower()}{len(self.layers)}"
        layer = cls(name, ins, name, *args, **options)
        self.layers.append(layer)
        shape = shapes.output_shape(layer, [self.tensors[n].shape for n in ins])
        return self.tensor(name, shape)

    def weights(self, shape: tuple[int, ...]) -> tuple[Any, str, Any, Any]:
        """Weight codes, their format, scales and biases."""
        name = self.pick(len(self.layers) + 7)
        codes = formats.get(name).encode(self.rng.normal(0, 1, shape), "zero")
        scales = self.rng.integers(-3, 0, shape[0])
        return codes, name, scales, self.rng.normal(0, 0.5, shape[0])

    def conv(self, x: str, out: int, kernel: int, **options: Any) -> str:
        shape = self.tensors[x].shape
        rank, groups = len(shape) - 2, options.get("groups", 1)
        weights = self.weights((out, shape[1] // groups, *(kernel,) * rank))
        steps = (options.get("stride", 1),) * rank
        pads = (options.get("pad", 0),) * (2 * rank)
        dilations = (options.get("dilation", 1),) * rank
        return self.add(L.Conv, (x,), *weights, steps, pads, dilations, groups, options.get("clip"))


def everything(pick: Pick, seed: int = 0) -> Network:
    """Every layer kind; inputs (1, 3, 9, 8) called ``image``, any batch."""
    b = Builder(pick, seed)
    relu, relu6 = (0.0, math.inf), (0.0, 6.0)
    image = b.tensor("image", (1, 3, 9, 8))
    stem = b.conv(image, 8, 3, stride=2, pad=1, clip=relu)
    depth = b.conv(stem, 8, 3, pad=1, groups=8, clip=relu6)
    point = b.conv(depth, 8, 1)
    pair = b.conv(point, 6, 3, pad=2, dilation=2, groups=2)
    total = b.add(L.Add, (stem, point), (1, 1), relu)
    pooled = b.add(L.Pool, (total,), "max", (3, 3), (1, 1), (1,) * 4, (1, 1))
    mean = b.add(L.Pool, (total,), "average", (2, 2), (1, 1), (0, 0, 1, 1), (1, 1))
    joined = b.add(L.Concat, (pooled, mean, pair), 1)
    curve = b.add(L.Activate, (joined,), "silu")
    slope = formats.get("posit16").encode(np.linspace(-0.2, 0.4, 22)).reshape(1, 22, 1, 1)
    bent = b.add(L.Activate, (curve,), "prelu", slope=slope)
    squeezed = b.add(L.Pool, (bent,), "average", (5, 4), (1, 1), (0,) * 4, (1, 1))
    gate = b.add(L.Activate, (b.conv(squeezed, 22, 1),), "hard_sigmoid")
    gated = b.add(L.Mul, (bent, gate))
    index = [np.zeros((1, 1), dtype=np.int64), np.arange(22)[:, None]]
    ones = [np.full(i.shape, 4096) for i in index]
    twice = [np.arange(10)[:, None] // 2, np.stack([np.arange(6) // 2, np.arange(6) // 2 + 1], 1)]
    thirds = [np.full((10, 1), 4096), np.tile([[3072, 1024]], (6, 1))]
    grown = b.add(L.Resize, (gated,), (*index, *twice), (*ones, *thirds))
    padded = b.add(L.Pad, (grown,), (0, 0, 1, 0, 0, 0, 0, 1), value=0.5)
    cut = b.add(L.Slice, (padded,), ((None, None, 1), (0, 20, 2), (1, 9, 1), (None, None, 1)))
    tokens = b.add(L.Reshape, (cut,), (1, 10, 56))
    turned = b.add(L.Transpose, (tokens,), (0, 2, 1))
    queries = b.add(L.Linear, (turned,), *b.weights((6, 10)), relu6)
    keys = b.add(L.Linear, (turned,), *b.weights((6, 10)))
    scores = b.add(L.MatMul, (queries, b.add(L.Transpose, (keys,), (0, 2, 1))))
    attention = b.add(L.Softmax, (scores,), 2)
    mixed = b.add(L.MatMul, (attention, queries), relu)
    shifted = b.add(L.Add, (mixed, b.constant("offset", b.rng.normal(size=(1, 1, 6)))), (1, -1))
    line = b.conv(b.add(L.Transpose, (shifted,), (0, 2, 1)), 4, 5, stride=3, pad=2)
    flat = b.add(L.Reshape, (b.add(L.Convert, (line,)),), (1, 76))
    logits = b.add(L.Linear, (flat,), *b.weights((5, 76)))
    return Network(
        ("image",), (logits, scores), b.tensors, tuple(b.layers), b.constants, "everything"
    )


def inputs(samples: int, seed: int = 1) -> dict[str, Any]:
    """Real images."""
    return {"image": np.random.default_rng(seed).normal(0, 1, (samples, 3, 9, 8))}
