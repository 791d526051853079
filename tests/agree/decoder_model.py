"""A small decoder with what OpenELM has, random weights, as two networks that share their layers.

Heads and widths differ from layer to layer, queries are grouped, queries and keys are normalised
(QK-norm), norms are RMS norms before each half, positions are rotary, the feed-forward part is
SwiGLU (OpenELM, arXiv 2404.14619). ``prefill(t)`` reads t tokens at once; ``step(s)`` reads one
token, its position and caches of s rows, and writes the caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from opennpe.golden import formats, rotary, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor

__all__ = ["BLOCKS", "VOCABULARY", "Decoder", "generate"]

WIDTH, HEAD, VOCABULARY, LONGEST = 24, 8, 41, 16
BLOCKS = ((2, 1, 40), (4, 2, 32), (6, 2, 56))
"""Query heads, key heads and feed-forward width of each block."""


@dataclass(frozen=True)
class Block:
    """One block's parameters, as layers whose tensors are still to be named."""

    query: Any
    key: Any
    value: Any
    out: Any
    up: Any
    gate: Any
    down: Any
    norms: tuple[Any, ...]
    heads: int
    groups: int


class Decoder:
    """Parameters in one format, and the networks made of them.

    Args:
        name: format of weights and tensors.
        seed: of the random weights.
        mode: of the softmax, "exact" or "truncating".
    """

    def __init__(self, name: str, seed: int, mode: str = "exact") -> None:
        self.name, self.unit = name, (("mode", mode), ("lanes", 4))
        self.rng = np.random.default_rng(seed)
        fmt = formats.get(name)
        self.table = fmt.encode(self.rng.normal(size=(VOCABULARY, WIDTH)), "zero")
        self.blocks = [self._block(*sizes) for sizes in BLOCKS]
        self.last_norm, self.head = self._norm(WIDTH), self._linear(WIDTH, VOCABULARY)
        self.cos, self.sin = rotary.tables(LONGEST, HEAD)

    # -- parameters --------------------------------------------------------------------------
    def _linear(self, inputs: int, outputs: int) -> L.Linear:
        codes = formats.get(self.name).encode(self.rng.normal(size=(outputs, inputs)), "zero")
        scale = np.full(outputs, -round(np.log2(inputs) / 2), dtype=np.int64)
        return L.Linear("", (), "", codes, self.name, scale, np.zeros(outputs))

    def _norm(self, width: int) -> L.Normalise:
        gamma = formats.get("posit16").encode(self.rng.normal(1, 0.2, width))
        return L.Normalise("", (), "", "rms", 1e-6, gamma)

    def _block(self, heads: int, groups: int, wide: int) -> Block:
        return Block(
            self._linear(WIDTH, heads * HEAD),
            self._linear(WIDTH, groups * HEAD),
            self._linear(WIDTH, groups * HEAD),
            self._linear(heads * HEAD, WIDTH),
            self._linear(WIDTH, wide),
            self._linear(WIDTH, wide),
            self._linear(wide, WIDTH),
            (self._norm(WIDTH), self._norm(HEAD), self._norm(HEAD), self._norm(WIDTH)),
            heads,
            groups,
        )

    # -- networks ----------------------------------------------------------------------------
    def prefill(self, tokens: int) -> Network:
        """ids (1, tokens) to logits (1, tokens, VOCABULARY)."""
        return _Maker(self, tokens, 0).network()

    def step(self, rows: int) -> Network:
        """ids (1, 1), a position and caches (1, groups, rows, HEAD) to logits and caches."""
        return _Maker(self, 1, rows).network()


