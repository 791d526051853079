"""A serial port of this machine as what a link talks through, by pyserial."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from opennpe.golden.errors import DeviceError, ToolError
from opennpe.golden.serial_frames import DEFAULT_BAUD

__all__ = ["SIMULATED", "SerialPort"]

SIMULATED = "simulated"
"""Of the port that is no port, but :mod:`opennpe.host.simulated_board`."""

LATENCY_SECONDS = 0.1
"""What a USB adapter holds characters back (16 ms), and an operating system, and some to spare."""
SLICE_SECONDS = 0.02
"""The longest read: whatever is waited for is looked at after so long."""
WRITE_SECONDS = 2.0
"""What a port may take to accept characters, beside sending them."""
BUFFERED = 4096
"""Characters that may wait in a port before more are accepted."""
INSTALL = "pip install 'opennpe[fpga]'"


class SerialPort:
    """An open port: :class:`opennpe.host.serial_link.Transport`; no other program has it meanwhile.

    Args:
        name: as the operating system calls it.
        baud: rate.

    Raises:
        ToolError: pyserial is not installed.
        DeviceError: there is no such port, it is in use, or does not take the rate.
    """

    def __init__(self, name: str, baud: int = DEFAULT_BAUD) -> None:
        try:
            import serial
        except ImportError as error:
            raise ToolError(f"pyserial is missing: {INSTALL} brings it") from error
        self.name, self.baud, self.latency = name, baud, LATENCY_SECONDS
        patience = WRITE_SECONDS + 10 * BUFFERED / max(1, baud)
        try:
            self._port: Any = serial.Serial(
                name, baud, timeout=SLICE_SECONDS, write_timeout=patience, exclusive=True
            )
            self._port.reset_input_buffer()
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"cannot open the serial port '{name}' at {baud} baud: {_reason(error)}"
            ) from error

    def write(self, data: bytes) -> None:
        """Send characters."""
        try:
            self._port.write(data)
        except OSError as error:
            raise self._lost(error) from error

    def read(self, seconds: float) -> bytes:
        """What has come, after so many seconds at most (and a slice)."""
        end = self.now() + seconds
        while True:
            try:
                found = bytes(self._port.read(max(1, self._port.in_waiting)))
            except OSError as error:
                raise self._lost(error) from error
            if found or self.now() >= end:
                return found

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def close(self) -> None:
        """Give up the port."""
        self._port.close()

    def _lost(self, error: OSError) -> DeviceError:
        return DeviceError(
            f"lost the serial port '{self.name}': {_reason(error)}: is the cable still there?"
        )


def _reason(error: Exception) -> str:
    """What the operating system says, without the port's name once more."""
    number = getattr(error, "errno", None)
    if number == errno.EAGAIN:
        return "another program has it"
    return os.strerror(number) if isinstance(number, int) else str(error)
