"""Smooth drives of six degrees of freedom, and what an ideal inertial sensor measures on them.

Speed, heading, pitch, roll and height are sums of sinusoids, so that their derivatives, and with
them angular rate and specific force, are known exactly; only the position on the ground is
integrated numerically. The sensor sits at the camera's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.quant.workloads.poses import inverse, rotation

__all__ = ["GRAVITY", "RATE", "SECONDS", "Drive", "drive"]

Reals = NDArray[np.float64]
GRAVITY = 9.81
"""m/s2."""
RATE = 10
"""Inertial samples a frame."""
SECONDS = 0.1
"""Between frames."""
FINE = 10
"""Steps of integration an inertial sample."""
CAMERA_HEIGHT = 1.65
"""Metres above the ground."""
CAMERA_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Columns are the camera's x, y and z in the body: to the right, down, forward."""
BANDS: dict[str, tuple[float, float, float]] = {
    "speed": (0.5, 0.02, 0.12),
    "heading": (2.2, 0.015, 0.07),
    "pitch": (0.02, 0.15, 0.7),
    "roll": (0.02, 0.15, 0.7),
    "height": (0.06, 0.15, 0.8),
}
"""Largest value (of the mean speed; radians; metres), lowest and highest frequency in Hz."""
TONES = 4


@dataclass(frozen=True, eq=False)
class Wave:
    """A sum of sinusoids."""

    amplitudes: Reals
    rates: Reals
    phases: Reals

    @classmethod
    def draw(cls, band: tuple[float, float, float], rng: np.random.Generator) -> Wave:
        """Tones of a band; the sum never exceeds its largest value."""
        top, low, high = band
        shares = rng.uniform(0.3, 1.0, TONES)
        rates = 2 * np.pi * rng.uniform(low, high, TONES)
        return cls(top * shares / shares.sum(), rates, rng.uniform(0, 2 * np.pi, TONES))

    def at(self, times: Reals, order: int = 0) -> Reals:
        """The ``order``-th derivative at times in seconds."""
        angles = times[:, None] * self.rates + self.phases + order * np.pi / 2
        return np.asarray(np.sin(angles) @ (self.amplitudes * self.rates**order))


@dataclass(frozen=True, eq=False)
class Drive:
    """A drive of N frames.

    Attributes:
        poses: (N, 4, 4), camera to the first camera, as KITTI's.
        centres: (N, 3) camera centres in the world: x east, y north, z up from the ground, metres.
        axes: (N, 3, 3), columns the camera's axes in the world.
        inertial: (RATE * (N - 1) + 1, 6) without noise, channels as a recording's.
        velocity: the velocity at the first frame, in the world, m/s.
    """

    poses: Reals
    centres: Reals
    axes: Reals
    inertial: Reals
    velocity: Reals


def drive(frames: int, rng: np.random.Generator) -> Drive:
    """Draw a drive of a number of frames."""
    mean = rng.uniform(6.0, 10.0)
    waves = {name: Wave.draw(band, rng) for name, band in BANDS.items()}
    step = SECONDS / RATE
    times: Reals = np.arange(RATE * (frames - 1) + 1, dtype=np.float64) * step
    w = {name: [wave.at(times, k) for k in range(3)] for name, wave in waves.items()}
    heading = w["heading"][0]
    speed, gain = mean * (1 + w["speed"][0]), mean * w["speed"][1]
    along = np.stack((np.cos(heading), np.sin(heading)), axis=1)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1)
    flat = gain[:, None] * along + (speed * w["heading"][1])[:, None] * across
    force = np.concatenate((flat, (w["height"][2] + GRAVITY)[:, None]), axis=1)
    # Nose up is positive pitch, which is a negative turn about the axis to the left.
    angles = np.stack((w["roll"][0], -w["pitch"][0], heading), axis=1)
    rates = np.stack((w["roll"][1], -w["pitch"][1], w["heading"][1]), axis=1)
    body = rotation(angles)
    felt = np.einsum("nij,ni->nj", body, force)
    inertial = np.concatenate((felt, _body_rates(angles, rates)), axis=1)
    places = _places(mean, waves["speed"], waves["heading"], len(times), step)
    centres = np.concatenate((places, (CAMERA_HEIGHT + w["height"][0])[:, None]), axis=1)[::RATE]
    axes = (body @ CAMERA_AXES)[::RATE]
    world = np.zeros((frames, 4, 4))
    world[:, :3, :3], world[:, :3, 3], world[:, 3, 3] = axes, centres, 1.0
    velocity = np.array([*(speed[0] * along[0]), w["height"][1][0]])
    return Drive(inverse(world[0]) @ world, centres, axes, inertial, velocity)


def _places(mean: float, speed: Wave, heading: Wave, count: int, step: float) -> Reals:
    """Positions on the ground (count, 2): Simpson's rule over FINE pieces a step."""
    times: Reals = np.arange((count - 1) * FINE + 1, dtype=np.float64) * (step / FINE)
    along = mean * (1 + speed.at(times))
    velocity = along[:, None] * np.stack((np.cos(heading.at(times)), np.sin(heading.at(times))), 1)
    weights = np.ones(FINE + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    rows = np.arange(count - 1)[:, None] * FINE + np.arange(FINE + 1)
    pieces = np.einsum("k,nkd->nd", weights * (step / FINE / 3), velocity[rows])
    return np.concatenate((np.zeros((1, 2)), np.cumsum(pieces, axis=0)))


def _body_rates(angles: Reals, rates: Reals) -> Reals:
    """Angular rate in the body (n, 3) of Euler angles and their derivatives."""
    (roll, pitch, _), (droll, dpitch, dyaw) = angles.T, rates.T
    return np.stack(
        (
            droll - dyaw * np.sin(pitch),
            dpitch * np.cos(roll) + dyaw * np.sin(roll) * np.cos(pitch),
            -dpitch * np.sin(roll) + dyaw * np.cos(roll) * np.cos(pitch),
        ),
        axis=1,
    )
