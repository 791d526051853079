"""Nodes whose inputs are all known are computed on import, within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator
from opennpe.golden.errors import ModelError
from opennpe.quant.graph import Array
from opennpe.quant.onnx_reader import Node, check_elements, plain

__all__ = ["FOLDABLE", "fold"]

MAX_FOLDED = 1 << 24
"""Largest folded constant, in elements."""

_BROADCASTING = frozenset(
    "Add Sub Mul Div Mod Pow Min Max Mean Sum Equal Less LessOrEqual Greater GreaterOrEqual And Or "
    "Xor Not Where Neg Abs Floor Ceil Round Sign Sqrt Exp Log Reciprocal Erf Sin Cos Tanh Sigmoid "
    "Relu Clip LeakyRelu Softmax IsNaN IsInf Identity Cast CastLike Reshape Flatten Squeeze "
    "Unsqueeze Transpose Concat Slice Split Gather GatherElements GatherND ReduceMean ReduceSum "
    "ReduceMax ReduceMin ReduceProd Size CumSum ScatterND ScatterElements ArgMax ArgMin Trilu "
    "BatchNormalization QuantizeLinear DequantizeLinear DepthToSpace SpaceToDepth Hardmax "
    "LogSoftmax Elu Selu Softplus HardSigmoid HardSwish".split()
)
"""Operators whose result is no larger than their inputs broadcast or joined."""
FOLDABLE = _BROADCASTING | {"MatMul", "Gemm", "ConstantOfShape", "Expand", "Pad", "Tile", "Range"}


def fold(node: Node, values: list[Array | None], domains: Mapping[str, int]) -> list[Array]:
    """Outputs of a node with constant inputs.

    Raises:
        ModelError: the node cannot be computed, or its result would be too large.
    """
    what = f"the constant result of node '{node.name}' ({node.op})"
    check_elements(_result_shape(node, values), what, MAX_FOLDED)
    try:
        model = _single(node, domains)
        names = {n: v for n, v in zip(node.inputs, values, strict=True) if n and v is not None}
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, names)
    except ModelError:
        raise
    except Exception as error:
        # The reference raises whatever NumPy did on inputs that contradict the node.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"node '{node.name}' ({node.op}) cannot be computed: {reason}") from error
    arrays = [plain(np.asarray(result)) for result in results]
    for array in arrays:
        if array.dtype.kind not in "fiub":
            raise ModelError(f"node '{node.name}' ({node.op}) gives {array.dtype} values")
        check_elements(array.shape, what, MAX_FOLDED)
    return arrays


def _single(node: Node, domains: Mapping[str, int]) -> Any:
    outputs = [n for n in node.outputs if n]
    graph = helper.make_graph(
        [node.proto],
        "fold",
        [ValueInfoProto(name=n) for n in dict.fromkeys(filter(None, node.inputs))],
        [ValueInfoProto(name=n) for n in outputs],
    )
    opsets = [helper.make_opsetid(name, version) for name, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets)


def _result_shape(node: Node, values: list[Array | None]) -> tuple[int, ...]:
    """An upper bound of the result, as a shape, before anything is allocated."""
    given = [v for v in values if v is not None]
    try:
        match node.op:
            case "ConstantOfShape":
                return tuple(int(n) for n in given[0].ravel())
            case "Pad":
                pads = given[1] if len(given) > 1 else np.asarray(node.attributes["pads"])
                return (given[0].size + 1, *(int(p) + 1 for p in pads.ravel() if p > 0))
            case "Expand":
                return tuple(np.broadcast_shapes(given[0].shape, tuple(given[1].tolist())))
            case "Tile":
                return tuple(
                    int(n) * int(r) for n, r in zip(given[0].shape, given[1].tolist(), strict=True)
                )
            case "Range":
                start, limit, delta = (float(v.ravel()[0]) for v in given)
                return (max(0, math.ceil((limit - start) / delta)),)
            case "MatMul" | "Gemm":
                return (given[0].size, math.prod(given[1].shape[-1:]))
            case "Gather":
                axis = int(node.attributes.get("axis", 0))
                return (given[1].size, given[0].size // max(1, given[0].shape[axis]))
            case "GatherND":
                # Every index may pick a whole slice.
                return (given[1].size, math.prod(given[0].shape[1:]))
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, TypeError, KeyError) as error:
        raise ModelError(f"node '{node.name}' ({node.op}) has inputs that do not fit") from error
    if node.op in ("Concat",):
        return (sum(v.size for v in given),)
    try:
        return tuple(np.broadcast_shapes(*(v.shape for v in given)))
    except ValueError:
        return (sum(v.size for v in given),)
