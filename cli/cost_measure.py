"""Areas and stages of a spec's blocks: from the file that came along, else synthesised."""

from __future__ import annotations

from opennpe.cli.progress import Progress, Silent
from opennpe.golden.errors import TechError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.accesses import memory_shapes
from opennpe.sim.cost import is_whole
from opennpe.tech import areas
from opennpe.tech.areas import RECIPE, SpecArea
from opennpe.tech.cells import CellLibrary

__all__ = ["check_memories", "measure"]


def measure(
    spec: CoprocessorSpec,
    library: CellLibrary,
    kept: dict[str, SpecArea] | None = None,
    progress: Progress | None = None,
    recipe: str = RECIPE,
) -> SpecArea:
    """Areas of a spec in a library; the kept entry if its design, library and recipe are these.

    Args:
        kept: entries by library, spec and recipe; those that came along unless given.

    Raises:
        SpecError: no such recipe.
        TechError: a library that lacks what the design needs.
        ToolError: Yosys is missing or refuses.
    """
    from opennpe.fpga import area, recipes

    recipes.get(recipe)
    entries = areas.stored() if kept is None else kept
    held = entries.get(areas.entry_name(library.name, spec.name, recipe))
    if held is not None and held.key == area.design_key(spec, library, recipe):
        return held
    return area.measure(spec, library, recipe, progress or Silent())


def check_memories(spec: CoprocessorSpec, found: SpecArea) -> None:
    """Refuse areas that leave out other memories than those that the spec's macros stand for.

    A memory counted as macro and as flops, or as neither, would make a total that is none.

    Raises:
        TechError: one line with both lists.
    """
    from opennpe.fpga.area import macros_of

    if found.macros is None:
        return
    shapes = memory_shapes(spec).values() if is_whole(spec) else ()
    expected = macros_of(shapes)
    if expected != dict(found.macros):
        raise TechError(
            f"areas of {found.name} leave out the memories {_listed(dict(found.macros))}, the spec "
            f"has {_listed(expected)}: run `make cost`"
        )


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{count} of {size}" for size, count in sizes.items()) or "none"
