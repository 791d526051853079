"""Areas and stages of a spec's blocks: synthesised and timed, or taken from the file kept.

Blocks that hold memories (rows, weights, results, dispatcher) are not mapped here; a report says
so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from opennpe.cli.progress import Progress, Silent
from opennpe.fpga.netlist import Netlist
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost import ENGINES, is_whole
from opennpe.tech import areas
from opennpe.tech.areas import Block, SpecArea
from opennpe.tech.cells import CellLibrary

__all__ = ["UNMAPPED", "measure"]

UNMAPPED = ("rows", "weights", "results", "dispatcher")
"""Blocks of a co-processor whose logic is not measured: they hold memories."""
RECIPE = "stock"


def _components(spec: CoprocessorSpec) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Copies and maker of each block."""
    from opennpe.rtl.engine import Engine

    engines = spec.array.rows * spec.array.columns
    found: dict[str, tuple[int, Callable[[], Any]]] = {
        ENGINES: (engines, lambda: Engine(spec.engine))
    }
    if is_whole(spec):
        from opennpe.rtl.control import Control
        from opennpe.rtl.fill import Fill
        from opennpe.rtl.load import Load
        from opennpe.rtl.store import Store

        parts: dict[str, Any] = {"load": Load, "store": Store, "fill": Fill, "control": Control}
        found |= {name: (1, partial(part, spec)) for name, part in parts.items()}
    return found


def measure(
    spec: CoprocessorSpec,
    library: CellLibrary,
    kept: dict[str, SpecArea] | None = None,
    progress: Progress | None = None,
) -> SpecArea:
    """Areas of a spec in a library; the kept entry if its design and library are these.

    Args:
        kept: entries by library and spec; those that came along unless given.

    Raises:
        TechError: a library that lacks what the design needs.
        ToolError: Yosys is missing or refuses.
    """
    from opennpe.fpga.synthesis import VERSION, verilog_of

    progress = progress or Silent()
    texts = {}
    for name, (copies, make) in _components(spec).items():
        texts[name] = copies, verilog_of(make(), _top(name))
    seed = "\n".join(f"{copies} {text}" for copies, text in texts.values())
    about = f"{VERSION} {RECIPE} {library.name} {library.sha256} {seed}"
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    held = (areas.stored() if kept is None else kept).get(f"{library.name}/{spec.name}")
    if held is not None and held.key == key:
        return held
    progress.stage(f"synthesis of {spec.name} in {library.name}", len(texts))
    blocks, flop = [], 0.0
    for name, (copies, text) in texts.items():
        block, clock = _block(name, copies, text, library)
        blocks.append(block)
        flop = flop or clock
        progress.advance()
    ordered = tuple(sorted(blocks, key=lambda block: -block.area_um2))
    return SpecArea(spec.name, library.name, library.node_nm, library.voltage_v, key, flop, ordered)


def _top(name: str) -> str:
    return f"opennpe_{name}"


def _block(name: str, copies: int, text: str, library: CellLibrary) -> tuple[Block, float]:
    """A block and the energy of a cycle at one flop's clock pin, fJ."""
    from opennpe.fpga.synthesis import synthesise
    from opennpe.fpga.timing import analyse

    netlist = synthesise(text, library, top=_top(name), recipe=RECIPE)
    path = analyse(netlist).worst_between_registers
    block = Block(
        name,
        copies,
        copies * netlist.area_um2,
        copies * len(netlist.registers),
        copies * netlist.leakage_nw,
        path.total_ps if path is not None else 0.0,
        path.stage if path is not None else "",
    )
    return block, _clock_fj(netlist)


def _clock_fj(netlist: Netlist) -> float:
    """A cycle at a flop's clock pin: both edges inside the cell, and its capacitance once."""
    library, total, count = netlist.library, 0.0, 0
    for name, instances in netlist.counts.items():
        cell = library.cells[name]
        if cell.sequential is None or cell.sequential.kind != "flop":
            continue
        for pin in cell.pins.values():
            if pin.clock:
                total += instances * pin.cycle_fj(library.voltage_v)
        count += instances
    return total / count if count else 0.0
