"""The product of packed sparse weights and dense activations, walked as an engine walks it.

INIT puts the bias into the accumulators of a block of rows, MAC broadcasts one block of weights to
all pixels, EPILOGUE rounds. Sums are exact, so leaving zero weights out cannot change a bit. A NaR
activation makes every output of its pixel NaR even where the weight it would meet is a zero that
is not stored: the result is that of the dense product, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats, mac
from opennpe.golden.errors import AccumulatorError, SparseError
from opennpe.golden.sparse import Packed, Stream

__all__ = ["check_terms", "matmul"]


def matmul(
    packed: Packed,
    x: ArrayLike,
    x_format: Any = None,
    *,
    bias: ArrayLike | None = None,
    shift: int = 0,
    underflow: formats.Underflow = "minpos",
    out_format: Any = None,
) -> NDArray[Any]:
    """``round((bias + W X) * 2**shift)`` with W packed: the bits of the dense product.

    Args:
        packed: weights (M, K).
        x: activation codes (K, N).
        x_format: their format; the weights' where None.
        bias: real values (M,) in the products' units, rounded to the grid on entry.
        shift: power of two applied before the rounding.
        underflow: "minpos" or "zero".
        out_format: the result's; the activations' where None.

    Returns:
        Codes (M, N).

    Raises:
        SparseError: activations of another depth.
        FormatError: codes that do not fit; NaR with nowhere to go.
        AccumulatorError: more terms than the accumulator is sure to hold.
    """
    formats.check_underflow(underflow)
    fw = mac.operand_format(packed.format)
    fx = fw if x_format is None else mac.operand_format(x_format)
    out = fx if out_format is None else mac.operand_format(out_format)
    rows, depth = packed.shape
    codes = fx.check_codes(x)
    if codes.ndim != 2 or len(codes) != depth:
        raise SparseError(f"weights of {depth} columns take codes ({depth}, N), got {codes.shape}")
    reals = np.zeros(rows) if bias is None else np.asarray(bias, dtype=np.float64)
    grid = mac.grid_exponent(fx.name, fw.name)
    units = [mac.to_grid(float(v), grid) for v in reals]
    check_terms(packed, fx.name, max((abs(u) for u in units), default=0))
    nan_pixel = ~np.isfinite(fx.decode(codes)).all(axis=0)
    sums, nan_row = _walk(packed.stream(), fw, fx, codes, units)
    exponent = grid + shift
    result = np.empty((rows, codes.shape[1]), dtype=out.dtype)
    for (i, j), total in np.ndenumerate(sums):
        nan = bool(nan_row[i] or nan_pixel[j])
        result[i, j] = mac.round_sum(out, total, exponent, nan, underflow)
    return result


def check_terms(packed: Packed, x_format: str, bias_units: int) -> None:
    """Refuse what the dense product's accumulator may not hold; zeros make no difference to it.

    Raises:
        AccumulatorError: more terms than the accumulator is sure to hold.
    """
    terms = packed.shape[1] + -(-bias_units // mac.max_product(x_format, packed.format))
    limit = mac.max_terms(x_format, packed.format)
    if terms > limit:
        raise AccumulatorError(
            f"{terms} terms of {x_format} x {packed.format}: the accumulator holds {limit}; "
            "split the layer or choose a wider format"
        )


def _walk(
    stream: Stream, fw: Any, fx: Any, codes: NDArray[Any], units: list[int]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Exact sums (M, N) on the grid, and the rows that hold a NaR weight."""
    excess = mac.grid_exponent(fx.name, fw.name) - fx.lsb_exponent - fw.lsb_exponent
    x = fx.fixed(codes) * (1 << -excess)
    sums = np.zeros((len(units), codes.shape[1]), dtype=object)
    nan = np.zeros(len(units), dtype=bool)
    for block, rows in enumerate(stream.rows):
        within = range(int(stream.starts[block]), int(stream.starts[block + 1]))
        for lane, row in enumerate(rows[rows >= 0].tolist()):
            total = np.full(codes.shape[1], units[row], dtype=object)  # INIT
            for s in within:  # MAC
                weight = stream.values[s, lane]
                if weight:
                    nan[row] |= not np.isfinite(fw.values[weight])
                    total = total + fw.fixed(weight[None])[0] * x[stream.columns[s]]
            sums[row] = total
    return sums, nan
