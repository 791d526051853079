"""Grey pictures of a textured ground, a skyline and posts beside the road, by a pinhole camera.

Textures are value noise over hashed integer cells: unbounded, without memory, the same for the same
seed. Waves of the ground shorter than a pixel's footprint are left out, so that far ground does not
flicker from frame to frame. Every kernel is in this file, because numba's cache looks at one file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["POST_FIELDS", "Camera", "plant", "render"]

Reals = NDArray[np.float64]
POST_FIELDS = ("x", "y", "height", "radius", "shade", "bands")
"""Columns of posts: metres; a grey from 0 to 1; an integer that the pattern is drawn from."""
CLEARANCE = 2.5
"""Metres between a post's axis and the path."""
FIELD_OF_VIEW = 90.0
"""Degrees, horizontally."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera of H x W pixels whose axis meets the picture's middle."""

    height: int
    width: int

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / float(np.tan(np.radians(FIELD_OF_VIEW / 2)))


def plant(path: Reals, rng: np.random.Generator, spacing: float = 1.5) -> Reals:
    """Posts beside a path (N, >= 2) of metres: (P, 6) as :data:`POST_FIELDS`.

    ``spacing`` is metres of path a post, before those too near the path are taken away.
    """
    driven = float(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum())
    count = int(driven / spacing) + 8
    near = path[rng.integers(0, len(path), count), :2]
    bearing, away = rng.uniform(0, 2 * np.pi, count), rng.uniform(CLEARANCE, 14.0, count)
    places = near + away[:, None] * np.stack((np.cos(bearing), np.sin(bearing)), axis=1)
    shape = np.stack(
        (rng.uniform(1.5, 7.0, count), rng.uniform(0.1, 0.5, count), rng.uniform(0, 1, count)), 1
    )
    gaps = np.linalg.norm(places[:, None] - path[None, :, :2], axis=2).min(axis=1)
    kept: Reals = np.concatenate((places, shape, np.arange(count)[:, None]), axis=1)[
        gaps > CLEARANCE
    ]
    return kept


def render(
    centres: Reals, axes: Reals, posts: Reals, camera: Camera, seed: int
) -> NDArray[np.float32]:
    """Pictures (N, H, W) from 0 to 1.

    Args:
        centres: (N, 3) metres, z up from the ground.
        axes: (N, 3, 3), columns the camera's axes (right, down, forward) in the world.
        posts: (P, 6), from :func:`plant`.
        camera: size of the pictures.
        seed: of the textures.
    """
    out = np.empty((len(centres), camera.height, camera.width), dtype=np.float32)
    for index in range(len(centres)):
        seen = (posts[:, :2] - centres[index, :2]) @ axes[index, :2, 2]
        order = np.argsort(-seen, kind="stable")
        order = order[(seen[order] > -2.0) & (seen[order] < 60.0)]
        picture = out[index]
        _background(picture, centres[index], axes[index], camera.focal, seed)
        _posts(picture, centres[index], axes[index], posts[order], camera.focal, seed)
    return out


