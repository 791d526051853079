"""The SIMD multiply-accumulate engine: streams of operand words in, one code a lane out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports

__all__ = ["Engine"]


class Engine(wiring.Component):
    """``round((bias + sum of a*b) * 2**shift)`` in every lane, exactly, one rounding.

    Bits: those of ``golden.lanes.dot_words``; a NaR operand makes its lane's result NaR (an fp4
    result of NaR is undefined: golden refuses it).

    Latency: ``spec.latency`` cycles from a sum's last word accepted to its first result offered.
    Throughput: a word pair a cycle; a sum of K words occupies ``max(K, lanes)`` cycles, because
    the lanes share one round unit and leave one a cycle, lane 0 first. Sums follow each other
    without a gap, in any mix of modes. Both streams may pause at any cycle.

    Attributes:
        words: In, ``ports.word_layout``: operands and what starts and ends a sum.
        results: Out, ``ports.result_layout``: codes, a lane each.
        underflow_zero: In, static: 1 for the rule "zero", 0 for "minpos".

    Raises:
        SpecError: a spec that these gates do not implement.
    """

    def __init__(self, spec: EngineSpec) -> None:
        ports.check_spec(spec)
        self.spec = spec
        super().__init__(
            {
                "words": In(ports.word_signature(spec)),
                "results": Out(ports.result_signature(spec)),
                "underflow_zero": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        return Module()
