"""``opennpe sim``: one model, one data set, every format asked for, next to FP32."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe import quant
from opennpe.cli import data as datasets
from opennpe.cli import metrics, results
from opennpe.cli.data import Data
from opennpe.cli.files import output_folder
from opennpe.cli.progress import Progress, Silent
from opennpe.cli.results import Checked, LayerRow, Result, Run
from opennpe.golden import array, catalog, formats
from opennpe.golden import layers as L
from opennpe.golden.errors import FormatError, PolicyError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant.policy import Policy

__all__ = ["Job", "Probe", "engine_spec", "plan", "simulate"]

CALIBRATION_SAMPLES = 32
BATCH_ELEMENTS = 1 << 24
"""Tensor elements a batch may keep: bounds the memory of a run."""


@dataclass(frozen=True)
class Job:
    """One column of the comparison: a name and the format policy behind it."""

    name: str
    policy: Policy


@dataclass(frozen=True)
class Probe:
    """Every tensor of one batch of a run, for errors by layer and for tiles to replay."""

    start: int
    codes: Mapping[str, NDArray[Any]]


def plan(names: Sequence[str] = (), policies: Sequence[str | Path] = ()) -> list[Job]:
    """Jobs for formats and policy files; the four engine formats where neither is given.

    Raises:
        FormatError: an unknown format.
        PolicyError: a policy that cannot be read, or two jobs of one name.
    """
    if not names and not policies:
        names = formats.ENGINE_FORMATS
    jobs = [Job(formats.get(name).name, Policy.uniform(name)) for name in names]
    jobs += [Job(Path(path).stem, Policy.load(path)) for path in policies]
    for name in (job.name for job in jobs):
        if name == "fp32" or sum(job.name == name for job in jobs) > 1:
            raise PolicyError(f"two runs are called '{name}': name each format and policy once")
    return jobs


def engine_spec(name: str, underflow: str | None = None) -> CoprocessorSpec:
    """The catalog's spec, with another underflow rule where one is given.

    Raises:
        SpecError: an unknown spec.
        FormatError: an unknown rule.
    """
    spec = catalog.get(name)
    if underflow is None:
        return spec
    formats.check_underflow(underflow)
    mac = dataclasses.replace(spec.mac, underflow=underflow)  # type: ignore[arg-type]
    engine = dataclasses.replace(spec.engine, mac=mac)
    return dataclasses.replace(spec, array=dataclasses.replace(spec.array, engine=engine))


def simulate(
    model: str | Path,
    data: str | Path,
    *,
    formats: Sequence[str] = (),
    policies: Sequence[str | Path] = (),
    spec: str = "EDGE_4X4",
    underflow: str | None = None,
    check: int = 0,
    samples: int | None = None,
    metric: str = "auto",
    calibration: str | Path | None = None,
    method: str = "mse",
    threads: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run an ONNX model over an npz file in FP32 and in every format and policy asked for.

    Args:
        model: path of the ONNX file.
        data: path of the npz file (:mod:`opennpe.cli.data`).
        formats: format names; the four engine formats where neither these nor policies are given.
        policies: paths of policy files.
        spec: name of the engine in the catalog.
        underflow: "minpos" or "zero" instead of the spec's rule.
        check: tiles of each layer to replay on the Verilated RTL, per run.
        samples: run the first so many samples only.
        metric: one of :data:`opennpe.cli.metrics.METRICS`, or "auto".
        calibration: npz file of inputs that set the scales; else the data's first 32 samples.
        method: how scales are chosen, see :func:`opennpe.quant.calibrate`.
        threads: threads of the simulator; all cores where None.
        seed: chooses the batch that is probed and the tiles that are replayed.
        out: folder for results; it appears whole or not at all.
        progress: told what is going on.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
        CheckFailed: the RTL and the simulator differ in a bit.
    """
    progress = progress or Silent()
    jobs = plan(formats, policies)
    engine = engine_spec(spec, underflow)
    with output_folder(out) if out is not None else nullcontext() as folder:
        graph = quant.load_onnx(model)
        shapes = input_shapes(graph)
        given = datasets.fit(datasets.load_npz(data), shapes, Path(data).name)
        shown = given if samples is None else given.first(samples)
        calibrated = given.first(CALIBRATION_SAMPLES)
        if calibration is not None:
            held = datasets.load_npz(calibration)
            calibrated = datasets.fit(held, shapes, Path(calibration).name)
        study = Study(graph, shown, calibrated, engine, method, threads, check, seed, progress)
        result = study.run(Path(model).name, jobs, metric)
        if folder is not None:
            progress.stage("writing results", 1)
            results.write(result, folder)
            _draw(result, study, folder)
            progress.advance()
    return result
