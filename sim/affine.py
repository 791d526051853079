"""One group of a product: the fastest kernel that is provably exact, then the one rounding.

Everything a layer multiplies comes here as windows over an image of codes (the left side) against
packed columns (the right side). The paths, in the order they are tried:

- ``u8``, ``i16``: integer dot products in int32, where the bound on a sum allows it;
- ``u8 split``, ``i16 split``: the same in parts that cannot overflow, added up in float64;
- ``f64``, ``f64 tails``: float64 with a certificate (:mod:`opennpe.sim.wide`);
- ``limbs``: exact for any codes of up to 57 bits;
- ``golden``: exact integers of Python, for what is wider still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden.errors import FormatError
from opennpe.golden.network import Tensor
from opennpe.golden.rounding import finish
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import encode, gemm, packing, quire, steps, wide
from opennpe.sim.geometry import Geometry
from opennpe.sim.jit import DISABLED
from opennpe.sim.operands import has_nan, largest
from opennpe.sim.right import Right

__all__ = ["Job", "Left", "multiply"]

FLOAT64 = 1 << 53
TAIL_SHARE = 0.25
"""Tails may cost this share of a dense product's multiplications before limbs are preferred."""
TAIL_PRICE = 8.0
"""A tail's product costs about as much as this many of the kernel's."""
LIMB_BITS = quire.LIMB_BITS * quire.LIMBS


@dataclass(frozen=True, eq=False)
class Job:
    """What is wanted of a product's sums.

    Attributes:
        spec: gives the underflow rule.
        out: the output tensor.
        biases: integers (N,) in units of the grid, int64 or Python's.
        exponents: real exponent of the grid's unit, a column.
        clip: real bounds, or None.
        threads: threads to use.
        force: a path to take instead of the fastest ("split", "limbs", "golden"), or "".
        held: what a kernel made of the weights and keeps.
    """

    spec: CoprocessorSpec
    out: Tensor
    biases: NDArray[Any]
    exponents: NDArray[np.int64]
    clip: tuple[float, float] | None
    threads: int
    force: str = ""
    _made: dict[Any, gemm.Rounding | None] = field(default_factory=dict)
    _parts: dict[Any, Job] = field(default_factory=dict)
    held: dict[Any, Any] = field(default_factory=dict)

    def rounding(self, owed: NDArray[np.int64] | None, sums: int) -> gemm.Rounding | None:
        """The rounding of sums of up to ``sums``, or None where it is beyond float64.

        Args:
            owed: what unsigned operands added to each column's sums, or None.
        """
        key = (owed is None, sums)
        if key not in self._made:
            offsets = self.biases if owed is None else self.biases - owed
            self._made[key] = self._rounding(offsets, sums)
        return self._made[key]

    def unbiased(self) -> gemm.Rounding | None:
        """The rounding of sums that have their bias already."""
        if "unbiased" not in self._made:
            self._made["unbiased"] = self._rounding(np.zeros_like(self.exponents), 0)
        return self._made["unbiased"]

    def columns(self, which: slice) -> Job:
        """The job of some of the columns."""
        key = (which.start, which.stop, which.step)
        if key not in self._parts:
            part = replace(self, biases=self.biases[which], exponents=self.exponents[which],
                           _made={}, _parts={}, held={})  # fmt: skip
            self._parts[key] = part
        return self._parts[key]

    def _rounding(self, offsets: NDArray[Any], sums: int) -> gemm.Rounding | None:
        offset = offsets.astype(np.float64)
        if offsets.dtype == object:  # beyond 64 bits
            whole = np.array([int(v) for v in offset], dtype=object)
        else:
            whole = offset.astype(np.int64)
        exponents = self.exponents - self.out.scale
        if (whole != offsets).any() or largest(exponents) > encode.MAX_SCALE:
            return None
        careful = largest(offsets) + sums > FLOAT64
        factor, rule = np.ldexp(1.0, exponents), self.spec.underflow
        bounds = encode.bounds(self.clip, self.out.scale)
        target = encode.target(self.out.format, rule)
        return gemm.Rounding(
            gemm.Epilogue(offset, factor, *bounds, int(careful), target),
            steps.make(self.out.format, rule, offset, factor, bounds, sums),
        )


