"""The runs of one comparison: FP32 first, then each job, in batches of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe import quant, sim
from opennpe.cli import metrics
from opennpe.cli.check import Engine, check
from opennpe.cli.data import Data
from opennpe.cli.progress import Progress
from opennpe.cli.results import LayerRow, Result, Run
from opennpe.golden import array
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant.policy import Policy

__all__ = ["Job", "Probe", "Study"]

Codes = NDArray[Any]

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
    codes: Mapping[str, Codes]

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
        engine: replays tiles on the RTL where ``tiles`` is not 0.
        float_probe: FP32 values of every tensor of the probed batch.
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
    float_probe: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)

    def run(self, model: str, jobs: list[Job], metric: str) -> Result:
        """The reference and every job."""
        values, seconds = self._float()
        metric = metrics.choose(metric, values, self.data.labels)
        score = metrics.evaluate(metric, values, values, self.data.labels)
        reference = Run(
            name="fp32",
            metric=score,
            difference=0.0,
            macs=0,
            words=0,
            cycles=0,
            seconds=seconds,
            samples=self.data.samples,
            codes={},
            values=values,
            relative_l2={},
            cosine={},
        )
        runs = tuple(self._job(job, metric, reference) for job in jobs)
        return Result(
            model=model,
            spec=self.spec.name,
            underflow=self.spec.underflow,
            metric=metric,
            samples=self.data.samples,
            reference=reference,
            runs=runs,
        )
