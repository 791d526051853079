"""One small layer of every kind and option, and codes to feed it, for the agreement tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor

__all__ = ["CASES", "Case", "codes", "tensors"]

RELU = (0.0, math.inf)
RELU6 = (0.0, 6.0)


@dataclass(frozen=True)
class Case:
    """A layer over inputs ``a``, ``b``... of given shapes."""

    name: str
    layer: Any
    shapes: tuple[tuple[int, ...], ...]


def _pool(kind: str, kernel: tuple[int, ...], **options: Any) -> L.Pool:
    rank = len(kernel)
    settings = {"strides": 1, "pads": 0, "dilations": 1, **options}
    return L.Pool(
        "layer",
        ("a",),
        "y",
        kind,  # type: ignore[arg-type]
        kernel,
        (settings.pop("strides"),) * rank,
        (settings.pop("pads"),) * (2 * rank),
        (settings.pop("dilations"),) * rank,
        **settings,
    )


def _one(cls: Any, *args: Any, **options: Any) -> Any:
    return cls("layer", ("a",), "y", *args, **options)


def _two(cls: Any, *args: Any, **options: Any) -> Any:
    return cls("layer", ("a", "b"), "y", *args, **options)


def _slope(*values: float) -> Any:
    return formats.get("posit16").encode(np.array(values))


def _linear_taps(size: int, out: int) -> tuple[Any, Any]:
    at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), size - 1)
    weight = np.rint((at - low) * 4096).astype(np.int64)
    return np.stack([low, np.minimum(low + 1, size - 1)], 1), np.stack([4096 - weight, weight], 1)


def _nearest_taps(size: int, out: int) -> tuple[Any, Any]:
    return (np.arange(out) * size // out)[:, None], np.full((out, 1), 4096)


def _resize(*axes: tuple[Any, Any]) -> L.Resize:
    return _one(L.Resize, tuple(a[0] for a in axes), tuple(a[1] for a in axes))


IMAGE = (2, 5, 6, 7)
CASES = (
    Case("add", _two(L.Add), (IMAGE, IMAGE)),
    Case("add-relu", _two(L.Add, (1, 1), RELU), (IMAGE, IMAGE)),
    Case("subtract-relu6", _two(L.Add, (1, -1), RELU6), (IMAGE, (1, 5, 1, 1))),
    Case("add-clip", _two(L.Add, (-1, 1), (-0.75, 0.4)), (IMAGE, (7,))),
    Case("add-lower-rank", _two(L.Add), ((3, 1), (2, 4, 1, 5))),
    Case("add-rank1", _two(L.Add), ((9,), (1,))),
    Case("mul", _two(L.Mul), (IMAGE, IMAGE)),
    Case("mul-gate", _two(L.Mul, RELU), (IMAGE, (2, 5, 1, 1))),
    Case("mul-outer", _two(L.Mul), ((2, 1, 6), (1, 4, 1))),
    Case("mul-pixels", _two(L.Mul, RELU6), ((2, 1, 6, 7), IMAGE)),
    Case("max", _pool("max", (3, 3), strides=2, pads=1), (IMAGE,)),
    Case("max-ceil", _pool("max", (2, 2), strides=2, ceil_mode=True), (IMAGE,)),
    Case("max-dilated", _pool("max", (2, 3), dilations=2, pads=1), (IMAGE,)),
    Case("max-1d", _pool("max", (4,), strides=3, pads=3), ((2, 3, 11),)),
    Case("max-3d", _pool("max", (2, 2, 2), strides=2), ((1, 3, 4, 5, 4),)),
    Case("average", _pool("average", (3, 3), pads=1), (IMAGE,)),
    Case(
        "average-with-padding",
        _pool("average", (3, 2), strides=2, pads=1, count_include_pad=True, ceil_mode=True),
        (IMAGE,),
    ),
    Case("average-ceil", _pool("average", (3, 3), strides=2, ceil_mode=True), (IMAGE,)),
    Case("average-1d", _pool("average", (3,), strides=2, pads=1), ((2, 3, 9),)),
    Case("average-global", _pool("average", (6, 7)), (IMAGE,)),
    Case("average-many", _pool("average", (13, 13)), ((1, 2, 13, 14),)),
    Case("concat", _two(L.Concat, axis=1), (IMAGE, (2, 3, 6, 7))),
    Case("concat-last", _two(L.Concat, axis=3), (IMAGE, (2, 5, 6, 2))),
    Case("concat-batch", _two(L.Concat, axis=0), ((2, 3), (1, 3))),
    Case(
        "resize-nearest",
        _resize(*(_nearest_taps(n, m) for n, m in zip(IMAGE, (2, 5, 12, 14), strict=True))),
        (IMAGE,),
    ),
    Case(
        "resize-linear",
        _resize(*(_nearest_taps(n, n) for n in IMAGE[:2]), _linear_taps(6, 9), _linear_taps(7, 5)),
        (IMAGE,),
    ),
    Case(
        "resize-mixed",
        _resize(_nearest_taps(2, 2), _nearest_taps(3, 6), _linear_taps(8, 13)),
        ((2, 3, 8),),
    ),
    Case("pad", _one(L.Pad, (0, 0, 1, 2, 0, 0, 0, 3), value=0.7), (IMAGE,)),
    Case("pad-channels", _one(L.Pad, (0, 2, 0, 0, 0, 1, 0, 0), value=-3.0), (IMAGE,)),
    Case("pad-reflect", _one(L.Pad, (0, 0, 2, 1, 0, 0, 1, 2), "reflect"), (IMAGE,)),
    Case("pad-edge", _one(L.Pad, (1, 1, 2, 0, 3, 0), "edge"), ((2, 3, 4),)),
    Case("slice", _one(L.Slice, ((0, 2, 1), (1, 5, 2), (None, None, -1), (-4, -1, 1))), (IMAGE,)),
    Case("reshape", _one(L.Reshape, (2, 6, 35)), (IMAGE,)),
    Case("flatten", _one(L.Reshape, (2, 210)), (IMAGE,)),
    Case("transpose", _one(L.Transpose, (0, 2, 3, 1)), (IMAGE,)),
    Case("transpose-back", _one(L.Transpose, (0, 3, 1, 2)), (IMAGE,)),
    Case("transpose-all", _one(L.Transpose, (3, 1, 0, 2)), (IMAGE,)),
    Case("relu", _one(L.Activate, "relu"), (IMAGE,)),
    Case("gelu", _one(L.Activate, "gelu"), (IMAGE,)),
    Case("sigmoid", _one(L.Activate, "sigmoid"), ((3, 4),)),
    Case("hard-sigmoid", _one(L.Activate, "hard_sigmoid", (("alpha", 0.25),)), (IMAGE,)),
    Case("leaky", _one(L.Activate, "leaky", slope=_slope(0.1)), (IMAGE,)),
    Case(
        "prelu",
        _one(L.Activate, "prelu", slope=_slope(0.25, -0.3, 0.0, 1.7, 1e-4).reshape(1, 5, 1, 1)),
        (IMAGE,),
    ),
    Case("prelu-last", _one(L.Activate, "prelu", slope=_slope(0.25, -0.3, 3.0)), ((2, 4, 3),)),
    Case("convert", _one(L.Convert), (IMAGE,)),
    Case("softmax", _one(L.Softmax, -1), ((3, 9),)),
    Case("log-softmax", _one(L.Softmax, 1, True), ((2, 6, 3),)),
)
assert len({case.name for case in CASES}) == len(CASES)


def tensors(
    case: Case, names: tuple[str, str, str], rng: np.random.Generator
) -> tuple[list[Tensor], Tensor]:
    """Inputs in the first two formats and an output in the third, with scales of their own."""
    scales = [int(s) for s in rng.integers(-4, 5, 3)]
    ins = [
        Tensor(name, shape, names[i], scales[i])
        for i, (name, shape) in enumerate(zip(case.layer.inputs, case.shapes, strict=True))
    ]
    shape = shapes.output_shape(case.layer, case.shapes)
    return ins, Tensor("y", shape, names[2], scales[2])


def codes(tensor: Tensor, rng: np.random.Generator, wild: float, nan: bool) -> Any:
    """Half around one, a share of any codes at all; NaN and infinities only where told."""
    fmt = formats.get(tensor.format)
    tame = fmt.encode(rng.normal(0, 2, tensor.shape), "zero")
    some = rng.integers(0, 1 << fmt.bits, tensor.shape).astype(fmt.dtype)
    mixed = np.where(rng.random(tensor.shape) < wild, some, tame)
    if nan and fmt.nan_code is not None:
        return np.where(rng.random(tensor.shape) < 0.04, fmt.nan_code, mixed).astype(fmt.dtype)
    return np.where(np.isfinite(fmt.values[mixed]), mixed, 0).astype(fmt.dtype)
