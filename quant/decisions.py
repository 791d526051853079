"""What an assignment of formats decides: one format for the operands that layers share, and one
for each layer's weights.

Layers that read one tensor, directly or through layers that only move codes, form a *group* and
read it in one format, so that no conversion is needed between them. A group's convolutions and
linear layers choose the format of their weights on their own; constants of other layers take the
group's format. What an activation's table reads and what it writes belong to one group too: the
co-processor's tables map codes of one width, of at most 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import FormatError, PolicyError
from opennpe.quant.graph import Graph
from opennpe.quant.grouping import moves
from opennpe.quant.policy import Policy, Rule, exactly

__all__ = ["Assignment", "Decisions", "Group", "check_formats", "decisions", "pin"]

TABLE_BITS = 8
"""Activations by table read codes of at most so many bits."""


@dataclass(frozen=True)
class Group:
    """Layers that read the same tensors.

    Attributes:
        name: of its first layer.
        layers: names of all of them, in order.
        products: those of them whose weights have a format of their own.
        tensors: what they read, constants and indices left out.
        members: ``tensors`` and all that move to or from them: these have one format.
        inputs: formats that the tensors may have.
        weights: formats that weights may have, by product and by format of the inputs.
    """

    name: str
    layers: tuple[str, ...]
    products: tuple[str, ...]
    tensors: tuple[str, ...]
    members: frozenset[str]
    inputs: tuple[str, ...]
    weights: Mapping[str, Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Assignment:
    """A format for every group's inputs and for every product's weights, by name."""

    inputs: Mapping[str, str]
    weights: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Decisions:
    """All groups of a network.

    Attributes:
        groups: in order; every layer that computes belongs to exactly one.
        formats: that may be assigned.
        output: of the network's outputs.
        home: the group of each layer.
    """

    graph: Graph
    groups: tuple[Group, ...]
    formats: tuple[str, ...]
    output: str
    home: Mapping[str, Group] = field(default_factory=dict)

    @property
    def products(self) -> tuple[str, ...]:
        """Layers whose weights have a format of their own."""
        return tuple(name for group in self.groups for name in group.products)

    def nearest(self, weights: Mapping[str, str], inputs: Mapping[str, str]) -> Assignment:
        """The assignment asked for; where a layer does not take a format, the nearest that it does.

        Args:
            weights, inputs: formats by layer; a group takes the widest that its layers ask for.
        """
        chosen_inputs, chosen_weights = {}, {}
        for group in self.groups:
            asked = [inputs[name] for name in group.layers if name in inputs]
            wanted = max(asked, key=_bits) if asked else self.formats[-1]
            held = chosen_inputs[group.name] = _nearest(wanted, group.inputs)
            for name in group.products:
                legal = group.weights[name][held]
                chosen_weights[name] = _nearest(weights.get(name, held), legal)
        return Assignment(chosen_inputs, chosen_weights)

    def uniform(self, weights: str, inputs: str) -> Assignment:
        """One pair of formats for all, as near as layers take it."""
        return self.nearest(
            dict.fromkeys(self.products, weights),
            {name: inputs for group in self.groups for name in group.layers},
        )

    def policy(self, chosen: Assignment, source: str = "assignment") -> Policy:
        """The policy that states an assignment, a rule for every layer that computes."""
        rules = []
        for group in self.groups:
            wanted = chosen.inputs[group.name]
            rules += [
                Rule((exactly(name),), chosen.weights.get(name, wanted), wanted)
                for name in group.layers
            ]
        widest = max((*chosen.inputs.values(), *chosen.weights.values()), key=_bits)
        return Policy(widest, widest, self.output, rules=tuple(rules), source=source)

    def weight_bytes(self, layer: str, fmt: str) -> int:
        """Bytes of a product's weights in a format: codes, and a byte of scale a channel."""
        found = next(one for one in self.graph.layers if one.name == layer)
        assert isinstance(found, L.Conv | L.Linear)
        return math.ceil(found.weights.size * _bits(fmt) / 8) + len(found.weights)

    def tensor_bytes(self, group: Group, fmt: str) -> int:
        """Bytes of all tensors that a group reads, of one sample."""
        elements = sum(math.prod(self.graph.shapes[name]) for name in group.tensors)
        return math.ceil(elements * _bits(fmt) / 8)

    def total_bytes(self, chosen: Assignment) -> int:
        """Bytes of all products' weights."""
        return sum(self.weight_bytes(name, chosen.weights[name]) for name in self.products)

    @property
    def float_bytes(self) -> int:
        """Bytes of the same weights in float32, without scales."""
        return sum(
            4 * layer.weights.size
            for layer in self.graph.layers
            if isinstance(layer, L.Conv | L.Linear)
        )


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Formats to assign, narrow ones first.

    Raises:
        FormatError: none, one that is unknown, one given twice, or one that the engine lacks.
    """
    known = [formats.get(name).name for name in names]
    for given, name in zip(names, known, strict=True):
        if name not in formats.ENGINE_FORMATS:
            raise FormatError(
                f"'{given}' is no format of the engine: assign takes "
                f"{', '.join(formats.ENGINE_FORMATS)}"
            )
        if known.count(name) > 1:
            raise FormatError(f"the format '{name}' is given twice")
    if not known:
        raise FormatError("assign needs at least one format")
    return tuple(sorted(known, key=formats.ENGINE_FORMATS.index))


def decisions(
    graph: Graph,
    names: Sequence[str] = formats.ENGINE_FORMATS,
    output: str | None = None,
    pins: Mapping[str, str] | None = None,
) -> Decisions:
    """What there is to decide in a float graph.

    Args:
        names: formats to assign.
        output: of the network's outputs; the widest of ``names`` unless given.
        pins: formats that are given, by layer: ``"posit8"``, or ``"fp4xposit8"`` for weights and
            inputs; see :func:`pin`.

    Raises:
        FormatError: formats that cannot be assigned.
        PolicyError: a layer that does not exist or decides nothing, or that takes none of the
            formats.
    """
    wanted = check_formats(names)
    fixed = {name: _pair(name, text) for name, text in (pins or {}).items()}
    found = tuple(_groups(graph, wanted, fixed))
    home = {name: group for group in found for name in group.layers}
    for name in fixed:
        if name not in home:
            raise PolicyError(
                f"no layer '{name}' takes formats: pin one of {', '.join(list(home)[:6])}"
                + (", ..." if len(home) > 6 else "")
            )
    last = formats.get(output).name if output else wanted[-1]
    return Decisions(graph, found, wanted, last, home)


def pin(graph: Graph, first: str | None, last: str | None) -> dict[str, str]:
    """Pins of a network's first and last product: formats, or pairs, by layer."""
    names = [layer.name for layer in graph.layers if isinstance(layer, L.Conv | L.Linear)]
    found = {}
    if names and first:
        found[names[0]] = first
    if names and last:
        found[names[-1]] = last
    return found


