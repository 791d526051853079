"""The AXI side's Verilog under cocotb and cocotbext-axi: runs ``bench_axi_tests.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_axi_monitor import CHANNELS, LITE, LiteRules, ProtocolError, Rules, signals
from bench_axi_plant import planted
from bench_axi_top import SPECS, AxiBench
from bench_runner import BenchFailure

SMALL = {"seed": 1, "cases": 6}
LARGE = {"seed": 20, "cases": 60}
COUNTED = ("loads", "stores", "both", "boundaries", "load errors", "store errors", "refusals",
           "load resets", "store resets", "settings", "places", "registers", "ar bursts",
           "aw bursts", "r beats", "w beats", "ar waits", "r waits", "aw waits", "w waits",
           "r errors", "b errors", "ar at 4 KiB", "aw at 4 KiB", "lite b", "lite r",
           "lite b waits", "lite r waits")  # fmt: skip
"""What a run must have come by."""


@pytest.fixture(scope="module", params=["one beat", "two beats"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AxiBench:
    return AxiBench(request.param, tmp_path_factory.mktemp("axi"))


def judge(counts: dict[str, int], cases: int) -> None:
    print(counts)
    missing = [what for what in COUNTED if not counts.get(what)]
    assert not missing, f"never came by: {', '.join(missing)}"
    assert counts["loads"] >= 9 * cases and counts["stores"] >= 9 * cases


@pytest.mark.rtl
def test_axi_side_under_cocotb(bench: AxiBench) -> None:
    judge(bench.run(SMALL), SMALL["cases"])
    with pytest.raises(BenchFailure, match="no cocotb test ran"):
        bench.run(SMALL, "no_such_test")


@pytest.mark.rtl
@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SPECS)
def test_axi_side_under_cocotb_at_length(name: str, tmp_path: Path) -> None:
    judge(AxiBench(name, tmp_path).run(LARGE), LARGE["cases"])


def test_no_case_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="never came by: loads"):
        judge({}, 0)


# -- faults planted in the gates, all in one build: each test of the bench meets its own ----------


@pytest.mark.rtl
def test_planted_faults_are_caught(tmp_path: Path) -> None:
    load = planted("load", "axi", *CROSSING)
    store = planted("store", "store", "ends | (in_burst == longest - 1)", "ends")
    control = planted("control", "control", "(register & ~mask)", "0")
    faulty = AxiBench("one beat", tmp_path, {"load": load, "store": store, "control": control})
    for test, message in (
        ("loads_bring_every_line", "crosses 4 KiB"),
        ("stores_bring_every_line", "wlast in the wrong beat"),
        ("registers_are_as_golden_lists_them", "byte strobes"),
    ):
        with pytest.raises(BenchFailure, match=message):
            faulty.run(SMALL, test)


CROSSING = ("room = longest - self.beat[: exact_log2(longest)]", "room = Const(longest, 5)")


# -- the judge itself -----------------------------------------------------------------------------

IDLE = dict.fromkeys(signals(CHANNELS), 0)
BYTES, BEATS = 4, 4
SOUND = {"addr": 64, "len": 1, "size": 2, "burst": 1, "valid": 1, "ready": 1}


def cycle(channel: str = "", **values: int) -> dict[str, int]:
    """Signals of a cycle in which one channel speaks."""
    return {**IDLE, **{channel + name: value for name, value in values.items()}}


def asked(channel: str, **values: int) -> dict[str, int]:
    return cycle(channel, **{**SOUND, **values})


def r(**values: int) -> dict[str, int]:
    return cycle("r", **{"valid": 1, "ready": 1, **values})


def w(**values: int) -> dict[str, int]:
    return cycle("w", **{"valid": 1, "ready": 1, "strb": 15, **values})


B = cycle("b", valid=1, ready=1)
GOOD = [asked("ar"), r(), r(last=1), asked("aw"), w(ready=0), w(), w(last=1), B]


def rules() -> Rules:
    return Rules(BYTES, BEATS, 2, lambda: {"ar": (0, 1 << 20), "aw": (64, 72)})


@pytest.mark.fast
def test_the_judge_lets_good_cycles_pass() -> None:
    judge_ = rules()
    for bus in GOOD:
        judge_.step(bus)
    assert judge_.quiet and judge_.seen["r beats"] == judge_.seen["w beats"] == 2
    assert judge_.seen["w waits"] == judge_.seen["b good"] == 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("cycles", "message"),
    [
        ([asked("ar", ready=0), IDLE], "ar is withdrawn"),
        ([asked("aw", ready=0), asked("aw", len=0)], "aw changes while it waits"),
        ([asked("ar"), r(ready=0), IDLE], "r is withdrawn"),
        ([asked("aw"), w(ready=0), w(data=1)], "w changes while it waits"),
        ([asked("ar", len=4)], "at most 4"),
        ([asked("ar", addr=4092)], "crosses 4 KiB"),
        ([asked("ar", addr=66)], "inside a beat"),
        ([asked("ar", size=1)], "size 1, burst 1"),
        ([asked("ar", burst=0)], "size 2, burst 0"),
        ([asked("ar", addr=1 << 20)], "ar .* leaves 0x0 to 0x100000"),
        ([asked("aw", addr=60)], "aw .* leaves 0x40 to 0x48"),
        ([asked("aw", addr=68)], "aw .* leaves"),
        ([asked("ar")] * 3, "3 read bursts in flight"),
        ([r()], "r without a burst"),
        ([asked("ar"), r(last=1)], "rlast in the wrong beat"),
        ([asked("ar"), r(), r()], "rlast in the wrong beat"),
        ([w()], "w without its aw"),
        ([{**asked("aw"), **{k: v for k, v in w().items() if k[0] == "w"}}], "w without its aw"),
        ([asked("aw"), w(last=1)], "wlast in the wrong beat"),
        ([asked("aw"), w(), w()], "wlast in the wrong beat"),
        ([asked("aw"), w(strb=7)], "holes"),
        ([asked("aw"), w(), B], "b without a burst"),
        ([*GOOD, B], "b without a burst"),
    ],
)
def test_the_judge_refuses(cycles: list[dict[str, int]], message: str) -> None:
    judge_ = rules()
    for bus in cycles[:-1]:
        judge_.step(bus)
    with pytest.raises(ProtocolError, match=message):
        judge_.step(cycles[-1])


def lite(*spoken: str, **values: int) -> dict[str, int]:
    """A cycle of AXI4-Lite in which channels are valid and ready; values change that."""
    bus = dict.fromkeys(signals(LITE), 0)
    bus |= {f"{channel}{side}": 1 for channel in spoken for side in ("valid", "ready")}
    return bus | values


@pytest.mark.fast
def test_the_lite_judge_lets_good_cycles_pass() -> None:
    judge_ = LiteRules()
    for bus in (lite("aw", awready=0), lite("aw", "w", "ar"), lite("b", "r", bready=0), lite("b")):
        judge_.step(bus)
    assert judge_.quiet and judge_.seen["b"] == judge_.seen["r"] == judge_.seen["b waits"] == 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("cycles", "message"),
    [
        ([lite("b")], "b without its request"),
        ([lite("aw"), lite("b")], "b without its request"),
        ([lite("aw", "w", "b")], "b without its request"),
        ([lite("r")], "r without its request"),
        ([lite("ar"), lite("r"), lite("r")], "r without its request"),
        ([lite("ar"), lite("r", rready=0), lite()], "r is withdrawn"),
        ([lite("ar"), lite("r", rready=0), lite("r", rdata=1)], "r changes while it waits"),
        ([lite("aw", "w"), lite("b", bready=0), lite("b", bresp=2)], "b changes while it waits"),
        ([lite("aw", awready=0), lite("aw", awaddr=4)], "aw changes while it waits"),
    ],
)
def test_the_lite_judge_refuses(cycles: list[dict[str, int]], message: str) -> None:
    judge_ = LiteRules()
    for bus in cycles[:-1]:
        judge_.step(bus)
    with pytest.raises(ProtocolError, match=message):
        judge_.step(cycles[-1])
