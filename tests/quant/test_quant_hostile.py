"""Damaged and hostile models: one clear line each, never another exception."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from opennpe.golden.errors import ModelError, OpenNPEError
from opennpe.quant import UnsupportedModelError, calibrate, load_onnx
from quant_models import build, save, small_cnn

node = helper.make_node
MUTATIONS = 400


def refused(model: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_onnx(save(model, folder))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.fast
def test_fuzzed_models_raise_only_our_errors(tmp_path: Path) -> None:
    whole = small_cnn().SerializeToString()
    rng = random.Random(1)
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 12))
    refusals = loaded = 0
    for _ in range(MUTATIONS):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3, 10))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / "fuzz.onnx"
        path.write_bytes(bytes(data))
        try:
            graph = load_onnx(path)
            loaded += 1
            if loaded % 8 == 0:
                calibrate(graph, dict.fromkeys(graph.inputs, x), "posit8")
        except OpenNPEError as error:
            assert str(error)
            refusals += 1
    assert refusals > 20 and loaded > 20


@pytest.mark.fast
def test_truncated_models_are_refused(tmp_path: Path) -> None:
    whole = small_cnn().SerializeToString()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load_onnx(path)


def test_missing_file_and_random_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        load_onnx(tmp_path / "nowhere.onnx")
    path = tmp_path / "noise.onnx"
    path.write_bytes(random.Random(2).randbytes(4096))
    with pytest.raises(ModelError, match=r"noise\.onnx"):
        load_onnx(path)


def external(location: str, count: int = 12) -> onnx.ModelProto:
    model = build([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [1, 3]}, ["y"])
    tensor = model.graph.initializer.add()
    tensor.name, tensor.data_type = "w", TensorProto.FLOAT
    tensor.dims.extend([3, count // 3])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    inner = tmp_path / "model"
    inner.mkdir()
    assert "outside the model's folder" in refused(external(location), inner)


def test_external_data_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside the model's folder" in refused(external("link.bin"), inner)


def test_external_data_inside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.full(12, 0.5, np.float32).tobytes())
    graph = load_onnx(save(external("w.bin"), tmp_path))
    assert (graph.layers[0].weights == 0.5).all()
    assert "not there" in refused(external("w.bin", 300), tmp_path)
    assert "not there" in refused(external("missing.bin"), tmp_path)


def test_absurd_shapes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    relu = [node("Relu", ["x"], ["y"], "relu")]
    assert "elements" in refused(build(relu, {"x": [1 << 20, 1 << 20]}, ["y"]), tmp_path)
    assert "negative" in refused(build(relu, {"x": [1, -5]}, ["y"]), tmp_path)
    assert "empty" in refused(build(relu, {"x": [1, 0]}, ["y"]), tmp_path)
    huge = np.array([1 << 30, 1 << 30], np.int64)
    fill = [node("ConstantOfShape", ["s"], ["c"], "fill"), node("Add", ["x", "c"], ["y"], "add")]
    assert "elements" in refused(build(fill, {"x": [1, 1]}, ["y"], {"s": huge}), tmp_path)
    expand = [node("Expand", ["x", "s"], ["y"], "expand")]
    assert "elements" in refused(build(expand, {"x": [1, 1]}, ["y"], {"s": huge}), tmp_path)
    tile = [node("Tile", ["x", "s"], ["y"], "tile")]
    assert "elements" in refused(build(tile, {"x": [1, 1]}, ["y"], {"s": huge}), tmp_path)
    pad = [node("Pad", ["x", "s"], ["y"], "pad")]
    wide = np.array([0, 0, 1 << 40, 1 << 40], np.int64)
    assert "elements" in refused(build(pad, {"x": [1, 1]}, ["y"], {"s": wide}), tmp_path)
    lie = build([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [1, 3]}, ["y"], {"w": np.ones(6)})
    del lie.graph.initializer[0].dims[:]
    lie.graph.initializer[0].dims.extend([1 << 40, 1 << 20])
    assert "elements" in refused(lie, tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    weights = np.ones((3, 4))
    weights[1, 2] = bad
    model = build([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [1, 3]}, ["y"], {"w": weights})
    message = refused(model, tmp_path)
    assert "'fc'" in message and "1 NaN or infinite" in message


def test_graphs_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    loop = [node("Add", ["x", "b"], ["a"], "one"), node("Relu", ["a"], ["b"], "two")]
    assert "cycle" in refused(build(loop, {"x": [1, 3]}, ["b"]), tmp_path)
    missing = [node("Conv", ["x", "w"], ["y"], "conv")]
    assert "'w'" in refused(build(missing, {"x": [1, 3, 8, 8]}, ["y"]), tmp_path)
    relu = [node("Relu", ["x"], ["y"], "relu")]
    assert "'z'" in refused(build(relu, {"x": [1, 3]}, ["z"]), tmp_path)
    twice = [*relu, node("Relu", ["x"], ["y"], "again")]
    assert "twice" in refused(build(twice, {"x": [1, 3]}, ["y"]), tmp_path)
    misfit = [node("Conv", ["x", "w"], ["y"], "conv")]
    shapes = build(misfit, {"x": [1, 3, 8, 8]}, ["y"], {"w": np.ones((4, 5, 3, 3))})
    assert "'conv'" in refused(shapes, tmp_path)


def test_symbolic_dimensions(tmp_path: Path) -> None:
    relu = [node("Relu", ["x"], ["y"], "relu")]
    model = build(relu, {"x": ["batch", 3, "height"]}, ["y"])
    message = refused(model, tmp_path)
    assert "'height'" in message and "axis 2" in message
    graph = load_onnx(save(model, tmp_path), dims={"height": 5})
    assert graph.shapes["x"] == (1, 3, 5)


def test_every_unsupported_node_is_listed(tmp_path: Path) -> None:
    nodes = [
        node("ConvTranspose", ["x", "w"], ["a"], "up"),
        node("Relu", ["a"], ["b"], "fine"),
        node("Resize", ["b", "", "s"], ["c"], "cubic_resize", mode="cubic"),
        node("NonZero", ["c"], ["d"], "odd"),
        node("Mystery", ["c"], ["y"], "alien", domain="far.away"),
    ]
    constants = {"w": np.ones((3, 3, 2, 2)), "s": np.array([1, 1, 2, 2], np.float32)}
    model = build(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants, domains=("far.away",))
    with pytest.raises(UnsupportedModelError) as caught:
        load_onnx(save(model, tmp_path))
    assert [n.name for n in caught.value.nodes] == ["up", "cubic_resize", "odd", "alien"]
    assert "cubic" in str(caught.value) and "far.away" in str(caught.value)


def test_functions_and_subgraphs_are_refused(tmp_path: Path) -> None:
    model = build([node("Relu", ["x"], ["y"], "relu")], {"x": [1, 3]}, ["y"])
    model.functions.add().name = "helper"
    assert "helper" in refused(model, tmp_path)
    body = helper.make_graph(
        [node("Relu", ["x"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])],
    )
    branch = node("If", ["c"], ["y"], "branch", then_branch=body, else_branch=body)
    model = build([branch], {"x": [1, 3]}, ["y"], {"c": np.array(True)})
    with pytest.raises(UnsupportedModelError, match="branch"):
        load_onnx(save(model, tmp_path))


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_opsets_out_of_range_are_refused(tmp_path: Path, opset: int) -> None:
    model = build([node("Relu", ["x"], ["y"], "relu")], {"x": [1, 3]}, ["y"], opset=opset)
    assert f"opset {opset}" in refused(model, tmp_path)