class _Maker:
    def __init__(self, decoder: Decoder, tokens: int, rows: int) -> None:
        self.decoder, self.tokens, self.rows = decoder, tokens, rows
        self.tensors = {
            "ids": Tensor("ids", (1, tokens), "index"),
            "table": Tensor("table", decoder.table.shape, decoder.name),
        }
        self.layers: list[Any] = []
        self.inputs, self.outputs = ["ids"], []
        if rows:
            self.tensors["position"] = Tensor("position", (1,), "index")
            self.inputs.append("position")

    def network(self) -> Network:
        x = self.put(L.Gather("", (), ""), "table", "ids", name="embedding")
        for number, block in enumerate(self.decoder.blocks):
            x = self.block(x, block, f"b{number}")
        x = self.put(self.decoder.last_norm, x, name="last")
        logits = self.put(self.decoder.head, x, name="logits")
        return Network(
            tuple(self.inputs),
            (logits, *self.outputs),
            self.tensors,
            tuple(self.layers),
            {"table": self.decoder.table},
            "decoder",
        )

    def put(self, layer: Any, *inputs: str, name: str) -> str:
        """A layer under a name of its own; its output has the decoder's format."""
        layer = replace(layer, name=name, inputs=inputs, output=name)
        shape = shapes.output_shape(layer, [self.tensors[n].shape for n in inputs])
        self.tensors[name] = Tensor(name, shape, self.decoder.name)
        self.layers.append(layer)
        return name

    def block(self, x: str, block: Block, name: str) -> str:
        first, of_query, of_key, second = block.norms
        h = self.put(first, x, name=f"{name} norm")
        q = self.heads(self.put(block.query, h, name=f"{name} q"), block.heads, f"{name} q")
        k = self.heads(self.put(block.key, h, name=f"{name} k"), block.groups, f"{name} k")
        v = self.heads(self.put(block.value, h, name=f"{name} v"), block.groups, f"{name} v")
        q = self.turned(self.put(of_query, q, name=f"{name} q norm"), f"{name} q")
        k = self.turned(self.put(of_key, k, name=f"{name} k norm"), f"{name} k")
        if self.rows:
            k, v = (self.cached(n, block.groups, f"{name} {c}") for n, c in ((k, "k"), (v, "v")))
        a = self.attention(q, k, v, block, name)
        x = self.put(L.Add("", (), ""), x, self.put(block.out, a, name=f"{name} o"),
                     name=f"{name} half")  # fmt: skip
        h = self.put(second, x, name=f"{name} norm 2")
        gate = self.put(block.gate, h, name=f"{name} gate")
        gate = self.put(L.Activate("", (), "", "silu"), gate, name=f"{name} silu")
        up = self.put(block.up, h, name=f"{name} up")
        wide = self.put(L.Mul("", (), ""), gate, up, name=f"{name} wide")
        down = self.put(block.down, wide, name=f"{name} down")
        return self.put(L.Add("", (), ""), x, down, name=f"{name} out")

    def heads(self, x: str, count: int, name: str) -> str:
        shape = (1, self.tokens, count, HEAD)
        split = self.put(L.Reshape("", (), "", shape), x, name=f"{name} split")
        return self.put(L.Transpose("", (), "", (0, 2, 1, 3)), split, name=f"{name} heads")

    def turned(self, x: str, name: str) -> str:
        layer = L.Rotary("", (), "", self.decoder.cos, self.decoder.sin)
        where = ("position",) if self.rows else ()
        return self.put(layer, x, *where, name=f"{name} turned")

    def cached(self, new: str, groups: int, name: str) -> str:
        cache = f"{name} cache"
        self.tensors[cache] = Tensor(cache, (1, groups, self.rows, HEAD), self.decoder.name)
        self.inputs.append(cache)
        out = self.put(L.Append("", (), ""), cache, new, "position", name=f"{name} cached")
        self.outputs.append(out)
        return out

    def attention(self, q: str, k: str, v: str, block: Block, name: str) -> str:
        """Grouped queries by broadcasting: no key or value is copied."""
        columns, shared = self.rows or self.tokens, block.heads // block.groups
        wide = (1, block.groups, shared, self.tokens, HEAD)
        narrow = (1, block.groups, 1, columns, HEAD)
        q = self.put(L.Reshape("", (), "", wide), q, name=f"{name} q group")
        k = self.put(L.Reshape("", (), "", narrow), k, name=f"{name} k group")
        v = self.put(L.Reshape("", (), "", narrow), v, name=f"{name} v group")
        k = self.put(L.Transpose("", (), "", (0, 1, 2, 4, 3)), k, name=f"{name} k columns")
        logits = self.put(L.MatMul("", (), ""), q, k, name=f"{name} logits")
        softmax = L.StreamSoftmax("", (), "", HEAD**-0.5, causal=True, positioned=bool(self.rows),
                                  unit=self.decoder.unit)  # fmt: skip
        where = ("position",) if self.rows else ()
        weights = self.put(softmax, logits, *where, name=f"{name} weights")
        mixed = self.put(L.MatMul("", (), ""), weights, v, name=f"{name} mixed")
        flat = self.put(L.Reshape("", (), "", (1, block.heads, self.tokens, HEAD)), mixed,
                        name=f"{name} ungroup")  # fmt: skip
        back = self.put(L.Transpose("", (), "", (0, 2, 1, 3)), flat, name=f"{name} back")
        shape = (1, self.tokens, block.heads * HEAD)
        return self.put(L.Reshape("", (), "", shape), back, name=f"{name} joined")


def generate(step: Network, ids: np.ndarray, run: Any) -> np.ndarray:
    """Logits codes (T, VOCABULARY) of tokens fed one a step, the caches handed from step to step.

    Args:
        step: of :meth:`Decoder.step`.
        ids: (T,).
        run: a network and its inputs to the codes of its tensors.
    """
    logits, *written = step.outputs
    caches = [n for n in step.inputs if n not in ("ids", "position")]
    held = {
        n: np.zeros(step.tensors[n].shape, formats.get(step.tensors[n].format).dtype)
        for n in caches
    }
    rows = []
    for position, token in enumerate(ids):
        given = {"ids": np.array([[token]]), "position": np.array([position]), **held}
        found = run(step, given)
        rows.append(found[logits][0, 0])
        held = dict(zip(caches, (found[n] for n in written), strict=True))
    return np.array(rows)
