"""Quantisation that a model states itself: QDQ pairs and QONNX ``Quant`` nodes.

Constants are computed exactly. On activations the rounding is dropped, as the policy's formats do
their own, while the saturation stays as a clip (models rely on it as their relu), and the format
with its scale is kept as a :class:`~opennpe.quant.graph.Hint`, which the policy format ``model``
asks for. Where the scale is no power of two, the zero point is not 0 or the codes are unsigned, the
hint is not exact: calibration then keeps the format and chooses the scale itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from opennpe.golden.errors import ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Array, Hint, Unsupported
from opennpe.quant.onnx_reader import Node

__all__ = [
    "OPERATORS",
    "fold_linear",
    "fold_quant",
    "hint_constant",
    "power_of_two",
    "saturate",
    "scalar",
]

TYPES = {2: ("int8", 0, 255), 3: ("int8", -128, 127), 21: ("int4", 0, 15), 22: ("int4", -8, 7)}
"""ONNX integer types: the format that stands for them, smallest and largest code."""
LARGEST_EXPONENT = 126
"""Scales beyond ``2**126`` either way are no float32's."""


def power_of_two(scale: Any) -> tuple[Any, bool]:
    """The nearest exponent of every scale, and whether all are exactly powers of two."""
    exponents = np.rint(np.log2(scale)).astype(np.int64)
    exact = bool(np.all(np.exp2(exponents.astype(np.float64)) == np.asarray(scale, np.float64)))
    return exponents, exact


def scalar(b: Builder, node: Node, index: int, what: str, default: Any = None) -> float:
    """The one number in input ``index``.

    Raises:
        Unsupported: it is computed at run time, or is no single finite number.
    """
    values = b.constant(node, index, what, default)
    array = np.asarray(values, dtype=np.float64)
    if array.size != 1 or not np.isfinite(array).all():
        raise Unsupported(f"{what} of an activation is no single number")
    return float(array.ravel()[0])


def saturate(
    b: Builder, node: Node, scale: float, zero: float, low: float, high: float, fmt: str
) -> None:
    """A clip at the codes ``low`` and ``high``, and the format with its scale as a hint.

    Raises:
        ModelError: a scale that is not positive.
        Unsupported: a scale beyond float32's range.
    """
    if scale <= 0:
        raise ModelError(f"node '{node.name}': a scale of {scale}, expected more than 0")
    if abs(np.log2(scale)) > LARGEST_EXPONENT:
        raise Unsupported(f"a scale of {scale:g}")
    out = node.outputs[0]
    b.activate(
        node,
        b.operand(node.inputs[0]),
        "clip",
        out,
        min=scale * (low - zero),
        max=scale * (high - zero),
    )
    exponent, exact = power_of_two(scale)
    b.hints[out] = Hint(fmt, int(exponent), exact and zero == 0 and low < 0)


def _quantize(b: Builder, node: Node) -> None:
    scale = scalar(b, node, 1, "the scale")
    zero = scalar(b, node, 2, "the zero point", 0.0)
    point = b.constant(node, 2, "the zero point")
    code = int(node.attributes.get("output_dtype", 0))
    if point is not None:
        code = {"uint8": 2, "int8": 3}.get(str(point.dtype), -1)
    if not code:
        code = 2
    if code not in TYPES:
        raise Unsupported(f"quantisation to {point.dtype if point is not None else code}")
    fmt, low, high = TYPES[code]
    saturate(b, node, scale, zero, low, high, fmt)
    b.quantised[node.outputs[0]] = (scale, zero)


def _dequantize(b: Builder, node: Node) -> None:
    stated = b.quantised.get(node.inputs[0])
    if stated is None:
        raise Unsupported("it does not follow a QuantizeLinear: integer tensors are not modelled")
    scale, zero = (scalar(b, node, i, w, 0.0) for i, w in ((1, "the scale"), (2, "the zero")))
    if (scale, zero) != stated:
        raise Unsupported("its scale or zero point differs from its QuantizeLinear's")
    b.same(node.outputs[0], node.inputs[0])


def _quant(b: Builder, node: Node) -> None:
    """QONNX Quant(x, scale, zero point, bit width)."""
    scale = scalar(b, node, 1, "the scale")
    zero = scalar(b, node, 2, "the zero point", 0.0)
    bits = scalar(b, node, 3, "the bit width")
    low, high = _range(node, bits)
    if bits > 8:
        raise Unsupported(f"{bits:g} bits: formats go to 8")
    saturate(b, node, scale, zero, low, high, "int4" if bits <= 4 else "int8")


