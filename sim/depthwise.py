"""Depthwise convolution: every channel by its own few weights, channels side by side in vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import config, njit
from numpy.typing import NDArray
from opennpe.sim import affine, gemm, packing
from opennpe.sim.encode import encode_high, jam, two_sum_odd
from opennpe.sim.geometry import Geometry
from opennpe.sim.jit import kernel
from opennpe.sim.operands import FLOAT64, INT32, Operands, largest
from opennpe.sim.quire import dot_odd

__all__ = ["multiply"]


@njit
def _exact_sum(a, b):  # type: ignore[no-untyped-def]
    return two_sum_odd(a, b)


@kernel()
def _round_line(line, offset, factor, careful, low, high, target, codes):  # type: ignore[no-untyped-def]
    words = line.view(np.int32)
    for c in range(line.size):
        x = line[c] + offset[c]
        if careful:
            x = _exact_sum(line[c], offset[c])
        x *= factor[c]
        x = low if x < low else x
        x = high if x > high else x
        line[c] = x + 0.0
    for c in range(line.size):
        codes[c] = encode_high(jam(words[2 * c + 1], words[2 * c]), target)


@kernel()
def _sum_nine(flat, at, taps, weights, line):  # type: ignore[no-untyped-def]
    """The usual 3 x 3 window: sums stay in registers."""
    n = line.size
    a, b, c = flat[at + taps[0] :][:n], flat[at + taps[1] :][:n], flat[at + taps[2] :][:n]
    d, e, f = flat[at + taps[3] :][:n], flat[at + taps[4] :][:n], flat[at + taps[5] :][:n]
    g, h, i = flat[at + taps[6] :][:n], flat[at + taps[7] :][:n], flat[at + taps[8] :][:n]
    for k in range(n):
        line[k] = np.int32(
            np.int32(a[k]) * np.int32(weights[0, k])
            + np.int32(b[k]) * np.int32(weights[1, k])
            + np.int32(c[k]) * np.int32(weights[2, k])
            + np.int32(d[k]) * np.int32(weights[3, k])
            + np.int32(e[k]) * np.int32(weights[4, k])
            + np.int32(f[k]) * np.int32(weights[5, k])
            + np.int32(g[k]) * np.int32(weights[6, k])
            + np.int32(h[k]) * np.int32(weights[7, k])
            + np.int32(i[k]) * np.int32(weights[8, k])
        )


@kernel()
def _narrow(flat, bases, taps, weights, span, out, e):  # type: ignore[no-untyped-def]
    channels = out.shape[1]
    sums, line = np.zeros(channels, np.int32), np.empty(channels)
    for m in range(span[0], span[1]):
        if taps.size == 9:
            _sum_nine(flat, bases[m], taps, weights, sums)
        else:
            sums[:] = 0
            for t in range(taps.size):
                image, row = flat[bases[m] + taps[t] :][:channels], weights[t]
                for c in range(channels):
                    sums[c] += np.int32(np.int32(image[c]) * np.int32(row[c]))
        for c in range(channels):
            line[c] = np.float64(sums[c])
        _round_line(line, e.offset, e.factor, e.careful, e.low, e.high, e.target, out[m])


@kernel()
def _float(flat, bases, taps, weights, span, out, e):  # type: ignore[no-untyped-def]
    channels = out.shape[1]
    line = np.empty(channels)
    for m in range(span[0], span[1]):
        line[:] = 0.0
        for t in range(taps.size):
            image, row = flat[bases[m] + taps[t] :][:channels], weights[t]
            for c in range(channels):
                line[c] += image[c] * row[c]
        _round_line(line, e.offset, e.factor, e.careful, e.low, e.high, e.target, out[m])


@kernel()
def _quire(flat, bases, offsets, weights, span, bias, out, e):  # type: ignore[no-untyped-def]
    channels, taps = out.shape[1], offsets.size // 2
    line, none = np.empty(channels), np.zeros(channels)
    for m in range(span[0], span[1]):
        left = flat.ctypes.data + 8 * bases[m]
        for c in range(channels):
            line[c] = dot_odd(
                left + 8 * c, weights.ctypes.data + 8 * c, offsets.ctypes.data, taps, bias[0, c],
                bias[1, c]
            )  # fmt: skip
        _round_line(line, none, e.factor, 0, e.low, e.high, e.target, out[m])


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
    if config.DISABLE_JIT or job.force == "golden":
        return None
    taps = len(weights)
    terms = taps * _largest_product(held)
    narrow = terms <= INT32 and held.kind != "f64" and job.force == ""
    if narrow:
        return _by_lines(codes, weights, held, shape, job, out, np.int16, terms)
    if terms <= FLOAT64 and job.force in ("", "split"):
        return _by_lines(codes, weights, held, shape, job, out, np.float64, terms)
    return _by_quire(codes, weights, held, shape, job, out)


def _signed(held: Operands) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides' integers without the offset of unsigned bytes."""
    return held.left.astype(np.float64) - held.offset, held.right.astype(np.float64)


def _largest_product(held: Operands) -> int:
    return math.prod(int(np.abs(side).max()) for side in _signed(held))


def _image(codes: NDArray[Any], table: NDArray[Any], shape: Geometry) -> NDArray[Any]:
    return packing.decode_image(codes, table, shape.before, shape.padded)


def _bases(image: NDArray[Any], shape: Geometry) -> NDArray[np.int64]:
    table = gemm.row_table(image, shape.out, shape.strides, 1)[:-1]
    return np.asarray((table - image.ctypes.data) // image.itemsize)


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
    epilogue = job.epilogue(None, terms)
    if epilogue is None:
        return None
    sides = _signed(held)
    image, values = _image(codes, sides[0].astype(dtype), shape), sides[1].astype(dtype)[weights]
    call = _narrow if dtype is np.int16 else _float
    flat, bases = image.reshape(-1), _bases(image, shape)

    def one(span: tuple[int, ...]) -> None:
        call(flat, bases, shape.taps, values, span, out, epilogue)

    gemm.run_spans(one, _spans(len(out), weights.size, job.threads))
    return "depthwise i16" if dtype is np.int16 else "depthwise f64"


def _by_quire(
    codes: NDArray[Any],
    weights: NDArray[Any],
    held: Operands,
    shape: Geometry,
    job: affine.Job,
    out: NDArray[Any],
) -> str | None:
    sides = _signed(held)
    total = len(weights) * _largest_product(held) + largest(job.biases)
    if max(np.abs(side).max() for side in sides) >= 2.0**62 or total.bit_length() > 127:
        return None
    epilogue = job.unbiased()
    if epilogue is None:
        return None
    left, right = (side.astype(np.int64) for side in sides)
    image, values = _image(codes, left, shape), right[weights]
    offsets = 8 * np.concatenate([shape.taps, np.arange(len(weights)) * weights.shape[1]])
    mask = (1 << 64) - 1
    halves = [[int(b) & mask for b in job.biases], [int(b) >> 64 for b in job.biases]]
    bias = np.stack([np.array(halves[0], dtype=np.uint64).view(np.int64),
                     np.array(halves[1], dtype=np.int64)])  # fmt: skip
    flat, bases = image.reshape(-1), _bases(image, shape)

    def one(span: tuple[int, ...]) -> None:
        _quire(flat, bases, offsets, values, span, bias, out, epilogue)

    gemm.run_spans(one, _spans(len(out), weights.size, job.threads))
    return "depthwise quire"


def _spans(rows: int, width: int, threads: int) -> list[tuple[int, ...]]:
    return gemm.ranges(rows, 1, 1, threads, rows * width * 8)
