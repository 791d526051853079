"""Proofs by SymbiYosys: what the co-processor says on its buses is AXI, whatever happens.

Handshakes are stable, bursts legal and inside their windows, beats belong to accepted bursts:
by induction, so for ever, at a small spec. Only the data of W, which pass a memory, are bounded.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_axi_plant import planted
from formal_axi import (
    LONE,
    SMALL,
    TWO_BEATS,
    ControlHarness,
    Harness,
    LoadHarness,
    PayloadHarness,
    StoreHarness,
    check,
    properties,
)
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.control import Control
from opennpe.rtl.load import Load
from opennpe.rtl.store import Store

pytestmark = pytest.mark.rtl

K = 2
"""Depth at which the inductions go through."""
DATA_DEPTH = 13
"""Cycles in which lines fill the queue, wait in it, leave it and take the same places again."""
SPECS = pytest.mark.parametrize("spec", [SMALL, TWO_BEATS], ids=["one beat a line", "two"])


@SPECS
def test_load_speaks_axi(spec: CoprocessorSpec, tmp_path: Path) -> None:
    verdict = check(LoadHarness(Load(spec)), tmp_path, "prove", K)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


@SPECS
def test_store_speaks_axi(spec: CoprocessorSpec, tmp_path: Path) -> None:
    verdict = check(StoreHarness(Store(spec)), tmp_path, "prove", K)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


def test_the_data_of_a_store_stay(tmp_path: Path) -> None:
    verdict = check(PayloadHarness(Store(SMALL)), tmp_path, "bmc", DATA_DEPTH)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


def test_registers_speak_axi_lite(tmp_path: Path) -> None:
    verdict = check(ControlHarness(Control(SMALL)), tmp_path, "prove", K)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


@pytest.mark.parametrize(
    ("harness", "depth"), [(LoadHarness(Load(SMALL)), 16), (StoreHarness(Store(SMALL)), 30)],
    ids=["load", "store"],
)  # fmt: skip
def test_the_assumptions_leave_room_for_four_bursts(
    harness: Harness, depth: int, tmp_path: Path
) -> None:
    assert check(harness, tmp_path, "cover", depth).status == "PASS"


UNITS = {
    "load": ("Load", LoadHarness),
    "store": ("Store", StoreHarness),
    "data": ("Store", PayloadHarness),
    "control": ("Control", ControlHarness),
}
ROOM = "room = longest - self.beat[: exact_log2(longest)]"
FAULTS = [
    # unit, module, text, what stands there instead, the property that fails
    ("load", "axi", ROOM, "room = Const(longest, 5)", "ar crosses 4 KiB"),
    ("store", "axi", ROOM, "room = Const(longest, 5)", "aw crosses 4 KiB"),
    ("load", "axi", ROOM, "room = 2 * longest - self.beat[:2]", "ar is too long"),
    ("load", "axi", " | (end > limit)", "", "ar leaves the window"),
    ("store", "axi", " | (end > limit)", "", "aw leaves the window"),
    ("store", "axi", "(command.address < base) | ", "", "aw leaves the window"),
    ("store", "axi", "Const(0, self.skip)", "Const(1, self.skip)", "aw begins inside a beat"),
    ("load", "load", "free = ~bus.arvalid | bus.arready", "free = Const(1)",
     "AR changes while it waits"),
    ("load", "load", "with m.If(bus.arready):", "with m.If(Const(1)):", "AR is withdrawn"),
    ("load", "load", "(asked < most)", "(asked <= most)", "too many bursts"),
    ("load", "load", "self.transfers.valid & (~last | free)", "self.transfers.valid",
     "a line changes while it waits"),
    ("store", "store", "with m.If(bus.awvalid & bus.awready):", "with m.If(bus.awvalid):",
     "AW is withdrawn"),
    ("store", "store", "bus.wvalid.eq(self.lines.r_rdy)",
     "bus.wvalid.eq(self.lines.r_rdy & self.reads.ready)", "W is withdrawn"),
    ("store", "store", "ends | (in_burst == longest - 1)", "ends", "WLAST in the wrong beat"),
    ("store", "store", ", m.If(~unanswered.any()):", ", m.If(unanswered < 99):", "done too early"),
    ("data", "store", "lines.r_data.word_select", "self.data.word_select",
     "W changes while it waits"),
    ("control", "control", "with m.If(bus.bready):", "with m.If(Const(1)):", "B is withdrawn"),
    ("control", "control", "bus.arvalid & ~bus.rvalid", "bus.arvalid", "R without its request"),
    ("control", "control", "with m.If(bus.rready):", "m.d.sync += bus.rdata.eq(bus.wdata)\n"
     "        with m.If(bus.rready):", "R changes while it waits"),
    ("control", "control", "bus.awvalid & bus.wvalid & ~bus.bvalid", "bus.awvalid & ~bus.bvalid",
     "half a write"),
    ("control", "control", " & ~self.busy & ~self.start", "", "a start while busy"),
    ("load", "axi", '("burst", BURST_INCR)', '("burst", 2)', "ar is no INCR"),
    ("load", "axi", '("size", self.skip)', '("size", 0)', "ar is narrow"),
    ("load", "load", "with m.Elif(free):", "with m.Elif(writes.valid):", "a line is withdrawn"),
    ("store", "store", "asks.eq(~bus.awvalid & may_ask)", "asks.eq(may_ask)",
     "AW changes while it waits"),
    ("store", "store", "with m.If(self.beat & bus.wlast):", "with m.If(self.beat):",
     "AW before the last burst is through"),
    ("store", "store", "[moving.eq(1), self.addressing.eq(1)]",
     "[moving.eq(1), self.addressing.eq(1), bus.wvalid.eq(self.lines.r_rdy)]",
     "W without its AW"),
    ("store", "store", "bus.wstrb.eq(-1)", "bus.wstrb.eq(-2)", "a beat with holes"),
    ("control", "control", "bus.wready.eq(accepts)]",
     "bus.wready.eq(accepts), bus.bresp.eq(bus.awprot)]", "B changes while it waits"),
    ("control", "control", "with m.If(bus.rready):", "with m.If(Const(1)):", "R is withdrawn"),
    ("control", "control", " & ~bus.bvalid & ~bus.awready", " & ~bus.awready",
     "B without its request"),
    ("control", "control", "bus.wready.eq(accepts)]", "]", "AW and W part"),
    ("control", "control", "bus.arvalid & ~bus.rvalid", "~bus.rvalid", "a read of nothing"),
]  # fmt: skip


def test_every_property_has_its_fault() -> None:
    shown = {re.sub("^a[rw] ", "", fault[-1]) for fault in FAULTS}
    for name, harness in UNITS.values():
        unit = {"Load": Load, "Store": Store, "Control": Control}[name](SMALL)
        there = {re.sub("^a[rw] ", "", text) for text in properties(harness(unit, lemmas=False))}
        assert there and not there - shown


@pytest.mark.parametrize(
    ("unit", "module", "old", "new", "property_"), FAULTS, ids=[f"{f[0]}: {f[4]}" for f in FAULTS]
)
def test_a_planted_fault_is_found(
    unit: str, module: str, old: str, new: str, property_: str, tmp_path: Path
) -> None:
    name, harness = UNITS[unit]
    component = getattr(planted(name.lower(), module, old, new), name)
    spec = LONE if "many" in property_ else SMALL
    planted_harness = harness(component(spec), lemmas=False)
    verdict = check(planted_harness, tmp_path, "bmc", DATA_DEPTH, property_)
    assert verdict.status == "FAIL"
    assert property_ in verdict.broken, verdict.broken
