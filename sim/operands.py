"""How two formats meet in the fast kernels: integers, their widths, and what is sure to be exact.

Every value of a format is an integer in units of ``2**lsb`` (DESIGN 1), so a product of two codes
is an integer on the accumulator's grid and a sum of products is an integer product. The kind of
kernel follows from the largest integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.sim.microkernel import FLUSH_GROUPS, KINDS

__all__ = ["Operands", "grid_units", "has_nan", "largest", "operands"]

INT16 = (1 << 15) - 1
INT32 = (1 << 31) - 1
INT64 = 2.0**62
FLOAT64 = 1 << 53


@dataclass(frozen=True, eq=False)
class Operands:
    """A pair of formats as kernel operands.

    Attributes:
        kind: "u8", "i16" or "f64" (:data:`opennpe.sim.microkernel.KINDS`).
        left: for every code of the first format its integer plus ``offset``; NaR gives that of 0.
            The tables of float64 kernels may be float32, which holds the same values.
        right: for every code of the second format its integer.
        offset: added to every left value, so that bytes are unsigned.
        grid: exponent of the sums' unit.
        largest: bound on one product's magnitude, offset included.
        nan: for each side a flag a code, or None where the format has no NaN.
    """

    kind: str
    left: NDArray[Any]
    right: NDArray[Any]
    offset: int
    grid: int
    largest: int
    nan: tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]

    @property
    def dtype(self) -> Any:
        """Type of the kernel's left values."""
        return np.float64 if self.kind == "f64" else self.left.dtype

    @property
    def limit(self) -> int:
        """Largest sum of product magnitudes that the kernel's sums hold exactly.

        Any partial sum is bounded by it, so neither the order of summation nor fused additions
        can change a bit: int32 sums below 2**31, float64 sums of integers below 2**53.
        """
        return FLOAT64 if self.kind == "f64" else INT32

    @property
    def sure_terms(self) -> int:
        """Number of terms that are exact whatever the codes."""
        return self.limit // self.largest


@lru_cache(maxsize=256)
def operands(a: str, b: str) -> Operands:
    """The kernel operands for codes of format ``a`` by codes of format ``b``."""
    wide = mac.compute_formats(a, b)
    tables = [_integers(held, met) for held, met in zip((a, b), wide, strict=True)]
    top = [int(np.abs(t).max()) for t in tables]
    kind, offset = "f64", 0
    if 2 * FLUSH_GROUPS * (2 * top[0]) * top[1] <= INT16:
        kind, offset = "u8", top[0]
    elif max(top) <= INT16:
        kind = "i16"
    dtypes = {"u8": (np.uint8, np.int8), "i16": (np.int16,) * 2, "f64": (np.float64,) * 2}[kind]
    assert KINDS[kind].value_bytes == np.dtype(dtypes[0]).itemsize
    left, right = (
        t.astype(d) for t, d in zip((tables[0] + offset, tables[1]), dtypes, strict=True)
    )
    if kind == "f64" and max(top).bit_length() < 127:
        # At most 16 significant bits: float32 holds them, and half a table is fetched faster.
        left, right = left.astype(np.float32), right.astype(np.float32)
    return Operands(
        kind,
        left,
        right,
        offset,
        mac.grid_exponent(a, b),
        (top[0] + offset) * top[1],
        (_nan(a), _nan(b)),
    )


def _integers(held: str, met: str) -> NDArray[np.float64]:
    """Values of ``held`` in units of the format it meets the other operand in; exact."""
    values = np.nan_to_num(formats.get(held).values, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.ldexp(values, -formats.get(met).lsb_exponent))


def _nan(name: str) -> NDArray[np.bool_] | None:
    flags = ~np.isfinite(formats.get(name).values)
    return flags if flags.any() else None


def has_nan(codes: NDArray[Any], name: str) -> bool:
    """Whether any code is a NaR, a NaN or an infinity."""
    fmt = formats.get(name)
    if fmt.nan_code is None:
        return False
    if fmt.kind == "posit":
        return bool((codes == fmt.nan_code).any())
    return not bool(np.isfinite(fmt.decode(codes)).all())


def grid_units(values: NDArray[np.float64], exponents: NDArray[np.int64]) -> NDArray[Any]:
    """Real values in units of ``2**exponents``, as :func:`opennpe.golden.mac.to_grid` has them.

    Scaling by a power of two is exact (no unit is below float64's range by the scales' limit), and
    ``rint`` rounds to nearest even, so this is golden's rule for a whole array.

    Returns:
        Integers (N,): int64 where they fit, else Python's.

    Raises:
        AccumulatorError: a value is not finite.
    """
    scaled = np.rint(np.ldexp(values, -exponents))
    if (np.abs(scaled) < INT64).all() and int(np.abs(exponents).max(initial=0)) < 900:
        return scaled.astype(np.int64)
    exact = [mac.to_grid(float(v), int(e)) for v, e in zip(values, exponents, strict=True)]
    return np.array(exact, dtype=object)


def largest(values: NDArray[Any]) -> int:
    """Largest magnitude of integers, 0 for none."""
    return int(np.abs(values).max()) if values.size else 0
