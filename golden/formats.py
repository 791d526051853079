"""Number formats as data: posits, minifloats, integers and block-scaled formats.

A format is a frozen description. Its limits are derived, its value table is computed from the
scalar codec (:mod:`opennpe.golden.codec`), and arrays are converted through sorted tables of
values and rounding boundaries, so that the array path and the scalar path are two independent
routes to one result.

Sources: Posit Standard (2022), sections 3 and 4; OCP Microscaling Formats (MX) v1.0, tables 1-7;
OCP 8-bit Floating Point (OFP8) v1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import codec
from opennpe.golden.errors import FormatError

__all__ = [
    "CATALOG",
    "ENGINE_FORMATS",
    "INDEX",
    "FloatFormat",
    "Format",
    "IndexFormat",
    "IntFormat",
    "PositFormat",
    "Underflow",
    "get",
    "names",
    "widen_table",
]

Underflow = Literal["minpos", "zero"]
Codes = NDArray[Any]
MAX_BITS = 16

ENGINE_FORMATS = ("fp4", "posit4", "posit8", "posit16")
"""The SIMD engine's formats, narrow to wide; every narrower value is a wider one (DESIGN 1)."""


@dataclass(frozen=True)
class Format:
    """What all scalar formats share: tables, limits and array conversion.

    Codes are unsigned integers below ``2**bits``; values are float64, which holds every value
    and every rounding boundary of a format of up to 16 bits exactly.
    """

    name: str
    bits: int
    kind: ClassVar[str] = "abstract"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= MAX_BITS:
            raise FormatError(
                f"format {self.name} has {self.bits} bits: expected 2 to {MAX_BITS}; "
                "choose a narrower format"
            )

    # -- what a code means ------------------------------------------------------------------
    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """Storage type of a code: uint8 up to 8 bits, uint16 beyond."""
        return np.uint8 if self.bits <= 8 else np.uint16

    @property
    def nan_code(self) -> int | None:
        """The code that encoding NaN gives (NaR for posits), or None."""
        return None

    @property
    def signed_zero(self) -> bool:
        """Whether the format has two zeros."""
        return False

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """float64[2**bits]: the value of each code; NaN and infinities as such."""
        table = np.array([codec.to_float(self, code) for code in range(1 << self.bits)])
        table.setflags(write=False)
        return table

    @cached_property
    def _finite_magnitudes(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes of the non-negative finite values and those values, ascending."""
        codes = np.arange(1 << self.bits, dtype=np.int64)
        keep = np.isfinite(self.values) & ~np.signbit(self.values)
        codes, values = codes[keep], self.values[keep]
        order = np.argsort(values, kind="stable")
        return codes[order], values[order]

    @property
    def maxpos(self) -> float:
        """Largest finite value."""
        return float(self._finite_magnitudes[1][-1])

    @property
    def minpos(self) -> float:
        """Smallest positive value."""
        return float(self._finite_magnitudes[1][1])

    @cached_property
    def lsb_exponent(self) -> int:
        """Largest e such that every finite value is an integer multiple of 2**e."""
        return min(
            codec.lsb_exponent(codec.unpack(self, int(code)))
            for code in self._finite_magnitudes[0][1:]
        )

    @cached_property
    def significand_bits(self) -> int:
        """Bits of the longest odd significand: the multiplier width the format needs."""
        return max(
            codec.odd_significand(codec.unpack(self, int(code))).bit_length()
            for code in self._finite_magnitudes[0][1:]
        )

    @cached_property
    def max_fixed(self) -> int:
        """Largest magnitude in units of ``2**lsb_exponent`` (negative side included)."""
        finite = self.values[np.isfinite(self.values)]
        return int(np.abs(finite).max() * 2.0**-self.lsb_exponent)

    # -- arrays ------------------------------------------------------------------------------
    def decode(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Values of an array of codes (any shape), float64, exact; NaR and NaN give NaN.

        Raises:
            FormatError: a code is negative, not an integer, or needs more bits.
        """
        return self.values[self.check_codes(codes)]

    def check_codes(self, codes: ArrayLike) -> Codes:
        """The codes as an integer array.

        Raises:
            FormatError: a code is negative, not an integer, or needs more bits.
        """
        array = np.asarray(codes)
        if array.dtype.kind not in "ui":
            raise FormatError(f"{self.name} codes are unsigned integers, got {array.dtype} values")
        if array.size and (int(array.max()) >> self.bits or int(array.min()) < 0):
            raise FormatError(
                f"{self.name} codes lie below {1 << self.bits}, got {int(array.max())}"
                f" (smallest {int(array.min())})"
            )
        return array

    @cached_property
    def _boundaries(self) -> NDArray[np.float64]:
        """Rounding boundary above each finite magnitude but the last (array path)."""
        magnitudes = self._finite_magnitudes[1]
        return (magnitudes[:-1] + magnitudes[1:]) / 2

    def encode(self, values: ArrayLike, underflow: Underflow = "minpos") -> Codes:
        """Round float64 values (any shape) to codes, nearest, ties to the even code.

        Args:
            values: anything float64 holds.
            underflow: "minpos" (posits never round a nonzero value to zero) or "zero"
                (zero is a candidate); minifloats and integers always have zero as one.

        Raises:
            FormatError: NaN given to a format that has none, or an unknown underflow rule.
        """
        check_underflow(underflow)
        x = np.asarray(values, dtype=np.float64)
        nan = self._nan_inputs(x)
        if self.nan_code is None and nan.any():
            raise FormatError(
                f"{self.name} has no code for NaN and {int(nan.sum())} of {x.size} values are "
                "NaN: remove them or choose a format that has one"
            )
        magnitude = np.where(nan, 0.0, np.abs(x))
        codes, finite = self._finite_magnitudes
        rank = np.searchsorted(self._boundaries, magnitude, side="left")
        tie = self._boundaries[np.minimum(rank, len(self._boundaries) - 1)] == magnitude
        rank = rank + (tie & (rank < len(self._boundaries)) & (codes[rank] % 2 == 1))
        rank = self._apply_underflow(rank, magnitude, underflow)
        result = self._with_sign(codes[rank], np.signbit(x) & ~nan, magnitude, finite)
        if self.nan_code is not None:
            result = np.where(nan, self.nan_code, result)
        return result.astype(self.dtype)

    def steps(self, underflow: Underflow) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Where a growing magnitude moves to the next code.

        Returns:
            For every finite magnitude but zero, ascending: the boundary below it (float64), and
            whether a value on that boundary rounds up to it.
        """
        bounds = self._boundaries.copy()
        if self.kind == "posit":
            bounds[0] = self.minpos / 2 if underflow == "zero" else 0.0
        codes = self._finite_magnitudes[0]
        return bounds, np.asarray(self.encode(bounds, underflow) == codes[1:])

    def _nan_inputs(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.isnan(x)

    def _apply_underflow(
        self, rank: NDArray[np.int64], magnitude: NDArray[np.float64], underflow: Underflow
    ) -> NDArray[np.int64]:
        return rank

    def _with_sign(
        self,
        codes: NDArray[np.int64],
        negative: NDArray[np.bool_],
        magnitude: NDArray[np.float64],
        finite: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        return np.where(negative, codes | (1 << (self.bits - 1)), codes)

    @cached_property
    def _fixed_table(self) -> NDArray[np.object_]:
        table = np.zeros(1 << self.bits, dtype=object)
        for code in range(1 << self.bits):
            u = codec.unpack(self, code)
            if u.kind == "finite":
                table[code] = codec.to_fixed(u, self.lsb_exponent)
        return table

    def fixed(self, codes: ArrayLike) -> NDArray[np.object_]:
        """Exact values as Python integers in units of ``2**lsb_exponent``; NaN gives 0."""
        return np.asarray(self._fixed_table[self.check_codes(codes)], dtype=object)

    def is_nan(self, codes: ArrayLike) -> NDArray[np.bool_]:
        """Which codes are NaR or NaN."""
        return np.isnan(self.decode(codes))

    @cached_property
    def _order_table(self) -> NDArray[np.int32]:
        # Sign-magnitude codes become integers that sort as their values, -0 before +0.
        codes = np.arange(1 << self.bits, dtype=np.int32)
        half = 1 << (self.bits - 1)
        return np.where(codes < half, codes, half - 1 - codes).astype(np.int32)

    def order_key(self, codes: ArrayLike) -> NDArray[np.int32]:
        """int32 keys that sort as the values do; a NaN sorts below every number."""
        keys = self._order_table[self.check_codes(codes)]
        return np.where(self.is_nan(codes), np.int32(-(1 << 20)), keys)


@dataclass(frozen=True)
class PositFormat(Format):
    """Posit(bits, es): sign, regime, ``es`` exponent bits, fraction; one NaR, one zero."""

    es: int = 0
    kind: ClassVar[str] = "posit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.es <= 2:
            raise FormatError(f"format {self.name} has es = {self.es}: expected 0, 1 or 2")

    @property
    def nan_code(self) -> int:
        return 1 << (self.bits - 1)

    @cached_property
    def _boundaries(self) -> NDArray[np.float64]:
        # The boundary between neighbours is the posit one bit longer that lies between them
        # (Posit Standard 2022, section 4.1); it is their mean except where the rounding cuts
        # exponent bits.
        half = 1 << (self.bits - 1)
        return np.array(
            [codec.posit_value(self.bits + 1, self.es, 2 * code + 1) for code in range(half - 1)]
        )

    def _nan_inputs(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        return ~np.isfinite(x)

    def _apply_underflow(
        self, rank: NDArray[np.int64], magnitude: NDArray[np.float64], underflow: Underflow
    ) -> NDArray[np.int64]:
        if underflow == "zero":
            # The string boundary below minpos is far below minpos/2, which is the rule here.
            return np.where(magnitude <= self.minpos / 2, 0, np.maximum(rank, 1))
        return np.where(magnitude > 0, np.maximum(rank, 1), 0)

    def _with_sign(
        self,
        codes: NDArray[np.int64],
        negative: NDArray[np.bool_],
        magnitude: NDArray[np.float64],
        finite: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        return np.where(negative, -codes & ((1 << self.bits) - 1), codes)

    @cached_property
    def _order_table(self) -> NDArray[np.int32]:
        codes = np.arange(1 << self.bits, dtype=np.int32)
        return np.where(codes < 1 << (self.bits - 1), codes, codes - (1 << self.bits)).astype(
            np.int32
        )


@dataclass(frozen=True)
class FloatFormat(Format):
    """A minifloat: sign, ``exponent_bits``, ``mantissa_bits``, subnormals.

    ``specials``: "none" (every code finite), "nan" (only the all-ones codes are NaN, OFP8 E4M3)
    or "ieee" (the top exponent holds infinities and NaNs). Encoding saturates (DESIGN 1).
    """

    exponent_bits: int = 2
    mantissa_bits: int = 1
    specials: Literal["none", "nan", "ieee"] = "none"
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        super().__post_init__()
        if 1 + self.exponent_bits + self.mantissa_bits != self.bits:
            raise FormatError(
                f"format {self.name}: 1 + {self.exponent_bits} exponent + {self.mantissa_bits} "
                f"mantissa bits do not make {self.bits}"
            )

    @property
    def bias(self) -> int:
        """Exponent bias, ``2**(exponent_bits-1) - 1``."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def nan_code(self) -> int | None:
        if self.specials == "none":
            return None
        if self.specials == "nan":
            return (1 << (self.bits - 1)) - 1
        quiet = 1 << (self.mantissa_bits - 1)
        return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) | quiet

    @property
    def signed_zero(self) -> bool:
        return True


