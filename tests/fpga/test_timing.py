"""Static timing: netlists worked out by hand, and OpenSTA on blocks of ours."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import opensta
import pytest
from opennpe.fpga import engine_gates, liberty, netlist, synthesis, timing
from opennpe.golden import catalog
from opennpe.golden.errors import TechError
from opennpe.rtl.codec import Decode
from small_liberty import SMALL

pytestmark = pytest.mark.rtl

CLOCK_SLEW = 40.0
by_opensta = pytest.mark.skipif(
    opensta.FOUND is None, reason="no OpenSTA: apt-get install opensta brings it"
)


def made(tmp_path, cells, ports, text=SMALL):
    path = tmp_path / "small.lib"
    path.write_text(text)
    found = {"cells": cells, "ports": ports, "nets": {}, "abc": []}
    return netlist.from_json(found, "top", liberty.load(path))


def two_registers(tmp_path):
    """r, an inverter, a nand with a port, s."""
    return made(
        tmp_path,
        {
            "r": ["DFF", {"CK": [2], "D": [3], "Q": [4]}],
            "g0": ["INV", {"A": [4], "Y": [5]}],
            "g1": ["NAND2", {"A": [5], "B": [6], "Y": [7]}],
            "s_held": ["DFF", {"CK": [2], "D": [7], "Q": [8]}],
        },
        {
            "clk": ["input", [2]],
            "d": ["input", [3]],
            "a": ["input", [6]],
            "q": ["output", [8]],
        },
    )


def test_a_path_between_registers(tmp_path):
    """Gates: 10 ps + slew / 10 + 5 ps a fF; their slew 5 ps a fF; pins of 2 fF; setup 30 ps."""
    found = timing.analyse(two_registers(tmp_path), clock_slew_ps=CLOCK_SLEW)
    path = found.worst_between_registers
    assert (path.start, path.end, path.stage) == ("r", "s_held", "s")
    assert path.clock_to_output_ps == pytest.approx(10 + 4 + 10)
    assert [step.cell for step in path.steps] == ["INV", "NAND2"]
    assert [step.delay_ps for step in path.steps] == pytest.approx([10 + 1 + 10, 10 + 1 + 10])
    assert path.total_ps == pytest.approx(24 + 42 + 30)
    assert found.worst is not None and found.worst.total_ps == pytest.approx(96)
    # As ABC counts: registers start at 0, with a slew of 0, and have no setup.
    assert found.worst_logic.total_ps == pytest.approx((10 + 0 + 10) + (10 + 1 + 10))
    # The output hangs on nothing: its delay is the table's, carried on to no load.
    assert found.stages["output"].total_ps == pytest.approx(10 + 4 + 0)


def test_wires_and_loads_count(tmp_path):
    found = timing.analyse(
        two_registers(tmp_path),
        clock_slew_ps=CLOCK_SLEW,
        wire_ff_per_fanout=1.0,
        output_load_ff=7.0,
    )
    assert found.worst_between_registers.total_ps == pytest.approx(
        (10 + 4 + 15) + (10 + 1.5 + 15) + (10 + 1.5 + 15) + 30
    )
    assert found.stages["output"].total_ps == pytest.approx(10 + 4 + 40)


def test_edges_alternate_through_inverters(tmp_path):
    """Rising costs 100 ps more: of three inverters in a row two can rise, never three."""
    slow = SMALL.replace('cell_rise (grid) { values ("20, 60", "30, 70")',
                         'cell_rise (grid) { values ("120, 160", "130, 170")', 1)  # fmt: skip
    assert slow != SMALL
    chain = made(
        tmp_path,
        {f"g{i}": ["INV", {"A": [2 + i], "Y": [3 + i]}] for i in range(3)},
        {"a": ["input", [2]], "y": ["output", [5]]},
        slow,
    )
    path = timing.analyse(chain).worst
    assert [step.edge for step in path.steps] == ["rise", "fall", "rise"]
    assert [step.delay_ps for step in path.steps] == pytest.approx([120, 21, 111])


def test_gates_in_any_order_and_loops(tmp_path):
    """A netlist is not in the order of its signals, and a loop of gates is refused."""
    ports = {"a": ["input", [2]], "y": ["output", [5]]}
    cells = {f"g{i}": ["INV", {"A": [2 + i], "Y": [3 + i]}] for i in (2, 0, 1)}
    assert timing.analyse(made(tmp_path, cells, ports)).worst.total_ps == pytest.approx(
        20 + 21 + 11
    )
    loop = {"g0": ["INV", {"A": [2], "Y": [3]}], "g1": ["INV", {"A": [3], "Y": [2]}]}
    with pytest.raises(TechError, match="loop"):
        timing.analyse(made(tmp_path, loop, {"y": ["output", [3]]}))


@lru_cache
def decode(library):
    return synthesis.synthesise(Decode(), liberty.load(library), top="opennpe_decode")


@by_opensta
@pytest.mark.parametrize("library", ["ihp130", "asap7"])
def test_opensta_finds_the_same_arrivals(library, tmp_path):
    errors, _, _ = opensta.compared(decode(library), tmp_path)
    assert len(errors) >= 30
    assert np.abs(errors).max() < 1e-3, errors


@by_opensta
def test_opensta_finds_the_same_path_of_the_engine(tmp_path):
    gates = engine_gates.build(catalog.EDGE_4X4.engine, "ihp130").netlist
    errors, found, theirs = opensta.compared(gates, tmp_path, clock="clk", clock_slew_ps=CLOCK_SLEW)
    assert len(errors) >= 10 and np.abs(errors).max() < 1e-3
    path = found.worst_between_registers
    assert theirs["register"] + theirs["setup"] == pytest.approx(path.total_ps, rel=1e-3)
    assert theirs["setup"] == pytest.approx(path.setup_ps, rel=1e-3)


@by_opensta
def test_a_delay_two_percent_wrong_is_noticed(tmp_path):
    """The comparison above fails when the two do not see the same table."""
    gates = decode("ihp130")
    common = max(gates.counts, key=gates.counts.__getitem__)
    cell = gates.library.cells[common]
    arcs = tuple(
        replace(
            arc,
            delay={e: replace(s, values=s.values * 1.02) for e, s in arc.delay.items()},
        )
        for arc in cell.arcs
    )
    slow = replace(gates.library, cells={**gates.library.cells, common: replace(cell, arcs=arcs)})
    theirs = opensta.arrivals(replace(gates, library=slow), tmp_path)
    found = timing.analyse(gates)
    ours = max(float(found.arrival_ps[n].max()) for n in gates.ports["significand"].nets)
    worst = max(value for name, value in theirs.items() if name.startswith("significand"))
    assert abs(worst / ours - 1) > 1e-3
