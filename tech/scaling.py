"""From one process node to another: two published methods and one calibrated constant, as data.

Stillmaker and Baas (Integration 58, 2017) fit polynomials in the supply voltage to simulations
with predictive models: relative energy and delay of a circuit at each node, and a table of areas.
Nodes they do not list lie on the straight line between their neighbours, in nanometres. At 32 nm
they have a high-performance and a low-power model: energy is taken from the low-power one (the
larger), delay from the high-performance one (the low-power model at 0.9 V is slower than 130 nm,
which no 28 nm design is).

DeepScaleTool (Sarangi and Baas, ISCAS 2021) fits published silicon. Of its factors, those from 45
and from 7 nm to 28 nm are stated here; a figure at 130 nm first goes to 45 nm by the other method.

The calibrated constants map areas and delays of this project's flow to a commercial one's: see
:data:`CALIBRATION`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from opennpe.golden.errors import DataError
from opennpe.tech.figures import Figure

__all__ = [
    "CALIBRATION",
    "TARGET_NM",
    "TARGET_V",
    "Calibration",
    "Quantity",
    "band",
    "deepscale",
    "stillmaker",
]

Quantity = Literal["area", "energy", "delay"]
TARGET_NM, TARGET_V = 28.0, 0.9
"""The node that published designs are compared at."""

STILLMAKER = "Stillmaker and Baas, Integration 58 (2017)"
DEEPSCALE = "DeepScaleTool, Sarangi and Baas, ISCAS 2021"

NODES = (130.0, 45.0, 32.0, 20.0, 7.0)
AREA: dict[float, dict[float, float]] = {
    130.0: {130.0: 1.0, 45.0: 0.16, 32.0: 0.072, 20.0: 0.033, 7.0: 0.0092},
    45.0: {130.0: 6.4, 45.0: 1.0, 32.0: 0.46, 20.0: 0.21, 7.0: 0.059},
    7.0: {130.0: 110.0, 45.0: 17.0, 32.0: 7.8, 20.0: 3.6, 7.0: 1.0},
}
"""Their table of areas, from node to node."""
ENERGY: dict[float, tuple[float, ...]] = {
    130.0: (7.171, -6.709, 2.904),
    45.0: (1.103, -0.362, 0.2767),
    32.0: (0.9559, -0.7823, 0.471),
    20.0: (0.373, -0.1582, 0.04104),
    7.0: (0.1776, -0.09097, 0.02447),
}
"""Relative energy: coefficients of the squared, the plain and the zeroth power of the voltage."""
DELAY: dict[float, tuple[float, ...]] = {
    130.0: (-76.65, 334.9, -493.4, 275.8),
    45.0: (-501.6, 1567.0, -1619.0, 566.1),
    32.0: (-1047.0, 2982.0, -2797.0, 873.5),
    20.0: (0.0, 34.63, -66.37, 41.15),
    7.0: (-28.58, 76.6, -70.26, 24.69),
}
"""Relative delay: coefficients from the third power down."""
NOMINAL_V = {130.0: 1.2, 45.0: 1.1, 7.0: 0.7}

DEEP: dict[float, dict[Quantity, float]] = {
    45.0: {"area": 0.35, "energy": 0.37, "delay": 0.67},
    7.0: {"area": 31.8, "energy": 3.36},
}
"""To 28 nm at 0.9 V; from 7 nm no delay is stated."""


@dataclass(frozen=True)
class Calibration:
    """A constant that maps our figures in a library to a commercial flow's at 28 nm.

    Attributes:
        factor: what ours is multiplied by.
        error: largest error when each design is left out of the fit in turn.
        domain: for what it holds.
        source: the designs.
    """

    factor: float
    error: float
    domain: str
    source: str


_FAMILY = (
    "PDPU's SystemVerilog by the same recipe against its TSMC 28 nm figures, five windowed "
    "configurations (docs/calibration.md)"
)


def _fit(
    area: float, area_error: float, delay: float, delay_error: float
) -> dict[Quantity, Calibration]:
    domain = "posit dot-product datapaths"
    carries = f"{domain} and pipeline stages; not a carry that ripples through a quire"
    return {
        "area": Calibration(area, area_error, f"{domain}, windowed and with a quire", _FAMILY),
        "delay": Calibration(delay, delay_error, carries, _FAMILY),
    }


CALIBRATION: dict[str, dict[str, dict[Quantity, Calibration]]] = {
    "ihp130": {
        "stock": _fit(0.1551, 0.049, 0.0854, 0.027),
        "sized": _fit(0.1508, 0.049, 0.1037, 0.080),
        "timing": _fit(0.1479, 0.035, 0.1284, 0.088),
    }
}
"""By library and recipe, of ``scripts/calibrate.py``; energy has none.

