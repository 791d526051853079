"""Layers as plain frozen data: what a network computes, in codes, formats and scales.

Tensors are laid out as in ONNX (N, C, spatial...). ``clip`` is a pair of real bounds applied
exactly before the one rounding: relu is (0, inf), relu6 is (0, 6). Weights hold codes; their real
value is ``decode(code) * 2**weight_scale[o]`` for output channel ``o``. Biases are real numbers.

Inputs called *indices* are tensors of the format "index": row numbers, positions, and masks whose
nonzero elements say what to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Activate",
    "Add",
    "Append",
    "Clip",
    "Concat",
    "Conv",
    "Convert",
    "Gather",
    "Layer",
    "LayerBase",
    "Linear",
    "MatMul",
    "Mul",
    "Normalise",
    "Pad",
    "Pool",
    "Reduce",
    "Reshape",
    "Resize",
    "Rotary",
    "Select",
    "Slice",
    "Softmax",
    "StreamSoftmax",
    "Transpose",
]

Clip = tuple[float, float]
Codes = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerBase:
    """What every layer has: a name, the tensors it reads, the tensor it writes."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Conv(LayerBase):
    """Convolution over 1, 2 or 3 spatial axes.

    ``weights``: codes (O, I/groups, *kernel); ``weight_scale``: int (O,); ``bias``: float64 (O,);
    ``pads``: begins of all spatial axes, then ends.
    """

    weights: Codes
    weight_format: str
    weight_scale: NDArray[np.int64]
    bias: NDArray[np.float64]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    clip: Clip | None = None


@dataclass(frozen=True, eq=False)
class Linear(LayerBase):
    """Product with constant weights: (..., K) to (..., N); ``weights`` are codes (N, K)."""

    weights: Codes
    weight_format: str
    weight_scale: NDArray[np.int64]
    bias: NDArray[np.float64]
    clip: Clip | None = None


@dataclass(frozen=True, eq=False)
class MatMul(LayerBase):
    """Product of two tensors, (..., M, K) by (..., K, N), leading axes broadcast."""

    clip: Clip | None = None


@dataclass(frozen=True, eq=False)
class Add(LayerBase):
    """``signs[0] * a + signs[1] * b`` with broadcasting; residuals, subtraction, offsets."""

    signs: tuple[int, int] = (1, 1)
    clip: Clip | None = None


@dataclass(frozen=True, eq=False)
class Mul(LayerBase):
    """Elementwise product with broadcasting."""

    clip: Clip | None = None


@dataclass(frozen=True, eq=False)
class Pool(LayerBase):
    """Maximum or average over windows of the spatial axes; global pooling has a full kernel."""

    kind: Literal["max", "average"]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    count_include_pad: bool = False
    ceil_mode: bool = False


@dataclass(frozen=True, eq=False)
class Concat(LayerBase):
    """Tensors joined along ``axis``."""

    axis: int


@dataclass(frozen=True, eq=False)
class Resize(LayerBase):
    """Weighted gather along each axis: nearest has one tap, linear two.

    For every axis ``indices[axis]`` is int (out, taps) and ``weights[axis]`` int (out, taps) in
    units of ``2**-fraction_bits``; axes with one tap carry weight ``2**fraction_bits``.
    """

    indices: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.int64], ...]
    fraction_bits: int = 12


@dataclass(frozen=True, eq=False)
class Pad(LayerBase):
    """Padding of every axis; ``pads``: begins, then ends (never negative). ``value`` is real."""

    pads: tuple[int, ...]
    mode: Literal["constant", "reflect", "edge"] = "constant"
    value: float = 0.0


@dataclass(frozen=True, eq=False)
class Slice(LayerBase):
    """``x[start:stop:step, ...]``; a (start, stop, step) an axis, as Python slices."""

    slices: tuple[tuple[int | None, int | None, int], ...]


@dataclass(frozen=True, eq=False)
class Reshape(LayerBase):
    """The same codes in row-major order under another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Transpose(LayerBase):
    """Axes permuted."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Activate(LayerBase):
    """A function of one code by table (:mod:`opennpe.golden.activations`).

    ``slope``: posit16 codes that broadcast against the input, for prelu and leaky only.
    """

    kind: str
    params: tuple[tuple[str, float], ...] = ()
    slope: Codes | None = None


