"""``opennpe bench --softmax``: the host's float softmax by size, against torch and the memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from opennpe.cli.bench import Claim, Report, interleaved
from opennpe.cli.errors import CheckFailed
from opennpe.cli.progress import Progress, Silent
from opennpe.golden.errors import DataError, ToolError
from opennpe.sim import float_softmax
from opennpe.sim.float_softmax import aligned, softmax

__all__ = ["STATED", "SoftmaxTiming", "bench_softmax", "figures", "table"]

STATED = 1 << 24
"""Elements of the row that the targets are stated for, on one thread."""
SIZES = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, STATED)
TARGETS = {"two-pass": 1.15, "torch": 3.0, "memory": 0.85}
FAR = {True: 1e-5, False: 1e-2}
"""Relative error that a measured softmax may not reach; torch sums long rows in float32."""
ELEMENTS_A_CALL, ELEMENTS_A_ROUND = 1 << 16, 1 << 21
"""Short rows come many at once, so that the call itself does not count; all stay in a cache."""
OURS = ("two-pass", "three-pass", "three-pass-reload")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SoftmaxTiming:
    """One kernel on rows of one length.

    Attributes:
        elements: of the row, float32.
        kernel: an algorithm of ours, "auto", "torch", "memory" (a read, then a copy past the
            caches: the traffic of two passes); "... allocating" makes its result's memory itself.
        nanoseconds: an element, median of the rounds.
        ratio: time relative to "auto" in the same run.
    """

    elements: int
    kernel: str
    nanoseconds: float
    ratio: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def bench_softmax(
    sizes: Sequence[int] = SIZES,
    repeat: int = 9,
    threads: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Time softmax over rows of each size, all kernels in turn in every round.

    Args:
        sizes: elements of a row.
        repeat: rounds.
        threads: of ours and of torch.

    Raises:
        DataError: no sizes, or no rounds.
        ToolError: torch is missing.
        CheckFailed: a kernel's results are wrong.
    """
    if not sizes or min(sizes) < 64 or repeat < 1:
        raise DataError(
            f"bench --softmax takes rows of 64 elements or more, got {list(sizes)}, {repeat} rounds"
        )
    if importlib.util.find_spec("torch") is None:
        raise ToolError(
            "bench --softmax needs PyTorch: pip install 'opennpe[qat]' (in a checkout: "
            ".venv/bin/pip install -e '.[qat]')"
        )
    progress = progress or Silent()
    rows: list[SoftmaxTiming] = []
    for size in sizes:
        calls = _calls(size, threads)
        elements = size * max(1, ELEMENTS_A_CALL // size)
        times = max(1, ELEMENTS_A_ROUND // elements)
        progress.stage(f"softmax of {size}", (repeat + 1) * len(calls))
        seconds = interleaved([_times(c, times) for c in calls.values()], repeat, threads, progress)
        each = {n: 1e9 * s / times / elements for n, s in zip(calls, seconds, strict=True)}
        rows += [SoftmaxTiming(size, n, t, t / each["auto"]) for n, t in each.items()]
    stated = STATED in sizes and threads == 1
    notes = [
        f"auto takes two passes from {float_softmax.TWO_PASS_FROM} elements a row, else "
        f"{float_softmax.IN_CACHE}; kernels reuse their result's memory unless they allocate"
    ]
    if not stated:
        notes.append(f"targets are stated for a row of {STATED} elements on one thread")
    return Report(tuple(rows), tuple(_claims(rows)) if stated else (), tuple(notes))


def _claims(rows: Sequence[SoftmaxTiming]) -> list[Claim]:
    """What the stated size must show, and that "auto" is the fastest in the caches."""
    t = {(row.elements, row.kernel): row.nanoseconds for row in rows}
    two = t[STATED, "two-pass"]
    three = min(t[STATED, name] for name in OURS[1:])
    made, kept = "allocating", f"{STATED >> 20} M elements"
    claims = [
        Claim(f"two passes x three, {kept}", three / two, TARGETS["two-pass"]),
        Claim(f"two passes x torch.softmax, both {made}, {kept}",
              t[STATED, f"torch {made}"] / t[STATED, f"auto {made}"], TARGETS["torch"]),
        Claim(f"two passes x torch.softmax, both into memory that is there, {kept}",
              t[STATED, "torch"] / two, TARGETS["torch"]),
        Claim(f"two passes x what memory allows, {kept}", t[STATED, "memory"] / two,
              TARGETS["memory"]),
    ]  # fmt: skip
    for size in sorted({row.elements for row in rows}):
        if 4 * size <= CACHED_BYTES:
            ratio = t[size, "two-pass"] / t[size, float_softmax.IN_CACHE]
            claims.append(Claim(f"three passes x two, {size} elements", ratio, 1.0))
    return claims


CACHED_BYTES = 1 << 18
"""Rows up to here are in the caches with their results on any machine of today."""


def _times(call: Callable[[], Any], count: int) -> Callable[[], Any]:
    def run() -> None:
        for _ in range(count):
            call()

    return run


def _calls(size: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Every kernel on the same row, checked."""
    import torch

    torch.set_num_threads(threads)
    shape = max(1, ELEMENTS_A_CALL // size), size
    x, y = aligned(shape), aligned(shape)
    x[:] = 3 * np.random.default_rng(size).normal(size=shape).astype(np.float32)
    y[:] = 0
    source, target = torch.from_numpy(x), torch.from_numpy(y)

    def ours(name: Any) -> Callable[[], Any]:
        return lambda: softmax(x, algorithm=name, out=y, threads=threads)

    calls: dict[str, Callable[[], Any]] = {name: ours(name) for name in ("auto", *OURS)}
    calls |= {
        "torch": lambda: torch.softmax(source, -1, out=target),
        "auto allocating": lambda: softmax(x, threads=threads),
        "torch allocating": lambda: torch.softmax(source, -1),
    }
    wanted = np.exp(x.astype(np.float64))
    wanted /= wanted.sum(axis=1, keepdims=True)
    for name, call in calls.items():
        y[:] = 0
        error = float(np.abs(np.asarray(call()) / wanted - 1).max())
        if not error < FAR[not name.startswith("torch")]:
            raise CheckFailed(f"softmax of {size} elements by {name} is off by {error:.1e}")
    calls["memory"] = lambda: float_softmax.traffic(x, y, threads)
    return calls


def table(report: Report) -> Any:
    """Nanoseconds by length and kernel, as a table of rich."""
    from rich.table import Table

    times = {(row.elements, row.kernel): row.nanoseconds for row in report.rows}
    kernels = list(dict.fromkeys(row.kernel for row in report.rows))
    made = Table(title="softmax of float32: ns an element")
    for head in ("elements of a row", *kernels):
        made.add_column(head, justify="right")
    for size in dict.fromkeys(row.elements for row in report.rows):
        made.add_row(f"{size:,}", *(f"{times[size, kernel]:.3f}" for kernel in kernels))
    return made


def figures(report: Report) -> dict[str, Any]:
    """The picture by its file name: nanoseconds against the row's length, a line a kernel."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = {"auto": ("#d95f02", "-", 2.5), "two-pass": ("#386cb0", "--", 1.5),
              "three-pass": ("#1b9e77", "--", 1.5), "three-pass-reload": ("#66a61e", ":", 1.5),
              "torch": ("#7f7f7f", "-", 1.5), "memory": ("#000000", ":", 1.0)}  # fmt: skip
    for kernel, (colour, line, width) in styles.items():
        points = [(row.elements, row.nanoseconds) for row in report.rows if row.kernel == kernel]
        axes.plot(*zip(*points, strict=True), line, color=colour, lw=width, label=kernel)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("elements of a row (float32)")
    axes.set_ylabel("ns an element")
    axes.legend(frameon=False)
    return {"float_softmax.png": figure}
