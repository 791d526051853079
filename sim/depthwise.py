"""Depthwise convolution: every channel by its own few weights, channels side by side in vectors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.sim import affine, cpu, gemm, packing, steps
from opennpe.sim.depth_ir import LANES, interleave, run_sums
from opennpe.sim.geometry import Geometry
from opennpe.sim.jit import DISABLED, kernel
from opennpe.sim.microkernel import micro
from opennpe.sim.operands import FLOAT64, INT32, Operands, largest
from opennpe.sim.quire import dot_odd

__all__ = ["multiply"]

RUN = 1024
"""Sums made and rounded together: they and the repeated weights stay in the first level cache."""


@kernel()
def _sum_places(marker, flat, bases, taps, weights, sums, channels):  # type: ignore[no-untyped-def]
    """Sums of some places, all channels; places that are neighbours in memory are one run.

    A run is made in whole vectors: what it writes too much, the next run writes again.
    """
    start, count = 0, bases.size
    while start < count:
        stop = start + 1
        while stop < count and bases[stop] == bases[stop - 1] + channels:
            stop += 1
        vectors = ((stop - start) * channels + LANES - 1) // LANES
        run_sums(marker, flat.ctypes.data + 2 * bases[start], taps.ctypes.data, taps.size // 2,
                 weights.ctypes.data, sums.ctypes.data + 4 * start * channels,
                 vectors)  # fmt: skip
        start = stop


@kernel()
def _narrow(marker, flat, bases, taps, weights, span, places, out, e):  # type: ignore[no-untyped-def]
    """int32 sums, a few places at a time, rounded in general."""
    channels = out.shape[1]
    held, none = np.empty(places * channels + LANES, np.int32), np.empty((0, 0))
    sums = held[: places * channels].reshape(places, channels)
    for first in range(span[0], span[1], places):
        count = min(places, span[1] - first)
        _sum_places(marker, flat, bases[first : first + count], taps, weights, held, channels)
        gemm.round_block(sums[:count], none, out, first, 0, channels, e)


@kernel()
def _narrow_steps(marker, flat, bases, taps, weights, span, places, out, s):  # type: ignore[no-untyped-def]
    """int32 sums that become 4-bit codes; ``s`` repeats for each of the places."""
    channels = out.shape[1]
    held, codes = np.empty(places * channels + LANES, np.int32), out.reshape(-1)
    for first in range(span[0], span[1], places):
        count = min(places, span[1] - first)
        _sum_places(marker, flat, bases[first : first + count], taps, weights, held, channels)
        size = count * channels
        line = codes[first * channels : first * channels + size].reshape(1, size)
        steps.finish(held[:size].reshape(1, size), line, 0, 0, size, s)


@kernel()
def _float(flat, bases, taps, weights, span, out, e):  # type: ignore[no-untyped-def]
    channels = out.shape[1]
    sums, none = np.empty((1, channels)), np.empty((0, 0))
    for m in range(span[0], span[1]):
        sums[:] = 0.0
        for t in range(taps.size):
            image, row = flat[bases[m] + taps[t] :][:channels], weights[t]
            for c in range(channels):
                sums[0, c] += image[c] * row[c]
        gemm.round_block(sums, none, out, m, 0, channels, e)


@kernel()
def _quire(flat, bases, offsets, weights, span, bias, out, e):  # type: ignore[no-untyped-def]
    channels, taps = out.shape[1], offsets.size // 2
    sums, none = np.empty((1, channels)), np.empty((0, 0))
    for m in range(span[0], span[1]):
        left = flat.ctypes.data + 8 * bases[m]
        for c in range(channels):
            sums[0, c] = dot_odd(
                left + 8 * c, weights.ctypes.data + 8 * c, offsets.ctypes.data, taps, bias[0, c],
                bias[1, c]
            )  # fmt: skip
        gemm.round_block(sums, none, out, m, 0, channels, e)


def multiply(
    codes: NDArray[Any],
    weights: NDArray[Any],
    held: Operands,
    shape: Geometry,
    job: affine.Job,
    out: NDArray[Any],
) -> str | None:
    """One output channel for each input channel; the name of the path, or None (use another).

    Args:
        codes: (N, D, H, W, C).
        weights: codes (taps, C).
        shape: the windows, ``channels`` 1 and ``groups`` C.
        out: codes (M, C), written.
    """
    if DISABLED or job.force == "golden":
        return None
    taps = len(weights)
    terms = taps * math.prod(_largest_values(held))
    narrow = terms <= INT32 and held.kind != "f64" and job.force == ""
    if narrow:
        return _by_lines(codes, weights, held, shape, job, out, np.int16, terms)
    if terms <= FLOAT64 and job.force in ("", "split"):
        return _by_lines(codes, weights, held, shape, job, out, np.float64, terms)
    return _by_quire(codes, weights, held, shape, job, out)


@lru_cache(maxsize=256)
def _left_table(held: Operands, dtype: type) -> NDArray[Any]:
    return _signed(held)[0].astype(dtype)


def _signed(held: Operands) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides' integers without the offset of unsigned bytes."""
    return held.left.astype(np.float64) - held.offset, held.right.astype(np.float64)