def _range(node: Node, bits: float) -> tuple[float, float]:
    signed = bool(node.attributes.get("signed", 1))
    narrow = bool(node.attributes.get("narrow", 0))
    if not 1 <= bits <= 32:
        raise ModelError(f"node '{node.name}': a bit width of {bits}")
    if signed:
        return (-(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1)
    return (0.0, 2.0**bits - 1 - narrow)


def fold_quant(node: Node, values: list[Array | None]) -> tuple[Array, Hint]:
    """A constant through QONNX Quant, and the format and scale it then has.

    Raises:
        ModelError: inputs missing or out of range.
    """
    given = [None if v is None else v.astype(np.float64) for v in values]
    if len(given) < 4 or any(v is None for v in given[:4]):
        raise ModelError(f"node '{node.name}' (Quant) lacks an input: expected four")
    x, scale, zero, bits = (np.asarray(v) for v in given[:4])
    if bits.size != 1 or not (scale > 0).all():
        raise ModelError(
            f"node '{node.name}': scales must be positive and the bit width one number"
        )
    low, high = _range(node, float(bits.ravel()[0]))
    mode = str(node.attributes.get("rounding_mode", "ROUND")).upper()
    rounding: dict[str, Callable[[Array], Array]] = {
        "ROUND": np.rint,
        "HALF_EVEN": np.rint,
        "FLOOR": np.floor,
        "CEIL": np.ceil,
        "ROUND_TO_ZERO": np.trunc,
        "DOWN": np.trunc,
    }
    if mode not in rounding:
        raise ModelError(f"node '{node.name}': rounding mode '{mode}' is unknown")
    try:
        codes = np.clip(rounding[mode](x / scale + zero), low, high)
        result = ((codes - zero) * scale).astype(np.float32)
    except ValueError as error:
        raise ModelError(f"node '{node.name}' (Quant): its inputs do not broadcast") from error
    fmt = "int4" if bits <= 4 and high < 8 else "int8"
    return result, _constant_hint(fmt, scale, zero)


def fold_linear(node: Node, values: list[Array | None]) -> Array:
    """A constant through QuantizeLinear or DequantizeLinear, whole, per axis or in blocks.

    Raises:
        ModelError: inputs missing, or scales that do not fit.
    """
    if len(values) < 2 or values[0] is None or values[1] is None:
        raise ModelError(f"node '{node.name}' ({node.op}) lacks an input: expected two or three")
    x, scale = values[0], values[1].astype(np.float64)
    point = values[2] if len(values) > 2 else None
    zero = np.zeros(scale.shape) if point is None else point.astype(np.float64)
    scale, zero = (_spread(node, v, x.shape) for v in (scale, zero))
    if node.op == "DequantizeLinear":
        return ((x.astype(np.float64) - zero) * scale).astype(np.float32)
    kind = np.dtype(np.uint8) if point is None else point.dtype
    if kind.kind not in "iu":
        raise ModelError(f"node '{node.name}': quantisation to {kind}: expected integers")
    limits = np.iinfo(kind)
    with np.errstate(all="ignore"):
        codes = np.rint(x.astype(np.float64) / scale) + zero
    return np.nan_to_num(np.clip(codes, limits.min, limits.max)).astype(kind)


def _spread(node: Node, values: Array, shape: tuple[int, ...]) -> Array:
    """Scales or zero points, one an element of ``shape`` by broadcasting."""
    if values.size == 1:
        return values.reshape(())
    axis = int(node.attributes.get("axis", 1))
    block = int(node.attributes.get("block_size", 0))
    if -len(shape) <= axis < len(shape):
        axis %= len(shape)
        if values.ndim == 1 and values.size == shape[axis]:
            return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        if block and values.ndim == len(shape):
            wide = np.repeat(values, block, axis=axis)
            wide = wide.take(np.arange(min(shape[axis], wide.shape[axis])), axis)
            if wide.shape == shape:
                return wide
    raise ModelError(f"node '{node.name}': scales {values.shape} do not fit the shape {shape}")


def hint_constant(node: Node, values: list[Array | None]) -> Hint | None:
    """Format and scale of a constant that DequantizeLinear gave."""
    codes, scale = values[0], values[1]
    if codes is None or scale is None or codes.dtype.kind not in "iu" or not (scale > 0).all():
        return None
    zero = values[2] if len(values) > 2 and values[2] is not None else np.zeros(1)
    return _constant_hint("int8", scale, zero) if codes.dtype.itemsize == 1 else None


def _constant_hint(fmt: str, scale: Array, zero: Array) -> Hint:
    exponents, exact = power_of_two(scale.astype(np.float64))
    return Hint(fmt, np.ravel(exponents), exact and not np.any(zero))


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Quant": _quant,
    "IntQuant": _quant,
}
