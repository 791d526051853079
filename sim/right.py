"""The right side of a product, packed once: panels, and what the certificates ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import mac
from opennpe.sim import packing, quire, wide
from opennpe.sim.microkernel import Kernel
from opennpe.sim.operands import Operands, has_nan

__all__ = ["Right"]

Panels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Right:
    """Codes (K, N) as the right operand of a kernel.

    Attributes:
        formats: of the left and the right operand.
        operands: how they meet.
        micro: the kernel.
        codes: codes (K, N).
        runs: lengths of the stretches of K that the left side has side by side.
    """

    formats: tuple[str, str]
    operands: Operands
    micro: Kernel
    codes: NDArray[Any]
    runs: tuple[int, ...]

    def _padded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (K, N) with rows of zeros that fill every run to whole groups."""
        group = self.micro.kind.group
        if all(length % group == 0 for length in self.runs):
            return values
        full = [-(-length // group) * group for length in self.runs]
        padded = np.zeros((sum(full), values.shape[1]), dtype=values.dtype)
        source = target = 0
        for length, place in zip(self.runs, full, strict=True):
            padded[target : target + length] = values[source : source + length]
            source, target = source + length, target + place
        return padded

    def _pack(self, values: NDArray[Any]) -> Panels:
        return packing.pack_panels(self._padded(values), self.micro.kind.group, self.micro.nr)

    @cached_property
    def values(self) -> NDArray[Any]:
        """Operand values (K, N), for integer kernels."""
        return packing.decode_rows(self.codes, self.operands.right)

    @cached_property
    def panels(self) -> Panels:
        """Panels of all values."""
        if self.operands.kind == "f64":
            return self._wide[0]
        return self._pack(self.values)

    @cached_property
    def _wide(self) -> tuple[Panels, NDArray[np.float64]]:
        return packing.pack_codes(self.codes, self.operands.right, self.micro.nr)

    @cached_property
    def _integer_sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return packing.column_sums(self.values)

    @property
    def totals(self) -> NDArray[np.int64]:
        """Sum of each column (N,), for integer kernels."""
        return self._integer_sums[0]

    @cached_property
    def largest_column(self) -> int:
        """Largest sum of magnitudes of a column, for integer kernels."""
        return int(self._integer_sums[1].max(initial=0))

    @cached_property
    def nan_columns(self) -> NDArray[np.bool_] | None:
        """Columns with a NaR (N,), or None where there is none."""
        flags = self.operands.nan[1]
        if flags is None or not has_nan(self.codes, self.formats[1]):
            return None
        return np.asarray(flags[self.codes].any(axis=0))

    # -- float64 kernels ---------------------------------------------------------------------
    @cached_property
    def _met(self) -> str:
        return mac.compute_formats(*self.formats)[1]

    @cached_property
    def place(self) -> NDArray[np.int16]:
        """Lowest set bit of every code."""
        return wide.places(self.formats[1], self._met)

    @cached_property
    def side(self) -> wide.Side:
        """The certificate's view of the columns."""
        energy = float(self._wide[1].max(initial=0.0)) * wide.ROUNDING
        return wide.Side(
            wide.histogram(self.codes, self.place),
            energy,
            len(self.codes),
            wide.largest_below(self.formats[1], self._met),
        )

    def tail(self, threshold: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Flat positions and values of the elements below a threshold; the last are remembered."""
        held = self.__dict__.get("_tail")
        if held is None or held[0] != threshold:
            at = wide.tail_indices(self.codes, self.place, threshold, self.side.below(threshold))
            values = self.operands.right[self.codes.reshape(-1)[at]].astype(np.float64)
            held = self.__dict__["_tail"] = (threshold, at, values)
        return held[1], held[2]

    def kept(self, threshold: int) -> Panels:
        """Panels without the tail below a threshold; the last one packed is remembered."""
        if not self.side.below(threshold):
            return self.panels
        held = self.__dict__.get("_kept")
        if held is None or held[0] != threshold:
            k, n = np.divmod(self.tail(threshold)[0], self.codes.shape[1])
            panels = self.panels.copy()
            panels[n // self.micro.nr, k, n % self.micro.nr, 0] = 0.0
            held = self.__dict__["_kept"] = (threshold, panels)
        kept: Panels = held[1]
        return kept

    @cached_property
    def limbs(self) -> Panels:
        """Panels of each limb (limbs, panels, groups, nr, group)."""
        tables = quire.limb_tables(self.operands.right)
        parts = [packing.decode_rows(self.codes, t, np.float64) for t in tables]
        return np.stack([self._pack(part) for part in parts])
