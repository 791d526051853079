"""Recipes: how a design becomes gates, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opennpe.golden.errors import SpecError

__all__ = ["RECIPES", "Recipe", "get"]

DEFAULT = "strash;&get -n;&fraig -x;&put;scorr;dc2;dretime;strash;&get -n;&dch -f;&nf;&put"
"""ABC's script in Yosys 0.70 when a Liberty file and no constraints are given."""


@dataclass(frozen=True)
class Recipe:
    """Passes and scripts.

    Attributes:
        abc: ABC's commands.
        booth: multipliers by Booth's recoding.
        clock_gates: registers with an enable behind the library's clock gate, from this many on;
            0 for none.
        constrained: ABC is told what drives an input and loads an output (``-constr``).
        about: in a line.
    """

    name: str
    abc: str
    booth: bool = False
    clock_gates: int = 0
    constrained: bool = False
    about: str = ""


SIZED = (
    "strash;&get -n;&fraig -x;&put;scorr;dc2;dretime;strash;dch -f;map -B 0.9;topo;"
    "buffer -c;upsize;dnsize"
)
"""Mapped for delay, high fan-outs buffered, then sized: up where the path is, down elsewhere."""
PRINTED = ";topo;stime -p"
"""ABC prints its own timing of what it gives back, which the netlist remembers."""
CONSTRAINED = ";buffer -c;topo;upsize;dnsize;stime -p"
"""What Yosys 0.70 appends to its script when it is given constraints."""
LOAD_FF = 10
"""On every output, as ABC's ``set_load``."""

_STOCK = Recipe(
    "stock", DEFAULT + PRINTED, about="Yosys and ABC as they come; published areas calibrate it"
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _STOCK,
        replace(_STOCK, name="booth", booth=True, about="stock with Booth multipliers"),
        Recipe(
            "sized",
            DEFAULT + CONSTRAINED,
            constrained=True,
            about="stock, then ABC's own buffering and sizing under a driving cell and a load",
        ),
        Recipe("timing", SIZED + ";stime -p", about="mapped for delay, buffered and sized"),
    )
}


def get(name: str) -> Recipe:
    """A recipe by name; "+gated" behind it asks for clock gates.

    Raises:
        SpecError: no such recipe.
    """
    plain, gated, rest = name.partition("+gated")
    if plain not in RECIPES or rest:
        raise SpecError(
            f"unknown recipe '{name}': expected one of {', '.join(RECIPES)}, with +gated for "
            "clock gates"
        )
    recipe = RECIPES[plain]
    return replace(recipe, name=name, clock_gates=GATED) if gated else recipe


GATED = 4
"""Registers of one enable that are worth a clock gate."""
