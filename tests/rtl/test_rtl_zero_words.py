"""Words of zeros: the sum is right and what decodes, multiplies and aligns stands still."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from amaranth.sim import Simulator
from opennpe.golden import catalog, formats, lanes
from opennpe.rtl.engine import Engine

pytestmark = pytest.mark.fast
SPEC = catalog.EDGE_4X4.engine
HELD = ("d_a", "d_b", "m_product", "l_addend")
ONE = {name: lanes.pack(name, formats.get(name).encode(np.ones(lanes.lanes(name)), "zero"))
       for name in formats.ENGINE_FORMATS}  # fmt: skip


def run(name, words, path):
    """Result codes of one sum of word pairs, and how often each register changed."""
    engine, results = Engine(SPEC), []
    mode = formats.ENGINE_FORMATS.index(name)

    async def drive(ctx):
        ctx.set(engine.underflow_zero, 1)
        ctx.set(engine.results.ready, 1)
        ctx.set(engine.biases.valid, 1)
        ctx.set(engine.shifts.valid, 1)
        word = engine.words.payload
        for i, (a, b) in enumerate(words):
            ctx.set(engine.words.valid, 1)
            for field, value in {
                "a": a, "b": b, "mode_a": mode, "mode_b": mode, "out": mode, "first": i == 0,
                "last": i == len(words) - 1,
            }.items():  # fmt: skip
                ctx.set(word[field], int(value))
            await ctx.tick()
        ctx.set(engine.words.valid, 0)
        for _ in range(SPEC.latency + lanes.lanes(name)):
            if ctx.get(engine.results.valid):
                results.append(ctx.get(engine.results.payload.code))
            await ctx.tick()

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    with simulator.write_vcd(str(path)):
        simulator.run()
    return results, changes(path)


def changes(path):
    """Changes of the held registers in a VCD file, the first values left out."""
    names, count, begun = {}, Counter(), False
    for line in path.read_text().splitlines():
        parts = line.split()
        if parts[:1] == ["$var"]:
            names[parts[3]] = parts[4].split(".")[0].removesuffix("$")
        elif line.startswith("#"):
            begun = line != "#0"
        elif begun and parts:
            identifier = parts[1] if len(parts) > 1 else parts[0][1:]
            count[names.get(identifier, "")] += 1
    return {held: sum(n for name, n in count.items() if name.startswith(held)) for held in HELD}


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
@pytest.mark.parametrize("side", [0, 1])
def test_zeros_add_nothing_and_move_nothing(name, side, tmp_path):
    one = int(ONE[name].reshape(-1)[0])
    rng = np.random.default_rng(side)
    zeros = [(0, int(rng.integers(1, 8)) * 0x0101 & 0x3333) for _ in range(12)]
    zeros = [pair[::-1] if side else pair for pair in zeros]
    plain, before = run(name, [(one, one), (one, one)], tmp_path / "a.vcd")
    found, after = run(name, [(one, one), *zeros, (one, one)], tmp_path / "b.vcd")
    assert found == plain and len(found) == lanes.lanes(name)
    two = int(formats.get(name).encode(np.array([2.0]), "zero")[0])
    assert found == [two] * lanes.lanes(name)
    assert before == after and min(before.values()) > 0


def test_a_sum_of_zeros_is_zero_and_moves_nothing(tmp_path):
    found, moved = run("posit8", [(0, 0x4040)] * 5, tmp_path / "a.vcd")
    assert found == [0, 0] and not any(moved.values())


def test_movement_is_seen(tmp_path):
    """The comparison can fail: words that are not zero move the registers."""
    one = int(ONE["posit8"].reshape(-1)[0])
    _, few = run("posit8", [(one, one), (one, one)], tmp_path / "a.vcd")
    _, many = run("posit8", [(one, one), (one, 0x2020), (one, one)], tmp_path / "b.vcd")
    assert sum(many.values()) > sum(few.values())
