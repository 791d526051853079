"""Energy of an engine by what its words do: measured on gates, kept as a file.

The engine's energy is a sum over classes of events, the same ones in every mode: how often one
happened (:mod:`opennpe.sim.activity` counts that) times what it costs in the mode (measured by
:mod:`opennpe.fpga.characterise` on the netlist). The clock and leakage go by cycles, whatever the
engine does in them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden.errors import TechError
from opennpe.golden.whole import replacing

__all__ = ["CLASSES", "MODES", "SCHEMA", "Coefficients", "load", "mode_of", "save", "shipped"]

Floats = NDArray[np.float64]
SCHEMA = 1

MODES = ("fp4", "fp4+posit4", "posit4", "posit8", "posit16")
"""What the operands of an engine are; the second stands for both orders."""

CLASSES = (
    "word",
    "zero_word",
    "change",
    "sum",
    "gap",
    "lane",
    "port_a",
    "port_b",
    "decode_a",
    "decode_b",
    "operand",
    "partial",
    "product",
    "shift",
    "addend",
    "latched",
    "added",
    "base",
    "total",
    "carry",
    "bias",
    "drained",
    "held",
    "window",
    "fraction",
    "place",
    "rounded",
    "exponent",
    "ones",
)
"""What is counted.

word: word pairs that do work. zero_word: those with a word of zeros, for which what multiplies and
aligns stands still. change: from the one to the other. sum: sums begun. gap: sums shorter than
there are lanes, whose last word waits until those before have left. lane: lanes that leave,
normalised and rounded. ones: bits set in their magnitudes.

The others count toggles (bits that differ from one word to the next) of what each step sees: the
words at the ports; significands and exponents as they are decoded; those held for the multiplier,
where words of zeros leave no trace; the product; the exponent that it is shifted by. On the
accumulator's grid, where a negative product is inverted: addend, as it is aligned; latched, as it
is held; added, as it enters the adder, zero for words of zeros and in gaps. base: what it is added
to, the bias where a sum begins. total, carry: of the sum. partial: bits of one significand that
toggle times ones in the other, both ways. bias: from sum to sum.

Of lanes that leave, from one that the normaliser sees to the next (zeros between sums that do not
follow each other at once): drained: the sum, where each lane has slots of its own. held: lanes that
wait. window: what the leading bit is found in. fraction, place: what follows it, and where it was
found. rounded: fractions as they are rounded. exponent: with the shift.
"""

LIMITS = {"modes": 16, "bytes": 1 << 20}
FOLDER = Path(__file__).with_name("measured")


def mode_of(a: str, b: str) -> str:
    """The mode of two engine formats of equal width.

    Raises:
        TechError: they are no mode of the engine.
    """
    if a == b and a in MODES:
        return a
    if {a, b} == {"fp4", "posit4"}:
        return "fp4+posit4"
    raise TechError(f"no energies are known for {a} by {b}: expected one of {', '.join(MODES)}")


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What an engine of one netlist costs.

    Attributes:
        library: the cells' short name. node_nm, voltage_v: of its corner.
        recipe: of the synthesis.
        engine_hash: of the Verilog that was synthesised, so that stale energies are noticed.
        cells, area_um2: of the netlist.
        energy_fj: float64 (classes,) by mode, of one event, without clock and leakage.
        clock_fj: of one engine cycle with a word: both edges at every clock pin that moves
            whatever the word is. Where clock gates are, what they let through is part of the
            events' energy.
        clock_held_fj: the same of a cycle without a word; equal to ``clock_fj`` where the netlist
            has no clock gates.
        leakage_nw: of one engine.
        worst_error: by mode, the largest error of a layer that was not fitted (a fraction).
        notes: what the figures rest on.
    """

    library: str
    node_nm: float
    voltage_v: float
    recipe: str
    engine_hash: str
    cells: int
    area_um2: float
    energy_fj: dict[str, Floats]
    clock_fj: float
    clock_held_fj: float
    leakage_nw: float
    worst_error: dict[str, float]
    notes: tuple[str, ...] = ()

    def energy_of(self, mode: str, counts: ArrayLike) -> float:
        """fJ of counted events (classes,) in a mode, clock and leakage not included.

        Raises:
            TechError: a mode that was not measured, or counts of other classes.
        """
        if mode not in self.energy_fj:
            raise TechError(f"{self.library} has no energies for {mode}: characterise the engine")
        found = np.asarray(counts, dtype=np.float64)
        if found.shape != (len(CLASSES),):
            raise TechError(f"counts of {len(CLASSES)} classes expected, got shape {found.shape}")
        return float(self.energy_fj[mode] @ found)

    def clock_energy(self, cycles: float, gated: float = 0.0) -> float:
        """fJ of the clock in so many engine cycles; ``gated``: the share with the clock off."""
        return self.clock_fj * cycles * (1.0 - _share(gated))

    def leakage_energy(self, seconds: float, off: float = 0.0) -> float:
        """fJ that one engine leaks; ``off``: the share of leakage that power gating takes away."""
        # nW times s is nJ.
        return self.leakage_nw * seconds * 1e6 * (1.0 - _share(off))

    def summary(self) -> dict[str, Any]:
        """JSON-ready, with the units in the keys."""
        return {
            "schema": SCHEMA,
            "library": self.library,
            "node_nm": self.node_nm,
            "voltage_v": self.voltage_v,
            "recipe": self.recipe,
            "engine_hash": self.engine_hash,
            "cells": self.cells,
            "area_um2": self.area_um2,
            "clock_fj_per_cycle": self.clock_fj,
            "clock_held_fj_per_cycle": self.clock_held_fj,
            "leakage_nw": self.leakage_nw,
            "classes": list(CLASSES),
            "energy_fj_per_event": {
                mode: [float(f"{x:.6g}") for x in values] for mode, values in self.energy_fj.items()
            },
            "worst_error": {mode: round(x, 5) for mode, x in self.worst_error.items()},
            "notes": list(self.notes),
        }


