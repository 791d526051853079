"""How far an estimated trajectory is off: KITTI's relative errors, and the absolute one.

``t_rel`` and ``r_rel`` follow the KITTI odometry benchmark (Geiger, Lenz, Urtasun, CVPR 2012):
from every tenth frame, for every segment length, the true and the estimated motion over the
segment are compared; translation is divided by the length (%), rotation too (degrees a 100 m);
every segment counts alike. ``ate`` is the root mean square of the distances of positions, after
the rigid motion that makes it least (Umeyama, PAMI 1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import poses

__all__ = ["KITTI_LENGTHS", "Segments", "align", "ate", "distances", "score", "segments"]

Reals = NDArray[np.float64]
KITTI_LENGTHS = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
"""Metres."""
STEP = 10
"""Frames between the starts of segments."""


@dataclass(frozen=True)
class Segments:
    """Errors of every segment of one or more trajectories.

    Attributes:
        lengths: metres, one a segment.
        translation: distance between the true and the estimated end, over the length.
        rotation: angle between the two, radians a metre.
    """

    lengths: Reals
    translation: Reals
    rotation: Reals

    @property
    def t_rel_percent(self) -> float:
        """Mean translation error, % of the length."""
        return float(100 * self.translation.mean())

    @property
    def r_rel_deg_per_100m(self) -> float:
        """Mean rotation error, degrees a 100 m."""
        return float(100 * np.degrees(self.rotation.mean()))


def distances(path: Reals) -> Reals:
    """Metres driven up to each pose (N, 4, 4), from 0."""
    steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    return np.concatenate(([0.0], np.cumsum(steps)))


def segments(
    truth: Reals, estimate: Reals, lengths: Sequence[float] = KITTI_LENGTHS, step: int = STEP
) -> Segments:
    """Errors over segments of given lengths.

    Args:
        truth, estimate: poses (N, 4, 4) of the same frames.
        lengths: metres along the true path.
        step: frames between starts.

    Returns:
        No segment at all where the path is shorter than the shortest length.

    Raises:
        DataError: the two have different numbers of poses, or are not poses.
    """
    _check_pair(truth, estimate)
    driven = distances(truth)
    found: list[tuple[int, int, float]] = []
    for first in range(0, len(truth), step):
        for length in lengths:
            last = int(np.searchsorted(driven, driven[first] + length, side="right"))
            if last < len(driven):
                found.append((first, last, float(length)))
    if not found:
        nothing = np.zeros(0)
        return Segments(nothing, nothing, nothing)
    firsts, lasts = (np.array([f[i] for f in found], dtype=np.int64) for i in (0, 1))
    metres = np.array([f[2] for f in found])
    true = poses.inverse(truth[firsts]) @ truth[lasts]
    guess = poses.inverse(estimate[firsts]) @ estimate[lasts]
    off = poses.inverse(guess) @ true
    cosine = (np.trace(off[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    return Segments(metres, np.linalg.norm(off[:, :3, 3], axis=1) / metres, angle / metres)


def align(points: Reals, onto: Reals) -> tuple[Reals, Reals]:
    """The rotation R (3, 3) and translation t (3,) that bring ``R points + t`` nearest to ``onto``.

    Both are (N, 3). Umeyama's solution without scale, by a singular value decomposition.
    """
    centre, target = points.mean(axis=0), onto.mean(axis=0)
    u, _, vt = np.linalg.svd((onto - target).T @ (points - centre))
    # A reflection would fit better where the points are nearly in a plane: turn the least axis.
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ flip @ vt
    return turn, target - turn @ centre


def ate(truth: Reals, estimate: Reals) -> float:
    """Absolute trajectory error in metres, after alignment.

    Raises:
        DataError: the two have different numbers of poses, or are not poses.
    """
    _check_pair(truth, estimate)
    turn, shift = align(estimate[:, :3, 3], truth[:, :3, 3])
    off = estimate[:, :3, 3] @ turn.T + shift - truth[:, :3, 3]
    return float(np.sqrt((off**2).sum(axis=1).mean()))


def score(
    paths: Sequence[tuple[Reals, Reals]], lengths: Sequence[float] = KITTI_LENGTHS, step: int = STEP
) -> dict[str, float]:
    """Figures over several trajectories.

    Args:
        paths: true and estimated poses, one pair a trajectory.
        lengths, step: as :func:`segments`.

    Returns:
        ``t_rel_percent`` and ``r_rel_deg_per_100m`` over all segments alike, ``ate_m`` the mean
        over trajectories.

    Raises:
        DataError: no trajectory, or none as long as the shortest segment.
    """
    if not paths:
        raise DataError("no trajectory to score: give at least one")
    parts = [segments(truth, estimate, lengths, step) for truth, estimate in paths]
    every = Segments(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in Segments.__annotations__)
    )
    if not len(every.lengths):
        longest = max(distances(truth)[-1] for truth, _ in paths)
        raise DataError(
            f"the longest trajectory is {longest:.1f} m, the shortest segment {min(lengths):g} m: "
            "give more frames or shorter segments"
        )
    return {
        "t_rel_percent": every.t_rel_percent,
        "r_rel_deg_per_100m": every.r_rel_deg_per_100m,
        "ate_m": float(np.mean([ate(truth, estimate) for truth, estimate in paths])),
    }


def _check_pair(truth: Reals, estimate: Reals) -> None:
    for name, path in (("true", truth), ("estimated", estimate)):
        if path.ndim != 3 or path.shape[1:] != (4, 4) or not np.isfinite(path).all():
            raise DataError(
                f"the {name} trajectory has shape {path.shape} or holds NaN or infinity: "
                "expected finite poses (N, 4, 4)"
            )
    if len(truth) != len(estimate):
        raise DataError(f"{len(truth)} true poses, {len(estimate)} estimated: expected as many")
