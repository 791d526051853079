"""Softmax of float32 on the host: two passes out of the caches, three inside them.

The Two-Pass algorithm (Dukhan and Ablavatski, arXiv 2001.04438) keeps every exponential as a pair
(m, n), so it needs no maximum first and reads a row twice where the usual one reads it three times.
Beyond the caches time is traffic; inside them the maximum is cheaper than the pairs.

The passes are in :mod:`opennpe.sim.float_softmax_ir`. A row is summed in blocks of 1024 elements
that are joined in float64 and in order: the same bits with any number of threads and with any
vectors.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.sim import cpu
from opennpe.sim.float_softmax_ir import (
    BIAS,
    BLOCK_STEPS,
    GUARD,
    MAGIC,
    STEP,
    kind,
    marker,
    sweep,
)
from opennpe.sim.gemm import run_spans
from opennpe.sim.jit import DISABLED, inlined, kernel
from opennpe.sim.tables import WORTH_A_THREAD, spans

__all__ = ["STREAM_FROM", "TWO_PASS_FROM", "Algorithm", "aligned", "chosen", "softmax"]

Algorithm = Literal["auto", "two-pass", "three-pass", "three-pass-reload"]
Floats = NDArray[np.float32]

TWO_PASS_FROM = 1 << 20
"""Elements of a row from which "auto" takes two passes: 4 MiB, beyond a core's own caches."""
STREAM_FROM = 1 << 22
"""Elements of an array from which results go past the caches."""
IN_CACHE = "three-pass-reload"
"""What shorter rows get."""
ALIGNMENT = 64
BLOCK = STEP * BLOCK_STEPS
STRETCH = 1 << 16
"""Elements that a pass takes in rising order, and the least share of a thread."""
LN2 = 0.6931471805599453
REACH = 180
"""Powers of two below the largest exponential beyond which a result is zero in any rounding."""
LEAST_SUMMED = -87.3
"""exp of it is the least normal number; what is smaller adds nothing to a sum of at least one."""
TOO_FAR = 1_400_000
"""Exponents of two near where elements are clamped (``float_softmax_ir.LOWEST``)."""


MAX, SUM_PAIRS, SCALE_PAIRS = kind("max"), kind("sum_pairs"), kind("scale_pairs")
SUM_EXP, SCALE_EXP = kind("sum_exp"), kind("scale_exp")
SUM_STORE, MULTIPLY, COPY = kind("sum_exp_store"), kind("multiply"), kind("copy")


class Work(NamedTuple):
    """A thread's scratch memory. Kernels take the arrays one by one, which numba calls faster.

    Attributes:
        settings: float32 (4,), what a pass is told.
        results: float64 (blocks + 3, 2), what blocks leave: a sum, and a float32 exponent.
        padded: float32 (64,), the elements of a row's last, partial step.
        made: float32 (64,), their results; aligned.
    """

    settings: Floats
    results: NDArray[np.float64]
    padded: Floats
    made: Floats


