"""The Verilated engine as something that answers tile cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opennpe.cli.check import Engine
from opennpe.cli.tiles import Case
from opennpe.golden import formats
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.replay import Replayer, TileCase

__all__ = ["replayer", "tile_case"]


def replayer(spec: CoprocessorSpec) -> Engine:
    """Build the engine of ``spec`` once; the result replays cases on it.

    Raises:
        ToolError: Verilator or the compiler is missing.
    """
    machine = Replayer(spec)

    def replay(cases: Sequence[Case]) -> tuple[list[Any], int]:
        before = machine.cycles
        results = machine.replay([tile_case(spec, case) for case in cases])
        return list(results), machine.cycles - before

    return replay


def tile_case(spec: CoprocessorSpec, case: Case) -> TileCase:
    """A case in the replayer's terms: the bias of all lanes in one accumulator word."""
    lanes = len(case.bias)
    width = spec.engine.accumulator_bits // lanes
    mask = (1 << width) - 1
    bias = sum((value & mask) << (lane * width) for lane, value in enumerate(case.bias))
    return TileCase(
        mode_a=case.modes[0],
        mode_b=case.modes[1],
        words_a=case.words[0],
        words_b=case.words[1],
        bias=bias,
        shifts=case.shifts,
        out_format=formats.get(case.out.format).name,
        underflow=spec.underflow,
    )
