"""Energies by events against gates with their delays, on layers that were not fitted."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from opennpe.fpga import characterise, engine_gates
from opennpe.golden import catalog
from opennpe.tech import coefficients

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import characterise_engine
import energy_streams

pytestmark = pytest.mark.rtl

SPEC = catalog.EDGE_4X4
LIMIT = 0.05


@lru_cache
def gates(library):
    found = engine_gates.build(SPEC.engine, library)
    return found, found.model()


@lru_cache
def network_layers(fmt):
    from opennpe.quant import zoo

    images = np.load(zoo.TEST_DATA)["x"][:16]
    return dict(characterise_engine.layers(zoo.MODEL, fmt, images))


def held(library):
    found = coefficients.load(library)
    assert found.engine_hash == gates(library)[0].engine_hash, (
        f"the engine's RTL changed: run scripts/characterise_engine.py {library}"
    )
    return found


def error_of(library, fmt, product, energies):
    """Of a layer's whole energy, model against gates, on test images."""
    stream = energy_streams.of_layer(SPEC.engine, product, SPEC.array.rows, SPEC.array.columns, 500)
    events, spent, cycles = energy_streams.measured(
        SPEC.engine, gates(library)[1], fmt, fmt, stream
    )
    expected = events @ energies.energy_fj[fmt] + energies.clock_fj * cycles
    assert len(spent) >= 2
    return float(expected.sum() / spent.sum() - 1)


@pytest.mark.parametrize("fmt", ["fp4", "posit4", "posit8", "posit16"])
def test_small_layers_are_foretold_within_five_percent(fmt):
    found = network_layers(fmt)
    names = [name for name in found if name.endswith("Conv")][1::2]  # the others were fitted
    assert len(names) >= 2
    errors = {n: error_of("ihp130", fmt, found[n], held("ihp130")) for n in names}
    assert all(abs(e) <= LIMIT for e in errors.values()), errors


def test_a_forgotten_class_is_noticed():
    """The check above fails when the energy of the sum's toggles is left out."""
    from dataclasses import replace

    whole = held("ihp130")
    without = whole.energy_fj["posit8"].copy()
    without[coefficients.CLASSES.index("total")] = 0
    without[coefficients.CLASSES.index("added")] = 0
    poor = replace(whole, energy_fj={**whole.energy_fj, "posit8": without})
    found = network_layers("posit8")
    names = [name for name in found if name.endswith("Conv")][1::2]
    errors = [error_of("ihp130", "posit8", found[n], poor) for n in names]
    assert max(map(abs, errors)) > LIMIT


def test_non_negative_fit_finds_what_was_there():
    rng = np.random.default_rng(2)
    events = rng.uniform(0, 1, (60, 5))
    truth = np.array([3.0, 0.0, 2.0, 0.5, 0.0])
    assert np.allclose(characterise.fit(events, events @ truth), truth, atol=1e-6)
    pulled = characterise.non_negative(events, events @ np.array([1.0, -1.0, 0, 0, 0]))
    assert (pulled >= 0).all()
