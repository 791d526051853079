"""A drive: frames, the inertial samples between them, and where the camera truly was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import poses

__all__ = ["CHANNELS", "Frames", "Recording"]

CHANNELS = ("ax", "ay", "az", "gx", "gy", "gz")
"""Inertial samples: specific force (m/s2), angular rate (rad/s); x forward, y left, z up."""


class Frames(Protocol):
    """Images by number: an array (N, C, H, W) of uint8, or files that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Recording:
    """N frames and what was measured beside them.

    Attributes:
        name: for messages.
        frames: N images.
        poses: (N, 4, 4) float64, camera to world.
        inertial: (rate * (N - 1) + 1, 6) float64, channels as :data:`CHANNELS`; row ``rate * i``
            is at frame i.
        rate: samples a frame.

    Raises:
        DataError: fewer than two frames, or numbers of rows that do not fit.
    """

    name: str
    frames: Frames
    poses: NDArray[np.float64]
    inertial: NDArray[np.float64]
    rate: int = 10

    def __post_init__(self) -> None:
        count = len(self.frames)
        if count < 2:
            raise DataError(f"{self.name}: {count} frames, expected at least 2")
        poses.check_poses(self.poses, self.name)
        if len(self.poses) != count:
            raise DataError(f"{self.name}: {count} frames and {len(self.poses)} poses")
        rows = self.rate * (count - 1) + 1
        if self.inertial.shape != (rows, len(CHANNELS)):
            raise DataError(
                f"{self.name}: inertial samples of shape {self.inertial.shape}, expected "
                f"({rows}, {len(CHANNELS)}): {self.rate} between two of {count} frames"
            )
        if not np.isfinite(self.inertial).all():
            row = int(np.argmin(np.isfinite(self.inertial).all(axis=1)))
            raise DataError(f"{self.name}: inertial sample {row} holds NaN or infinity")

    def __len__(self) -> int:
        """Pairs of consecutive frames."""
        return len(self.frames) - 1

    @cached_property
    def motions(self) -> NDArray[np.float64]:
        """Relative poses (pairs, 6), see :mod:`opennpe.quant.workloads.poses`."""
        return poses.relative(self.poses)

    def windows(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Inertial samples of pairs, (n, 6, rate + 1): from the first frame to the second."""
        rows = pairs[:, None] * self.rate + np.arange(self.rate + 1)
        return np.ascontiguousarray(self.inertial[rows].transpose(0, 2, 1))

    def images(self, pairs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Both frames of pairs stacked on channels, (n, 2 C, H, W), the earlier first."""
        return np.concatenate((self.frames[pairs], self.frames[pairs + 1]), axis=1)