@njit(cache=True, nogil=True)
def _hash(x: int, y: int, seed: int) -> float:
    """A number from 0 to 1 of a cell."""
    h = np.uint32(x) * np.uint32(0x9E3779B1) ^ np.uint32(y) * np.uint32(0x85EBCA77)
    h = (h ^ np.uint32(seed) * np.uint32(0xC2B2AE3D)) & np.uint32(0xFFFFFFFF)
    h = np.uint32(h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = np.uint32(h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    h = np.uint32(h ^ (h >> np.uint32(15)))
    return float(h & np.uint32(0xFFFFFF)) / 16777215.0


@njit(cache=True, nogil=True)
def _noise(x: float, y: float, seed: int, period: int) -> float:
    """Value noise from 0 to 1 over unit cells; x repeats after ``period`` cells, if not 0."""
    left, low = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - left, y - low
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    right = left + 1
    if period:
        left, right = left % period, right % period
    bottom = _hash(left, low, seed) * (1 - fx) + _hash(right, low, seed) * fx
    top = _hash(left, low + 1, seed) * (1 - fx) + _hash(right, low + 1, seed) * fx
    return bottom * (1 - fy) + top * fy


@njit(cache=True, nogil=True)
def _background(picture, centre, axes, focal, seed):  # type: ignore[no-untyped-def]
    """Ground below the horizon, haze towards it, a skyline of noise above."""
    rows, columns = picture.shape
    cells = 40
    for row in range(rows):
        v = (row - (rows - 1) / 2) / focal
        for column in range(columns):
            u = (column - (columns - 1) / 2) / focal
            dx = axes[0, 0] * u + axes[0, 1] * v + axes[0, 2]
            dy = axes[1, 0] * u + axes[1, 1] * v + axes[1, 2]
            dz = axes[2, 0] * u + axes[2, 1] * v + axes[2, 2]
            level = np.hypot(dx, dy)
            if dz < -1e-3:
                reach = centre[2] / -dz
                x, y = centre[0] + reach * dx, centre[1] + reach * dy
                footprint = reach * reach / (focal * centre[2])
                value, wave = 0.0, 0.5
                for octave in range(4):
                    # Nothing below two pixels a wave, all of it from four on.
                    share = min(1.0, max(0.0, wave / (2 * footprint) - 1.0))
                    if share > 0:
                        value += share * 0.45 * (_noise(x / wave, y / wave, seed + octave, 0) - 0.5)
                    wave *= 2.2
                clear = np.exp(-reach / 60.0)
                picture[row, column] = 0.62 + (0.42 + value - 0.62) * clear
            else:
                bearing = (np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * cells
                rise = np.arctan2(dz, level) * cells / (2 * np.pi)
                roof = 0.3 + 1.8 * _noise(bearing, 0.5, seed + 7, cells)
                if rise < roof:
                    fine = _noise(2 * bearing, 2 * rise, seed + 8, 2 * cells)
                    picture[row, column] = 0.25 + 0.35 * fine
                else:
                    picture[row, column] = 0.75 + 0.2 * _noise(bearing, rise, seed + 9, cells)


@njit(cache=True, nogil=True)
def _posts(picture, centre, axes, posts, focal, seed):  # type: ignore[no-untyped-def]
    """Upright posts, far ones first; a straight line projects to one, so rows interpolate."""
    rows, columns = picture.shape
    for index in range(len(posts)):
        x, y = posts[index, 0] - centre[0], posts[index, 1] - centre[1]
        ends = np.empty((2, 3))
        for end in range(2):
            z = posts[index, 2] * end - centre[2]
            for axis in range(3):
                ends[end, axis] = x * axes[0, axis] + y * axes[1, axis] + z * axes[2, axis]
        if min(ends[0, 2], ends[1, 2]) < 0.7:
            continue
        near0, near1 = 1 / ends[0, 2], 1 / ends[1, 2]
        u0, u1 = ends[0, 0] * near0 * focal, ends[1, 0] * near1 * focal
        v0, v1 = ends[0, 1] * near0 * focal, ends[1, 1] * near1 * focal
        half = (rows - 1) / 2
        for row in range(max(0, int(np.ceil(v1 + half))), min(rows - 1, int(v0 + half)) + 1):
            a = (row - half - v0) / (v1 - v0)
            near = near0 + a * (near1 - near0)
            up = a * near1 / near * posts[index, 2]
            middle = u0 + a * (u1 - u0) + (columns - 1) / 2
            radius = posts[index, 3] * near * focal
            bands = _noise(1.5 * up, posts[index, 5], seed + 10, 0) - 0.5
            clear = np.exp(-1 / (near * 60.0))
            shade = 0.62 + (0.1 + 0.8 * posts[index, 4] + 0.5 * bands - 0.62) * clear
            first = max(0, int(np.floor(middle - radius)))
            for column in range(first, min(columns - 1, int(np.ceil(middle + radius))) + 1):
                cover = min(1.0, max(0.0, radius + 0.5 - abs(column - middle)))
                cover = min(cover, 2 * radius)
                picture[row, column] += cover * (shade - picture[row, column])
