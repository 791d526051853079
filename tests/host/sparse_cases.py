"""Random sparse layers, by themselves and in rows."""

from __future__ import annotations

import numpy as np
from attention_cases import AttentionBuilder
from host_builder import FORMATS
from opennpe.golden import formats
from opennpe.golden import layers as L

DENSITIES = (0.0, 0.02, 0.1, 0.3, 0.6, 1.0)


class SparseBuilder(AttentionBuilder):
    """A network of products whose weights are mostly zero."""

    def pruned(self, fmt, outputs, inputs, density):
        """Codes (outputs, inputs): zeros, some rows empty, at times nothing else."""
        values = self.rng.normal(0, 1.0, (outputs, inputs))
        values[self.rng.random((outputs, inputs)) >= density] = 0
        if self.rng.random() < 0.5:
            values[self.rng.random(outputs) < 0.3] = 0
        return formats.get(fmt).encode(values, "zero")

    def sparse(self, x, outputs, density, weight=None):
        """A sparse layer: a product where there are rows of features, else a convolution."""
        weight = weight or x.format
        last = len(x.shape) != 4
        inputs = x.shape[-1] if last else x.shape[1]
        codes = self.pruned(weight, outputs, inputs, density)
        scale = self.rng.integers(-3, 1, outputs).astype(np.int64)
        bias, clip = self.rng.normal(0, 1, outputs), self.clip()
        if last:
            return self.finish(
                lambda name, out: L.Linear(name, (x.name,), out, codes, weight, scale, bias, clip),
                x, fmt=x.format,
            )  # fmt: skip
        return self.finish(
            lambda name, out: L.Conv(
                name, (x.name,), out, codes[..., None, None], weight, scale, bias, (1, 1),
                (0, 0, 0, 0), (1, 1), 1, clip,
            ),
            x, fmt=x.format,
        )  # fmt: skip


def sparse_network(seed, names=FORMATS):
    """One to three sparse layers, some of them in rows, with others between."""
    rng = np.random.default_rng(seed)
    fmt = str(rng.choice(names))
    b = SparseBuilder(rng, (fmt,))
    inputs = int(rng.integers(1, 70))
    kind = rng.random()
    if kind < 0.2:
        shape = (1, inputs)
    elif kind < 0.6:
        shape = (1, int(rng.integers(1, 40)), inputs)
    else:
        shape = (1, inputs, int(rng.integers(1, 8)), int(rng.integers(1, 8)))
    x = first = b.tensor(shape, fmt)
    for _ in range(int(rng.integers(1, 4))):
        pick = rng.random()
        before = x
        if pick < 0.75:
            narrow = [n for n in FORMATS if formats.get(n).bits <= formats.get(x.format).bits]
            weight = str(rng.choice(narrow)) if rng.random() < 0.3 else x.format
            density = float(rng.choice(DENSITIES))
            x = b.sparse(x, int(rng.integers(1, 50)), density, weight)
            if x.shape == before.shape and rng.random() < 0.6:
                x = b.add(x, before)
        elif pick < 0.85 and formats.get(x.format).bits <= 8:
            x = b.activate(x)
        elif len(x.shape) == 4:
            x = b.conv(x)
        else:
            x = b.dense(x, int(rng.integers(1, 20)), x.format)
    return b.network([first.name], [x.name]), {first.name: b.codes(first.format, first.shape)}
