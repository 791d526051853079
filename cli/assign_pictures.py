"""The picture of ``opennpe assign``: error over cost, the front, and what it is compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from opennpe.cli.assign_bench import Mix
from opennpe.cli.pictures import COLOURS, OTHERS

if TYPE_CHECKING:
    from opennpe.cli.assign import Assigned

__all__ = ["front_picture"]

AXES = {
    "energy_pj": ("energy a sample, uJ", 1e6),
    "weight_bytes": ("weights, kB", 1e3),
    "cycles": ("cycles a sample, thousands", 1e3),
}
FLOOR = 1e-7
"""Errors below are drawn there: the axis is logarithmic."""


def front_picture(result: Assigned) -> Figure:
    """Measured error over measured cost along the front's axis; the foretold front as a line."""
    axis_name = result.front.axis
    title, unit = AXES[axis_name]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    index = {"cycles": 0, "energy_pj": 1}.get(axis_name)
    base = 0.0 if index is None else result.bench.table.base[index]
    cost = (result.front.cost + base) / unit
    axis.step(cost, result.front.errors.clip(FLOOR), where="post", color="#bbbbbb", lw=1,
              label="front, sum of single errors")  # fmt: skip
    _points(axis, result.rules, axis_name, unit, marker="x", s=22, lw=1, color=OTHERS[1],
            label="the paper's rule, every share")  # fmt: skip
    _points(axis, result.measured, axis_name, unit, marker="o", s=22, color=OTHERS[0],
            label="front, measured")  # fmt: skip
    for mix in result.uniform:
        _points(axis, (mix,), axis_name, unit, marker="s", s=44, label=mix.name,
                color=COLOURS.get(mix.name, OTHERS[3]))  # fmt: skip
    if result.rule is not None:
        _points(axis, (result.rule,), axis_name, unit, marker="D", s=54, facecolors="none",
                edgecolors=OTHERS[1], label="the rule within the budget")  # fmt: skip
    _points(axis, (result.found.mix,), axis_name, unit, marker="*", s=190, color=OTHERS[2],
            edgecolors="black", linewidths=0.6, zorder=5, label="mix found")  # fmt: skip
    if axis_name in result.budgets:
        axis.axvline(result.budgets[axis_name] / unit, color="black", lw=0.8, ls=":")
        axis.annotate("budget", (result.budgets[axis_name] / unit, 0.99), fontsize=7, rotation=90,
                      xycoords=("data", "axes fraction"), va="top", ha="right")  # fmt: skip
    axis.set_yscale("log")
    axis.set_xscale("log")
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(title)
    held = result.bench.sensitivities[result.bench.measure]
    axis.set_ylabel(f"error on calibration samples, {held.measure} ({held.unit})", fontsize=8)
    axis.set_title(f"{result.model} on {result.bench.spec.name}", fontsize=10)
    axis.legend(fontsize=7, frameon=False)
    return figure


def _points(axis: Any, mixes: tuple[Mix, ...], name: str, unit: float, **style: Any) -> None:
    shown = [m for m in mixes if not m.refusal and math.isfinite(m.error)]
    if shown:
        axis.scatter(
            [m.cost(name) / unit for m in shown], [max(m.error, FLOOR) for m in shown], **style
        )
