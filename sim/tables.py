"""Functions of one code as tables: a gather is what converting and activating cost."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats
from opennpe.golden.errors import FormatError
from opennpe.golden.network import Tensor
from opennpe.sim.encode import MAX_SCALE
from opennpe.sim.gemm import run_spans
from opennpe.sim.jit import kernel
from opennpe.sim.values import Value

__all__ = [
    "Unsuited",
    "convert",
    "convert_codes",
    "gather",
    "has_nan",
    "lowest_bit",
    "refuse_nan",
    "scaled_values",
    "spans",
]

Codes = NDArray[Any]
WORTH_A_THREAD = 1 << 17
"""Elements below which a second thread costs more than it gives (about 0.1 ms of work)."""


class Unsuited(Exception):
    """A layer that no fast kernel is proven exact for; golden's integers take it."""


def spans(count: int, threads: int, worth: int = WORTH_A_THREAD) -> list[tuple[int, ...]]:
    """(begin, end) of each thread's share of ``count`` elements or rows; a share is worth it."""
    shares = max(1, min(threads, count // max(worth, 1)))
    cut = [count * t // shares for t in range(shares + 1)]
    return list(pairwise(cut))


@kernel()
def _gather(table, codes, out, begin, end):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        out[i] = table[codes[i]]


def gather(table: NDArray[Any], codes: Codes, threads: int = 1) -> NDArray[Any]:
    """``table[codes]`` for contiguous codes of any shape."""
    out = np.empty(codes.shape, dtype=table.dtype)
    source, result = codes.reshape(-1), out.reshape(-1)
    run_spans(lambda s: _gather(table, source, result, s[0], s[1]), spans(codes.size, threads))
    return out


def has_nan(fmt: Any, codes: Codes) -> bool:
    """Whether any code is NaR or NaN."""
    nan = np.nonzero(np.isnan(fmt.values))[0]
    if len(nan) <= 1:
        return bool(len(nan) and (codes == fmt.dtype(nan[0])).any())
    return bool(np.isnan(fmt.values)[codes].any())


def refuse_nan(out: Tensor, ins: list[Tensor], values: list[Value]) -> None:
    """Refuse a NaR that would meet an output format without one.

    Raises:
        FormatError: naming the format.
    """
    fmt = formats.get(out.format)
    if fmt.nan_code is not None:
        return
    for tensor, value in zip(ins, values, strict=True):
        if has_nan(formats.get(tensor.format), value.any()):
            raise FormatError(f"the sum is NaR and {fmt.name} has no code for it")


@lru_cache(maxsize=64)
def scaled_values(name: str, exponent: int) -> NDArray[np.float64]:
    """float64 (2**bits,): each code's value times ``2**exponent``, exact.

    Raises:
        Unsuited: the exponent could leave float64's range.
    """
    if abs(exponent) > MAX_SCALE:
        raise Unsuited
    table = np.ldexp(np.asarray(formats.get(name).values, dtype=np.float64), exponent)
    table.setflags(write=False)
    return np.asarray(table)


def lowest_bit(table: NDArray[np.float64]) -> int:
    """Largest e such that every finite entry is a multiple of ``2**e``; 0 if all are zero."""
    entries = table[np.isfinite(table) & (table != 0)]
    if not entries.size:
        return 0
    fractions, exponents = np.frexp(entries)
    units = np.abs(fractions * 2.0**53).astype(np.int64)
    zeros = np.log2((units & -units).astype(np.float64)).astype(np.int64)
    return int((exponents - 53 + zeros).min())


@lru_cache(maxsize=256)
def _convert_table(
    source: str, source_scale: int, target: str, target_scale: int, underflow: formats.Underflow
) -> Codes:
    """Golden's conversion of every code; NaR gives 0 where the target has none."""
    fmt, out = formats.get(source), formats.get(target)
    values = np.ldexp(fmt.values, source_scale - target_scale)
    if out.nan_code is None:
        values = np.where(np.isnan(values), 0.0, values)
    table: Codes = out.encode(values, underflow)
    table.setflags(write=False)
    return table


def convert_codes(
    codes: Codes, source: Tensor, out: Tensor, underflow: formats.Underflow, threads: int = 1
) -> Codes:
    """:func:`opennpe.golden.rounding.convert` of contiguous codes, by table.

    Raises:
        FormatError: NaR met and the target has no code for it.
    """
    if (source.format, source.scale) == (out.format, out.scale):
        return codes
    fmt, target = formats.get(source.format), formats.get(out.format)
    if target.nan_code is None and has_nan(fmt, codes):
        raise FormatError(f"tensor '{source.name}' holds NaR and {target.name} has no code for it")
    table = _convert_table(source.format, source.scale, out.format, out.scale, underflow)
    return gather(table, codes, threads)


def convert(
    value: Value, source: Tensor, out: Tensor, underflow: formats.Underflow, threads: int = 1
) -> Value:
    """The same in the layout the codes are in.

    Raises:
        FormatError: NaR met and the target has no code for it.
    """
    if (source.format, source.scale) == (out.format, out.scale):
        return value
    codes = convert_codes(value.any(), source, out, underflow, threads)
    return Value(first=codes) if value.has_first else Value(last=codes)
