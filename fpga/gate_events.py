"""A mapped netlist simulated gate by gate: glitches, toggles, energy by cycle.

Rule of delays (inertial, as Verilog's gate primitives): when an input changes and the output would
change, it does so after the delay of that input's arc for that edge, unless another input takes
the reason away before then: a pulse shorter than the gate's delay never leaves it. An output that
is on its way keeps its time.

In a cycle the clock rises, flops' outputs change after their delay and inputs at once; then all
is let settle (the clock is as slow as that takes), handshakes are read, and the clock rises again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from opennpe.fpga.gate_model import WHEEL, GateModel, Gates
from opennpe.golden.errors import DataError, ToolError

__all__ = ["GateRun", "Put", "simulate"]

Bits = NDArray[np.uint8]
RESET_CYCLES = 2
SILENT_CYCLES = 2000
"""Cycles without a handshake after which a run is given up."""
LONGEST_TICKS = 1 << 22
"""Ticks after which a cycle that does not settle is given up."""


@dataclass(frozen=True, eq=False)
class Put:
    """What goes into one stream port.

    Attributes:
        stream: the port's name; its nets are ``<stream>__payload``, ``__valid``, ``__ready``.
        rows: uint8 (transfers, payload bits), lowest bit first.
    """

    stream: str
    rows: Bits


@dataclass(frozen=True, eq=False)
class GateRun:
    """What a run did.

    Attributes:
        results: uint8 (transfers, payload bits) of the stream that comes out.
        energy_fj: float64 (cycles,), of toggles and of the clock; leakage not included.
        accepted: int64 (transfers,), cycle in which each transfer of the first stream was taken.
        toggles: int64 (nets,). events: all of them.
        cycles: in all. clock_fj: part of the energy that is the clock's.
    """

    results: Bits
    energy_fj: NDArray[np.float64]
    accepted: NDArray[np.int64]
    toggles: NDArray[np.int64]
    events: int
    cycles: int
    clock_fj: float


class _State(NamedTuple):
    """Values by net, and by source (``level``); inputs of gates; the wheel's lists."""

    value: Bits
    level: Bits
    input: NDArray[np.int32]
    flop: Bits
    when: NDArray[np.int32]
    weight: NDArray[np.float64]
    ahead: NDArray[np.int32]
    behind: NDArray[np.int32]
    head: NDArray[np.int32]
    toggles: NDArray[np.int64]


class _Ports(NamedTuple):
    """Streams in (one row each), the stream out; payload nets one after the other."""

    valid: NDArray[np.int32]
    ready: NDArray[np.int32]
    payload_first: NDArray[np.int32]
    payload: NDArray[np.int32]
    out_valid: int
    out_ready: int
    out_payload: NDArray[np.int32]
    reset: int


class _Work(NamedTuple):
    """Rows to put, by stream; pauses by cycle."""

    rows_left: NDArray[np.int64]
    row_first: NDArray[np.int64]
    rows: Bits
    wait: Bits
    sink_wait: Bits
    reset_cycles: int
    tail_cycles: int


@njit(cache=True, nogil=True)
def _settled(g: Gates, s: _State) -> None:
    """Values of all nets from those of flops and inputs, in order, nothing counted."""
    for q in range(len(g.flop_out)):
        source = len(g.table) + q
        s.level[source] = s.flop[g.flop_out[q]] ^ g.flop_invert[q]
        s.value[g.output[source]] = s.level[source]
    for gate in g.order:
        index = 0
        for k in range(g.first[gate], g.first[gate + 1]):
            index |= s.value[g.input[k]] << (k - g.first[gate])
        s.input[gate] = index
        s.level[gate] = (g.table[gate] >> np.uint64(index)) & np.uint64(1)
        s.value[g.output[gate]] = s.level[gate]


@njit(forceinline=True)
def _leave(s: _State, source: int) -> None:
    """Take a source out of its slot."""
    a, b = s.ahead[source], s.behind[source]
    if a >= 0:
        s.behind[a] = b
    else:
        s.head[s.when[source] & (WHEEL - 1)] = b
    if b >= 0:
        s.ahead[b] = a
    s.when[source] = -1


