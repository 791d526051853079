"""What the importer makes of models, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from opennpe.golden import layers as L
from opennpe.quant import Graph, float_eval, load_onnx
from quant_models import REAL_MODELS, build, extra, save, small_cnn

node = helper.make_node
RNG = np.random.default_rng(11)


def against_onnxruntime(path: Path, samples: int = 1, tolerance: float = 1e-4) -> Graph:
    """Float evaluation must agree with onnxruntime on random inputs, one by one and in a batch."""
    graph = load_onnx(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    inputs = {
        name: rng.normal(0, 1, (samples, *graph.shapes[name][1:])).astype(np.float32)
        if graph.batch_axis == 0
        else rng.normal(0, 1, graph.shapes[name]).astype(np.float32)
        for name in graph.inputs
    }
    ours = float_eval.evaluate(graph, inputs)
    names = [item.name for item in session.get_outputs()]
    for i in range(samples):
        one = {n: a[i : i + 1] if graph.batch_axis == 0 else a for n, a in inputs.items()}
        for name, wanted in zip(names, session.run(None, one), strict=True):
            got = ours[name][i : i + 1] if graph.batch_axis == 0 else ours[name]
            assert got.shape == wanted.shape, name
            error = np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-12)
            assert error <= tolerance, (name, error)
    return graph


def kinds(graph: Graph) -> list[str]:
    return [type(layer).__name__ for layer in graph.layers]


@pytest.mark.fast
def test_small_cnn_folds_to_its_layers(tmp_path: Path) -> None:
    graph = against_onnxruntime(save(small_cnn(), tmp_path), samples=3)
    assert kinds(graph) == [
        "Conv", "Conv", "Add", "Pool", "Pool", "Reshape", "Linear", "Softmax",
    ]  # fmt: skip
    first, _, add = graph.layers[:3]
    assert isinstance(first, L.Conv) and first.clip == (0.0, np.inf) and first.output == "r1"
    assert isinstance(add, L.Add) and add.clip == (0.0, np.inf)
    assert graph.batch_axis == 0 and graph.shapes["x"] == (1, 3, 12, 12)


W = {
    "w": RNG.normal(size=(6, 3, 3, 3)),
    "b": RNG.normal(size=6),
    "c": RNG.normal(size=(1, 6, 1, 1)),
    "d": RNG.normal(size=(6, 1, 1)),
    "two": np.array(2.0),
    "m": RNG.normal(size=(8, 5)),
    "row": RNG.normal(size=5),
    "scales": np.array([1, 1, 2, 3], np.float32),
    "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64),
    "target": np.array([0, -1], np.int64),
    "zero": np.array(0.0),
    "six": np.array(6.0),
    "three": np.array(3.0),
}

CASES: dict[str, tuple[list[Any], list[int], list[str]]] = {
    "affine after a convolution": (
        [
            node("Conv", ["x", "w", "b"], ["1"], strides=[2, 2], dilations=[2, 1]),
            node("Mul", ["1", "c"], ["2"]),
            node("Add", ["d", "2"], ["3"]),
            node("Div", ["3", "two"], ["4"]),
            node("Relu", ["4"], ["y"]),
        ],
        [1, 3, 9, 9],
        ["Conv"],
    ),
    "affine before a convolution without padding": (
        [
            node("Sub", ["x", "two"], ["1"]),
            node("Mul", ["1", "two"], ["2"]),
            node("Conv", ["2", "w"], ["y"]),
        ],
        [1, 3, 9, 9],
        ["Conv"],
    ),
    "padding into a convolution": (
        [node("Pad", ["x", "pads"], ["1"]), node("Conv", ["1", "w", "b"], ["y"])],
        [1, 3, 9, 9],
        ["Conv"],
    ),
    "auto_pad": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 3])],
        [1, 3, 10, 11],
        ["Conv"],
    ),
    "matmul and a bias": (
        [node("MatMul", ["x", "m"], ["1"]), node("Add", ["row", "1"], ["y"])],
        [1, 4, 8],
        ["Linear"],
    ),
    "silu by hand": (
        [node("Sigmoid", ["x"], ["1"]), node("Mul", ["1", "x"], ["y"])],
        [1, 7],
        ["Activate"],
    ),
    "relu6 as clip after relu": (
        [
            node("Conv", ["x", "w"], ["1"]),
            node("Relu", ["1"], ["2"]),
            node("Clip", ["2", "zero", "six"], ["y"]),
        ],
        [1, 3, 9, 9],
        ["Conv"],
    ),
    "a shape computed by the graph": (
        [
            node("Conv", ["x", "w"], ["1"]),
            node("Shape", ["1"], ["s"]),
            node("Gather", ["s", "first"], ["n"]),
            node("Unsqueeze", ["n", "axes"], ["u"]),
            node("Concat", ["u", "minus"], ["t"], axis=0),
            node("Reshape", ["1", "t"], ["y"]),
        ],
        [1, 3, 9, 9],
        ["Conv", "Reshape"],
    ),
    "an identity at the end": (
        [node("Relu", ["x"], ["1"]), node("Identity", ["1"], ["y"])],
        [1, 7],
        ["Activate"],
    ),
    "relu kept where the sum is read twice": (
        [
            node("Conv", ["x", "w"], ["1"]),
            node("Relu", ["1"], ["2"]),
            node("Add", ["1", "2"], ["y"]),
        ],
        [1, 3, 9, 9],
        ["Conv", "Activate", "Add"],
    ),
}
W |= {
    "first": np.array(0, np.int64),
    "axes": np.array([0], np.int64),
    "minus": np.array([-1], np.int64),
}


@pytest.mark.parametrize("name", CASES)
def test_patterns_fold_and_agree_with_onnxruntime(tmp_path: Path, name: str) -> None:
    nodes, shape, expected = CASES[name]
    used = {n for item in nodes for n in item.input}
    constants = {n: v for n, v in W.items() if n in used}
    graph = against_onnxruntime(save(build(nodes, {"x": shape}, ["y"], constants), tmp_path))
    assert kinds(graph) == expected


def test_gelu_by_hand_becomes_one_activation(tmp_path: Path) -> None:
    constants = {"r": np.array(2.0**0.5), "one": np.array(1.0), "half": np.array(0.5)}
    nodes = [
        node("Div", ["x", "r"], ["1"]),
        node("Erf", ["1"], ["2"]),
        node("Add", ["2", "one"], ["3"]),
        node("Mul", ["x", "3"], ["4"]),
        node("Mul", ["4", "half"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 40]}, ["y"], constants)
    graph = against_onnxruntime(save(model, tmp_path))
    assert [getattr(layer, "kind", "") for layer in graph.layers] == ["gelu"]


def test_older_opsets_keep_their_meaning(tmp_path: Path) -> None:
    nodes = [
        node("Upsample", ["x", "s"], ["1"], mode="nearest"),
        node("Pad", ["1"], ["2"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        node("Clip", ["2"], ["3"], min=-0.5, max=0.5),
        node("Softmax", ["3"], ["y"], axis=2),
    ]
    model = build(nodes, {"x": [1, 2, 3, 4]}, ["y"], {"s": np.ones(4) * [1, 1, 2, 2]}, opset=9)
    against_onnxruntime(save(model, tmp_path))


def qdq(scale: float, zero: int) -> onnx.ModelProto:
    codes = RNG.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
    constants = {
        "q": codes,
        "ws": np.array([0.5, 0.25, 0.125, 0.0625], np.float32) / 64,
        "wz": np.zeros(4, np.int8),
        "s": np.array(scale, np.float32),
        "z": np.array(zero, np.uint8),
    }
    nodes = [
        node("DequantizeLinear", ["q", "ws", "wz"], ["w"], "dq_w", axis=0),
        node("Conv", ["x", "w"], ["1"], "conv"),
        node("QuantizeLinear", ["1", "s", "z"], ["2"], "q_a"),
        node("DequantizeLinear", ["2", "s", "z"], ["y"], "dq_a"),
    ]
    return build(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants)


def test_qdq_pairs_become_clips_and_hints(tmp_path: Path) -> None:
    graph = load_onnx(save(qdq(0.03125, 0), tmp_path))
    (layer,) = graph.layers
    assert isinstance(layer, L.Conv) and layer.clip == (0.0, 255 * 0.03125)
    assert graph.weight_hints["conv"].format == "int8"
    assert graph.weight_hints["conv"].scale.tolist() == [-7, -8, -9, -10]
    hint = graph.hints[layer.output]
    # Unsigned codes do not fit int8 at the same scale: the hint is not exact.
    assert (hint.format, hint.scale, hint.exact) == ("int8", -5, False)


def test_qdq_scales_that_are_no_power_of_two_take_the_nearest(tmp_path: Path) -> None:
    graph = load_onnx(save(qdq(0.03, 7), tmp_path))
    (layer,) = graph.layers
    hint = graph.hints[layer.output]
    assert (hint.scale, hint.exact) == (-5, False)


def test_qonnx_quant_nodes_are_read(tmp_path: Path) -> None:
    domain = "qonnx.custom_op.general"
    constants = {
        "w": RNG.normal(0, 1, (8, 5)),
        "s": np.array(0.25),
        "z": np.array(0.0),
        "bits": np.array(4.0),
    }
    nodes = [
        node("Quant", ["w", "s", "z", "bits"], ["wq"], "qw", domain=domain, signed=1, narrow=1),
        node("MatMul", ["x", "wq"], ["1"], "fc"),
        node("Quant", ["1", "s", "z", "bits"], ["y"], "qa", domain=domain, signed=1),
    ]
    graph = load_onnx(
        save(build(nodes, {"x": [1, 8]}, ["y"], constants, domains=(domain,)), tmp_path)
    )
    (layer,) = graph.layers
    assert isinstance(layer, L.Linear) and layer.clip == (-2.0, 1.75)
    wanted = np.clip(np.rint(constants["w"].astype(np.float32) / 0.25), -7, 7) * 0.25
    assert np.array_equal(layer.weights, wanted.T)
    assert graph.weight_hints["fc"].format == "int4" and graph.hints["y"].scale == -2


@pytest.mark.parametrize("name", REAL_MODELS)
def test_networks_made_by_others_agree_with_onnxruntime(name: str) -> None:
    folder = extra()
    if folder is None:
        pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")
    against_onnxruntime(folder / name, samples=2)