@dataclass(frozen=True, eq=False)
class Convert(LayerBase):
    """The same values in the output tensor's format and scale, one rounding."""


@dataclass(frozen=True, eq=False)
class Softmax(LayerBase):
    """Softmax along ``axis`` on the host, reproducible to the bit (:mod:`golden.activations`)."""

    axis: int
    log: bool = False


@dataclass(frozen=True, eq=False)
class StreamSoftmax(LayerBase):
    """Softmax along the last axis in integers (:mod:`opennpe.golden.softmax`), for attention.

    Inputs: logits; then any number of masks (indices that broadcast against them; an element is
    kept where all of them are nonzero); then, where ``positioned``, one index: the position.

    ``scale`` is real and multiplies the logits (1/sqrt(d)); it is folded into the unit's
    multiplier. ``causal``: query i keeps keys up to ``i + offset + position``. ``unit``: what
    differs from the default :class:`~opennpe.golden.softmax.SoftmaxSpec`; the parameters are the
    layer's own, so that its bits do not depend on a co-processor. A row with nothing kept is all
    zeros.
    """

    scale: float = 1.0
    causal: bool = False
    offset: int = 0
    positioned: bool = False
    unit: tuple[tuple[str, int | str], ...] = ()


@dataclass(frozen=True, eq=False)
class Normalise(LayerBase):
    """Layer or RMS normalisation along the last axis (:mod:`opennpe.golden.layer_norm`).

    Two roundings: ``x_hat`` to ``inner_format`` at ``inner_scale``, then ``gamma * x_hat + beta``
    to the output. ``gamma``: codes (C,) with real value ``decode(code) * 2**weight_scale``;
    ``beta``: float64 (C,), which enters the sum on the products' grid. Without ``gamma`` (and then
    without ``beta``) x_hat is converted to the output, which may be the inner format itself.
    ``unit``: what differs from the default :class:`~opennpe.golden.layer_norm_spec.NormSpec`.
    """

    kind: Literal["layer", "rms"]
    epsilon: float
    gamma: Codes | None = None
    beta: NDArray[np.float64] | None = None
    weight_format: str = "posit16"
    weight_scale: int = 0
    inner_format: str = "posit16"
    inner_scale: int = 0
    unit: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Gather(LayerBase):
    """Rows of a table by number: inputs are a table (V, ...) and indices of any shape."""


@dataclass(frozen=True, eq=False)
class Rotary(LayerBase):
    """Rotary position embedding of (..., T, D): ``x * cos + rotate(x) * sin``, one rounding.

    ``cos``, ``sin``: codes (P, R/2), a row a position, in ``weight_format``; the first R <= D
    elements rotate, the others pass. ``rotate`` pairs element i with i + R/2, or neighbours where
    ``interleaved``. Row t of x takes table row ``t + position``, the position being a second
    input (one index, or T of them: one a row, then not counted up) where there is one, else 0.
    """

    cos: Codes
    sin: Codes
    weight_format: str = "posit16"
    interleaved: bool = False


@dataclass(frozen=True, eq=False)
class Append(LayerBase):
    """A cache (..., S, D) with the rows from a position on replaced: inputs are the cache, the
    new rows (..., n, D) and one index, the position. New codes are converted to the cache's
    format and scale, which are the output's."""


@dataclass(frozen=True, eq=False)
class Select(LayerBase):
    """``a`` where the index is nonzero, else ``b``: inputs are indices, a and b, broadcast."""


@dataclass(frozen=True, eq=False)
class Reduce(LayerBase):
    """Sum or mean over axes, which stay with extent 1: an exact sum, and for the mean the exact
    reciprocal rule of average pooling (decision 0004)."""

    kind: Literal["sum", "mean"]
    axes: tuple[int, ...]


Layer = Union[  # noqa: UP007 - a runtime alias that tools can list
    Conv,
    Linear,
    MatMul,
    Add,
    Mul,
    Pool,
    Concat,
    Resize,
    Pad,
    Slice,
    Reshape,
    Transpose,
    Activate,
    Convert,
    Softmax,
    StreamSoftmax,
    Normalise,
    Gather,
    Rotary,
    Append,
    Select,
    Reduce,
]
