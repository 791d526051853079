"""Memories of lines: block RAM that need not care for reads of what is being written."""

from __future__ import annotations

from amaranth.lib import memory

__all__ = ["Lines"]


class Lines(memory.Memory):
    """A memory of ``depth`` lines of ``bits``, of which none is read in the cycle of its write.

    What such a read gives is undefined: the waits of commands keep it from happening. Synthesis is
    told so (Yosys: ``no_rw_check``), or it would put a multiplexer on every bit of block RAM to
    give the bit that was there before.
    """

    def __init__(self, bits: int, depth: int) -> None:
        super().__init__(shape=bits, depth=depth, init=[], attrs={"no_rw_check": 1})
