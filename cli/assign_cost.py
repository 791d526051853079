"""What each decision of an assignment costs: cycles and energy of the simulator's own models.

One network a pair of formats, everything in it, is compiled, run and priced as ``opennpe cost``
does; a layer's row there is what the layer costs in that pair. Rows of layers that decide nothing
(max pooling, conversions) belong to the group whose tensors they move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opennpe import sim
from opennpe.cli.cost_quick import LIBRARY, priced
from opennpe.cli.progress import Progress
from opennpe.golden.errors import CompileError, DataError, OpenNPEError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant import lower
from opennpe.quant.calibration import Samples
from opennpe.quant.decisions import Assignment, Decisions, Group
from opennpe.quant.pareto import Item, Option, pruned
from opennpe.quant.sensitivity import Sensitivity
from opennpe.sim.cost import estimate, is_whole, technology
from opennpe.sim.cost_types import Cost, LayerCost, Options
from opennpe.sim.workload import of_trace

__all__ = ["AXES", "CostTable", "Pricing", "assignment", "cost_table", "items"]

AXES = ("weight_bytes", "energy_pj", "cycles")
"""Costs that budgets speak of."""


@dataclass(frozen=True, eq=False)
class Pricing:
    """How a network is priced.

    Attributes:
        inputs: of one run, by name. whole: on the co-processor with its memories, else the array
            alone with its operands always there.
    """

    spec: CoprocessorSpec
    inputs: Mapping[str, Any]
    whole: bool
    options: Options = field(default_factory=Options)

    @classmethod
    def of(cls, spec: CoprocessorSpec, network: Network, inputs: Mapping[str, Any]) -> Pricing:
        """The whole co-processor where the spec has one and it takes the network."""
        whole = is_whole(spec)
        if whole:
            from opennpe.host.compile import compile

            try:
                compile(network, spec)
            except CompileError:
                whole = False
        return cls(spec, inputs, whole)

    def cost(self, network: Network) -> Cost:
        """The cost of one sample.

        Raises:
            OpenNPEError: a network that cannot be priced.
        """
        tech = technology(self.spec, LIBRARY)
        if self.whole:
            from opennpe.host.compile import compile
            from opennpe.sim.coprocessor import cycles

            program = compile(network, self.spec)
            timing = cycles(self.spec, program)
            return priced(
                network.name, self.spec, network, program, timing, self.inputs, tech, self.options
            )
        from opennpe.sim.activity import activity

        _, trace = sim.run(self.spec, network, self.inputs)
        work = of_trace(network.name, self.spec, network, trace)
        return estimate(
            self.spec, work, activity(self.spec, network, self.inputs), tech, self.options
        )


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cycles and energy of every choice.

    Attributes:
        layers: (cycles, pJ) by layer, format of its weights and format of its inputs.
        groups: the same of what belongs to a group as such, by group and format of its inputs.
        base: of rows that belong to nothing that is decided.
        scope: of what.
    """

    layers: Mapping[tuple[str, str, str], tuple[float, float]]
    groups: Mapping[tuple[str, str], tuple[float, float]]
    base: tuple[float, float]
    scope: str

    def total(self, decided: Decisions, chosen: Assignment) -> tuple[float, float]:
        """Cycles and pJ that the table foretells of an assignment."""
        cycles, energy = self.base
        for group in decided.groups:
            held = chosen.inputs[group.name]
            parts = [self.groups.get((group.name, held), (0.0, 0.0))]
            parts += [
                self.layers.get((name, chosen.weights.get(name, held), held), (0.0, 0.0))
                for name in group.layers
            ]
            cycles += sum(part[0] for part in parts)
            energy += sum(part[1] for part in parts)
        return cycles, energy


def cost_table(
    decided: Decisions, samples: Samples, method: str, pricing: Pricing, progress: Progress
) -> CostTable:
    """Price every pair of formats.

    Args:
        samples: of :func:`opennpe.quant.calibration.observe`.

    Raises:
        DataError: no pair can be priced.
    """
    names = decided.formats
    # One format for all first: what does not depend on weights is taken from there.
    pairs = [(f, f) for f in names] + [(w, i) for w in names for i in names if w != i]
    progress.stage("pricing pairs of formats", len(pairs))
    layers: dict[tuple[str, str, str], tuple[float, float]] = {}
    groups: dict[tuple[str, str], tuple[float, float]] = {}
    base, scope = (0.0, 0.0), ""
    refusals = []
    for weights, inputs in pairs:
        chosen = decided.uniform(weights, inputs)
        network = lower.lower(decided.graph, samples, decided.policy(chosen), method)
        try:
            found = pricing.cost(network)
        except OpenNPEError as error:
            refusals.append(f"{weights} x {inputs}: {error}")
        else:
            base, scope = _split(decided, chosen, found, layers, groups), found.scope
        progress.advance()
    if not scope:
        raise DataError(f"no pair of formats can be priced: {refusals[0]}")
    return CostTable(layers, groups, base, scope)


