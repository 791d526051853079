"""What a cost is estimated of: a run's layers with their cycles, accesses and engine steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.golden.program import Program
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.accesses import COUNTS, accesses, by_layer
from opennpe.sim.coprocessor import Timing
from opennpe.sim.executor import Trace
from opennpe.sim.trace_events import layer_spans, timeline

__all__ = ["LayerWork", "Workload", "of_program", "of_trace", "parts_of", "widest"]


@dataclass(frozen=True)
class LayerWork:
    """A layer's share of a run, of one sample.

    Attributes:
        name: of the layer, or of several in one, joined by "+".
        parts: names of the network's layers.
        cycles: all layers' together are the run's.
        macs: by the layers' definition.
        format: whose lanes the products use; empty where there are none.
        steps: of the whole array.
        counts: by :data:`opennpe.sim.accesses.COUNTS`; all 0 where the memories are not modelled.
    """

    name: str
    parts: tuple[str, ...]
    cycles: int
    macs: int
    format: str
    steps: int
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


@dataclass(frozen=True)
class Workload:
    """A run of one sample.

    Attributes:
        whole: the co-processor with its memories; else the array alone.
        scope: of what, in words.
    """

    name: str
    layers: tuple[LayerWork, ...]
    whole: bool
    scope: str

    @property
    def cycles(self) -> int:
        """Of the run."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def macs(self) -> int:
        """Of all layers."""
        return sum(layer.macs for layer in self.layers)


def widest(network: Network, layer: L.Layer) -> str:
    """The format whose lanes the layer's products use."""
    ins, out = network.layer_tensors(layer)
    weight = layer.weight_format if isinstance(layer, L.Conv | L.Linear) else ""
    names = (*(tensor.format for tensor in ins), weight or out.format)
    return max(names, key=lambda name: formats.get(name).bits)


def parts_of(network: Network, span: str) -> tuple[list[str], list[L.Layer]]:
    """Names in a span's, one or several joined by "+", and those of them that are layers."""
    known = {layer.name: layer for layer in network.layers}
    names = [span] if span in known else span.split("+")
    return names, [known[name] for name in names if name in known]


def of_program(
    name: str,
    spec: CoprocessorSpec,
    program: Program,
    timing: Timing,
    network: Network | None = None,
) -> Workload:
    """A program's run on the co-processor.

    Args:
        name: of the run.
        timing: what the cycle model says of it.
        network: what the program was compiled from; multiply-accumulates are not known without.

    Raises:
        ProgramError: a list that is none.
    """
    total = timing.counters.cycles
    spans = layer_spans(timeline(timing, program.layers), total)
    counts = by_layer(accesses(spec, program), program.layers)
    # What belongs to no layer with execs, the start's load above all, is the first layer's.
    extra = [key for key in counts if key not in {span.name for span in spans}]
    rows = []
    for index, span in enumerate(spans):
        own = dict(counts[span.name])
        if index == 0:
            own = {key: own[key] + sum(counts[k][key] for k in extra) for key in own}
        names, macs, wide = span.name.split("+"), 0, ""
        if network is not None:
            names, parts = parts_of(network, span.name)
            macs = sum(network.macs(part) for part in parts)
            wide = widest(network, parts[0]) if parts else ""
        rows.append(LayerWork(span.name, tuple(names), span.cycles, macs, wide, own["steps"], own))
    return Workload(name, tuple(rows), True, "the co-processor with its memories")


def of_trace(name: str, spec: CoprocessorSpec, network: Network, trace: Trace) -> Workload:
    """A simulated run on the array alone, as if operands were always there.

    Cycles are those of :mod:`opennpe.golden.array`, every one of them a step.
    """
    rows = [
        LayerWork(
            held.name,
            (held.name,),
            held.cycles // trace.samples,
            held.macs // trace.samples,
            widest(network, layer) if held.cycles else "",
            held.cycles // trace.samples,
        )
        for held, layer in zip(trace.layers, network.layers, strict=True)
    ]
    return Workload(name, tuple(rows), False, "the array alone, its operands always there")
