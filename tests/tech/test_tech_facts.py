"""Scaling factors as published, memories put together from macros, labels refused without."""

from __future__ import annotations

import json

import pytest
from opennpe.golden.errors import DataError, TechError
from opennpe.tech import areas, memories, published, scaling
from opennpe.tech.figures import Band, Figure

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("node", "voltage", "area", "energy"),
    [(130.0, 1.2, 0.059, 0.083), (130.0, 1.8, 0.059, 0.030), (45.0, 1.1, 0.377, 0.353),
     (7.0, 0.7, 6.4, 8.9)],
)  # fmt: skip
def test_stillmaker_and_baas(node, voltage, area, energy):
    assert scaling.stillmaker("area", node, voltage) == pytest.approx(area, rel=0.01)
    assert scaling.stillmaker("energy", node, voltage) == pytest.approx(energy, rel=0.02)


def test_scaling_to_the_own_node_is_one():
    for node, voltage in scaling.NOMINAL_V.items():
        for quantity in ("area", "energy", "delay"):
            assert scaling.stillmaker(quantity, node, voltage, node, voltage) == pytest.approx(1)


def test_the_methods_disagree_and_all_are_shown():
    figure = Figure(1.0, "um2", "measured", "a netlist")
    found = scaling.band("area", figure, "asap7", 7.0, 0.7, "timing")
    assert {n: f.label for n, f in found.items()} == {
        "Stillmaker-Baas": "scaled", "DeepScaleTool": "scaled",
    }  # fmt: skip
    assert found["DeepScaleTool"].value == pytest.approx(
        5 * found["Stillmaker-Baas"].value, rel=0.01
    )
    own = scaling.band("area", figure, "ihp130", 130.0, 1.2, "timing")
    assert own["calibrated"].label == "calibrated"
    assert own["calibrated"].value == scaling.CALIBRATION["ihp130"]["timing"]["area"].factor
    assert "calibrated" not in scaling.band("area", figure, "ihp130", 130.0, 1.2, "booth")
    with pytest.raises(DataError, match="no scaling from 65 nm"):
        scaling.band("area", figure, "other", 65.0, 1.0, "timing")


def test_memories_are_whole_macros():
    whole = memories.memory(memories.Shape("weights", 2048, 64), 130.0)
    macro = next(m for m in memories.macros() if (m.words, m.bits) == (2048, 64))
    assert whole.area_um2.value == macro.area_um2 and whole.read_pj.value == macro.read_pj
    assert whole.area_um2.label == "measured"
    wide = memories.memory(memories.Shape("weights", 2048, 128), 130.0)
    assert wide.read_pj.value == 2 * macro.read_pj
    narrow = memories.memory(memories.Shape("table", 256, 16, 4), 130.0)
    assert narrow.made_of.startswith("4 x") and "64x64" in narrow.made_of


def test_memories_at_28_nm_are_the_stated_points():
    for size, energy in memories.CACTI_READ_PJ.items():
        held = memories.memory(memories.Shape("m", size // 8, 64), 28.0)
        assert held.read_pj.value == pytest.approx(energy)
        assert held.read_pj.label == "scaled" and held.read_pj.spread == 2
        low, high = (memories.CACTI_MM2[n][size] * 1e6 for n in (22.0, 32.0))
        assert low < held.area_um2.value < high
    with pytest.raises(DataError, match="130, 28 and 7 nm"):
        memories.memory(memories.Shape("m", 64, 64), 65.0)


def test_a_figure_without_label_or_a_band_of_one_is_refused():
    with pytest.raises(DataError, match="got 'guessed'"):
        Figure(1.0, "um2", "guessed", "someone")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="needs a source"):
        Figure(1.0, "um2", "scaled", "")
    one = Figure(1.0, "um2", "scaled", "a paper")
    with pytest.raises(DataError, match="two methods or more"):
        Band("area", {"a": one})
    with pytest.raises(DataError, match="one unit"):
        Band("area", {"a": one, "b": Figure(1.0, "ns", "scaled", "a paper")})


def test_published_designs_name_a_source():
    assert published.DESIGNS[0] is published.XR_NPE
    assert all(design.source and design.label for design in published.DESIGNS)
    first = published.PDPU_ROWS[0]
    assert 4 / first.delay_ns / first.power_mw * 1000 == pytest.approx(550, rel=0.01)


def test_areas_are_kept_and_damage_is_refused(tmp_path):
    block = areas.Block("engines", 4, 100.0, 10, 5.0, 900.0, "x")
    entry = areas.SpecArea("EDGE_2X2", "ihp130", 130.0, 1.2, "key", 5.0, (block,))
    path = tmp_path / "areas.json"
    areas.save({"ihp130/EDGE_2X2": entry}, path)
    assert areas.stored(path) == {"ihp130/EDGE_2X2": entry}
    held = json.loads(path.read_text())
    del held["designs"]["ihp130/EDGE_2X2"]["key"]
    path.write_text(json.dumps(held))
    with pytest.raises(TechError, match="no file of areas"):
        areas.stored(path)
    with pytest.raises(TechError, match="no areas of NOPE"):
        areas.load("ihp130", "NOPE")