def _split(
    decided: Decisions,
    chosen: Assignment,
    found: Cost,
    layers: dict[tuple[str, str, str], tuple[float, float]],
    groups: dict[tuple[str, str], tuple[float, float]],
) -> tuple[float, float]:
    """Hand a run's rows to the layers and groups that they belong to; the sum of the others."""
    outputs = {layer.name: layer.output for layer in decided.graph.layers}
    own: dict[tuple[str, str, str], list[LayerCost]] = {}
    shared: dict[tuple[str, str], list[LayerCost]] = {}
    rest = []
    for row in found.layers:
        part = next((n for n in (row.name, *row.name.split("+")) if n in decided.home), None)
        tensor = _moved(row.name, outputs)
        owner = next((group for group in decided.groups if tensor in group.members), None)
        if part is not None:
            held = chosen.inputs[decided.home[part].name]
            own.setdefault((part, chosen.weights.get(part, held), held), []).append(row)
        elif owner is not None:
            shared.setdefault((owner.name, chosen.inputs[owner.name]), []).append(row)
        else:
            rest.append(row)
    for key, rows in own.items():
        layers.setdefault(key, _sum(rows))
    for name, rows in shared.items():
        groups.setdefault(name, _sum(rows))
    return _sum(rest)


def _sum(rows: Sequence[LayerCost]) -> tuple[float, float]:
    return float(sum(row.cycles for row in rows)), sum(row.total_pj for row in rows)


def _moved(row: str, outputs: Mapping[str, str]) -> str:
    """The tensor that a row of no decision writes."""
    for name in row.split("+"):
        if name in outputs:
            return outputs[name]
        if name.startswith("convert "):
            return name.removeprefix("convert ").rsplit("@", 1)[0]
    return ""


def items(
    decided: Decisions, table: CostTable, measured: Sensitivity, axes: Sequence[str] = AXES
) -> list[Item]:
    """An item a group for the searches: an option for each choice that no other one beats.

    A label holds the format of the inputs, and those of the weights by product.

    Raises:
        DataError: no choice of a group can be priced.
    """
    found = []
    for group in decided.groups:
        options = [
            option
            for fmt in group.inputs
            for option in _options(decided, table, measured, group, fmt, axes)
        ]
        if not options:
            raise DataError(f"layer '{group.name}' cannot be priced in any of the formats")
        found.append(Item(group.name, pruned(options, axes)))
    return found


def _options(
    decided: Decisions,
    table: CostTable,
    measured: Sensitivity,
    group: Group,
    fmt: str,
    axes: Sequence[str],
) -> list[Option]:
    """Options of one format of a group's inputs; its products choose one after the other."""
    held = (0, *table.groups.get((group.name, fmt), (0.0, 0.0)))
    for name in group.layers:
        if name not in group.products:
            own = table.layers.get((name, fmt, fmt), (0.0, 0.0))
            held = (0, held[1] + own[0], held[2] + own[1])
    options = [_option(measured.inputs[group.name, fmt], held, (fmt, ()))]
    for name in group.products:
        more = []
        for weights in group.weights[name][fmt]:
            priced_at = table.layers.get((name, weights, fmt))
            if priced_at is None:  # the co-processor does not take this pair
                continue
            size = decided.weight_bytes(name, weights)
            step = _option(
                measured.weights[name, weights], (size, *priced_at), (fmt, ((name, weights),))
            )
            more += [_joined(option, step) for option in options]
        options = list(pruned(more, axes)) if more else []
        if not options:
            return []
    return options


def _option(error: float, costs: tuple[float, float, float], label: Any) -> Option:
    size, cycles, energy = costs
    return Option(error, {"weight_bytes": size, "cycles": cycles, "energy_pj": energy}, label)


def _joined(a: Option, b: Option) -> Option:
    costs = {name: a.costs[name] + b.costs[name] for name in a.costs}
    return Option(a.error + b.error, costs, (a.label[0], a.label[1] + b.label[1]))


def assignment(found: Sequence[Item], choice: Sequence[int]) -> Assignment:
    """What a choice of options decides."""
    inputs, weights = {}, {}
    for item, index in zip(found, choice, strict=True):
        fmt, products = item.options[index].label
        inputs[item.name] = fmt
        weights.update(products)
    return Assignment(inputs, weights)
