"""Drives that nobody recorded: rendered frames and inertial samples of known trajectories.

Everything follows from the split and its seed: the same arguments give the same bits. No download.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import synthetic_scene as scene
from opennpe.quant.workloads.base import Split
from opennpe.quant.workloads.recording import Recording
from opennpe.quant.workloads.synthetic_motion import RATE, drive

__all__ = ["SEEDS", "Noise", "Size", "record", "recordings"]

SEEDS: dict[Split, int] = {"train": 1_000, "validation": 2_000, "test": 3_000}
"""The first drive's seed; the next ones follow, so that splits share none below 1,000 drives."""
TEXTURES = 16
"""More than the textures of a drive, each with a seed of its own."""
MAX_PIXELS = 1 << 31
"""Largest split in bytes that is kept in memory."""


@dataclass(frozen=True)
class Size:
    """How much to draw.

    Attributes:
        height, width: pixels of a frame.
        frames: frames a drive of validation and test.
        train_frames: frames a drive of training: short ones, because a network learns to know a
            place, and with it the speed it was driven at, before it learns to see speed.
        train, validation, test: drives by split.
    """

    height: int = 64
    width: int = 128
    frames: int = 201
    train_frames: int = 17
    train: int = 400
    validation: int = 4
    test: int = 8

    def __post_init__(self) -> None:
        least_of = {"height": 8, "width": 8, "frames": 2, "train_frames": 2}
        for name in self.__dataclass_fields__:
            least = least_of.get(name, 1)
            if not least <= getattr(self, name) < 1 << 16:
                raise DataError(f"{name} = {getattr(self, name)}, expected {least} to {1 << 16}")
        most = max(self.train, self.validation, self.test)
        frames = max(self.frames, self.train_frames)
        if most > 1_000 or most * frames * self.height * self.width > MAX_PIXELS:
            raise DataError(
                f"{most} drives of {frames} frames of {self.height} x {self.width}: expected "
                f"at most 1,000 drives and {MAX_PIXELS:,} pixels a split"
            )


@dataclass(frozen=True)
class Noise:
    """What sensors add, as standard deviations.

    Attributes:
        pixel: of a pixel, grey levels from 0 to 1.
        force, rate: of a sample, m/s2 and rad/s.
        force_bias, rate_bias: of what stays the same over a drive.
    """

    pixel: float = 0.01
    force: float = 0.1
    rate: float = 0.005
    force_bias: float = 0.05
    rate_bias: float = 0.001


def record(name: str, seed: int, frames: int, camera: scene.Camera, noise: Noise) -> Recording:
    """One drive from its seed; frames (N, 1, H, W)."""
    rng = np.random.default_rng(seed)
    course = drive(frames, rng)
    posts = scene.plant(course.centres, rng)
    pictures = scene.render(course.centres, course.axes, posts, camera, TEXTURES * seed)
    pictures += rng.normal(0, noise.pixel, pictures.shape).astype(np.float32)
    grey: NDArray[np.uint8] = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)[:, None]
    spread = np.repeat([noise.force, noise.rate], 3)
    bias = np.repeat([noise.force_bias, noise.rate_bias], 3)
    felt = course.inertial + rng.normal(0, 1, 6) * bias
    felt += rng.normal(0, 1, felt.shape) * spread
    return Recording(name, grey, course.poses, felt, RATE)


@lru_cache(maxsize=8)
def recordings(
    split: Split, size: Size | None = None, noise: Noise | None = None
) -> tuple[Recording, ...]:
    """The drives of a split, kept in memory once drawn.

    Raises:
        DataError: no such split.
    """
    if split not in SEEDS:
        raise DataError(f"no split '{split}': expected {', '.join(SEEDS)}")
    size, noise = size or Size(), noise or Noise()
    frames = size.train_frames if split == "train" else size.frames
    camera = scene.Camera(size.height, size.width)
    return tuple(
        record(f"{split} drive {i}", SEEDS[split] + i, frames, camera, noise)
        for i in range(getattr(size, split))
    )
