"""A digits network made by others on the board's top, over its serial pins, noise included."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from opennpe import sim
from opennpe.golden import catalog
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.serial_frames import MAX_WORDS, MEMORY_SETTINGS
from opennpe.host import simulated_board
from opennpe.host.compile import compile
from opennpe.host.serial_board import OnBoard, SerialBoard
from opennpe.host.serial_link import LinkSetup, SerialLink
from opennpe.sim.coprocessor import cycles
from test_extra_coprocessor import MNIST, network
from test_extra_networks import folder

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from serial_bench import BadCable

pytestmark = [
    pytest.mark.extra,
    pytest.mark.rtl,
    pytest.mark.skipif(folder() is None, reason="no networks in OPENNPE_EXTRA"),
]

SPEC = catalog.EDGE_2X2


def check(fmt, rate, words=MAX_WORDS):
    """All tensors and counters of one sample against the simulator; cable and link."""
    found, inputs = network(MNIST, fmt)
    program = compile(found, SPEC, "all")
    memory = simulated_board.board_memory(program.size)
    cable = BadCable(simulated_board.simulated_port(SPEC, memory), rate, seed=11)
    link = SerialLink(cable, LinkSetup(words=words))
    run = OnBoard(SPEC, SerialBoard(link)).run(program, inputs, MEMORY_SETTINGS)
    kept = tuple(s.name for s in program.of("output", "kept") if s.name in found.tensors)
    expected, _ = sim.run(SPEC, found, inputs, keep=kept)
    assert set(found.outputs) <= set(run.tensors) and len(expected) > 3
    for tensor, codes in expected.items():
        assert np.array_equal(np.ravel(codes), np.ravel(run.tensors[tensor])), tensor
    assert run.counters == cycles(SPEC, program, MEMORY_SETTINGS).counters
    pins = cable.inner.pins
    print(f"\n{fmt}, rate {rate}: program {program.size} bytes, memory {memory}, {link.counts}, "
          f"faults {dict(cable.counts)} of {cable.there.frames + cable.back.frames} frames, "
          f"{pins.cycles} cycles, {run.seconds:.1f} s")  # fmt: skip
    return cable, link


@pytest.mark.parametrize("fmt", ENGINE_FORMATS)
def test_digits_over_a_good_cable(fmt):
    _, link = check(fmt, 0.0)
    assert link.counts.repeated == 0


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_digits_over_a_bad_cable(rate):
    """In requests of four words, which are thousands of frames."""
    cable, link = check("posit8", rate, words=4)
    sent = cable.there.frames + cable.back.frames
    assert cable.counts.total() > 0.3 * rate * sent > 1 and link.counts.repeated > 0
