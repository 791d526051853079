"""The streams of units that take rows: elements in, twice; results out, once."""

from __future__ import annotations

from amaranth.lib import data
from opennpe.rtl.lanes import WORD_BITS

__all__ = ["element_layout", "result_layout"]


def element_layout(lanes: int) -> data.StructLayout:
    """A beat: ``codes`` (16 bits a lane), ``keep``, ``second`` pass, ``last`` of the pass."""
    return data.StructLayout({"codes": WORD_BITS * lanes, "keep": lanes, "second": 1, "last": 1})


def result_layout(lanes: int) -> data.StructLayout:
    """A beat of results: ``codes`` and ``last`` of the row."""
    return data.StructLayout({"codes": WORD_BITS * lanes, "last": 1})
