"""The arrays of ``--data``: read without pickle, matched to the model's inputs, cut into runs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError

__all__ = ["Data", "fit", "load_npz"]

Array = NDArray[Any]
Shape = tuple[int, ...]

MAX_BYTES = 8 << 30
"""Refuse files that would unpack to more than this."""


@dataclass(frozen=True)
class Data:
    """Inputs by name with samples along axis 0, and labels where there are any.

    ``stacked``: axis 0 was put before the model's own shape (its axis 0 is not 1), so that a run
    takes ``inputs[name][i]`` rather than ``inputs[name][i:i+1]``.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    samples: int
    stacked: bool

    def take(self, start: int, stop: int) -> dict[str, Array]:
        """The inputs of samples ``start`` to ``stop`` as one run; a stacked run holds one."""
        if self.stacked:
            return {name: array[start] for name, array in self.inputs.items()}
        return {name: array[start:stop] for name, array in self.inputs.items()}

    def batches(self, size: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each run of at most ``size`` samples."""
        step = 1 if self.stacked else max(1, size)
        for start in range(0, self.samples, step):
            yield start, min(start + step, self.samples)

    def first(self, count: int) -> Data:
        """The first ``count`` samples."""
        count = min(count, self.samples)
        labels = None if self.labels is None else self.labels[:count]
        inputs = {name: array[:count] for name, array in self.inputs.items()}
        return Data(inputs, labels, count, self.stacked)


def load_npz(path: str | Path) -> dict[str, Array]:
    """Every array of an npz file.

    Raises:
        DataError: no such file, not an npz file, pickled objects inside, or more than 8 GiB.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"no data file '{file}': expected an npz file of arrays named as inputs")
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"'{file}' unpacks to {size >> 20} MiB: at most {MAX_BYTES >> 20}")
        with np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except DataError:
        raise
    except zipfile.BadZipFile as error:
        raise DataError(f"'{file}' is not an npz file: write it with numpy.savez") from error
    except (ValueError, OSError, EOFError, MemoryError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot read '{file}': {reason}") from error


def fit(arrays: Mapping[str, Array], shapes: Mapping[str, Shape], source: str) -> Data:
    """Match arrays to model inputs of ``shapes`` (axis 0 is 1 where the batch is free).

    An array has the model's shape with any number of samples along axis 0; one sample may come
    without that axis. A model whose axis 0 is not 1 takes its exact shape, or a stack of such.
    ``x`` serves a model with one input; ``y`` holds the labels.

    Raises:
        DataError: missing inputs, wrong shapes, values that are not finite numbers, or inputs
            and labels that hold different numbers of samples.
    """
    stacked = any(shape[:1] != (1,) for shape in shapes.values())
    inputs: dict[str, Array] = {}
    for name, shape in shapes.items():
        key = "x" if name not in arrays and len(shapes) == 1 and "x" in arrays else name
        if key not in arrays:
            wanted = f"'{name}' (or 'x')" if len(shapes) == 1 else f"'{name}'"
            held = ", ".join(arrays) or "nothing"
            raise DataError(f"{source} lacks the input {wanted}: it holds {held}")
        inputs[name] = _with_samples(arrays[key], key, shape, stacked, source)
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"{source}: inputs hold different numbers of samples: {counts}")
    samples = next(iter(counts.values()))
    if not samples:
        raise DataError(f"{source} holds no samples: expected at least one")
    labels = None if "y" in shapes else arrays.get("y")
    if labels is not None and labels.shape[:1] != (samples,):
        raise DataError(f"{source}: y has shape {labels.shape}, expected {samples} labels")
    return Data(inputs, labels, samples, stacked)


def _with_samples(array: Array, key: str, shape: Shape, stacked: bool, source: str) -> Array:
    one = shape if stacked else shape[1:]
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source}: '{key}' holds {array.dtype} values, expected numbers")
    if array.shape == one:
        array = array[None]
    if array.shape[1:] != one or array.ndim != len(one) + 1:
        wanted = ", ".join(map(str, ("N", *one)))
        raise DataError(f"{source}: '{key}' has shape {array.shape}, expected ({wanted})")
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise DataError(f"{source}: '{key}' holds {bad} NaN or infinite values: remove them")
    return array.astype(np.float32)
