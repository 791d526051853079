"""``opennpe bench``: the kernels against float32 BLAS and SoftPosit, all in one run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli import bench_softposit
from opennpe.cli.errors import CheckFailed
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import formats, mac
from opennpe.golden.errors import DataError, ToolError
from opennpe.sim import cpu, matmul

__all__ = ["Claim", "Report", "Timing", "bench", "interleaved"]

CHECKED = 8
"""Outputs of each product compared with golden: a fast wrong kernel must not count."""
TARGET_SIZE = 1024
"""The targets are stated for products of this size, on one thread."""
WITH_VNNI = {"fp4": 2.5}
TARGETS = {"fp4": 0.9, "posit4": 1.2, "posit8": 1.2, "posit16": 0.35}
"""Least speed relative to float32; fp4's depends on AVX-512 VNNI, posit16's on the data."""
SOFTPOSIT_TARGET = 50.0
"""Least speed of posit16 on any data relative to SoftPosit's quire loop."""


@dataclass(frozen=True)
class Timing:
    """One kernel on one kind of data.

    Attributes:
        kernel: format, "float32" for BLAS, or "SoftPosit posit16".
        data: "network" (normal values on the format's grid) or "any" (all codes alike).
        milliseconds: median of the rounds, codes in to codes out, for the whole product.
        gops: multiply-accumulates a nanosecond, counted twice.
        ratio: speed relative to float32 in the same run.
    """

    kernel: str
    data: str
    milliseconds: float
    gops: float
    ratio: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """A ratio that ought to be at least (or at most) a target."""

    what: str
    ratio: float
    target: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """The verdict."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"{self.what}: {self.ratio:.3g}, target {bound} {self.target:g}: {verdict}"

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Report:
    """What a run measured, how it compares with the targets, and what a reader should know."""

    rows: tuple[Any, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "rows": [row.summary() for row in self.rows],
            "claims": [claim.summary() for claim in self.claims],
            "notes": list(self.notes),
        }


def interleaved(
    calls: Sequence[Callable[[], Any]], rounds: int, threads: int, progress: Progress
) -> list[float]:
    """Median seconds of each call.

    Rounds of all calls alternate, so that a change of clock speed meets all of them; one round
    before them compiles and fills the caches. On one thread it is the processor's time, which
    other processes do not lengthen, else the wall's.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, seconds in zip(calls, times, strict=True):
            begun = clock()
            call()
            if turn:
                seconds.append(clock() - begun)
            progress.advance()
    return [float(np.median(seconds)) for seconds in times]


def bench(
    names: tuple[str, ...] = (),
    size: int = TARGET_SIZE,
    repeat: int = 5,
    threads: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Time (size x size) x (size x size) in each format, in float32 BLAS and in SoftPosit.

    The caller limits the threads of both (the command does, through the environment).

    Raises:
        FormatError: an unknown format.
        DataError: a size below 1.
        CheckFailed: a kernel, or SoftPosit, differs from golden.
    """
    if size < 1 or repeat < 1:
        raise DataError(f"bench takes a size and repetitions of at least 1, got {size}, {repeat}")
    progress = progress or Silent()
    kernels = [("float32", "network", _float(size), 1.0)]
    notes = list(_float_notes())
    for name in (formats.get(n).name for n in names or formats.ENGINE_FORMATS):
        for data in ("network", "any"):
            kernels.append((name, data, _exact(name, data, size, threads), 1.0))
        if name in bench_softposit.QUIRES:
            try:
                rival = bench_softposit.Quire(name, size)
            except ToolError as error:
                notes.append(f"no comparison with SoftPosit: {error}")
                continue
            kernels.append((f"SoftPosit {name}", "any", rival, size**3 / rival.macs))
            notes.append(
                f"SoftPosit's quire loop in C ({name}) runs {rival.macs / 1e6:.3g} M "
                "multiply-accumulates; its time is scaled to the whole product"
            )
    progress.stage(f"bench {size}^3", (repeat + 1) * len(kernels))
    times = interleaved([call for _, _, call, _ in kernels], repeat, threads, progress)
    seconds = [t * scale for t, (_, _, _, scale) in zip(times, kernels, strict=True)]
    rows = tuple(
        Timing(name, data, 1e3 * s, 2e-9 * size**3 / s, seconds[0] / s)
        for (name, data, _, _), s in zip(kernels, seconds, strict=True)
    )
    stated = size == TARGET_SIZE and threads == 1
    if not stated:
        notes.append(f"targets are stated for {TARGET_SIZE}^3 on one thread")
    return Report(rows, tuple(_claims(rows)) if stated else (), tuple(notes))


def _claims(rows: Sequence[Timing]) -> list[Claim]:
    speed = {(row.kernel, row.data): row.gops for row in rows}
    vnni = "vnni" in cpu.host().name
    claims = []
    for row in rows:
        if row.kernel in TARGETS and not (row.kernel == "posit16" and row.data == "any"):
            target = (WITH_VNNI if vnni else {}).get(row.kernel, TARGETS[row.kernel])
            what = f"{row.kernel}, {row.data} data, x float32"
            if row.kernel in WITH_VNNI:
                what += " with AVX-512 VNNI" if vnni else " without AVX-512 VNNI"
            claims.append(Claim(what, row.ratio, target))
    rival = speed.get(("SoftPosit posit16", "any"))
    if rival:
        ratio = speed["posit16", "any"] / rival
        claims.append(Claim("posit16, any data, x SoftPosit's quire", ratio, SOFTPOSIT_TARGET))
    return claims


def _float_notes() -> list[str]:
    """Which float32 BLAS NumPy runs, where threadpoolctl is installed to tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    return [
        f"float32 is NumPy's {pool['internal_api']} {pool.get('version')}, kernels for "
        f"{pool.get('architecture', 'this machine')}, {pool['num_threads']} thread(s)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "numpy" in str(pool["filepath"])
    ]


def _float(size: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    return lambda: a @ b


def _exact(name: str, data: str, size: int, threads: int) -> Callable[[], Any]:
    rng = np.random.default_rng(1)
    fmt = formats.get(name)
    if data == "network":
        a, b = (fmt.encode(rng.normal(size=(size, size)), "zero") for _ in range(2))
        b = fmt.encode(fmt.decode(b) / 2, "zero")
    else:
        a, b = (any_codes(fmt, rng, (size, size)) for _ in range(2))
    shift = -round(math.log2(size) / 2)

    def run() -> NDArray[Any]:
        return np.asarray(matmul(name, a, b, shift, threads=threads))

    _compare(name, a, b, shift, run())
    return run


def any_codes(fmt: Any, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """Codes drawn alike, NaR left out."""
    codes = rng.integers(0, 1 << fmt.bits, shape).astype(fmt.dtype)
    return np.where(fmt.is_nan(codes), 0, codes).astype(fmt.dtype)


def _compare(name: str, a: Any, b: Any, shift: int, got: NDArray[Any]) -> None:
    rng = np.random.default_rng(2)
    for i, j in rng.integers(0, len(a), (CHECKED, 2)):
        expected = mac.dot(name, a[i], b[:, j], shift=shift)
        if expected != got[i, j]:
            raise CheckFailed(
                f"the {name} kernel gives {int(got[i, j]):x} at ({i}, {j}), golden {expected:x}"
            )
