"""Rows too long for the operand memories run in strips of columns, whole sums at a time."""

import math

import numpy as np
import pytest
from host_cases import Builder, spec
from opennpe.golden import hazards, lanes, reference
from opennpe.golden import layers as L
from opennpe.golden.machine import Machine
from opennpe.host.compile import compile

CASES = [
    # width, outputs, kernel, stride, pad, memories
    (24, 12, 3, 1, 1, {}),
    (18, 6, 3, 2, 0, {}),
    (30, 9, 1, 1, 0, {"operand_lines": 32}),
    (24, 30, 3, 1, 2, {"weight_lines": 512, "parameter_tiles": 4}),
    (24, 12, 3, 1, 1, {"buffer_lines": 256}),
]
BLOCKS = 3


@pytest.mark.parametrize("fmt", ["posit4", "posit8", "posit16"])
@pytest.mark.parametrize("case", CASES)
def test_strips_equal_golden(case, fmt):
    width, outputs, kernel, stride, pad, memories = case
    small = spec(2, 4, **({"operand_lines": 64, "buffer_lines": 8192, "weight_lines": 1024}
                          | memories))  # fmt: skip
    rng = np.random.default_rng(width)
    b = Builder(rng, (fmt,))
    x = b.tensor((1, BLOCKS * 4 * lanes.lanes(fmt) - 1, 5, width))
    weights = b.codes(fmt, (outputs, x.shape[1], kernel, kernel))
    scale, bias = np.full(outputs, -3), rng.normal(0, 1, outputs)
    b.finish(
        lambda name, out: L.Conv(
            name, (x.name,), out, weights, fmt, scale, bias, (stride,) * 2, (pad,) * 4, (1, 1), 1,
            (0.0, math.inf),
        ),
        x,
    )  # fmt: skip
    network = b.network([x.name], [b.layers[-1].output])
    inputs = {x.name: b.codes(fmt, x.shape)}
    program = compile(network, small, "all")
    memory = program.memory(inputs)
    done = Machine(small).run(memory, program.address, program.lines, program.window)
    commands = [e.command for e in done]
    hazards.check(small, commands)
    expected = reference.evaluate(small, network, inputs)
    for name, codes in program.results(memory).items():
        assert np.array_equal(codes, expected[name])
    execs = [c for c in commands if c.op == "exec"]
    assert all(c["begin"] and c["finish"] for c in execs), "a sum was cut"
    assert len(execs) > network.tensors[b.layers[-1].output].shape[2]
