"""Programs on golden's machine, held against golden tensor by tensor."""

from collections import Counter

import numpy as np
from opennpe.golden import commands as C
from opennpe.golden import hazards, reference
from opennpe.golden.machine import Machine
from opennpe.host.compile import compile


def kinds(commands):
    """How many execs of each kind."""
    return Counter(C.KINDS[c["kind"]] for c in commands if c.op == "exec")


def run(spec, network, inputs, keep="all", **options):
    """The program, the commands that ran and the tensors they left outside."""
    held = compile(network, spec, keep, **options)
    memory = held.memory(inputs)
    done = Machine(spec).run(memory, held.address, held.lines, held.window)
    return held, [e.command for e in done], held.results(memory)


def check(spec, network, inputs, sparse="auto", keep="all"):
    """Run, compare every tensor kept, look for races; kinds of the execs."""
    expected = reference.evaluate(spec, network, inputs)
    _, commands, found = run(spec, network, inputs, keep, sparse=sparse)
    compared = 0
    for name, codes in found.items():
        if name in expected:
            assert codes.shape == expected[name].shape
            wrong = np.argwhere(codes != expected[name])
            assert not wrong.size, f"{name} at {wrong[0].tolist()}"
            compared += 1
    assert compared
    hazards.check(spec, commands)
    return kinds(commands)
