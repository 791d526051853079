"""The store unit: lines of the buffer to the memory outside, by bursts."""

from __future__ import annotations

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi

__all__ = ["store_signature"]


def store_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """Ports of the unit: see :class:`Store`."""
    return wiring.Signature(
        {
            "commands": In(stream.Signature(axi.command_layout("store"))),
            "reads": Out(stream.Signature(axi.LINE_BITS)),
            "data": In(8 * spec.line_bytes),
            "bus": Out(axi.write_signature(spec)),
            "write_base": In(axi.ADDRESS_BITS),
            "write_limit": In(axi.ADDRESS_BITS),
            "halt": In(1),
            "clear": In(1),
            "done": Out(1),
            "busy": Out(1),
            "beat": Out(1),
            "cause": Out(axi.CAUSE_BITS),
        }
    )
