"""``opennpe train``: a recipe run to its end, with a bar while it runs and a table after."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe import sim
from opennpe.cli.tables import table
from opennpe.golden import catalog
from opennpe.golden.network import Network
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.report import Report, Silent, Watcher
from opennpe.quant.qat.trainer import train as run
from opennpe.quant.workloads.base import Predict
from rich.table import Table

__all__ = ["result_lines", "result_table", "simulator", "train"]


def train(
    recipe: str | Path,
    out: str | Path,
    *,
    resume: bool | None = None,
    start: str | Path | None = None,
    threads: int | None = None,
    simulated: int | None = None,
    quiet: bool = False,
) -> Report:
    """Train by a recipe file or a shipped recipe's name.

    Args:
        recipe: the file or the name.
        out: the run's folder.
        resume: go on with the run there (True), begin anew (False), or go on if there is one.
        start: weights of a trained float network, in place of the dense float stages that the
            recipe begins with.
        threads: of torch, in place of the recipe's; they decide bits.
        simulated: test samples that each rounded stage's network also runs in the simulator;
            0 is all of them, None is none.
        quiet: no progress.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
    """
    plan = Recipe.load(recipe)
    if start is not None:
        plan = plan.from_checkpoint(start)
    if threads is not None:
        plan = replace(plan, threads=threads)
    with _watcher(quiet) as watcher:
        return run(
            plan,
            out,
            resume=resume,
            watcher=watcher,
            simulate=None if simulated is None else simulator,
            simulated_samples=simulated or 0,
        )


def simulator(network: Network) -> Predict:
    """What runs a network in the simulator, by a spec that rounds as training does: to zero."""
    spec = catalog.EDGE_4X4
    output = network.tensors[network.outputs[0]]

    def predict(inputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
        given = dict(zip(network.inputs, inputs, strict=True))
        codes, _ = sim.run(spec, network, given)
        return output.decode(codes[output.name]).astype(np.float32)

    return predict


def result_table(report: Report) -> Table:
    """The table of ``opennpe train``: a row a stage, the workload's score on the test split."""
    simulated = any("simulated" in result for result in report.results)
    columns = {
        "stage": "left",
        "steps": "right",
        "seconds": "right",
        "zeros": "right",
        "float": "right",
        "rounded before": "right",
        "rounded after": "right",
    }
    if simulated:
        columns["simulated"] = "right"
    rows = []
    for result in report.results:
        row = [
            f"{result['stage']} ({result['kind']})",
            str(result["steps"]),
            f"{result['seconds']:.1f}",
            f"{100 * result['sparsity_share']:.1f} %",
        ]
        for key in ("float", "before", "after", "simulated")[: 4 if simulated else 3]:
            value = result.get(key, {}).get(report.score)
            row.append("" if value is None else f"{value:.4g}")
        rows.append(row)
    title = f"{report.recipe.source} on {report.recipe.workload}, test split: {report.score}"
    return table(title, columns, rows)


def result_lines(report: Report) -> list[str]:
    """Where the files lie."""
    found = [f"metrics: {report.folder / 'metrics.csv'}"]
    for result in report.results:
        for kind, file in result["files"].items():
            if kind == "network":
                found.append(f"network of {result['stage']}: {report.folder / file}")
    return found


@contextmanager
def _watcher(quiet: bool) -> Iterator[Watcher]:
    """A bar on a terminal, a line an epoch elsewhere."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar() as watcher:
            yield watcher
    else:
        yield _Lines()


def _figures(row: dict[str, Any]) -> str:
    """An epoch's loss and validation metrics."""
    found = [f"loss {row['train_loss']:.4g}"]
    lead = "validation_"
    found += [f"{k.removeprefix(lead)} {v:.4g}" for k, v in row.items() if k.startswith(lead)]
    if row["sparsity_share"]:
        found.append(f"{100 * row['sparsity_share']:.1f} % zeros")
    return ", ".join(found)


class _Lines(Silent):
    """A line an epoch."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Print it."""
        text = f"{row['stage']}, epoch {row['epoch']}: {_figures(row)}, {row['seconds']:.1f} s"
        print(text, file=sys.stderr, flush=True)


class _Bars:
    """A bar a stage."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None

    def stage(self, text: str, total: int) -> None:
        """A new bar."""
        self._task = self._bar.add_task(text, total=total, figures="")

    def advance(self, steps: int = 1) -> None:
        """Move it."""
        self._bar.advance(self._task, steps)

    def epoch(self, row: dict[str, Any]) -> None:
        """Its figures beside it."""
        self._bar.update(self._task, figures=_figures(row))


@contextmanager
def _bar() -> Iterator[Watcher]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        Remaining(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bars(bar)
