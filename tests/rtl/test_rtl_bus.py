"""Load, Store and Widen in Amaranth's simulator: lines, documented cycles, causes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import bench_axi_cycles as cycles
import numpy as np
import pytest
from amaranth.hdl import Const, Value
from amaranth.sim import Simulator
from bench_axi_cycles import Setting, Trace, run_load, run_store, sometimes
from opennpe.golden import catalog, formats
from opennpe.golden.commands import (
    PARAMETER_LINES,
    TABLE_LINES,
    TARGETS,
    WIDEN,
    Command,
    widen_factor,
)
from opennpe.golden.errors import DeviceError
from opennpe.golden.machine import Machine, Window
from opennpe.golden.registers import CAUSES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi, load, widen
from opennpe.rtl.widen import Widen

SPECS = [catalog.get(name) for name in ("EDGE_2X2", "EDGE_4X4", "EDGE_8X8", "EDGE_16X16")]
SHORT = replace(
    catalog.EDGE_4X4,
    memory=replace(catalog.EDGE_4X4.memory, bus_bits=32, burst_beats=1, bursts_in_flight=2),
)
"""Bursts of one beat, two beats a line, few in flight: the counters' smallest sizes."""
BUFFER, WEIGHTS, PARAMETERS, COMMANDS, TABLE = range(len(TARGETS))
NAMES = [spec.name for spec in SPECS]
BYTES = 1 << 14


def command(target: int, line: int, lines: int, address: int, pair: int = 0) -> dict[str, int]:
    return {"op": 1, "target": target, "line": line, "lines": lines, "address": address,
            "widen": pair}  # fmt: skip


def kept(line: int, lines: int, address: int) -> dict[str, int]:
    return {"op": 4, "line": line, "lines": lines, "address": address}


def content(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, BYTES, dtype=np.uint8)


