"""The co-processor in gates, golden's machine and the cycle model: the same bits, the same cycles.

Command lists are random, so they do what no compiler would; networks are random and compiled.
Every run has a memory of its own speed.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import on_gates
import pytest
from command_lists import case, windows
from opennpe.golden import catalog, reference
from opennpe.golden.commands import KINDS, PARAMETER_LINES, WAITS, Command, encode
from opennpe.golden.errors import (
    AccumulatorError,
    CompileError,
    DeviceError,
    FormatError,
    ProgramError,
)
from opennpe.golden.machine import Machine
from opennpe.golden.program import Window
from opennpe.golden.registers import MemorySettings, capabilities
from opennpe.golden.spec import OPTIONAL_KINDS, ArraySpec, EngineSpec
from opennpe.host.compile import compile
from opennpe.rtl.cosim import Cosim, Start
from opennpe.rtl.top_verilog import coprocessor_verilog
from opennpe.sim.coprocessor import Outside, cycles, cycles_of
from read_write import poisoned

sys.path.append(str(Path(__file__).parents[1] / "host"))
from host_cases import SPECS, Builder, random_network

pytestmark = pytest.mark.rtl

MEMORY = 1 << 20
LISTS, DAMAGED = 150, 80
LESS = {
    "products": replace(SPECS["2x2"], kinds=(), array=ArraySpec(EngineSpec(fabric="fpga"), 2, 2)),
    "norms": replace(SPECS["2x2"], kinds=("sparse", "norm")),
    "turns": replace(SPECS["2x2"], kinds=("transpose", "softmax")),
    "ULX3S_4X4": catalog.ULX3S_4X4,
}
"""Co-processors that leave out kinds of execs."""
NETWORKS = {"tiny": 170, "4x4": 170}
LAYERS = 500
"""Layer shapes that the networks have together, at least."""


@lru_cache
def cosim(name):
    return Cosim(SPECS[name], MEMORY)


def settings(rng):
    latencies, intervals = rng.integers(1, 40, 2), rng.choice([1, 1, 2, 3], 2)
    return MemorySettings(
        *(int(v) for pair in zip(latencies, intervals, strict=True) for v in pair)
    )


@pytest.mark.parametrize("name", ["2x2", "4x4"])
def test_random_command_lists(name):
    compare_lists(SPECS[name], Cosim(SPECS[name], MEMORY), LISTS)


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["EDGE_8X8", "EDGE_16X16"])
def test_random_command_lists_on_large_arrays(name):
    spec = catalog.get(name)
    compare_lists(spec, Cosim(spec, MEMORY), 30)


def compare_lists(spec, gates, count):
    """Bytes outside and counters of random lists."""
    machine = Machine(spec)
    seen = Counter()
    # A new one: memories start with nothing and keep what a run leaves, as golden's do.
    for seed in range(count):
        rng = np.random.default_rng(seed)
        found = case(spec, rng, rounds=1 + seed % 3)
        memory, window, before = found.memory.copy(), windows(found), copy.deepcopy(machine.state)
        try:
            machine.run(memory, found.address, found.lines, Window(**window))
        except FormatError:  # a NaR for fp4
            machine.state = before
            continue
        speed = settings(rng)
        gates.memory[: len(memory)] = found.memory
        done = gates.run(Start(found.address, found.lines, **window), settings=speed)
        wrong = np.nonzero(gates.memory[: len(memory)] != memory)[0]
        assert not wrong.size, f"seed {seed}: byte {wrong[0] - found.outputs} of the outputs"
        listed = found.memory[found.address :][: found.lines * spec.line_bytes]
        outside = Outside(found.memory)
        model = cycles_of(spec, listed, found.address, found.lines, speed, outside)
        assert model.counters == done.counters, f"seed {seed}"
        seen.update(c.op for c in found.commands)
        seen.update(KINDS[c["kind"]] for c in found.commands if c.op == "exec")
        seen["runs"] += 1
    assert seen["runs"] > 0.9 * count and seen["exec"] > count, seen
    assert min(seen[kind] for kind in KINDS if not spec.lacks(kind)) > count // 20, seen
    assert not any(seen[kind] for kind in KINDS if spec.lacks(kind)), seen


less = pytest.mark.parametrize(
    "name", [n if n == "products" else pytest.param(n, marks=pytest.mark.regress) for n in LESS]
)


@less
def test_random_command_lists_without_some_kinds(name):
    compare_lists(LESS[name], Cosim(LESS[name], MEMORY), 40)


@less
def test_kinds_left_out_are_illegal_commands(name):
    """Wherever they stand in a list: the gates stop with golden's cause, and run the next list."""
    spec, full = LESS[name], replace(LESS[name], kinds=OPTIONAL_KINDS)
    seen = Counter()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gates = Cosim(spec, MEMORY)  # with nothing in its memories, as golden's machine
        found = case(spec, rng, rounds=1 + seed % 3, illegal=True)
        kinds = [KINDS[c["kind"]] for c in found.commands if c.op == "exec"]
        first = next((kind for kind in kinds if spec.lacks(kind)), None)
        memory, start = found.memory.copy(), Start(found.address, found.lines, **windows(found))
        gates.memory[: len(memory)] = memory
        try:
            # On a machine that has all kinds the list runs: nothing else is wrong with it.
            Machine(full).run(memory.copy(), found.address, found.lines, Window(**windows(found)))
            Machine(spec).run(memory, found.address, found.lines, Window(**windows(found)))
        except FormatError:  # a NaR for fp4
            continue
        except DeviceError as error:
            text = f"an illegal command: a {first}, for which {spec.name} has no gates"
            assert str(error) == text, f"seed {seed}: {error}"
            with pytest.raises(DeviceError, match="stopped with an error: an illegal command"):
                gates.run(start, settings=settings(rng), cycle_limit=100_000)
            gates.reset()
            legal = case(spec, rng, rounds=2)
            gates.memory[: len(legal.memory)] = legal.memory
            gates.run(Start(legal.address, legal.lines, **windows(legal)))
            seen[first] += 1
            continue
        assert first is None, f"seed {seed}: golden's machine ran a {first}"
        gates.run(start, settings=settings(rng))
        wrong = np.nonzero(gates.memory[: len(memory)] != memory)[0]
        assert not wrong.size, f"seed {seed}: byte {wrong[0] - found.outputs} of the outputs"
        seen["run"] += 1
    assert seen["run"] > 5 and all(seen[k] > 3 for k in KINDS if spec.lacks(k)), seen


