"""Networks made by others on the co-processor: bits, cycles, utilisation, speed.

Run as a script, this prints the table of utilisation.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import pytest
from opennpe import quant, sim
from opennpe.cli import graphs
from opennpe.golden import catalog
from opennpe.golden import layers as L
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.network import encode_inputs
from opennpe.golden.registers import MemorySettings
from opennpe.host.backends import Verilator
from opennpe.host.compile import compile
from opennpe.quant.policy import Policy
from opennpe.sim.coprocessor import cycles
from opennpe.sim.trace_events import layer_spans, timeline
from test_extra_networks import NETWORKS, folder, picture

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(folder() is None, reason="no networks in OPENNPE_EXTRA"),
]

MNIST = "mnist8/mnist8.onnx"
RESNET = "converted_onnx/pretrainedResnet.onnx"
WAKE_WORDS = "converted_onnx/vww_96_float.onnx"
SPECS = ("EDGE_2X2", "EDGE_4X4", "EDGE_8X8")
SETTINGS = (MemorySettings(20, 1, 20, 1), MemorySettings(3, 2, 7, 1), MemorySettings(60, 3, 45, 2))
LEAST_DENSE, LEAST_DEPTH, LEAST_RATIO = 0.75, 0.25, 400


@lru_cache
def network(path, fmt):
    """The network calibrated for one format, and a sample."""
    graph = quant.load_onnx(folder() / path)
    rng = np.random.default_rng(5)
    name, shape = next(iter(graphs.input_shapes(graph).items()))
    images = np.stack([picture(rng, tuple(shape[1:]), *NETWORKS[path]) for _ in range(5)])
    found = quant.calibrate(graph, {name: images[1:]}, Policy.uniform(fmt))
    return found, encode_inputs(found, {name: images[:1]}, "zero")


@lru_cache
def gates(name):
    return Verilator(catalog.get(name))


def check(path, fmt, spec_name, settings):
    """Every tensor and every counter of one sample; the run."""
    spec = catalog.get(spec_name)
    found, inputs = network(path, fmt)
    program = compile(found, spec, "all")
    run = gates(spec_name).run(program, inputs, settings)
    kept = tuple(s.name for s in program.of("output", "kept") if s.name in found.tensors)
    expected, _ = sim.run(spec, found, inputs, keep=kept)
    assert set(found.outputs) <= set(run.tensors)
    compared = 0
    for tensor, codes in expected.items():
        assert np.array_equal(np.ravel(codes), np.ravel(run.tensors[tensor])), tensor
        compared += 1
    assert compared == len({*kept, *found.outputs})
    assert run.counters == cycles(spec, program, settings).counters
    return run


@pytest.mark.rtl
@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
def test_a_network_on_the_gates(fmt):
    check(MNIST, fmt, "EDGE_4X4", SETTINGS[0])


@pytest.mark.rtl
@pytest.mark.regress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("spec_name", SPECS)
@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
@pytest.mark.parametrize("path", [MNIST, RESNET])
def test_networks_on_the_gates(path, fmt, spec_name):
    for settings in SETTINGS:
        check(path, fmt, spec_name, settings)


@pytest.mark.rtl
@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
def test_the_simulator_is_faster(fmt):
    """Bits and cycles of one image against the gates of an 8x8 array, both in one run."""
    spec = catalog.get("EDGE_8X8")
    found, inputs = network(RESNET, fmt)
    program = compile(found, spec)
    settings = MemorySettings()

    def simulate():
        sim.run(spec, found, inputs)
        cycles(spec, program, settings)

    simulate()
    before = best(simulate)
    run = gates("EDGE_8X8").run(program, inputs, settings)
    seconds = max(before, best(simulate))
    print(f"{fmt}: gates {run.seconds:.1f} s, simulator {1e3 * seconds:.1f} ms", end=" ")
    print(f"{run.seconds / seconds:.0f} times")
    assert run.seconds < 180
    assert run.seconds / seconds >= LEAST_RATIO


def best(call, times=15):
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


def utilisation(path, fmt):
    """Multiply-accumulates, cycles and kind of each convolution on an 8x8 array."""
    spec = catalog.get("EDGE_8X8")
    found, _ = network(path, fmt)
    program = compile(found, spec)
    timing = cycles(spec, program, MemorySettings(20, 1, 20, 1))
    spans = {
        s.name: s for s in layer_spans(timeline(timing, program.layers), timing.counters.cycles)
    }
    rows = []
    for layer in found.layers:
        if isinstance(layer, L.Conv):
            span = next(s for n, s in spans.items() if layer.name in (n, *n.split("+")))
            kind = "depth" if layer.groups > 1 else "dense"
            rows.append((layer.name, kind, found.macs(layer), span.cycles))
    return rows, spec.array.macs_per_cycle(fmt)


def share(rows, kind, peak):
    own = [row for row in rows if row[1] == kind]
    return sum(row[2] for row in own) / sum(row[3] for row in own) / peak if own else None


@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
@pytest.mark.parametrize("path", [RESNET, WAKE_WORDS])
def test_utilisation(path, fmt):
    rows, peak = utilisation(path, fmt)
    assert share(rows, "dense", peak) >= LEAST_DENSE
    if path == RESNET:
        for name, kind, macs, count in rows:
            assert macs / count / peak >= LEAST_DENSE, (name, kind)
    else:
        assert share(rows, "depth", peak) >= LEAST_DEPTH


def main():
    """Print utilisation layer by layer."""
    for path in (RESNET, WAKE_WORDS):
        for fmt in ENGINE_FORMATS:
            rows, peak = utilisation(path, fmt)
            print(f"{path} {fmt}: dense {share(rows, 'dense', peak):.3f}", end=" ")
            deep = share(rows, "depth", peak)
            print(f"depthwise {deep:.3f}" if deep else "")
            print("  ", " ".join(f"{k[1]}{m / c / peak:.2f}" for _, k, m, c in rows))


if __name__ == "__main__":
    main()
