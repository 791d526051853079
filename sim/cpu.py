"""Which instruction set the micro-kernels are built for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

__all__ = ["ISAS", "PLAIN", "Isa", "features", "host", "threads"]


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    Attributes:
        name: short name, also accepted in the environment variable ``OPENNPE_ISA``.
        needs: LLVM feature names.
        vector_bits: vector register width.
        rows: rows of a tile (two vectors wide) that fit the registers.
        dot: how neighbouring products are added: "fused" (one instruction multiplies, adds and
            accumulates), "pairs" (one multiplies and adds pairs), "generic" (any processor).
    """

    name: str
    needs: tuple[str, ...]
    vector_bits: int
    rows: int
    dot: Literal["generic", "pairs", "fused"] = "pairs"


PLAIN = Isa("plain", (), 128, 4, "generic")
"""What LLVM compiles for any machine."""
ISAS = (
    Isa("avx512vnni", ("avx512f", "avx512bw", "avx512vnni", "avx512vl"), 512, 8, "fused"),
    Isa("avx512", ("avx512f", "avx512bw", "avx512vl"), 512, 8),
    Isa("avx2", ("avx2", "fma"), 256, 6),
    PLAIN,
)
"""Best first."""


@lru_cache(maxsize=1)
def features() -> dict[str, bool]:
    """What LLVM says this processor has."""
    import llvmlite.binding as llvm

    return dict(llvm.get_host_cpu_features())


@lru_cache(maxsize=1)
def host() -> Isa:
    """The best instruction set of this machine, or the one ``OPENNPE_ISA`` names if it is there."""
    wanted = os.environ.get("OPENNPE_ISA", "")
    there = [isa for isa in ISAS if all(features().get(name, False) for name in isa.needs)]
    return next((isa for isa in there if isa.name == wanted), there[0])


def threads(wanted: int | None = None) -> int:
    """Threads to use: as many as asked for, else what numba is allowed (``NUMBA_NUM_THREADS``)."""
    if wanted is not None:
        return max(1, wanted)
    from numba import config

    return int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
