"""What a simulation found, as frozen data, and the files it becomes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli import cost_quick

__all__ = ["Checked", "LayerRow", "Result", "Run", "write"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of one run. Counts are per sample; ``seconds`` is the simulator's own time.

    Attributes:
        input_formats: formats of the tensors read.
        weight_format: format of the weights, or "".
        utilisation: share of the array's multiply-accumulates used over the layer's cycles.
        path: the exact arithmetic that the simulator used.
        error: relative L2 distance of the layer's output to FP32, None where unknown.
    """

    name: str
    kind: str
    input_formats: tuple[str, ...]
    weight_format: str
    output_format: str
    macs: int
    cycles: int
    words_in: int
    words_out: int
    utilisation: float
    seconds: float
    path: str
    error: float | None = None


@dataclass(frozen=True)
class Checked:
    """What ``--check`` replayed on the RTL and found identical.

    Attributes:
        tiles: tiles replayed, by layer name.
        outputs: output codes compared.
        cycles: clock cycles of the Verilated engine.
        skipped: layers that are not replayed, by kind.
    """

    tiles: Mapping[str, int]
    outputs: int
    cycles: int
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Run:
    """One pass over the data in one format or policy; ``fp32`` is the reference.

    ``macs``, ``words`` and ``cycles`` are per sample; ``samples_per_second`` is the speed of the
    simulation itself.
    """

    name: str
    metric: float
    difference: float
    macs: int
    words: int
    cycles: int
    samples_per_second: float
    codes: Mapping[str, NDArray[Any]] = field(repr=False)
    values: Mapping[str, NDArray[np.float64]] = field(repr=False)
    relative_l2: Mapping[str, float]
    cosine: Mapping[str, float]
    layers: tuple[LayerRow, ...] = field(default=(), repr=False)
    formats: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, int] = field(default_factory=dict)
    checked: Checked | None = None

    @property
    def nan_outputs(self) -> int:
        """Output values that are NaR."""
        return sum(int(np.isnan(v).sum()) for v in self.values.values())


@dataclass(frozen=True)
class Result:
    """Every run over one model and data set; ``costs``: a sample's by run, or why there is none."""

    model: str
    spec: str
    underflow: str
    metric: str
    samples: int
    reference: Run
    runs: tuple[Run, ...]
    costs: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """JSON-ready summary, units in names; NaN becomes None."""
        head = {
            "schema": "opennpe.sim/1",
            "model": self.model,
            "spec": self.spec,
            "underflow": self.underflow,
            "samples": self.samples,
            "metric": self.metric,
            "fp32": _run_summary(self.reference, self.metric),
        }
        runs = {run.name: _run_summary(run, self.metric) for run in self.runs}
        for name, cost in self.costs.items():
            runs[name]["cost"] = cost_quick.summary(cost)
        return {**head, "runs": runs}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _run_summary(run: Run, metric: str) -> dict[str, Any]:
    summary: dict[str, Any] = {
        metric: _number(run.metric),
        "difference_to_fp32": _number(run.difference),
        "relative_l2_to_fp32": {k: _number(v) for k, v in run.relative_l2.items()},
        "cosine_to_fp32": {k: _number(v) for k, v in run.cosine.items()},
        "simulation_samples_per_second": _number(run.samples_per_second),
    }
    if run.layers:
        summary |= {
            "macs_per_sample": run.macs,
            "words16_moved_per_sample": run.words,
            "engine_cycles_per_sample": run.cycles,
            "nar_outputs": run.nan_outputs,
            "output_formats": dict(run.formats),
            "output_scales_log2": dict(run.scales),
        }
    if run.checked:
        summary["rtl_replay"] = {
            "tiles": sum(run.checked.tiles.values()),
            "outputs_identical": run.checked.outputs,
            "rtl_cycles": run.checked.cycles,
            "layers_not_replayed": dict(run.checked.skipped),
        }
    return summary


LAYER_COLUMNS = (
    "run",
    "layer",
    "kind",
    "input_formats",
    "weight_format",
    "output_format",
    "macs_per_sample",
    "engine_cycles_per_sample",
    "words16_in_per_sample",
    "words16_out_per_sample",
    "array_utilisation_percent",
    "relative_l2_to_fp32",
    "simulation_seconds",
    "simulation_path",
    "rtl_tiles_replayed",
)


def write(result: Result, folder: Path) -> None:
    """Write ``summary.json``, ``layers.csv`` and ``outputs.npz`` into a folder."""
    text = json.dumps(result.summary(), indent=2, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "layers.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(LAYER_COLUMNS)
        for run in result.runs:
            table.writerows(_layer_line(run, row) for row in run.layers)
    arrays: dict[str, Any] = {
        f"fp32/{name}/values": values for name, values in result.reference.values.items()
    }
    for run in result.runs:
        for name, codes in run.codes.items():
            arrays[f"{run.name}/{name}/codes"] = codes
            arrays[f"{run.name}/{name}/values"] = run.values[name]
    np.savez_compressed(folder / "outputs.npz", allow_pickle=False, **arrays)


def _layer_line(run: Run, row: LayerRow) -> list[Any]:
    tiles = run.checked.tiles.get(row.name, 0) if run.checked else ""
    return [
        run.name,
        row.name,
        row.kind,
        "+".join(row.input_formats),
        row.weight_format,
        row.output_format,
        row.macs,
        row.cycles,
        row.words_in,
        row.words_out,
        f"{100 * row.utilisation:.2f}",
        "" if row.error is None else f"{row.error:.6g}",
        f"{row.seconds:.6f}",
        row.path,
        tiles,
    ]
