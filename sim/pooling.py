"""Maximum and average pooling, channels-last: every window's taps are rows of channels.

A maximum compares order keys: codes with a few bits flipped, so that they sort as unsigned numbers.

An average sums integers: codes in units of the format's lowest bit. The sums are int32 or int64,
whichever holds ``taps * largest`` (the format's largest, or else the tensor's own), so they are
exact. The product with the reciprocal (17 bits, decision 0004) is exact in float64 for int32 sums,
31 + 17 <= 53 bits; an int64 sum is split into two halves of 32 bits, each exact times the
reciprocal, and their sum is rounded to odd. Where no bound holds golden's integers take over.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.golden.pooling import average_counts, patches
from opennpe.golden.rounding import reciprocal
from opennpe.sim.encode import encode_bits, float_bits, target
from opennpe.sim.gemm import run_spans
from opennpe.sim.integers import integer_table, power, scaled_integer
from opennpe.sim.jit import kernel
from opennpe.sim.tables import convert_codes, gather, has_nan, refuse_nan, spans
from opennpe.sim.values import Value

__all__ = ["pool", "window_rows"]

Codes = NDArray[Any]
Shape = tuple[int, ...]


# -- windows --------------------------------------------------------------------------------------
@lru_cache(maxsize=64)
def window_rows(
    spatial: Shape,
    kernel_shape: Shape,
    strides: Shape,
    pads: Shape,
    dilations: Shape,
    out: Shape,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The pixels inside each window, as rows of a channels-last image.

    Returns:
        ``starts`` int32 (windows + 1,) and ``rows`` int32: window w covers
        ``rows[starts[w]:starts[w + 1]]``; padding is left out.
    """
    taps = [
        np.arange(n)[:, None] * s - pads[i] + np.arange(k)[None, :] * d
        for i, (n, s, k, d) in enumerate(zip(out, strides, kernel_shape, dilations, strict=True))
    ]
    index = np.zeros((1, 1), dtype=np.int64)
    inside = np.ones((1, 1), dtype=np.bool_)
    for extent, tap in zip(spatial, taps, strict=True):
        valid = (tap >= 0) & (tap < extent)
        count = index.shape[0] * tap.shape[0]
        index = (index[:, None, :, None] * extent + tap[None, :, None, :]).reshape(count, -1)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(count, -1)
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
    return starts, index[inside].astype(np.int32)


def _windows(layer: L.Pool, spatial: Shape, out: Shape) -> tuple[Any, Any]:
    return window_rows(spatial, layer.kernel, layer.strides, layer.pads, layer.dilations, out)


# -- maximum --------------------------------------------------------------------------------------
@kernel()
def _largest(x, starts, rows, out, begin, end):  # type: ignore[no-untyped-def]
    windows = starts.size - 1
    for at in range(begin, end):
        image, w = at // windows, at % windows
        row = out[image, w]
        if starts[w] == starts[w + 1]:
            row[:] = 0
            continue
        row[:] = x[image, rows[starts[w]]]
        for tap in range(starts[w] + 1, starts[w + 1]):
            other = x[image, rows[tap]]
            for c in range(row.size):
                row[c] = max(row[c], other[c])


