"""The file of energies: written whole, read back, refused by one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from opennpe.golden.errors import TechError
from opennpe.tech import coefficients
from opennpe.tech.coefficients import CLASSES, MODES, Coefficients

pytestmark = pytest.mark.fast


def made():
    rng = np.random.default_rng(1)
    energy = {mode: rng.uniform(0, 100, len(CLASSES)) for mode in MODES}
    return Coefficients("lib", 130.0, 1.2, "stock", "abc", 10, 5.0, energy, 30.0, 30.0, 4.0, {})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "lib.json"
    coefficients.save(made(), path)
    found = coefficients.load(path)
    for mode in MODES:
        assert np.allclose(found.energy_fj[mode], made().energy_fj[mode], rtol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["lib.json"]


def test_energy_is_events_times_their_cost():
    counts = np.zeros(len(CLASSES))
    counts[3] = 2
    assert made().energy_of("fp4", counts) == pytest.approx(2 * made().energy_fj["fp4"][3])
    assert made().leakage_energy(1e-6) == pytest.approx(4.0)
    assert made().clock_energy(10, 0.5) == pytest.approx(150.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 99}, "schema 99"),
        ({"classes": ["word"]}, "other classes"),
        ({"leakage_nw": -1}, "at least 0"),
        ({"energy_fj_per_event": {"fp4": [1.0]}}, "energies of mode 'fp4'"),
        ({"cells": "many"}, "no file of energies"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, change, text):
    path = tmp_path / "lib.json"
    path.write_text(json.dumps(made().summary() | change))
    with pytest.raises(TechError, match=text) as caught:
        coefficients.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(TechError, match="no energies for library 'nowhere'"):
        coefficients.load("nowhere")
    (tmp_path / "cut.json").write_text('{"schema": 1')
    with pytest.raises(TechError, match=r"cut\.json cannot be read"):
        coefficients.load(tmp_path / "cut.json")
    with pytest.raises(TechError, match="no energies are known for fp4 by posit8"):
        coefficients.mode_of("fp4", "posit8")
    with pytest.raises(TechError, match="share"):
        made().leakage_energy(1.0, 1.5)


@pytest.mark.parametrize("name", coefficients.shipped())
def test_shipped_energies_are_sound(name):
    found = coefficients.load(name)
    assert set(found.energy_fj) == set(MODES)
    assert all((values >= 0).all() and values.any() for values in found.energy_fj.values())
    assert found.clock_fj > 0 and found.leakage_nw > 0
