"""A run's cost as rows for JSON and CSV: units in names, every figure's label beside it."""

from __future__ import annotations

from typing import Any

from opennpe.sim.cost_types import COMPONENTS, Cost, LayerCost

__all__ = ["energy_rows", "layer_summary", "run_summary"]


def run_summary(run: Cost) -> dict[str, Any]:
    """A run, JSON-ready, units in names."""
    return {
        "spec": run.spec,
        "library": run.library,
        "recipe": run.recipe,
        "scope": run.scope,
        "clock_mhz": run.clock_hz / 1e6,
        "achieved_mhz": run.achieved_hz / 1e6,
        "limited_by": run.limit,
        "area_mm2": run.area_mm2,
        "gops_per_mm2": run.gops_per_mm2,
        "power_mw": run.milliwatts,
        "power_gating": run.power_gating,
        "idle_engines_pj": dict(run.idle_pj),
        "labels": dict(run.labels),
        "total": layer_summary(run.total),
        "layers": [layer_summary(row) for row in run.layers],
        "at_28_nm": {name: held.summary() for name, held in run.bands.items()},
        "cautions": list(run.cautions),
    }


def layer_summary(row: LayerCost) -> dict[str, Any]:
    """A layer, JSON-ready, units in names."""
    return {
        "layer": row.name,
        "format": row.format,
        "cycles": row.cycles,
        "time_us": row.seconds * 1e6,
        "macs": row.macs,
        "array_utilisation": row.utilisation,
        **{f"{name}_pj": row.energy_pj[name] for name in COMPONENTS},
        "chip_pj": row.chip_pj,
        "total_pj": row.total_pj,
        "external_bytes": row.external_bytes,
        "operations_per_byte": row.intensity,
        "gops": row.gops,
        "roof_gops": row.roof_gops,
        "bound": row.bound,
        "tops_per_w": row.tops_per_w,
        "tops_per_w_with_external": row.tops_per_w_with_external,
    }


def energy_rows(run: Cost) -> list[dict[str, Any]]:
    """A row a component: its energy in the whole run, its label, how it comes about."""
    return [
        {
            "component": name,
            "energy_pj": value,
            "share_of_chip": value / run.total.chip_pj
            if name != "external" and run.total.chip_pj
            else None,
            "label": run.labels[name],
            "how": COMPONENTS[name].how,
        }
        for name, value in run.total.energy_pj.items()
    ]
