"""The constants in use are those of the figures that they are said to come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from opennpe.golden.errors import DataError
from opennpe.tech import scaling

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import calibrate

pytestmark = pytest.mark.fast

OURS_UM2 = [64_789, 49_125, 90_047, 65_952, 82_295]
OURS_NS = [16.35, 15.06, 17.46, 16.17, 15.82]
"""The windowed configurations as docs/calibration.md has them, of the fit that is in use."""


def fitted():
    designs = [chosen.design for chosen in calibrate.CONFIGURATIONS[: calibrate.WINDOWED]]
    return (
        calibrate.fit(OURS_UM2, [design.area_um2 for design in designs]),
        calibrate.fit(OURS_NS, [design.delay_ns for design in designs]),
    )


def test_the_constants_in_use_come_from_these_figures():
    held = scaling.CALIBRATION["ihp130"]
    for found, quantity in zip(fitted(), ("area", "delay"), strict=True):
        assert round(found.factor, 4) == held[quantity].factor
        assert round(max(map(abs, found.errors)), 3) <= held[quantity].error


def test_a_figure_ten_percent_off_moves_them():
    area, _ = fitted()
    designs = [chosen.design.area_um2 for chosen in calibrate.CONFIGURATIONS[:5]]
    moved = calibrate.fit([OURS_UM2[0] * 1.1, *OURS_UM2[1:]], designs)
    assert round(moved.factor, 4) != round(area.factor, 4)


def test_a_fit_by_hand():
    found = calibrate.fit([10.0, 20.0], [1.0, 4.0])
    assert found.factor == pytest.approx(0.15)
    assert found.errors == pytest.approx((0.5, -0.25))
    assert found.left_out == pytest.approx(1.0)
    with pytest.raises(DataError, match="two or more pairs, got 1 and 1"):
        calibrate.fit([1.0], [1.0])


def test_every_configuration_has_its_published_row():
    assert [chosen.design.name for chosen in calibrate.CONFIGURATIONS] == [
        "PDPU P(16/16,2) N4 w14",
        "PDPU P(13/16,2) N4 w14",
        "PDPU P(13/16,2) N8 w14",
        "PDPU P(10/16,2) N8 w14",
        "PDPU P(13/16,2) N8 w10",
        "PDPU quire",
    ]
    for chosen in calibrate.CONFIGURATIONS[: calibrate.WINDOWED]:
        words = f"P({chosen.bits}/16,2) N{chosen.terms} w{chosen.window}"
        assert chosen.design.name.endswith(words)
