"""Maximum and average over windows."""

from __future__ import annotations

import math

import numpy as np
from opennpe.golden import formats, pooling, rounding
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.host.jobs import Job
from opennpe.host.lowered import (
    Codes,
    Lowered,
    checked_shift,
    engine_format,
    nests,
    powers,
    refuse,
    two,
)
from opennpe.host.orient import as_image

__all__ = ["pool"]


def pool(low: Lowered, layer: L.Pool) -> None:
    """A maximum, or a sum weighed by the reciprocal of the window."""
    (x,), out = low.network.layer_tensors(layer)
    if len(layer.kernel) > 2 or x.shape[0] != 1:
        raise refuse(layer, f"{len(layer.kernel)} spatial axes, {x.shape[0]} samples")
    source = as_image(low, layer, x.name)
    for tensor in (x, out):
        engine_format(low, layer, tensor.format)
    inside = pooling.patches(np.ones((1, 1, *x.shape[2:]), dtype=np.int64), layer.kernel, layer, 0)
    if layer.kind == "max":
        if not (inside > 0).any(axis=-1).all():
            raise refuse(layer, "a window lies in the padding alone")
        if x.format == out.format == "fp4" and not source.signless:
            raise refuse(layer, "a maximum of -0 would lose its sign: put a relu before it")
        mode, codes, shift = x.format, [powers(x.format)[0]], x.scale - out.scale
    else:
        mode, codes, shift = _average(low, layer, x, out, inside)
    kernel = two(layer.kernel, 1)
    weights = np.tile(np.array(codes).reshape(1, -1, 1, 1), (x.shape[1], 1, kernel[0], kernel[1]))
    size = two(out.shape[2:], 1)
    rounding.check_terms(low.spec, layer, mode, mode, int(np.prod(weights.shape[1:])))
    low.new(out, (out.shape[1], *size), source.positive)
    low.jobs.append(
        Job(
            layer.name,
            "max" if layer.kind == "max" else "depth",
            (source.name,),
            out.name,
            mode,
            mode,
            out.format,
            weights.astype(formats.get(mode).dtype),
            mode,
            [0] * x.shape[1],
            [checked_shift(low, layer, shift)] * x.shape[1],
            kernel,
            two(layer.strides, 1),
            two(layer.pads[: len(layer.kernel)], 0),
            two(layer.dilations, 1),
            size,
            layers=[layer.name],
        )
    )


def _average(
    low: Lowered, layer: L.Pool, x: Tensor, out: Tensor, inside: Codes
) -> tuple[str, list[int], int]:
    """Mode, weight codes and shift of the rule m 2^-q (:func:`golden.rounding.reciprocal`)."""
    counts = pooling.average_counts(layer, x.shape[2:], inside)
    if counts.min() != counts.max():
        raise refuse(layer, f"windows of {counts.min()} to {counts.max()} elements")
    m, q = rounding.reciprocal(int(counts.min()))
    while m % 2 == 0:
        m, q = m // 2, q - 1
    for mode in low.spec.mac.formats:
        if not nests(x.format, mode):
            continue
        found = _split(mode, m)
        if found is not None:
            codes, exponent = found
            return mode, codes, x.scale - out.scale - q - exponent
    raise refuse(layer, f"no format holds 1/{int(counts.min())} in two codes")


def _split(mode: str, m: int) -> tuple[list[int], int] | None:
    """One or two codes of a format whose values add up to ``m 2^exponent``."""
    fmt = formats.get(mode)
    values = fmt.values
    known = {float(v): c for c, v in enumerate(values) if math.isfinite(v)}
    for exponent in range(-m.bit_length(), 1):
        if math.ldexp(m, exponent) in known:
            return [known[math.ldexp(m, exponent)]], exponent
    for exponent in range(-m.bit_length(), 1):
        for cut in range(1, m.bit_length()):
            rest = m & ((1 << cut) - 1)
            pair = [math.ldexp(m - rest, exponent), math.ldexp(rest, exponent)]
            if all(v in known for v in pair):
                return [known[v] for v in pair], exponent
    return None
