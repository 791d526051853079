"""A mapped netlist as integer arrays: instances of library cells, their pins, nets.

Nets 0 and 1 are the constants; -1 stands for a pin that is not connected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from opennpe.tech.cells import CellLibrary

__all__ = ["CONSTANTS", "Netlist", "Port"]

Ints = NDArray[np.int32]
CONSTANTS = 2
"""Nets 0 and 1 hold the constants 0 and 1; the others follow."""


@dataclass(frozen=True, eq=False)
class Port:
    """A port of the top. ``nets``: int32 (width,), lowest bit first."""

    name: str
    direction: str
    nets: Ints


@dataclass(frozen=True, eq=False)
class Netlist:
    """One flat module of library cells.

    Attributes:
        top: the module's name.
        library: the library it is mapped to. A cell's pins are numbered in the order of
            ``library.cells[name].pins``, its arcs in that of ``.arcs``.
        kinds: names of the cells in use.
        instances: names, one an instance. A flop is called after the register bit it holds:
            ``m_product[3]``.
        kind: int32 (instances,), index into ``kinds``.
        first_pin: int32 (instances + 1,): pins of instance i are ``first_pin[i]:first_pin[i+1]``.
        pin_net: int32 (pins,), net of each pin.
        nets: names, one a net: as in ``verilog``.
        ports: of the top, by name.
        verilog: the same netlist as text, with the same names.
    """

    top: str
    library: CellLibrary
    kinds: tuple[str, ...]
    instances: tuple[str, ...]
    kind: Ints
    first_pin: Ints
    pin_net: Ints
    nets: tuple[str, ...]
    ports: dict[str, Port]
    verilog: str = field(default="", repr=False)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Instances by cell name."""
        found = np.bincount(self.kind, minlength=len(self.kinds))
        return {name: int(count) for name, count in zip(self.kinds, found, strict=True)}

    @property
    def area_um2(self) -> float:
        """Sum over the instances."""
        return sum(self.library.cells[name].area_um2 * n for name, n in self.counts.items())

    @property
    def leakage_nw(self) -> float:
        """Sum over the instances."""
        return sum(self.library.cells[name].leakage_nw * n for name, n in self.counts.items())

    @cached_property
    def registers(self) -> tuple[int, ...]:
        """Instances that are flops."""
        flops = {
            index
            for index, name in enumerate(self.kinds)
            if (state := self.library.cells[name].sequential) and state.kind == "flop"
        }
        return tuple(int(i) for i in np.flatnonzero(np.isin(self.kind, list(flops))))
