"""Multiply, accumulate exactly, round once: the arithmetic of one lane (DESIGN 1 to 3).

Steps carry the names of the hardware blocks: decode, multiply, align, accumulate, round. Products
are integers on the accumulator's grid, ``2**(lsb_a + lsb_b)``, so the sum has no error and no
order; one rounding makes it a code again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from opennpe.golden import codec, formats
from opennpe.golden.errors import AccumulatorError, FormatError

__all__ = [
    "GROUP_BITS",
    "Accumulator",
    "accumulator_bits",
    "compute_formats",
    "dot",
    "grid_exponent",
    "max_product",
    "max_terms",
    "multiply",
    "operand_format",
    "round_sum",
    "to_grid",
]

GROUP_BITS = 128
"""Accumulator bits of a lane group: 1 x 128, 2 x 64 or 4 x 32 (DESIGN 2)."""


def operand_format(f: Any) -> Any:
    """The format object for a name or a format; block formats and indices are refused here."""
    fmt = formats.get(f) if isinstance(f, str) else f
    if fmt.kind == "index":
        raise FormatError(f"{fmt.name} numbers rows: no arithmetic is done in it")
    if fmt.kind == "block":
        raise FormatError(
            f"{fmt.name} is block-scaled: decode its blocks to {fmt.element_name} codes and "
            "give the scales to mac.block_dot"
        )
    return fmt


@lru_cache(maxsize=1024)
def compute_formats(a: str, b: str) -> tuple[str, str]:
    """The formats two operands are multiplied in.

    Equal widths meet as they are; a narrower operand is widened to the wider one's format when
    it nests there (DESIGN 1). Formats outside the engine that do not nest multiply as they are.
    """
    fa, fb = operand_format(a), operand_format(b)
    if fa.bits == fb.bits:
        return a, b
    narrow, wide = (a, b) if fa.bits < fb.bits else (b, a)
    if narrow in formats.ENGINE_FORMATS and wide in formats.ENGINE_FORMATS:
        return wide, wide
    return a, b


def grid_exponent(a: str, b: str) -> int:
    """Exponent of the accumulator's lowest bit for operands of formats ``a`` and ``b``."""
    ca, cb = compute_formats(a, b)
    return int(formats.get(ca).lsb_exponent + formats.get(cb).lsb_exponent)


def max_product(a: str, b: str) -> int:
    """Largest magnitude of one product in units of the grid."""
    ca, cb = compute_formats(a, b)
    return int(formats.get(ca).max_fixed * formats.get(cb).max_fixed)


@lru_cache(maxsize=1024)
def accumulator_bits(a: str, b: str, group_bits: int = GROUP_BITS) -> int:
    """Width of one lane's accumulator: the group's bits shared by its lanes.

    Formats outside the engine have no hardware accumulator; they get the width that holds
    2**31 - 1 products.
    """
    ca, cb = compute_formats(a, b)
    if ca in formats.ENGINE_FORMATS and cb in formats.ENGINE_FORMATS:
        return group_bits // (16 // max(int(formats.get(ca).bits), int(formats.get(cb).bits)))
    return max_product(a, b).bit_length() + 32


def max_terms(a: str, b: str | None = None, group_bits: int = GROUP_BITS) -> int:
    """How many products one lane's accumulator is sure to hold (a bias counts as terms)."""
    b = a if b is None else b
    return ((1 << (accumulator_bits(a, b, group_bits) - 1)) - 1) // max_product(a, b)


def multiply(a: str, b: str, code_a: int, code_b: int) -> tuple[int, bool]:
    """One product on the accumulator's grid, and whether it is NaR (decode, multiply, align)."""
    fa, fb = operand_format(a), operand_format(b)
    ua, ub = codec.unpack(fa, int(code_a)), codec.unpack(fb, int(code_b))
    if ua.kind != "finite" or ub.kind != "finite":
        return 0, True
    product = codec.Unpacked(
        "finite", ua.sign ^ ub.sign, ua.significand * ub.significand, ua.exponent + ub.exponent
    )
    return codec.to_fixed(product, grid_exponent(a, b)), False


def to_grid(value: float, exponent: int) -> int:
    """A real number in units of ``2**exponent``, bits below it rounded to nearest even (DESIGN 3).

    Raises:
        AccumulatorError: the value is not finite.
    """
    if not np.isfinite(value):
        raise AccumulatorError(f"a bias or residual of {value} cannot enter the accumulator")
    return round(Fraction(value) * Fraction(2) ** -exponent)


def round_sum(
    fmt: Any, total: int, exponent: int, nan: bool = False, underflow: formats.Underflow = "minpos"
) -> int:
    """The round step: ``total * 2**exponent`` becomes a code, once.

    Raises:
        FormatError: the sum is NaR and the format has no code for it.
    """
    if nan:
        if fmt.nan_code is None:
            raise FormatError(f"the sum is NaR and {fmt.name} has no code for it")
        return int(fmt.nan_code)
    return codec.round_exact(fmt, total, exponent, underflow)


