"""Attention layers without the host: gates, golden and the cycle model agree on every tensor."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import on_gates
import pytest
from opennpe.golden import reference
from opennpe.golden.commands import KINDS, Command, encode
from opennpe.golden.errors import (
    AccumulatorError,
    CompileError,
    DeviceError,
    FormatError,
)
from opennpe.golden.machine import Machine
from opennpe.golden.program import Window
from opennpe.golden.registers import MemorySettings
from opennpe.host.compile import compile
from opennpe.rtl.cosim import Cosim, Start

sys.path.append(str(Path(__file__).parents[1] / "host"))
from attention_cases import attention_network
from host_cases import SPECS

pytestmark = pytest.mark.rtl
MEMORY = 1 << 20
NETWORKS = {"2x2": 40, "4x4": 40}


@pytest.mark.timeout(1800)
def test_random_attention_layers():
    seen = Counter()
    for name, count in NETWORKS.items():
        spec, gates = SPECS[name], Cosim(SPECS[name], MEMORY)
        for seed in range(count):
            seen += compared(spec, gates, seed)
    assert seen["run"] > 0.4 * sum(NETWORKS.values()), seen
    assert min(seen[kind] for kind in ("dense", "transpose", "softmax", "norm")) > 40, seen


def compared(spec, gates, seed):
    """One network: every tensor of it, and the counters."""
    network, inputs = attention_network(seed)
    try:
        expected = reference.evaluate(spec, network, inputs)
        program = compile(network, spec, "all")
    except (CompileError, FormatError, AccumulatorError):
        return Counter(refused=1)
    speed = MemorySettings(*(int(v) for v in np.random.default_rng(seed).integers(1, 20, 4)))
    results, _ = on_gates.run(spec, gates, program, inputs, speed, f"seed {seed}")
    for tensor, codes in results.items():
        wrong = np.argwhere(codes != expected[tensor])
        assert not wrong.size, f"seed {seed}: {tensor} at {wrong[0].tolist()}"
    found = Counter(KINDS[c["kind"]] for _, c in program.commands if c.op == "exec")
    return found + Counter(run=1)


ROW = {
    "begin": 1, "finish": 1, "blocks": 1, "kernel_y": 1, "kernel_x": 1, "words": 1, "last_words": 1,
    "last_elements": 1, "height": 1, "width": 1, "limit": 1, "tiles": 2, "lines": 1, "inputs": 4,
    "keep": 4, "mode_a": 2, "mode_b": 2, "out": 2, "setting0": 0x8000,
}  # fmt: skip


def listed(spec, fields):
    """A list of one exec."""
    commands = [Command("exec", fields), Command("end", {"wait_exec": 1})]
    data = np.frombuffer(b"".join(map(encode, commands)), dtype=np.uint8)
    return data, len(data) // spec.line_bytes


@pytest.mark.parametrize("kind", ["softmax", "norm"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"inputs": 0},
        {"inputs": 5},  # more than the lines hold
        {"blocks": 4000, "inputs": 4097, "keep": 4097},  # more than the accumulator takes
        {"tiles": 1},
        {"table": 1},
        {"kernel_x": 2},
        {"finish": 0},
    ],
    ids=str,
)
def test_rows_that_the_unit_does_not_take_are_illegal(kind, change):
    """With a cause and without a hang, in gates as in golden's machine; the plain one runs."""
    spec = SPECS["2x2"]
    gates = Cosim(spec, MEMORY)
    data, lines = listed(spec, {**ROW, "kind": KINDS.index(kind), **change})
    memory = np.zeros(MEMORY, dtype=np.uint8)
    memory[: len(data)] = data
    gates.memory[:] = memory
    if not change:
        Machine(spec).run(memory, 0, lines, Window(0, MEMORY, 0, MEMORY))
        gates.run(Start(0, lines, 0, MEMORY, 0, MEMORY))
        return
    with pytest.raises(DeviceError, match="an illegal command"):
        Machine(spec).run(memory, 0, lines, Window(0, MEMORY, 0, MEMORY))
    with pytest.raises(DeviceError, match="an illegal command"):
        gates.run(Start(0, lines, 0, MEMORY, 0, MEMORY), cycle_limit=100_000)
