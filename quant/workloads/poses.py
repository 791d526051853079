"""Rigid motions: matrices, Euler angles, relative and accumulated poses.

A pose is a 4 x 4 matrix that takes points of a frame's camera to the world. A relative pose is six
numbers, ``rx, ry, rz, tx, ty, tz`` in radians and metres: the motion from one frame to the next,
seen from the first, with R = Rz(rz) Ry(ry) Rx(rx). KITTI's camera looks along z, with x to the
right and y down, so that driving is tz and steering is ry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden.errors import DataError

__all__ = ["accumulate", "check_poses", "euler", "inverse", "relative", "rotation", "to_matrices"]

Reals = NDArray[np.float64]
ORTHOGONAL = 1e-4
"""How far R times its transpose may be from one: KITTI writes six digits."""


def rotation(angles: ArrayLike) -> Reals:
    """Matrices (..., 3, 3) of Euler angles (..., 3) in radians."""
    angles = np.asarray(angles, dtype=np.float64)
    (cx, cy, cz), (sx, sy, sz) = (np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def euler(matrices: ArrayLike) -> Reals:
    """Angles (..., 3) in radians of rotations (..., 3, 3); ry within a quarter turn.

    At ry = a quarter turn, where rx and rz turn about the same axis, rx is 0.
    """
    r = np.asarray(matrices, dtype=np.float64)
    cosine = np.hypot(r[..., 0, 0], r[..., 1, 0])
    locked = cosine < 1e-9
    rx = np.where(locked, 0.0, np.arctan2(r[..., 2, 1], r[..., 2, 2]))
    ry = np.arctan2(-r[..., 2, 0], cosine)
    # With rx = 0 the second column is (-sin rz, cos rz, 0).
    rz = np.where(
        locked, np.arctan2(-r[..., 0, 1], r[..., 1, 1]), np.arctan2(r[..., 1, 0], r[..., 0, 0])
    )
    return np.stack((rx, ry, rz), axis=-1)


def inverse(poses: Reals) -> Reals:
    """Inverses of poses (..., 4, 4), by transposing the rotation."""
    out = np.zeros_like(poses)
    turned = np.swapaxes(poses[..., :3, :3], -1, -2)
    out[..., :3, :3] = turned
    out[..., :3, 3] = -(turned @ poses[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def to_matrices(motions: ArrayLike) -> Reals:
    """Matrices (..., 4, 4) of six numbers each."""
    motions = np.asarray(motions, dtype=np.float64)
    out = np.zeros((*motions.shape[:-1], 4, 4))
    out[..., :3, :3] = rotation(motions[..., :3])
    out[..., :3, 3] = motions[..., 3:]
    out[..., 3, 3] = 1.0
    return out


def relative(poses: Reals) -> Reals:
    """The N - 1 motions (N - 1, 6) between N consecutive poses (N, 4, 4)."""
    steps = inverse(poses[:-1]) @ poses[1:]
    return np.concatenate((euler(steps[:, :3, :3]), steps[:, :3, 3]), axis=1)


def accumulate(motions: ArrayLike) -> Reals:
    """Poses (N + 1, 4, 4) of N motions (N, 6), the first at the origin."""
    steps = to_matrices(motions)
    out = np.empty((len(steps) + 1, 4, 4))
    out[0] = np.eye(4)
    for index, step in enumerate(steps):
        out[index + 1] = out[index] @ step
    return out


def check_poses(poses: Reals, where: str) -> Reals:
    """The poses, if they are (N, 4, 4) rigid motions.

    Raises:
        DataError: they are not; the message names ``where`` and the first that is not.
    """
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise DataError(f"{where}: poses of shape {poses.shape}, expected (N, 4, 4)")
    r = poses[:, :3, :3]
    with np.errstate(all="ignore"):
        off = np.abs(r @ np.swapaxes(r, 1, 2) - np.eye(3)).max(axis=(1, 2), initial=0.0)
        good = (off < ORTHOGONAL) & (np.linalg.det(r) > 0) & np.isfinite(poses).all(axis=(1, 2))
    if not good.all():
        raise DataError(
            f"{where}: pose {int(np.argmin(good))} is not a rotation and a translation: "
            "expected finite numbers and an orthonormal 3 x 3 part"
        )
    return poses