def _pair(layer: str, text: str) -> tuple[str, str]:
    parts = text.split("x")
    if len(parts) > 2:
        raise PolicyError(f"layer '{layer}' pinned to '{text}': expected a format, or fp4xposit8")
    pair = tuple(check_formats([part])[0] for part in parts)
    return pair[0], pair[-1]


def _bits(name: str) -> int:
    return int(formats.get(name).bits)


def _nearest(wanted: str, legal: Sequence[str]) -> str:
    """The format itself, else the widest that is no wider, else the narrowest."""
    if wanted in legal:
        return wanted
    narrower = [name for name in legal if _bits(name) <= _bits(wanted)]
    return max(narrower, key=_bits) if narrower else min(legal, key=_bits)


def _groups(
    graph: Graph, names: tuple[str, ...], fixed: Mapping[str, tuple[str, str]]
) -> Iterable[Group]:
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    def read(layer: L.Layer) -> list[str]:
        return [n for n in layer.inputs if n not in graph.constants and n not in graph.indices]

    for layer in graph.layers:
        first = f"layer:{layer.name}"
        # A table of codes maps one width to itself.
        through = moves(layer) or isinstance(layer, L.Activate)
        for name in (*read(layer), *((layer.output,) if through else ())):
            parent[root(name)] = root(first)
    together: dict[str, list[L.Layer]] = {}
    for layer in graph.layers:
        if not moves(layer):
            together.setdefault(root(f"layer:{layer.name}"), []).append(layer)
    members: dict[str, set[str]] = {key: set() for key in together}
    for name in list(parent):
        if not name.startswith("layer:") and root(name) in members:
            members[root(name)].add(name)
    for key, layers in together.items():
        tensors = tuple(dict.fromkeys(name for layer in layers for name in read(layer)))
        yield _group(layers, tensors, frozenset(members[key]), names, fixed)


def _group(
    layers: Sequence[L.Layer],
    tensors: tuple[str, ...],
    members: frozenset[str],
    names: tuple[str, ...],
    fixed: Mapping[str, tuple[str, str]],
) -> Group:
    products = [layer for layer in layers if isinstance(layer, L.Conv | L.Linear)]
    stated = {layer.name: fixed[layer.name] for layer in layers if layer.name in fixed}
    asked = {pair[1] for pair in stated.values()}
    if len(asked) > 1:
        raise PolicyError(
            f"layers {', '.join(stated)} read the same tensor and are pinned to inputs of "
            f"{' and '.join(sorted(asked))}: pin them to one format"
        )
    table = any(isinstance(layer, L.Activate) for layer in layers)
    inputs = tuple(asked) or tuple(n for n in names if not table or _bits(n) <= TABLE_BITS)
    weights: dict[str, dict[str, tuple[str, ...]]] = {}
    for layer in products:
        terms = math.prod(layer.weights.shape[1:])
        own = (stated[layer.name][0],) if layer.name in stated else names
        weights[layer.name] = {
            i: tuple(w for w in own if mac.max_terms(w, i) > terms) for i in inputs
        }
    taken = tuple(i for i in inputs if all(held[i] for held in weights.values()))
    if not taken:
        raise PolicyError(f"layer '{layers[0].name}' takes none of the formats {', '.join(names)}")
    return Group(
        layers[0].name,
        tuple(layer.name for layer in layers),
        tuple(layer.name for layer in products),
        tensors,
        members,
        taken,
        weights,
    )
