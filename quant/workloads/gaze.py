"""Eye gaze: two angles from one small picture of an eye, learned from synthetic eyes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import convnets, eyes
from opennpe.quant.workloads.base import Batch, Predict, Split
from torch import nn
from torch.nn import functional as F

__all__ = ["UNIT", "Gaze", "GazeNet", "angular_errors"]

UNIT = 20.0
"""Degrees of an output of 1: formats are finest there."""
COUNTS: dict[Split, int] = {"train": 20_000, "validation": 2_000, "test": 4_000}
STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
CALIBRATION_EYES = 256
PREDICTED_AT_ONCE = 500


class GazeNet(nn.Module):  # type: ignore[misc]
    """Three strided convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = convnets.block((1, 16), 5, stride=2)  # 16x24
        self.conv2 = convnets.block((16, 32), 3, stride=2)  # 8x12
        self.conv3 = convnets.block((32, 48), 3, stride=2)  # 4x6
        self.fc1 = nn.Linear(48 * 24, 64)
        self.fc2 = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Yaw and pitch (N, 2) over :data:`UNIT`, of pictures (N, 1, 32, 48) in 0 to 1."""
        x = self.conv3(self.conv2(self.conv1(x)))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


def angular_errors(
    given: NDArray[np.floating], wanted: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Degrees (N,) between gazes, each yaw and pitch (N, 2) in degrees."""
    a, b = eyes.gaze_vectors(given), eyes.gaze_vectors(wanted)
    # The sine is exact for small angles, where an arc cosine is not.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))


class Gaze:
    """Estimating gaze from rendered eyes; the score is the mean angular error in degrees.

    Training eyes are mirrored half the time, their yaw with them.
    """

    name = "gaze"
    score = "angular_error_degrees"
    higher = False

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        """``seed`` decides all eyes; ``scale`` multiplies how many there are.

        Raises:
            DataError: a scale that leaves no eye.
        """
        if not 1 / COUNTS["validation"] <= scale <= 100:
            raise DataError(f"gaze: scale {scale:g}, expected 0.0005 to 100 times the eyes")
        self.seed, self.scale = seed, scale
        self._held: dict[Split, tuple[torch.Tensor, torch.Tensor]] = {}

    def model(self, seed: int = 0) -> nn.Module:
        """The float network, its weights drawn from a seed."""
        return convnets.seeded(seed, GazeNet)

    def example(self) -> tuple[torch.Tensor, ...]:
        """One black picture."""
        return (torch.zeros(1, 1, eyes.HEIGHT, eyes.WIDTH),)

    def calibration(self) -> tuple[torch.Tensor, ...]:
        """The first training eyes."""
        return (_real(self.eyes("train")[0][:CALIBRATION_EYES]),)

    def eyes(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures, uint8 (N, 1, 32, 48), and gazes in degrees, float32 (N, 2); rendered once.

        Raises:
            DataError: no such split.
        """
        if split not in COUNTS:
            raise DataError(f"gaze: no split '{split}', expected {', '.join(COUNTS)}")
        if split not in self._held:
            rng = np.random.default_rng([self.seed, STREAMS[split]])
            gazes = eyes.draw_gazes(round(COUNTS[split] * self.scale), rng)
            pictures = torch.from_numpy(eyes.render(gazes, rng))[:, None]
            self._held[split] = pictures, torch.from_numpy(gazes)
        return self._held[split]

    def batches(self, split: Split, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass; "train" leaves out what fills no batch, unless that is all there is.

        Raises:
            DataError: no such split or a batch size below 1.
        """
        if size < 1:
            raise DataError(f"gaze: a batch of {size} pictures, expected 1 or more")
        pictures, gazes = self.eyes(split)
        count = len(gazes)
        order = torch.arange(count)
        if split == "train":
            order = torch.randperm(count, generator=rng)[: count - count % size or count]
        for chosen in order.split(size):
            x, y = pictures[chosen], gazes[chosen]
            if split == "train":
                swap = torch.rand(len(chosen), generator=rng) < 0.5
                x = torch.where(swap[:, None, None, None], x.flip(3), x)
                y = torch.stack([torch.where(swap, -y[:, 0], y[:, 0]), y[:, 1]], 1)
            yield Batch((_real(x),), y)

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Smooth L1 of outputs (N, 2), in units."""
        return F.smooth_l1_loss(output, batch.targets / UNIT, beta=0.1)

    def metrics(self, predict: Predict, split: Split = "test", limit: int = 0) -> dict[str, float]:
        """Mean and median angular error in degrees."""
        pictures, gazes = self.eyes(split)
        count = min(limit, len(gazes)) if limit else len(gazes)
        errors = []
        for start in range(0, count, PREDICTED_AT_ONCE):
            stop = min(start + PREDICTED_AT_ONCE, count)
            given = np.asarray(predict((_real(pictures[start:stop]).numpy(),))) * UNIT
            errors.append(angular_errors(given, gazes[start:stop].numpy()))
        whole = np.concatenate(errors)
        return {
            "angular_error_degrees": float(whole.mean()),
            "median_error_degrees": float(np.median(whole)),
        }

    def blind(self, split: Split = "test") -> float:
        """The score of always saying the training eyes' mean gaze: what there is to beat."""
        mean = self.eyes("train")[1].mean(0).numpy() / UNIT
        return self.metrics(lambda x: np.tile(mean, (len(x[0]), 1)), split)[self.score]


def _real(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 255
