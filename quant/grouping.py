"""Tensors that share a format and a scale, so that moving values between them rounds nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.quant import scales
from opennpe.quant.graph import Graph
from opennpe.quant.policy import MODEL, Policy

__all__ = ["Grouping", "moves"]

COST = 1.25
"""A shared scale may raise no tensor's squared error by more than this factor."""
SHARED_VALUES = 16384
FORWARDING = ("relu", "relu6", "clip", "abs", "leaky", "prelu")


def moves(layer: L.Layer) -> bool:
    """Whether a layer only moves codes, so that its output has its input's format."""
    if isinstance(layer, L.Pool):
        return layer.kind == "max"
    if isinstance(layer, L.Resize):
        return all(index.shape[1] == 1 for index in layer.indices)
    return isinstance(
        layer, L.Concat | L.Pad | L.Slice | L.Reshape | L.Transpose | L.Append | L.Select
    )


class Grouping:
    """Formats first, by policy and neighbours; then groups of one format; then their scales."""

    def __init__(
        self,
        graph: Graph,
        samples: Mapping[str, NDArray[np.float64]],
        policy: Policy,
        method: str,
    ) -> None:
        self.graph, self.samples, self.policy, self.method = graph, samples, policy, method
        every = (*graph.inputs, *(layer.output for layer in graph.layers))
        names = [name for name in every if name not in graph.indices]
        self.parent = {name: name for name in names}
        self.from_model: set[str] = set()
        self.writers = {layer.output: layer for layer in graph.layers}
        self.formats = self._choose_formats(names)
        self.parent = {name: name for name in names}
        self.values = {name: self._magnitudes([name]) for name in names}
        self._cache: dict[tuple[str, int], tuple[int, float]] = {}
        self._link_moves()
        self._link_cheap()
        self.scales = {root: self._scale(root) for root in {self.root(n) for n in names}}

    def format_and_scale(self, name: str) -> tuple[str, int]:
        """What a tensor has got."""
        return self.formats[name], self.scales[self.root(name)]

    # -- groups ------------------------------------------------------------------------------
    def root(self, name: str) -> str:
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def members(self, root: str) -> list[str]:
        return [name for name in self.parent if self.root(name) == root]

    def _tensors(self, layer: L.Layer) -> list[str]:
        return [n for n in layer.inputs if n in self.parent]

    # -- formats -----------------------------------------------------------------------------
    def _choose_formats(self, names: list[str]) -> dict[str, str]:
        """Explicit outputs decide, then what readers ask for (the widest), then the default."""
        for layer in self.graph.layers:
            if moves(layer) and layer.output in self.parent:
                for name in self._tensors(layer):
                    self.parent[self.root(name)] = self.root(layer.output)
        outputs: dict[str, list[str]] = {}
        inputs: dict[str, list[str]] = {}
        own: dict[str, str] = {}
        for layer in self.graph.layers:
            if layer.output not in self.parent:
                continue
            choice = self.policy.choice(layer.name, type(layer).__name__)
            if choice.output is not None:
                outputs.setdefault(self.root(layer.output), []).append(choice.output)
                own[layer.output] = choice.output
            if choice.inputs is not None and not moves(layer):
                for name in self._tensors(layer):
                    inputs.setdefault(self.root(name), []).append(choice.inputs)
        result = {}
        for name in names:
            root = self.root(name)
            stated = set(outputs.get(root, ()))
            if name in own:
                wanted = own[name]
            elif len(stated) == 1:
                wanted = next(iter(stated))
            elif root in inputs:
                wanted = max(inputs[root], key=_width)
            else:
                wanted = self._default(name)
            result[name] = self._resolve(name, wanted)
        return result

    def _default(self, name: str) -> str:
        return self.policy.inputs if name in self.graph.inputs else self.policy.output

    def _resolve(self, name: str, wanted: str) -> str:
        if wanted != MODEL:
            return wanted
        members = (self._origin(name), *self.members(self.root(name)))
        hint = next((self.graph.hints[n] for n in members if n in self.graph.hints), None)
        if hint is None:
            return self.policy.fallback
        self.from_model.add(name)
        return str(hint.format)

    def _origin(self, name: str) -> str:
        """Where a tensor's values were first put in the format the model says: itself, or the
        tensor it was moved from."""
        while name not in self.graph.hints:
            layer = self.writers.get(name)
            if layer is None or not moves(layer) or isinstance(layer, L.Concat):
                break
            read = self._tensors(layer)
            if not read:
                break
            name = read[0]
        return name

    # -- scales ------------------------------------------------------------------------------
    def _magnitudes(self, names: Iterable[str]) -> NDArray[np.float64]:
        values = np.concatenate([np.asarray(self.samples[n], np.float64).ravel() for n in names])
        values = np.abs(values[values != 0])
        if values.size > SHARED_VALUES:
            step = -(-values.size // SHARED_VALUES)
            values = np.append(values[::step], values.max())
        return np.sort(values)

    def _join(self, a: str, b: str) -> None:
        first, second = self.root(a), self.root(b)
        if first != second:
            merged = np.sort(np.concatenate([self.values[first], self.values[second]]))
            if merged.size > SHARED_VALUES:
                merged = np.append(merged[:: -(-merged.size // SHARED_VALUES)], merged[-1])
            self.parent[first] = second
            self.values[second] = merged

    def _link_moves(self) -> None:
        for layer in self.graph.layers:
            if moves(layer) and not isinstance(layer, L.Concat):
                for name in layer.inputs:
                    self._try_join(name, layer.output)

    def _try_join(self, a: str, b: str) -> None:
        if a in self.parent and b in self.parent and self.formats[a] == self.formats[b]:
            hints = [self._hint(self.root(n)) for n in (a, b)]
            if None in hints or hints[0] == hints[1]:
                self._join(a, b)

    def _link_cheap(self) -> None:
        """Concat and relu-like layers share a scale where nobody loses by it."""
        for layer in self.graph.layers:
            forward = isinstance(layer, L.Activate) and layer.kind in FORWARDING
            if (not forward and not isinstance(layer, L.Concat)) or (
                layer.output not in self.parent
            ):
                continue
            for name in self._tensors(layer):
                if self.formats[name] == self.formats[layer.output] and self._cheap(
                    self.root(name), self.root(layer.output)
                ):
                    self._join(name, layer.output)

    def _cheap(self, a: str, b: str) -> bool:
        if a == b:
            return True
        if self._hint(a) is not None or self._hint(b) is not None:
            return bool(self._hint(a) == self._hint(b))
        if not self.values[a].size or not self.values[b].size:
            return True
        fmt = formats.get(self.formats[a])
        (_, error_a), (_, error_b) = self._best(a), self._best(b)
        joined = np.concatenate([self.values[a], self.values[b]])
        shared = scales.tensor_scale(fmt.name, joined, self.method, self.policy.percentile)
        return all(
            float(scales.squared_error(fmt, self.values[root], shared).sum()) <= error * COST
            for root, error in ((a, error_a), (b, error_b))
        )

    def _best(self, root: str) -> tuple[int, float]:
        key = (root, self.values[root].size)
        if key not in self._cache:
            self._cache[key] = scales.best(self.formats[root], self.values[root])
        return self._cache[key]

    def _hint(self, root: str) -> Any:
        """The model's own power-of-two scale of a group that took its format, or None."""
        for name in self.members(root):
            hint = self.graph.hints.get(name)
            if name in self.from_model and hint is not None and hint.exact:
                return hint
        return None

    def _scale(self, root: str) -> int:
        hint = self._hint(root)
        if hint is not None:
            return int(hint.scale)
        values = self.values[root]
        return scales.tensor_scale(self.formats[root], values, self.method, self.policy.percentile)


def _width(name: str) -> int:
    return 0 if name == MODEL else int(formats.get(name).bits)
