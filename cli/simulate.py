"""``opennpe sim``: one model, one data set, every format asked for, next to FP32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from opennpe import quant
from opennpe.cli import cost_quick, graphs, pictures, results
from opennpe.cli import data as datasets
from opennpe.cli.files import output_folder
from opennpe.cli.progress import Progress, Silent
from opennpe.cli.results import Result
from opennpe.cli.study import CALIBRATION_SAMPLES, Job, Study
from opennpe.golden import catalog
from opennpe.golden import formats as number_formats
from opennpe.golden import layers as L
from opennpe.golden.errors import PolicyError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.quant.policy import Policy

__all__ = ["engine_spec", "plan", "simulate"]


def plan(names: Sequence[str] = (), policies: Sequence[str | Path] = ()) -> list[Job]:
    """Jobs for formats and policy files; the four engine formats where neither is given.

    Raises:
        FormatError: an unknown format.
        PolicyError: a policy that cannot be read, or two jobs of one name.
    """
    if not names and not policies:
        names = number_formats.ENGINE_FORMATS
    jobs = [Job(number_formats.get(name).name, Policy.uniform(name)) for name in names]
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
    number_formats.check_underflow(underflow)
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
        shapes = graphs.input_shapes(graph)
        given = datasets.fit(datasets.load_npz(data), shapes, Path(data).name)
        shown = given if samples is None else given.first(samples)
        calibrated = given.first(CALIBRATION_SAMPLES)
        if calibration is not None:
            held = datasets.load_npz(calibration)
            calibrated = datasets.fit(held, shapes, Path(calibration).name)
        study = Study(graph, shown, calibrated, engine, method, threads, check, seed, progress)
        if check:
            from opennpe.cli.rtl_engine import replayer  # needs the RTL tools only here

            study.engine = replayer(engine)
        result = study.run(Path(model).name, jobs, metric)
        progress.stage("costs", len(study.probes))
        costs = {}
        for name, probe in study.probes.items():
            costs[name] = cost_quick.of_network(engine, probe.network, shown.take(0, 1))
            progress.advance()
        result = dataclasses.replace(result, costs=costs)
        if folder is not None:
            progress.stage("writing results", 1)
            results.write(result, folder)
            pictures.draw(result, spread(study), folder)
            progress.advance()
    return result


def spread(study: Study) -> pictures.Spread | None:
    """The probed values of the widest tensor that a product writes, and every run's grid there."""
    common = [
        (study.truth[layer.output].size, layer.output)
        for layer in next(iter(study.probes.values())).network.layers
        if isinstance(layer, L.Conv | L.Linear)
        and layer.output in study.truth
        and all(layer.output in probe.codes for probe in study.probes.values())
    ]
    if not common:
        return None
    name = max(common)[1]
    grids, values = {}, {}
    for run, probe in study.probes.items():
        tensor = probe.network.tensors[name]
        levels = np.ldexp(number_formats.get(tensor.format).values, tensor.scale)
        grids[run] = np.unique(levels[np.isfinite(levels) & (levels >= 0)])
        values[run] = probe.real(name).ravel()
    reference = np.asarray(study.truth[name], dtype=np.float64).ravel()
    reference = reference[: min(len(v) for v in values.values())]
    return pictures.Spread(
        name, reference, grids, {run: v[: len(reference)] for run, v in values.items()}
    )
