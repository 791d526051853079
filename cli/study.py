"""The runs of one comparison: FP32 first, then each job, in batches of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe import quant, sim
from opennpe.cli import graphs, metrics
from opennpe.cli.check import Engine, check
from opennpe.cli.data import Data
from opennpe.cli.progress import Progress
from opennpe.cli.results import Checked, LayerRow, Result, Run
from opennpe.golden import array, formats
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant.policy import Policy

__all__ = ["CALIBRATION_SAMPLES", "Job", "Probe", "Study"]

Codes = NDArray[Any]
Tensors = Mapping[str, NDArray[Any]]

CALIBRATION_SAMPLES = 32
BATCH_ELEMENTS = 1 << 22
"""Tensor elements, all tensors together, that a batch may hold."""
BATCH_SAMPLES = 64
PROBE_SAMPLES = 4


@dataclass(frozen=True)
class Job:
    """One row of the comparison: a name and the format policy behind it."""

    name: str
    policy: Policy


@dataclass(frozen=True)
class Probe:
    """Every tensor of one batch of a run, for errors by layer and for tiles to replay."""

    network: Network
    codes: Tensors

    def real(self, name: str) -> NDArray[np.float64]:
        """A tensor's values."""
        return self.network.tensors[name].decode(self.codes[name])


