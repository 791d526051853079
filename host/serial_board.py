"""A co-processor behind a serial link as a back-end: the same programs, the same answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import serial_frames
from opennpe.golden.errors import DeviceError, ProgramError
from opennpe.golden.program import Program
from opennpe.golden.registers import CAUSES, COUNTERS, REGISTERS, Counters, MemorySettings
from opennpe.golden.serial_frames import WORD
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.backends import Run, check_capabilities
from opennpe.host.serial_link import SerialLink

__all__ = ["OnBoard", "SerialBoard"]

BUSY, DONE, ERROR = 1, 2, 4
"""Bits of the register ``status``."""
START, CLEAR = 1, 2
"""Bits of the register ``control``."""
PATIENCE_CYCLES = 2_000_000
"""Of the board's clock without a beat or a step of a sum, after which the co-processor hangs."""
POLL_SECONDS = 0.002
"""Between two looks at the interrupt; doubled each time, up to `MOST_POLL_SECONDS`."""
MOST_POLL_SECONDS = 0.05
PIECE = 1024
"""Bytes of memory that are compared, and sent again if they differ."""
Codes = NDArray[Any]


class SerialBoard:
    """A board's co-processor and its memory through a link: :class:`opennpe.host.backends.Board`.

    Raises:
        DeviceError: as :class:`opennpe.host.serial_link.SerialLink`; or the board holds no
            co-processor.
    """

    def __init__(self, link: SerialLink) -> None:
        self.link = link
        kind = link.register("version") >> 8 & 0xFF
        if kind != serial_frames.KINDS.index("coprocessor"):
            names = dict(enumerate(serial_frames.KINDS))
            raise DeviceError(
                f"{link.transport.name}: the board holds an {names.get(kind, 'unknown device')}, "
                "not a co-processor"
            )
        self.memory_bytes = link.register("memory_bytes")
        self.clock_hz = link.register("clock_hz")

    def read_register(self, offset: int) -> int:
        """A 32-bit register."""
        return int.from_bytes(self.link.read("registers", offset, WORD), "little")

    def write_register(self, offset: int, value: int) -> None:
        """Set a 32-bit register."""
        self.link.write("registers", offset, value.to_bytes(WORD, "little"))

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of main memory."""
        skip = address % WORD
        whole = -(-(skip + size) // WORD) * WORD
        return self.link.read("memory", address - skip, whole)[skip : skip + size]

    def write_memory(self, address: int, data: bytes) -> None:
        """Change bytes of main memory; words that it changes in part are read first."""
        skip, tail = address % WORD, -(address + len(data)) % WORD
        first = self.read_memory(address - skip, skip) if skip else b""
        last = self.read_memory(address + len(data), tail) if tail else b""
        self.link.write("memory", address - skip, first + data + last)

    def wait(self, seconds: float) -> bool:
        """Wait for the interrupt, so long at most; whether it came."""
        now = self.link.transport.now
        end, pause = now() + seconds, min(POLL_SECONDS, seconds)
        while not self.link.register("state") & 1:
            if now() >= end:
                return False
            self.link.idle(min(pause, max(0.0, end - now())))
            pause = min(2 * pause, MOST_POLL_SECONDS)
        return True

    def reset(self) -> None:
        """Reset the co-processor; the memory stays."""
        self.link.reset_device()

    def close(self) -> None:
        """Give up the cable."""
        self.link.close()


class OnBoard:
    """Programs on a co-processor that is reached by a cable.

    What main memory holds is remembered, so that of a second sample only its inputs are sent.

    Args:
        spec: the co-processor that programs are compiled for.
        board: where it is.
    """

    def __init__(self, spec: CoprocessorSpec, board: SerialBoard) -> None:
        self.spec, self.board = spec, board
        self._held = np.zeros(0, dtype=np.uint8)
        self._known = np.zeros(0, dtype=np.bool_)

    def close(self) -> None:
        """Give up the cable."""
        self.board.close()

    def run(self, program: Program, inputs: Mapping[str, Codes], settings: MemorySettings) -> Run:
        """As :meth:`opennpe.host.backends.Backend.run`; the memory is as fast as it is."""
        program.check(self.spec)
        check_capabilities(self.read, program)
        if program.size > self.board.memory_bytes:
            raise ProgramError(
                f"program '{program.name}' works in {program.size} bytes, the board has "
                f"{self.board.memory_bytes}: choose a smaller network or format, or another board"
            )
        if self.read("status") & BUSY:
            self.board.reset()
        begun = time.perf_counter()
        memory = program.memory(inputs)
        self._send(memory)
        window = program.window
        self._known[window.write_base : window.write_limit] = False
        self._start(program)
        self._wait(program)
        counters = self.counters()
        self.write("control", CLEAR)
        return Run(self._results(program, memory), counters, time.perf_counter() - begun)

    def read(self, register: str) -> int:
        """A register by name."""
        return self.board.read_register(REGISTERS[register])

    def write(self, register: str, value: int) -> None:
        """Set a register by name."""
        self.board.write_register(REGISTERS[register], value)

    def counters(self) -> Counters:
        """The performance counters, as they stand."""
        values = {}
        for name in COUNTERS:
            low = self.board.read_register(REGISTERS[name])
            values[name] = low | self.board.read_register(REGISTERS[name] + 4) << 32
        return Counters(**values)

    def _send(self, memory: NDArray[np.uint8]) -> None:
        """Send what main memory does not hold already."""
        if len(self._held) < len(memory):
            more = len(memory) - len(self._held)
            self._held = np.append(self._held, np.zeros(more, dtype=np.uint8))
            self._known = np.append(self._known, np.zeros(more, dtype=np.bool_))
        size = len(memory)
        new = ~self._known[:size] | (self._held[:size] != memory)
        starts = np.arange(0, size, PIECE)
        stale = np.logical_or.reduceat(new, starts)
        for first, last in _runs(stale):
            low, high = int(starts[first]), min(size, int(starts[last]) + PIECE)
            self._known[low:high] = False  # until all of it is there
            self.board.write_memory(low, memory[low:high].tobytes())
            self._held[low:high], self._known[low:high] = memory[low:high], True

    def _start(self, program: Program) -> None:
        values = {"program": program.address, "program_lines": program.lines}
        for name, value in (values | vars(program.window)).items():
            self.write(name, value)
        self.write("interrupt", 1)
        self.write("control", START)

    def _wait(self, program: Program) -> None:
        """Wait for the end; something that neither moves a beat nor adds hangs."""
        patience, moved = PATIENCE_CYCLES / self.board.clock_hz, -1
        while not self.board.wait(patience):
            now = self.counters()
            found = now.busy + now.beats_read + now.beats_written
            if found == moved:
                status = self.read("status")
                self.board.reset()
                raise DeviceError(
                    f"the co-processor hangs in program '{program.name}': no beat and no step of "
                    f"a sum for {PATIENCE_CYCLES} cycles (status {status:#x})"
                )
            moved = found
        status = self.read("status")
        if status & ERROR or status & BUSY or not status & DONE:
            cause, culprit = self.read("cause"), self.read("culprit")
            text = CAUSES[cause] if cause < len(CAUSES) else f"unknown cause {cause}"
            self.write("control", CLEAR)
            raise DeviceError(
                f"the co-processor stopped with an error: {text} (status {status:#x}, {culprit} "
                "commands dispatched)"
            )

    def _results(self, program: Program, memory: NDArray[np.uint8]) -> dict[str, Codes]:
        """Codes of outputs and kept tensors; what the co-processor cannot write is as it was."""
        low, high = program.window.write_base, program.window.write_limit
        found = memory.copy()
        for symbol in program.of("output", "kept"):
            first, last = symbol.address, symbol.address + symbol.layout.bytes
            if low <= first and last <= high:
                data = self.board.read_memory(first, last - first)
                found[first:last] = np.frombuffer(data, dtype=np.uint8)
        return program.results(found)


def _runs(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
