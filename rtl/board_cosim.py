"""A board's top, Verilated, with characters on its serial pins, bit by bit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opennpe.golden.serial_frames import FLAG
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import verilated
from opennpe.rtl.top_verilog import hierarchical
from opennpe.rtl.verilog import PREFIX, convert

__all__ = ["BOARD", "Pins", "board_library", "board_verilog", "build"]

HARNESS = Path(__file__).with_name("board_cosim.cpp")
BOARD = f"{PREFIX}_board"
FINE = 256
"""Parts of a clock cycle that a bit is measured in."""
RESET_CYCLES = 4
LAYOUT = f"""#pragma once
#include <cstdint>
#define TOP_CLASS V{{top}}
constexpr int64_t FINE = {FINE}, RESET_CYCLES = {RESET_CYCLES};
"""


def board_verilog(spec: CoprocessorSpec, clock_hz: float, baud: int, memory_bytes: int) -> str:
    """The board's top as Verilog, from the cache if it is there; arguments as of ``BoardTop``.

    Raises:
        SpecError: as :class:`opennpe.rtl.board_top.BoardTop`.
        ToolError: pyosys is not installed, or refuses.
    """
    from opennpe.rtl.board_top import BoardTop

    made = (spec, clock_hz, baud, memory_bytes)
    return verilated.remembered(lambda: convert(BoardTop(*made), BOARD), BOARD, repr(made))


def board_library(spec: CoprocessorSpec, clock_hz: float, baud: int, memory_bytes: int) -> Path:
    """The Verilated top as a shared library, from the cache if it is there; errors as above."""
    return build(board_verilog(spec, clock_hz, baud, memory_bytes), BOARD)


def build(verilog: str, top: str) -> Path:
    """The shared library of a top with a board's pins.

    Raises:
        ToolError: Verilator or the compiler is missing, or the build failed.
    """
    text = hierarchical(verilog)
    sources = {
        f"{top}.v": text,
        "layout.h": LAYOUT.format(top=top),
        HARNESS.name: HARNESS.read_text(),
    }
    return verilated.library(top, sources, ("--hierarchical",) if "hier_block" in text else ())


class Pins:
    """A simulated board's serial pins.

    Args:
        library: of :func:`build`.
        divisor: clock cycles a bit.
        skew: how much longer than the board's the bits at this end are, as a fraction.

    Attributes:
        cycles: clock cycles simulated so far.
    """

    def __init__(self, library: Path, divisor: int, skew: float = 0.0) -> None:
        self._handle: int | None = None
        self._library = ctypes.CDLL(str(library))
        for name, result, *arguments in _FUNCTIONS:
            function = getattr(self._library, f"board_{name}")
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.board_create()
        self._library.board_bit(self._handle, round(FINE * divisor * (1 + skew)))

    def close(self) -> None:
        """Release the simulation."""
        if self._handle is not None:
            self._library.board_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        return int(self._library.board_cycle(self._handle))

    @property
    def lights(self) -> tuple[bool, bool, bool]:
        """Busy, error, heartbeat."""
        found = self._library.board_lights(self._handle)
        return bool(found & 1), bool(found & 2), bool(found & 4)

    def reset(self) -> None:
        """Reset the board; the contents of its memory stay."""
        self._library.board_reset(self._handle)

    def glitch(self, after: int, cycles: int) -> None:
        """Invert the wire to the board for some cycles, so many cycles from now."""
        self._library.board_glitch(self._handle, after, cycles)

    def send(self, data: bytes) -> None:
        """Characters that go out as cycles pass."""
        self._library.board_send(self._handle, data, len(data))

    @property
    def waiting(self) -> int:
        """Characters that have not gone out."""
        return int(self._library.board_waiting(self._handle))

    def run(
        self, cycles: int, stop: int = FLAG, progress: Callable[[int], object] | None = None
    ) -> int:
        """Simulate until the character ``stop`` has come in, or so many cycles; how many."""
        passed = 0
        while passed < cycles:
            ahead = min(SLICE, cycles - passed)
            now = int(self._library.board_run(self._handle, ahead, stop))
            passed += now
            if progress is not None:
                progress(now)
            if self._library.board_found(self._handle):
                break
        return passed

    def receive(self) -> bytes:
        """Characters that came in."""
        buffer = (ctypes.c_uint8 * RECEIVED)()
        found = bytearray()
        while count := self._library.board_receive(self._handle, buffer, RECEIVED):
            found += bytes(buffer[:count])
        return bytes(found)


SLICE = 20_000
"""Cycles at a time between two looks at Ctrl-C and at progress."""
RECEIVED = 4096
_POINTER: Any = ctypes.c_void_p
_FUNCTIONS: tuple[tuple[Any, ...], ...] = (
    ("create", _POINTER),
    ("destroy", None, _POINTER),
    ("reset", None, _POINTER),
    ("bit", None, _POINTER, ctypes.c_int64),
    ("glitch", None, _POINTER, ctypes.c_int64, ctypes.c_int64),
    ("send", None, _POINTER, ctypes.c_char_p, ctypes.c_int64),
    ("waiting", ctypes.c_int64, _POINTER),
    ("found", ctypes.c_int, _POINTER),
    ("run", ctypes.c_int64, _POINTER, ctypes.c_int64, ctypes.c_int),
    ("receive", ctypes.c_int64, _POINTER, ctypes.POINTER(ctypes.c_uint8), ctypes.c_int64),
    ("cycle", ctypes.c_int64, _POINTER),
    ("lights", ctypes.c_int, _POINTER),
)