@dataclass
class Study:
    """What all runs share, and the probes they leave.

    Attributes:
        graph: the float graph.
        data: inputs and labels to run.
        calibration: inputs that set the scales.
        tiles: tiles of each layer to replay on ``engine``.
        seed: chooses the probed batch and the tiles.
        truth: FP32 values of every tensor of the probed batch.
        probes: the probed batch of each run.
    """

    graph: Any
    data: Data
    calibration: Data
    spec: CoprocessorSpec
    method: str
    threads: int | None
    tiles: int
    seed: int
    progress: Progress
    engine: Engine | None = None
    truth: Tensors = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)

    def run(self, model: str, jobs: list[Job], metric: str) -> Result:
        """The reference and every job."""
        networks = [self._calibrate(job) for job in jobs]
        reference, chosen = self._float(metric, networks[0])
        runs = tuple(
            self._job(job.name, network, chosen, reference)
            for job, network in zip(jobs, networks, strict=True)
        )
        return Result(
            model=model,
            spec=self.spec.name,
            underflow=self.spec.underflow,
            metric=chosen,
            samples=self.data.samples,
            reference=reference,
            runs=runs,
        )

    def _calibrate(self, job: Job) -> Network:
        self.progress.stage(f"{job.name}: calibrating", 1)
        network: Network = quant.calibrate(
            self.graph, self.calibration.inputs, job.policy, method=self.method
        )
        self.progress.advance()
        return network

    # -- batches -----------------------------------------------------------------------------
    def _batches(self, network: Network) -> list[tuple[int, int]]:
        """(start, stop) of each batch, the probed one first."""
        elements = sum(int(np.prod(t.shape)) for t in network.tensors.values())
        size = max(1, min(BATCH_SAMPLES, BATCH_ELEMENTS // max(1, elements)))
        if network.batch_axis != 0 or self.data.stacked:
            size = 1
        samples = self.data.samples
        width = min(PROBE_SAMPLES, samples)
        first = int(np.random.default_rng(self.seed).integers(samples - width + 1))
        last = first + min(width, size)
        rest = [
            (start, min(start + size, end))
            for begin, end in ((0, first), (last, samples))
            for start in range(begin, end, size)
        ]
        return [(first, last), *rest]

    def _each_batch(
        self, name: str, network: Network, call: Callable[[dict[str, Any], bool], Tensors]
    ) -> tuple[dict[str, Any], Tensors, float]:
        """Run every batch: outputs of all samples, tensors of the probed batch, samples/s."""
        parts: dict[int, Tensors] = {}
        kept: Tensors = {}
        clock = {False: [0, 0.0], True: [0, 0.0]}
        self.progress.stage(name, self.data.samples)
        for start, stop in self._batches(network):
            probed = not parts
            inputs = self.data.take(start, stop)
            begun = time.perf_counter()
            tensors = call(inputs, probed)
            clock[probed][0] += stop - start
            clock[probed][1] += time.perf_counter() - begun
            kept = tensors if probed else kept
            parts[start] = {output: tensors[output] for output in network.outputs}
            self.progress.advance(stop - start)
        # The first batch loads kernels and keeps every tensor: it counts only if it is the only.
        samples, seconds = clock[len(parts) == 1]
        ordered = [parts[start] for start in sorted(parts)]
        joined = {
            name: _join([part[name] for part in ordered], network.batch_axis == 0)
            for name in network.outputs
        }
        return joined, kept, samples / seconds

    # -- runs --------------------------------------------------------------------------------
    def _float(self, metric: str, network: Network) -> tuple[Run, str]:
        """The FP32 run, and the metric that its outputs and the labels allow."""
        values, self.truth, speed = self._each_batch(
            "fp32", network, lambda inputs, probed: graphs.evaluate(self.graph, inputs)
        )
        chosen = metrics.choose(metric, values, self.data.labels)
        score = metrics.evaluate(chosen, values, values, self.data.labels)
        run = Run(
            name="fp32",
            metric=score,
            difference=0.0,
            macs=0,
            words=0,
            cycles=0,
            samples_per_second=speed,
            codes={},
            values=values,
            relative_l2={},
            cosine={},
        )
        return run, chosen

    def _job(self, name: str, network: Network, metric: str, reference: Run) -> Run:
        traces: list[Any] = []

        def call(inputs: dict[str, Any], probed: bool) -> Tensors:
            keep = tuple(network.tensors) if probed else ()
            tensors, trace = sim.run(self.spec, network, inputs, threads=self.threads, keep=keep)
            traces.append(trace)
            return {**network.constants, **tensors}

        codes, kept, speed = self._each_batch(name, network, call)
        probe = self.probes[name] = Probe(network, kept)
        values = {output: network.tensors[output].decode(codes[output]) for output in codes}
        truth = reference.values
        score = metrics.evaluate(metric, values, truth, self.data.labels)
        rows = self._rows(probe, traces)
        return Run(
            name=name,
            metric=score,
            difference=score - reference.metric,
            macs=sum(row.macs for row in rows),
            words=sum(row.words_in + row.words_out for row in rows),
            cycles=sum(row.cycles for row in rows),
            samples_per_second=speed,
            codes=codes,
            values=values,
            relative_l2={n: metrics.relative_l2(v, truth[n]) for n, v in values.items()},
            cosine={n: metrics.cosine(v, truth[n]) for n, v in values.items()},
            layers=rows,
            formats={output: network.tensors[output].format for output in codes},
            scales={output: network.tensors[output].scale for output in codes},
            checked=self._check(name, probe),
        )

    def _rows(self, probe: Probe, traces: list[Any]) -> tuple[LayerRow, ...]:
        network = probe.network
        rows = []
        for index, layer in enumerate(network.layers):
            work = array.layer_work(self.spec, network, layer, 1)
            ins, out = network.layer_tensors(layer)
            weight = layer.weight_format if isinstance(layer, L.Conv | L.Linear) else ""
            wide = max((*(t.format for t in ins), weight or out.format), key=_bits)
            peak = work.cycles * self.spec.array.macs_per_cycle(wide)
            rows.append(
                LayerRow(
                    name=layer.name,
                    kind=type(layer).__name__,
                    input_formats=tuple(t.format for t in ins),
                    weight_format=weight,
                    output_format=out.format,
                    macs=work.macs,
                    cycles=work.cycles,
                    words_in=work.words_in,
                    words_out=work.words_out,
                    utilisation=work.macs / peak if peak else 0.0,
                    seconds=sum(trace.layers[index].seconds for trace in traces),
                    path=str(traces[-1].layers[index].path),
                    error=self._error(probe, layer.output),
                )
            )
        return tuple(rows)

    def _error(self, probe: Probe, tensor: str) -> float | None:
        """Relative L2 distance to FP32 over the probed batch, where the graph has the tensor."""
        if tensor not in self.truth:
            return None
        values = probe.real(tensor)
        truth = self.truth[tensor]
        if values.shape != truth.shape:
            return None
        error = metrics.relative_l2(values, truth)
        return error if np.isfinite(error) else None

    def _check(self, name: str, probe: Probe) -> Checked | None:
        if self.engine is None or not self.tiles:
            return None
        rng = np.random.default_rng(self.seed)
        self.progress.stage(f"{name}: replaying on RTL", 1)
        done = check(self.spec, probe.network, probe.codes, self.tiles, rng, self.engine)
        self.progress.advance()
        return done


def _bits(name: str) -> int:
    return int(formats.get(name).bits)


def _join(parts: list[Any], together: bool) -> Any:
    """Outputs of all batches along axis 0; runs of a whole shape get an axis of their own."""
    if together or all(part.shape[:1] == (1,) for part in parts):
        return np.concatenate(parts)
    return np.stack(parts)
