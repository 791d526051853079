"""A run's area, clock, energy and what follows from them at 28 nm, by every method."""

from __future__ import annotations

from collections.abc import Callable

from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost_types import OPERATIONS, LayerCost, Technology
from opennpe.sim.workload import Workload
from opennpe.tech.figures import Band, Figure
from opennpe.tech.memories import memory
from opennpe.tech.scaling import TARGET_NM, Quantity, band

__all__ = ["bands"]

LOGIC = ("engines", "datapath", "row_units", "control", "clock")
"""Components that scale as cells do. Leakage is left out: no method states it."""
CACTI = "memories by CACTI at 28 nm added"


def bands(
    spec: CoprocessorSpec, work: Workload, total: LayerCost, tech: Technology
) -> dict[str, Band]:
    """By name: "area_mm2", "clock_ghz", "energy_uj", "tops_per_w", "gops_per_mm2".

    Cells go by the method's factor, memories are CACTI's at 28 nm in all of them; the memory
    outside and leakage are left out. The clock is that of the slowest path between registers. A
    quantity for which one method alone has a factor is left out.
    """
    there = {name: memory(held.shape, TARGET_NM) for name, held in tech.memories.items()}
    memory_mm2 = sum(held.area_um2.value for held in there.values()) / 1e6
    memory_pj = sum(
        row.counts[f"{name}_reads"] * held.read_pj.value
        + row.counts[f"{name}_writes"] * held.write_pj.value
        for row in work.layers
        for name, held in there.items()
    )
    logic_pj = sum(total.energy_pj[name] for name in LOGIC)
    area = _carried(tech, "area", tech.area.area_um2 / 1e6, "mm2")
    area = {name: _plus(figure, memory_mm2) for name, figure in area.items()}
    energy = _carried(tech, "energy", logic_pj / 1e6, "uJ")
    energy = {name: _plus(figure, memory_pj / 1e6) for name, figure in energy.items()}
    period = _carried(tech, "delay", tech.area.period_ps / 1000, "ns")
    clock = _turned(period, "GHz", lambda ns: 1 / ns)
    found = {
        "area_mm2": ("area", area),
        "clock_ghz": ("clock", clock),
        "energy_uj": ("energy on the chip", energy),
    }
    if total.macs:
        operations = OPERATIONS * total.macs
        efficiency = _turned(energy, "TOPS/W", lambda uj: operations / uj / 1e6)
        found["tops_per_w"] = ("efficiency", efficiency)
        # GHz times operations a cycle is 10^9 operations a second.
        dense = {
            name: Figure(
                operations / total.cycles * clock[name].value / figure.value,
                "GOPS/mm2",
                figure.label,
                figure.source,
            )
            for name, figure in area.items()
            if name in clock
        }
        found["gops_per_mm2"] = ("throughput per area", dense)
    return {
        name: Band(what, figures) for name, (what, figures) in found.items() if len(figures) > 1
    }


def _carried(tech: Technology, quantity: Quantity, value: float, unit: str) -> dict[str, Figure]:
    held = tech.area
    figure = Figure(value, unit, "measured", f"our netlist on {held.library}")
    return band(quantity, figure, held.library, held.node_nm, held.voltage_v, held.recipe)


def _plus(figure: Figure, more: float) -> Figure:
    if not more:
        return figure
    return Figure(figure.value + more, figure.unit, figure.label, f"{figure.source}; {CACTI}")


def _turned(
    figures: dict[str, Figure], unit: str, turn: Callable[[float], float]
) -> dict[str, Figure]:
    return {
        name: Figure(turn(held.value), unit, held.label, held.source)
        for name, held in figures.items()
        if held.value
    }
