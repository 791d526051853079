"""``opennpe bench --sparse``: sparse kernels against dense ones, and packings by their bits.

Everything of a run is measured in turns on one thread: float32 OpenBLAS (NumPy's matmul), scipy's
compressed rows where scipy is installed, our float32 blocks, and the exact fp4 and posit8 kernels
against our own dense exact ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli.bench import Claim, Report, interleaved
from opennpe.cli.errors import CheckFailed
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import formats, mac, sparse, sparse_pack
from opennpe.golden.errors import DataError
from opennpe.quant import prune
from opennpe.sim import sparse as exact
from opennpe.sim import sparse_float

__all__ = [
    "DENSITIES",
    "SHAPE",
    "BreakEven",
    "SparseReport",
    "SparseTiming",
    "StoredBits",
    "bench_sparse",
    "figures",
    "storage",
    "table",
]

SHAPE = (256, 256, 784)
"""M, K and N of the product that the targets are stated for: 256 to 256 channels on 28 x 28."""
DENSITIES = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
AT = 0.1
"""Density of the targets."""
IN_A_ROW = 3
"""Calls timed together: short ones, behind others that empty the caches."""
FORMATS = ("fp4", "posit8")
CHECKED = 6
SHIFT = -4
TARGETS = {
    ("float32", "1x1", "float32 dense"): 3.0,
    ("float32", "1x1", "scipy CSR"): 1.8,
    ("float32", "4x1", "float32 dense"): 7.0,
    ("fp4", "4x1", "fp4 dense"): 1.5,
    ("posit8", "4x1", "posit8 dense"): 1.5,
}
"""Least speed-ups at 90 % of zeros on one thread: (format, block, what it is compared with)."""
Call = Callable[[], Any]


@dataclass(frozen=True)
class SparseTiming:
    """One kernel at one density.

    Attributes:
        kernel: "float32", "fp4", "posit8", or "scipy CSR".
        block: "dense", "1x1" (unstructured), "2x1" or "4x1": output by input channels.
        density: share of the weights that are not zero.
        milliseconds: median of the rounds.
        speedup: relative to the dense kernel of the same numbers in the same run.
        to_blas: relative to float32 OpenBLAS.
    """

    kernel: str
    block: str
    density: float
    milliseconds: float
    speedup: float
    to_blas: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class BreakEven:
    """Density below which a sparse kernel is faster than the dense one; None: never seen."""

    kernel: str
    block: str
    density: float | None

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class StoredBits:
    """Bits a dense weight of one packing at one density, by what they hold."""

    packing: str
    density: float
    per_weight: float
    parts: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class SparseReport(Report):
    """A report with break-even densities and storage beside its timings."""

    break_even: tuple[BreakEven, ...]
    storage: tuple[StoredBits, ...]
    shape: tuple[int, int, int]

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **super().summary(),
            "shape": list(self.shape),
            "break_even": [row.summary() for row in self.break_even],
            "storage": [row.summary() for row in self.storage],
        }


def bench_sparse(
    shape: tuple[int, int, int] = SHAPE,
    densities: Sequence[float] = DENSITIES,
    repeat: int = 9,
    progress: Progress | None = None,
) -> SparseReport:
    """Time (M, K) x (K, N) at each density, and account the bits of every packing.

    Raises:
        DataError: nothing to time.
        CheckFailed: a kernel differs from its reference.
    """
    if min(shape) < 1 or repeat < 1 or not densities:
        raise DataError(f"bench takes extents, rounds and densities, got {shape}, {repeat}")
    progress = progress or Silent()
    notes: list[str] = []
    with _one_thread(notes):
        calls = _calls(shape, tuple(densities), notes)
        progress.stage("bench sparse", (repeat + 1) * len(calls))
        turns = [_in_a_row(call) for call in calls.values()]
        seconds = [t / IN_A_ROW for t in interleaved(turns, repeat, 1, progress)]
    rows = _rows(dict(zip(calls, seconds, strict=True)))
    stated = shape == SHAPE and AT in densities
    if not stated:
        notes.append(f"targets are stated for {SHAPE} at a density of {AT}")
    return SparseReport(
        rows=rows,
        claims=tuple(_claims(rows)) if stated else (),
        notes=tuple(notes),
        break_even=_break_even(rows),
        storage=storage(densities),
        shape=shape,
    )


def _in_a_row(call: Call) -> Call:
    def several() -> None:
        for _ in range(IN_A_ROW):
            call()

    return several


def _one_thread(notes: list[str]) -> AbstractContextManager[Any]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        notes.append("threadpoolctl is not installed: set OPENBLAS_NUM_THREADS=1")
        return nullcontext()
    return threadpool_limits(1)  # type: ignore[no-any-return]


Key = tuple[str, str, float]


def _calls(
    shape: tuple[int, int, int], densities: tuple[float, ...], notes: list[str]
) -> dict[Key, Call]:
    """Every kernel by (kernel, block, density), checked once."""
    calls: dict[Key, Call] = {}
    rng = np.random.default_rng(0)
    rows, depth, pixels = shape
    x = rng.normal(size=(depth, pixels)).astype(np.float32)
    weights = rng.normal(size=(rows, depth)).astype(np.float32)
    calls["float32", "dense", 1.0] = lambda: weights @ x
    library = _scipy(notes)
    for density in densities:
        for block in (1, 2, 4):
            held = weights * prune.keep(weights, density, f"{block}x1")
            calls["float32", f"{block}x1", density] = _float(held, x, block)
            if library is not None and block == 1:
                matrix = library.csr_matrix(held)
                calls["scipy CSR", "1x1", density] = partial(matrix.__matmul__, x)
    for name in FORMATS:
        fmt = formats.get(name)
        codes = fmt.encode(x, "zero")
        dense = fmt.encode(weights, "zero")
        dense[dense == 0] = fmt.encode(1.0)  # the density is what it says
        calls[name, "dense", 1.0] = _prepared(dense, name, 1, "dense").across(codes)
        for density in densities:
            for block in (1, 4):
                mask = prune.keep(weights, density, f"{block}x1").astype(fmt.dtype)
                product = _prepared(dense * mask, name, block)
                _check(product, name, dense * mask, codes)
                calls[name, f"{block}x1", density] = partial(product, codes)
    return calls


def _scipy(notes: list[str]) -> Any:
    try:
        library = import_module("scipy.sparse")
    except ImportError:
        notes.append("no comparison with scipy: it is not installed")
        return None
    return library


def _float(held: NDArray[np.float32], x: NDArray[np.float32], block: int) -> Call:
    packed = sparse_float.pack(held, block)
    got = sparse_float.multiply(packed, x)
    if not np.allclose(got, held @ x, rtol=1e-4, atol=1e-3):
        raise CheckFailed(f"the float32 {block}x1 kernel differs from the dense product")
    return lambda: sparse_float.multiply(packed, x)


def _prepared(codes: NDArray[Any], name: str, block: int, force: str = "") -> exact.Product:
    packed = sparse_pack.pack_blocks(codes, name, block)
    return exact.prepare(packed, name, shift=SHIFT, underflow="zero", threads=1, force=force)


def _check(product: exact.Product, name: str, weights: Any, codes: Any) -> None:
    got, dense = product(codes), product.across(codes)().T
    if product.path == "dense" or not np.array_equal(got, dense):
        raise CheckFailed(f"the {name} kernel ({product.path}) differs from the dense one")
    rng = np.random.default_rng(1)
    for i, j in zip(*(rng.integers(0, n, CHECKED) for n in got.shape), strict=True):
        expected = mac.dot(name, codes[:, j], weights[i], shift=SHIFT, underflow="zero")
        if expected != got[i, j]:
            raise CheckFailed(
                f"the {name} kernel gives {int(got[i, j]):x} at ({i}, {j}), golden {expected:x}"
            )


def _rows(seconds: dict[Key, float]) -> tuple[SparseTiming, ...]:
    blas = seconds["float32", "dense", 1.0]
    rows = []
    for (kernel, block, density), held in seconds.items():
        base = seconds.get((kernel, "dense", 1.0), blas)
        rows.append(SparseTiming(kernel, block, density, 1e3 * held, base / held, blas / held))
    return tuple(rows)


def _claims(rows: Sequence[SparseTiming]) -> list[Claim]:
    at = {(r.kernel, r.block): r for r in rows if r.density == AT}
    claims = []
    for (kernel, block, rival), target in TARGETS.items():
        row = at[kernel, block]
        ratio = row.speedup
        if rival == "scipy CSR":
            if (rival, "1x1") not in at:
                continue
            ratio = at[rival, "1x1"].milliseconds / row.milliseconds
        what = f"{kernel} {block} at {100 * (1 - AT):.0f} % zeros, x {rival}"
        claims.append(Claim(what, ratio, target))
    return claims


def _break_even(rows: Sequence[SparseTiming]) -> tuple[BreakEven, ...]:
    """Where the time, interpolated between densities, meets the dense kernel's."""
    found = []
    for kernel, block in dict.fromkeys((r.kernel, r.block) for r in rows if r.block != "dense"):
        line = sorted((r.density, 1 / r.speedup) for r in rows if (r.kernel, r.block) ==
                      (kernel, block))  # fmt: skip
        density, relative = (np.array(v) for v in zip(*line, strict=True))
        below = np.flatnonzero(relative <= 1.0)
        place: float | None = None
        if len(below):
            last = below[-1]
            place = float(density[last])
            if last + 1 < len(line):
                at = slice(last, last + 2)
                place = float(np.interp(1.0, relative[at], density[at]))
        found.append(BreakEven(kernel, block, place))
    return tuple(found)


