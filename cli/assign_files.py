"""The files and the table of ``opennpe assign``."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opennpe.cli import assign_pictures, metrics
from opennpe.cli.assign_bench import Bench, Mix
from opennpe.cli.pictures import png
from opennpe.cli.tables import table

if TYPE_CHECKING:
    from opennpe.cli.assign import Assigned
    from rich.table import Table

__all__ = ["lines", "mix_table", "summary", "write"]

MIX_COLUMNS = (
    "mix", "kind", "within_budget", "error", "error_foretold", "weight_bytes", "energy_uj",
    "energy_uj_foretold", "cycles", "cycles_foretold", "activation_bytes", "metric",
)  # fmt: skip


def write(result: Assigned, folder: Path) -> None:
    """Write the policies, the figures and the picture into a folder."""
    bench = result.bench
    for name, mix in (("policy", result.found.mix), ("rule", result.rule)):
        if mix is not None:
            text = bench.decided.policy(mix.chosen).dump(_comment(result, mix))
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    text = json.dumps(summary(result), indent=2, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    every = (*result.compared, *result.rules, *result.measured)
    _csv(folder / "mixes.csv", MIX_COLUMNS, [list(_row(result, mix).values()) for mix in every])
    header = ("decision", "layers", "what", "format", "measure", "error", "unit")
    _csv(folder / "sensitivity.csv", header, _sensitivity_rows(bench))
    columns = ("layer", "kind", "weights", "inputs", "weight_bytes")
    _csv(folder / "layers.csv", columns, _layer_rows(bench, result.found.mix))
    (folder / "front.png").write_bytes(png(assign_pictures.front_picture(result)))


def _comment(result: Assigned, mix: Mix) -> str:
    stated = ", ".join(f"{name} {limit:.6g}" for name, limit in result.budgets.items())
    return (
        f"{result.model}: {mix.name}, for budgets of {stated}\n"
        f"{mix.weight_bytes} bytes of weights, {_micro(mix.energy_pj)} uJ a sample, "
        f"error {mix.error:.4g} on the calibration samples"
    )


def _micro(energy_pj: float) -> str:
    return f"{energy_pj / 1e6:.4g}"


def _csv(path: Path, header: tuple[str, ...], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        found = csv.writer(file)
        found.writerow(header)
        found.writerows(rows)


def _sensitivity_rows(bench: Bench) -> list[list[Any]]:
    rows = []
    for held in bench.sensitivities.values():
        for (name, fmt), error in held.weights.items():
            rows.append([name, name, "weights", fmt, held.measure, f"{error:.6g}", held.unit])
        layers = {group.name: "+".join(group.layers) for group in bench.decided.groups}
        for (name, fmt), error in held.inputs.items():
            value = f"{error:.6g}"
            rows.append([name, layers[name], "inputs", fmt, held.measure, value, held.unit])
    return rows


def _layer_rows(bench: Bench, mix: Mix) -> list[list[Any]]:
    rows = []
    for layer in bench.decided.graph.layers:
        if layer.name in bench.decided.home:
            held = mix.chosen.inputs[bench.decided.home[layer.name].name]
            weights = mix.chosen.weights.get(layer.name, "")
            size = bench.decided.weight_bytes(layer.name, weights) if weights else ""
            rows.append([layer.name, type(layer).__name__, weights, held, size])
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _metric(result: Assigned, mix: Mix) -> float | None:
    if result.runs is None:
        return None
    return next((_finite(run.metric) for run in result.runs.runs if run.name == mix.name), None)


def _row(result: Assigned, mix: Mix) -> dict[str, Any]:
    values = (
        mix.name, mix.kind, result.keeps(mix), _finite(mix.error), mix.foretold, mix.weight_bytes,
        _finite(mix.energy_pj / 1e6), mix.foretold_costs["energy_pj"] / 1e6, _finite(mix.cycles),
        mix.foretold_costs["cycles"], mix.activation_bytes, _metric(result, mix),
    )  # fmt: skip
    return dict(zip(MIX_COLUMNS, values, strict=True))


def summary(result: Assigned) -> dict[str, Any]:
    """JSON-ready, units in names; the metric is that of the data, the error the calibration's."""
    bench, settings = result.bench, result.settings
    runs = result.runs
    return {
        "schema": "opennpe.assign/1",
        "model": result.model,
        "spec": bench.spec.name,
        "scope": bench.table.scope,
        "formats": list(bench.decided.formats),
        "output_format": bench.decided.output,
        "budgets": dict(result.budgets),
        "method": settings.method,
        "sum_proven_least": result.found.proven,
        "mixes_measured_by_search": result.found.tries,
        "seed": settings.seed,
        "measure": bench.measure,
        "error_unit": bench.sensitivities[bench.measure].unit,
        "summed": bench.by,
        "calibration_samples": bench.reference.samples,
        "float_weight_bytes": bench.decided.float_bytes,
        "metric": None if runs is None else runs.metric,
        "samples": None if runs is None else runs.samples,
        "fp32": None if runs is None else runs.reference.metric,
        "mixes": [_row(result, mix) for mix in result.compared],
        "front_points": len(result.front.cost),
        "front_whole": result.front.proven,
        "front_measured": [_row(result, mix) for mix in result.measured],
        "inputs": dict(result.found.mix.chosen.inputs),
        "weights": dict(result.found.mix.chosen.weights),
    }


def mix_table(result: Assigned) -> Table:
    """What was found, beside the uniform formats and the paper's rule."""
    bench, runs = result.bench, result.runs
    columns = {
        "mix": "left", "in budget": "left", f"error, {bench.measure}": "right",
        "weights, bytes": "right", "% of fp32": "right", "energy, uJ": "right", "cycles": "right",
    }  # fmt: skip
    if runs is not None:
        columns[runs.metric] = "right"
    rows = []
    for mix in result.compared:
        row = [
            mix.name,
            "yes" if result.keeps(mix) else "no",
            f"{mix.error:.4g}",
            str(mix.weight_bytes),
            f"{100 * mix.weight_bytes / bench.decided.float_bytes:.1f}",
            _micro(mix.energy_pj) if not mix.refusal else "-",
            f"{mix.cycles:.0f}" if not mix.refusal else "-",
        ]
        if runs is not None:
            score = _metric(result, mix)
            percent = runs.metric.startswith("top")
            row.append(
                "-" if score is None else f"{100 * score:.2f} %" if percent else f"{score:.4g}"
            )
        rows.append(row)
    stated = ", ".join(f"{name} {limit:.6g}" for name, limit in result.budgets.items())
    return table(f"{result.model} on {bench.spec.name}, budgets: {stated}", columns, rows)


def lines(result: Assigned) -> list[str]:
    """What the table leaves out."""
    bench, found = result.bench, result.found
    text = "proven the least sum of errors" if found.proven else "the best found"
    first = (
        f"{result.settings.method}: {text}; {found.tries} mixes measured on "
        f"{bench.reference.samples} calibration samples; costs are of {bench.table.scope}"
    )
    told = [first]
    if result.runs is not None:
        reference = result.runs.reference.metric
        told.append(
            f"fp32: {reference:.4f} {result.runs.metric} on {result.runs.samples} samples "
            f"({metrics.METRICS[result.runs.metric]})"
        )
    if result.rule is None:
        told.append("the paper's rule: no share of layers keeps the budgets")
    for mix in result.compared:
        if mix.refusal:
            told.append(f"{mix.name} does not run on {bench.spec.name}: {mix.refusal}")
    return told
