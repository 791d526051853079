"""SIMD lanes: 4 / 2 / 1 operands in a word of 16 bits, lane 0 in the low bits (DESIGN 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden.errors import FormatError
from opennpe.golden.mac import Accumulator, compute_formats, operand_format

__all__ = ["WORD_BITS", "dot_words", "lanes", "pack", "unpack"]

WORD_BITS = 16


def lanes(f: Any) -> int:
    """Operands of a format in one word.

    Raises:
        FormatError: the format's width does not divide the word.
    """
    fmt = operand_format(f)
    if WORD_BITS % fmt.bits:
        raise FormatError(f"lanes must divide the word: {WORD_BITS} bits into {fmt.bits}-bit codes")
    return WORD_BITS // int(fmt.bits)


def pack(f: Any, codes: ArrayLike) -> NDArray[np.uint16]:
    """Codes (..., lanes) to words (...)."""
    fmt = operand_format(f)
    count = lanes(fmt)
    array = fmt.check_codes(codes)
    if array.shape[-1:] != (count,):
        raise FormatError(f"{fmt.name} words hold {count} codes, got an axis of {array.shape[-1:]}")
    shifts = np.arange(count, dtype=np.uint32) * fmt.bits
    words = np.bitwise_or.reduce(array.astype(np.uint32) << shifts, axis=-1)
    return np.asarray(words, dtype=np.uint16)


def unpack(f: Any, words: ArrayLike) -> NDArray[Any]:
    """Words (...) to codes (..., lanes)."""
    fmt = operand_format(f)
    shifts = np.arange(lanes(fmt), dtype=np.uint32) * fmt.bits
    codes = (np.asarray(words, dtype=np.uint32)[..., None] >> shifts) & ((1 << fmt.bits) - 1)
    return np.asarray(codes, dtype=fmt.dtype)


def dot_words(
    a: str,
    b: str,
    words_a: ArrayLike,
    words_b: ArrayLike,
    out_format: str,
    bias: ArrayLike | None = None,
    shift: ArrayLike | None = None,
    underflow: Any = "minpos",
) -> NDArray[Any]:
    """What one engine does with two streams of words: one sum and one code a lane.

    Args:
        a: format of the first stream, already widened to the engine's mode.
        b: format of the second stream, of the same width.
        words_a: uint16 (K,).
        words_b: uint16 (K,).
        out_format: format of the results.
        bias: real values (lanes,), default zero.
        shift: ints (lanes,), default zero.

    Returns:
        Result codes (lanes,).
    """
    if compute_formats(a, b) != (a, b):
        raise FormatError(f"{a} and {b} differ in width: widen the narrower before the engine")
    count = lanes(a)
    offsets = np.zeros(count) if bias is None else np.asarray(bias, dtype=np.float64)
    shifts = np.zeros(count, dtype=np.int64) if shift is None else np.asarray(shift)
    codes_a, codes_b = unpack(a, words_a), unpack(b, words_b)
    out = operand_format(out_format)
    result = np.zeros(count, dtype=out.dtype)
    for lane in range(count):
        accumulator = Accumulator(a, b)
        accumulator.preload(float(offsets[lane]))
        for x, y in zip(codes_a[:, lane].tolist(), codes_b[:, lane].tolist(), strict=True):
            accumulator.add(x, y)
        result[lane] = accumulator.result(out, int(shifts[lane]), underflow)
    return result