def test_gates_that_lack_a_kind_that_golden_has_are_seen():
    """The comparison can fail: such gates stop where the machine runs."""
    spec = replace(LESS["products"], kinds=("sparse",))
    with pytest.raises(DeviceError, match="stopped with an error: an illegal command"):
        compare_lists(spec, Cosim(LESS["products"], MEMORY), 20)


@less
def test_gates_tell_their_kinds(name):
    gates, told = Cosim(LESS[name], MEMORY), capabilities(LESS[name])
    assert {register: gates.read(register) for register in told} == told


def run_network(name, seed):
    """Layers of a random network that agree; 0 where it is refused."""
    spec, gates = SPECS[name], cosim(name)
    network, inputs = random_network(seed)
    try:
        expected = reference.evaluate(spec, network, inputs)
        program = compile(network, spec, "all")
    except (CompileError, FormatError, AccumulatorError):
        return 0
    assert program.size <= MEMORY
    speed = settings(np.random.default_rng(seed))
    results, _ = on_gates.run(spec, gates, program, inputs, speed, f"seed {seed} on {name}")
    for tensor, codes in results.items():
        wrong = np.argwhere(codes != expected[tensor])
        assert not wrong.size, f"seed {seed} on {name}: {tensor} at {wrong[0].tolist()}"
    return len(network.layers)


def test_random_networks():
    """At least 500 layer shapes: odd sizes, strides, pads, groups, tiles of one element."""
    layers = Counter()
    for name, count in NETWORKS.items():
        for seed in range(count):
            found = run_network(name, seed)
            layers["refused" if not found else "run"] += 1
            layers["layers"] += found
    assert layers["layers"] >= LAYERS, layers


