"""Translators of FloatQuant and PositQuant, the nodes that state minifloats and posits.

As with integers (:mod:`opennpe.quant.ops_quant`), constants are rounded exactly, by golden's own
tables; on activations the saturation stays as a clip and the rounding is the policy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from opennpe.golden import formats
from opennpe.golden.errors import FormatError, ModelError
from opennpe.quant.builder import Builder
from opennpe.quant.graph import Array, Hint, Unsupported
from opennpe.quant.onnx_reader import Node
from opennpe.quant.ops_quant import power_of_two, saturate, scalar
from opennpe.quant.quant_nodes import float_format, limits

__all__ = ["OPERATORS", "fold_format"]

WIDEST = {"exponent": 8, "mantissa": 23}
"""More bits than these are no minifloat's."""
FURTHEST_BIAS = 255
NUMBERS = ("exponent bit width", "mantissa bit width", "exponent bias", "largest value")


def _format(node: Node, values: list[Any]) -> tuple[str, int]:
    """The format that a node states, and the exponent its scale is short of.

    Args:
        values: FloatQuant's numbers by :data:`NUMBERS`, each an array or None; unused for posits.

    Raises:
        ModelError: widths out of range or missing.
        Unsupported: no format has these values.
    """
    if node.op == "PositQuant":
        return _posit(node), 0
    given = [_number(node, v, what) for v, what in zip(values, NUMBERS, strict=True)]
    exponent, mantissa, bias, largest = given
    whole = [v for v in given[:3] if v is not None and v == np.rint(v)]
    if exponent is None or mantissa is None or bias is None or len(whole) < 3:
        raise ModelError(f"node '{node.name}': its bit widths and bias must be whole numbers")
    fits = 1 <= exponent <= WIDEST["exponent"] and 0 <= mantissa <= WIDEST["mantissa"]
    if not fits or abs(bias) > FURTHEST_BIAS or not (largest is None or largest > 0):
        raise ModelError(
            f"node '{node.name}': {exponent:g} exponent and {mantissa:g} mantissa bits, bias "
            f"{bias:g}, up to {largest}: no number format"
        )
    found = float_format(int(exponent), int(mantissa), int(bias), largest)
    if found is None:
        top = "" if largest is None else f" up to {largest:g}"
        raise Unsupported(f"no format has {exponent:g} exponent, {mantissa:g} mantissa bits{top}")
    return found


def _posit(node: Node) -> str:
    bits, es = (node.attributes.get(key) for key in ("bits", "es"))
    if not isinstance(bits, int) or not isinstance(es, int):
        raise ModelError(f"node '{node.name}' (PositQuant) lacks its attributes bits and es")
    try:
        return str(formats.get(f"posit({bits},{es})").name)
    except FormatError as error:
        raise ModelError(f"node '{node.name}': posit({bits},{es}): {error}") from error


def _number(node: Node, value: Any, what: str) -> float | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.size != 1 or not np.isfinite(array).all():
        raise Unsupported(f"its {what} is no single number")
    return float(array.ravel()[0])


def _activation(b: Builder, node: Node) -> None:
    scale = scalar(b, node, 1, "the scale")
    values = [b.constant(node, i + 2, f"its {what}") for i, what in enumerate(NUMBERS)]
    name, shift = _format(node, values)
    low, high = limits(name, 0)
    if not node.attributes.get("signed", 1):
        low = 0.0
    saturate(b, node, float(np.ldexp(scale, shift)), 0.0, low, high, name)


def fold_format(node: Node, values: list[Array | None]) -> tuple[Array, Hint]:
    """A constant through FloatQuant or PositQuant, and the format and scale it then has.

    Raises:
        ModelError: inputs missing, out of range, or of shapes that do not broadcast.
        Unsupported: no format has these values, or the rounding is not to nearest.
    """
    given = [*values, *[None] * 6][:6]
    if given[0] is None or given[1] is None:
        raise ModelError(f"node '{node.name}' ({node.op}) lacks its data or its scale")
    x = Builder.finite(given[0], f"node '{node.name}': its data")
    scale = Builder.finite(given[1], f"node '{node.name}': its scale")
    if not (scale > 0).all():
        raise ModelError(f"node '{node.name}': scales must be positive")
    name, shift = _format(node, given[2:])
    mode = str(node.attributes.get("rounding_mode", "ROUND")).upper()
    if mode not in ("ROUND", "HALF_EVEN") or not node.attributes.get("signed", 1):
        raise Unsupported(f"rounding mode '{mode}', or unsigned: formats round signed to nearest")
    underflow = str(node.attributes.get("underflow", "zero"))
    if underflow not in ("zero", "minpos"):
        raise ModelError(f"node '{node.name}': underflow '{underflow}', expected zero or minpos")
    whole = np.ldexp(scale, shift)
    if not np.isfinite(whole).all() or not (whole > 0).all():
        raise ModelError(f"node '{node.name}': a scale of {float(scale.ravel()[0]):g}")
    try:
        wide = np.broadcast_shapes(x.shape, whole.shape)
    except ValueError:
        wide = ()
    if wide != x.shape:
        raise ModelError(f"node '{node.name}': scales {whole.shape} do not fit the shape {x.shape}")
    fmt = formats.get(name)
    with np.errstate(all="ignore"):
        rounded = fmt.decode(fmt.encode(x / whole, underflow)) * whole
        result = rounded.astype(np.float32)
    exponents, exact = power_of_two(whole)
    return result, Hint(name, np.ravel(exponents), exact)


OPERATORS: dict[str, Callable[[Builder, Node], None]] = {
    "FloatQuant": _activation,
    "PositQuant": _activation,
}
