"""Number formats as quantisation nodes state them.

Integers are QONNX ``Quant(x, scale, zero point, bits)``, minifloats QONNX ``FloatQuant(x, scale,
exponent bits, mantissa bits, exponent bias, largest value)`` and posits ``PositQuant(x, scale)``
of the domain ``opennpe`` with the attributes ``bits``, ``es`` and ``underflow``, because QONNX has
no posits. Writer and importer both take the correspondence from here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from opennpe.golden import formats

__all__ = [
    "OWN_DOMAIN",
    "QONNX_DOMAIN",
    "attributes",
    "float_format",
    "limits",
    "numbers",
    "operator",
]

QONNX_DOMAIN = "qonnx.custom_op.general"
OWN_DOMAIN = "opennpe"


def limits(name: str, scale: int) -> tuple[float, float]:
    """The smallest and the largest value of a format at ``2**scale``: where rounding saturates."""
    values = formats.get(name).values
    finite = values[np.isfinite(values)]
    return math.ldexp(float(finite.min()), scale), math.ldexp(float(finite.max()), scale)


def float_format(
    exponent_bits: int, mantissa_bits: int, bias: int, largest: float | None
) -> tuple[str, int] | None:
    """The minifloat that FloatQuant's numbers describe.

    Args:
        exponent_bits, mantissa_bits: their widths.
        bias: the exponent bias, which may differ from the format's own.
        largest: the largest value; None where every code is finite.

    Returns:
        The format's name and the exponent by which the stated values are larger than its own, or
        None where no format has these values.
    """
    top = math.ldexp(2.0 - 2.0**-mantissa_bits, (1 << exponent_bits) - 1 - bias)
    reach = top if largest is None else min(top, largest)
    for name, fmt in formats.CATALOG.items():
        if not isinstance(fmt, formats.FloatFormat):
            continue
        shift = fmt.bias - bias
        widths = (fmt.exponent_bits, fmt.mantissa_bits)
        if widths == (exponent_bits, mantissa_bits) and reach == math.ldexp(fmt.maxpos, shift):
            return name, shift
    return None


def attributes(fmt: Any) -> dict[str, int | str]:
    """Attributes of the node that states a format."""
    if isinstance(fmt, formats.PositFormat):
        return {"bits": fmt.bits, "es": fmt.es, "underflow": "zero"}
    if isinstance(fmt, formats.IntFormat):
        return {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    return {
        "has_infinity": int(fmt.specials == "ieee"),
        "has_nan": int(fmt.specials != "none"),
        "has_subnormal": 1,
        "saturation": 1,
        "rounding_mode": "ROUND",
    }


def operator(fmt: Any) -> tuple[str, str]:
    """Operator and domain of the node that states a format."""
    if isinstance(fmt, formats.PositFormat):
        return "PositQuant", OWN_DOMAIN
    return ("Quant" if isinstance(fmt, formats.IntFormat) else "FloatQuant"), QONNX_DOMAIN


def numbers(fmt: Any) -> tuple[float, ...]:
    """What follows x and the scale among the node's inputs."""
    if isinstance(fmt, formats.PositFormat):
        return ()
    if isinstance(fmt, formats.IntFormat):
        return (0.0, float(fmt.bits))
    return (float(fmt.exponent_bits), float(fmt.mantissa_bits), float(fmt.bias), fmt.maxpos)