def _share(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise TechError(f"a share lies in 0 to 1, got {value}")
    return value


def save(coefficients: Coefficients, path: str | os.PathLike[str]) -> None:
    """Write the file whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        text = json.dumps(coefficients.summary(), indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8")


def shipped() -> tuple[str, ...]:
    """Libraries whose energies are there."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(name: str | os.PathLike[str]) -> Coefficients:
    """By a library's short name or a file's path.

    Raises:
        TechError: no such file, or one that is not such a file.
    """
    path = Path(name)
    if path.suffix != ".json":
        path = FOLDER / f"{name}.json"
        if not path.is_file():
            there = ", ".join(shipped()) or "none"
            raise TechError(f"no energies for library '{name}': there are {there}")
    try:
        if path.stat().st_size > LIMITS["bytes"]:
            raise TechError(f"{path.name} is larger than a file of energies can be")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, TechError):
            raise
        raise TechError(f"{path.name} cannot be read as energies of an engine: {error}") from error
    return _checked(path.name, found)


def _checked(name: str, found: Any) -> Coefficients:
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        given = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise TechError(f"{name} has schema {given}, expected {SCHEMA}: characterise the engine")
    if found.get("classes") != list(CLASSES):
        raise TechError(f"{name} has energies of other classes: characterise the engine again")
    try:
        energy = {
            str(mode): np.asarray(values, dtype=np.float64)
            for mode, values in found["energy_fj_per_event"].items()
        }
        result = Coefficients(
            library=str(found["library"]),
            node_nm=float(found["node_nm"]),
            voltage_v=float(found["voltage_v"]),
            recipe=str(found["recipe"]),
            engine_hash=str(found["engine_hash"]),
            cells=int(found["cells"]),
            area_um2=float(found["area_um2"]),
            energy_fj=energy,
            clock_fj=float(found["clock_fj_per_cycle"]),
            clock_held_fj=float(found["clock_held_fj_per_cycle"]),
            leakage_nw=float(found["leakage_nw"]),
            worst_error={str(m): float(x) for m, x in found["worst_error"].items()},
            notes=tuple(str(x) for x in found["notes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TechError(f"{name} is no file of energies of an engine: {error!r}") from error
    for mode, values in result.energy_fj.items():
        if mode not in MODES or values.shape != (len(CLASSES),) or not np.isfinite(values).all():
            raise TechError(f"{name}: energies of mode '{mode}' are not {len(CLASSES)} numbers")
    figures = (result.clock_fj, result.clock_held_fj, result.leakage_nw, result.area_um2)
    if not np.isfinite(figures).all() or min(figures) < 0:
        raise TechError(f"{name}: clock, leakage and area are numbers of at least 0")
    return result