@njit(forceinline=True)
def _enter(s: _State, source: int, when: int, weight: float) -> None:
    """Put a source into the slot of its time."""
    slot = when & (WHEEL - 1)
    old = s.head[slot]
    s.ahead[source] = -1
    s.behind[source] = old
    if old >= 0:
        s.ahead[old] = source
    s.head[slot] = source
    s.when[source] = when
    s.weight[source] = weight


@njit(forceinline=True)
def _spread(g: Gates, s: _State, net: int, now: int) -> int:
    """Tell a net's readers that it changed; the change in the number of sources on their way."""
    more = 0
    for f in range(g.fan_first[net], g.fan_first[net + 1]):
        gate = g.fan_gate[f]
        index = s.input[gate] ^ g.fan_bit[f]
        s.input[gate] = index
        new = np.uint8((g.table[gate] >> np.uint64(index)) & np.uint64(1))
        waits = s.when[gate] >= 0
        if new == s.level[gate]:
            if waits:
                _leave(s, gate)
                more -= 1
        elif not waits:
            edge, k = 1 - np.int64(new), g.fan[f]
            _enter(s, gate, now + g.delay[k, edge], g.cost[k, edge])
            more += 1
    return more


@njit(cache=True, nogil=True)
def _run_wheel(g: Gates, s: _State, waiting: int) -> tuple[float, int]:
    """Let everything on its way arrive; energy and events."""
    energy, events, now = 0.0, 0, 0
    while waiting > 0 and now < LONGEST_TICKS:
        slot = now & (WHEEL - 1)
        while s.head[slot] >= 0:
            source = s.head[slot]
            _leave(s, source)
            waiting -= 1
            net = g.output[source]
            s.value[net] ^= 1
            s.level[source] ^= 1
            s.toggles[net] += 1
            energy += s.weight[source]
            events += 1
            waiting += _spread(g, s, net, now)
        now += 1
    return energy, events if waiting == 0 else -1


@njit(cache=True, nogil=True)
def _run_order(g: Gates, s: _State) -> tuple[float, int]:
    """The same without delays: each gate once, after its drivers."""
    energy, events = 0.0, 0
    gates = len(g.table)
    for q in range(len(g.flop_out)):
        source = gates + q
        if s.when[source] >= 0:
            s.when[source] = -1
            net = g.output[source]
            s.value[net] ^= 1
            s.toggles[net] += 1
            energy += s.weight[source]
            events += 1
    for gate in g.order:
        index = 0
        for k in range(g.first[gate], g.first[gate + 1]):
            index |= s.value[g.input[k]] << (k - g.first[gate])
        changed = index ^ s.input[gate]
        if changed == 0:
            continue
        s.input[gate] = index
        new = np.uint8((g.table[gate] >> np.uint64(index)) & np.uint64(1))
        if new != s.value[g.output[gate]]:
            k = g.first[gate]
            while not changed & 1:
                changed >>= 1
                k += 1
            s.value[g.output[gate]] = new
            s.toggles[g.output[gate]] += 1
            energy += g.cost[k, 0 if new else 1]
            events += 1
    return energy, events


@njit(forceinline=True)
def _drive(g: Gates, s: _State, net: int, value: int, delayed: bool) -> tuple[float, int, int]:
    """Set a net from outside; energy, events, sources on their way."""
    if net < 2 or s.value[net] == value:
        return 0.0, 0, 0
    s.value[net] = value
    s.toggles[net] += 1
    return g.net_cost[net], 1, _spread(g, s, net, 0) if delayed else 0


