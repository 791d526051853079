"""One table of the paper's three workloads: float, each format before and after QAT, and a mix.

A float network is trained by its recipe, then in every format; the mix comes from
``opennpe assign`` under a budget of size and is trained like the formats. Energy and size are
those of ``opennpe assign``'s own table: a sample on EDGE_4X4, weights with their scales. Every
training is a run of ``opennpe train`` in a folder of its own, so what is finished is only read.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.cli.assign import Assigned, Budgets, Settings, assign_graph
from opennpe.cli.data import Data
from opennpe.cli.tables import table
from opennpe.cli.train import train
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.whole import replacing
from opennpe.quant.qat import capture
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.run_folder import Folder
from opennpe.quant.qat.stages import restored_float
from opennpe.quant.qat.trainer import train as run_recipe
from opennpe.quant.workloads import registry
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plan:
    """A workload's training after the float one.

    ``size_percent``: the mix's budget, of the weights in float32. ``keys``: of its stage.
    """

    size_percent: float
    batch: int
    validation: int
    keys: str


PLANS = {
    "fashion": Plan(16, 128, 1000, "epochs = 5\nlr = 0.001\nweight_decay = 1e-4"),
    "gaze": Plan(18, 64, 0, "epochs = 8\nlr = 0.001\nweight_decay = 1e-5"),
    "vio": Plan(17.5, 32, 0, "epochs = 8\nlr = 0.0005\nweight_decay = 1e-5"),
}
STAGE = """
[[stage]]
name = "full"
kind = "full"
policy = "{policy}"
optimiser = "adamw"
schedule = "cosine"
warmup = 0.05
clip = 1.0
{keys}

[stage.distill]
alpha = 0.5
"""


def rounded(name: str, plan: Plan, policy: Path, start: Path, out: Path) -> dict[str, Any]:
    """The record of a training under a policy."""
    head = f'version = 1\nworkload = "{name}"\nbatch = {plan.batch}\n'
    head += f'validation_samples = {plan.validation}\nstart = "{start.relative_to(out.parent)}"\n'
    recipe = out.with_suffix(".toml")
    recipe.write_text(head + STAGE.format(policy=policy.name, keys=plan.keys), encoding="utf-8")
    report = train(recipe, out, threads=1)
    return dict(report.results[-1])


def mixed(name: str, plan: Plan, start: Path, out: Path) -> Assigned:
    """Formats of every layer within the budget."""
    work = registry.get(name)
    run = Folder(start.parents[1], Recipe.load(f"{name}_fp4"))
    graph = capture(restored_float(run, "float", work), work.example())
    given = {n: x.numpy() for n, x in zip(graph.inputs, work.calibration(), strict=True)}
    held = {n: np.asarray(x[:64], dtype=np.float32) for n, x in given.items()}
    settings = Settings(formats=("fp4", "posit4", "posit8"), output="posit8")
    data = Data(held, None, len(next(iter(held.values()))), False)
    found = assign_graph(graph, data, Budgets(size_percent=plan.size_percent), settings)
    (out / "mixed.policy.toml").write_text(
        found.bench.decided.policy(found.found.mix.chosen).dump(), encoding="utf-8"
    )
    return found


def measured(name: str, out: Path, only: list[str]) -> list[dict[str, Any]]:
    """Rows of a workload."""
    plan, work = PLANS[name], registry.get(name)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe.load(f"{name}_fp4")
    lead = Recipe(**{**vars(recipe), "stages": recipe.stages[:1], "threads": 1})
    first = run_recipe(lead, folder / "float").results[-1]["float"]
    start = folder / "float" / "float" / "stage.pt"
    found = mixed(name, plan, start, folder)
    costs = {mix.name: mix for mix in found.uniform} | {"mixed": found.found.mix}
    rows = [{"workload": name, "formats": "float", "after": first, "score": work.score}]
    for fmt in only:
        policy = folder / f"{fmt}.policy.toml"
        if fmt != "mixed":
            policy.write_text(f'version = 1\n[default]\nformat = "{fmt}"\n', encoding="utf-8")
        stage = rounded(name, plan, policy, start, folder / fmt)
        mix = costs.get(fmt)
        rows.append(
            {
                "workload": name,
                "formats": fmt,
                "score": work.score,
                "before": stage["before"],
                "after": stage["after"],
                "weight_bytes": None if mix is None else mix.weight_bytes,
                "energy_uj": None if mix is None else mix.energy_pj / 1e6,
                "cycles": None if mix is None else mix.cycles,
            }
        )
    return rows


def main() -> int:
    """Print the table; write ``workloads.json`` and ``workloads.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(PLANS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "workloads")
    parser.add_argument("--formats", default=",".join((*ENGINE_FORMATS, "mixed")))
    options = parser.parse_args()
    rows = [
        row
        for name in options.workloads
        for row in measured(name, options.out, options.formats.split(","))
    ]
    columns = {"workload": "left", "formats": "left", "metric": "left"} | dict.fromkeys(
        ("before QAT", "after QAT", "KiB", "uJ", "cycles"), "right"
    )
    lines, flat = [], []
    for row in rows:
        for metric, value in row["after"].items():
            before = row.get("before", {}).get(metric)
            costs = [row.get(key) for key in ("weight_bytes", "energy_uj", "cycles")]
            flat.append([row["workload"], row["formats"], metric, before, value, *costs])
            text = [f"{v:.4g}" if v is not None else "" for v in (before, value)]
            size, energy, cycles = costs
            text += ["" if size is None else f"{size / 1024:.1f}",
                     "" if energy is None else f"{energy:.2f}",
                     "" if cycles is None else f"{cycles:,.0f}"]  # fmt: skip
            lines.append([row["workload"], row["formats"], metric, *text])
    Console(width=120).print(table("Workloads, test split", columns, lines))
    with replacing(options.out / "workloads.json") as part:
        part.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    with replacing(options.out / "workloads.csv") as part, part.open("w", newline="") as stream:
        writer = csv.writer(stream)
        head = ("workload", "formats", "metric", "before_qat", "after_qat")
        writer.writerow([*head, "weight_bytes", "energy_uj", "cycles"])
        writer.writerows(flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
