"""Mixes of ``opennpe assign`` against uniform formats and the paper's rule, by the task's metric.

For workloads whose float networks ``scripts/workload_table.py`` has trained: every entry within
a budget is calibrated, nothing is trained again, and measured on the test split in the
simulator. The mix is looked for on calibration inputs alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from opennpe.cli.assign import Budgets, Settings, assign_graph
from opennpe.cli.data import Data
from opennpe.cli.tables import table
from opennpe.cli.train import simulator
from opennpe.quant import Policy, calibrate
from opennpe.quant.qat import capture
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.run_folder import Folder
from opennpe.quant.qat.stages import measure, restored_float
from opennpe.quant.workloads import registry
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = {
    "gaze": (Budgets(energy_uj=45), Budgets(energy_uj=60), Budgets(size_percent=15)),
    "vio": (Budgets(size_percent=15), Budgets(size_percent=18)),
}
"""Of energy a sample, or of the weights' size."""


class Comparison:
    """A trained float network, and what its test split says of formats."""

    def __init__(self, name: str, runs: Path, evaluations: int, limit: int) -> None:
        self.work = registry.get(name)
        run = Folder(runs / name / "float", Recipe.load(f"{name}_fp4"))
        model = restored_float(run, "float", self.work)
        self.graph = capture(model, self.work.example())
        arrays = [x.numpy()[:128].astype(np.float32) for x in self.work.calibration()]
        self.held = dict(zip(self.graph.inputs, arrays, strict=True))
        self.settings = Settings(method="evolve", evaluations=evaluations, output="posit16")
        self.limit = limit
        score = measure(model, self.work, "test", limit)[self.work.score]
        self.rows = [["", "float", "", "", f"{score:.4g}"]]

    def scored(self, policy: Policy) -> str:
        """The metric of a policy in the simulator."""
        network = calibrate(self.graph, self.held, policy)
        result = self.work.metrics(simulator(network), "test", self.limit)
        return f"{result[self.work.score]:.4g}"

    def add(self, budget: Budgets, uniform: bool) -> None:
        """The rows of a budget, and before the first one those of the uniform formats."""
        data = Data(self.held, None, len(next(iter(self.held.values()))), False)
        found = assign_graph(self.graph, data, budget, self.settings)
        energy = budget.energy_uj is not None
        limit = f"{budget.energy_uj:g} uJ" if energy else f"{budget.size_percent:g} % of fp32"
        for mix in found.compared:
            if mix.kind != "uniform" or uniform:
                score = self.scored(found.bench.decided.policy(mix.chosen))
                shown = limit if mix.kind != "uniform" else ""
                costs = f"{mix.weight_bytes:,}", f"{mix.energy_pj / 1e6:.2f}"
                self.rows.append([shown, mix.name, *costs, score])


def main() -> int:
    """A table a workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(BUDGETS))
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "workloads")
    parser.add_argument("--evaluations", type=int, default=120)
    parser.add_argument("--limit", type=int, default=0, help="test samples, 0: all")
    options = parser.parse_args()
    for name in options.workloads:
        held = Comparison(name, options.runs, options.evaluations, options.limit)
        for index, budget in enumerate(BUDGETS[name]):
            held.add(budget, index == 0)
        columns = {"budget": "right", "formats": "left"} | dict.fromkeys(
            ("weights, bytes", "uJ", held.work.score), "right"
        )
        title = f"{name}, test split, formats after training"
        Console(width=110).print(table(title, columns, held.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
