"""Small ONNX models for the tests of quant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["REAL_MODELS", "build", "extra", "save", "small_cnn"]

REAL_MODELS = (
    "mnist8/mnist8.onnx",
    "converted_onnx/pretrainedResnet.onnx",
    "converted_onnx/vww_96_float.onnx",
    "converted_onnx/ad01_fp32.onnx",
    "converted_onnx/iris_landmark.onnx",
    "converted_onnx/face_landmark.onnx",
    "converted_onnx/face_detection_front.onnx",
    "converted_onnx/hand_landmark_lite.onnx",
)


def extra() -> Path | None:
    """The folder of networks made by others, or None: $OPENNPE_EXTRA, itself or its data/."""
    root = os.environ.get("OPENNPE_EXTRA")
    if not root:
        return None
    for folder in (Path(root), Path(root) / "data"):
        if (folder / REAL_MODELS[0]).is_file():
            return folder
    return None


def build(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    opset: int = 13,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A model of nodes; float arrays are stored as float32."""
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    outs = [helper.make_value_info(n, helper.make_tensor_type_proto(1, None)) for n in outputs]
    stored = []
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        stored.append(numpy_helper.from_array(array, name))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    graph = helper.make_graph(nodes, "test", infos, outs, stored)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def small_cnn() -> onnx.ModelProto:
    """Conv, batch norm, relu, depthwise conv, residual, pooling, Gemm, softmax: 3x12x12 to 4."""
    rng = np.random.default_rng(3)
    constants = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "g": rng.uniform(0.5, 2, 8),
        "beta": rng.normal(0, 0.1, 8),
        "mean": rng.normal(0, 0.1, 8),
        "var": rng.uniform(0.5, 2, 8),
        "w2": rng.normal(0, 0.3, (8, 1, 3, 3)),
        "w3": rng.normal(0, 0.3, (4, 8)),
        "b3": rng.normal(0, 0.1, 4),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "g", "beta", "mean", "var"], ["n1"], "norm"),
        node("Relu", ["n1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["s"], "residual"),
        node("Relu", ["s"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["m"], ["a"], "mean_pool"),
        node("Flatten", ["a"], ["f"], "flatten"),
        node("Gemm", ["f", "w3", "b3"], ["z"], "fc", transB=1),
        node("Softmax", ["z"], ["y"], "softmax"),
    ]
    return build(nodes, {"x": ["N", 3, 12, 12]}, ["y"], constants)
