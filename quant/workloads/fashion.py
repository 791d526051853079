"""Fashion-MNIST: 28x28 grey images of clothes, ten classes.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms", arXiv 1708.07747; MIT licence. Debian packages it.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import convnets
from opennpe.quant.workloads.base import Split
from opennpe.quant.workloads.images import ImageClasses, Images, mirrored, shifted
from torch import nn

__all__ = ["DEBIAN", "NETWORKS", "VARIABLE", "Fashion", "folder", "read"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
VARIABLE = "OPENNPE_FASHION"
"""Environment variable that names another folder of the four files."""
CURE = (
    "apt-get install dataset-fashion-mnist (Debian, Ubuntu), or name the folder of the four .gz "
    f"files with --data or in {VARIABLE}"
)
SIDE, CLASSES = 28, 10
MAX_IMAGES = 1 << 20
HELD_OUT = 12
"""One training image in so many, the last ones, is for validation."""
SHIFT = 1
"""Pixels that augmentation moves an image by, at most."""
NETWORKS = ("small", "mobilenet")


def folder(given: Path | str | None = None) -> Path:
    """The data folder: as given, else of the environment, else Debian's."""
    return Path(given or os.environ.get(VARIABLE) or DEBIAN)


def read(data: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 28, 28) and labels (N,) of "train" or "t10k".

    Raises:
        DataError: a file is missing, damaged or holds something else.
    """
    images = _idx(data / f"{part}-images-idx3-ubyte.gz", 3)
    labels = _idx(data / f"{part}-labels-idx1-ubyte.gz", 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"'{data}', {part}: images of {images.shape[1:]}, expected {SIDE}x{SIDE}")
    if len(images) != len(labels):
        raise DataError(f"'{data}', {part}: {len(images)} images but {len(labels)} labels")
    if len(labels) and labels.max() >= CLASSES:
        raise DataError(f"'{data}', {part}: a label {labels.max()}, expected 0 to {CLASSES - 1}")
    return images, labels.astype(np.int64)


def _idx(file: Path, rank: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: 0, 0, type 8, rank, then sides (big-endian), then values."""
    if not file.is_file():
        raise DataError(f"no '{file}': {CURE}")
    most = 4 + 4 * rank + MAX_IMAGES * SIDE ** (2 * (rank == 3))
    try:
        with gzip.open(file) as stream:
            content = stream.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{file}' is no gzip file or is damaged: get it anew; {CURE}") from error
    start = 4 + 4 * rank
    if len(content) > most or len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise DataError(f"'{file}' is no IDX file of bytes with {rank} axes: get it anew; {CURE}")
    sides = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != int(np.prod(sides, dtype=object)):
        raise DataError(f"'{file}' holds {values.size} bytes of {sides}: get it anew; {CURE}")
    return values.reshape(sides)


class Fashion(ImageClasses):
    """Sorting Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images.

    Validation images are the last of the training files. Training images are mirrored half the
    time and moved by up to a pixel.
    """

    shape = (1, SIDE, SIDE)

    def __init__(
        self, data: Path | str | None = None, network: str = "small", width: float = 1.0
    ) -> None:
        """``network`` is one of :data:`NETWORKS`; ``width`` multiplies its channels.

        Raises:
            DataError: no such network.
        """
        if network not in NETWORKS:
            raise DataError(f"fashion: network '{network}', expected {' or '.join(NETWORKS)}")
        self.name = "fashion" if network == "small" else network
        self.data, self.network, self.width = folder(data), network, width
        self._held: dict[Split, Images] = {}

    def model(self, seed: int = 0) -> nn.Module:
        """The float network, its weights drawn from a seed."""
        kind = convnets.SmallNet if self.network == "small" else convnets.MobileNet
        return convnets.seeded(seed, lambda: kind(self.width))

    def splits(self) -> Mapping[Split, Images]:
        """The images by split, read once.

        Raises:
            DataError: a file is missing or damaged.
        """
        if not self._held:
            whole, test = (_images(*read(self.data, part)) for part in ("train", "t10k"))
            cut = len(whole) - len(whole) // HELD_OUT
            self._held = {
                "train": whole.part(0, cut),
                "validation": whole.part(cut, len(whole)),
                "test": test,
            }
        return self._held

    def augmented(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Mirrored half the time, moved by up to a pixel."""
        return shifted(mirrored(pixels, rng), SHIFT, rng)


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
    return Images(torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(labels))