@dataclass(frozen=True)
class IntFormat(Format):
    """Two's complement integers; -2**(bits-1) decodes, and encoding may reach it."""

    kind: ClassVar[str] = "int"

    def _with_sign(
        self,
        codes: NDArray[np.int64],
        negative: NDArray[np.bool_],
        magnitude: NDArray[np.float64],
        finite: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        lowest = finite[-1] + 1
        # The code of the lowest value is even: a tie with its neighbour goes to it.
        codes = np.where(negative & (magnitude >= lowest - 0.5), codes + 1, codes)
        return np.where(negative, -codes & ((1 << self.bits) - 1), codes)

    @cached_property
    def _order_table(self) -> NDArray[np.int32]:
        codes = np.arange(1 << self.bits, dtype=np.int32)
        return np.where(codes < 1 << (self.bits - 1), codes, codes - (1 << self.bits)).astype(
            np.int32
        )


@dataclass(frozen=True)
class IndexFormat(Format):
    """Unsigned integers that number rows of a table or flag what to keep: no arithmetic format.

    A code is its value. Encoding takes whole numbers in range only: an index has no neighbour to
    be rounded to.
    """

    kind: ClassVar[str] = "index"

    @cached_property
    def values(self) -> NDArray[np.float64]:
        table = np.arange(1 << self.bits, dtype=np.float64)
        table.setflags(write=False)
        return table

    def encode(self, values: ArrayLike, underflow: Underflow = "minpos") -> Codes:
        """Whole numbers (any shape) as they are.

        Raises:
            FormatError: a value that is no whole number, negative, or too large.
        """
        check_underflow(underflow)
        x = np.asarray(values, dtype=np.float64)
        bad = ~((x >= 0) & (x < 1 << self.bits) & (x == np.rint(x)))
        if bad.any():
            raise FormatError(
                f"an index is a whole number from 0 to {(1 << self.bits) - 1}, got "
                f"{float(x[bad].ravel()[0]):g}"
            )
        return x.astype(self.dtype)


def check_underflow(underflow: str) -> None:
    """Refuse anything but the two underflow rules (DESIGN 1)."""
    if underflow not in ("minpos", "zero"):
        raise FormatError(f"underflow is '{underflow}': expected 'minpos' or 'zero'")


CATALOG: dict[str, Format] = {
    f.name: f
    for f in (
        FloatFormat("fp4", 4, 2, 1, "none"),
        PositFormat("posit4", 4, 1),
        PositFormat("posit8", 8, 0),
        PositFormat("posit16", 16, 1),
        FloatFormat("fp6_e2m3", 6, 2, 3, "none"),
        FloatFormat("fp6_e3m2", 6, 3, 2, "none"),
        FloatFormat("fp8_e4m3", 8, 4, 3, "nan"),
        FloatFormat("fp8_e5m2", 8, 5, 2, "ieee"),
        FloatFormat("bf16", 16, 8, 7, "ieee"),
        IntFormat("int4", 4),
        IntFormat("int8", 8),
    )
}
"""Formats with a name of their own; ``posit(n,es)`` needs none."""

INDEX = IndexFormat("index", 16)
"""What row numbers and keep flags are held in: one 16-bit word each."""

_POSIT = re.compile(r"posit\((\d{1,3}),\s*(\d)\)")


@lru_cache(maxsize=256)
def get(name: str) -> Any:
    """The format called ``name``: a catalog name, ``posit(n,es)``, or a block format.

    Raises:
        FormatError: no such format; the message lists those there are.
    """
    if name in CATALOG:
        return CATALOG[name]
    if name == INDEX.name:
        return INDEX
    from opennpe.golden import block

    if name in block.CATALOG:
        return block.CATALOG[name]
    match = _POSIT.fullmatch(name.replace(" ", "").lower()) if isinstance(name, str) else None
    if match:
        bits, es = int(match[1]), int(match[2])
        for known in CATALOG.values():
            if isinstance(known, PositFormat) and (known.bits, known.es) == (bits, es):
                return known
        return PositFormat(f"posit({bits},{es})", bits, es)
    raise FormatError(f"unknown format '{name}': expected one of {', '.join(names())}")


def names() -> tuple[str, ...]:
    """Names that :func:`get` takes, for messages and help."""
    from opennpe.golden import block

    return (*CATALOG, *block.CATALOG, "posit(n,es)")


@lru_cache(maxsize=256)
def widen_table(source: str, target: str) -> NDArray[Any]:
    """Codes of ``target`` for every code of ``source``, all exact (DESIGN 1: formats nest).

    Raises:
        FormatError: some value of ``source`` is no value of ``target``.
    """
    src, dst = get(source), get(target)
    values = src.values
    nan = np.isnan(values)
    if dst.nan_code is None and nan.any():
        raise FormatError(f"{source} has NaN and {target} has none: {source} cannot be widened")
    table = dst.encode(values)
    if not np.array_equal(dst.values[table][~nan], values[~nan]):
        raise FormatError(f"{source} does not nest in {target}: some values would be rounded")
    table.setflags(write=False)
    return np.asarray(table)
