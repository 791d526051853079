"""The load unit: lines from the memory outside into the memories inside, by bursts."""

from __future__ import annotations

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.commands import FIELDS, PARAMETER_LINES
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi

__all__ = ["load_signature", "write_layout"]


def write_layout(spec: CoprocessorSpec) -> data.StructLayout:
    """A line on its way into a memory; fields from bit 0 up.

    ``target``: index into ``golden.commands.TARGETS``. ``line``: where, in lines; for parameters
    the channel tile. ``lane``: of a channel tile's lines the one written, 0 elsewhere.
    """
    return data.StructLayout(
        {
            "target": dict(FIELDS["load"])["target"],
            "line": axi.LINE_BITS,
            "lane": (PARAMETER_LINES - 1).bit_length(),
            "data": 8 * spec.line_bytes,
        }
    )


def load_signature(spec: CoprocessorSpec) -> wiring.Signature:
    """Ports of the unit: see :class:`Load`."""
    return wiring.Signature(
        {
            "commands": In(stream.Signature(axi.command_layout("load"))),
            "bus": Out(axi.read_signature(spec)),
            "writes": Out(stream.Signature(write_layout(spec))),
            "read_base": In(axi.ADDRESS_BITS),
            "read_limit": In(axi.ADDRESS_BITS),
            "halt": In(1),
            "clear": In(1),
            "done": Out(1),
            "busy": Out(1),
            "beat": Out(1),
            "cause": Out(axi.CAUSE_BITS),
        }
    )
