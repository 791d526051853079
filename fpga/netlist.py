"""A mapped netlist as integer arrays: instances of library cells, their pins, nets.

Nets 0 and 1 are the constants; -1 stands for a pin that is not connected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.tech.cells import CellLibrary

__all__ = ["CONSTANTS", "Netlist", "Port", "from_json"]

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
        nets: names, one a net.
        ports: of the top, by name.
        abc_delay_ps: what ABC printed last of its own timing, if its script asked for it.
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
    abc_delay_ps: float | None = None

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


def from_json(found: Mapping[str, Any], top: str, library: CellLibrary) -> Netlist:
    """A netlist of what :mod:`opennpe.fpga.synthesis` keeps: cells, ports and nets of a module."""
    numbers: dict[int, int] = {}

    def number(bit: int | str) -> int:
        if isinstance(bit, str):
            return int(bit == "1")
        return numbers.setdefault(bit, len(numbers) + CONSTANTS)

    ports = {
        name: Port(name, direction, np.array([number(bit) for bit in bits], np.int32))
        for name, (direction, bits) in found["ports"].items()
    }
    kinds = tuple(sorted({kind for kind, _ in found["cells"].values()}))
    index = {kind: at for at, kind in enumerate(kinds)}
    pins = {kind: tuple(library.cells[kind].pins) for kind in kinds}
    pin_net: list[int] = []
    for kind, connections in found["cells"].values():
        for pin in pins[kind]:
            bits = connections.get(pin, ())
            pin_net.append(number(bits[0]) if bits else -1)
    kind_of = np.array([index[kind] for kind, _ in found["cells"].values()], np.int32)
    widths = np.array([len(pins[kind]) for kind in kinds], np.int32)
    first_pin = np.concatenate(([0], np.cumsum(widths[kind_of]))).astype(np.int32)
    printed = [re.search(r"Delay = *([\d.]+) ps", line) for line in found["abc"]]
    return Netlist(
        top,
        library,
        kinds,
        tuple(found["cells"]),
        kind_of,
        first_pin,
        np.array(pin_net, np.int32),
        _net_names(found, numbers),
        ports,
        float(printed[-1][1]) if printed and printed[-1] else None,
    )


def _net_names(found: Mapping[str, Any], numbers: Mapping[int, int]) -> tuple[str, ...]:
    """Ports first, then wires of the design, then the instances that drive them."""
    names = ["0", "1", *("" for _ in numbers)]
    wires = [(name, bits) for name, (_, bits) in found["ports"].items()]
    for name, bits in [*wires, *found["nets"].items()]:
        for at, bit in enumerate(bits):
            if bit in numbers and not names[numbers[bit]]:
                names[numbers[bit]] = f"{name}[{at}]" if len(bits) > 1 else name
    return tuple(name or f"n{at}" for at, name in enumerate(names))
