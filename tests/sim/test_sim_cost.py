"""A run's cost: parts equal the whole, every figure has a label, wrong facts change the figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from opennpe.golden import catalog
from opennpe.golden.errors import DataError
from opennpe.golden.spec import EngineSpec
from opennpe.sim.accesses import COUNTS
from opennpe.sim.activity import LayerActivity
from opennpe.sim.cost import ENGINES, MEMORIES, MOVING, estimate, technology
from opennpe.sim.cost_types import COMPONENTS, OPERATIONS, Options
from opennpe.sim.workload import LayerWork, Workload
from opennpe.tech.areas import Block, SpecArea
from opennpe.tech.coefficients import CLASSES, Coefficients
from opennpe.tech.figures import Figure

pytestmark = pytest.mark.fast

SPEC = catalog.EDGE_4X4
COUNT = SPEC.array.rows * SPEC.array.columns
AREA = SpecArea(
    SPEC.name, "ihp130", 130.0, 1.2, "key", 5.0,
    (
        Block(ENGINES, COUNT, COUNT * 90_000.0, COUNT * 500, COUNT * 20_000.0, 5_000.0, "x_sum"),
        Block("rows", 4, 80_000.0, 900, 5_000.0, 4_000.0),
        Block("rowwise", 1, 300_000.0, 2_000, 9_000.0, 6_000.0, "sum"),
        Block("dispatcher", 1, 200_000.0, 3_000, 9_000.0, 3_000.0),
    ),
)  # fmt: skip
ENERGIES = Coefficients(
    "ihp130", 130.0, 1.2, "stock", "hash", 5_000, 90_000.0,
    {mode: np.full(len(CLASSES), 20.0) for mode in ("posit8", "fp4")},
    2_000.0, 500.0, 20_000.0, {},
)  # fmt: skip


def counts(**given):
    return dict.fromkeys(COUNTS, 0) | given


def work(**changes):
    first = LayerWork(
        "conv", ("conv",), 1_200, 2 * COUNT * 1_000, "posit8", 1_000,
        counts(bus_bits_read=64_000, buffer_reads=500, buffer_writes=300, operand_reads=2_000,
               operand_writes=2_000, weight_reads=1_000, weight_writes=100, parameter_reads=120,
               command_reads=20, steps=1_000),
    )  # fmt: skip
    second = LayerWork(
        "soft", ("soft",), 800, 0, "", 0,
        counts(bus_bits_written=6_400, row_steps=400, operand_reads=800, buffer_reads=100),
    )  # fmt: skip
    return Workload("run", (dataclasses.replace(first, **changes), second), True, "a test")


def activity(words=COUNT * 900):
    events = np.arange(len(CLASSES), dtype=np.float64) * 100
    return (
        LayerActivity("conv", "posit8", events, words, words),
        LayerActivity("soft", "", np.zeros(len(CLASSES)), 0, 0),
    )


def cost(area=AREA, energies=ENERGIES, run=None, events=None, **options):
    tech = technology(SPEC, area=area, energies=energies)
    return estimate(SPEC, run or work(), events or activity(), tech, Options(**options))


def test_components_and_layers_add_up():
    found = cost()
    assert tuple(found.total.energy_pj) == tuple(COMPONENTS)
    for name, value in found.total.energy_pj.items():
        assert value == pytest.approx(sum(row.energy_pj[name] for row in found.layers)), name
        assert value > 0, f"{name} costs nothing: the case does not reach it"
    assert found.total.total_pj == pytest.approx(
        found.total.chip_pj + found.total.energy_pj["external"]
    )
    assert found.total.cycles == 2_000 == sum(row.cycles for row in found.layers)
    assert found.area_mm2 * 1e6 == pytest.approx(
        AREA.area_um2 + technology(SPEC, area=AREA, energies=ENERGIES).memory_um2
    )


def test_energies_are_counts_times_facts():
    found, tech = cost(), technology(SPEC, area=AREA, energies=ENERGIES)
    conv = found.layers[0]
    buffer = tech.memories["buffer"]
    expected = 500 * buffer.read_pj.value + 300 * buffer.write_pj.value
    assert conv.energy_pj["buffer"] == pytest.approx(expected)
    assert conv.energy_pj["external"] == 64_000 * 8
    counted = activity()[0].padded(COUNT * 1_000).counts
    assert conv.energy_pj["engines"] == pytest.approx(counted.sum() * 20 / 1000)
    assert conv.gops == pytest.approx(OPERATIONS * conv.macs / conv.seconds / 1e9)
    assert conv.utilisation == pytest.approx(1_000 / 1_200)
    share = set(MEMORIES.values())
    assert share < set(COMPONENTS) and {name for name, _ in MOVING.values()} < set(COMPONENTS)


def test_the_clock_is_the_slowest_stage_or_a_memory():
    found = cost()
    assert found.achieved_hz == pytest.approx(1e12 / 6_000) and "rowwise" in found.limit
    fast = dataclasses.replace(
        AREA, blocks=tuple(dataclasses.replace(b, stage_ps=1_000.0) for b in AREA.blocks)
    )
    assert "memory macro" in cost(fast).limit
    slow = cost(clock_hz=1e8)
    assert slow.total.seconds == pytest.approx(2_000 / 1e8)
    assert slow.total.energy_pj["leakage"] > found.total.energy_pj["leakage"]
    assert slow.total.energy_pj["engines"] == found.total.energy_pj["engines"]
    with pytest.raises(DataError, match="is more than ihp130 reaches"):
        cost(clock_hz=1e9)


def test_a_wrong_coefficient_is_seen():
    wrong = dataclasses.replace(
        ENERGIES, energy_fj={m: v * 2 for m, v in ENERGIES.energy_fj.items()}
    )
    right, spoilt = cost(), cost(energies=wrong)
    assert spoilt.total.energy_pj["engines"] == 2 * right.total.energy_pj["engines"]
    assert spoilt.total.tops_per_w < right.total.tops_per_w
    assert spoilt.bands["energy_uj"].low > right.bands["energy_uj"].low


def test_idle_engines_cost_less_switched_off():
    isolated, gated = cost(), cost(power_gating=True)
    saved = isolated.total.chip_pj - gated.total.chip_pj
    assert saved == pytest.approx(isolated.idle_pj["isolated"] - isolated.idle_pj["power_gated"])
    assert saved > 0 and isolated.total.energy_pj["engines"] == gated.total.energy_pj["engines"]


def test_every_figure_has_a_label_and_every_band_several():
    found = cost()
    assert set(found.labels) == set(COMPONENTS)
    assert set(found.bands) == {
        "area_mm2", "clock_ghz", "energy_uj", "tops_per_w", "gops_per_mm2",
    }  # fmt: skip
    for band in found.bands.values():
        assert band.low <= band.high and len(band.figures) > 1
        for name, figure in band.figures.items():
            assert figure.label == ("calibrated" if name == "calibrated" else "scaled")
            assert figure.source
    area = found.bands["area_mm2"].figures
    assert area["calibrated"].value > area["Stillmaker-Baas"].value > area["DeepScaleTool"].value
    with pytest.raises(DataError, match="a figure is measured, scaled, calibrated"):
        Figure(1.0, "um2", "", "a guess")  # type: ignore[arg-type]


def test_the_roof_is_the_array_or_the_bus():
    assert cost().layers[0].bound == "compute"
    busy = counts(bus_bits_read=64 * 5_000, steps=1_000)
    starved = cost(run=work(counts=busy, cycles=6_000)).layers[0]
    assert starved.bound == "memory" and starved.gops <= starved.roof_gops


def test_what_is_assumed_is_said():
    assert not cost().cautions
    fewer = cost(events=activity(words=COUNT * 2_000))
    assert "fewer steps than words in conv" in fewer.cautions[0]
    none = cost(events=activity()[1:])
    assert "not counted in conv" in none.cautions[0]
    array = dataclasses.replace(SPEC.array, engine=EngineSpec(fabric="fpga"))
    board = dataclasses.replace(SPEC, array=array)
    tech = technology(board, area=AREA, energies=ENERGIES)
    other = estimate(board, work(), activity(), tech, Options())
    assert other.cautions == (
        "energies are those of engines for cells, the spec's are for fpga",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clock_hz": 0}, "a clock lies above 0"),
        ({"external_pj_per_bit": -1}, "external memory takes"),
        ({"gated_share": 2}, "a gated share"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(DataError, match=text):
        Options(**options)
