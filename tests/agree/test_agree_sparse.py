"""Sparse layers are the dense layers of the same weights: golden, simulator, machine and gates.

Shapes, densities from 0 to 100 %, formats and records are random; empty rows and layers of zeros
are among them. The cycle model's counters are the gates'.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import on_gates
import pytest
from opennpe.golden import formats, microops, reference
from opennpe.golden import layers as L
from opennpe.golden.commands import KINDS, Command, encode
from opennpe.golden.errors import CompileError, DeviceError
from opennpe.golden.machine import Machine
from opennpe.golden.network import Network, Tensor
from opennpe.golden.registers import MemorySettings
from opennpe.host.compile import compile
from opennpe.rtl.cosim import Cosim, Start
from opennpe.sim import executor

sys.path.append(str(Path(__file__).parents[1] / "host"))
from host_cases import SPECS

pytestmark = pytest.mark.rtl
MEMORY = 1 << 20
SHAPES = {"2x2": 160, "4x4": 200}
LEAST = 300
DENSITIES = (0.0, 0.02, 0.1, 0.2, 0.5, 1.0)


def layer(seed):
    """A product with weights of some density as a network; its inputs; what is special."""
    rng = np.random.default_rng(seed)
    name = formats.ENGINE_FORMATS[seed % 4]
    fmt = formats.get(name)
    tokens, inputs, outputs = (int(rng.integers(1, most)) for most in (40, 90, 40))
    outputs += -outputs % int(rng.choice([1, 2, 4]))
    density = float(rng.choice(DENSITIES))
    values = rng.normal(0, 2.0, (outputs, inputs))
    block = int(rng.choice([1, 1, 2, 4]))
    there = rng.random((-(-outputs // block), inputs)) < density
    values *= np.repeat(there, block, axis=0)[:outputs]
    empty = rng.random(outputs) < 0.2
    values[empty] = 0
    weights = fmt.encode(values, "zero")
    scale = rng.integers(-3, 2, outputs).astype(np.int64)
    bias = rng.normal(0, 1, outputs)
    clip = (0.0, float("inf")) if rng.random() < 0.5 else None
    x, y = Tensor("x", (1, tokens, inputs), name, 0), Tensor("y", (1, tokens, outputs), name, 1)
    product = L.Linear("layer", ("x",), "y", weights, name, scale, bias, clip)
    codes = fmt.encode(rng.normal(0, 1.5, (1, tokens, inputs)), "zero")
    found = Counter(zeros=int(not values.any()), empty=int(empty.any()))
    return Network(("x",), ("y",), {"x": x, "y": y}, (product,)), {"x": codes}, found


@pytest.mark.timeout(1800)
def test_sparse_is_dense_in_golden_simulator_machine_and_gates():
    seen = Counter()
    for name, count in SHAPES.items():
        spec, gates = SPECS[name], Cosim(SPECS[name], MEMORY)
        for seed in range(count):
            seen += compared(spec, gates, seed)
    assert seen["shapes"] >= LEAST and seen["sparse"] >= LEAST, seen
    assert min(seen[what] for what in ("zeros", "empty", *map(str, microops.BLOCK_ROWS))) > 10, seen


def compared(spec, gates, seed):
    """One layer on everything there is."""
    network, inputs, found = layer(seed)
    expected = reference.evaluate(spec, network, inputs)["y"]
    outputs, _ = executor.run(spec, network, inputs)
    assert np.array_equal(executor_codes(outputs["y"], network), expected), f"seed {seed}"
    try:
        program = compile(network, spec, sparse="always")
    except CompileError:
        return Counter(refused=1)
    execs = [c for _, c in program.commands if c.op == "exec"]
    sparse = [c for c in execs if KINDS[c["kind"]] == "sparse"]
    found["sparse"] = int(bool(sparse))
    for c in sparse:
        found[str(1 << c["block_rows"])] += 1
    memory = program.memory(inputs)
    Machine(spec).run(memory, program.address, program.lines, program.window)
    assert np.array_equal(program.results(memory)["y"], expected), f"seed {seed}: machine"
    rng = np.random.default_rng(seed)
    speed = MemorySettings(*(int(v) for v in rng.integers(1, 20, 4)))
    results, _ = on_gates.run(spec, gates, program, inputs, speed, f"seed {seed}")
    wrong = np.argwhere(results["y"] != expected)
    assert not wrong.size, f"seed {seed}: gates differ at {wrong[0].tolist()}"
    found["shapes"] = 1
    return found


def executor_codes(values, network):
    """The simulator's output as codes."""
    tensor = network.tensors["y"]
    return values if values.dtype.kind == "u" else tensor.encode(values)


def damaged(program, what):
    """The program's memory with one thing wrong in its stream or its exec."""
    listed = program.commands
    first = program.address - program.origin
    at, command = next((a, c) for a, c in listed if c.op == "exec" and c["kind"] == SPARSE)
    fields = dict(command.values)
    image = program.image.copy()
    if what == "index":
        fields["inputs"] = 1
    elif what == "more blocks":
        fields["tiles"] += 40
    elif what == "fewer blocks":
        fields["tiles"] = 1
    elif what == "a line more":
        fields["stream_lines"] += 1
    elif what == "a line less":
        fields["stream_lines"] -= 1
    elif what == "no record fits":
        fields.update(delta=2, block_rows=2, mode_a=3, mode_b=3, out=3)
    data = np.frombuffer(encode(Command("exec", fields)), dtype=np.uint8)
    image[first + at : first + at + len(data)] = data
    memory = np.zeros(MEMORY, dtype=np.uint8)
    memory[program.origin : program.origin + len(image)] = image
    return memory


SPARSE = KINDS.index("sparse")
CAUSES = {"no record fits": "an illegal command"}


@pytest.mark.parametrize(
    "what",
    ["index", "more blocks", "fewer blocks", "a line more", "a line less", "no record fits"],
)
def test_malformed_streams_stop_the_gates(what):
    """With a cause, as golden's machine, and the next program runs."""
    spec, gates = SPECS["2x2"], Cosim(SPECS["2x2"], MEMORY)
    seed = next(
        s for s in range(2, 200, 4)
        if layer(s)[0].layers[0].weights.any(axis=1).sum() > 12 and compilable(spec, s)
    )  # fmt: skip
    network, inputs, _ = layer(seed)
    program = compile(network, spec, sparse="always")
    memory = damaged(program, what)
    cause = CAUSES.get(what, "a malformed stream of weights")
    with pytest.raises(DeviceError, match=cause):
        Machine(spec).run(memory.copy(), program.address, program.lines, program.window)
    gates.memory[:] = memory
    start = Start(program.address, program.lines, **vars(program.window))
    with pytest.raises(DeviceError, match=cause):
        gates.run(start, cycle_limit=200_000)
    gates.run(on_gates.load(gates, program, inputs))
    expected = reference.evaluate(spec, network, inputs)["y"]
    assert np.array_equal(program.results(gates.memory)["y"], expected)


def compilable(spec, seed):
    """Whether the layer becomes one sparse exec."""
    try:
        program = compile(layer(seed)[0], spec, sparse="always")
    except CompileError:
        return False
    return sum(c.op == "exec" and c["kind"] == SPARSE for _, c in program.commands) == 1
