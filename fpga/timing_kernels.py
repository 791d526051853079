"""Kernels of static timing. In one file, because numba's cache knows only a kernel's own file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from opennpe.fpga.arc_tables import Arcs, Surfaces

__all__ = ["Gates", "Run", "at", "order", "propagate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
POSITIVE, NEGATIVE, EITHER = range(3)
LOGIC, CLOCK = range(2)


class Gates(NamedTuple):
    """A netlist's arrays: int32 (instances,), (instances + 1,), (pins,), (instances + 1,)."""

    kind: Ints
    first_pin: Ints
    pin_net: Ints
    first_arc: Ints


class Run(NamedTuple):
    """What a propagation fills, by net or arc and edge.

    Attributes:
        arrival, slew: float64 (nets, 2).
        arc, edge, instance: int32 (nets, 2), what the latest arrival came through: the arc of the
            netlist, the edge of its input, the instance; -1 where a path starts.
        delay, energy: float64 (arcs, 2).
    """

    arrival: Floats
    slew: Floats
    arc: Ints
    edge: Ints
    instance: Ints
    delay: Floats
    energy: Floats


@njit(cache=True)
def at(tables: Surfaces, number: int, slew: float, load: float) -> float:
    """A surface's value, bilinear, extended beyond its points. As :meth:`Surface.at`."""
    rows, columns = tables.shape[number]
    place_s, place_l = tables.axis[number]
    i = 0
    while i < rows - 2 and slew >= tables.points[place_s + i + 1]:
        i += 1
    j = 0
    while j < columns - 2 and load >= tables.points[place_l + j + 1]:
        j += 1
    i_next, j_next = min(i + 1, rows - 1), min(j + 1, columns - 1)
    u = v = 0.0
    if rows > 1:
        low = tables.points[place_s + i]
        u = (slew - low) / (tables.points[place_s + i + 1] - low)
    if columns > 1:
        low = tables.points[place_l + j]
        v = (load - low) / (tables.points[place_l + j + 1] - low)
    begin = tables.begin[number]
    a = tables.values[begin + i * columns + j]
    b = tables.values[begin + i * columns + j_next]
    c = tables.values[begin + i_next * columns + j]
    d = tables.values[begin + i_next * columns + j_next]
    left = a + v * (b - a)
    return float(left + u * (c + v * (d - c) - left))


@njit(cache=True)
def order(gates: Gates, arcs: Arcs, nets: int) -> Ints:
    """Instances so that each comes after those that drive its logic; fewer than all on a loop."""
    count = len(gates.kind)
    waits = np.zeros(count, np.int32)
    starts = np.ones(count, np.bool_)
    reader_count = np.zeros(nets + 1, np.int32)
    drives = np.zeros(nets, np.bool_)
    # Arcs by net they come from, and which nets a gate's logic drives.
    for instance in range(count):
        kind = gates.kind[instance]
        for arc in range(arcs.first[kind], arcs.first[kind + 1]):
            if arcs.role[arc] == LOGIC:
                starts[instance] = False
                source = gates.pin_net[gates.first_pin[instance] + arcs.pins[arc, 0]]
                target = gates.pin_net[gates.first_pin[instance] + arcs.pins[arc, 1]]
                if source >= 0:
                    reader_count[source + 1] += 1
                if target >= 0:
                    drives[target] = True
    begin = np.cumsum(reader_count)
    readers = np.zeros(begin[-1], np.int32)
    filled = begin.copy()
    for instance in range(count):
        kind = gates.kind[instance]
        for arc in range(arcs.first[kind], arcs.first[kind + 1]):
            if arcs.role[arc] == LOGIC:
                source = gates.pin_net[gates.first_pin[instance] + arcs.pins[arc, 0]]
                if source >= 0:
                    readers[filled[source]] = instance
                    filled[source] += 1
                    if drives[source]:
                        waits[instance] += 1
    result = np.zeros(count, np.int32)
    last = 0
    # Registers first: gates do not wait for them, yet their paths start there.
    for starting in (True, False):
        for instance in range(count):
            if waits[instance] == 0 and starts[instance] == starting:
                result[last] = instance
                last += 1
    done = np.zeros(nets, np.bool_)
    at_ = 0
    while at_ < last:
        instance = result[at_]
        at_ += 1
        kind = gates.kind[instance]
        for arc in range(arcs.first[kind], arcs.first[kind + 1]):
            if arcs.role[arc] != LOGIC:
                continue
            target = gates.pin_net[gates.first_pin[instance] + arcs.pins[arc, 1]]
            if target < 0 or done[target]:
                continue
            done[target] = True
            for reader in readers[begin[target] : begin[target + 1]]:
                waits[reader] -= 1
                if waits[reader] == 0:
                    result[last] = reader
                    last += 1
    return result[:last]