# -- storage --------------------------------------------------------------------------------------
def storage(
    densities: Sequence[float] = DENSITIES, shape: tuple[int, int] = (256, 256), name: str = "fp4"
) -> tuple[StoredBits, ...]:
    """Bits a dense weight of every packing at every density, and of the N:M patterns."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=shape)
    codes = rng.integers(1, 1 << formats.get(name).bits, shape).astype(formats.get(name).dtype)
    rows = []
    for density in densities:
        loose, blocks = (codes * prune.keep(weights, density, how).astype(codes.dtype)
                         for how in ("unstructured", "4x1"))  # fmt: skip
        count = sparse.bitmask_bits(loose, name) / loose.size
        rows.append(StoredBits("bitmask", density, count, {}))
        for bits in sparse.DELTA_BITS:
            packed = sparse_pack.pack_delta(loose, name, 1, bits)
            rows.append(_stored(f"1x1, {bits}-bit steps", density, packed))
        signed = sparse_pack.pack_delta(loose, name, 1, 4, "signed")
        rows.append(_stored("1x1, 4-bit signed steps", density, signed))
        rows.append(
            _stored("4x1, 4-bit steps", density, sparse_pack.pack_delta(blocks, name, 4, 4))
        )
        for group in sparse.GROUPS:
            what = "4x1, 8-bit columns" + (", tiles of 4" if group == 4 else "")
            rows.append(_stored(what, density, sparse_pack.pack_blocks(blocks, name, 4, group)))
    for n, m in ((2, 4), (1, 4)):
        held = codes * prune.keep(weights, 1.0, f"{n}:{m}").astype(codes.dtype)
        rows.append(_stored(f"{n}:{m}", n / m, sparse_pack.pack_structured(held, name, n, m)))
    return tuple(rows)


def _stored(what: str, density: float, packed: sparse.Packed) -> StoredBits:
    bits = packed.bits()
    parts = {k: v / bits.weights for k, v in asdict(bits).items() if k != "weights"}
    return StoredBits(what, density, bits.per_weight, parts)


# -- faces ----------------------------------------------------------------------------------------
def table(report: SparseReport) -> Any:
    """Speed-ups by kernel and density, as a table of rich."""
    from rich.table import Table

    densities = sorted({r.density for r in report.rows if r.block != "dense"}, reverse=True)
    even = {(b.kernel, b.block): b.density for b in report.break_even}
    shape = " x ".join(map(str, report.shape))
    made = Table(title=f"{shape}, one thread: speed relative to the dense kernel")
    for head in ("kernel", "block", *(f"{100 * (1 - d):.0f} % zeros" for d in densities)):
        made.add_column(head, justify="left" if head in ("kernel", "block") else "right")
    made.add_column("as fast at", justify="right")
    for key in dict.fromkeys((r.kernel, r.block) for r in report.rows if r.block != "dense"):
        speed = {r.density: r.speedup for r in report.rows if (r.kernel, r.block) == key}
        place = even[key]
        zeros = "never" if place is None else f"{100 * (1 - place):.0f} %"
        made.add_row(*key, *(f"{speed[d]:.2f}" for d in densities), zeros)
    return made


def figures(report: SparseReport) -> dict[str, Any]:
    """The pictures by file name (matplotlib figures)."""
    return {
        "sparse_speed.png": _speed_figure(report),
        "sparse_storage.png": _storage_figure(report),
    }


MARKS = {"1x1": "o", "2x1": "^", "4x1": "s"}
COLOURS = {"float32": "#7f7f7f", "scipy CSR": "#a6761d", "fp4": "#d95f02", "posit8": "#1b9e77"}


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("zeros, %")
    axis.grid(alpha=0.25)
    return figure, axis


def _speed_figure(report: SparseReport) -> Any:
    shape = " x ".join(map(str, report.shape))
    figure, axis = _axes(f"Speed relative to the dense kernel of the same numbers, {shape}")
    for kernel, block in dict.fromkeys((r.kernel, r.block) for r in report.rows):
        if block == "dense":
            continue
        line = [r for r in report.rows if (r.kernel, r.block) == (kernel, block)]
        axis.plot([100 * (1 - r.density) for r in line], [r.speedup for r in line],
                  marker=MARKS[block], color=COLOURS[kernel], label=f"{kernel} {block}",
                  linestyle="--" if block == "1x1" else "-")  # fmt: skip
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_yscale("log", base=2)
    axis.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axis.set_ylabel("speed-up")
    axis.legend(fontsize=8)
    return figure


def _storage_figure(report: SparseReport) -> Any:
    figure, axis = _axes("Storage of 4-bit weights, bits a weight of the dense matrix")
    for name in dict.fromkeys(row.packing for row in report.storage):
        line = [row for row in report.storage if row.packing == name]
        axis.plot([100 * (1 - r.density) for r in line], [r.per_weight for r in line],
                  marker="o", markersize=4, label=name)  # fmt: skip
    axis.axhline(4.0, color="black", linewidth=0.8, label="dense")
    axis.set_ylim(0, 8)
    axis.set_ylabel("bits a weight")
    axis.legend(fontsize=8, loc="lower left")
    return figure
