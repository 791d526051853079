"""Translators of Resize and Upsample: nearest and linear, every coordinate mode of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Shape, Unsupported
from opennpe.quant.onnx_reader import Node, check_elements

__all__ = ["FRACTION_BITS", "OPERATORS", "coordinates", "taps"]

FRACTION_BITS = 12
Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


def coordinates(mode: str, size: int, out: int, scale: float, region: tuple[float, float]) -> Reals:
    """Where output elements lie on the input axis (ONNX Resize, coordinate_transformation_mode)."""
    x = np.arange(out, dtype=np.float64)
    match mode:
        case "half_pixel":
            return (x + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = out / (scale * size)
            return size / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
        case "align_corners":
            return x * (size - 1) / (out - 1) if out > 1 else np.zeros(out)
        case "asymmetric":
            return x / scale
        case "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        case "tf_crop_and_resize":
            start, end = region
            if out == 1:
                return np.array([0.5 * (start + end) * (size - 1)])
            return start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
    raise Unsupported(f"coordinate_transformation_mode '{mode}'")


def taps(kind: str, nearest: str, at: Reals, size: int) -> tuple[Ints, Ints]:
    """Indices and fixed-point weights of every output element, (out, taps) each."""
    one = 1 << FRACTION_BITS
    if kind == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
            "floor": np.floor(at),
            "ceil": np.ceil(at),
        }.get(nearest)
        if rounded is None:
            raise Unsupported(f"nearest_mode '{nearest}'")
        rows = np.clip(rounded, 0, size - 1).astype(np.int64)[:, None]
        return rows, np.full(rows.shape, one, dtype=np.int64)
    low = np.floor(at)
    high_weight = np.rint((at - low) * one).astype(np.int64)
    rows = np.stack([low, low + 1], axis=1)
    rows = np.clip(rows, 0, size - 1).astype(np.int64)
    return rows, np.stack([one - high_weight, high_weight], axis=1)


def _resize(b: Builder, node: Node) -> None:
    x = b.operand(node.inputs[0])
    shape = b.shape(x)
    kind = node.attributes.get("mode", "nearest")
    kind = "linear" if kind in ("bilinear", "trilinear") else kind
    if kind not in ("nearest", "linear"):
        raise Unsupported(f"mode '{kind}': expected nearest or linear")
    if node.attributes.get("antialias", 0):
        raise Unsupported("antialias=1")
    scales, sizes = _scales(b, node, shape)
    check_elements(sizes, f"the output of node '{node.name}'")
    if 0 in sizes:
        raise Unsupported(f"the empty output shape {sizes}")
    mode, nearest = _modes(b, node)
    if mode == "align_corners" and any(
        n > 1 and abs(n - size * s) > 1e-3 for n, size, s in zip(sizes, shape, scales, strict=True)
    ):
        raise Unsupported("align_corners with scales that give no whole size: give sizes instead")
    regions = _regions(b, node, len(shape), mode)
    indices, weights = [], []
    for size, out, scale, region in zip(shape, sizes, scales, regions, strict=True):
        whole = out == size and scale == 1.0 and region == (0.0, 1.0)
        at = coordinates(mode, size, out, scale, region)
        at = np.arange(size, dtype=np.float64) if whole else at
        if mode == "tf_crop_and_resize" and ((at < 0) | (at > size - 1)).any():
            raise Unsupported("a crop that reaches outside its input")
        rows, weight = taps("nearest" if whole else kind, "floor" if whole else nearest, at, size)
        indices.append(rows)
        weights.append(weight)
    b.put(
        L.Resize,
        node,
        [x],
        node.outputs[0],
        indices=tuple(indices),
        weights=tuple(weights),
        fraction_bits=FRACTION_BITS,
    )


def _modes(b: Builder, node: Node) -> tuple[str, str]:
    if node.op == "Upsample" or b.opset < 11:
        return "asymmetric", "floor"
    return (
        node.attributes.get("coordinate_transformation_mode", "half_pixel"),
        node.attributes.get("nearest_mode", "round_prefer_floor"),
    )


def _regions(b: Builder, node: Node, rank: int, mode: str) -> list[tuple[float, float]]:
    regions = [(0.0, 1.0)] * rank
    if mode != "tf_crop_and_resize":
        return regions
    roi = b.constant(node, 1, "its region")
    axes = _axes(node, rank)
    if roi is None or roi.size != 2 * len(axes):
        raise ModelError(f"node '{node.name}': tf_crop_and_resize takes a region of every axis")
    for i, axis in enumerate(axes):
        regions[axis] = (float(roi.ravel()[i]), float(roi.ravel()[len(axes) + i]))
    return regions


def _axes(node: Node, rank: int) -> list[int]:
    given = node.attributes.get("axes")
    axes = list(range(rank)) if given is None else [int(a) for a in given]
    if any(not -rank <= a < rank for a in axes):
        raise ModelError(f"node '{node.name}': axes {axes} of a tensor with {rank} axes")
    return [a % rank for a in axes]


def _scales(b: Builder, node: Node, shape: Shape) -> tuple[list[float], list[int]]:
    """Scale and output size of every axis."""
    rank = len(shape)
    axes = _axes(node, rank)
    scale_index = 1 if node.op == "Upsample" or b.opset < 11 else 2
    given: Any = node.attributes.get("scales")
    if given is None:
        given = b.constant(node, scale_index, "its scales")
    wanted = b.constant(node, 3, "its sizes") if b.opset >= 11 else None
    scales, sizes = [1.0] * rank, list(shape)
    if wanted is not None and wanted.size:
        _fit(node, axes, [int(n) for n in wanted.ravel()], shape, scales, sizes)
        return scales, sizes
    values = [] if given is None else [float(s) for s in np.asarray(given).ravel()]
    if len(values) != len(axes) or not all(s > 0 and math.isfinite(s) for s in values):
        raise ModelError(f"node '{node.name}': scales {values} for {len(axes)} axes")
    for axis, scale in zip(axes, values, strict=True):
        scales[axis], sizes[axis] = scale, math.floor(shape[axis] * scale)
    return scales, sizes


def _fit(
    node: Node,
    axes: list[int],
    wanted: list[int],
    shape: Shape,
    scales: list[float],
    sizes: list[int],
) -> None:
    """Sizes asked for, under the keep_aspect_ratio_policy."""
    if len(wanted) != len(axes) or min(wanted, default=1) < 1:
        raise ModelError(f"node '{node.name}': sizes {wanted} for {len(axes)} axes")
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    ratios = [w / shape[a] for w, a in zip(wanted, axes, strict=True)]
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise Unsupported(f"keep_aspect_ratio_policy '{policy}'")
    for axis, size, ratio in zip(axes, wanted, ratios, strict=True):
        if policy == "stretch":
            scales[axis], sizes[axis] = ratio, size
        else:
            chosen = min(ratios) if policy == "not_larger" else max(ratios)
            scales[axis], sizes[axis] = chosen, math.floor(chosen * shape[axis] + 0.5)


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {"Resize": _resize, "Upsample": _resize}
