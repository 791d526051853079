"""The most that an array and its bus allow at a clock."""

from __future__ import annotations

from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost_types import OPERATIONS

__all__ = ["bus_bytes_per_second", "peak_gops"]


def peak_gops(spec: CoprocessorSpec, name: str, clock_hz: float) -> float:
    """10^9 operations a second in a format, every lane at work."""
    return OPERATIONS * spec.array.macs_per_cycle(name) * clock_hz / 1e9


def bus_bytes_per_second(spec: CoprocessorSpec, clock_hz: float) -> float:
    """Over the bus, one way."""
    return spec.memory.bus_bits / 8 * clock_hz
