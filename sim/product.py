"""Layers that multiply: convolution, product with weights, product of two tensors.

Weights are packed once a layer and kept as long as the layer lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.golden.rounding import check_terms
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import affine, cpu, depthwise
from opennpe.sim.geometry import Geometry, convolution, matrix
from opennpe.sim.microkernel import Kernel, micro
from opennpe.sim.operands import Operands, grid_units, has_nan, largest, operands
from opennpe.sim.right import Right
from opennpe.sim.values import Value

__all__ = ["conv", "linear", "matmul"]

Weighted = L.Conv | L.Linear


@dataclass(frozen=True, eq=False)
class Prepared:
    """A layer's weights and epilogues for one input tensor, output tensor and rule.

    Attributes:
        shape: the windows.
        rights: a packed right side a group; one, of (taps, C) codes, where depthwise.
        jobs: a job a group.
    """

    shape: Geometry
    operands: Operands
    rights: tuple[Right, ...]
    jobs: tuple[affine.Job, ...]


_PREPARED: WeakKeyDictionary[Weighted, dict[Any, Prepared]] = WeakKeyDictionary()


def _prepared(
    spec: CoprocessorSpec,
    layer: Weighted,
    x: Tensor,
    out: Tensor,
    spatial: tuple[int, ...],
    threads: int | None,
    force: str,
) -> Prepared:
    """A layer's packed weights for the last use of it; made again when anything differs."""
    held = _PREPARED.setdefault(layer, {})
    count = cpu.threads(threads)
    rule = (spec.underflow, spec.engine.accumulator_bits)
    key = (*rule, x.format, x.scale, out, spatial, count, force, cpu.host().name)
    if key not in held:
        held.clear()
        if isinstance(layer, L.Conv):
            shape = convolution(layer, spatial, out.shape[2:])
        else:
            shape = matrix(layer.weights.shape[1])
        held[key] = _prepare(spec, layer, x, out, shape, count, force)
    return held[key]


def _prepare(
    spec: CoprocessorSpec,
    layer: Weighted,
    x: Tensor,
    out: Tensor,
    shape: Geometry,
    threads: int,
    force: str,
) -> Prepared:
    exponents = mac.grid_exponent(x.format, layer.weight_format) + x.scale + layer.weight_scale
    biases = grid_units(layer.bias, exponents)
    check_terms(spec, layer, x.format, layer.weight_format, shape.depth, largest(biases))
    pair = (x.format, layer.weight_format)
    held = operands(*pair)
    kernel = micro(held.kind, cpu.host())
    dtype = formats.get(layer.weight_format).dtype
    parts = _columns(layer, shape, held)
    width = len(layer.weights) // len(parts)
    rights = tuple(
        Right(pair, held, kernel, np.ascontiguousarray(p, dtype=dtype), _lengths(shape))
        for p in parts
    )
    jobs = tuple(
        affine.Job(spec, out, biases[at], exponents[at], layer.clip, threads, force)
        for at in (slice(i * width, (i + 1) * width) for i in range(len(parts)))
    )
    return Prepared(shape, held, rights, jobs)


def _lengths(shape: Geometry) -> tuple[int, ...]:
    return tuple(length for _, length in shape.runs)


def _is_depthwise(layer: Weighted) -> bool:
    return isinstance(layer, L.Conv) and layer.groups > 1 and layer.weights.shape[1] == 1


def _columns(layer: Weighted, shape: Geometry, held: Operands) -> list[NDArray[Any]]:
    """Weight codes (K, N) of every group; (taps, O) of all channels where depthwise."""
    flat = layer.weights
    if isinstance(layer, L.Linear):
        return [flat.T]
    taps = math.prod(shape.kernel)
    # (O, I, taps) to (taps, I, O): K runs over taps, then channels.
    codes = flat.reshape(len(flat), shape.channels, taps).transpose(2, 1, 0)
    if _is_depthwise(layer):
        return [codes.reshape(taps, len(flat))]
    width = len(flat) // shape.groups
    return [codes[..., g * width : (g + 1) * width].reshape(-1, width) for g in range(shape.groups)]


def conv(
    spec: CoprocessorSpec,
    layer: L.Conv,
    x: Value,
    source: Tensor,
    out: Tensor,
    threads: int | None = None,
    force: str = "",
) -> tuple[Value, str]:
    """A convolution over codes (N, C, spatial...) of any batch N.

    Returns:
        Codes (N, O, spatial...), and the name of the kernel's path.

    Raises:
        AccumulatorError: more terms than the accumulator holds.
        FormatError: NaR with nowhere to go.
    """
    codes = x.last()
    ready = _prepared(spec, layer, source, out, codes.shape[1:-1], threads, force)
    shape = ready.shape
    image = codes.reshape(len(codes), *shape.extent, codes.shape[-1])
    dtype = formats.get(out.format).dtype
    result = np.empty((len(codes) * math.prod(shape.out), len(layer.weights)), dtype=dtype)
    path = _depthwise(layer, image, ready, result) if _is_depthwise(layer) else None
    if path is None:
        path = _grouped(layer, image, ready, result)
    return Value(last=result.reshape(len(codes), *out.shape[2:], len(layer.weights))), path


