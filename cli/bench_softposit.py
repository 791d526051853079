"""SoftPosit's fused dot product as a rival: its own C functions, called from a loop in C.

The PyPI package wraps SoftPosit (Cerlane Leong) for Python; a loop in Python would time the
wrapper. The functions are taken from the package's library instead, and a small C loop, compiled
here, calls them as a program would.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.cli.errors import CheckFailed
from opennpe.golden import formats, mac
from opennpe.golden.errors import ToolError

__all__ = ["QUIRES", "Quire"]

QUIRES = {"posit8": ("q8_fdp_add", "q8_to_p8"), "posit16": ("q16_fdp_add", "q16_to_p16")}
"""Formats that SoftPosit has a quire for: its functions that add a product and that round."""
OUTPUTS = 64
"""Rows and columns timed; the sum is as long as asked for."""

SOURCE = """
#include <stddef.h>
#include <stdint.h>
typedef struct { uint8_t v; } posit8;
typedef struct { uint32_t v; } quire8;
typedef struct { uint16_t v; } posit16;
typedef struct { uint64_t v[2]; } quire16;

#define LOOP(P, Q, CODE)                                                                      \\
  void dot_##P(Q (*add)(Q, P, P), P (*finish)(Q), const CODE *a, const CODE *b, CODE *out,    \\
               ptrdiff_t m, ptrdiff_t n, ptrdiff_t k) {                                       \\
    for (ptrdiff_t i = 0; i < m; i++)                                                         \\
      for (ptrdiff_t j = 0; j < n; j++) {                                                     \\
        Q sum = {0};                                                                          \\
        for (ptrdiff_t t = 0; t < k; t++)                                                     \\
          sum = add(sum, (P){a[i * k + t]}, (P){b[j * k + t]});                               \\
        out[i * n + j] = finish(sum).v;                                                       \\
      }                                                                                       \\
  }
LOOP(posit8, quire8, uint8_t)
LOOP(posit16, quire16, uint16_t)
"""


class Quire:
    """``OUTPUTS`` x ``OUTPUTS`` sums of ``terms`` products; calling it runs them once.

    Attributes:
        macs: multiply-accumulates of a call.

    Raises:
        ToolError: softposit or a C compiler is missing.
        CheckFailed: SoftPosit's results differ from golden's.
    """

    def __init__(self, name: str, terms: int) -> None:
        fmt = formats.get(name)
        rng = np.random.default_rng(3)
        codes = rng.integers(0, 1 << fmt.bits, (2, OUTPUTS, terms)).astype(fmt.dtype)
        self._codes = np.where(fmt.is_nan(codes), 0, codes).astype(fmt.dtype)
        self._out = np.zeros((OUTPUTS, OUTPUTS), dtype=fmt.dtype)
        self._terms = terms
        self._loop = getattr(_compiled(), f"dot_{name}")
        library = _library()
        self._functions = [ctypes.cast(getattr(library, f), ctypes.c_void_p) for f in QUIRES[name]]
        self.macs = OUTPUTS * OUTPUTS * terms
        self._check(name)

    def __call__(self) -> Any:
        arrays = [ctypes.c_void_p(side.ctypes.data) for side in (*self._codes, self._out)]
        extents = [ctypes.c_ssize_t(n) for n in (OUTPUTS, OUTPUTS, self._terms)]
        self._loop(*self._functions, *arrays, *extents)
        return self._out

    def _check(self, name: str) -> None:
        got = self()
        for i, j in np.random.default_rng(4).integers(0, OUTPUTS, (8, 2)):
            expected = mac.dot(name, self._codes[0, i], self._codes[1, j])
            if expected != got[i, j]:
                raise CheckFailed(
                    f"SoftPosit gives {int(got[i, j]):x} for {name} at ({i}, {j}), golden "
                    f"{expected:x}"
                )


def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("_softposit")
    if found is None or found.origin is None:
        raise ToolError("the package softposit is missing: pip install 'opennpe[test]'")
    return ctypes.CDLL(found.origin)


def _compiled() -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ToolError("no C compiler: apt-get install gcc (Debian)")
    with tempfile.TemporaryDirectory(prefix="opennpe-") as folder:
        library = Path(folder) / "loop.so"
        done = subprocess.run(
            [compiler, "-O3", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)],
            input=SOURCE,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise ToolError(f"{compiler} failed: {done.stderr.strip().splitlines()[-1]}")
        return ctypes.CDLL(str(library))