def test_a_wrong_latency_is_seen():
    """The comparison of counters can fail: a memory one cycle slower is another run."""
    name, spec = "4x4", SPECS["4x4"]
    rng = np.random.default_rng(0)
    build = Builder(rng, ["posit8"])
    x = build.tensor((1, 5, 6, 6))
    out = build.conv(x)
    program = compile(build.network([x.name], [out.name]), spec)
    inputs = {x.name: build.codes(x.format, x.shape)}
    fast = MemorySettings(5, 1, 5, 1)
    counted = cycles(spec, program, fast).counters
    gates = cosim(name)
    start = on_gates.load(gates, program, inputs)
    done = gates.run(start, settings=replace(fast, read_latency=6))
    assert done.counters != counted
    assert done.counters.beats_read == counted.beats_read


@pytest.mark.parametrize("wait", WAITS)
def test_a_list_that_can_never_end_is_an_error(wait):
    """Waits that nothing satisfies: of the end, of a command, of a full queue; a list cut short."""
    spec, gates = SPECS["2x2"], cosim("2x2")
    fill = {"run": 1, "inner": 1, "outer": 1}
    waiting = Command("fill", {**fill, wait: 9})
    lists = (
        [Command("fill", fill), Command("end", {wait: 9})],
        [Command("fill", fill), waiting, Command("end", {"wait_fill": 2})],
        [*[waiting] * (spec.memory.queue + 3), Command("end", {})],
        [Command("fill", fill)],
    )
    for commands in lists:
        listed = np.frombuffer(b"".join(map(encode, commands)), dtype=np.uint8)
        gates.memory[:] = 0xFF
        gates.memory[: len(listed)] = listed
        start = Start(0, len(listed) // spec.line_bytes, 0, MEMORY, MEMORY, MEMORY)
        if commands[-1].op == "end":
            with pytest.raises(ProgramError, match="never ends"):
                cycles_of(spec, listed, 0, start.program_lines)
        with pytest.raises(DeviceError, match="wait for what does not come"):
            gates.run(start, cycle_limit=100_000)


def test_damaged_lists_neither_hang_nor_write_outside():
    """Bits of a list change: it runs on, or stops with a cause; it may also have become long."""
    spec, gates = SPECS["2x2"], Cosim(SPECS["2x2"], MEMORY)
    seen = Counter()
    for seed in range(DAMAGED):
        rng = np.random.default_rng(1000 + seed)
        found = case(spec, rng, rounds=1)
        memory, size = found.memory.copy(), found.lines * spec.line_bytes
        for _ in range(int(rng.integers(1, 4))):
            memory[found.address + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        gates.memory[: len(memory)] = memory
        gates.memory[len(memory) :] = 0xA5
        start = Start(found.address, found.lines, **windows(found))
        try:
            gates.run(start, cycle_limit=40_000)
            seen["ran"] += 1
        except DeviceError as error:
            long = "not done after" in str(error)
            assert long or "stopped with an error" in str(error), f"seed {seed}: {error}"
            seen["long" if long else "stopped"] += 1
            gates.reset()
        assert np.array_equal(gates.memory[: found.outputs], memory[: found.outputs])
        assert (gates.memory[len(memory) :] == 0xA5).all()
    assert min(seen["ran"], seen["stopped"]) > DAMAGED // 10, seen
    assert seen["long"] < DAMAGED // 5, seen


def test_synthesis_is_told_of_every_memory():
    """Buffer, commands and weights; parameters; operands a row; tables a column."""
    spec = SPECS["2x2"]
    _, memories = poisoned(coprocessor_verilog(spec))
    assert memories == 3 + PARAMETER_LINES + spec.array.rows + spec.array.columns


@pytest.mark.regress
@pytest.mark.timeout(1800)
def test_no_line_is_used_that_was_read_in_the_cycle_of_its_write():
    """Synthesis is told so: bits of such reads may be anything, and nothing changes.

    Where a write of any other line spoils a read as well, much changes.
    """
    spec = SPECS["2x2"]
    changed, _ = poisoned(coprocessor_verilog(spec))
    compare_lists(spec, Cosim(spec, MEMORY, verilog=changed), LISTS)
    spoilt, _ = poisoned(coprocessor_verilog(spec), same=False)
    with pytest.raises((AssertionError, DeviceError)):
        compare_lists(spec, Cosim(spec, MEMORY, verilog=spoilt), LISTS)
