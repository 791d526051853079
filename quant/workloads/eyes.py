"""Pictures of eyes that look where they are told.

The eye is a ball seen from afar. What a pixel shows follows from the angle between the ball's
normal there and the gaze: pupil, iris or sclera, so that foreshortening comes by itself. Lids cut
it off, and the upper one follows the gaze up and down, as a living one does. Glints lie where the
cornea, a smaller ball, mirrors a lamp. Sizes are those of a human eye over its radius of 12 mm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError

__all__ = [
    "HEIGHT",
    "MAX_DEGREES",
    "RANGES",
    "WIDTH",
    "Looks",
    "draw_gazes",
    "gaze_vectors",
    "picture",
    "render",
]

Floats = NDArray[np.float32]

HEIGHT, WIDTH = 32, 48
MAX_DEGREES = (30.0, 20.0)
"""Largest yaw and pitch that are drawn."""
AT_ONCE = 128
"""Eyes in a piece that stays in the processor's cache."""
IRIS = 0.515
"""Angle from gaze to limbus, radians: asin(5.9 mm / 12 mm)."""
CORNEA_CENTRE, CORNEA_RADIUS = 0.475, 0.65
PIXEL = 0.7
"""Half width of an edge, in pixels: what a lens blurs."""


@dataclass(frozen=True)
class Looks:
    """All that varies between eyes but the gaze; float32 arrays (N,). Lengths are in pixels,
    angles in radians, tones in 0 (black) to 1 (white)."""

    radius: Floats
    centre_x: Floats
    centre_y: Floats
    roll: Floats
    half_width: Floats
    upper: Floats
    lower: Floats
    tilt: Floats
    corner_x: Floats
    corner_y: Floats
    pupil: Floats
    skin: Floats
    sclera: Floats
    iris: Floats
    spokes: Floats
    phase: Floats
    lash: Floats
    crease: Floats
    brow: Floats
    brow_height: Floats
    light_x: Floats
    light_y: Floats
    shade: Floats
    glint: Floats
    gain: Floats
    gamma: Floats
    noise: Floats

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Looks:
        """Looks of ``count`` eyes."""
        drawn = {name: rng.uniform(low, high, count) for name, (low, high) in RANGES.items()}
        return cls(**{name: values.astype(np.float32) for name, values in drawn.items()})

    def part(self, start: int, stop: int) -> Looks:
        """A range of them, each array (n, 1, 1)."""
        return Looks(
            **{f.name: getattr(self, f.name)[start:stop, None, None] for f in fields(self)}
        )


RANGES = {
    "radius": (12.5, 15.5),
    "centre_x": (-3.0, 3.0),
    "centre_y": (-1.5, 2.5),
    "roll": (-0.1, 0.1),
    "half_width": (1.15, 1.35),
    "upper": (0.48, 0.68),
    "lower": (0.36, 0.48),
    "tilt": (-0.08, 0.08),
    "corner_x": (-0.03, 0.03),
    "corner_y": (-0.03, 0.03),
    "pupil": (0.14, 0.3),
    "skin": (0.2, 0.8),
    "sclera": (0.65, 0.95),
    "iris": (0.12, 0.5),
    "spokes": (9.0, 25.0),
    "phase": (0.0, 6.28),
    "lash": (0.1, 0.8),
    "crease": (0.0, 0.4),
    "brow": (0.0, 0.7),
    "brow_height": (1.05, 1.4),
    "light_x": (-0.7, 0.7),
    "light_y": (-0.8, 0.2),
    "shade": (0.0, 0.4),
    "glint": (0.3, 1.0),
    "gain": (0.6, 1.15),
    "gamma": (0.8, 1.25),
    "noise": (0.005, 0.03),
}
"""What :meth:`Looks.draw` draws between; of a ball's radius, where they are lengths of the eye."""


def draw_gazes(count: int, rng: np.random.Generator) -> Floats:
    """Yaw (to the right in the picture) and pitch (up) in degrees, float32 (N, 2)."""
    return rng.uniform(-1, 1, (count, 2)).astype(np.float32) * np.float32(MAX_DEGREES)