def loads(spec: CoprocessorSpec, rng: np.random.Generator, count: int) -> Iterator[dict[str, int]]:
    """Legal loads, one in three across 4 KiB."""
    sizes = {
        BUFFER: spec.memory.buffer_lines,
        WEIGHTS: spec.memory.weight_lines,
        PARAMETERS: spec.memory.parameter_tiles,
        COMMANDS: spec.memory.command_units * 32 // spec.line_bytes,
        TABLE: TABLE_LINES,
    }
    for _ in range(count):
        target = int(rng.integers(len(TARGETS)))
        pair = int(rng.integers(len(WIDEN))) if target in (BUFFER, WEIGHTS) else 0
        lines = int(rng.choice([1, 2, 3, int(rng.integers(1, 40))]))
        line = int(rng.integers(sizes[target]))
        if target == PARAMETERS:
            lines = PARAMETER_LINES * int(rng.integers(1, 4))
            line = min(line, sizes[target] - lines // PARAMETER_LINES)
        elif target not in (WEIGHTS, COMMANDS):
            lines = min(lines, sizes[target] // widen_factor(pair))
            line = min(line, sizes[target] - lines * widen_factor(pair))
        address = int(rng.integers(0, BYTES // spec.line_bytes - lines)) * spec.line_bytes
        if rng.random() < 1 / 3:
            address = 4096 - spec.line_bytes * int(rng.integers(1, lines + 1))
        yield command(target, line, lines, address, pair)


def golden_cause(
    spec: CoprocessorSpec,
    op: str,
    values: dict[str, int],
    memory: np.ndarray[Any, Any],
    base: int,
    limit: int,
) -> str:
    """What golden's machine stops at; empty if at nothing."""
    machine = Machine(spec)
    machine.memory = np.zeros(limit, dtype=np.uint8) if limit > len(memory) else memory
    machine.window = Window(base, limit, base, limit)
    machine.loaded = values["line"]  # the list goes on where it says
    machine.taken = max(0, machine.loaded - 1)
    fields = {name: value for name, value in values.items() if name != "op"}
    try:
        getattr(machine, f"_{op}")(Command(op, fields))
    except DeviceError as error:
        return str(error).split(":")[0]
    return ""


def check_bursts(spec: CoprocessorSpec, trace: Trace, wanted: list[dict[str, int]]) -> None:
    """Every burst legal, and together the commands' bytes in order."""
    size, asked = spec.memory.bus_bits // 8, []
    for _, address, beats in trace.asked:
        assert 1 <= beats <= spec.memory.burst_beats
        assert address // 4096 == (address + beats * size - 1) // 4096
        asked += range(address, address + beats * size, size)
    needed = [
        at
        for entry in wanted
        for at in range(entry["address"], entry["address"] + entry["lines"] * spec.line_bytes, size)
    ]
    assert asked == needed


@pytest.mark.parametrize("pace", ["swift", "slow memory", "slow inside", "all slow"])
@pytest.mark.parametrize("spec", [*SPECS, SHORT], ids=[*NAMES, "short"])
def test_loads_bring_every_line(spec: CoprocessorSpec, pace: str) -> None:
    rng = np.random.default_rng([len(pace), spec.line_words])
    memory, wanted = content(rng), list(loads(spec, rng, 12))
    slow = sometimes(rng, 0.5)
    setting = {
        "swift": Setting(),
        "slow memory": Setting(latency=20, address=slow, beat=slow),
        "slow inside": Setting(latency=2, line=slow, command=sometimes(rng, 0.1)),
        "all slow": Setting(latency=9, address=slow, beat=slow, line=slow, command=slow),
    }[pace]
    trace = run_load(spec, wanted, memory, setting)
    expected = [x for c in wanted for x in cycles.expected_lines(spec, c, memory)]
    assert [entry[1:] for entry in trace.lines] == expected
    assert len(trace.done) == len(wanted) and trace.cause == 0
    check_bursts(spec, trace, wanted)
    ends = np.cumsum([len(cycles.expected_lines(spec, c, memory)) for c in wanted])
    assert trace.done == [trace.lines[n - 1][0] for n in ends]


@pytest.mark.parametrize("pace", ["swift", "slow memory", "slow inside", "all slow"])
@pytest.mark.parametrize("spec", [*SPECS, SHORT], ids=[*NAMES, "short"])
def test_stores_bring_every_line(spec: CoprocessorSpec, pace: str) -> None:
    rng = np.random.default_rng([len(pace), spec.line_words, 7])
    slow = sometimes(rng, 0.5)
    setting = {
        "swift": Setting(),
        "slow memory": Setting(latency=20, address=slow, beat=slow),
        "slow inside": Setting(latency=2, line=slow, command=sometimes(rng, 0.1)),
        "all slow": Setting(latency=9, address=slow, beat=slow, line=slow, command=slow),
    }[pace]
    wanted = [kept(c["line"], c["lines"], c["address"]) for c in loads(spec, rng, 8)]
    buffer = rng.integers(0, 256, (spec.memory.buffer_lines, spec.line_bytes), dtype=np.uint8)
    memory = content(rng)
    expected = memory.copy()
    for c in wanted:
        c["line"] = min(c["line"], len(buffer) - c["lines"])
        end = c["address"] + c["lines"] * spec.line_bytes
        expected[c["address"] : end] = buffer[c["line"] : c["line"] + c["lines"]].reshape(-1)
    trace = run_store(spec, wanted, buffer, memory, setting)
    assert np.array_equal(memory, expected)
    assert len(trace.done) == len(wanted) and trace.cause == 0
    check_bursts(spec, trace, wanted)


@pytest.mark.fast
def test_the_cycles_of_a_load() -> None:
    """As its docstring says, with a memory that answers after 5 cycles."""
    spec, memory = catalog.EDGE_8X8, content(np.random.default_rng(3))
    trace = run_load(spec, [command(BUFFER, 0, 20, 64)] * 2, memory, Setting(latency=5))
    # 40 beats: 8 up to a multiple of 16, then two bursts of 16; 3 bursts keep it for 5 cycles.
    asked = [(64, 8), (128, 16), (256, 16)]
    assert trace.accepted == [0, 5]
    assert trace.asked == [(t + 3 + i, *b) for t in (0, 5) for i, b in enumerate(asked)]
    assert trace.beats == list(range(8, 88))
    assert [entry[0] for entry in trace.lines] == list(range(10, 90, 2))
    assert trace.done == [48, 88] and trace.busy == list(range(1, 89))


@pytest.mark.fast
def test_widening_takes_a_cycle_a_line() -> None:
    spec, memory = catalog.EDGE_4X4, content(np.random.default_rng(4))
    for pair, f in ((1, 2), (3, 4)):
        trace = run_load(spec, [command(BUFFER, 0, 8, 0, pair)], memory, Setting(latency=1))
        assert [entry[0] for entry in trace.lines] == list(range(5, 5 + 8 * f))
        assert trace.beats == [4 + f * i for i in range(8)]


@pytest.mark.fast
def test_bursts_in_flight_are_bounded() -> None:
    spec, memory = catalog.EDGE_8X8, content(np.random.default_rng(5))
    most = spec.memory.bursts_in_flight
    trace = run_load(spec, [command(BUFFER, 0, 200, 0)], memory, Setting(latency=50))
    assert [cycle for cycle, *_ in trace.asked[:most]] == list(range(3, 3 + most))
    # Asked in cycle 3, its 16 beats taken in 53 to 68; its place is free in 69.
    assert trace.asked[most][0] == 70


@pytest.mark.fast
def test_the_cycles_of_a_store() -> None:
    spec = catalog.EDGE_8X8
    rng = np.random.default_rng(6)
    buffer = rng.integers(0, 256, (spec.memory.buffer_lines, spec.line_bytes), dtype=np.uint8)
    trace = run_store(spec, [kept(3, 20, 64)] * 2, buffer, content(rng), Setting(latency=5))
    assert trace.accepted == [0, 52]
    assert trace.lines[:2] == [(2, 3), (3, 4)]
    assert trace.asked[:3] == [(3, 64, 8), (12, 128, 16), (29, 256, 16)]
    assert trace.beats[:40] == [*range(4, 12), *range(13, 29), *range(30, 46)]
    assert trace.done == [51, 103]  # the answer in 50, and none is missing in 51
    assert trace.busy == [*range(1, 52), *range(53, 104)]


@pytest.mark.parametrize("spec", SPECS[:3:2], ids=NAMES[:3:2])
def test_bad_loads_are_refused(spec: CoprocessorSpec) -> None:
    memory, size = content(np.random.default_rng(8)), spec.line_bytes
    of, base, limit = spec.memory, 16 * size, 64 * size
    commands = of.command_units * 32 // size
    bad = {
        "an illegal command": [
            command(5, 0, 1, base),
            command(BUFFER, 0, 1, base, 6),
            command(BUFFER, 0, 0, base),
            command(PARAMETERS, 0, 12, base, 1),
            command(TABLE, 0, 12, base, 1),
            command(COMMANDS, 0, 1, base, 5),
            command(BUFFER, 0, 1, base + 2),
            command(PARAMETERS, 0, 13, base),
            command(PARAMETERS, 0, 16, base),
            command(PARAMETERS, 0, 6, base),
            command(BUFFER, of.buffer_lines, 0, 0),  # comes first of all
        ],
        "a line outside a memory": [
            command(BUFFER, of.buffer_lines, 1, base),
            command(BUFFER, of.buffer_lines - 3, 2, base, 1),
            command(BUFFER, of.buffer_lines - 3, 1, base, 3),
            command(BUFFER, (1 << 20) - 1, 1, base),
            command(PARAMETERS, of.parameter_tiles - 1, 24, base),
            command(PARAMETERS, of.parameter_tiles, 12, base),
            command(COMMANDS, commands, 2, base),
            command(WEIGHTS, of.weight_lines, 2, base),
            command(WEIGHTS, 0, of.weight_lines + 1, base),
            command(WEIGHTS, 0, of.weight_lines // 4 + 1, base, 4),
            command(TABLE, TABLE_LINES - 1, 2, base),
        ],
        "a read outside the read window": [
            command(BUFFER, 0, 2, base - size),
            command(BUFFER, 0, 2, limit - size),
            command(WEIGHTS, of.weight_lines - 1, (1 << 20) - 1, base),
            command(BUFFER, 0, 2, (1 << 32) - size),
            command(TABLE, TABLE_LINES, 1, 0),  # before the line
        ],
    }
    for cause, entries in bad.items():
        for entry in entries:
            end = 1 << 19 if "line" in cause else limit
            setting = Setting(latency=2, base=base, limit=end, cycles=20)
            trace = run_load(spec, [entry, command(BUFFER, 0, 1, base)], memory, setting)
            assert CAUSES[trace.cause] == cause, entry
            if (entry["target"], entry["line"]) != (COMMANDS, commands):  # golden: a bad list
                assert golden_cause(spec, "load", entry, memory, base, end) == cause, entry
            # Not one burst, not the command behind it, and rest after CHECK.
            assert (trace.accepted, trace.asked, trace.busy) == ([0], [], [1])
    good = [
        command(BUFFER, of.buffer_lines - 4, 2, base, 1),
        command(WEIGHTS, of.weight_lines - 1, 48, base),
        command(PARAMETERS, of.parameter_tiles - 1, 12, base),
        command(COMMANDS, commands - 1, 2, limit - 2 * size),
        command(TABLE, TABLE_LINES - 2, 2, base),
    ]
    trace = run_load(spec, good, memory, Setting(latency=2, base=base, limit=limit))
    assert trace.cause == 0 and len(trace.done) == len(good)


@pytest.mark.parametrize("spec", SPECS[:3:2], ids=NAMES[:3:2])
def test_bad_stores_are_refused(spec: CoprocessorSpec) -> None:
    rng = np.random.default_rng(9)
    size, lines = spec.line_bytes, spec.memory.buffer_lines
    base, limit = 16 * size, 64 * size
    buffer = rng.integers(0, 256, (lines, size), dtype=np.uint8)
    bad = {
        "an illegal command": [kept(0, 0, base), kept(0, 1, base + 1), kept(lines, 0, 0)],
        "a line outside a memory": [kept(lines - 1, 2, base), kept(lines, 1, base)],
        "a write outside the write window": [
            kept(0, 2, base - size),
            kept(0, 2, limit - size),
            kept(0, 2, (1 << 32) - size),
            kept(lines, 1, 0),
        ],
    }
    for cause, entries in bad.items():
        for entry in entries:
            memory = content(rng)
            before = memory.copy()
            assert golden_cause(spec, "store", entry, memory, base, limit) == cause, entry
            setting = Setting(base=base, limit=limit, cycles=20)
            trace = run_store(spec, [entry, kept(0, 1, base)], buffer, memory, setting)
            assert CAUSES[trace.cause] == cause, entry
            assert (trace.accepted, trace.asked, trace.busy) == ([0], [], [1])
            assert np.array_equal(memory, before)
    setting = Setting(base=base, limit=limit)
    trace = run_store(spec, [kept(lines - 48, 48, base)], buffer, content(rng), setting)
    assert trace.cause == 0 and len(trace.done) == 1


@pytest.mark.fast
def test_a_read_error_stops_the_load() -> None:
    spec, memory = catalog.EDGE_8X8, content(np.random.default_rng(10))
    wanted = [command(BUFFER, 0, 40, 0), command(BUFFER, 40, 40, 1024)]
    setting = Setting(latency=10, fault=16 * 21)
    trace = run_load(spec, wanted, memory, setting)
    assert CAUSES[trace.cause] == "an error response to a read"
    assert trace.done == []
    assert [entry[1:] for entry in trace.lines] == cycles.expected_lines(spec, wanted[0], memory)[
        :21
    ]
    # What was asked for is taken to its end.
    assert len(trace.beats) == sum(beats for *_, beats in trace.asked)
    assert trace.busy[-1] == trace.beats[-1]


@pytest.mark.fast
def test_a_write_error_stops_the_store() -> None:
    spec = catalog.EDGE_8X8
    rng = np.random.default_rng(11)
    buffer = rng.integers(0, 256, (spec.memory.buffer_lines, spec.line_bytes), dtype=np.uint8)
    memory = content(rng)
    wanted = [kept(0, 40, 0), kept(40, 4, 2048)]
    trace = run_store(spec, wanted, buffer, memory, Setting(latency=4, fault=128))
    assert CAUSES[trace.cause] == "an error response to a write"
    assert trace.done == [] and trace.accepted == [0]
    assert len(trace.beats) == sum(beats for *_, beats in trace.asked)
    # The answer to the second burst comes while the third goes out; there is no fourth.
    assert [address for _, address, _ in trace.asked] == [0, 128, 256]
    # An error that comes with the last answer is no success either.
    trace = run_store(spec, [kept(0, 4, 128)], buffer, memory, Setting(latency=4, fault=128))
    assert trace.done == [] and CAUSES[trace.cause] == "an error response to a write"


@pytest.mark.fast
@pytest.mark.parametrize("at", [1, 2, 3, 4, 9, 20, 33, 41])
def test_halt_ends_with_the_bursts_under_way(at: int) -> None:
    spec = catalog.EDGE_8X8
    rng = np.random.default_rng([12, at])
    memory = content(rng)
    slow = sometimes(rng, 0.6)
    setting = Setting(latency=7, halt=at, address=slow, beat=slow, line=slow)
    trace = run_load(spec, [command(BUFFER, 0, 60, 0)] * 3, memory, setting)
    assert all(cycle <= at for cycle, *_ in trace.asked)
    assert len(trace.beats) == sum(beats for *_, beats in trace.asked)
    assert all(cycle < at for cycle in trace.accepted) and trace.cause == 0
    expected = cycles.expected_lines(spec, command(BUFFER, 0, 60, 0), memory) * 3
    assert [entry[1:] for entry in trace.lines] == expected[: len(trace.lines)]
    buffer = rng.integers(0, 256, (spec.memory.buffer_lines, spec.line_bytes), dtype=np.uint8)
    trace = run_store(spec, [kept(0, 60, 0)] * 3, buffer, memory, setting)
    assert all(cycle <= at for cycle, *_ in trace.asked)
    assert len(trace.beats) == sum(beats for *_, beats in trace.asked)
    assert trace.done == [] and trace.cause == 0


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@pytest.mark.parametrize("pair", range(1 << widen.WIDEN_BITS))
def test_widened_lines_are_golden(spec: CoprocessorSpec, pair: int) -> None:
    """Every code in every place of every part."""
    unit, size = Widen(spec), spec.line_bytes
    wide_pair = WIDEN[pair] if pair < len(WIDEN) else None
    rng = np.random.default_rng(13)
    every = 1 << (formats.get(wide_pair[0]).bits if wide_pair else 8)

    async def bench(ctx: Any) -> None:
        ctx.set(unit.widen, pair)
        for code in range(every):
            line = rng.integers(0, 256, size, dtype=np.uint8)
            line[:] = code * 17 % 256 if every == 16 else code
            line ^= rng.integers(0, 2, size, dtype=np.uint8) * (17 if every == 16 else 1)
            ctx.set(unit.line, int.from_bytes(line.tobytes(), "little"))
            wide = line if wide_pair is None else cycles.widened(line, *wide_pair)
            for part in range(len(wide) // size):
                ctx.set(unit.part, part)
                expected = wide[part * size : (part + 1) * size].tobytes()
                assert ctx.get(unit.wide).to_bytes(size, "little") == expected

    simulator = Simulator(unit)
    simulator.add_testbench(bench)
    simulator.run()


# -- faults planted in the gates ------------------------------------------------------------------


def unaligned(self: axi.Burst, spec: CoprocessorSpec) -> None:
    """Bursts of full length wherever they begin: some cross 4 KiB."""
    original(self, spec)
    longest = spec.burst_beats
    self.last = self.left <= longest
    self.beats = Value.cast(Const(longest, 5))


original = axi.Burst.__init__


@pytest.mark.parametrize("fault", ["crossing", "parts", "ring", "tile"])
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "crossing":
        monkeypatch.setattr(axi.Burst, "__init__", unaligned)
    elif fault == "parts":
        monkeypatch.setattr(load, "last_part", lambda value: Const(1, widen.PART_BITS))
    elif fault == "ring":
        monkeypatch.setattr(load, "TARGETS", ("weights", "buffer", *TARGETS[2:]))
    else:
        monkeypatch.setattr(load, "PARAMETER_LINES", 11)
    with pytest.raises(AssertionError):
        test_loads_bring_every_line(catalog.EDGE_4X4, "swift")
