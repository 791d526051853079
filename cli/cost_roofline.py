"""The roofline: each layer's throughput under what the array and the bus allow, as a picture.

Both axes are logarithmic. Two drawings of the same data: one for a desktop, one for a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost_types import Cost
from opennpe.sim.roofs import bus_bytes_per_second, peak_gops

__all__ = ["NARROW", "WIDE", "Roofline", "drawing", "roofline", "standalone"]

WIDE, NARROW = (880, 520), (350, 430)
"""Width and height of the drawings; an SVG's unit is a pixel where it is shown at this size."""
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 26, 50
LETTER, LINE = 6.6, 14
"""Upper bounds of a letter's width and a line's height at the size of the labels, 12 px."""


@dataclass(frozen=True)
class Roofline:
    """Roofs and layers.

    Attributes:
        gb_per_s: of the bus, one way.
        roofs_gops: compute roofs by format.
        used: formats that the network uses.
        points: number, layer, format, operations a byte, GOPS, which roof bounds it.
        absent: layers that have no point, without products or without traffic.
    """

    gb_per_s: float
    roofs_gops: dict[str, float]
    used: tuple[str, ...]
    points: tuple[tuple[int, str, str, float, float, str], ...]
    absent: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """For CSV: roofs first, then layers; units in names."""
        empty = dict.fromkeys(
            ("kind", "name", "format", "operations_per_byte", "gops", "gb_per_s", "bound"), ""
        )
        found: list[dict[str, Any]] = [
            {**empty, "kind": "memory_roof", "name": "bus", "gb_per_s": self.gb_per_s}
        ]
        found += [
            {**empty, "kind": "compute_roof", "name": "array", "format": name, "gops": gops}
            for name, gops in self.roofs_gops.items()
        ]
        found += [
            {**empty, "kind": "layer", "name": name, "format": form, "operations_per_byte": x,
             "gops": y, "bound": bound}
            for _, name, form, x, y, bound in self.points
        ]  # fmt: skip
        return found


def roofline(run: Cost, spec: CoprocessorSpec) -> Roofline:
    """The roofs of a spec at the run's clock, and its layers."""
    roofs = {name: peak_gops(spec, name, run.clock_hz) for name in spec.mac.formats}
    points, absent = [], []
    for number, row in enumerate(run.layers, 1):
        if row.intensity and row.gops:
            points.append((number, row.name, row.format, row.intensity, row.gops, row.bound))
        else:
            absent.append(row.name)
    used = tuple(dict.fromkeys(row.format for row in run.layers if row.macs and row.format))
    bandwidth = bus_bytes_per_second(spec, run.clock_hz) / 1e9
    return Roofline(bandwidth, roofs, used, tuple(points), tuple(absent))


# -- drawing --------------------------------------------------------------------------------------
class _Axes:
    """From values to pixels; both logarithmic."""

    def __init__(self, held: Roofline, size: tuple[int, int]) -> None:
        self.width, self.height = size
        top = max(held.roofs_gops.values())
        ridge = top / held.gb_per_s
        xs, ys = [p[3] for p in held.points], [p[4] for p in held.points]
        low = min(held.roofs_gops.values())
        self.x = (min([*xs, ridge / 40]) / 1.6, max([*xs, ridge * 12]) * 1.6)
        self.y = (min([*ys, low / 8]) / 1.6, top * 2.0)

    def across(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (self.width - LEFT - RIGHT) * _part(value, self.x)

    def down(self, value: float) -> float:
        """Pixels from the top."""
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * _part(value, self.y)


def _part(value: float, limits: tuple[float, float]) -> float:
    low, high = (math.log(x) for x in limits)
    return (math.log(value) - low) / (high - low)


def _ticks(limits: tuple[float, float], most: int) -> list[float]:
    """Powers of ten; where they are few, twice and five times them too."""
    low, high = math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1]))
    tens = [10.0**e for e in range(low, high + 1) if limits[0] <= 10.0**e <= limits[1]]
    if len(tens) > 2:
        return tens[:: math.ceil(len(tens) / most)]
    fine = [m * 10.0**e for e in range(low, high + 1) for m in (1, 2, 5)]
    return [value for value in fine if limits[0] <= value <= limits[1]]