# -- one row ---------------------------------------------------------------------------------
@inlined
def _span(what, mark, x, y, begin, end, work, tail, back):  # type: ignore[no-untyped-def]
    """A pass over elements begin:end; ``begin`` is a multiple of a block.

    Elements that fill no step are one of their own, padded with what adds nothing; its result is
    ``work.results[tail]``. ``back``: stretches are taken last to first, because the pass before
    has left the last ones in the caches.
    """
    first = begin + (end - begin) // STEP * STEP
    settings, results = work.settings.ctypes.data, work.results.ctypes.data
    source, target = x.ctypes.data, y.ctypes.data
    stretches = (first - begin + STRETCH - 1) // STRETCH
    for i in range(stretches):
        at = begin + (stretches - 1 - i if back else i) * STRETCH
        steps = (min(at + STRETCH, first) - at) // STEP
        place = results + 16 * (at // BLOCK)
        sweep(what, mark, source + 4 * at, target + 4 * at, steps, settings, place)
    if first < end:
        padded, made = work.padded, work.made
        padded[:] = -np.inf
        for i in range(first, end):
            padded[i - first] = x[i]
            made[i - first] = y[i]
        sweep(what, mark, padded.ctypes.data, made.ctypes.data, 1, settings, results + 16 * tail)
        for i in range(first, end):
            y[i] = made[i - first]


@inlined
def _blocks(length):  # type: ignore[no-untyped-def]
    """Blocks of whole steps: the place of the tail's result, and whether there is one."""
    return (length // STEP + BLOCK_STEPS - 1) // BLOCK_STEPS, length % STEP > 0


@inlined
def _join_pairs(results, count):  # type: ignore[no-untyped-def]
    """Sum of the blocks' pairs: a float64 in [1, 2), and its exponent; NaN where there is one."""
    words = results.view(np.float32)
    top = words[0, 2]
    for i in range(1, count):
        top = max(top, words[i, 2])
    total = 0.0
    if not -TOO_FAR < top < TOO_FAR:
        return np.nan, 0
    for i in range(count):
        down = max(np.int64(words[i, 2] - top), np.int64(-1022))
        total += results[i, 0] * np.int64((1023 + down) << 52).view(np.float64)
    up = ((np.float64(total).view(np.int64) >> 52) & 0x7FF) - 1023
    return total * np.int64((1023 - up) << 52).view(np.float64), np.int64(top) + up


@inlined
def _join_sums(results, count):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(count):
        total += results[i, 0]
    return total


@inlined
def _join_largest(results, tail, rest):  # type: ignore[no-untyped-def]
    """The largest of what stretches and the tail left."""
    words = results.view(np.float32)
    largest = words[tail, 0] if rest else np.float32(-np.inf)
    for i in range(0, tail, STRETCH // BLOCK):
        largest = max(largest, words[i, 0])
    return largest


@inlined
def _scale_pairs(settings, total, exponent):  # type: ignore[no-untyped-def]
    """Settings of "scale_pairs"; False where pairs cannot tell: infinities, NaN, huge values."""
    if not total > 0.0:
        return False
    settings[0] = MAGIC + GUARD + BIAS - exponent
    settings[1] = (exponent - REACH) * LN2
    settings[2] = 2.0**-GUARD / total
    return True


@inlined
def _sum_exp(settings, largest, reload):  # type: ignore[no-untyped-def]
    """Settings of "sum_exp" and "sum_exp_store"."""
    settings[0] = largest
    settings[1] = -REACH * LN2 if reload else LEAST_SUMMED


@inlined
def _scale_exp(settings, total, reload):  # type: ignore[no-untyped-def]
    """Settings of "scale_exp" and "multiply"."""
    settings[1] = -REACH * LN2
    settings[2] = (1.0 if reload else 2.0**-GUARD) / total


@inlined
def _two_pass(mark, x, y, work):  # type: ignore[no-untyped-def]
    tail, rest = _blocks(x.size)
    _span(SUM_PAIRS, mark, x, y, 0, x.size, work, tail, False)
    total, exponent = _join_pairs(work.results, tail + rest)
    if not _scale_pairs(work.settings, total, exponent):
        return False
    _span(SCALE_PAIRS, mark, x, y, 0, x.size, work, tail, True)
    return True


@inlined
def _begin_three(mark, reload, x, y, work):  # type: ignore[no-untyped-def]
    tail, rest = _blocks(x.size)
    _span(MAX, mark, x, y, 0, x.size, work, tail, False)
    _sum_exp(work.settings, _join_largest(work.results, tail, rest), reload)


@inlined
def _three_pass(mark, x, y, work):  # type: ignore[no-untyped-def]
    _begin_three(mark, False, x, y, work)
    tail, rest = _blocks(x.size)
    _span(SUM_EXP, mark, x, y, 0, x.size, work, tail, True)
    _scale_exp(work.settings, _join_sums(work.results, tail + rest), False)
    _span(SCALE_EXP, mark, x, y, 0, x.size, work, tail, False)


@kernel()
def _rows_two(mark, x, y, settings, results, padded, made, begin, end):  # type: ignore[no-untyped-def]
    work = Work(settings, results, padded, made)
    for row in range(begin, end):
        if not _two_pass(mark, x[row], y[row], work):
            _three_pass(mark, x[row], y[row], work)


@kernel()
def _rows_three(mark, x, y, settings, results, padded, made, begin, end):  # type: ignore[no-untyped-def]
    work = Work(settings, results, padded, made)
    for row in range(begin, end):
        _three_pass(mark, x[row], y[row], work)


@kernel()
def _rows_reload(mark, x, y, settings, results, padded, made, begin, end):  # type: ignore[no-untyped-def]
    work = Work(settings, results, padded, made)
    for row in range(begin, end):
        source, target = x[row], y[row]
        _begin_three(mark, True, source, target, work)
        tail, rest = _blocks(source.size)
        _span(SUM_STORE, mark, source, target, 0, source.size, work, tail, True)
        _scale_exp(work.settings, _join_sums(work.results, tail + rest), True)
        _span(MULTIPLY, mark, source, target, 0, source.size, work, tail, False)


ROWS = {"two-pass": _rows_two, "three-pass": _rows_three, "three-pass-reload": _rows_reload}


# -- one row on many threads -----------------------------------------------------------------
@kernel()
def _part(what, mark, x, y, work, begin, end, tail, back):  # type: ignore[no-untyped-def]
    _span(what, mark, x, y, begin, end, work, tail, back)


@kernel()
def _settle_pairs(work, count):  # type: ignore[no-untyped-def]
    total, exponent = _join_pairs(work.results, count)
    return _scale_pairs(work.settings, total, exponent)


@kernel()
def _settle_largest(work, tail, rest, reload):  # type: ignore[no-untyped-def]
    _sum_exp(work.settings, _join_largest(work.results, tail, rest), reload)


@kernel()
def _settle_sums(work, count, reload):  # type: ignore[no-untyped-def]
    _scale_exp(work.settings, _join_sums(work.results, count), reload)


def _wide_row(name: str, mark: tuple[int, ...], x: Floats, y: Floats, threads: int) -> None:
    """A row by many threads: the same blocks, joined in the same order."""
    tail, rest = -(-(len(x) // STEP) // BLOCK_STEPS), len(x) % STEP > 0
    shared = _work(len(x))
    cut = [b * STRETCH for b, _ in spans(-(-len(x) // STRETCH), threads, 1)]
    shares: list[tuple[int, ...]] = list(zip(cut, [*cut[1:], len(x)], strict=True))

    def sweep_all(what: tuple[int, ...], back: bool) -> None:
        def one(share: tuple[int, ...]) -> None:
            own = shared._replace(padded=np.empty(STEP, np.float32), made=aligned((STEP,)))
            _part(what, mark, x, y, own, share[0], share[1], tail, back)

        run_spans(one, shares)

    if name == "two-pass":
        sweep_all(SUM_PAIRS, False)
        if _settle_pairs(shared, tail + rest):
            sweep_all(SCALE_PAIRS, True)
            return
    reload = name == "three-pass-reload"
    sweep_all(MAX, False)
    _settle_largest(shared, tail, rest, reload)
    sweep_all(SUM_STORE if reload else SUM_EXP, True)
    _settle_sums(shared, tail + rest, reload)
    sweep_all(MULTIPLY if reload else SCALE_EXP, False)


def aligned(shape: tuple[int, ...]) -> Floats:
    """An uninitialised float32 array whose address is a multiple of 64, as streaming wants."""
    size = prod(shape)
    memory = np.empty(4 * size + ALIGNMENT, dtype=np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT
    return memory[skip : skip + 4 * size].view(np.float32).reshape(shape)


def _work(length: int) -> Work:
    blocks = -(-length // BLOCK) + 3
    return Work(np.zeros(4, np.float32), np.zeros((blocks, 2)), np.empty(STEP, np.float32),
                aligned((STEP,)))  # fmt: skip


def chosen(algorithm: Algorithm, length: int) -> str:
    """The algorithm that a row of so many elements gets. By length alone, so the same everywhere.

    Raises:
        DataError: no such algorithm.
    """
    if algorithm not in get_args(Algorithm):
        raise DataError(
            f"algorithm is '{algorithm}': expected one of {', '.join(get_args(Algorithm))}"
        )
    if algorithm != "auto":
        return algorithm
    return "two-pass" if length >= TWO_PASS_FROM else IN_CACHE


def softmax(
    x: NDArray[np.float32],
    axis: int = -1,
    algorithm: Algorithm = "auto",
    out: Floats | None = None,
    threads: int | None = None,
    stream: bool | None = None,
) -> Floats:
    """Softmax along an axis.

    A row with NaN or +inf, or of -inf alone, gives NaN throughout; -inf beside a number gives 0.

    Args:
        x: float32, any shape with at least one axis; not changed.
        axis: along which results sum to one.
        algorithm: "two-pass", "three-pass" (exponentials are computed twice) or
            "three-pass-reload" (computed once, stored, read again); "auto" takes the fastest for
            the row's length. They differ in the last bits.
        out: float32, C-contiguous, of x's shape: where results go, if given; not x itself.
        threads: as many as numba is allowed, unless given; the bits do not depend on it.
        stream: results go past the caches; unless given, those of large arrays do.

    Returns:
        ``out``, or a new array.

    Raises:
        DataError: an array that is not float32 or has no such axis, an ``out`` that does not fit.
    """
    x, axis = _checked(np.asarray(x), axis)
    length = x.shape[axis]
    name = chosen(algorithm, length)
    if out is not None and (out.shape != x.shape or out.dtype != np.float32
                            or not out.flags.c_contiguous or np.shares_memory(out, x)):  # fmt: skip
        raise DataError(
            f"out is {out.dtype} {out.shape}: expected another C-contiguous float32 array of shape "
            f"{x.shape}"
        )
    last = axis == x.ndim - 1
    result = out if out is not None and last else aligned(x.shape if last else _moved(x, axis))
    rows = np.ascontiguousarray(x if last else np.moveaxis(x, axis, -1))
    if rows.size:
        _fill(name, rows.reshape(-1, length), result.reshape(-1, length), threads, stream)
    if last:
        return result
    back = np.moveaxis(result, -1, axis)
    if out is None:
        return np.ascontiguousarray(back)
    out[...] = back
    return out


def _moved(x: Floats, axis: int) -> tuple[int, ...]:
    return (*x.shape[:axis], *x.shape[axis + 1 :], x.shape[axis])


def _checked(x: NDArray[Any], axis: int) -> tuple[Floats, int]:
    if x.dtype != np.float32:
        raise DataError(f"softmax takes float32, got {x.dtype}: convert with .astype(np.float32)")
    if not -x.ndim <= axis < x.ndim:
        raise DataError(f"softmax along axis {axis} of an array of {x.ndim} axes: there is none")
    return x, axis % x.ndim


def _fill(name: str, x: Floats, y: Floats, threads: int | None, stream: bool | None) -> None:
    if DISABLED:
        _plain(x, y)
        return
    length = x.shape[1]
    past = x.size >= STREAM_FROM if stream is None else stream
    # Streaming stores need every row to begin at a multiple of their width.
    past = past and not y.ctypes.data % ALIGNMENT and (len(y) == 1 or not 4 * length % ALIGNMENT)
    mark, count = marker(cpu.host(), past), cpu.threads(threads)
    shares = spans(len(x), count, max(1, WORTH_A_THREAD // length))
    if len(shares) == 1 and len(x) < count and length >= 2 * WORTH_A_THREAD:
        for source, target in zip(x, y, strict=True):
            _wide_row(name, mark, source, target, count)
        return
    run_spans(lambda s: ROWS[name](mark, x, y, *_work(length), s[0], s[1]), shares)


def _plain(x: Floats, y: Floats) -> None:
    """Without compiled kernels: float64 arithmetic, rounded at the end."""
    with np.errstate(invalid="ignore"):
        power = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf).astype(np.float64))
        y[:] = power / power.sum(axis=1, keepdims=True)


def traffic(x: Floats, y: Floats, threads: int = 1) -> None:
    """What memory allows: the traffic of two passes, a read and a copy past the caches.

    Args:
        x: float32, contiguous, a multiple of 1024 elements.
        y: the same shape, aligned; becomes x.
    """
    mark, length = marker(cpu.host(), x.size >= STREAM_FROM), x.size
    source, target = x.reshape(-1), y.reshape(-1)
    works = {span: _work(length) for span in spans(length // BLOCK, threads, 1)}
    for what in (MAX, COPY):
        run_spans(
            lambda s, what=what: _part(what, mark, source, target, works[s], s[0] * BLOCK,
                                       s[1] * BLOCK, length // BLOCK, False),
            list(works),
        )  # fmt: skip
