"""The parameter memories: the right bias and shift in the right cycle, read only when needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from opennpe.golden import catalog
from opennpe.golden.commands import PARAMETER_LINES
from opennpe.rtl import parameters
from opennpe.rtl.lanes import WORD_BITS
from opennpe.rtl.parameters import BIAS_WORDS, SHIFT_WORDS, Parameters

pytestmark = pytest.mark.fast
SPEC = catalog.EDGE_4X4
STAGES = SPEC.engine.stages.index("accumulate")
"""Moves from a step taken to its word's accumulation; its sum's first lane is one behind."""
RECORDS, CYCLES = 4, 250


def words(value: int, width: int) -> list[int]:
    return [value >> i * width & (1 << width) - 1 for i in range(SPEC.line_words)]


def test_each_sum_finds_its_own_and_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[Any] = []

    class Seen(parameters.Lines):
        def read_port(self, *args: Any, **named: Any) -> Any:
            ports.append(super().read_port(*args, **named))
            return ports[-1]

    monkeypatch.setattr(parameters, "Lines", Seen)
    block = Parameters(SPEC)
    rng = np.random.default_rng(5)
    held = rng.integers(0, 1 << WORD_BITS, (RECORDS, PARAMETER_LINES, SPEC.line_words)).tolist()
    begun, ended = 0, 0
    reads = np.zeros(PARAMETER_LINES, dtype=int)

    async def drive(ctx: Any) -> None:
        nonlocal begun, ended
        ctx.set(block.load_enable, 1)
        for record in range(RECORDS):
            for line in range(PARAMETER_LINES):
                ctx.set(block.load_line, record)
                ctx.set(block.load_lane, line)
                data = sum(w << i * WORD_BITS for i, w in enumerate(held[record][line]))
                ctx.set(block.load_data, data)
                await ctx.tick()
        ctx.set(block.load_enable, 0)
        behind: list[Any] = [None] * (STAGES + 1)
        left, record, first, wait = 0, 0, False, 0
        draining, lane = None, 0
        for _ in range(CYCLES):
            move, taken = rng.random() < 0.7, rng.random() < 0.8
            if not left:
                left, record, first = int(rng.integers(1, 7)), int(rng.integers(RECORDS)), True
            taken = bool(taken and move and (left > 1 or not wait))
            ctx.set(block.move, move)
            ctx.set(block.taken, taken)
            ctx.set(block.first, first)
            ctx.set(block.last, left == 1)
            ctx.set(block.record, record)
            ctx.set(block.lanes, SHIFT_WORDS)
            if (step := behind[STAGES - 1]) and step[1]:
                got = words(ctx.get(block.biases), SPEC.engine.accumulator_bits)
                assert got == [
                    sum(held[step[0]][i][c] << i * WORD_BITS for i in range(BIAS_WORDS))
                    for c in range(SPEC.line_words)
                ]
                begun += move
            if draining is not None:
                mask = (1 << SPEC.engine.shift_bits) - 1
                got = words(ctx.get(block.shifts), SPEC.engine.shift_bits)
                assert got == [w & mask for w in held[draining][BIAS_WORDS + lane]]
            reads[:] += [ctx.get(port.en) for port in ports]
            if move:
                if draining is not None:
                    lane += 1
                    draining = None if lane == SHIFT_WORDS else draining
                if (step := behind[STAGES - 1]) and step[2]:
                    draining, lane = step[0], 0
                    ended += 1
                behind = [(record, first, left == 1) if taken else None, *behind[:-1]]
                wait = SHIFT_WORDS - 1 if taken and left == 1 else max(wait - 1, 0)
            if taken:
                left, first = left - 1, False
            await ctx.tick()

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    assert min(begun, ended) > 20
    # A sum may be under way when the run stops.
    assert all(0 <= n - begun <= 2 for n in reads[:BIAS_WORDS])
    assert all(0 <= n - ended <= 2 for n in reads[BIAS_WORDS:])
