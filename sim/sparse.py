"""Exact products of packed sparse weights and dense codes, bit-identical to the dense ones.

``C (M, N) = round((bias + W (M, K) X (K, N)) * 2**shift)``: activations lie channel by channel, as
a 1x1 convolution has them. A sum is exact, so leaving products with zero out cannot change a bit;
int32 holds it by the dense kernels' lemma (docs/exactness.md), with the stored weights only:

    every partial sum is at most (largest activation) x (largest row of magnitudes) < 2**31,

checked for each layer's weights. Where that does not hold, or where the operands are wider than
int16 (posit16), the weights are unpacked and the dense product takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats, mac, sparse
from opennpe.golden.errors import FormatError, SparseError
from opennpe.golden.network import Tensor
from opennpe.golden.sparse_product import check_terms
from opennpe.sim import affine, cpu, gemm, lookup
from opennpe.sim.geometry import matrix
from opennpe.sim.jit import DISABLED, kernel
from opennpe.sim.matmul import product_job
from opennpe.sim.microkernel import micro
from opennpe.sim.operands import INT32, Operands, has_nan, largest, operands
from opennpe.sim.right import Right
from opennpe.sim.sparse_finish import finish_floats, finish_steps
from opennpe.sim.sparse_ir import FLUSH_PAIRS, Shape, shape, tile

__all__ = ["Product", "matmul", "prepare"]

Codes = NDArray[Any]
VECTORS = {1: 2, 2: 2, 4: 1}
"""Vectors across a tile by rows of a block: sums, two interleaved rows and a weight fit."""
STRETCH = 128
"""Bytes of a row of activations whose sums are rounded together: a rounding's constants are loaded
once a row."""
PITCH_PAD = 16
"""Sums behind each row, so that rows do not share cache sets."""
LINE = 64
TALLEST = 4
REACH = 1 << 30
"""Bytes of activations decoded at a time; int32 offsets reach twice as far."""


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Stored blocks two by two, as the kernels take them.

    Attributes:
        starts: int64 (B + 1,): first pair of each block of rows.
        columns: int32 (P, 2): input channels; an odd block repeats its own with zero weights.
        values: int8 (P, R, 4) with both weights twice, or int16 (P, R, 2).
        rows: int64 (B, R): output channel of each lane, -1 beyond the last.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[Any]
    rows: NDArray[np.int64]


def _pairs(stream: sparse.Stream, table: NDArray[Any]) -> _Pairs:
    """The stream's blocks of at most four rows, by twos."""
    starts, columns, values, rows = stream.starts, stream.columns, stream.values, stream.rows
    kept = values.any(axis=1)  # fillers and padding add nothing
    block = np.repeat(np.arange(len(rows)), np.diff(starts))[kept]
    columns, values = columns[kept], values[kept]
    if rows.shape[1] > TALLEST:
        times = rows.shape[1] // TALLEST
        block = (block[:, None] * times + np.arange(times)).reshape(-1)
        order = np.argsort(block, kind="stable")
        block, columns = block[order], np.repeat(columns, times)[order]
        values = values.reshape(-1, TALLEST)[order]
        rows = rows.reshape(-1, TALLEST)
    counts = np.bincount(block, minlength=len(rows))
    pairs = (counts + 1) // 2
    first = np.concatenate([[0], np.cumsum(pairs)])
    within = np.arange(len(block)) - (np.cumsum(counts) - counts)[block]
    place = 2 * first[block] + within
    height = rows.shape[1]
    both = np.zeros((2 * int(pairs.sum()), height), dtype=table.dtype)
    both[place] = table[values]
    at = np.zeros(len(both), dtype=np.int32)
    at[place] = columns
    odd = 2 * first[1:][counts % 2 == 1] - 1
    at[odd] = at[odd - 1]
    held = both.reshape(-1, 2, height).transpose(0, 2, 1)
    if table.dtype == np.int8:
        held = np.concatenate([held, held], axis=2)
    return _Pairs(first.astype(np.int64), at.reshape(-1, 2), np.ascontiguousarray(held), rows)


