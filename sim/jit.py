"""How the simulator compiles its kernels: cached between runs, and never a stale one.

Numba's cache notices a change of the file a kernel is in, not of the files whose functions were
compiled into it. Here every kernel depends on every source of the room.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba import config, njit

__all__ = ["DISABLED", "inlined", "kernel"]

DISABLED: bool = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]
"""Whether ``NUMBA_DISABLE_JIT`` runs kernels as plain Python: vector code then stays away."""


@lru_cache(maxsize=1)
def _stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of every source of the room."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state = path.stat()
        found.append((path.name, state.st_mtime_ns, state.st_size))
    return tuple(found)


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``njit(cache=True, nogil=True)``, compiled again when any source of the room changes."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = njit(cache=True, nogil=True, **options)(function)
        file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
        if file is not None:  # absent under NUMBA_DISABLE_JIT
            file._source_stamp = (file._source_stamp, _stamp())
        return compiled

    return decorate


def inlined(function: Callable[..., Any]) -> Any:
    """A scalar step that LLVM puts into every loop that calls it, so that the loop vectorises."""
    return njit(forceinline=True)(function)
