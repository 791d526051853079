"""What a program asks of the memories: counted from its commands, and by the gates themselves.

The co-processor is built with its counters connected to the enables of its memories' ports, so the
same registers that count stalls and beats count accesses. There are fewer of them than ports to
watch, so two co-processors run each program, alike but for what they count.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import on_gates
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory
from opennpe.golden import commands as C
from opennpe.golden.errors import AccumulatorError, CompileError, FormatError
from opennpe.golden.registers import COUNTERS, MemorySettings
from opennpe.golden.spec import UNIT_BYTES
from opennpe.host.compile import compile
from opennpe.rtl import coprocessor
from opennpe.rtl.cosim import Cosim
from opennpe.rtl.top_verilog import TOP
from opennpe.rtl.verilog import convert
from opennpe.sim.accesses import COUNTS, Accesses, accesses, by_layer
from opennpe.sim.coprocessor import cycles

sys.path.append(str(Path(__file__).parents[1] / "host"))
from host_cases import random_network, spec

SPEC = spec(2, 2, operand_lines=1024, weight_lines=2048)
"""Memories of six depths, so that they can be told apart."""
MEMORY = 1 << 20
PORTS = (
    ("buffer_reads", "buffer_writes", "operand_reads", "weight_reads"),
    ("bias_reads", "shift_reads"),
)
"""What takes the place of the counters behind the cycles', in each of the two."""
SHIFT_LINES = max(SPEC.engine.lane_counts)
BIAS_LINES = C.PARAMETER_LINES - SHIFT_LINES
NETWORKS = 40


class Shim:
    """The registers, with counters that nobody looks at."""

    def __init__(self, real):
        self.real = real
        self.unseen = {name: Signal(name=f"unseen_{name}") for name in COUNTERS[1:]}

    def __getattr__(self, name):
        if name.startswith("count_") and name != "count_cycles":
            return self.unseen[name[len("count_") :]]
        return getattr(self.real, name)


def counted_verilog(spec, watched):
    """The co-processor whose counters count accesses, of copies of a memory those of the first."""
    probes = {name: Signal(name=f"probe_{name}") for name in watched}
    lines = spec.memory
    depths = {
        lines.buffer_lines: "buffer",
        lines.operand_lines: "operand",
        lines.weight_lines: "weight",
        lines.parameter_tiles: "parameter",
    }
    commands = lines.command_units * UNIT_BYTES // spec.line_bytes
    assert len({*depths, commands, C.TABLE_LINES}) == 6, "memories are told apart by their depth"
    met = Counter()

    class Counted(coprocessor.Coprocessor):
        def _run(self, m, control, dispatcher, units):
            super()._run(m, Shim(control), dispatcher, units)
            for counter, port in zip(COUNTERS[1:], watched, strict=False):
                m.d.comb += getattr(control, f"count_{counter}").eq(probes[port])

    original = memory.Memory.elaborate

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = original(self, platform)
        kind = depths.get(self.depth)
        if kind == "parameter":  # biases' lines come first
            met[kind] += 1
            kind = "bias" if met[kind] <= BIAS_LINES else "shift"
        if kind is not None:
            met[kind] += 1
        if kind is not None and met[kind] == 1:
            for ports, what in ((self.read_ports, "reads"), (self.write_ports, "writes")):
                if f"{kind}_{what}" in probes:
                    m.d.comb += probes[f"{kind}_{what}"].eq(ports[0].en.any())
        return m

    memory.Memory.elaborate = elaborate
    try:
        text = convert(Counted(spec), TOP)
    finally:
        memory.Memory.elaborate = original
    assert set(met) == {*depths.values(), "bias", "shift"}
    assert (met["bias"], met["shift"]) == (BIAS_LINES, SHIFT_LINES)
    return text


@lru_cache
def gates(watched):
    return Cosim(SPEC, MEMORY, verilog=counted_verilog(SPEC, watched))


def gates_say(program, codes):
    """Counts of every port watched, and the cycles, which are those of both co-processors."""
    found, cycled = {}, set()
    for watched in PORTS:
        cosim = gates(watched)
        done = cosim.run(on_gates.load(cosim, program, codes), settings=MemorySettings()).counters
        cycled.add(done.cycles)
        found |= {p: getattr(done, c) for c, p in zip(COUNTERS[1:], watched, strict=False)}
    assert len(cycled) == 1
    return found, cycled.pop()


def programs(count):
    """Programs of random networks, of images, transformers and sparse weights."""
    seed = 0
    while count:
        seed += 1
        network, inputs = random_network(seed)
        try:
            program = compile(network, SPEC)
            codes = {name: inputs[name] for name in network.inputs}
        except (AccumulatorError, CompileError, FormatError):
            continue
        count -= 1
        yield seed, program, codes


def wrong(found, said):
    """Counts that differ from the gates', with both numbers."""
    whole = dict(said) | {"operand_reads": said["operand_reads"] * SPEC.array.rows}
    biases, shifts = whole.pop("bias_reads"), whole.pop("shift_reads")
    whole["parameter_reads"] = BIAS_LINES * biases + SHIFT_LINES * shifts
    total = found.total()
    return {p: (total[p], n) for p, n in whole.items() if total[p] != n}


@pytest.mark.rtl
@pytest.mark.regress
def test_counts_are_the_gates():
    kinds, seen = set(), np.zeros(len(COUNTS), dtype=np.int64)
    for seed, program, codes in programs(NETWORKS):
        found = accesses(SPEC, program)
        said, cycled = gates_say(program, codes)
        assert cycled == cycles(SPEC, program).counters.cycles
        assert not wrong(found, said), f"network {seed}"
        # Planted faults: a fill that reads a line more, a sum that asks for no shifts.
        for name, error in (("buffer_reads", 1), ("parameter_reads", -SHIFT_LINES)):
            spoilt = found.table.copy()
            spoilt[-1, COUNTS.index(name)] += error
            assert set(wrong(Accesses(spoilt), said)) == {name}
        seen += found.table.sum(axis=0)
        listed = program.image[program.address - program.origin :][: program.list_bytes].tobytes()
        kinds |= {c["kind"] for _, c in C.decode(listed) if c.op == "exec"}
    assert {C.KINDS[k] for k in kinds} >= {"dense", "depth", "max"}, "too few kinds of execs"
    assert (seen[: COUNTS.index("command_writes") + 1] > 0).all(), dict(
        zip(COUNTS, seen, strict=True)
    )


def test_beats_and_steps_are_the_counters():
    for seed, program, _ in programs(NETWORKS):
        total, counters = accesses(SPEC, program).total(), cycles(SPEC, program).counters
        assert total["bus_bits_read"] == counters.beats_read * SPEC.memory.bus_bits, seed
        assert total["bus_bits_written"] == counters.beats_written * SPEC.memory.bus_bits, seed
        assert total["steps"] == counters.busy, seed


def test_layers_are_all_there_is():
    for seed, program, _ in programs(5):
        found = accesses(SPEC, program)
        layers = by_layer(found, program.layers)
        for name, total in found.total().items():
            assert sum(row[name] for row in layers.values()) == total, (seed, name)