@njit(cache=True, nogil=True)
def _edge(g: Gates, s: _State, on: Bits) -> tuple[float, int]:
    """The clock rises: flops take their inputs, their outputs set out. Clock energy, waiting."""
    energy, waiting = 0.0, 0
    for d in range(len(on)):
        if d > 0:
            index = 0
            for k in range(g.domain_first[d], g.domain_first[d + 1]):
                index |= s.value[g.domain_input[k]] << (k - g.domain_first[d])
            enabled = (g.domain_table[d] >> np.uint64(index)) & np.uint64(1)
            on[d] = on[g.domain_parent[d]] & np.uint8(enabled)
        if on[d]:
            energy += g.domain_cost[d]
    for f in range(len(g.flop_table)):
        if on[g.flop_domain[f]]:
            index = 0
            for k in range(g.flop_first[f], g.flop_first[f + 1]):
                index |= s.value[g.flop_input[k]] << (k - g.flop_first[f])
            s.flop[f] = (g.flop_table[f] >> np.uint64(index)) & np.uint64(1)
    gates, pins = len(g.table), len(g.input)
    for q in range(len(g.flop_out)):
        source = gates + q
        new = s.flop[g.flop_out[q]] ^ g.flop_invert[q]
        if new != s.value[g.output[source]]:
            edge = 0 if new else 1
            _enter(s, source, g.delay[pins + q, edge], g.cost[pins + q, edge])
            waiting += 1
    return energy, waiting


@njit(cache=True, nogil=True)
def _simulate(
    g: Gates,
    s: _State,
    p: _Ports,
    w: _Work,
    delayed: bool,
    results: Bits,
    energy: NDArray[np.float64],
    accepted: NDArray[np.int64],
    totals: NDArray[np.float64],
) -> int:
    """Cycles run; below 0 where something is wrong. totals: events, clock energy, results."""
    streams = len(w.rows_left)
    at = np.zeros(streams, dtype=np.int64)
    offering = np.zeros(streams, dtype=np.uint8)
    on = np.ones(len(g.domain_parent), dtype=np.uint8)
    found, quiet, tail = 0, 0, 0
    _settled(g, s)
    for cycle in range(-w.reset_cycles, len(energy)):
        spent, waiting = _edge(g, s, on)
        clock, events = spent, 0
        if p.reset >= 0:
            e, n, more = _drive(g, s, p.reset, 1 if cycle < 0 else 0, delayed)
            spent, events, waiting = spent + e, events + n, waiting + more
        for k in range(streams):
            if cycle >= 0 and not offering[k] and at[k] < w.rows_left[k] and not w.wait[k, cycle]:
                offering[k] = 1
                nets = p.payload_first[k + 1] - p.payload_first[k]
                base = w.row_first[k] + at[k] * nets
                for j in range(nets):
                    net = p.payload[p.payload_first[k] + j]
                    e, n, more = _drive(g, s, net, w.rows[base + j], delayed)
                    spent, events, waiting = spent + e, events + n, waiting + more
            e, n, more = _drive(g, s, p.valid[k], offering[k], delayed)
            spent, events, waiting = spent + e, events + n, waiting + more
        takes = 0 if cycle >= 0 and w.sink_wait[cycle] else 1
        e, n, more = _drive(g, s, p.out_ready, takes, delayed)
        spent, events, waiting = spent + e, events + n, waiting + more
        e, n = _run_wheel(g, s, waiting) if delayed else _run_order(g, s)
        if n < 0:
            return -2
        if cycle < 0:
            continue
        energy[cycle] = spent + e
        totals[0] += events + n
        totals[1] += clock
        quiet += 1
        for k in range(streams):
            if offering[k] and s.value[p.ready[k]]:
                offering[k] = 0
                quiet = 0
                if k == 0:
                    accepted[at[0]] = cycle
                at[k] += 1
        if s.value[p.out_valid] and takes:
            if found == len(results):
                return -3
            for j in range(len(p.out_payload)):
                results[found, j] = s.value[p.out_payload[j]]
            found += 1
            quiet = 0
        done = found >= int(totals[2])
        for k in range(streams):
            done = done and at[k] == w.rows_left[k]
        tail = tail + 1 if done else 0
        totals[3] = found
        if tail > w.tail_cycles:
            return cycle + 1
        if quiet > SILENT_CYCLES:
            return -1
    return -1