@njit(cache=True)
def propagate(
    gates: Gates,
    arcs: Arcs,
    tables: Surfaces,
    load: Floats,
    sequence: Ints,
    run: Run,
    clock_slew: float,
    start_slew: float,
) -> None:
    """Arrivals and slews through all gates; ``run`` holds those of ports, -inf elsewhere.

    Args:
        gates, arcs, tables: the netlist.
        load: float64 (nets,), fF.
        sequence: int32, instances in topological order.
        run: filled.
        clock_slew: of clock pins; negative: registers' outputs start at 0 with ``start_slew``.
        start_slew: see ``clock_slew``.
    """
    for instance in sequence:
        kind = gates.kind[instance]
        pins = gates.first_pin[instance]
        for arc in range(arcs.first[kind], arcs.first[kind + 1]):
            role = arcs.role[arc]
            source = gates.pin_net[pins + arcs.pins[arc, 0]]
            target = gates.pin_net[pins + arcs.pins[arc, 1]]
            if target < 0:
                continue
            placed = gates.first_arc[instance] + arc - arcs.first[kind]
            for out in range(2):
                if arcs.delay[arc, out] < 0:
                    continue
                if role != LOGIC:
                    slew = max(clock_slew, 0.0)
                    delay = at(tables, arcs.delay[arc, out], slew, load[target])
                    run.delay[placed, out] = delay
                    if arcs.energy[arc, out] >= 0:
                        energy = at(tables, arcs.energy[arc, out], slew, load[target])
                        run.energy[placed, out] = energy
                    if role != CLOCK:
                        continue
                    after = start_slew
                    if clock_slew >= 0:
                        after = at(tables, arcs.slew[arc, out], slew, load[target])
                    else:
                        delay = 0.0
                    if delay > run.arrival[target, out]:
                        run.arrival[target, out] = delay
                        run.arc[target, out] = placed
                        run.edge[target, out] = -1
                        run.instance[target, out] = instance
                    run.slew[target, out] = max(run.slew[target, out], after)
                    continue
                worst = -np.inf
                for edge in range(2):
                    sense = arcs.sense[arc]
                    if (sense == POSITIVE and edge != out) or (sense == NEGATIVE and edge == out):
                        continue
                    if source < 0:
                        continue
                    slew = run.slew[source, edge]
                    delay = at(tables, arcs.delay[arc, out], slew, load[target])
                    after = at(tables, arcs.slew[arc, out], slew, load[target])
                    if delay > worst:
                        worst = delay
                        run.delay[placed, out] = delay
                        if arcs.energy[arc, out] >= 0:
                            run.energy[placed, out] = at(
                                tables, arcs.energy[arc, out], slew, load[target]
                            )
                    if run.arrival[source, edge] == -np.inf:
                        continue
                    if run.arrival[source, edge] + delay > run.arrival[target, out]:
                        run.arrival[target, out] = run.arrival[source, edge] + delay
                        run.arc[target, out] = placed
                        run.edge[target, out] = edge
                        run.instance[target, out] = instance
                    run.slew[target, out] = max(run.slew[target, out], after)
