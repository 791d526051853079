"""Activations: tables on the way out of a layer or of a copy, clips where codes are wide."""

from __future__ import annotations

import math

import numpy as np
from opennpe.golden import formats, reference
from opennpe.golden import layers as L
from opennpe.golden.network import Tensor
from opennpe.host.lowered import Codes, Lowered, clamp_codes, engine_format, powers, refuse
from opennpe.host.orient import whole_view
from opennpe.host.pixelwise import copy, pointwise

__all__ = ["activate", "fuse"]

FUSED = ("dense", "depth", "max")
"""Kinds whose results may go through a table."""


def _activation_table(low: Lowered, layer: L.Activate) -> Codes:
    """Output code for each input code, by golden's own evaluation."""
    (x,), out = low.network.layer_tensors(layer)
    if formats.get(x.format).bits > 8:
        raise refuse(layer, f"a table of {x.format} codes does not fit: use a format of 8 bits")
    if formats.get(out.format).bits != formats.get(x.format).bits:
        raise refuse(layer, f"a table from {x.format} to {out.format}: expected one width")
    if layer.slope is not None and np.asarray(layer.slope).size != 1:
        raise refuse(layer, "a slope a channel")
    codes = np.arange(1 << formats.get(x.format).bits, dtype=formats.get(x.format).dtype)
    shaped = codes.reshape(-1, *[1] * (len(x.shape) - 1))
    found = reference.evaluate_layer(low.spec, layer, [x], [shaped], out)
    return np.asarray(found).reshape(-1)


def _positive(name: str, codes: Codes) -> bool:
    """Whether no code stands for a negative value or for -0."""
    return not np.signbit(formats.get(name).values[codes]).any()


def _wide(x: Tensor, out: Tensor) -> bool:
    """Whether a table cannot lead from one tensor's codes to another's."""
    bits = [formats.get(t.format).bits for t in (x, out)]
    return bool(max(bits) > 8 or bits[0] != bits[1])


def fuse(low: Lowered, layer: L.Activate, readers: dict[str, int], kept: set[str]) -> bool:
    """Look the activation up on the way out of the layer before, if nothing else needs that."""
    name = layer.inputs[0]
    if _wide(*(low.tensor(n) for n in (name, layer.output))) and _bounds(layer) is not None:
        return False
    if readers[name] > 1 or name in kept or low.root.get(name) != name or not low.jobs:
        return False
    job = low.jobs[-1]
    if job.output != name or job.table is not None or name in low.whole:
        return False
    table = _activation_table(low, layer)
    _, out = low.network.layer_tensors(layer)
    gap = formats.get(out.format).is_nan(table[:1]).any() and not whole_view(low, name)
    if gap or job.kind not in FUSED:
        return False
    low.new_like(out, name, _positive(out.format, table))
    low.stored.pop(name)
    job.table, job.output = table, out.name
    job.layers.append(layer.name)
    return True


def _bounds(layer: L.Activate) -> L.Clip | None:
    """The real bounds of an activation that only clips."""
    params = dict(layer.params)
    clips = {
        "relu": (0.0, math.inf),
        "relu6": (0.0, 6.0),
        "clip": (params.get("min", -math.inf), params.get("max", math.inf)),
    }
    return clips.get(layer.kind)


def activate(low: Lowered, layer: L.Activate) -> None:
    """A copy through a table, or a copy with bounds."""
    (x,), out = low.network.layer_tensors(layer)
    source = low.held(x.name)
    for tensor in (x, out):
        engine_format(low, layer, tensor.format)
    bounds = _bounds(layer)
    if _wide(x, out) and bounds is not None:
        stored = low.new_like(out, x.name, bounds[0] >= 0)
        copy(low, layer, source, stored, clamp=clamp_codes(low, out, bounds))
        return
    table = _activation_table(low, layer)
    if formats.get(out.format).is_nan(table[:1]).any() and not whole_view(low, x.name):
        raise refuse(layer, "it makes NaR of the zeros between groups of channels")
    stored = low.new_like(out, x.name, not (table == 8).any())
    mode = "posit4" if x.format == "fp4" else x.format
    pointwise(low, layer, (source,), stored, mode, [powers(mode)[0]], 0, result=mode, table=table)
