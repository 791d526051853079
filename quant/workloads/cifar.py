"""CIFAR-10 for those who have it: 32x32 colour images, ten classes.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Its python version
consists of pickles, which run code when they are opened; only the binary version is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import convnets
from opennpe.quant.workloads.base import Split
from opennpe.quant.workloads.images import ImageClasses, Images, mirrored, shifted
from torch import nn

__all__ = ["VARIABLE", "Cifar", "read"]

VARIABLE = "OPENNPE_CIFAR10"
"""Environment variable that names the folder of the binary files."""
CURE = "get the binary version, cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html"
SIDE, CLASSES = 32, 10
RECORD = 1 + 3 * SIDE * SIDE
"""Bytes of a label and of its image: red, green and blue planes."""
MAX_RECORDS = 1 << 18
TRAINING, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
HELD_OUT = 10
"""One training image in so many, the last ones, is for validation."""
SHIFT = 4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels; what the usual ResNet20 checkpoints were trained with."""


def read(folder: Path, names: tuple[str, ...]) -> Images:
    """The images of some binary files, in order.

    Raises:
        DataError: a file is missing, of the python version, damaged or too large.
    """
    parts = [_records(folder, name) for name in names]
    records = np.concatenate(parts)
    if len(records) and records[:, 0].max() >= CLASSES:
        raise DataError(f"'{folder}' holds a label {records[:, 0].max()}, expected 0 to 9: {CURE}")
    pixels = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    labels = records[:, 0].astype(np.int64)
    return Images(torch.from_numpy(pixels.copy()), torch.from_numpy(labels))


def _records(folder: Path, name: str) -> np.ndarray:
    file = folder / name
    if not file.is_file():
        if file.with_suffix("").is_file():
            raise DataError(
                f"'{file.with_suffix('')}' is of the python version, a pickle, which could run "
                f"code and is not opened: {CURE}"
            )
        raise DataError(f"no '{file}': {CURE}")
    size = file.stat().st_size
    if not size or size % RECORD or size > MAX_RECORDS * RECORD:
        raise DataError(f"'{file}' has {size} bytes, expected records of {RECORD}: {CURE}")
    return np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, RECORD)


class Cifar(ImageClasses):
    """Sorting CIFAR-10 with ResNet20: 45,000 training, 5,000 validation and 10,000 test images.

    Validation images are the last of the training files. Training images are mirrored half the
    time and moved by up to four pixels; channels are normalised.
    """

    name = "resnet20-cifar10"
    shape = (3, SIDE, SIDE)

    def __init__(self, data: Path | str | None = None, weights: Path | str | None = None) -> None:
        """``data`` is the folder of the binary files, else :data:`VARIABLE` names it; ``weights``
        is a checkpoint that :meth:`model` loads in place of random weights."""
        given = data or os.environ.get(VARIABLE)
        self.data = Path(given) if given else None
        self.weights = weights
        self._held: dict[Split, Images] = {}

    def model(self, seed: int = 0) -> nn.Module:
        """ResNet20, its weights those of the checkpoint, else drawn from a seed.

        Raises:
            ModelError: the checkpoint is missing, damaged or another network's.
        """
        if self.weights is not None:
            return convnets.load_resnet20(self.weights)
        return convnets.seeded(seed, convnets.ResNet20)

    def splits(self) -> Mapping[Split, Images]:
        """The images by split, read once.

        Raises:
            DataError: no folder, or a file is missing or damaged.
        """
        if self.data is None:
            raise DataError(
                f"{self.name} has no data: name the folder of data_batch_1.bin with --data or in "
                f"{VARIABLE}; {CURE}"
            )
        if not self._held:
            whole, test = read(self.data, TRAINING), read(self.data, TEST)
            cut = len(whole) - len(whole) // HELD_OUT
            self._held = {
                "train": whole.part(0, cut),
                "validation": whole.part(cut, len(whole)),
                "test": test,
            }
        return self._held

    def real(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32, each channel less its mean, over its standard deviation."""
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        return (super().real(pixels) - mean) / deviation

    def augmented(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Mirrored half the time, moved by up to four pixels."""
        return shifted(mirrored(pixels, rng), SHIFT, rng)
