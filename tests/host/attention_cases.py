"""Random attention layers, as transformers are exported."""

from __future__ import annotations

import math

import numpy as np
from host_builder import FORMATS, Builder
from opennpe.golden import formats
from opennpe.golden import layers as L


class AttentionBuilder(Builder):
    """A network of layers that transformers have."""

    def tokens(self, count, channels, fmt=None):
        """An input of rows of features."""
        return self.tensor((1, count, channels), fmt)

    def dense(self, x, outputs, fmt=None, wide=0.4, at=None):
        """A layer (..., K) to (..., N) whose results keep within the format.

        ``at``: the scale of its output.
        """
        weight = self.format()
        codes = formats.get(weight).encode(self.rng.normal(0, wide, (outputs, x.shape[-1])), "zero")
        scale = self.rng.integers(-2, 1, outputs).astype(np.int64)
        bias, clip = self.rng.normal(0, 0.5, outputs), self.clip()
        return self.finish(
            lambda name, out: L.Linear(name, (x.name,), out, codes, weight, scale, bias, clip),
            x, fmt=fmt, scale=at,
        )  # fmt: skip

    def reshape(self, x, shape):
        return self.finish(
            lambda name, out: L.Reshape(name, (x.name,), out, tuple(shape)),
            x, fmt=x.format, scale=x.scale,
        )  # fmt: skip

    def transpose(self, x, permutation):
        return self.finish(
            lambda name, out: L.Transpose(name, (x.name,), out, tuple(permutation)),
            x, fmt=x.format, scale=x.scale,
        )  # fmt: skip

    def matmul(self, a, b, clip=None, fmt=None):
        return self.finish(
            lambda name, out: L.MatMul(name, (a.name, b.name), out, clip), a, b, fmt=fmt
        )

    def softmax(self, x, scale=1.0, causal=False, offset=0, fmt=None):
        return self.finish(
            lambda name, out: L.StreamSoftmax(name, (x.name,), out, scale, causal, offset),
            x, fmt=fmt, scale=int(self.rng.integers(-4, 1)),
        )  # fmt: skip

    def norm(self, x, affine=True, fmt=None):
        r = self.rng
        kind = str(r.choice(["layer", "rms"]))
        weight, inner = self.format(), self.format()
        gamma = self.codes(weight, (x.shape[-1],)) if affine else None
        beta = r.normal(0, 1, x.shape[-1]) if affine and r.random() < 0.7 else None
        return self.finish(
            lambda name, out: L.Normalise(
                name, (x.name,), out, kind, 1e-5, gamma, beta, weight, int(r.integers(-2, 2)),
                inner, int(r.integers(-1, 2)),
            ),
            x, fmt=fmt,
        )  # fmt: skip

    def split(self, x, heads):
        """(1, T, D) to (1, heads, T, D / heads)."""
        _, count, channels = x.shape
        return self.transpose(self.reshape(x, (1, count, heads, channels // heads)), (0, 2, 1, 3))

    def attention(self, x, heads, size, causal=False, joined=False, formats_of=None):
        """Softmax(Q K^T) V of projections of x, heads joined and projected."""
        r, width = self.rng, heads * size
        q_fmt, k_fmt, v_fmt = formats_of or (self.format(), self.format(), self.format())
        if joined:
            qkv = self.dense(x, 3 * width, q_fmt)
            parts = [
                self.finish(
                    lambda name, out, i=i: L.Slice(
                        name, (qkv.name,), out,
                        ((None, None, 1), (None, None, 1), (i * width, (i + 1) * width, 1)),
                    ),
                    qkv, fmt=qkv.format, scale=qkv.scale,
                )
                for i in range(3)
            ]  # fmt: skip
        else:
            parts = [self.dense(x, width, f) for f in (q_fmt, k_fmt, v_fmt)]
        q, k, v = (self.split(p, heads) for p in parts)
        keys = self.transpose(k, (0, 1, 3, 2))
        scores = self.matmul(q, keys)
        weights = self.softmax(scores, 1 / math.sqrt(size), causal, int(r.integers(-2, 3)))
        found = self.transpose(self.matmul(weights, v), (0, 2, 1, 3))
        joined = self.reshape(found, (1, x.shape[1], width))
        return self.dense(joined, x.shape[2], at=x.scale)


def attention_network(seed, names=None):
    """A normalised attention layer with its residual, at times a feed-forward layer after it."""
    rng = np.random.default_rng(seed)
    if names is None:
        names = (str(rng.choice(FORMATS)),) if rng.random() < 0.7 else ("posit8", "posit16")
    b = AttentionBuilder(rng, names)
    heads, size = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    count, channels = int(rng.integers(1, 20)), int(rng.integers(2, 20))
    x = first = b.tokens(count, channels)
    if rng.random() < 0.5:
        x = b.norm(x)
    y = b.attention(x, heads, size, bool(rng.random() < 0.5), bool(rng.random() < 0.3))
    if rng.random() < 0.6:
        y = b.add(y, x)
    if rng.random() < 0.5:
        y = b.norm(y, bool(rng.random() < 0.7))
    if rng.random() < 0.4:
        z = b.dense(y, int(rng.integers(1, 20)))
        if formats.get(z.format).bits <= 8:
            z = b.activate(z)
        y = b.dense(z, channels)
    return b.network([first.name], [y.name]), {first.name: b.codes(first.format, first.shape)}
