"""What workloads that sort images into classes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads.base import Batch, Predict, Split
from torch import nn
from torch.nn import functional as F

__all__ = ["ImageClasses", "Images", "mirrored", "shifted"]

CALIBRATION_IMAGES = 256
PREDICTED_AT_ONCE = 500


@dataclass(frozen=True)
class Images:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,)."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Images:
        """A range of them."""
        return Images(self.pixels[start:stop], self.labels[start:stop])


class ImageClasses(ABC):
    """A :class:`~opennpe.quant.workloads.base.Workload` over labelled images.

    A subclass says where the images are and which network sorts them. The score is top-1 accuracy
    in percent, the loss is cross-entropy.
    """

    name: str
    score = "top1_percent"
    higher = True
    shape: tuple[int, int, int]
    """Channels, height and width."""

    @abstractmethod
    def model(self, seed: int = 0) -> nn.Module:
        """The float network, its weights drawn from a seed."""

    @abstractmethod
    def splits(self) -> Mapping[Split, Images]:
        """The images, read once.

        Raises:
            DataError: there are none; the message says where to get them.
        """

    def real(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the network is given: float32, pixels over 255."""
        return pixels.float() / 255

    def augmented(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Training images, changed as their class allows."""
        return pixels

    def example(self) -> tuple[torch.Tensor, ...]:
        """One black image."""
        return (self.real(torch.zeros(1, *self.shape, dtype=torch.uint8)),)

    def calibration(self) -> tuple[torch.Tensor, ...]:
        """The first images of the training split, as they are."""
        return (self.real(self._split("train").part(0, CALIBRATION_IMAGES).pixels),)

    def batches(self, split: Split, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass; "train" leaves out what fills no batch, unless that is all there is.

        Raises:
            DataError: no data, an empty split or a batch size below 1.
        """
        if size < 1:
            raise DataError(f"{self.name}: a batch of {size} images, expected 1 or more")
        images = self._split(split)
        count = len(images)
        if split == "train":
            order = torch.randperm(count, generator=rng)
            count = count - count % size or count
        else:
            order = torch.arange(count)
        for chosen in order[:count].split(size):
            pixels = images.pixels[chosen]
            if split == "train":
                pixels = self.augmented(pixels, rng)
            yield Batch((self.real(pixels),), images.labels[chosen])

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of scores (N, classes), in nats."""
        return F.cross_entropy(output, batch.targets)

    def metrics(self, predict: Predict, split: Split = "test", limit: int = 0) -> dict[str, float]:
        """Top-1 accuracy in percent and mean cross-entropy in nats.

        Of equal scores the first counts, as an engine's argmax would have it.
        """
        images = self._split(split)
        images = images.part(0, limit) if limit else images
        hits, nats = 0, 0.0
        for start in range(0, len(images), PREDICTED_AT_ONCE):
            some = images.part(start, start + PREDICTED_AT_ONCE)
            scores = np.asarray(predict((self.real(some.pixels).numpy(),)), dtype=np.float64)
            labels = some.labels.numpy()
            hits += int((scores.argmax(1) == labels).sum())
            nats += float(_cross_entropies(scores, labels).sum())
        return {"top1_percent": 100 * hits / len(images), "cross_entropy": nats / len(images)}

    def _split(self, split: Split) -> Images:
        held = self.splits()
        if split not in held or not len(held[split]):
            raise DataError(f"{self.name}: no images in the split '{split}'")
        return held[split]


def _cross_entropies(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(1, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(shifted).sum(1))
    return total - shifted[np.arange(len(labels)), labels]


def mirrored(pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W), each swapped left for right with even chance."""
    swap = torch.rand(len(pixels), generator=rng) < 0.5
    return torch.where(swap[:, None, None, None], pixels.flip(3), pixels)


def shifted(pixels: torch.Tensor, reach: int, rng: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W), each moved by up to ``reach`` pixels both ways; zeros come in."""
    count, channels, height, width = pixels.shape
    padded = F.pad(pixels, (reach, reach, reach, reach))
    offsets = torch.randint(2 * reach + 1, (2, count), generator=rng)
    rows = (offsets[0, :, None] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1, :, None] + torch.arange(width))[:, None, None, :]
    image = torch.arange(count)[:, None, None, None]
    return padded[image, torch.arange(channels)[:, None, None], rows, columns]
