"""A compiled program on the Verilated gates, its counters held against the cycle model's."""

from __future__ import annotations

from opennpe.rtl.cosim import Start
from opennpe.sim.coprocessor import cycles

__all__ = ["load", "run"]


def load(gates, program, inputs):
    """Put the program and its inputs into the memory; what starts it."""
    gates.memory[:] = 0
    gates.memory[: program.size] = program.memory(inputs)
    return Start(program.address, program.lines, **vars(program.window))


def run(spec, gates, program, inputs, speed, what=""):
    """Codes of the results by tensor, and the counters; ``what`` names the case in a failure."""
    done = gates.run(load(gates, program, inputs), settings=speed)
    assert cycles(spec, program, speed).counters == done.counters, f"{what}: counters"
    return program.results(gates.memory), done.counters
