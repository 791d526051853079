"""Rotary position embedding by definition: two exact products and one rounding an element.

Source: RoFormer (arXiv 2104.09864), section 3.2.2; the pairing of element i with i + R/2 is that of
GPT-NeoX and of ONNX's RotaryEmbedding, the pairing of neighbours that of the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Tensor
from opennpe.golden.rounding import convert, finish

__all__ = ["halves", "position_rows", "rotary", "tables"]

Codes = NDArray[Any]


def tables(
    positions: int, width: int, weight_format: str = "posit16", base: float = 10000.0
) -> tuple[Codes, Codes]:
    """Codes (positions, width/2) of the cosines and sines of the usual angles.

    Element i of row p has the angle ``p * base ** (-2 i / width)``.
    """
    angles = np.arange(positions)[:, None] * base ** (-np.arange(0, width, 2) / width)
    fmt = formats.get(weight_format)
    return fmt.encode(np.cos(angles), "zero"), fmt.encode(np.sin(angles), "zero")


def halves(layer: L.Rotary, width: int) -> tuple[slice, slice]:
    """Where the two elements of each pair are in a row of ``width``."""
    count = layer.cos.shape[1]
    if layer.interleaved:
        return slice(0, 2 * count, 2), slice(1, 2 * count, 2)
    return slice(0, count), slice(count, 2 * count)


def position_rows(layer: L.Rotary, rows: int, positions: Codes | None) -> NDArray[np.int64]:
    """The table row that each of ``rows`` rows of x takes.

    Raises:
        DataError: a position that the tables do not have.
    """
    if positions is None:
        return np.arange(rows)
    given = np.asarray(positions, dtype=np.int64).reshape(-1)
    index = given if given.size == rows > 1 else given[0] + np.arange(rows)
    if index.size and int(index.max()) >= len(layer.cos):
        raise DataError(
            f"layer '{layer.name}': position {int(index.max())} of tables with {len(layer.cos)}"
        )
    return index


def rotary(
    spec: Any, layer: L.Rotary, ins: list[Tensor], values: list[Codes], out: Tensor
) -> Codes:
    """Codes (..., T, D), rotated."""
    x, tensor = values[0], ins[0]
    index = position_rows(layer, x.shape[-2], values[1] if len(values) > 1 else None)
    cos, sin = layer.cos[index], layer.sin[index]
    first, second = halves(layer, x.shape[-1])
    result = np.array(convert(x, tensor, out, spec.underflow))
    exponent = mac.grid_exponent(tensor.format, layer.weight_format) + tensor.scale
    names = (tensor.format, layer.weight_format)
    for at in np.ndindex(*x.shape[:-1]):
        pairs = zip(x[at][first].tolist(), x[at][second].tolist(), strict=True)
        for i, (a, b) in enumerate(pairs):
            c, s = int(cos[at[-1], i]), int(sin[at[-1], i])
            products = [mac.multiply(*names, *codes) for codes in ((a, c), (b, s), (b, c), (a, s))]
            (ac, p), (bs, q), (bc, r), (ad, t) = products
            nan = p or q or r or t
            result[at][first][i] = finish(spec, out, ac - bs, exponent, nan)
            result[at][second][i] = finish(spec, out, bc + ad, exponent, nan)
    return result