@dataclass(frozen=True, eq=False)
class Product:
    """A layer's packed weights, made ready once for activations of one format.

    Attributes:
        packed: the weights (M, K).
        x_format: format of the activations.
        job: output format, biases, exponents, clip, threads, and a path to force ("dense" for
            the product of the unpacked weights).
    """

    packed: sparse.Packed
    x_format: str
    job: affine.Job

    @cached_property
    def operands(self) -> Operands:
        """How the formats meet."""
        return operands(self.x_format, self.packed.format)

    @cached_property
    def dense(self) -> Codes:
        """The unpacked weights (M, K)."""
        return sparse.unpack(self.packed)

    @cached_property
    def _pairs(self) -> _Pairs:
        return _pairs(self.packed.stream(), self.operands.right)

    @cached_property
    def _sizes(self) -> tuple[NDArray[np.int64], int]:
        """Sum of each row (M,), and the largest sum of magnitudes of a row."""
        whole = self.operands.right.astype(np.int64)[self.dense]
        return whole.sum(axis=1), int(np.abs(whole).sum(axis=1).max())

    @cached_property
    def bound(self) -> int:
        """Largest magnitude that any partial sum can have, from the stored weights."""
        return int(np.abs(self.operands.left.astype(np.int64)).max()) * self._sizes[1]

    @cached_property
    def rounding(self) -> gemm.Rounding | None:
        """The rounding of int32 sums that are sure to be exact, or None where they are not."""
        held = self.operands
        if held.kind == "f64" or DISABLED or self.job.force == "dense" or self.bound > INT32:
            return None
        found = self.job.rounding(held.offset * self._sizes[0] if held.offset else None, self.bound)
        return None if found is None or found.general.careful else found

    @property
    def path(self) -> str:
        """The path that :meth:`__call__` takes: "sparse u8", "sparse i16" or "dense"."""
        return "dense" if self.rounding is None else f"sparse {self.operands.kind}"

    @cached_property
    def tiling(self) -> Shape:
        """The kernel's tile."""
        height = self._pairs.rows.shape[1]
        return shape(self.operands.kind, height, VECTORS[height], cpu.host())

    @cached_property
    def _stretch(self) -> int:
        """Columns that all blocks of rows go through before the next: whole tiles."""
        width, wanted = self.tiling.columns, STRETCH // self.operands.left.itemsize
        return -(-wanted // width) * width

    def __call__(self, x: ArrayLike) -> Codes:
        """Codes (M, N) of activations (K, N).

        Raises:
            SparseError: activations of another depth.
            FormatError: codes that do not fit; a NaR and an output format without one.
        """
        fmt = formats.get(self.x_format)
        codes = np.ascontiguousarray(fmt.check_codes(x), dtype=fmt.dtype)
        rows, depth = self.packed.shape
        if codes.ndim != 2 or len(codes) != depth:
            raise SparseError(f"weights of {depth} columns take codes ({depth}, N), "
                              f"got {codes.shape}")  # fmt: skip
        out = np.empty((rows, codes.shape[1]), dtype=formats.get(self.job.out.format).dtype)
        if not out.size:
            return out
        if self.rounding is None:
            return self._dense(codes)
        most = REACH // (depth * self.operands.left.itemsize * self._stretch) * self._stretch
        if codes.shape[1] > max(most, self._stretch):
            for first in range(0, codes.shape[1], max(most, self._stretch)):
                at = slice(first, first + max(most, self._stretch))
                out[:, at] = self(codes[:, at])
            return out
        image = _image(codes, self.operands.left, self._stretch)
        held = self._pairs
        offsets = held.columns * np.int32(image.strides[0])
        stretches = -(-codes.shape[1] // self._stretch)
        macs = held.values.size // (4 // held.values.itemsize) * codes.shape[1]
        parts = max(1, min(self.job.threads, macs // gemm.WORTH_A_THREAD, stretches))

        def run(span: tuple[int, ...]) -> None:
            self._run(span[0], parts, offsets, image, out)

        gemm.run_spans(run, [(part,) for part in range(parts)])
        self._mark_nan(codes, out)
        return out

    def _run(self, part: int, parts: int, offsets: Any, image: Codes, out: Codes) -> None:
        held, rounding = self._pairs, self.rounding
        assert rounding is not None
        flush = FLUSH_PAIRS if self.operands.kind == "u8" else 1 << 40
        tiling = self.tiling
        first = (tiling.marker, tiling.columns, self._stretch, part, parts, flush, held.starts,
                 offsets, held.values, image, held.rows.reshape(-1), out)  # fmt: skip
        if rounding.steps is not None:
            _run_steps(*first, rounding.steps)
        else:
            _run_floats(*first, rounding.general)

    def _mark_nan(self, codes: Codes, out: Codes) -> None:
        """NaR where the dense product has it: a stored or a skipped weight makes no difference."""
        columns = rows = None
        if self.operands.nan[0] is not None and has_nan(codes, self.x_format):
            columns = self.operands.nan[0][codes].any(axis=0)
        if self.nan_rows is not None:
            rows = self.nan_rows
        if rows is None and columns is None:
            return
        code = formats.get(self.job.out.format).nan_code
        if code is None:
            raise FormatError(f"the sum is NaR and {self.job.out.format} has no code for it")
        if columns is not None:
            out[:, columns] = code
        if rows is not None:
            out[rows] = code

    @cached_property
    def nan_rows(self) -> NDArray[np.bool_] | None:
        """Rows with a NaR weight (M,), or None."""
        flags = self.operands.nan[1]
        if flags is None or not has_nan(self.dense, self.packed.format):
            return None
        return np.asarray(flags[self.dense].any(axis=1))

    # -- where int32 is not sure to hold the sums ---------------------------------------------
    @cached_property
    def _right(self) -> Right:
        # The dense kernels' right side has the narrower table: weights are the columns here.
        pair = (self.x_format, self.packed.format)
        kernels = micro(self.operands.kind, cpu.host())
        codes = np.ascontiguousarray(self.dense.T)
        return Right(pair, self.operands, kernels, codes, (self.packed.shape[1],))

    def across(self, x: Codes) -> Callable[[], Codes]:
        """The dense kernel on its own terms, for comparison: a call that gives codes (N, M).

        The activations are laid out pixel by pixel, as that kernel reads them, and the weights
        packed beforehand.
        """
        rows, depth = self.packed.shape
        geometry, right = matrix(depth), self._right
        pixels = np.ascontiguousarray(x.T).reshape(-1, 1, 1, 1, depth)
        dtype = formats.get(self.job.out.format).dtype

        def run() -> Codes:
            out = np.empty((len(pixels), rows), dtype=dtype)
            affine.multiply(affine.Left(pixels, geometry, right), right, 0, self.job, out)
            return out

        return run

    def _dense(self, codes: Codes) -> Codes:
        return np.ascontiguousarray(self.across(codes)().T)


def _image(codes: Codes, table: NDArray[Any], stretch: int) -> NDArray[Any]:
    """Operand values (K, pitch); columns beyond the last hold anything.

    A row is an odd number of cache lines long, so rows of one column never share a cache set.
    """
    columns = -(-codes.shape[1] // stretch) * stretch
    lines = -(-columns * table.itemsize // LINE) | 1
    pitch = lines * LINE // table.itemsize
    raw = np.empty(len(codes) * pitch + LINE, dtype=table.dtype)
    skip = -raw.ctypes.data % LINE // table.itemsize
    image = raw[skip : skip + len(codes) * pitch].reshape(len(codes), pitch)
    if image.nbytes >= 2 * REACH:
        raise SparseError(f"{len(codes)} input channels are more than 32-bit offsets reach: "
                          "split the layer")  # fmt: skip
    if lookup.suits(table):
        lookup.decode(codes, table, image[:, : codes.shape[1]])
    else:
        _decode(codes, table, image)
    return image


@kernel()
def _decode(codes, table, image):  # type: ignore[no-untyped-def]
    for k in range(codes.shape[0]):
        source, target = codes[k], image[k]
        for j in range(codes.shape[1]):
            target[j] = table[source[j]]


@kernel()
def _sum(  # type: ignore[no-untyped-def]
    marker, width, flush, starts, offsets, values, image, column, columns, sums
):
    """Sums of all rows over the columns of a stretch.

    Tile by tile: all blocks of rows go over a tile's activations while they are near.
    """
    height, pitch = values.shape[1], sums.strides[0]
    for place in range(0, columns, width):
        x = image.ctypes.data + (column + place) * image.itemsize
        for b in range(len(starts) - 1):
            target = sums.ctypes.data + b * height * pitch + place * 4
            at, end, adds = starts[b], starts[b + 1], 0
            while True:
                count = min(end - at, flush)
                tile(marker, values.ctypes.data + at * values.strides[0],
                     offsets.ctypes.data + at * 8, count, x, target, pitch, adds)  # fmt: skip
                at += count
                adds = 1
                if at >= end:
                    break


@kernel()
def _run_steps(  # type: ignore[no-untyped-def]
    marker, width, stretch, part, parts, flush, starts, offsets, values, image, rows, out, steps
):
    count = (out.shape[1] + stretch - 1) // stretch
    sums = np.empty((rows.size, stretch + PITCH_PAD), dtype=np.int32)
    for s in range(count * part // parts, count * (part + 1) // parts):
        column = s * stretch
        columns = min(stretch, out.shape[1] - column)
        _sum(marker, width, flush, starts, offsets, values, image, column, columns, sums)
        finish_steps(sums, rows, out, column, columns, steps)


@kernel()
def _run_floats(  # type: ignore[no-untyped-def]
    marker, width, stretch, part, parts, flush, starts, offsets, values, image, rows, out, e
):
    count = (out.shape[1] + stretch - 1) // stretch
    sums = np.empty((rows.size, stretch + PITCH_PAD), dtype=np.int32)
    line = np.empty(stretch)
    for s in range(count * part // parts, count * (part + 1) // parts):
        column = s * stretch
        columns = min(stretch, out.shape[1] - column)
        _sum(marker, width, flush, starts, offsets, values, image, column, columns, sums)
        finish_floats(sums, rows, out, column, columns, e, line)


def prepare(
    packed: sparse.Packed,
    x_format: Any = None,
    *,
    bias: ArrayLike | None = None,
    shift: int = 0,
    underflow: formats.Underflow = "minpos",
    out_format: Any = None,
    clip: tuple[float, float] | None = None,
    threads: int | None = None,
    force: str = "",
) -> Product:
    """Packed weights ready for activations of a format; see :func:`matmul`."""
    formats.check_underflow(underflow)
    fx = mac.operand_format(packed.format if x_format is None else x_format)
    out = Tensor("product", (), (fx if out_format is None else mac.operand_format(out_format)).name)
    rows = packed.shape[0]
    job = product_job(
        (fx.name, packed.format), rows, bias, shift, out, underflow,
        clip=clip, threads=threads, force=force,
    )  # fmt: skip
    check_terms(packed, fx.name, largest(job.biases))
    return Product(packed, fx.name, job)


def matmul(packed: sparse.Packed, x: ArrayLike, x_format: Any = None, **options: Any) -> Codes:
    """``round(clip((bias + W X) * 2**shift))`` with packed weights, exact to the bit.

    Args:
        packed: weights (M, K), any packing of :mod:`opennpe.golden.sparse`.
        x: activation codes (K, N).
        x_format: their format; the weights' where None.
        options: ``bias`` (M,) real, in the products' units; ``shift``; ``underflow``;
            ``out_format`` (the activations' where None); ``clip`` (lowest, highest) of the
            shifted sum; ``threads`` (all cores where None); ``force`` "dense" for the product of
            the unpacked weights.

    Returns:
        Codes (M, N): those of :func:`opennpe.golden.sparse_product.matmul`, and of the dense
        product of the same weights.

    Raises:
        SparseError: activations of another depth.
        FormatError: codes that do not fit; NaR with nowhere to go.
        AccumulatorError: more terms than the accumulator is sure to hold.
    """
    return prepare(packed, x_format, **options)(x)