class _Placed:
    """Boxes that labels have taken, so that none lies on another."""

    def __init__(self) -> None:
        self.boxes: list[tuple[float, float, float, float]] = []

    def take(self, left: float, base: float, text: str) -> None:
        """Text that begins at ``left`` on the line ``base``."""
        self.boxes.append(_box(left, base, text))

    def free(self, left: float, base: float, text: str) -> bool:
        """Whether it would touch nothing."""
        l0, t0, r0, b0 = _box(left, base, text)
        return all(r0 <= l or r <= l0 or b0 <= t or b <= t0 for l, t, r, b in self.boxes)  # noqa: E741


def _box(left: float, base: float, text: str) -> tuple[float, float, float, float]:
    return left - 2, base - LINE + 2, left + LETTER * len(text) + 2, base + 4


def drawing(held: Roofline, size: tuple[int, int], kind: str = "") -> str:
    """One SVG element of a size; ``kind``: its class."""
    axes, placed = _Axes(held, size), _Placed()
    for _, _, _, intensity, gops, _ in held.points:
        placed.take(axes.across(intensity) - 4, axes.down(gops) + 5, " ")
    parts = [*_grid(axes), *_roofs(held, axes, placed), *_points(held, axes, placed)]
    about = (
        f"roofline: {len(held.points)} layers under a memory roof of {held.gb_per_s:.3g} GB/s and "
        + ", ".join(f"{gops:.3g} GOPS in {name}" for name, gops in held.roofs_gops.items())
    )
    return (
        f'<svg class="roofline {kind}" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(about)}" style="max-width:{size[0]}px">{"".join(parts)}</svg>'
    )