def _run_largest(x: Codes, windows: tuple[Any, Any], threads: int) -> Codes:
    starts, rows = windows
    count = starts.size - 1
    out = np.empty((x.shape[0], count, x.shape[2]), dtype=x.dtype)
    worth = max(1, (1 << 20) // max(1, rows.size // count * x.shape[2]))
    run_spans(
        lambda s: _largest(x, starts, rows, out, s[0], s[1]),
        spans(x.shape[0] * count, threads, worth),
    )
    return out


@lru_cache(maxsize=32)
def _rank_tables(name: str) -> tuple[Codes, Codes]:
    """Order ranks of all codes, and a code of each rank, as golden chooses it."""
    fmt = formats.get(name)
    codes = np.arange(1 << fmt.bits)
    keys = fmt.order_key(codes)
    unique, ranks = np.unique(keys, return_inverse=True)
    by_key = {int(key): code for code, key in enumerate(keys)}
    back = np.array([by_key[int(key)] for key in unique], dtype=fmt.dtype)
    return ranks.astype(fmt.dtype), back


def _max_pool(x: Codes, windows: tuple[Any, Any], fmt: Any, threads: int) -> Codes:
    """The codes (N, windows, C) of the largest values; 0 for a window of padding only."""
    signed = np.int8 if fmt.dtype == np.uint8 else np.int16
    spare = 8 * fmt.dtype().itemsize - fmt.bits
    if fmt.kind in ("posit", "int"):
        # Two's complement order; NaR, the lowest integer, sorts below every number.
        keys = (x << spare if spare else x).view(signed)
        codes = _run_largest(keys, windows, threads).view(fmt.dtype)
        return np.asarray(codes >> spare if spare else codes)
    if fmt.specials == "none":
        # Sign and magnitude: a negative code's bits are flipped, -0 comes just below +0.
        half = 1 << (fmt.bits - 1)
        signs = -(x >> (fmt.bits - 1)).view(signed)
        best: Any = _run_largest((x & (half - 1)).view(signed) ^ signs, windows, threads)
        codes = np.where(best < 0, ~best | half, best).astype(fmt.dtype)
        codes[:, np.diff(windows[0]) == 0] = 0
        return np.asarray(codes)
    ranks, back = _rank_tables(fmt.name)
    codes = gather(back, _run_largest(gather(ranks, x, threads), windows, threads), threads)
    codes[:, np.diff(windows[0]) == 0] = 0
    return np.asarray(codes)


# -- average --------------------------------------------------------------------------------------
@kernel()
def _average(x, starts, rows, factors, out, t, begin, end):  # type: ignore[no-untyped-def]
    windows, channels = starts.size - 1, x.shape[2]
    sums = np.empty(channels, x.dtype)
    scaled = np.empty(channels)
    for at in range(begin, end):
        image, w = at // windows, at % windows
        sums[:] = 0
        for tap in range(starts[w], starts[w + 1]):
            other = x[image, rows[tap]]
            for c in range(channels):
                sums[c] += other[c]
        factor = factors[w]
        if x.itemsize == 4:
            for c in range(channels):
                scaled[c] = sums[c] * factor + 0.0
        else:
            for c in range(channels):
                scaled[c] = scaled_integer(np.int64(sums[c]), factor) + 0.0
        row = out[image, w]
        for c in range(channels):
            row[c] = encode_bits(float_bits(scaled[c]), t)


IMAGES = 1 << 20
"""Elements decoded at a time, in whole images: 4 or 8 MiB of integers."""


def _average_pool(
    x: Codes,
    windows: tuple[Any, Any],
    counts: Codes,
    tensor: Tensor,
    out: Tensor,
    underflow: formats.Underflow,
    threads: int,
) -> Codes:
    """Codes (N, windows, C) of the averages.

    Raises:
        Unsuited: the tensor spans more than 64 bits can sum, or a scale beyond reason.
    """
    starts, rows = windows
    fmt, target_format = formats.get(tensor.format), formats.get(out.format)
    taps = int(np.diff(starts).max())
    table, unit = integer_table(tensor.format, x, max(taps, 1))
    sizes, which = np.unique(counts.reshape(-1), return_inverse=True)
    pairs = [reciprocal(int(n)) for n in sizes]
    factors = np.array([m * power(unit + tensor.scale - q - out.scale) for m, q in pairs])[which]
    codes = np.empty((x.shape[0], starts.size - 1, x.shape[2]), dtype=target_format.dtype)
    goal = target(out.format, underflow)
    step = max(1, IMAGES // max(1, x.shape[1] * x.shape[2]))
    worth = max(1, (1 << 18) // max(1, (taps + 4) * x.shape[2]))
    for first in range(0, x.shape[0], step):
        part = codes[first : first + step]
        decoded = gather(table, x[first : first + step], threads)
        _spread_average(decoded, starts, rows, factors, part, goal, threads, worth)
    if has_nan(fmt, x):
        bad = gather(np.isnan(fmt.values).astype(np.int8), x, threads)
        codes[_run_largest(bad, windows, threads) == 1] = target_format.nan_code
    return codes


def _spread_average(
    decoded: Any,
    starts: Any,
    rows: Any,
    factors: Any,
    out: Any,
    goal: Any,
    threads: int,
    worth: int,
) -> None:
    run_spans(
        lambda s: _average(decoded, starts, rows, factors, out, goal, s[0], s[1]),
        spans(out.shape[0] * out.shape[1], threads, worth),
    )


def pool(
    spec: Any, layer: L.Pool, ins: list[Tensor], values: list[Value], out: Tensor, threads: int
) -> tuple[Value, str]:
    """Maximum or average over windows of the spatial axes.

    Raises:
        FormatError: a NaR and an output format that has no code for it.
        Unsuited: no bound proves the average exact.
    """
    value, tensor = values[0], ins[0]
    spatial = value.shape[2:]
    extent = shapes.windows(layer, spatial, layer.kernel, layer.ceil_mode)
    x = value.last().reshape(value.shape[0], -1, value.shape[1])
    windows = _windows(layer, spatial, extent)
    shape = (value.shape[0], *extent, value.shape[1])
    if layer.kind == "max":
        codes = _max_pool(x, windows, formats.get(tensor.format), threads)
        codes = convert_codes(codes, tensor, out, spec.underflow, threads)
        return Value(last=codes.reshape(shape)), "order keys"
    refuse_nan(out, ins, values)
    counts = _counts(layer, spatial, extent)
    codes = _average_pool(x, windows, counts, tensor, out, spec.underflow, threads)
    return Value(last=codes.reshape(shape)), "integer sums"


def _counts(layer: L.Pool, spatial: Shape, extent: Shape) -> Codes:
    if not layer.count_include_pad:
        starts, _ = _windows(layer, spatial, extent)
        return np.asarray(np.maximum(np.diff(starts), 1))
    inside = patches(np.ones((1, 1, *spatial), dtype=np.int64), layer.kernel, layer, 0)
    return np.asarray(average_counts(layer, spatial, inside))