def _depthwise(
    layer: L.Conv, image: NDArray[Any], ready: Prepared, out: NDArray[Any]
) -> str | None:
    """Channels in vectors; several outputs a channel are as many depthwise convolutions."""
    right, job = ready.rights[0], ready.jobs[0]
    if right.nan_columns is not None or has_nan(image, right.formats[0]):
        return None
    times = len(layer.weights) // layer.groups
    path = None
    for i in range(times):
        if times == 1:
            part, codes, result = job, right.codes, out
        else:
            part = job.columns(slice(i, None, times))
            codes = np.ascontiguousarray(right.codes[:, i::times])
            result = np.empty((len(out), layer.groups), dtype=out.dtype)
        path = depthwise.multiply(image, codes, ready.operands, ready.shape, part, result)
        if path is None:
            return None
        if times > 1:
            out[:, i::times] = result
    return path


def _grouped(layer: L.Conv, image: NDArray[Any], ready: Prepared, out: NDArray[Any]) -> str:
    if layer.groups == 1:
        left = affine.Left(image, ready.shape, ready.rights[0])
        return affine.multiply(left, ready.rights[0], 0, ready.jobs[0], out)
    rights, jobs = ready.rights, ready.jobs
    if len(rights) == 1:
        rights, jobs = _split_depthwise(layer, ready)
    left = affine.Left(image, ready.shape, rights[0])
    width = len(layer.weights) // layer.groups
    paths = []
    for g, (right, job) in enumerate(zip(rights, jobs, strict=True)):
        result = np.empty((len(out), width), dtype=out.dtype)
        paths.append(affine.multiply(left, right, g, job, result))
        out[:, g * width : (g + 1) * width] = result
    return max(set(paths), key=paths.count)


def _split_depthwise(
    layer: L.Conv, ready: Prepared
) -> tuple[tuple[Right, ...], tuple[affine.Job, ...]]:
    """A depthwise layer as groups of their own, for what the vector kernels do not take."""
    right, job, width = ready.rights[0], ready.jobs[0], len(layer.weights) // layer.groups
    spans = [slice(g * width, (g + 1) * width) for g in range(layer.groups)]
    rights = [
        Right(right.formats, right.operands, right.micro, np.ascontiguousarray(right.codes[:, s]),
              right.runs)
        for s in spans
    ]  # fmt: skip
    return tuple(rights), tuple(job.columns(s) for s in spans)


def linear(
    spec: CoprocessorSpec,
    layer: L.Linear,
    x: Value,
    source: Tensor,
    out: Tensor,
    threads: int | None = None,
    force: str = "",
) -> tuple[Value, str]:
    """Codes (..., K) by weights (N, K): codes (..., N), and the name of the kernel's path."""
    codes = x.first()
    depth = codes.shape[-1]
    ready = _prepared(spec, layer, source, out, (), threads, force)
    flat = codes.reshape(-1, 1, 1, 1, depth)
    result = np.empty((len(flat), len(layer.weights)), dtype=formats.get(out.format).dtype)
    left = affine.Left(flat, ready.shape, ready.rights[0])
    path = affine.multiply(left, ready.rights[0], 0, ready.jobs[0], result)
    return Value(first=result.reshape(*codes.shape[:-1], len(layer.weights))), path


def matmul(
    spec: CoprocessorSpec,
    layer: L.MatMul,
    a: Value,
    b: Value,
    sources: tuple[Tensor, Tensor],
    out: Tensor,
    threads: int | None = None,
    force: str = "",
) -> tuple[Value, str]:
    """Codes (..., M, K) by (..., K, N), leading axes broadcast."""
    left, right = a.first(), b.first()
    depth, columns = right.shape[-2:]
    pair = (sources[0].format, sources[1].format)
    check_terms(spec, layer, *pair, depth)
    held, shape = operands(*pair), matrix(depth)
    kernel: Kernel = micro(held.kind, cpu.host())
    exponent = mac.grid_exponent(*pair) + sum(s.scale for s in sources)
    zero, exponents = np.zeros(columns, dtype=np.int64), np.full(columns, exponent)
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    result = np.empty((*lead, left.shape[-2], columns), dtype=formats.get(out.format).dtype)
    lefts = np.broadcast_to(left, (*lead, *left.shape[-2:]))
    outer = lead[: len(lead) - _shared(lead, right.shape[:-2])]
    # A right side that several left sides share (grouped queries) is packed once for all of them.
    own = ((1,) * len(lead) + right.shape[:-2])[-len(lead) :] if lead else ()
    core = right.reshape(*own[: len(outer)], depth, columns)
    rights = np.broadcast_to(core, (*outer, depth, columns))
    paths = []
    for index in np.ndindex(outer):
        # A job remembers what its own right side owes: one for each product.
        job = affine.Job(spec, out, zero, exponents, layer.clip, cpu.threads(threads), force)
        packed = Right(pair, held, kernel, np.ascontiguousarray(rights[index]), (depth,))
        rows = np.ascontiguousarray(lefts[index]).reshape(-1, 1, 1, 1, depth)
        written = result[index].reshape(-1, columns)
        paths.append(affine.multiply(affine.Left(rows, shape, packed), packed, 0, job, written))
    return Value(first=result), max(set(paths), key=paths.count)


def _shared(lead: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many of the last leading axes the right side is the same along."""
    padded = (1,) * (len(lead) - len(right)) + right
    count = 0
    while count < len(lead) and padded[len(lead) - 1 - count] == 1:
        count += 1
    return count
