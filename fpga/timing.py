"""Static timing of a mapped netlist: arrivals, slews, the delay of every arc, worst paths.

Edges are numbered 0 rise, 1 fall. No wires unless a capacitance a fan-out is given; the clock
arrives everywhere at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga.netlist import Netlist

__all__ = ["FALL", "RISE", "Path", "Step", "Timing"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
RISE, FALL = 0, 1


@dataclass(frozen=True)
class Step:
    """One arc of a path: through ``instance`` from ``input`` to ``output``, onto ``net``."""

    instance: str
    cell: str
    input: str
    output: str
    net: str
    edge: str
    delay_ps: float
    arrival_ps: float


@dataclass(frozen=True)
class Path:
    """From a register or an input to a register or an output.

    Attributes:
        start, end: names of the register bits or ports.
        steps: the gates between.
        clock_to_output_ps: of the register it starts at; 0 at a port.
        setup_ps: of the register it ends at; 0 at a port.
    """

    start: str
    end: str
    steps: tuple[Step, ...]
    clock_to_output_ps: float
    setup_ps: float

    @property
    def logic_ps(self) -> float:
        """Between the registers."""
        return sum(step.delay_ps for step in self.steps)

    @property
    def total_ps(self) -> float:
        """With the registers at both ends."""
        return self.clock_to_output_ps + self.logic_ps + self.setup_ps


@dataclass(frozen=True, eq=False)
class Timing:
    """What :func:`analyse` finds.

    Attributes:
        netlist: what was timed.
        load_ff: float64 (nets,): input pins and wire of each net.
        arrival_ps, slew_ps: float64 (nets, 2), by edge; -inf and 0 where no path leads.
        first_arc: int32 (instances + 1,): arcs of instance i are
            ``first_arc[i]:first_arc[i + 1]``, in the order of its cell's ``arcs``.
        delay_ps: float64 (arcs, 2), by the output's edge, at the slews and loads found; of an
            "either" arc the worse of the two input edges.
        energy_fj: float64 (arcs, 2), the cell's own energy of such an edge.
        worst: the longest path, registers at both ends counted.
        worst_between_registers: the longest that begins and ends in one; None without registers.
        worst_logic: longest of all when register outputs and ports start at 0 with the input
            slew: what ABC prints, register outputs and inputs being its inputs and outputs.
        stages, stages_logic: worst path by stage, which is what the captured register's name
            begins with ("m" of ``m_product``), and "output" for ports; counted either way.
    """

    netlist: Netlist
    load_ff: Floats
    arrival_ps: Floats
    slew_ps: Floats
    first_arc: Ints
    delay_ps: Floats
    energy_fj: Floats
    worst: Path
    worst_between_registers: Path | None
    worst_logic: Path
    stages: dict[str, Path]
    stages_logic: dict[str, Path]
