"""Small descriptions of convolutional networks, and the ONNX models they become.

A plan lists operations in order; the same plan becomes an ONNX model here and a PyTorch module in
:mod:`opennpe.cli.torch_networks`, so that both sides of a comparison are one network. Batch
normalisation is taken as folded: every convolution has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Op", "Plan", "mobilenet_v2", "random_weights", "resnet18", "to_onnx"]

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Op:
    """One operation: it writes the tensor of its own name.

    Attributes:
        kind: conv, linear, relu, relu6, hard_swish, add, max_pool, average (over all pixels, and
            flat afterwards).
        inputs: names of the operations read; "x" is the network's input.
        channels: inputs and outputs of a conv or linear.
        kernel, stride, groups: of a conv or max_pool; padding keeps the size at stride 1.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    channels: tuple[int, int] = (0, 0)
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.kernel // 2 if self.kernel % 2 else 0

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, I / groups, kernel, kernel) or (O, I); empty for what has no weights."""
        inputs, outputs = self.channels
        if self.kind == "conv":
            return (outputs, inputs // self.groups, self.kernel, self.kernel)
        return (outputs, inputs) if self.kind == "linear" else ()


@dataclass(frozen=True)
class Plan:
    """A network of one input and one output, the last operation's.

    Attributes:
        shape: of one sample, (channels, height, width).
    """

    name: str
    shape: tuple[int, int, int]
    ops: tuple[Op, ...]


class _Chain:
    """Appends operations, each reading the one before unless told otherwise."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.last = "x"

    def add(self, name: str, kind: str, inputs: tuple[str, ...] = (), **settings: Any) -> str:
        self.ops.append(Op(name, kind, inputs or (self.last,), **settings))
        self.last = name
        return name


def resnet18(size: int = 224, classes: int = 1000) -> Plan:
    """ResNet-18 (He, Zhang, Ren, Sun, arXiv 1512.03385): 11.7 M parameters, 1.8 G MACs at 224."""
    chain = _Chain()
    chain.add("conv1", "conv", channels=(3, 64), kernel=7, stride=2)
    chain.add("relu1", "relu")
    # Torchvision's pooling pads by one; kernel 3 does so here as well.
    chain.add("pool1", "max_pool", kernel=3, stride=2)
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            entry = short = chain.last
            chain.add(f"{name}.conv1", "conv", channels=(before, channels), kernel=3, stride=stride)
            chain.add(f"{name}.relu1", "relu")
            body = chain.add(f"{name}.conv2", "conv", channels=(channels, channels), kernel=3)
            if stride > 1:
                side = (before, channels)
                short = chain.add(f"{name}.down", "conv", (entry,), channels=side, stride=stride)
            chain.add(f"{name}.add", "add", (body, short))
            chain.add(f"{name}.relu2", "relu")
            before = channels
    chain.add("average", "average")
    chain.add("fc", "linear", channels=(512, classes))
    return Plan("resnet18", (3, size, size), tuple(chain.ops))


def mobilenet_v2(size: int = 224, classes: int = 1000) -> Plan:
    """MobileNetV2 (Sandler et al., arXiv 1801.04381): 3.5 M parameters, 0.3 G MACs at 224."""
    chain = _Chain()
    chain.add("stem", "conv", channels=(3, 32), kernel=3, stride=2)
    chain.add("stem.relu6", "relu6")
    before, index = 32, 0
    for expand, channels, repeats, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for repeat in range(repeats):
            entry, name, wide = chain.last, f"block{index}", before * expand
            stride = first if repeat == 0 else 1
            if expand > 1:
                chain.add(f"{name}.expand", "conv", channels=(before, wide))
                chain.add(f"{name}.expand.relu6", "relu6")
            chain.add(
                f"{name}.depthwise", "conv",
                channels=(wide, wide), kernel=3, stride=stride, groups=wide,
            )  # fmt: skip
            chain.add(f"{name}.depthwise.relu6", "relu6")
            chain.add(f"{name}.project", "conv", channels=(wide, channels))
            if stride == 1 and before == channels:
                chain.add(f"{name}.add", "add", (chain.last, entry))
            before, index = channels, index + 1
    chain.add("head", "conv", channels=(320, 1280))
    chain.add("head.relu6", "relu6")
    chain.add("average", "average")
    chain.add("fc", "linear", channels=(1280, classes))
    return Plan("mobilenet_v2", (3, size, size), tuple(chain.ops))


def random_weights(plan: Plan, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights that keep the size of activations through the layers: ``NAME.weight``, ``.bias``.

    Normal with variance 2 / fan-in (He initialisation), a fifth of that on the branches that a
    residual adds, so that depth does not blow up.
    """
    rng = np.random.default_rng(seed)
    branches = {op.inputs[0] for op in plan.ops if op.kind == "add"}
    weights: dict[str, NDArray[np.float32]] = {}
    for op in plan.ops:
        if op.weight_shape:
            spread = math.sqrt(2 / math.prod(op.weight_shape[1:]))
            spread *= 0.2 if op.name in branches else 1
            weights[f"{op.name}.weight"] = rng.normal(0, spread, op.weight_shape).astype(np.float32)
            weights[f"{op.name}.bias"] = rng.normal(0, 0.1, op.channels[1]).astype(np.float32)
    return weights


def to_onnx(plan: Plan, weights: Weights) -> onnx.ModelProto:
    """The plan as an ONNX model (opset 14) with a free batch, input ``x``, output ``scores``."""
    names = {op.name: op.name for op in plan.ops}
    names |= {"x": "x", plan.ops[-1].name: "scores"}
    nodes = [node for op in plan.ops for node in _nodes(op, names)]
    constants = [
        numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)
        for name, value in weights.items()
    ]
    if any(op.kind == "relu6" for op in plan.ops):
        for name, bound in (("zero", 0.0), ("six", 6.0)):
            constants.append(numpy_helper.from_array(np.array(bound, dtype=np.float32), name))
    graph = helper.make_graph(
        nodes,
        plan.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *plan.shape])],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.FLOAT, ["N", plan.ops[-1].channels[1]]
            )
        ],
        constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 14)],
        ir_version=8,
        producer_name="opennpe",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(op: Op, names: Mapping[str, str]) -> list[onnx.NodeProto]:
    inputs, output = [names[n] for n in op.inputs], names[op.name]

    def node(kind: str, reads: list[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, reads, [output], op.name, **attributes)

    weights = [f"{op.name}.weight", f"{op.name}.bias"]
    window = {
        "kernel_shape": [op.kernel] * 2,
        "strides": [op.stride] * 2,
        "pads": [op.padding] * 4,
    }
    match op.kind:
        case "conv":
            return [node("Conv", inputs + weights, group=op.groups, **window)]
        case "linear":
            return [node("Gemm", inputs + weights, transB=1)]
        case "relu6":
            return [node("Clip", [*inputs, "zero", "six"])]
        case "hard_swish":
            return [node("HardSwish", inputs)]
        case "relu":
            return [node("Relu", inputs)]
        case "add":
            return [node("Add", inputs)]
        case "max_pool":
            return [node("MaxPool", inputs, **window)]
        case "average":
            middle = f"{op.name}.pixels"
            pool = helper.make_node("GlobalAveragePool", inputs, [middle], f"{op.name}.pool")
            return [pool, node("Flatten", [middle])]
    raise ValueError(f"no ONNX operator for '{op.kind}'")
