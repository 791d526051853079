"""Load and Store cycle by cycle in Amaranth's simulator: a memory behind them, traces of both.

One coroutine drives everything: inputs of a cycle are set, what settles is looked at, the clock
ticks. So a trace says what the ports show in each cycle, which is what docstrings promise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from opennpe.golden.commands import TARGETS, WIDEN
from opennpe.golden.formats import get, widen_table
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec
from opennpe.rtl.load import Load
from opennpe.rtl.store import Store

Chance = Callable[[], bool]


def always() -> bool:
    return True


def sometimes(rng: np.random.Generator, share: float) -> Chance:
    """True in a share of the cycles."""
    return lambda: bool(rng.random() < share)


@dataclass
class Trace:
    """What happened, by cycle.

    Attributes:
        accepted: cycles of command handshakes.
        asked: (cycle, address, beats) of bursts first offered.
        beats: cycles of data handshakes.
        lines: (cycle, target, line, lane, data) of ``writes`` taken, or (cycle, line) of ``reads``.
        done: cycles in which ``done`` was 1.
        busy: cycles in which ``busy`` was 1.
        cause: the last one seen.
    """

    accepted: list[int] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)
    lines: list[tuple[int, ...]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    cause: int = 0


@dataclass
class Setting:
    """How the surroundings behave.

    Attributes:
        latency: cycles from an address handshake to the first beat, or from the last beat to B.
        address, beat, line, command: chance that AR or AW is ready, that R is valid or W ready,
            that ``writes`` or ``reads`` is ready, that a command is offered.
        fault: the address whose beat, or whose burst's answer, is an error.
        halt: the cycle from which ``halt`` is 1.
        base, limit: the window.
        cycles: run so many after the last handshake of anything.
    """

    latency: int = 1
    address: Chance = always
    beat: Chance = always
    line: Chance = always
    command: Chance = always
    fault: int | None = None
    halt: int | None = None
    base: int = 0
    limit: int = 0xFFFF_FFFF
    cycles: int = 60


def _simulate(unit: Any, step: Callable[[Any, int], bool], quiet: int) -> None:
    """Calls ``step`` every cycle until it has seen nothing for ``quiet`` cycles."""

    async def bench(ctx: Any) -> None:
        cycle, last = 0, 0
        while cycle - last < quiet:
            if step(ctx, cycle):
                last = cycle
            await ctx.tick()
            cycle += 1
            assert cycle < 100_000, "the unit never rests"

    simulator = Simulator(unit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def _offer(ctx: Any, unit: Any, commands: deque[Any], chance: Chance, held: list[bool]) -> None:
    """Offers the next command; one offered stays."""
    held[0] = bool(commands) and (held[0] or chance())
    ctx.set(unit.commands.valid, held[0])
    if held[0]:
        ctx.set(unit.commands.payload, commands[0])


def run_load(
    spec: CoprocessorSpec,
    commands: Iterable[Mapping[str, int]],
    memory: np.ndarray[Any, Any],
    setting: Setting,
) -> Trace:
    """Trace of a Load; ``memory`` is uint8."""
    unit, trace = Load(spec), Trace()
    waiting, held, bus_bytes = deque(commands), [False], spec.memory.bus_bits // 8
    bursts: deque[tuple[int, int, int]] = deque()  # cycle of the first beat, address, beats
    offered: list[bool] = [False, False]  # AR was offered before; R is offered

    def step(ctx: Any, cycle: int) -> bool:
        bus = unit.bus
        if cycle == 0:
            ctx.set(unit.read_base, setting.base)
            ctx.set(unit.read_limit, setting.limit)
        ctx.set(unit.halt, setting.halt is not None and cycle >= setting.halt)
        _offer(ctx, unit, waiting, setting.command, held)
        ctx.set(bus.arready, setting.address())
        ctx.set(unit.writes.ready, setting.line())
        there = bool(bursts) and bursts[0][0] <= cycle
        offered[1] = there and (offered[1] or setting.beat())
        ctx.set(bus.rvalid, offered[1])
        if offered[1]:
            _, address, beats = bursts[0]
            data = memory[address : address + bus_bytes]
            ctx.set(bus.rdata, int.from_bytes(data.tobytes(), "little"))
            ctx.set(bus.rlast, beats == 1)
            ctx.set(bus.rresp, 2 * (address == setting.fault))
        active = False
        if ctx.get(unit.commands.valid) and ctx.get(unit.commands.ready):
            trace.accepted.append(cycle)
            waiting.popleft()
            active, held[0] = True, False
        if ctx.get(bus.arvalid):
            burst = ctx.get(bus.araddr), ctx.get(bus.arlen) + 1
            if not offered[0]:
                trace.asked.append((cycle, *burst))
            offered[0] = not ctx.get(bus.arready)
            if ctx.get(bus.arready):
                bursts.append((cycle + setting.latency, *burst))
                active = True
        beat = bool(offered[1] and ctx.get(bus.rready))
        assert ctx.get(unit.beat) == beat
        if beat:
            first, address, beats = bursts.popleft()
            if beats > 1:
                bursts.appendleft((first, address + bus_bytes, beats - 1))
            trace.beats.append(cycle)
            active, offered[1] = True, False
        if ctx.get(unit.writes.valid) and ctx.get(unit.writes.ready):
            write = unit.writes.payload
            values = (write.target, write.line, write.lane, write.data)
            trace.lines.append((cycle, *map(ctx.get, values)))
            active = True
        _flags(ctx, unit, trace, cycle)
        return active

    _simulate(unit, step, setting.cycles)
    return trace


def run_store(
    spec: CoprocessorSpec,
    commands: Iterable[Mapping[str, int]],
    buffer: np.ndarray[Any, Any],
    memory: np.ndarray[Any, Any],
    setting: Setting,
) -> Trace:
    """Trace of a Store; ``buffer`` is uint8 (lines, line bytes), ``memory`` uint8, written."""
    unit, trace = Store(spec), Trace()
    waiting, held, bus_bytes = deque(commands), [False], spec.memory.bus_bits // 8
    bursts: deque[tuple[int, int]] = deque()  # address and beats of bursts accepted
    answers: deque[tuple[int, int]] = deque()  # cycle of the first offer and response
    state = {"offered": False, "answer": False, "fault": False, "read": None}

    def step(ctx: Any, cycle: int) -> bool:
        bus = unit.bus
        if cycle == 0:
            ctx.set(unit.write_base, setting.base)
            ctx.set(unit.write_limit, setting.limit)
        ctx.set(unit.halt, setting.halt is not None and cycle >= setting.halt)
        _offer(ctx, unit, waiting, setting.command, held)
        ctx.set(bus.awready, setting.address())
        ctx.set(bus.wready, setting.beat())
        ctx.set(unit.reads.ready, setting.line())
        noise = int.from_bytes(b"\xa5" * spec.line_bytes, "little")
        line = state["read"]
        data = noise if line is None else int.from_bytes(buffer[line].tobytes(), "little")
        ctx.set(unit.data, data)
        there = bool(answers) and answers[0][0] <= cycle
        state["answer"] = there and (state["answer"] or setting.beat())
        ctx.set(bus.bvalid, state["answer"])
        if state["answer"]:
            ctx.set(bus.bresp, answers[0][1])
        active = False
        if ctx.get(unit.commands.valid) and ctx.get(unit.commands.ready):
            trace.accepted.append(cycle)
            waiting.popleft()
            active, held[0] = True, False
        if ctx.get(unit.bus.wvalid) and ctx.get(bus.wready):
            assert bursts, "a beat without its address"
            assert ctx.get(bus.wstrb) == (1 << bus_bytes) - 1
            address, beats = bursts.popleft()
            memory[address : address + bus_bytes] = list(
                ctx.get(bus.wdata).to_bytes(bus_bytes, "little")
            )
            state["fault"] |= address == setting.fault
            assert ctx.get(bus.wlast) == (beats == 1)
            if beats > 1:
                bursts.appendleft((address + bus_bytes, beats - 1))
            else:
                answers.append((cycle + setting.latency, 2 * state["fault"]))
                state["fault"] = False
            trace.beats.append(cycle)
            active = True
        assert ctx.get(unit.beat) == bool(ctx.get(bus.wvalid) and ctx.get(bus.wready))
        if ctx.get(bus.awvalid):
            burst = ctx.get(bus.awaddr), ctx.get(bus.awlen) + 1
            if not state["offered"]:
                trace.asked.append((cycle, *burst))
            state["offered"] = not ctx.get(bus.awready)
            if ctx.get(bus.awready):
                bursts.append(burst)
                active = True
        if state["answer"]:
            assert ctx.get(bus.bready)
            answers.popleft()
            active, state["answer"] = True, False
        state["read"] = None
        if ctx.get(unit.reads.valid) and ctx.get(unit.reads.ready):
            state["read"] = ctx.get(unit.reads.payload)
            trace.lines.append((cycle, state["read"]))
            active = True
        _flags(ctx, unit, trace, cycle)
        return active

    _simulate(unit, step, setting.cycles)
    return trace


def _flags(ctx: Any, unit: Any, trace: Trace, cycle: int) -> None:
    if ctx.get(unit.done):
        trace.done.append(cycle)
    if ctx.get(unit.busy):
        trace.busy.append(cycle)
    trace.cause = ctx.get(unit.cause)


def expected_lines(
    spec: CoprocessorSpec, command: Mapping[str, int], memory: np.ndarray[Any, Any]
) -> list[tuple[int, int, int, int]]:
    """(target, line, lane, data) of what a load command writes, from golden's formats."""
    target, place, size = command["target"], command["line"], spec.line_bytes
    pair = WIDEN[command.get("widen", 0)]
    weights, commands = spec.memory.weight_lines, spec.memory.command_units * UNIT_BYTES // size
    found = []
    for index in range(command["lines"]):
        at = command["address"] + index * size
        line = memory[at : at + size]
        if TARGETS[target] == "parameters":
            parts = [(place + index // 12, index % 12, line)]
        elif pair is None:
            parts = [(place + index, 0, line)]
        else:
            wide = widened(line, *pair)
            count = len(wide) // size
            parts = [
                (place + index * count + j, 0, wide[j * size : (j + 1) * size])
                for j in range(count)
            ]
        ring = {"weights": weights, "commands": commands}.get(TARGETS[target], 1 << 20)
        parts = [(n % ring, lane, data) for n, lane, data in parts]
        found += [(target, n, k, int.from_bytes(d.tobytes(), "little")) for n, k, d in parts]
    return found


def widened(line: np.ndarray[Any, Any], narrow: str, wide: str) -> np.ndarray[Any, Any]:
    """A line's bytes with every code in the wider format."""
    codes = line
    if get(narrow).bits == 4:
        codes = np.stack([line & 15, line >> 4], axis=-1).reshape(-1)
    table = widen_table(narrow, wide)
    return table[codes].astype(f"<u{get(wide).bits // 8}").view(np.uint8)