@dataclass
class Accumulator:
    """One lane's accumulator: exact, order-free, and loud when it would overflow.

    Attributes:
        a: format name of the first operands.
        b: format name of the second operands.
        total: the sum so far in units of the grid.
        nan: whether a NaR has been met.
        terms: products (and bias, in products' worth) taken so far.
    """

    a: str
    b: str
    group_bits: int = GROUP_BITS
    total: int = 0
    nan: bool = False
    terms: int = field(default=0)

    def preload(self, bias: float) -> None:
        """Start from a bias in real units of the products, rounded to the grid."""
        self.add_fixed(to_grid(bias, grid_exponent(self.a, self.b)))

    def add_fixed(self, value: int) -> None:
        """Add an integer on the grid, counted as the products it could stand for."""
        self.terms += -(-abs(value) // max_product(self.a, self.b))
        self.total += value
        self._check()

    def add(self, code_a: int, code_b: int) -> None:
        """Add one product.

        Raises:
            AccumulatorError: more terms than the accumulator is sure to hold.
        """
        product, nan = multiply(self.a, self.b, code_a, code_b)
        self.terms += 1
        self.total += product
        self.nan |= nan
        self._check()

    def _check(self) -> None:
        limit = max_terms(self.a, self.b, self.group_bits)
        if self.terms > limit:
            raise AccumulatorError(
                f"{self.terms} terms of {self.a} x {self.b}: the accumulator holds {limit}; "
                "split the layer or choose a wider format"
            )

    def result(
        self, out_format: Any, shift: int = 0, underflow: formats.Underflow = "minpos"
    ) -> int:
        """Round ``total * 2**shift`` to a code."""
        exponent = grid_exponent(self.a, self.b) + shift
        return round_sum(operand_format(out_format), self.total, exponent, self.nan, underflow)


def dot(
    f: Any,
    a: ArrayLike,
    b: ArrayLike,
    bias: float = 0.0,
    shift: int = 0,
    underflow: formats.Underflow = "minpos",
    *,
    b_format: Any = None,
    out_format: Any = None,
) -> int:
    """``round((bias + sum a*b) * 2**shift)``: an exact sum and one rounding.

    Args:
        f: format (name or object) of ``a``; of ``b`` and of the result unless given.
        a: codes (K,).
        b: codes (K,).
        bias: real value in the products' units, rounded to the accumulator's grid on entry.
        shift: power of two applied before the rounding.
        underflow: "minpos" or "zero".
        b_format: format of ``b``.
        out_format: format of the result.

    Returns:
        The result's code.

    Raises:
        FormatError: codes or shapes that do not fit; NaR with nowhere to go.
        AccumulatorError: more terms than the accumulator is sure to hold.
    """
    formats.check_underflow(underflow)
    fa = operand_format(f)
    fb = fa if b_format is None else operand_format(b_format)
    out = fa if out_format is None else operand_format(out_format)
    codes_a, codes_b = fa.check_codes(a), fb.check_codes(b)
    if codes_a.ndim != 1 or codes_a.shape != codes_b.shape:
        raise FormatError(
            f"dot takes two vectors of one length, got shapes {codes_a.shape} and {codes_b.shape}"
        )
    accumulator = Accumulator(fa.name, fb.name)
    accumulator.preload(bias)
    for code_a, code_b in zip(codes_a.tolist(), codes_b.tolist(), strict=True):
        accumulator.add(code_a, code_b)
    return accumulator.result(out, shift, underflow)


def block_dot(
    f: Any,
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    bias: float = 0.0,
    out_format: Any = "bf16",
    underflow: formats.Underflow = "minpos",
) -> int:
    """Dot product of two block-scaled vectors, exact over all blocks, one rounding at the end.

    Args:
        f: block format (name or object) of both operands.
        a: element codes (K,) and scale codes (ceil(K/size),).
        b: the same for the second operand.
        bias: real value added exactly.
        out_format: a scalar format.
    """
    fmt = formats.get(f) if isinstance(f, str) else f
    values = [fmt.decode(np.asarray(codes), np.asarray(scales)) for codes, scales in (a, b)]
    if any(np.isnan(v).any() for v in values):
        return round_sum(operand_format(out_format), 0, 0, True, underflow)
    total = sum((Fraction(x) * Fraction(y) for x, y in zip(*values, strict=True)), Fraction(bias))
    return codec.round_exact(
        operand_format(out_format), total.numerator, 0, underflow, total.denominator
    )


def exact_sums(
    a: str, b: str, codes_a: Sequence[Any] | ArrayLike, codes_b: ArrayLike
) -> tuple[Any, Any]:
    """Matrix product of codes (..., M, K) and (..., K, N) on the grid, as Python integers.

    Returns:
        Sums (object array of ints) and a boolean array of NaR flags, both (..., M, N).
    """
    fa, fb = operand_format(a), operand_format(b)
    array_a, array_b = fa.check_codes(codes_a), fb.check_codes(codes_b)
    excess = grid_exponent(a, b) - fa.lsb_exponent - fb.lsb_exponent
    # A widened operand has a finer grid than its own format; the sum moves onto it.
    sums = np.matmul(fa.fixed(array_a), fb.fixed(array_b)) * (1 << -excess)
    # An infinity has no place on the grid either: as in multiply, it makes the sum NaN.
    nan_a = (~np.isfinite(fa.decode(array_a))).any(axis=-1)[..., :, None]
    nan_b = (~np.isfinite(fb.decode(array_b))).any(axis=-2)[..., None, :]
    return sums, np.broadcast_to(nan_a | nan_b, np.shape(sums))
