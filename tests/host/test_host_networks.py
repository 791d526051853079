"""Whole networks of others, compiled and run by the machine: every tensor as the simulator has it.

Set OPENNPE_EXTRA to their folder. The shipped network runs always.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opennpe import quant, sim
from opennpe.cli import graphs
from opennpe.golden import catalog, hazards
from opennpe.golden.errors import CompileError
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.machine import Machine
from opennpe.golden.network import encode_inputs
from opennpe.host.compile import compile
from opennpe.quant.policy import Policy

ZOO = Path(quant.__file__).parent / "zoo" / "fashion.onnx"
NETWORKS = {
    "mnist8/mnist8.onnx": 255,
    "converted_onnx/pretrainedResnet.onnx": 255,
    "converted_onnx/vww_96_float.onnx": 1,
}
"""Largest input value of each."""


def path(name):
    root = Path(os.environ.get("OPENNPE_EXTRA") or "/nowhere")
    found = next((p for p in (root / name, root / "data" / name) if p.is_file()), None)
    if found is None:
        pytest.skip(f"no {name} in OPENNPE_EXTRA")
    return found


def calibrated(model, largest, fmt):
    """A network of one format and one image."""
    graph = quant.load_onnx(model)
    ((name, shape),) = graphs.input_shapes(graph).items()
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, largest, (3, *shape[1:-2], *(-(-n // 4) for n in shape[-2:])))
    images = coarse.repeat(4, axis=-2).repeat(4, axis=-1)[..., : shape[-2], : shape[-1]]
    images = images.astype(np.float32)
    return quant.calibrate(graph, {name: images}, Policy.uniform(fmt)), {name: images[:1]}


def check(network, image, spec):
    """Compile, run, compare; the program."""
    program = compile(network, spec, "all")
    codes = encode_inputs(network, image, spec.underflow)
    memory = program.memory(codes)
    done = Machine(spec).run(memory, program.address, program.lines, program.window)
    found = program.results(memory)
    names = [name for name in found if name in network.tensors]
    expected, _ = sim.run(spec, network, image, keep=names)
    assert len(names) > 3
    for name in names:
        assert np.array_equal(found[name].reshape(-1), expected[name].reshape(-1)), name
    hazards.check(spec, [e.command for e in done])
    return program


@pytest.mark.parametrize("fmt", ENGINE_FORMATS[:3])
def test_the_shipped_network(fmt):
    network, image = calibrated(ZOO, 1, fmt)
    check(network, image, catalog.EDGE_8X8)


def test_a_table_of_wide_codes_is_refused_by_name():
    network, _ = calibrated(ZOO, 1, "posit16")
    with pytest.raises(CompileError, match="layer 'down.swish' .Activate.: a table of posit16"):
        compile(network, catalog.EDGE_8X8)


def test_the_shipped_network_streams_through_a_small_buffer():
    network, image = calibrated(ZOO, 1, "posit8")
    memory = replace(catalog.EDGE_4X4.memory, buffer_lines=256, operand_lines=128)
    spec = replace(catalog.EDGE_4X4, memory=memory)
    assert check(network, image, spec).layers.count("commands") > 3
    assert compile(network, spec).of("stream")


@pytest.mark.extra
@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others(name, fmt):
    network, image = calibrated(path(name), NETWORKS[name], fmt)
    for spec in (catalog.EDGE_8X8, catalog.EDGE_4X4):
        check(network, image, spec)


@pytest.mark.extra
def test_a_network_larger_than_the_buffer():
    network, image = calibrated(path("converted_onnx/vww_96_float.onnx"), 1, "posit8")
    memory = replace(catalog.EDGE_8X8.memory, buffer_lines=1024)
    check(network, image, replace(catalog.EDGE_8X8, memory=memory))
