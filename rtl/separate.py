"""Four separate multiply-accumulate units behind a multiplexer: what the SIMD engine replaces.

Baseline for ratios of area. Unless others are given, each unit is the engine's own pipeline for one
format: as many lanes, as wide an accumulator (so exact over as many terms), as many stages; what
other formats need is constants, which synthesis removes: no array of partial products is shared, no
shift, no normaliser. Units of :mod:`opennpe.rtl.windowed` have narrower accumulators, or one lane.
It does less than the engine: results are rounded to the unit's own format only, and fp4 by posit4
has no unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.utils import ceil_log2
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports
from opennpe.rtl.engine import Engine
from opennpe.rtl.hierarchy import place

__all__ = ["Separate"]


class Separate(wiring.Component):
    """The engine's ports; ``mode_b`` and ``out`` of a word are taken to be its ``mode_a``.

    One unit works at a time: a sum of another format waits until all results of the last are
    taken. Within a format latency and pace are the engine's.

    Args:
        spec: of the engine.
        units: one a format of the spec, with the engine's ports and latency.

    Raises:
        SpecError: as :class:`opennpe.rtl.engine.Engine`.
    """

    module_name = "separate"

    def __init__(self, spec: EngineSpec, units: Sequence[Any] | None = None) -> None:
        ports.check_spec(spec)
        self.spec = spec
        self.units = units or [Engine(spec, only=name) for name in spec.mac.formats]
        super().__init__(ports.engine_signature(spec))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word, result = self.words.payload, self.results.payload
        units = self.units
        own, fits, taken = Signal(ceil_log2(len(units))), Signal(), Signal()
        # Sums whose last result is not taken: one a stage, and the one whose lanes leave.
        inside, under_way = Signal(), Signal(range(self.spec.latency + 2))
        full = under_way == self.spec.latency + 1
        chosen = Array(unit.words.ready for unit in units)[word.mode_a]
        m.d.comb += [
            fits.eq(((word.mode_a == own) | (~inside & ~under_way.any())) & ~full),
            self.words.ready.eq(fits & chosen),
            taken.eq(self.words.valid & self.words.ready),
        ]
        ends = self.results.valid & self.results.ready & result.last
        m.d.sync += under_way.eq(under_way + (taken & word.last) - ends)
        with m.If(taken):
            m.d.sync += [own.eq(word.mode_a), inside.eq(~word.last)]
        for index, (name, unit) in enumerate(zip(self.spec.mac.formats, units, strict=True)):
            place(m, platform, name, unit)
            self._connect(m, unit, own == index, self.words.valid & fits & (word.mode_a == index))
        m.d.comb += [
            self.biases.ready.eq(Array(unit.biases.ready for unit in units)[own]),
            self.shifts.ready.eq(Array(unit.shifts.ready for unit in units)[own]),
            self.results.valid.eq(Array(unit.results.valid for unit in units)[own]),
            result.eq(Array(unit.results.payload.as_value() for unit in units)[own]),
        ]
        return m

    def _connect(self, m: Module, unit: Any, mine: Any, offered: Any) -> None:
        m.d.comb += [
            unit.words.valid.eq(offered),
            unit.words.payload.eq(self.words.payload),
            unit.biases.valid.eq(self.biases.valid & mine),
            unit.biases.payload.eq(self.biases.payload),
            unit.shifts.valid.eq(self.shifts.valid & mine),
            unit.shifts.payload.eq(self.shifts.payload),
            unit.results.ready.eq(self.results.ready & mine),
            unit.underflow_zero.eq(self.underflow_zero),
        ]
