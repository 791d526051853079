"""The memory outside as a program finds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["Image"]

Words = NDArray[np.uint16]


class Image:
    """The memory outside, filled from byte 0 on: first what is written, then the inputs.

    Attributes:
        writable: end of what the program may write. origin: where given bytes begin.
    """

    def __init__(self, spec: CoprocessorSpec) -> None:
        self.spec = spec
        self.size = self.writable = self.origin = 0
        self.parts: list[tuple[int, bytes]] = []

    def reserve(self, lines: int) -> int:
        """Byte address of room for so many lines."""
        address = self.size
        self.size += lines * self.spec.line_bytes
        return address

    def put(self, words: Words) -> int:
        """Byte address of words (..., columns) put into the image."""
        data = words.astype("<u2").tobytes()
        address = self.reserve(len(data) // self.spec.line_bytes)
        self.parts.append((address, data))
        return address

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes from ``origin`` on."""
        data = np.zeros(self.size - self.origin, dtype=np.uint8)
        for place, part in self.parts:
            first = place - self.origin
            data[first : first + len(part)] = np.frombuffer(part, dtype=np.uint8)
        return data
