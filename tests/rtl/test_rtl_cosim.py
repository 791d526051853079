"""The harness around the co-processor: its memory's timing to the cycle, and its judge of the bus.

A copy engine with the co-processor's ports stands in, because it can be told to break each rule.
"""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from cosim_copy import BEATS, FAULT, FAULTS, ROUND, Copy
from opennpe.golden import catalog
from opennpe.golden.errors import DataError, DeviceError, ToolError
from opennpe.golden.registers import MemorySettings
from opennpe.rtl import cosim, verilated
from opennpe.rtl.cosim import CHANNELS, Cosim, Mischief, Start
from opennpe.rtl.top_verilog import TOP, hierarchical
from opennpe.rtl.verilog import convert

pytestmark = pytest.mark.rtl

SPEC = catalog.EDGE_4X4
BUS = SPEC.memory.bus_bits // 8
SOURCE, TARGET, WINDOW = 0x1000, 0x4000, 0x1000
MEMORY = 1 << 16
JOB = Start(SOURCE, 5, SOURCE, SOURCE + WINDOW, TARGET, TARGET + WINDOW)
COPIED = JOB.program_lines * ROUND * BUS
FAST = MemorySettings(1, 1, 1, 1)
SETTINGS = (
    FAST,
    MemorySettings(20, 1, 20, 1),
    MemorySettings(5, 2, 7, 3),
    MemorySettings(2, 9, 1, 4),
)


def copy_engine(spec=SPEC) -> str:
    return convert(Copy(spec), TOP)


@pytest.fixture(scope="module")
def machine():
    with Cosim(SPEC, MEMORY, verilog=copy_engine()) as one:
        yield one


@pytest.fixture(autouse=True)
def fresh(request):
    if "machine" in request.fixturenames:
        one = request.getfixturevalue("machine")
        one.reset()
        one.memory[:] = np.random.default_rng(0).integers(0, 256, MEMORY, dtype=np.uint8)


def cycles(done, channel):
    return done.events["cycle"][done.events["channel"] == CHANNELS.index(channel)]


def assert_copied(one, job=JOB):
    before = np.random.default_rng(0).integers(0, 256, MEMORY, dtype=np.uint8)
    before[TARGET : TARGET + COPIED] = before[SOURCE : SOURCE + COPIED]
    wrong = np.flatnonzero(before != one.memory)
    assert not len(wrong), f"{len(wrong)} bytes differ, the first at {wrong[0]:#x}"