@lru_cache(maxsize=256)
def _largest_values(held: Operands) -> tuple[int, ...]:
    """Largest magnitude of either side."""
    return tuple(int(np.abs(side).max()) for side in _signed(held))


def _image(codes: NDArray[Any], table: NDArray[Any], shape: Geometry) -> NDArray[Any]:
    return packing.decode_image(codes, table, shape.before, shape.padded)


def _bases(image: NDArray[Any], shape: Geometry) -> NDArray[np.int64]:
    return gemm.row_offsets(shape, len(image), 1)[:-1]


def _by_lines(
    codes: NDArray[Any],
    weights: NDArray[Any],
    held: Operands,
    shape: Geometry,
    job: affine.Job,
    out: NDArray[Any],
    dtype: type,
    terms: int,
) -> str | None:
    rounding = job.rounding(None, terms)
    if rounding is None:
        return None
    image = _image(codes, _left_table(held, dtype), shape)
    flat, bases = image.reshape(-1), _bases(image, shape)
    places = max(1, min(RUN // weights.shape[1], shape.out[2]))
    key = ("depthwise", dtype, places)
    if key not in job.held:
        repeated = None if rounding.steps is None else steps.repeat(rounding.steps, places)
        job.held[key] = (*_weights(weights, held, shape, places, dtype), repeated)
    values, taps, repeated = job.held[key]
    marker = micro("i16", cpu.host()).marker

    def one(span: tuple[int, ...]) -> None:
        if dtype is np.float64:
            _float(flat, bases, taps, values, span, out, rounding.general)
        elif repeated is not None:
            _narrow_steps(marker, flat, bases, taps, values, span, places, out, repeated)
        else:
            _narrow(marker, flat, bases, taps, values, span, places, out, rounding.general)

    gemm.run_spans(one, _spans(len(out), weights.size, job.threads))
    return "depthwise i16" if dtype is np.int16 else "depthwise f64"


def _weights(
    weights: NDArray[Any], held: Operands, shape: Geometry, places: int, dtype: type
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Weights and tap offsets as the kernels read them."""
    values = _signed(held)[1].astype(dtype)[weights]
    if dtype is np.float64:
        return values, shape.taps
    # Bytes, and an even number of taps; the weights of the one too many are zero.
    taps = 2 * np.pad(shape.taps, (0, len(weights) % 2), mode="edge")
    return interleave(np.tile(values, (1, places))), taps


def _by_quire(
    codes: NDArray[Any],
    weights: NDArray[Any],
    held: Operands,
    shape: Geometry,
    job: affine.Job,
    out: NDArray[Any],
) -> str | None:
    total = len(weights) * math.prod(_largest_values(held)) + largest(job.biases)
    if max(_largest_values(held)) >= 1 << 62 or total.bit_length() > 127:
        return None
    rounding = job.unbiased()
    if rounding is None:
        return None
    if "quire" not in job.held:
        job.held["quire"] = _quire_weights(weights, held, shape, job)
    values, offsets, bias = job.held["quire"]
    image = _image(codes, _left_table(held, np.int64), shape)
    flat, bases = image.reshape(-1), _bases(image, shape)

    def one(span: tuple[int, ...]) -> None:
        _quire(flat, bases, offsets, values, span, bias, out, rounding.general)

    gemm.run_spans(one, _spans(len(out), weights.size, job.threads))
    return "depthwise quire"


def _quire_weights(
    weights: NDArray[Any], held: Operands, shape: Geometry, job: affine.Job
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Weights, byte offsets of both sides, and the biases' halves, as the kernel reads them."""
    offsets = 8 * np.concatenate([shape.taps, np.arange(len(weights)) * weights.shape[1]])
    mask = (1 << 64) - 1
    halves = [[int(b) & mask for b in job.biases], [int(b) >> 64 for b in job.biases]]
    low = np.array(halves[0], dtype=np.uint64).view(np.int64)
    bias = np.stack([low, np.array(halves[1], dtype=np.int64)])
    return _signed(held)[1].astype(np.int64)[weights], offsets, bias


def _spans(rows: int, width: int, threads: int) -> list[tuple[int, ...]]:
    return gemm.ranges(rows, 1, 1, threads, rows * width * 8)
