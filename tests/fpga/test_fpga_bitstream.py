"""Bitstreams end to end: a small design on each family, an engine in the slow regressions."""

import json

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from opennpe.cli.main import main
from opennpe.fpga import boards, build, place_route, shell, utilisation
from opennpe.fpga.progress import Silent
from opennpe.golden.errors import ToolError
from opennpe.rtl import verilog

FREE = [board.name for board in boards.BOARDS.values() if board.made_of.placed]
HEADERS = {"ulx3s": b"\xff\x00", "icebreaker": b"\xff\x00", "tangnano9k": b"11111111"}


class Echo(wiring.Component):
    """Sends what it hears, and counts."""

    def __init__(self):
        super().__init__({"receive": In(1), "transmit": Out(1), "heartbeat": Out(1)})

    def elaborate(self, platform):
        m = Module()
        count = Signal(20)
        m.d.sync += [self.transmit.eq(self.receive), count.eq(count + 1)]
        m.d.comb += self.heartbeat.eq(count[-1])
        return m


@pytest.mark.parametrize("name", FREE)
def test_a_small_design_becomes_a_bitstream(name, tmp_path):
    board = boards.get(name)
    ratio = shell.clock(board, 30.0)
    text = verilog.convert(shell.Shell(board, ratio, Echo()), shell.TOP)
    counts = utilisation.synthesise(
        board.made_of, text, shell.TOP, tmp_path / place_route.NETLIST, tmp_path / "yosys.log"
    )
    assert counts.kinds["ffs"] >= 20 and counts.cells[board.made_of.pll] == 1
    (tmp_path / place_route.PINS).write_text(boards.constraints(board))
    placed = place_route.place_and_route(board, tmp_path, ratio.mhz, 1, Silent())
    assert placed.clocks[0].closes and placed.path_ns > 0
    bits = place_route.pack(board, tmp_path)
    assert bits.stat().st_size > 10_000 and bits.read_bytes().startswith(HEADERS[name])


@pytest.mark.fast
def test_a_clock_that_is_not_reached_makes_no_bitstream(tmp_path, monkeypatch):
    slow = build.Fit(
        *("icebreaker", "", "EDGE_1X1", "engine", 1),
        kinds={},
        used={},
        clocks=(place_route.Clock("clk", 10.0, 12.0),),
        path={},
        seconds={},
    )
    monkeypatch.setattr(build, "fit", lambda *given, **options: slow)
    with pytest.raises(ToolError, match=r"reaches 10\.0 MHz, wanted 12\.0: choose a lower --freq"):
        build.build(boards.get("icebreaker"), build_spec(), tmp_path)
    assert not list(tmp_path.glob("top.*"))


def build_spec():
    from opennpe.golden import catalog

    return catalog.EDGE_1X1


@pytest.mark.regress
@pytest.mark.parametrize("name", ["icebreaker", "tangnano9k"])
def test_an_engine_becomes_a_bitstream_and_is_kept(name, tmp_path, capsys):
    arguments = ["fpga", "build", name, "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["closes"] and (tmp_path / place_route.BITSTREAMS[boards.get(name).family]).exists()
    assert main(arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["cached"] == ["synthesise", "place", "pack"]
    assert second["clocks"] == first["clocks"]
