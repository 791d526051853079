"""The network that ships: it is what its page says, and its files are what its script writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from opennpe import sim
from opennpe.golden import catalog, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.quant import calibrate, load_onnx, zoo
from opennpe.quant.emulate import emulate
from opennpe.quant.float_eval import evaluate
from opennpe.quant.graph import Graph
from opennpe.quant.policy import Policy

FLOORS = {
    "fp32": 0.915,
    "fp4": 0.84,
    "posit4": 0.73,
    "posit8": 0.915,
    "posit16": 0.915,
    "mixed": 0.885,
}
"""Least top-1 on the shipped images, a little below what its page says."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_onnx(zoo.MODEL)


@pytest.fixture(scope="module")
def test_data() -> tuple[np.ndarray, np.ndarray]:
    with np.load(zoo.TEST_DATA, allow_pickle=False) as held:
        return held["x"], held["y"]


def network(graph: Graph, name: str) -> Network:
    policy = Policy.load(zoo.MIXED) if name == "mixed" else Policy.uniform(name)
    with np.load(zoo.CALIBRATION, allow_pickle=False) as held:
        return calibrate(graph, {"x": held["x"]}, policy)


@pytest.mark.fast
def test_files_are_small_and_as_promised(test_data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = test_data
    assert (x.shape, x.dtype, y.shape, y.dtype) == (
        (1000, 1, 28, 28), np.float32, (1000,), np.int64,
    )  # fmt: skip
    assert x.min() == 0 and x.max() == 1 and set(y) == set(range(10))
    with np.load(zoo.CALIBRATION) as held:
        shown = held["x"]
    assert shown.shape == (128, 1, 28, 28) and shown.dtype == np.float32
    seen = {image.tobytes() for image in x}
    assert not any(image.tobytes() in seen for image in shown), "calibration saw a test image"
    assert zoo.MODEL.stat().st_size < 150_000
    folder = zoo.MODEL.parent
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 2_000_000


@pytest.mark.fast
def test_it_has_every_kind_of_layer_that_the_story_needs(graph: Graph) -> None:
    operators = {node.op_type for node in onnx.load(zoo.MODEL).graph.node}
    assert operators >= {"Conv", "Relu", "Clip", "HardSwish", "Add", "MaxPool",
                         "GlobalAveragePool", "Gemm"}  # fmt: skip
    convolutions = [layer for layer in graph.layers if isinstance(layer, L.Conv)]
    assert any(layer.groups == layer.weights.shape[0] for layer in convolutions)
    assert any(layer.clip == (0.0, 6.0) for layer in convolutions)
    assert graph.batch_axis == 0


def test_fp32_is_onnxruntime_s(graph: Graph, test_data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = test_data
    session = onnxruntime.InferenceSession(zoo.MODEL, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    scores = evaluate(graph, {"x": x})["scores"]
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert (wanted.argmax(1) == y).mean() >= FLOORS["fp32"]


@pytest.mark.parametrize("name", ["fp4", "posit4", "posit8", "posit16", "mixed"])
def test_it_survives_every_format(
    name: str, graph: Graph, test_data: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = test_data
    rounded = network(graph, name)
    codes, _ = sim.run(catalog.get("EDGE_4X4"), rounded, {"x": x})
    scores = rounded.tensors["scores"].decode(codes["scores"])
    assert (scores.argmax(1) == y).mean() >= FLOORS[name]


@pytest.mark.parametrize("name", ["fp4", "posit16", "mixed"])
def test_the_emulation_is_golden_here(
    name: str, graph: Graph, test_data: tuple[np.ndarray, np.ndarray]
) -> None:
    x, spec = test_data[0][:1], catalog.get("EDGE_4X4")
    rounded = network(graph, name)
    values = emulate(rounded, {"x": x}, spec.underflow)
    codes = reference.evaluate(spec, rounded, {"x": x})
    for tensor in rounded.tensors.values():
        np.testing.assert_array_equal(values[tensor.name], tensor.decode(codes[tensor.name]))


def test_the_mixed_policy_mixes(graph: Graph) -> None:
    mixed = network(graph, "mixed")
    used = {tensor.format for tensor in mixed.tensors.values()}
    pairs = {
        (layer.weight_format, mixed.tensors[layer.inputs[0]].format)
        for layer in mixed.layers
        if isinstance(layer, L.Conv | L.Linear)
    }
    assert used | {weights for weights, _ in pairs} == set(formats.ENGINE_FORMATS)
    narrower = [p for p in pairs if formats.get(p[0]).bits < formats.get(p[1]).bits]
    assert len(narrower) >= 2
