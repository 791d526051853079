"""The registers: what the host sees of the co-processor, through AXI4-Lite."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.registers import COUNTERS
from opennpe.rtl import axi

__all__ = ["control_signature"]


def control_signature() -> wiring.Signature:
    """Ports of the block: see :class:`Control`."""
    return wiring.Signature(
        {
            "bus": In(axi.lite_signature()),
            "start": Out(1),
            "interrupt": Out(1),
            **{name: Out(32) for name in ("program", "program_lines")},
            **{
                f"{way}_{end}": Out(axi.ADDRESS_BITS)
                for way in ("read", "write")
                for end in ("base", "limit")
            },
            "busy": In(1),
            "done": In(1),
            "error": In(1),
            "cause": In(axi.CAUSE_BITS),
            "culprit": In(32),
            **{f"count_{name}": In(1) for name in COUNTERS},
        }
    )
