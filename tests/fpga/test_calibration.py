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

OURS = {
    "stock": ((62_639, 47_675, 87_634, 64_720, 80_120), (18.71, 18.38, 20.22, 20.06, 19.55)),
    "sized": ((64_903, 49_016, 90_033, 66_038, 82_415), (15.92, 14.94, 17.35, 16.09, 15.61)),
    "timing": ((66_575, 50_762, 90_989, 66_689, 83_772), (12.66, 12.31, 14.10, 12.98, 12.48)),
}
"""The windowed configurations as docs/calibration.md has them, um2 and ns, by recipe."""


def theirs() -> tuple[list[float], list[float]]:
    designs = [chosen.design for chosen in calibrate.CONFIGURATIONS[: calibrate.WINDOWED]]
    return [d.area_um2 or 0.0 for d in designs], [d.delay_ns or 0.0 for d in designs]


@pytest.mark.parametrize("recipe", OURS)
def test_the_constants_in_use_come_from_these_figures(recipe: str) -> None:
    held = scaling.CALIBRATION["ihp130"][recipe]
    for ours, published, quantity in zip(OURS[recipe], theirs(), ("area", "delay"), strict=True):
        found = calibrate.fit(ours, published)
        assert found.factor == pytest.approx(held[quantity].factor, abs=1e-4)
        assert found.left_out == pytest.approx(held[quantity].error, abs=1e-3)


def test_every_calibrated_recipe_is_held_against_its_figures() -> None:
    assert set(scaling.CALIBRATION) == {"ihp130"} and set(scaling.CALIBRATION["ihp130"]) == set(
        OURS
    )


def test_a_figure_ten_percent_off_moves_them() -> None:
    ours, published = OURS["timing"][0], theirs()[0]
    moved = calibrate.fit([ours[0] * 1.1, *ours[1:]], published)
    held = scaling.CALIBRATION["ihp130"]["timing"]["area"]
    assert moved.factor != pytest.approx(held.factor, abs=1e-3)


def test_a_fit_by_hand() -> None:
    found = calibrate.fit([10.0, 20.0], [1.0, 4.0])
    assert found.factor == pytest.approx(0.15)
    assert found.errors == pytest.approx((0.5, -0.25))
    assert found.left_out == pytest.approx(1.0)
    with pytest.raises(DataError, match="two or more pairs, got 1 and 1"):
        calibrate.fit([1.0], [1.0])


def test_every_configuration_has_its_published_row() -> None:
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
