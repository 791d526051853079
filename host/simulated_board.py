"""The board's top in simulation, as something that a serial link talks to bit by bit."""

from __future__ import annotations

from collections.abc import Callable

from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.board_cosim import Pins, board_library
from opennpe.rtl.uart import LEAST_DIVISOR, divisor

__all__ = [
    "BAUD",
    "CLOCK_HZ",
    "MEMORY_BYTES",
    "SimulatedPort",
    "board_memory",
    "simulated_port",
]

CLOCK_HZ = 50_000_000
"""Of the simulated board, that of the real ones."""
BAUD = CLOCK_HZ // LEAST_DIVISOR
"""The fastest that the link takes: few cycles a character."""
MEMORY_BYTES = 1 << 16
"""Main memory of the simulated board, unless a program needs more."""
LATENCY_SECONDS = 20e-6
"""What a device takes to answer, and a little more."""


class SimulatedPort:
    """Characters to a simulated board and back; time passes as its clock does.

    Args:
        pins: of the board.
        clock_hz: of its clock.
        baud: of its link.
        progress: told of clock cycles as they pass.
    """

    def __init__(
        self,
        pins: Pins,
        clock_hz: float = CLOCK_HZ,
        baud: int = BAUD,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.pins, self.clock_hz, self.baud, self.progress = pins, clock_hz, baud, progress
        self.name, self.latency = "the simulated board", LATENCY_SECONDS

    def write(self, data: bytes) -> None:
        """Send characters, as time passes."""
        self.pins.send(data)

    def read(self, seconds: float) -> bytes:
        """Run the board until a frame ends, or so many seconds of its time."""
        found = self.pins.receive()
        if found:
            return found
        self.pins.run(max(1, round(seconds * self.clock_hz)), progress=self.progress)
        return self.pins.receive()

    def now(self) -> float:
        """Seconds of the board's time."""
        return self.pins.cycles / self.clock_hz

    def close(self) -> None:
        """Release the simulation."""
        self.pins.close()


def board_memory(needed: int) -> int:
    """Bytes of main memory of a simulated board that holds so many."""
    return max(MEMORY_BYTES, 1 << (needed - 1).bit_length())


def simulated_port(
    spec: CoprocessorSpec,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], object] | None = None,
    baud: int = BAUD,
) -> SimulatedPort:
    """The simulated board of a spec, built once and kept in the user's cache.

    Raises:
        SpecError: a spec the co-processor has no gates for, or a rate the clock does not make.
        ToolError: Verilator or the compiler is missing, or the build failed.
    """
    library = board_library(spec, CLOCK_HZ, baud, memory_bytes)
    return SimulatedPort(Pins(library, divisor(CLOCK_HZ, baud)), CLOCK_HZ, baud, progress)