def test_a_program_runs_and_says_what_it_counted(machine):
    machine.check_identity()
    done = machine.run(JOB, FAST)
    assert_copied(machine)
    assert 0 < done.counters.cycles < done.cycles
    totals = machine.totals()
    assert totals["read_beats"] == totals["write_beats"] == JOB.program_lines * ROUND
    assert totals["read_bursts"] == totals["write_bursts"] == 2 * JOB.program_lines
    assert done.dropped == 0 and len(done.events) == 0 and done.seconds > 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_beat_comes_in_its_cycle(machine, settings):
    done = machine.run(JOB, settings, events=10_000)
    assert_copied(machine)
    asked, beats = cycles(done, "AR"), cycles(done, "R")
    written, answers = cycles(done, "W"), cycles(done, "B")
    assert (len(asked), len(beats)) == (2 * JOB.program_lines, JOB.program_lines * ROUND)
    assert (len(written), len(answers)) == (len(beats), len(asked))
    # The engine takes what comes once it has asked for both bursts of a round.
    free = 0
    for index, cycle in enumerate(beats):
        begins = asked[index // BEATS] + settings.read_latency if index % BEATS == 0 else 0
        assert cycle == max(begins, free, asked[index // ROUND * 2 + 1] + 1), f"beat {index}"
        free = cycle + settings.read_interval
    # It offers a beat in the cycle after the one before, or after its AW.
    assert all(np.diff(written) >= settings.write_interval)
    assert settings.write_interval in np.diff(written)
    assert answers.tolist() == (written[BEATS - 1 :: BEATS] + settings.write_latency).tolist()


def test_events_name_address_and_length(machine):
    events = machine.run(JOB, FAST, events=3).events
    assert events["channel"].tolist()[:2] == [0, 0]
    assert events["address"].tolist()[:2] == [SOURCE, SOURCE + BEATS * BUS]
    assert events["beats"].tolist()[:2] == [BEATS, BEATS]


@pytest.mark.parametrize("seed", range(8))
def test_back_pressure_delays_but_changes_nothing(machine, seed):
    quick = machine.run(JOB, FAST).counters.cycles
    machine.reset()
    done = machine.run(JOB, FAST, mischief=Mischief(pressure=128, seed=seed))
    assert_copied(machine)
    assert done.counters.cycles > 1.3 * quick
    again = machine.run(JOB, FAST, mischief=Mischief(pressure=128, seed=seed))
    assert again.counters == done.counters


EXPECTED = {
    "ar_moves": "AR changes what it offered",
    "ar_leaves": "AR takes back what it offered",
    "aw_moves": "AW changes what it offered",
    "w_moves": "W changes what it offered",
    "w_leaves": "W takes back what it offered",
    "last_early": "WLAST comes before the burst's last beat",
    "last_late": "WLAST is missing",
    "write_first": "a beat on W belongs to no burst of AW",
    "wide": "a burst on AR is not as wide as the bus",
    "fixed": "a burst on AR is not of the kind INCR",
    "long": "a burst on AR has 17 beats",
    "inside_a_beat": "a burst on AR begins at 0x1001, inside a beat",
    "crosses": "a burst on AR at 0x1ff8 crosses 4 KiB",
    "writes_below": "a burst on AW at 0x3fe0 of 32 bytes leaves the window 0x4000 to 0x5000",
    "writes_above": "a burst on AW at 0x5000 of 32 bytes leaves the window 0x4000 to 0x5000",
    "reads_outside": "a burst on AR at 0x101000 of 32 bytes leaves the window 0x1000 to 0x2000",
}


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_a_planted_fault_is_caught(machine, fault):
    machine.write(FAULT, FAULTS.index(fault))
    wrong = EXPECTED.get(fault, "")
    if fault == "hangs":
        wrong = r"hangs: no beat on the bus and no step of a sum for 500 cycles"
    if fault == "stops":
        wrong = r"stopped with an error: an illegal command \(status 0x6, 7 commands dispatched\)"
    with pytest.raises(DeviceError, match=wrong) as caught:
        machine.run(JOB, FAST, mischief=Mischief(pressure=128, seed=1), patience=500)
    assert "cycle" in str(caught.value) or fault == "stops"
    machine.reset()
    machine.write(FAULT, 0)
    machine.run(JOB, FAST)


def test_every_rule_has_its_fault():
    assert set(EXPECTED) | {"hangs", "stops", "none"} == set(FAULTS)
    assert all(EXPECTED.values())


def test_what_lies_outside_the_memory_is_refused(machine):
    job = Start(MEMORY, 1, MEMORY, MEMORY + WINDOW, TARGET, TARGET + WINDOW)
    with pytest.raises(DeviceError, match="stopped with an error"):
        machine.run(job, FAST, events=100)
    events = machine.events()
    assert events["resp"][events["channel"] == CHANNELS.index("R")].tolist() == [3] * ROUND
    assert not machine.memory[TARGET : TARGET + ROUND * BUS].any(), "reads outside give zeros"
    before = machine.memory.copy()
    job = Start(SOURCE, 1, SOURCE, SOURCE + WINDOW, MEMORY, MEMORY + WINDOW)
    with pytest.raises(DeviceError, match="stopped with an error"):
        machine.run(job, FAST, events=100)
    events = machine.events()
    assert events["resp"][events["channel"] == CHANNELS.index("B")].tolist() == [3, 3]
    assert machine.totals()["dropped"] == ROUND
    assert (machine.memory == before).all(), "writes outside change nothing"


def test_errors_are_injected_where_asked(machine):
    with pytest.raises(DeviceError, match="stopped with an error"):
        machine.run(JOB, FAST, mischief=Mischief(fail_read_beat=11), events=1000)
    events = machine.events()
    responses = events["resp"][events["channel"] == CHANNELS.index("R")]
    assert np.flatnonzero(responses).tolist() == [11] and responses[11] == 2
    machine.reset()
    with pytest.raises(DeviceError, match="stopped with an error"):
        machine.run(JOB, FAST, mischief=Mischief(fail_write_burst=3), events=1000)
    events = machine.events()
    responses = events["resp"][events["channel"] == CHANNELS.index("B")]
    assert responses.tolist() == [0, 0, 0, 2]


def test_a_reset_in_the_middle_leaves_nothing_behind(machine):
    for ahead in (3, 17, 40, 41, 42, 43, 60):
        machine.begin(JOB, MemorySettings(5, 2, 7, 3))
        assert not machine.step(ahead)
        machine.reset()
        assert machine.read("status") == 0
        machine.run(JOB, FAST)
        assert_copied(machine)


def test_a_limit_of_cycles_ends_the_run(machine):
    with pytest.raises(DeviceError, match="not done after 50 cycles"):
        machine.run(JOB, FAST, cycle_limit=50)


def test_progress_adds_up(machine):
    seen = []
    done = machine.run(JOB, FAST, progress=seen.append)
    assert done.counters.cycles <= sum(seen) <= done.cycles


def test_registers_that_are_not_there_and_another_spec(machine):
    with pytest.raises(DeviceError, match="register 0xf0 is answered with an error"):
        machine.read(0xF0)
    machine.spec = catalog.EDGE_8X8
    try:
        with pytest.raises(DeviceError, match="register array holds .* EDGE_8X8 has"):
            machine.check_identity()
    finally:
        machine.spec = SPEC


def test_settings_below_one_are_refused():
    with pytest.raises(DataError, match="read_interval of the memory is at least 1 cycle, got 0"):
        MemorySettings(read_interval=0)


def test_waveforms_of_a_window(machine, tmp_path):
    with pytest.raises(ToolError, match="no waveforms"):
        machine.trace(tmp_path / "a.vcd")
    with Cosim(SPEC, MEMORY, "vcd", verilog=copy_engine()) as one:
        one.trace(tmp_path / "a.vcd", 10, 20)
        one.run(JOB, FAST)
        one.trace(None)
    text = (tmp_path / "a.vcd").read_text()
    assert "bus__arvalid" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert 10 <= len(times) <= 20, "at most two a cycle"
    assert times == sorted(times)


def test_fst_names_the_headers_it_needs(monkeypatch):
    monkeypatch.setattr(cosim.tools, "check_headers", _missing)
    with pytest.raises(ToolError, match="lz4"):
        cosim.build(SPEC, "fst", verilog=copy_engine())


def _missing(*names):
    raise ToolError(f"FST waveforms need the header {names[0]}")


@pytest.mark.parametrize("name", ["EDGE_2X2", "EDGE_16X16"])
def test_other_widths_of_the_bus(name):
    spec = catalog.get(name)
    job = Start(SOURCE, 3, SOURCE, SOURCE + WINDOW, TARGET, TARGET + WINDOW)
    size = 3 * ROUND * spec.memory.bus_bits // 8
    with Cosim(spec, MEMORY, verilog=copy_engine(spec)) as one:
        one.memory[:] = np.random.default_rng(1).integers(0, 256, MEMORY, dtype=np.uint8)
        one.check_identity()
        one.run(job, FAST, mischief=Mischief(pressure=64))
        assert (one.memory[TARGET : TARGET + size] == one.memory[SOURCE : SOURCE + size]).all()


def test_the_structures_of_both_languages_are_as_long():
    assert ctypes.sizeof(cosim._Settings) == 8 * 13
    assert cosim.EVENT.itemsize == 24


class Store(wiring.Component):
    """A memory with contents at the start."""

    def __init__(self, contents) -> None:
        self.contents = contents
        super().__init__({"address": In(2), "data": Out(8), "given": In(8), "enable": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.held = held = memory.Memory(shape=8, depth=4, init=self.contents)
        read, write = held.read_port(), held.write_port()
        m.d.comb += [
            read.addr.eq(self.address),
            self.data.eq(read.data),
            write.addr.eq(self.address),
            write.data.eq(self.given),
            write.en.eq(self.enable),
        ]
        return m


def test_memories_that_begin_with_zeros_are_not_cleared():
    assert "8'h2a" in convert(Store([42, 7]), "store")
    cleared = convert(Store([]), "store")
    assert "held" in cleared and not re.search(r"held\[\d+\] = 8'", cleared)


def test_rows_of_engines_are_marked_for_verilator():
    text = (
        "module opennpe_engine_row(a, b);\nendmodule\nmodule opennpe_engine_rows(a);\nendmodule\n"
    )
    marked = hierarchical(text)
    assert marked.count("/*verilator hier_block*/") == 1
    assert "opennpe_engine_row(a, b); /*verilator hier_block*/" in marked


def test_generated_text_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENNPE_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return f"text {len(made)}"

    assert verilated.remembered(make, "a") == "text 1"
    assert verilated.remembered(make, "a") == "text 1"
    assert verilated.remembered(make, "b") == "text 2"
    assert len(list((tmp_path / "rtl").iterdir())) == 2
    monkeypatch.setattr(verilated.metadata, "version", lambda name: "0")
    assert verilated.remembered(make, "a") == "text 3", "another Amaranth makes another text"
