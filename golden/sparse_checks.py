"""What packed sparse weights must keep; each breach is refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import mac
from opennpe.golden.errors import FormatError, SparseError

__all__ = [
    "check_codes",
    "check_columns",
    "check_counts",
    "check_last_rows",
    "check_order",
    "check_shape",
    "integers",
    "require",
]

Ints = NDArray[np.int64]


def require(good: Any, what: str) -> None:
    """Refuse packed weights, saying what is wrong with them.

    Raises:
        SparseError: ``good`` is false.
    """
    if not good:
        raise SparseError(f"packed weights are malformed: {what}; pack the layer again")


def integers(owner: Any, *names: str) -> None:
    """Index arrays as read-only int64 vectors."""
    for name in names:
        array = np.asarray(getattr(owner, name))
        require(array.dtype.kind in "ui" or not array.size, f"{name} are not integers")
        object.__setattr__(owner, name, array.astype(np.int64))


def check_codes(owner: Any, shape: tuple[int, ...]) -> None:
    """Values of the format's storage type and of the shape the indices ask for."""
    fmt = mac.operand_format(owner.format)
    try:
        values = fmt.check_codes(owner.values)
    except FormatError as error:
        raise SparseError(f"packed weights are malformed: {error}") from None
    require(values.shape == shape, f"values have shape {values.shape}, indices ask for {shape}")
    object.__setattr__(owner, "values", values.astype(fmt.dtype))


def check_shape(owner: Any) -> None:
    """Two extents of at least 1."""
    shape = tuple(int(n) for n in owner.shape)
    require(len(shape) == 2 and min(shape) >= 1, f"shape {shape} is not (rows, columns)")
    object.__setattr__(owner, "shape", shape)


def check_order(owner: Any) -> None:
    """A permutation of the rows, or None."""
    if owner.order is None:
        return
    integers(owner, "order")
    rows = owner.shape[0]
    require(
        np.array_equal(np.sort(owner.order), np.arange(rows)),
        f"order is no permutation of {rows} rows",
    )


def check_counts(owner: Any, height: int) -> None:
    """A count for each block of rows; together all that is stored."""
    blocks = -(-owner.shape[0] // height)
    require(owner.counts.shape == (blocks,), f"{owner.counts.size} counts for {blocks} row blocks")
    require((owner.counts >= 0).all(), f"a count of {owner.counts.min(initial=0)}")
    stored, counted = len(owner.values), int(owner.counts.sum())
    require(counted == stored, f"counts add up to {counted} blocks, {stored} are stored")


def check_columns(owner: Any, columns: Ints) -> None:
    """Columns within the matrix, and strictly ascending within a row block, zeros left out."""
    most = owner.shape[1]
    outside = columns[(columns < 0) | (columns >= most)]
    require(not outside.size, f"column {outside[:1].sum()} of {most}")
    held = np.flatnonzero(owner.values.any(axis=1))
    block = np.repeat(np.arange(len(owner.counts)), owner.counts)[held]
    wrong = (np.diff(block) == 0) & (np.diff(columns[held]) <= 0)
    at = int(block[:-1][wrong][0]) if wrong.any() else 0
    require(not wrong.any(), f"row block {at} holds columns out of order or twice")


def check_last_rows(owner: Any, height: int) -> None:
    """Rows of the last block that lie beyond the matrix hold zeros."""
    beyond = -owner.shape[0] % height
    if beyond and owner.counts[-1]:
        extra = owner.values[len(owner.values) - owner.counts[-1] :, height - beyond :]
        require(not extra.any(), f"a weight beyond row {owner.shape[0] - 1}")