def gaze_vectors(degrees: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unit vectors (N, 3) of yaw and pitch (N, 2): x right, y down, z to the camera."""
    yaw, pitch = np.radians(np.asarray(degrees, dtype=np.float64)).T
    return np.stack(
        [np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=1
    )


def render(degrees: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey pictures (N, 32, 48) of eyes.

    Args:
        degrees: yaw and pitch (N, 2), within :data:`MAX_DEGREES`.
        rng: draws the looks and the noise.

    Raises:
        DataError: gazes of another shape or out of range.
    """
    gazes = np.asarray(degrees, dtype=np.float32)
    if gazes.ndim != 2 or gazes.shape[1] != 2:
        raise DataError(f"gazes have the shape {gazes.shape}, expected (N, 2): yaw and pitch")
    if not (np.abs(gazes) <= np.float32(MAX_DEGREES) + 1e-3).all():
        yaw, pitch = MAX_DEGREES
        raise DataError(f"gazes beyond yaw +-{yaw:g} or pitch +-{pitch:g} degrees cannot be drawn")
    return picture(gazes, Looks.draw(len(gazes), rng), rng)


def picture(degrees: Floats, looks: Looks, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey pictures (N, 32, 48) of gazes (N, 2) and given looks; ``rng`` draws the noise."""
    vectors = gaze_vectors(degrees).astype(np.float32)
    pictures = np.empty((len(vectors), HEIGHT, WIDTH), np.uint8)
    for start in range(0, len(vectors), AT_ONCE):
        stop = min(start + AT_ONCE, len(vectors))
        some = looks.part(start, stop)
        tone = _tones(vectors[start:stop], some)
        tone = np.clip(tone * some.gain, 0, 1) ** some.gamma
        tone += some.noise * rng.standard_normal(tone.shape, dtype=np.float32)
        pictures[start:stop] = np.clip(tone * 255 + np.float32(0.5), 0, 255)
    return pictures


def _tones(vectors: Floats, eye: Looks) -> Floats:
    """Tones (n, 32, 48) before exposure, from outside in."""
    x, y = _places(eye)
    upper, lower = _lids(vectors, eye, x)
    edge = PIXEL / eye.radius
    inside = _step(y - upper, edge) * _step(lower - y, edge)
    tone = _skin(eye, x, y, upper)
    tone += inside * (_ball(vectors, eye, x, y, upper) - tone)
    return _lashes(eye, x, y, upper, tone)


def _places(eye: Looks) -> tuple[Floats, Floats]:
    """Pixels in the eye's own axes, in units of the ball's radius; (n, 32, 48)."""
    columns = np.arange(WIDTH, dtype=np.float32) - np.float32((WIDTH - 1) / 2)
    rows = (np.arange(HEIGHT, dtype=np.float32) - np.float32((HEIGHT - 1) / 2))[:, None]
    x, y = (columns - eye.centre_x) / eye.radius, (rows - eye.centre_y) / eye.radius
    cos, sin = np.cos(eye.roll), np.sin(eye.roll)
    return x * cos + y * sin, y * cos - x * sin


def _step(distance: Floats, edge: Floats) -> Floats:
    """0 far below zero, 1 far above, a ramp of two edges between."""
    return np.clip(distance / (2 * edge) + np.float32(0.5), 0, 1)


def _lids(vectors: Floats, eye: Looks, x: Floats) -> tuple[Floats, Floats]:
    """Heights of the upper and the lower lid's edge; they meet in the corners."""
    across = (x - eye.corner_x) / eye.half_width
    arch = np.clip(1 - across * across, 0, None)
    follows = np.clip(1 - np.float32(1.1) * vectors[:, 1, None, None], np.float32(0.5), None)
    base = eye.tilt * across + eye.corner_y
    return base - eye.upper * follows * arch, base + eye.lower * arch


def _skin(eye: Looks, x: Floats, y: Floats, upper: Floats) -> Floats:
    """Skin under a light from one side, the lid's crease and a brow."""
    tone = eye.skin * (1 + eye.shade * (eye.light_x * x + eye.light_y * y))
    crease = (y - upper + np.float32(0.22)) / np.float32(0.07)
    tone *= 1 - eye.crease * np.exp(-crease * crease)
    brow = (y + eye.brow_height - np.float32(0.12) * x * x) / np.float32(0.17)
    hair = np.float32(0.8) + np.float32(0.2) * np.sin(23 * x + 11 * y + eye.phase)
    tone *= 1 - eye.brow * hair * np.exp(-brow * brow)
    return tone


def _ball(vectors: Floats, eye: Looks, x: Floats, y: Floats, upper: Floats) -> Floats:
    """Sclera, iris with spokes and a dark rim, pupil, glint, the lid's shadow."""
    gx, gy, gz = (vectors[:, i, None, None] for i in range(3))
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    angle = np.arccos(np.clip(x * gx + y * gy + z * gz, -1, 1))
    edge = PIXEL / eye.radius
    tone = eye.sclera * (np.float32(0.55) + np.float32(0.45) * z)
    spokes = np.sin(eye.spokes * np.arctan2(y - gy, x - gx) + eye.phase)
    rim = (angle - np.float32(IRIS)) / np.float32(0.1)
    iris = eye.iris * (1 + np.float32(0.2) * spokes) * (1 - np.float32(0.5) * np.exp(-rim * rim))
    tone += _step(IRIS - angle, edge) * (iris - tone)
    tone += _step(eye.pupil - angle, edge) * (np.float32(0.04) - tone)
    shadow = (y - upper) / np.float32(0.25)
    tone *= 1 - np.float32(0.35) * np.exp(-shadow * shadow)
    return tone + eye.glint * _glint(gx, gy, eye, x, y)


def _glint(gx: Floats, gy: Floats, eye: Looks, x: Floats, y: Floats) -> Floats:
    """A spot where the cornea's normal halves the angle between lamp and camera."""
    lamp = np.sqrt(1 + eye.light_x * eye.light_x + eye.light_y * eye.light_y)
    half_x, half_y = eye.light_x / lamp, eye.light_y / lamp
    length = np.sqrt(half_x * half_x + half_y * half_y + (1 + 1 / lamp) ** 2)
    dx = x - CORNEA_CENTRE * gx - CORNEA_RADIUS * half_x / length
    dy = y - CORNEA_CENTRE * gy - CORNEA_RADIUS * half_y / length
    return np.exp(-(dx * dx + dy * dy) / np.float32(0.004))


def _lashes(eye: Looks, x: Floats, y: Floats, upper: Floats, tone: Floats) -> Floats:
    """A dark, ragged band on the upper lid's edge."""
    across = np.abs(x - eye.corner_x) / eye.half_width
    ragged = np.float32(0.07) + np.float32(0.03) * np.sin(31 * x + eye.phase)
    band = (y - upper) / ragged
    return tone * (1 - eye.lash * np.exp(-band * band) * (across < 1))
