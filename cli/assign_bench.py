"""Mixes of formats for one network, foretold and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opennpe import sim
from opennpe.cli.assign_cost import CostTable, Pricing, cost_table
from opennpe.cli.progress import Progress
from opennpe.golden.errors import OpenNPEError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant import calibration, lower, sensitivity
from opennpe.quant.decisions import Assignment, Decisions
from opennpe.quant.sensitivity import Information, Reference, Sensitivity

__all__ = ["Bench", "Mix", "Score"]

Score = Callable[[Network], float]
"""An error of a network that is to be small, in place of the outputs' distance."""


@dataclass(frozen=True)
class Mix:
    """An assignment and what it costs, of one sample.

    Attributes:
        kind: "uniform", "rule", "front" or "found".
        foretold: the sum of its decisions' errors; error: measured on the calibration samples,
            all roundings at once.
        weight_bytes, cycles, energy_pj: measured; foretold_costs: by the table.
        refusal: why the co-processor does not run it; empty where it does.
    """

    name: str
    kind: str
    chosen: Assignment
    foretold: float
    error: float
    weight_bytes: int
    cycles: float
    energy_pj: float
    foretold_costs: Mapping[str, float]
    activation_bytes: int = 0
    refusal: str = ""

    def cost(self, axis: str) -> float:
        """One of weight_bytes, energy_pj, cycles, error."""
        return float(getattr(self, axis))


@dataclass(eq=False)
class Bench:
    """What all mixes of one network share.

    Attributes:
        batches: runs of calibration samples. measure: how outputs are compared, "kl" or "mse".
        by: whose figures searches add up: a name in ``sensitivities``.
        score: a measured error of one's own, else the outputs' distance.
    """

    decided: Decisions
    batches: Sequence[Mapping[str, Any]]
    spec: CoprocessorSpec
    measure: str
    method: str
    progress: Progress
    seed: int = 0
    by: str = ""
    score: Score | None = None
    sensitivities: dict[str, Sensitivity] = field(default_factory=dict)
    information: Information | None = None
    mixes: dict[tuple[str, ...], Mix] = field(default_factory=dict)

    def __post_init__(self) -> None:
        decided, runs = self.decided, self.batches
        samples = runs[0] if len(runs) == 1 else _joined(runs, decided.graph.batch_axis == 0)
        self.samples = calibration.observe(decided.graph, samples)
        names = decided.formats
        self.uniform = {f: self.network(decided.uniform(f, f)) for f in names}
        first = {name: values[:1] for name, values in runs[0].items()}
        one = first if decided.graph.batch_axis == 0 else runs[0]
        self.reference = Reference(decided.graph, runs, self.measure)
        # Of the smallest format: what it does not take, none is taken by the co-processor.
        self.pricing = Pricing.of(self.spec, self.uniform[names[0]], one)
        self.table: CostTable = cost_table(
            decided, self.samples, self.method, self.pricing, self.progress
        )

    # -- sensitivity -------------------------------------------------------------------------
    def look(self, fisher: bool) -> None:
        """Fill ``sensitivities``; ``fisher`` needs PyTorch."""
        decided = self.decided
        steps = sum(len(g.inputs) + len(g.products) * len(decided.formats) for g in decided.groups)
        self.progress.stage("output error of each rounding", steps)
        found = [
            sensitivity.output_error(decided, self.uniform, self.reference, self.progress.advance)
        ]
        if fisher:
            from opennpe.quant.qat.fisher import information

            held = self.reference.batches
            inputs = [{name: run[name] for name in decided.graph.inputs} for run in held]
            self.progress.stage("Fisher information", self.reference.samples)
            self.information = information(decided.graph, inputs, self.seed, self.progress.advance)
            found.append(
                sensitivity.fisher_error(decided, self.uniform, self.reference, self.information)
            )
        self.sensitivities = {one.measure: one for one in found}
        self.by = self.by or self.measure

    @property
    def sensitivity(self) -> Sensitivity:
        """The one that searches add up."""
        return self.sensitivities[self.by]

    # -- mixes -------------------------------------------------------------------------------
    def network(self, chosen: Assignment) -> Network:
        """The calibrated network of an assignment."""
        policy = self.decided.policy(chosen)
        return lower.lower(self.decided.graph, self.samples, policy, self.method)

    def error(self, network: Network) -> float:
        """The measured error: the simulator's outputs against the float ones."""
        if self.score is not None:
            return self.score(network)
        graph, parts = self.decided.graph, []
        for run in self.reference.batches:
            codes, _ = sim.run(self.spec, network, {name: run[name] for name in graph.inputs})
            parts.append({n: network.tensors[n].decode(codes[n]) for n in graph.outputs})
        outputs = self.reference.joined(parts)
        return sensitivity.distance(graph, self.measure, outputs, self.reference.truth)

    def mix(self, name: str, kind: str, chosen: Assignment) -> Mix:
        """Measure an assignment; the same one is measured once."""
        key = (*chosen.inputs.values(), *(chosen.weights[n] for n in self.decided.products))
        if key not in self.mixes:
            self.mixes[key] = self._measured(name, kind, chosen)
        held = self.mixes[key]
        return Mix(**{**vars(held), "name": name, "kind": kind})

    def _measured(self, name: str, kind: str, chosen: Assignment) -> Mix:
        network = self.network(chosen)
        size = self.decided.total_bytes(chosen)
        cycles, energy = self.table.total(self.decided, chosen)
        foretold = {"weight_bytes": float(size), "cycles": cycles, "energy_pj": energy}
        refusal = ""
        try:
            total = self.pricing.cost(network).total
            cycles, energy = float(total.cycles), total.total_pj
        except OpenNPEError as error:
            refusal, cycles, energy = str(error), math.inf, math.inf
        decided = self.decided
        moved = sum(decided.tensor_bytes(g, chosen.inputs[g.name]) for g in decided.groups)
        return Mix(
            name,
            kind,
            chosen,
            self.sensitivity.total(chosen),
            self.error(network),
            size,
            cycles,
            energy,
            foretold,
            moved,
            refusal,
        )


def _joined(runs: Sequence[Mapping[str, Any]], together: bool) -> dict[str, Any]:
    """All runs as one array an input, samples along axis 0."""
    import numpy as np

    join = np.concatenate if together else np.stack
    if not together and all(len(a) == 1 for run in runs for a in run.values()):
        join = np.concatenate
    return {name: join([run[name] for run in runs]) for name in runs[0]}
