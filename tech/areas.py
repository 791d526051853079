"""Areas of whole designs by block, as measured on our netlists and kept in a file.

``areas.json`` holds what ``make cost`` found, so that a network's cost takes no synthesis. Each
entry carries a key, a hash of the design and of the library it was mapped to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opennpe.golden.errors import TechError
from opennpe.golden.whole import replacing

__all__ = ["FILE", "RECIPE", "Block", "SpecArea", "entry_name", "load", "save", "stored"]

FILE = Path(__file__).with_name("areas.json")
SCHEMA = 2
RECIPE = "timing"
"""The recipe that figures are of unless another is asked for: gates sized, high fan-outs buffered.
As the tools come, one register drives hundreds of gates, and a clock says nothing of the design."""
MAX_BYTES = 1 << 20
SAME = 1e-3
"""A path of all blocks is that of one block within so much: it drives another block's pins too."""


@dataclass(frozen=True)
class Block:
    """A block of a design, all its copies together; memories are left out.

    Attributes:
        name: as the design calls it. copies: how many there are.
        registers: flops. leakage_nw: of its cells.
        stage_ps: longest path between registers. stage: where it ends.
    """

    name: str
    copies: int
    area_um2: float
    registers: int
    leakage_nw: float
    stage_ps: float
    stage: str = ""


@dataclass(frozen=True)
class SpecArea:
    """A design in a library.

    Attributes:
        key: hash of the design, of the library and of the recipe.
        flop_clock_fj: energy of a clock cycle at one flop's clock pin, the mean of all.
        blocks: largest first.
        recipe: of the synthesis.
        macros: memories that are left out, by words and bits: "2048x32"; None where not counted.
        across_ps: longest path of all blocks put together; 0 where it was not looked for.
        across: from which block to which.
    """

    spec: str
    library: str
    node_nm: float
    voltage_v: float
    key: str
    flop_clock_fj: float
    blocks: tuple[Block, ...]
    recipe: str = "stock"
    macros: Mapping[str, int] | None = None
    across_ps: float = 0.0
    across: str = ""

    @property
    def name(self) -> str:
        """What the entry is stored as: "ihp130/EDGE_4X4/timing"."""
        return entry_name(self.library, self.spec, self.recipe)

    @property
    def area_um2(self) -> float:
        """All blocks."""
        return sum(block.area_um2 for block in self.blocks)

    @property
    def registers(self) -> int:
        """All blocks."""
        return sum(block.registers for block in self.blocks)

    @property
    def leakage_nw(self) -> float:
        """All blocks."""
        return sum(block.leakage_nw for block in self.blocks)

    @property
    def slowest(self) -> Block:
        """The block with the longest path between registers."""
        return max(self.blocks, key=lambda block: block.stage_ps)

    @property
    def period_ps(self) -> float:
        """The shortest that all paths allow, inside blocks and across them."""
        return max(self.slowest.stage_ps, self.across_ps)

    @property
    def limit(self) -> str:
        """What that is."""
        block = self.slowest
        if self.across_ps > block.stage_ps * (1 + SAME):
            return f"a path {self.across}"
        return f"a stage of {block.name}" + (f" that ends at {block.stage}" if block.stage else "")

    def summary(self) -> dict[str, Any]:
        """JSON-ready, units in the keys."""
        return {**asdict(self), "blocks": [asdict(block) for block in self.blocks]}


def entry_name(library: str, spec: str, recipe: str) -> str:
    """Of a design in a library by a recipe."""
    return f"{library}/{spec}/{recipe}"


def stored(path: Path = FILE) -> dict[str, SpecArea]:
    """Every entry by :attr:`SpecArea.name`; none where there is no file.

    Raises:
        TechError: a file that is none of areas.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] != SCHEMA:
            raise ValueError(f"schema {held['schema']}, expected {SCHEMA}")
        return {name: _entry(entry) for name, entry in held["designs"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TechError(f"{path.name} is no file of areas: {error}; run `make cost`") from error


def _entry(entry: dict[str, Any]) -> SpecArea:
    return SpecArea(**{**entry, "blocks": tuple(Block(**block) for block in entry["blocks"])})


@lru_cache
def _shipped(changed: int) -> dict[str, SpecArea]:
    return stored()


def load(library: str, spec: str, recipe: str = RECIPE) -> SpecArea:
    """A design's areas as they came along.

    Raises:
        TechError: not measured; the message lists what is.
    """
    found = _shipped(FILE.stat().st_mtime_ns if FILE.is_file() else 0)
    name = entry_name(library, spec, recipe)
    if name not in found:
        there = ", ".join(found) or "none"
        raise TechError(
            f"no areas of {spec} in {library} by recipe {recipe} are kept, only {there}: run "
            f"`opennpe cost --spec {spec} --recipe {recipe}`"
        )
    return found[name]


def save(entries: dict[str, SpecArea], path: Path = FILE) -> None:
    """Write the file whole or not at all."""
    held = {
        "schema": SCHEMA,
        "units": "um2, ps, nW, fJ",
        "designs": {name: entries[name].summary() for name in sorted(entries)},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
