"""``opennpe bench``: the kernels against float32 BLAS, both in one run on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli.errors import CheckFailed
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import formats, mac
from opennpe.golden.errors import DataError
from opennpe.sim import matmul

__all__ = ["Timing", "bench"]

CHECKED = 8
"""Outputs of each product compared with golden: a fast wrong kernel must not count."""


@dataclass(frozen=True)
class Timing:
    """One kernel on one kind of data.

    Attributes:
        kernel: format, or "float32" for the BLAS it is compared with.
        data: "network" (normal values on the format's grid) or "any" (all codes alike).
        milliseconds: best of the repetitions, codes in to codes out.
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


def bench(
    names: tuple[str, ...] = (), size: int = 1024, repeat: int = 5, progress: Progress | None = None
) -> list[Timing]:
    """Time (size x size) x (size x size) in each format and in float32 BLAS.

    The caller limits the threads of both (the command does, through the environment). Rounds of
    all kernels alternate, so that a change of clock speed meets all of them.

    Raises:
        FormatError: an unknown format.
        DataError: a size below 1.
        CheckFailed: a kernel differs from golden.
    """
    if size < 1 or repeat < 1:
        raise DataError(f"bench takes a size and repetitions of at least 1, got {size}, {repeat}")
    progress = progress or Silent()
    kernels = [("float32", "network", _float(size))]
    for name in names or formats.ENGINE_FORMATS:
        for data in ("network", "any"):
            kernels.append((formats.get(name).name, data, _exact(name, data, size)))
    progress.stage(f"bench {size}^3", (repeat + 1) * len(kernels))
    best = [float("inf")] * len(kernels)
    for turn in range(repeat + 1):
        for index, (_, _, call) in enumerate(kernels):
            begun = time.perf_counter()
            call()
            if turn:  # the first compiles, and fills the caches
                best[index] = min(best[index], time.perf_counter() - begun)
            progress.advance()
    return [
        Timing(name, data, 1e3 * s, 2e-9 * size**3 / s, best[0] / s)
        for (name, data, _), s in zip(kernels, best, strict=True)
    ]


def _float(size: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    return lambda: a @ b


def _exact(name: str, data: str, size: int) -> Callable[[], Any]:
    rng = np.random.default_rng(1)
    fmt = formats.get(name)
    if data == "network":
        a, b = (fmt.encode(rng.normal(size=(size, size)), "zero") for _ in range(2))
        b = fmt.encode(fmt.decode(b) / 2, "zero")
    else:
        a, b = (_any_codes(fmt, rng, size) for _ in range(2))
    shift = -(size.bit_length() // 2)
    _compare(name, a, b, shift, np.asarray(matmul(name, a, b, shift)))
    return lambda: matmul(name, a, b, shift)


def _any_codes(fmt: Any, rng: np.random.Generator, size: int) -> NDArray[Any]:
    codes = rng.integers(0, 1 << fmt.bits, (size, size)).astype(fmt.dtype)
    return np.where(fmt.is_nan(codes), 0, codes).astype(fmt.dtype)


def _compare(name: str, a: Any, b: Any, shift: int, got: NDArray[Any]) -> None:
    rng = np.random.default_rng(2)
    for i, j in rng.integers(0, len(a), (CHECKED, 2)):
        expected = mac.dot(name, a[i], b[:, j], shift=shift)
        if expected != got[i, j]:
            raise CheckFailed(
                f"the {name} kernel gives {int(got[i, j]):x} at ({i}, {j}), golden {expected:x}"
            )