def simulate(
    gate_model: GateModel,
    puts: Sequence[Put],
    expected: int,
    out: str = "results",
    constants: dict[str, int] | None = None,
    pauses: float = 0.0,
    seed: int = 0,
    tail_cycles: int = 0,
) -> GateRun:
    """Put transfers into a netlist's streams and take what comes out.

    Args:
        puts: what goes in; a stream waits where its port is not ready.
        expected: how many transfers come out; the run ends after them and ``tail_cycles`` more.
        constants: values of ports that do not change.
        pauses: share of cycles in which a stream, in or out, pauses. seed: decides when.

    Raises:
        DataError: ports that the netlist does not have.
        ToolError: the netlist does not settle, falls silent, or gives too much.
    """
    ports, count = gate_model.ports, gate_model.nets
    streams = [
        _port(ports, f"{put.stream}__{part}")
        for put in puts
        for part in ("valid", "ready", "payload")
    ]
    for put, payload in zip(puts, streams[2::3], strict=True):
        if put.rows.ndim != 2 or put.rows.shape[1] != len(payload):
            raise DataError(f"stream {put.stream} takes {len(payload)} bits, got {put.rows.shape}")
    state = _state(gate_model, count)
    for name, value in (constants or {}).items():
        for j, net in enumerate(_port(ports, name)):
            if net >= 2:
                state.value[net] = value >> j & 1
    held = _Ports(
        np.array([x[0] for x in streams[0::3]], dtype=np.int32),
        np.array([x[0] for x in streams[1::3]], dtype=np.int32),
        np.concatenate([[0], np.cumsum([len(x) for x in streams[2::3]])]).astype(np.int32),
        np.concatenate(streams[2::3]).astype(np.int32),
        int(_port(ports, f"{out}__valid")[0]),
        int(_port(ports, f"{out}__ready")[0]),
        _port(ports, f"{out}__payload"),
        int(ports["rst"][0]) if "rst" in ports else -1,
    )
    transfers = [len(put.rows) for put in puts]
    room = int((sum(transfers) + expected) * (1 + 6 * pauses) * 2) + tail_cycles + SILENT_CYCLES
    rng = np.random.default_rng(seed)
    sizes = np.cumsum([0, *(put.rows.size for put in puts)])
    work = _Work(
        np.array(transfers, dtype=np.int64),
        sizes[:-1].astype(np.int64),
        np.concatenate([put.rows.reshape(-1) for put in puts]).astype(np.uint8),
        (rng.random((len(puts), room)) < pauses).astype(np.uint8),
        (rng.random(room) < pauses).astype(np.uint8),
        RESET_CYCLES if "rst" in ports else 0,
        tail_cycles,
    )
    results = np.zeros((expected, len(held.out_payload)), dtype=np.uint8)
    energy = np.zeros(room)
    accepted = np.zeros(transfers[0], dtype=np.int64)
    totals = np.array([0.0, 0.0, expected, 0.0])
    delayed = gate_model.delays != "zero"
    cycles = _simulate(
        gate_model.gates, state, held, work, delayed, results, energy, accepted, totals
    )
    if cycles < 0:
        what = {-1: f"fell silent after {int(totals[3])} of {expected} results",
                -2: "did not settle within a cycle",
                -3: f"gave more than the {expected} results asked for"}[cycles]  # fmt: skip
        raise ToolError(f"the gates {what}: the netlist is not what was synthesised")
    return GateRun(
        results,
        energy[:cycles],
        accepted,
        state.toggles,
        int(totals[0]),
        cycles,
        float(totals[1]),
    )


def _port(ports: dict[str, NDArray[np.int32]], name: str) -> NDArray[np.int32]:
    if name not in ports:
        raise DataError(f"the netlist has no port '{name}': there are {', '.join(sorted(ports))}")
    return ports[name]


def _state(gate_model: GateModel, nets: int) -> _State:
    gates = gate_model.gates
    sources = len(gates.output)
    value = np.zeros(nets, dtype=np.uint8)
    value[1] = 1
    return _State(
        value,
        np.zeros(sources, dtype=np.uint8),
        np.zeros(len(gates.table), dtype=np.int32),
        np.zeros(len(gates.flop_table), dtype=np.uint8),
        np.full(sources, -1, dtype=np.int32),
        np.zeros(sources),
        np.full(sources, -1, dtype=np.int32),
        np.full(sources, -1, dtype=np.int32),
        np.full(WHEEL, -1, dtype=np.int32),
        np.zeros(nets, dtype=np.int64),
    )
