"""Memories as facts: what a macro of so many words and bits takes of area and energy.

At 130 nm a memory is put together from whole single-port macros of IHP's library (areas, energies
and leakage are the library's own), the set of least area: macros beside each other for a wider
line, behind each other for more lines, several lines in a word where the macro is wider. At 28 nm
the facts are CACTI 7's for reads of 64 bits at four sizes (within a factor of two): energy lies on
straight lines between them on logarithmic axes and in proportion to the width; a memory smaller
than the smallest costs what the smallest does, a larger one goes on as the last two do. 7 nm is
28 nm by Stillmaker and Baas backwards.

Not included: a second port. The co-processor's memories have one port to read and one to write;
macros of one port serve it at twice the clock or in two banks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from opennpe.golden.errors import DataError
from opennpe.tech.figures import Figure, Label
from opennpe.tech.scaling import TARGET_NM, stillmaker

__all__ = ["EXTERNAL_PJ_PER_BIT", "Macro", "Memory", "Shape", "macros", "memory"]

EXTERNAL_PJ_PER_BIT = {"lpddr4": 8.0, "hbm2": 3.97, "ddr3": 70.0}
"""External memory, interface included; LPDDR4 (hwcomponents) unless said otherwise. A parameter."""

CACTI_SOURCE = "CACTI 7, 64-bit reads, 28 nm between 22 and 32 nm"
CACTI_SPREAD = 2.0
CACTI_READ_PJ = {1024: 0.57, 8192: 2.3, 32768: 6.2, 131072: 11.4}
"""Energy of a 64-bit read at 28 nm, by bytes."""
CACTI_MM2 = {
    32.0: {1024: 0.0018, 8192: 0.0133, 32768: 0.0480, 131072: 0.217},
    22.0: {1024: 0.0009, 8192: 0.0063, 32768: 0.0267, 131072: 0.103},
}
"""Areas by node and bytes."""
MACRO_FILE = Path(__file__).with_name("ihp130_sram.json")


@dataclass(frozen=True)
class Shape:
    """A memory of ``words`` of ``bits``, so many times."""

    name: str
    words: int
    bits: int
    copies: int = 1

    @property
    def bytes(self) -> float:
        """Of all copies."""
        return self.copies * self.words * self.bits / 8


@dataclass(frozen=True)
class Macro:
    """A memory macro; energies are those of one access of a whole word."""

    name: str
    words: int
    bits: int
    area_um2: float
    read_pj: float
    write_pj: float
    leakage_nw: float
    access_ns: float


@dataclass(frozen=True)
class Memory:
    """A memory in a technology; area and leakage are those of all copies.

    Attributes:
        read_pj, write_pj: an access of one copy.
        access_ps: from the clock to what was read; 0 where it is not known.
        made_of: macros or rule, in words.
    """

    shape: Shape
    area_um2: Figure
    read_pj: Figure
    write_pj: Figure
    leakage_nw: Figure
    access_ps: float
    made_of: str


@cache
def macros() -> tuple[Macro, ...]:
    """IHP's macros at 1.2 V, 25 C.

    Raises:
        DataError: the file of facts is damaged.
    """
    held = json.loads(MACRO_FILE.read_text(encoding="utf-8"))
    try:
        rows = held["macros"]
        return tuple(
            Macro(
                name,
                int(row["words"]),
                int(row["bits"]),
                float(row["area_um2"]),
                float(row["read_pj"]),
                float(row["write_pj"]),
                float(row["leakage_nw"]),
                float(row["access_ns"]),
            )
            for name, row in rows.items()
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{MACRO_FILE.name} lacks {error}") from error


def memory(shape: Shape, node: float) -> Memory:
    """A memory at 130, 28 or 7 nm.

    Raises:
        DataError: another node.
    """
    if node == 130.0:
        return _of_macros(shape)
    if node == TARGET_NM:
        return _of_cacti(shape, 1.0, 1.0, CACTI_SOURCE)
    if node == 7.0:
        area, energy = (stillmaker(q, 7.0, 0.7) for q in ("area", "energy"))
        return _of_cacti(shape, 1 / area, 1 / energy, f"{CACTI_SOURCE}; to 7 nm by Stillmaker-Baas")
    raise DataError(f"memories are known at 130, 28 and 7 nm, got {node:g} nm")


def _choice(shape: Shape, macro: Macro) -> tuple[int, int]:
    """Macros beside and behind each other."""
    beside = -(-shape.bits // macro.bits)
    lines = max(1, macro.bits // shape.bits)
    return beside, -(-shape.words // (macro.words * lines))


def _of_macros(shape: Shape) -> Memory:
    def cost(macro: Macro) -> tuple[float, float]:
        beside, behind = _choice(shape, macro)
        return beside * behind * macro.area_um2, beside * macro.read_pj

    best = min(macros(), key=cost)
    beside, behind = _choice(shape, best)
    count = beside * behind * shape.copies
    source = f"IHP SG13G2 library, {best.name}"

    def figure(value: float, unit: str) -> Figure:
        return Figure(value, unit, "measured", source)

    return Memory(
        shape,
        figure(count * best.area_um2, "um2"),
        figure(beside * best.read_pj, "pJ"),
        figure(beside * best.write_pj, "pJ"),
        figure(count * best.leakage_nw, "nW"),
        1000 * best.access_ns,
        f"{count} x {best.name}",
    )


def _power_law(table: Mapping[int, float], size: float) -> float:
    """Straight lines on logarithmic axes; flat below the first, the last one's slope beyond."""
    sizes = sorted(table)
    if size <= sizes[0]:
        return table[sizes[0]]
    pairs = list(pairwise(sizes))
    low, high = next((p for p in pairs if size <= p[1]), pairs[-1])
    slope = math.log(table[high] / table[low]) / math.log(high / low)
    return float(table[low] * (size / low) ** slope)


def _of_cacti(shape: Shape, area_factor: float, energy_factor: float, source: str) -> Memory:
    size = shape.bytes / shape.copies
    part = math.log(32.0 / TARGET_NM) / math.log(32.0 / 22.0)
    at = {n: _power_law(table, size) for n, table in CACTI_MM2.items()}
    mm2 = at[32.0] * (at[22.0] / at[32.0]) ** part
    read = _power_law(CACTI_READ_PJ, size) * shape.bits / 64
    label: Label = "scaled"

    def figure(value: float, unit: str, what: str = source, spread: float = CACTI_SPREAD) -> Figure:
        return Figure(value, unit, label, what, spread)

    return Memory(
        shape,
        figure(1e6 * mm2 * area_factor * shape.copies, "um2"),
        figure(read * energy_factor, "pJ"),
        figure(read * energy_factor, "pJ", f"{source}; a write taken as a read"),
        figure(0.0, "nW", "not known: left out", 1.0),
        0.0,
        "CACTI",
    )
