"""Units beside the engine: which there are, their ratios, and a board too small for one."""

from __future__ import annotations

import pytest
from opennpe.fpga import boards, build, comparison
from opennpe.fpga.progress import Silent
from opennpe.golden import catalog
from opennpe.golden.errors import SpecError

pytestmark = pytest.mark.fast


def test_every_unit_has_the_engine_s_ports():
    spec = catalog.EDGE_1X1.engine
    engine = comparison.unit(spec, "engine").signature
    for name in comparison.UNITS[1:]:
        unit = comparison.unit(spec, name)
        assert unit.signature == engine
        # A component that is never elaborated is reported when it goes.
        for block in (unit, *unit.units):
            block._MustUse__used = True


def test_notes_give_ratios_to_the_engine():
    rows = [
        {"family": "ecp5", "unit": name, "estimate": False, "luts": 100.0 * (i + 1), "ffs": 50.0}
        for i, name in enumerate(comparison.UNITS)
    ]
    said = comparison.notes(rows)
    assert said[0] == "ecp5: separate takes 2.00 x the engine's LUTs, 1.00 x its registers"
    assert len(said) == len(comparison.UNITS) - 1


def test_a_board_too_small_for_separate_units_says_so(monkeypatch):
    monkeypatch.setattr(build.verilated, "remembered", lambda make, *parts: "")
    monkeypatch.setattr(
        build.utilisation,
        "count_verilog",
        lambda *given: type("Counts", (), {"kinds": {"luts": 6000.0}})(),
    )
    with pytest.raises(SpecError, match=r"more than 6,000 LUT4 \(1 separate of 6,000\), 1BitSq"):
        build.check_size(boards.get("icebreaker"), catalog.EDGE_1X1, "separate")


def test_an_unknown_unit_is_refused():
    with pytest.raises(SpecError, match="unknown unit 'gpu': expected some of separate, just-ex"):
        comparison.compare(catalog.EDGE_1X1, ["ecp5"], Silent(), ("gpu",))