class Left:
    """Codes (N, D, H, W, C) and the windows over them; operand images are made when asked for."""

    def __init__(self, codes: NDArray[Any], shape: Geometry, right: Right) -> None:
        self.codes, self.shape = codes, shape
        self.formats, self.operands, self.micro = right.formats, right.operands, right.micro
        self._images: dict[str, NDArray[Any]] = {}
        self._side: wide.Side | None = None

    @property
    def rows(self) -> int:
        """Output places of all images."""
        return len(self.codes) * math.prod(self.shape.out)

    def decode(self, table: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
        """A padded image of values by a table."""
        return packing.decode_image(self.codes, table, self.shape.before, self.shape.padded, dtype)

    @property
    def image(self) -> NDArray[Any]:
        """The padded image of operand values."""
        if "all" not in self._images:
            self._images["all"] = self.decode(self.operands.left, self.operands.dtype)
        return self._images["all"]

    @property
    def limbs(self) -> list[NDArray[np.float64]]:
        """Padded images of every limb."""
        tables = quire.limb_tables(self.operands.left)
        return [self.decode(table) for table in tables]

    def addresses(self, image: NDArray[Any], group: int) -> NDArray[np.int64]:
        """Row addresses of a group's windows."""
        table = gemm.row_table(image, self.shape, self.micro.mr)
        return table + group * self.shape.channels * image.itemsize

    def nan_rows(self, group: int) -> NDArray[np.bool_] | None:
        """Output places with a NaR under their window (M,), or None where there is none."""
        flags = self.operands.nan[0]
        if flags is None or not has_nan(self.codes, self.formats[0]):
            return None
        image = self.decode(flags)
        flat, bases = image.reshape(-1), self.bases(image, group)
        rows = np.zeros(self.rows, dtype=bool)
        for offset in self.shape.offsets.tolist():
            rows |= flat[bases + offset]
        return rows

    def bases(self, image: NDArray[Any], group: int) -> NDArray[np.int64]:
        """Flat index of the first value of a group's windows (M,)."""
        offsets = gemm.row_offsets(self.shape, len(image), self.micro.mr)[: self.rows]
        return offsets + group * self.shape.channels

    # -- float64 kernels ---------------------------------------------------------------------
    @property
    def place(self) -> NDArray[np.int16]:
        """Lowest set bit of every code."""
        return wide.places(self.formats[0], mac.compute_formats(*self.formats)[0])

    @property
    def side(self) -> wide.Side:
        """The certificate's view of the rows."""
        if self._side is None:
            self._side = wide.Side(
                wide.histogram(self.codes, self.place),
                wide.window_energy(self.image, self.shape),
                self.shape.depth,
                wide.largest_below(self.formats[0], mac.compute_formats(*self.formats)[0]),
            )
        return self._side

    def kept(self, threshold: int) -> tuple[NDArray[np.float64], Any]:
        """The image without its tail, and the tail: padded coordinates (T, 5) and values (T,)."""
        count = self.side.below(threshold)
        at = wide.tail_indices(self.codes, self.place, threshold, count)
        where = np.stack(np.unravel_index(at, self.codes.shape), axis=1)
        where = np.asarray(where, dtype=np.int64) + np.array([0, *self.shape.before, 0])
        inside = (where[:, 1:4] < np.array(self.shape.padded)).all(axis=1)
        where = where[inside]
        if not len(where):
            return self.image, (where, np.empty(0))
        # One group may cut its tail out of the only image; several each need a whole one.
        image = self._images.pop("all") if self.shape.groups == 1 else _copy(self.image)
        index = tuple(where.T)
        values = image[index].copy()
        image[index] = 0.0
        return image, (where, values)


def _copy(image: NDArray[np.float64]) -> NDArray[np.float64]:
    held = np.zeros(image.size + packing.SLACK)
    held[: image.size] = image.reshape(-1)
    return held[: image.size].reshape(image.shape)


def multiply(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> str:
    """Codes (M, N) of one group into ``out``; the name of the path taken.

    Raises:
        FormatError: a sum is NaR and the output format has no code for it.
    """
    if DISABLED:  # the vector kernels need a compiler
        job = replace(job, force="golden")
    path = _integer(left, right, group, job, out)
    if path is None and right.operands.kind == "f64":
        path = _float(left, right, group, job, out) or _limbs(left, right, group, job, out)
    if path is None:
        path = _golden(left, right, group, job, out)
    _mark_nan(left, right, group, job, out)
    return path


def _mark_nan(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> None:
    rows, columns = left.nan_rows(group), right.nan_columns
    if rows is None and columns is None:
        return
    code = formats.get(job.out.format).nan_code
    if code is None:
        raise FormatError(f"the sum is NaR and {job.out.format} has no code for it")
    if rows is not None:
        out[rows] = code
    if columns is not None:
        out[:, columns] = code


def _integer(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> str | None:
    """int32 sums where they cannot overflow, parts of them else."""
    held = right.operands
    if held.kind == "f64" or job.force == "golden":
        return None
    depth, name = left.shape.depth, held.kind
    bound = depth * held.largest
    if bound > held.limit:
        # One pass over the columns gives a tighter bound than their number.
        bound = (int(np.abs(held.left.astype(np.int64)).max())) * right.largest_column
    terms = depth + packing.SLACK * len(left.shape.runs)
    if bound > held.limit or job.force == "split":
        bound, terms = depth * held.largest, held.sure_terms
        name = f"{held.kind} split"
        if bound > FLOAT64:
            return None
    rounding = job.rounding(held.offset * right.totals if held.offset else None, bound)
    if rounding is None:
        return None
    walk = packing.segments(left.shape.runs, right.micro.kind, terms)
    rows = left.addresses(left.image, group)
    gemm.multiply(right.micro, rows, walk, right.panels, out, rounding, job.threads)
    return name


def _float(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> str | None:
    """float64 sums with a certificate."""
    if job.force in ("limbs", "golden"):
        return None
    rounding = job.rounding(None, FLOAT64)
    if rounding is None:
        return None
    walk = packing.segments(left.shape.runs, right.micro.kind, 1 << 40)
    depth, columns = right.codes.shape
    if depth <= right.operands.sure_terms:
        rows = left.addresses(left.image, group)
        gemm.multiply(right.micro, rows, walk, right.panels, out, rounding, job.threads)
        return "f64"
    taps = depth // left.shape.channels
    budget = TAIL_SHARE * left.rows * depth * columns
    prices = (TAIL_PRICE * taps * columns, TAIL_PRICE * left.rows)
    found = wide.certify(left.side, right.side, *prices, budget)
    if found is None:
        return None
    if not found.left_tail and not found.right_tail:
        rows = left.addresses(left.image, group)
        gemm.multiply(right.micro, rows, walk, right.panels, out, rounding, job.threads)
        return "f64"
    image, tail = left.kept(found.left)
    sums = wide.tail_sums(image, left.bases(image, group), left.shape, group, tail,
                          right.tail(found.right), right)  # fmt: skip
    rows = left.addresses(image, group)
    panels = right.kept(found.right)
    careful = gemm.SUM_AND_TAIL if not job.biases.any() else gemm.ALL_THREE
    exact = gemm.Rounding(rounding.general._replace(careful=careful), None)
    gemm.multiply(right.micro, rows, walk, panels, out, exact, job.threads, sums)
    return "f64 tails"


def _limbs(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> str | None:
    """Any codes of up to 57 bits, sums of up to 128."""
    depth = left.shape.depth
    top = int(max(np.abs(right.operands.left).max(), np.abs(right.operands.right).max()))
    sums = depth * right.operands.largest + largest(job.biases)
    if top.bit_length() > LIMB_BITS or sums.bit_length() > 127 or job.force == "golden":
        return None
    rounding = job.unbiased()
    if rounding is None:
        return None
    walk = packing.segments(left.shape.runs, right.micro.kind, quire.LIMB_TERMS)
    images = left.limbs
    rows = np.stack([left.addresses(image, group) for image in images])
    wide.multiply_limbs(
        right.micro,
        images,
        rows,
        walk,
        right.limbs,
        job.biases,
        out,
        rounding.general,
        job.threads,
    )
    return "limbs"


def _golden(left: Left, right: Right, group: int, job: Job, out: NDArray[Any]) -> str:
    """Exact integers of Python."""
    image = left.decode(np.arange(len(left.operands.left)).astype(left.codes.dtype))
    flat, bases = image.reshape(-1), left.bases(image, group)
    codes = flat[bases[:, None] + left.shape.offsets]
    sums, nan = mac.exact_sums(*right.formats, codes, right.codes)
    for (i, j), total in np.ndenumerate(sums):
        if not nan[i, j]:
            total = int(total) + int(job.biases[j])
            exponent = int(job.exponents[j])
            out[i, j] = finish(job.spec, job.out, total, exponent, False, job.clip)
    return "golden"
