"""A tensor's codes in the layout each kernel likes, moved only when another asks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.sim.jit import kernel

__all__ = ["Value", "to_first_axes", "to_last_axes"]

Codes = NDArray[Any]
NARROW = 16
"""Below so many rows or columns NumPy's transposing copy loses to a plain loop."""


def to_last_axes(rank: int) -> tuple[int, ...]:
    """Axes of a channels-first tensor in channels-last order: (0, 2, ..., 1)."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def to_first_axes(rank: int) -> tuple[int, ...]:
    """Axes of a channels-last tensor in channels-first order: (0, rank - 1, 1, ...)."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))


class Value:
    """Codes channels-first (N, C, spatial...), channels-last (N, spatial..., C), or both.

    Arrays are contiguous and never written after they are handed over. Tensors of fewer than three
    axes have one layout.
    """

    __slots__ = ("_first", "_last", "shape")

    def __init__(self, first: Codes | None = None, last: Codes | None = None) -> None:
        """Give at least one of the layouts.

        Raises:
            ValueError: neither was given.
        """
        if first is None and last is None:
            raise ValueError("a value needs codes in one layout, got none")
        self._first = None if first is None else np.asarray(first, order="C")
        self._last = None if last is None else np.asarray(last, order="C")
        if first is not None:
            self.shape: tuple[int, ...] = tuple(first.shape)
        else:
            assert last is not None
            self.shape = tuple(last.shape[axis] for axis in to_first_axes(last.ndim))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Storage type of the codes."""
        return self.any().dtype

    @property
    def has_first(self) -> bool:
        """Whether :meth:`first` is free."""
        return self._first is not None or self.ndim < 3

    @property
    def has_last(self) -> bool:
        """Whether :meth:`last` is free."""
        return self._last is not None or self.ndim < 3

    def any(self) -> Codes:
        """The codes in whichever layout is there."""
        return self._first if self._first is not None else self._last  # type: ignore[return-value]

    def view(self) -> Codes:
        """Channels-first shape, strided if only the other layout is there."""
        if self._first is not None:
            return self._first
        assert self._last is not None
        return self._last.transpose(to_first_axes(self.ndim))

    def first(self) -> Codes:
        """Contiguous codes (N, C, spatial...)."""
        if self._first is None:
            assert self._last is not None
            self._first = _exchanged(self._last, self.shape, self._last.shape[-1:], last=True)
        return self._first

    def last(self) -> Codes:
        """Contiguous codes (N, spatial..., C)."""
        if self._last is None:
            assert self._first is not None
            shape = tuple(self.shape[axis] for axis in to_last_axes(self.ndim))
            self._last = _exchanged(self._first, shape, self.shape[1:2], last=False)
        return self._last

    def layout(self, last: bool) -> Codes:
        """:meth:`last` or :meth:`first`."""
        return self.last() if last else self.first()


def _exchanged(codes: Codes, shape: tuple[int, ...], axis: tuple[int, ...], last: bool) -> Codes:
    """The codes of the other layout, in ``shape``; ``axis``: channels; ``last``: these are so."""
    if len(shape) < 3 or axis[0] == 1 or codes.size == axis[0] * shape[0]:
        return codes.reshape(shape)
    positions = math.prod(shape[1:]) // axis[0]
    rows, columns = (positions, axis[0]) if last else (axis[0], positions)
    x = codes.reshape(shape[0], rows, columns)
    out = np.empty((shape[0], columns, rows), dtype=codes.dtype)
    if min(rows, columns) < NARROW:
        _exchange(x, out)
    else:
        np.copyto(out, x.transpose(0, 2, 1))
    return out.reshape(shape)


@kernel()
def _exchange(x, out):  # type: ignore[no-untyped-def]
    count, rows, columns = x.shape
    for n in range(count):
        for c0 in range(0, columns, 64):
            for r0 in range(0, rows, 64):
                for r in range(r0, min(r0 + 64, rows)):
                    for c in range(c0, min(c0 + 64, columns)):
                        out[n, c, r] = x[n, r, c]
