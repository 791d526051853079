"""A matrix product of codes, bit-identical to :func:`opennpe.golden.mac.dot`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import catalog, formats, mac
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.golden.network import Tensor
from opennpe.sim import affine, cpu
from opennpe.sim.geometry import matrix
from opennpe.sim.microkernel import micro
from opennpe.sim.operands import grid_units, largest, operands
from opennpe.sim.right import Right

__all__ = ["matmul", "product_job"]

SPECS = {"zero": catalog.EDGE_4X4, "minpos": catalog.STRICT_4X4}
"""A spec for each underflow rule: nothing else of it matters here."""


def matmul(
    f: Any,
    a: ArrayLike,
    b: ArrayLike,
    shift: int = 0,
    underflow: formats.Underflow = "minpos",
    *,
    b_format: Any = None,
    out_format: Any = None,
    bias: ArrayLike | None = None,
    threads: int | None = None,
    force: str = "",
) -> NDArray[Any]:
    """``round((bias + A B) * 2**shift)``: every output an exact sum and one rounding.

    Args:
        f: format (name or object) of ``a``; of ``b`` and of the result unless given.
        a: codes (M, K).
        b: codes (K, N).
        shift: power of two applied before the rounding.
        underflow: "minpos" or "zero".
        b_format: format of ``b``.
        out_format: format of the result.
        bias: real values (N,) in the products' units, rounded to the grid on entry.
        threads: threads to use; all cores where None. The result does not depend on it.
        force: "split", "limbs" or "golden" for one of the slower exact paths.

    Returns:
        Codes (M, N).

    Raises:
        FormatError: codes or shapes that do not fit; NaR with nowhere to go.
        AccumulatorError: more terms than the accumulator is sure to hold.
    """
    formats.check_underflow(underflow)
    fa = mac.operand_format(f)
    fb = fa if b_format is None else mac.operand_format(b_format)
    out = Tensor("product", (), (fa if out_format is None else mac.operand_format(out_format)).name)
    left, right = fa.check_codes(a).astype(fa.dtype), fb.check_codes(b).astype(fb.dtype)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise FormatError(
            f"matmul takes codes (M, K) and (K, N), got shapes {left.shape} and {right.shape}"
        )
    columns = right.shape[1]
    job = product_job(
        (fa.name, fb.name), columns, bias, shift, out, underflow, threads=threads, force=force
    )
    _check_terms(fa.name, fb.name, left.shape[1], job.biases)
    result = np.empty((len(left), columns), dtype=formats.get(out.format).dtype)
    if result.size:
        affine.multiply(*sides(fa.name, fb.name, left, right), 0, job, result)
    return result


def product_job(
    pair: tuple[str, str],
    channels: int,
    bias: ArrayLike | None,
    shift: int,
    out: Tensor,
    underflow: formats.Underflow,
    *,
    clip: tuple[float, float] | None = None,
    threads: int | None = None,
    force: str = "",
) -> affine.Job:
    """What rounds a product of a pair of formats: one shift, a real bias a channel or none."""
    grid = mac.grid_exponent(*pair)
    reals = np.zeros(channels) if bias is None else np.asarray(bias, dtype=np.float64)
    return affine.Job(
        spec=SPECS[underflow],
        out=out,
        biases=grid_units(reals, np.full(channels, grid)),
        exponents=np.full(channels, grid + shift),
        clip=clip,
        threads=cpu.threads(threads),
        force=force,
    )


def _check_terms(a: str, b: str, terms: int, biases: NDArray[Any]) -> None:
    most = -(-largest(biases) // mac.max_product(a, b))
    limit = mac.max_terms(a, b)
    if terms + most > limit:
        raise AccumulatorError(
            f"{terms + most} terms of {a} x {b}: the accumulator holds {limit}; "
            "split the product or choose a wider format"
        )


def sides(a: str, b: str, left: NDArray[Any], right: NDArray[Any]) -> tuple[affine.Left, Right]:
    """Codes (M, K) and (K, N) as operands."""
    held, shape = operands(a, b), matrix(left.shape[1])
    packed = Right((a, b), held, micro(held.kind, cpu.host()), right, (left.shape[1],))
    return affine.Left(left.reshape(len(left), 1, 1, 1, -1), shape, packed), packed
