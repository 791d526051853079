"""Small ONNX models, good and hostile, for the tests of the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["classifier", "save", "wide"]


def classifier(batch: int | str = "N", bad: float | None = None) -> onnx.ModelProto:
    """Convolution, relu, depthwise convolution, pooling, flatten, Gemm: 2x8x8 to 5 classes."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(0, 0.4, (6, 2, 3, 3)),
        "b1": rng.normal(0, 0.1, 6),
        "w2": rng.normal(0, 0.4, (6, 1, 3, 3)),
        "w3": rng.normal(0, 0.3, (5, 6)),
        "b3": rng.normal(0, 0.1, 5),
    }
    if bad is not None:
        weights["w2"][1, 0, 2, 2] = bad
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", group=6, strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], "fc", transB=1),
    ]
    return _model(nodes, {"image": [batch, 2, 8, 8]}, {"scores": [batch, 5]}, weights)


def wide(terms: int) -> onnx.ModelProto:
    """One product of ``terms`` terms."""
    node = helper.make_node("MatMul", ["image", "w"], ["scores"], "too_wide")
    weights = {"w": np.full((terms, 2), 0.01)}
    return _model([node], {"image": [1, terms]}, {"scores": [1, 2]}, weights)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side.items()]
        for side in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "small", *infos, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model."""
    path.write_bytes(model.SerializeToString())
    return path
