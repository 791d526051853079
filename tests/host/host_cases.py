"""Random networks of a few layers: of images, of transformers, of sparse weights."""

from __future__ import annotations

import numpy as np
from attention_cases import attention_network
from host_builder import FORMATS, SPECS, Builder, spec
from opennpe.golden import layers as L
from sparse_cases import sparse_network

__all__ = ["FORMATS", "SPECS", "Builder", "random_network", "spec"]


def random_network(seed, big=False):
    """One to three layers on an odd tensor, or attention, or sparse layers; and codes for the
    input."""
    if seed % 7 == 5 and not big:
        return attention_network(seed)
    if seed % 7 == 6 and not big:
        return sparse_network(seed)
    rng = np.random.default_rng(seed)
    names = FORMATS if rng.random() < 0.4 else (str(rng.choice(FORMATS)),)
    b = Builder(rng, names)
    channels = int(rng.integers(1, 21)) if not big else int(rng.integers(16, 50))
    spatial = tuple(int(n) for n in rng.integers(1, 11, 1 if rng.random() < 0.15 else 2))
    x = first = b.tensor((1, channels, *spatial))
    kinds = ["conv", "conv", "depth", "groups", "linear", "add", "max", "average", "activate",
             "convert", "residual"]  # fmt: skip
    outputs = []
    for _ in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(kinds))
        flat = len(x.shape) < 3
        if flat or kind == "linear":
            x = b.linear(x)
        elif kind == "conv":
            x = b.conv(x)
        elif kind == "depth":
            x = b.conv(x, groups=x.shape[1], outputs=x.shape[1])
        elif kind == "groups":
            groups = next(g for g in (3, 2, 5, 1) if x.shape[1] % g == 0)
            x = b.conv(x, groups=groups)
        elif kind == "add":
            x = b.add(x, x)
        elif kind == "residual":
            one = b.finish(lambda name, out, x=x: L.Convert(name, (x.name,), out), x)
            x = b.add(x, one)
        elif kind in ("max", "average"):
            x = b.pool(x, kind)
        elif kind == "activate":
            x = b.activate(x)
        else:
            source = x
            x = b.finish(lambda name, out, s=source: L.Convert(name, (s.name,), out), source)
        outputs.append(x.name)
    network = b.network([first.name], outputs[-1:])
    return network, {first.name: b.codes(first.format, first.shape)}
