"""Pictures of a simulation, one colour a format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from opennpe.cli.results import Result, Run

__all__ = [
    "Spread",
    "cycles_per_layer",
    "draw",
    "error_per_layer",
    "metric_bars",
    "png",
    "value_spread",
]

COLOURS = {
    "fp32": "#7f7f7f",
    "fp4": "#d95f02",
    "posit4": "#e6ab02",
    "posit8": "#1b9e77",
    "posit16": "#386cb0",
}
OTHERS = ("#7570b3", "#e7298a", "#66a61e", "#a6761d")
NAMES = {
    "top1": "top-1 accuracy, %",
    "top5": "top-5 accuracy, %",
    "l2": "relative L2 distance to FP32",
    "cosine": "cosine similarity to FP32",
}
LAYERS_SHOWN = 60
COLUMNS = 640
"""Places across the picture of a tensor's values."""


@dataclass(frozen=True)
class Spread:
    """One tensor in FP32 and on a format's grid, for :func:`value_spread`.

    Attributes:
        tensor: the tensor's name.
        reference: its FP32 values.
        grid: every non-negative real value the run's format and scale can hold, by run.
        values: the run's values of the tensor, by run.
    """

    tensor: str
    reference: NDArray[np.float64]
    grid: Mapping[str, NDArray[np.float64]]
    values: Mapping[str, NDArray[np.float64]]


def draw(result: Result, spread: Spread | None, folder: Path) -> list[str]:
    """Write the pictures that the result has data for; their file names."""
    figures = {
        "metric.png": metric_bars(result),
        "cycles.png": cycles_per_layer(result),
        "error.png": error_per_layer(result),
        "values.png": value_spread(spread) if spread else None,
    }
    for name, figure in figures.items():
        if figure is not None:
            (folder / name).write_bytes(png(figure))
    return [name for name, figure in figures.items() if figure is not None]


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes, the same bytes for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _colour(name: str, runs: tuple[Run, ...]) -> str:
    others = [run.name for run in runs if run.name not in COLOURS]
    return COLOURS.get(name) or OTHERS[others.index(name) % len(OTHERS)]


def _axes(width: float, height: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=rows > 1)
    for axis in np.atleast_1d(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def metric_bars(result: Result) -> Figure:
    """The metric of every run as bars; accuracy beside FP32, distances on a log axis."""
    percent = result.metric.startswith("top")
    runs = (result.reference, *result.runs) if percent else result.runs
    figure, axis = _axes(1.2 + 0.95 * len(runs), 3.4)
    heights = [100 * run.metric if percent else run.metric for run in runs]
    bars = axis.bar(
        [run.name for run in runs],
        np.nan_to_num(heights),
        color=[_colour(run.name, result.runs) for run in runs],
        width=0.65,
    )
    axis.bar_label(bars, [f"{h:.2f}" if percent else f"{h:.1e}" for h in heights], fontsize=8)
    axis.set_ylabel(NAMES[result.metric])
    axis.set_title(f"{result.model}, {result.samples} samples", fontsize=10)
    if result.metric == "l2" and any(h > 0 for h in heights):
        axis.set_yscale("log")
    return figure


def _shown(run: Run, macs_only: bool) -> list[int]:
    """Indices of the layers worth a tick; the longest networks show their largest layers."""
    keep = [i for i, row in enumerate(run.layers) if not macs_only or row.cycles]
    if len(keep) > LAYERS_SHOWN:
        keep = sorted(sorted(keep, key=lambda i: -run.layers[i].cycles)[:LAYERS_SHOWN])
    return keep


def _ticks(axis: Any, names: list[str]) -> None:
    short = [name if len(name) <= 22 else f"…{name[-21:]}" for name in names]
    axis.set_xticks(range(len(names)), short, rotation=60, ha="right", fontsize=7)


def _legend(axis: Any, columns: int) -> None:
    """Above the axes, where it covers nothing."""
    axis.legend(
        fontsize=7, ncols=columns, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0)
    )


def cycles_per_layer(result: Result) -> Figure | None:
    """Engine cycles of each layer that uses the array, log axis."""
    if not result.runs or not any(row.cycles for row in result.runs[0].layers):
        return None
    keep = _shown(result.runs[0], macs_only=True)
    figure, axis = _axes(max(5.0, 1.5 + 0.32 * len(keep)), 3.8)
    width = 0.8 / len(result.runs)
    for position, run in enumerate(result.runs):
        axis.bar(
            np.arange(len(keep)) + (position - (len(result.runs) - 1) / 2) * width,
            [run.layers[i].cycles for i in keep],
            width,
            label=run.name,
            color=_colour(run.name, result.runs),
        )
    axis.set_yscale("log")
    axis.set_ylabel(f"cycles of {result.spec} per sample")
    _legend(axis, len(result.runs))
    _ticks(axis, [result.runs[0].layers[i].name for i in keep])
    return figure


def error_per_layer(result: Result) -> Figure | None:
    """Relative L2 distance to FP32 of each layer's output, log axis."""
    runs = [run for run in result.runs if any(row.error for row in run.layers)]
    if not runs:
        return None
    names = list(dict.fromkeys(r.name for run in runs for r in run.layers if r.error is not None))
    names = names[:LAYERS_SHOWN]
    figure, axis = _axes(max(5.0, 1.5 + 0.25 * len(names)), 3.8)
    for run in runs:
        errors = {row.name: row.error for row in run.layers}
        points = [errors.get(name) or np.nan for name in names]
        colour = _colour(run.name, result.runs)
        axis.plot(range(len(names)), points, "o-", ms=3, lw=1, label=run.name, color=colour)
    axis.set_yscale("log")
    axis.set_ylabel("relative L2 distance to FP32")
    _legend(axis, len(runs))
    _ticks(axis, names)
    return figure


def value_spread(spread: Spread) -> Figure:
    """How the values of one tensor meet the grid of each format: where a format has its codes."""
    positive = np.abs(spread.reference[spread.reference != 0])
    low = float(np.quantile(positive, 0.001)) if positive.size else 1e-3
    high = float(positive.max()) * 2 if positive.size else 1.0
    figure, axes = _axes(6.4, 1.6 + 0.62 * len(spread.grid), 2)
    top, rows = axes
    bins = np.geomspace(low, high, 60)
    top.hist(positive, bins, color=COLOURS["fp32"])
    top.set_ylabel("values")
    top.set_title(f"|{spread.tensor}| in FP32, and the values each format can hold", fontsize=9)
    names = list(spread.grid)
    for position, name in enumerate(names):
        grid = spread.grid[name]
        grid = grid[(grid >= low) & (grid <= high)]
        colour = COLOURS.get(name, OTHERS[0])
        # A line a pixel at most: posit16 has tens of thousands of values here.
        column = np.floor(np.log(grid / low) / np.log(high / low) * COLUMNS)
        grid = grid[np.unique(column, return_index=True)[1]]
        rows.vlines(grid, position - 0.4, position + 0.4, color=colour, lw=0.8)
        zero = float(np.mean((spread.values[name] == 0) & (spread.reference != 0)))
        rows.text(1.01, position, f"{100 * zero:.1f} % to 0", fontsize=7, va="center",
                  transform=rows.get_yaxis_transform())  # fmt: skip
    rows.set_yticks(range(len(names)), names, fontsize=8)
    rows.set_ylim(len(names) - 0.5, -0.5)
    rows.set_xscale("log")
    rows.set_xlabel("magnitude")
    return figure