A recipe that makes our gates faster makes PDPU's so as well, while what is published stays: one
recipe's constant says nothing of another's gates.
"""


def _line(values: dict[float, float], node: float) -> float:
    """Straight line between the two neighbouring nodes."""
    for high, low in pairwise(NODES):
        if low <= node <= high:
            part = (high - node) / (high - low)
            return (1 - part) * values[high] + part * values[low]
    raise DataError(f"scaling knows nodes of {NODES[-1]:g} to {NODES[0]:g} nm, got {node:g} nm")


def _polynomial(coefficients: tuple[float, ...], voltage: float) -> float:
    found = 0.0
    for coefficient in coefficients:
        found = found * voltage + coefficient
    return found


def stillmaker(
    quantity: Quantity,
    node: float,
    voltage: float,
    to_node: float = TARGET_NM,
    to_voltage: float = TARGET_V,
) -> float:
    """The factor from a node at a voltage to another, by Stillmaker and Baas.

    Raises:
        DataError: a node there is no row for.
    """
    if node not in AREA:
        known = ", ".join(f"{n:g}" for n in AREA)
        raise DataError(f"no scaling from {node:g} nm: expected one of {known} nm")
    if quantity == "area":
        return _line(AREA[node], to_node)
    table = ENERGY if quantity == "energy" else DELAY
    target = _line({n: _polynomial(c, to_voltage) for n, c in table.items()}, to_node)
    return target / _polynomial(table[node], voltage)


def deepscale(quantity: Quantity, node: float, voltage: float) -> tuple[float, str] | None:
    """The factor to 28 nm by DeepScaleTool and how it came about; None where none is stated."""
    if node in DEEP:
        factor = DEEP[node].get(quantity)
        return None if factor is None else (factor, DEEPSCALE)
    first = stillmaker(quantity, node, voltage, 45.0, NOMINAL_V[45.0])
    return first * DEEP[45.0][quantity], f"to 45 nm by {STILLMAKER}, then {DEEPSCALE}"


def band(
    quantity: Quantity, figure: Figure, library: str, node: float, voltage: float, recipe: str
) -> dict[str, Figure]:
    """A measured figure at 28 nm by every method that has a factor, by the method's name.

    Args:
        figure: at the library's own node.
        library, node, voltage: of the library it was measured in.
        recipe: of the gates (:mod:`opennpe.fpga.recipes`); one that was not calibrated has none.

    Raises:
        DataError: a node there are no methods for.
    """
    own = f"{library} at {voltage:g} V"
    found = {
        "Stillmaker-Baas": figure.times(
            stillmaker(quantity, node, voltage), "scaled", f"from {own} by {STILLMAKER}"
        )
    }
    deep = deepscale(quantity, node, voltage)
    if deep is not None:
        found["DeepScaleTool"] = figure.times(deep[0], "scaled", f"from {own}, {deep[1]}")
    held = CALIBRATION.get(library, {}).get(recipe, {}).get(quantity)
    if held is not None:
        how = (
            f"from {own}, recipe {recipe}, by x {held.factor:g}: {held.source}; at most "
            f"{100 * held.error:.1f} % off where one is left out of the fit"
        )
        found["calibrated"] = figure.times(held.factor, "calibrated", how)
    return found
