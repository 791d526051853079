"""The most that an array can do in each format, by time, area and energy: every lane at work.

Operands are drawn from a normal distribution, the same ones every time, scaled so that the format
holds them well: what a dense layer of a trained network looks like to an engine. Energy is that of
the engines with their clock and leakage alone: what moves operands is in a run's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost_types import OPERATIONS
from opennpe.sim.roofs import peak_gops
from opennpe.sim.word_activity import Sums, count
from opennpe.tech.coefficients import Coefficients
from opennpe.tech.figures import Figure

__all__ = ["OPERANDS", "Peak", "peaks", "word_fj"]

OPERANDS = "normal operands, sums of 64 words"
SUMS, STEPS, SEED = 32, 64, 2508


@dataclass(frozen=True)
class Peak:
    """A format's peak on a spec.

    Attributes:
        format: of both operands.
        lanes: multiply-accumulates an engine makes in a cycle.
        macs_per_cycle: of the array.
        gops: at the spec's clock. gops_per_mm2: over the area of the spec that is measured, and
            gops_per_engine_mm2 over that of its engines.
        engine_pj_per_step: one engine's cycle with a word; None where no energies are known.
        engine_tops_per_w: of the engines alone.
    """

    format: str
    lanes: int
    macs_per_cycle: int
    gops: Figure
    gops_per_mm2: Figure
    gops_per_engine_mm2: Figure
    engine_pj_per_step: Figure | None = None
    engine_tops_per_w: Figure | None = None

    def figures(self) -> Mapping[str, Figure]:
        """Those that are known, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Figure)}


def peaks(
    spec: CoprocessorSpec,
    clock_hz: float,
    area_um2: Figure,
    engines_um2: Figure,
    energies: Coefficients | None,
) -> tuple[Peak, ...]:
    """Every engine format's peak.

    Args:
        clock_hz: the spec's.
        area_um2: of cells and memories. engines_um2: of all engines.
        energies: None where the library has none.
    """
    found = []
    clock = f"at {clock_hz / 1e6:.4g} MHz, {area_um2.source}"
    for name in spec.mac.formats:
        macs, lanes = spec.array.macs_per_cycle(name), spec.array.engine.lanes(name)
        gops = Figure(peak_gops(spec, name, clock_hz), "GOPS", "measured", clock)
        step: Figure | None = None
        efficiency: Figure | None = None
        if energies is not None and name in energies.energy_fj:
            pj = word_fj(energies, name, clock_hz) / 1000
            source = f"gates of {energies.library}, {OPERANDS}; clock and leakage included"
            step = Figure(pj, "pJ", "measured", source)
            efficiency = Figure(OPERATIONS * lanes / pj, "TOPS/W", "measured", source)
        over, of_engines = _over(gops, area_um2), _over(gops, engines_um2)
        found.append(Peak(name, lanes, macs, gops, over, of_engines, step, efficiency))
    return tuple(found)


def _over(gops: Figure, area_um2: Figure) -> Figure:
    return Figure(gops.value / (area_um2.value / 1e6), "GOPS/mm2", area_um2.label, gops.source)


def word_fj(energies: Coefficients, name: str, clock_hz: float) -> float:
    """fJ of a mean word in a format, with the engine's clock and leakage in that cycle.

    Raises:
        TechError: a format whose energies were not measured.
    """
    words = SUMS * STEPS
    events = count(name, name, _stream(name)).sum(axis=0)
    leakage = energies.leakage_energy(1.0 / clock_hz)
    return float(energies.energy_of(name, events) / words + energies.clock_fj + leakage)


def _stream(name: str) -> Sums:
    random = np.random.default_rng(SEED)
    left, right = _words(name, random), _words(name, random)
    return Sums(
        left,
        right,
        np.arange(SUMS + 1, dtype=np.int64) * STEPS,
        np.array([0, SUMS], dtype=np.int64),
        np.zeros((SUMS, 4, 2), dtype=np.uint64),
        np.ones(SUMS, dtype=np.uint8),
        np.zeros((SUMS, 4), dtype=np.int64),
    )


def _words(name: str, random: np.random.Generator) -> NDArray[np.uint16]:
    """uint16 (words,): posits of a sigma of a half; of floats the largest is three sigmas."""
    fmt = formats.get(name)
    lanes = 16 // int(fmt.bits)
    scale = fmt.maxpos / 3 if isinstance(fmt, formats.FloatFormat) else 0.5
    codes = fmt.encode(random.standard_normal((SUMS * STEPS, lanes)) * scale)
    places = np.arange(lanes, dtype=np.uint32) * int(fmt.bits)
    words: NDArray[np.uint16] = (codes.astype(np.uint32) << places).sum(axis=1).astype(np.uint16)
    return words