def _grid(axes: _Axes) -> list[str]:
    bottom, right = axes.height - BOTTOM, axes.width - RIGHT
    parts = []
    for value in _ticks(axes.x, 7):
        x = axes.across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
    for value in _ticks(axes.y, 7):
        y = axes.down(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(
        f'<text x="{middle:.0f}" y="{axes.height - 10}" text-anchor="middle">'
        "operations per byte of external memory</text>"
    )
    parts.append('<text x="4" y="14">GOPS (10^9 operations a second)</text>')
    return parts


def _roofs(held: Roofline, axes: _Axes, placed: _Placed) -> list[str]:
    """The bus' slope up to the highest roof, and a level for each value that formats have."""
    top, right = max(held.roofs_gops.values()), axes.width - RIGHT
    begin, ridge = max(axes.x[0], axes.y[0] / held.gb_per_s), top / held.gb_per_s
    left, low = axes.across(begin), axes.down(begin * held.gb_per_s)
    end, high = axes.across(ridge), axes.down(top)
    parts = [f'<path class="bus" d="M{left:.1f} {low:.1f}L{end:.1f} {high:.1f}"/>']
    for row, text in enumerate(("memory roof:", f"bus, {held.gb_per_s:.3g} GB/s")):
        base = high + LINE * (row + 1.2)
        # Left of the slope where the text's foot is.
        edge = end - (end - left) * (base + 4 - high) / (low - high) - 8
        parts.append(
            f'<text class="on" x="{edge:.1f}" y="{base:.1f}" text-anchor="end">{text}</text>'
        )
        placed.take(edge - LETTER * len(text), base, text)
    levels: dict[float, list[str]] = {}
    for name, gops in held.roofs_gops.items():
        levels.setdefault(gops, []).append(name)
    for gops, names in levels.items():
        level = axes.down(gops)
        kind = "roof used" if set(names) & set(held.used) else "roof"
        parts.append(
            f'<path class="{kind}" d="M{axes.across(gops / held.gb_per_s):.1f} {level:.1f}'
            f'H{right}"/>'
        )
        text = f"{', '.join(names)}: {gops:.3g} GOPS"
        parts += _on_roof(text, axes.across(gops / held.gb_per_s), level - 5, right, placed)
    return parts


def _on_roof(text: str, begin: float, base: float, right: float, placed: _Placed) -> list[str]:
    """At the right end of a level, or where layers leave room, or before the level begins."""
    width = LETTER * len(text)
    first, last = begin + 10, right - width
    places = [last - part * (last - first) / 8 for part in range(9)] if last > first else [last]
    left = next((x for x in places if placed.free(x, base, text)), None)
    if left is None:
        # Nothing is ever left of the slope but its own name.
        left, base = max(LEFT + 3, begin - 12 - width), base + 9
    placed.take(left, base, text)
    return [f'<text class="on" x="{left:.1f}" y="{base:.1f}">{text}</text>']


def _points(held: Roofline, axes: _Axes, placed: _Placed) -> list[str]:
    """A dot a layer, its name at hand on a wide drawing, its number on a narrow one."""
    spots = [(axes.across(p[3]), axes.down(p[4])) for p in held.points]
    parts = []
    for (number, name, form, intensity, gops, bound), (x, y) in zip(
        held.points, spots, strict=True
    ):
        about = (
            f"{number} {name}, {form}: {gops:.3g} GOPS at {intensity:.3g} operations a byte, "
            f"bound by {'the bus' if bound == 'memory' else 'the array'}"
        )
        parts.append(
            f'<circle class="{bound}" cx="{x:.1f}" cy="{y:.1f}" r="5" tabindex="0">'
            f"<title>{escape(about)}</title></circle>"
        )
        short = f"{number} {name[:18]}" if axes.width > NARROW[0] else str(number)
        parts += _label(short, str(number), x, y, axes, placed)
    return parts


def _label(text: str, short: str, x: float, y: float, axes: _Axes, placed: _Placed) -> list[str]:
    """Where there is room; the number alone where the name finds none, else nothing."""
    for words in dict.fromkeys((text, short)):
        width = LETTER * len(words)
        for left, base in (
            (x + 9, y + 4), (x + 9, y + 18), (x - width / 2, y + 20), (x - width - 9, y + 4),
            (x - width - 9, y + 18), (x + 9, y + 32), (x - width / 2, y - 9),
        ):  # fmt: skip
            inside = left > LEFT + 2 and left + width < axes.width - 2
            if inside and TOP < base < axes.height - BOTTOM - 4 and placed.free(left, base, words):
                placed.take(left, base, words)
                return [f'<text class="on" x="{left:.1f}" y="{base:.1f}">{escape(words)}</text>']
    return []


STYLE = """
.roofline text{font:12px system-ui,sans-serif;fill:var(--ink)}
.roofline .on{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.roofline path{fill:none}.roofline .grid{stroke:var(--line)}.roofline .axis{stroke:var(--soft)}
.roofline .bus{stroke:#d95f02;stroke-width:2.5}.roofline .roof{stroke:#7570b3;stroke-width:1.5;
stroke-dasharray:5 4}.roofline .used{stroke-width:2.5;stroke-dasharray:none}
.roofline circle{stroke:var(--paper);stroke-width:1.5;fill:#7570b3}
.roofline circle.memory{fill:#d95f02}
"""
"""Colours come from the page's variables."""
LIGHT = ":root{--ink:#1d2129;--soft:#5b6470;--paper:#fff;--line:#d8dde3}"


def standalone(held: Roofline, title: str, size: Sequence[int] = WIDE) -> str:
    """A file of its own, on white."""
    body = drawing(held, (size[0], size[1]))
    style = f"<title>{escape(title)}</title><style>{LIGHT}{STYLE}</style>"
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    first, rest = body.split(">", 1)
    opening = first.replace(
        "<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
    )
    return f"{opening}>{style}{ground}{rest}\n"
