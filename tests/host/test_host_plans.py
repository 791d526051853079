"""What the random networks reach, what plans are worth, and what is kept."""

import math

import numpy as np
import pytest
from host_cases import SPECS, Builder, random_network
from opennpe.golden import catalog, reference
from opennpe.golden import layers as L
from opennpe.golden.commands import KINDS, TARGETS
from opennpe.golden.errors import AccumulatorError, CompileError, FormatError
from opennpe.golden.machine import Machine
from opennpe.golden.registers import MemorySettings
from opennpe.host.compile import compile
from opennpe.sim.coprocessor import cycles


def features(spec, commands):
    """What a list makes use of."""
    found = set()
    for c in commands:
        if c.op == "exec":
            lanes = [16 // {0: 4, 1: 4, 2: 8, 3: 16}[c[m]] for m in ("mode_a", "out")]
            found |= {
                KINDS[c["kind"]],
                f"fold {c['fold']}",
                "a sum in pieces" if not c["begin"] or not c["finish"] else "a whole sum",
                "wider results" if lanes[1] < lanes[0] else "results",
                "narrower results" if lanes[1] > lanes[0] else "results",
                *(name for name in ("clamp", "table") if c[name]),
                *(["blocks"] if c["blocks"] > 1 else []),
                *(["channel tiles"] if c["tiles"] > 1 else []),
                *(["two 4-bit formats"] if c["mode_a"] != c["mode_b"] else []),
            }
        if c.op in ("load", "fill") and c["widen"]:
            found.add(f"{c.op} widens")
        if c.op == "load":
            found.add(f"load to {TARGETS[c['target']]}")
        if c.op == "fill" and c["inner"] > 1:
            found.add("fill by stretches")
    return found


WANTED = {
    *KINDS, "fold 0", "fold 1", "fold 2", "a sum in pieces", "wider results", "narrower results",
    "clamp", "table", "blocks", "channel tiles", "two 4-bit formats", "load widens", "fill widens",
    "fill by stretches", *(f"load to {name}" for name in TARGETS),
}  # fmt: skip


def test_random_networks_reach_everything():
    found, streams = set(), 0
    for seed in range(400):
        spec = list(SPECS.values())[seed % len(SPECS)]
        network, _ = random_network(seed)
        try:
            program = compile(network, spec)
        except (CompileError, FormatError, AccumulatorError):
            continue
        found |= features(spec, [c for _, c in program.commands])
        streams += bool(program.of("stream"))
        if found >= WANTED and streams:
            return
    pytest.fail(f"never seen: {sorted(WANTED - found)}, programs that stream: {streams}")


def chain(kind, channels, size, count, fmt="posit8"):
    """Layers 3x3 (dense or depthwise) or 1x1, one after the other."""
    b = Builder(np.random.default_rng(0), (fmt,))
    x = first = b.tensor((1, channels, size, size), scale=0)
    groups = channels if kind == "depth" else 1
    k = 1 if kind == "point" else 3
    for _ in range(count):
        weights = b.codes(fmt, (channels, channels // groups, k, k))
        x = b.finish(
            lambda name, out, x=x, w=weights: L.Conv(
                name, (x.name,), out, w, fmt, np.full(channels, -4), np.zeros(channels), (1, 1),
                (k // 2,) * 4, (1, 1), groups, (0.0, math.inf),
            ),
            x, scale=0,
        )  # fmt: skip
    return b.network([first.name], [x.name])


@pytest.mark.parametrize(
    ("kind", "channels", "size", "least"),
    [
        ("dense", 16, 32, 0.9),
        ("dense", 64, 16, 0.9),
        ("point", 64, 24, 0.9),
        ("depth", 64, 24, 0.5),
        ("depth", 16, 32, 0.5),
    ],
)
def test_plans_keep_the_array_busy(kind, channels, size, least):
    """Of a chain's peak, the whole run counted: loads of the input and of the first weights too."""
    spec = catalog.EDGE_8X8
    network = chain(kind, channels, size, 8)
    counters = cycles(spec, compile(network, spec), MemorySettings()).counters
    macs = sum(network.macs(layer) for layer in network.layers)
    used = macs / spec.array.macs_per_cycle("posit8") / counters.cycles
    assert least <= used <= 1


def test_the_first_weights_come_before_most_of_the_input():
    """The array needs all of the former and little of the latter."""
    spec = catalog.EDGE_8X8
    listed = [c for _, c in compile(chain("dense", 16, 32, 2), spec).commands]
    targets = [TARGETS[c["target"]] for c in listed if c.op == "load"]
    assert targets.count("buffer") > 2
    assert targets.index("parameters") < [i for i, t in enumerate(targets) if t == "buffer"][1]


def test_a_tensor_kept_by_name_is_not_fused_away():
    b = Builder(np.random.default_rng(1), ("posit8",))
    x = b.tensor((1, 4, 5, 5))
    y = b.conv(x)
    z = b.finish(lambda name, out: L.Activate(name, (y.name,), out, "tanh"), y)
    network = b.network([x.name], [z.name])
    spec = SPECS["4x4"]
    assert {s.name for s in compile(network, spec, "all").symbols} == {x.name, z.name}
    program = compile(network, spec, [y.name])
    inputs = {x.name: b.codes("posit8", x.shape)}
    memory = program.memory(inputs)
    Machine(spec).run(memory, program.address, program.lines, program.window)
    expected = reference.evaluate(spec, network, inputs)
    found = program.results(memory)
    assert set(found) == {y.name, z.name}
    assert all(np.array_equal(found[n], expected[n]) for n in found)
