"""Boards: their data, their clocks, early refusals, and projects for Vivado."""

import json
import re
import sys

import pytest
from opennpe.cli.main import main
from opennpe.fpga import boards, build, families, place_route, plls, shell, toolchain, vivado
from opennpe.golden import catalog
from opennpe.golden.errors import SpecError, ToolError
from opennpe.rtl.board_top import BoardTop

pytestmark = pytest.mark.fast

FREE = [board for board in boards.BOARDS.values() if board.made_of.placed]


@pytest.mark.parametrize("board", FREE, ids=lambda board: board.name)
def test_every_port_of_the_top_has_a_pin(board):
    top = shell.Shell(board, None, _Quiet())
    top._MustUse__used = True  # only its signature is looked at
    ports = {"__".join(path) for path, _, _ in top.signature.flatten(top)}
    text = boards.constraints(board)
    assert ports == {pin.port for pin in board.pins}
    assert all(re.search(rf"\b{port}\b", text) for port in ports)
    assert len({pin.site for pin in board.pins}) == len(board.pins)


class _Quiet:
    receive = transmit = None


@pytest.mark.parametrize("wanted", [30.0, 50.0, 60.0, 75.0])
@pytest.mark.parametrize("board", boards.BOARDS.values(), ids=lambda board: board.name)
def test_the_clock_is_what_its_divisions_give(board, wanted):
    cell = board.made_of.pll
    limits = plls.LIMITS[cell]
    ratio = plls.solve(cell, board.clock_mhz, wanted)
    compared = ratio.given / ratio.divide
    if limits.feedback == "output":
        mhz, vco = compared * ratio.multiply, compared * ratio.multiply * ratio.post
    else:
        vco = compared * ratio.multiply
        mhz = vco / ratio.post
    assert (ratio.mhz, ratio.vco) == pytest.approx((mhz, vco))
    assert abs(mhz - wanted) <= 0.02 * wanted
    assert limits.vco[0] <= vco <= limits.vco[1]
    assert limits.compare[0] <= compared <= limits.compare[1]
    assert plls.parameters(cell, ratio)


def test_the_ecp5_clock_is_what_the_maker_gives():
    """25 to 50 MHz as ecppll of Project Trellis divides it."""
    found = plls.parameters("EHXPLLL", plls.solve("EHXPLLL", 25.0, 50.0))
    assert (found["CLKI_DIV"], found["CLKFB_DIV"], found["CLKOP_DIV"]) == (1, 2, 12)


def test_cells_count_by_kind():
    found = families.get("ecp5").count({"LUT4": 10, "CCU2C": 3, "TRELLIS_FF": 7, "PFUMX": 5})
    assert (found["luts"], found["carries"], found["ffs"], found["dsps"]) == (16, 3, 7, 0)
    found = families.get("xc7").count({"LUT1": 1, "LUT6": 2, "FDRE": 3, "RAMB18E1": 1})
    assert (found["luts"], found["ffs"], found["brams"]) == (3, 3, 0.5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "ulx4s"], "unknown board 'ulx4s': expected one of ulx3s, icebreaker"),
        (["fit", "icebreaker", "--spec", "EDGE_4X4"], "KiB of block RAM, 1BitSquared"),
        (["fit", "ulx3s", "--design", "gpu"], "unknown design 'gpu': expected coprocessor or"),
        (["build", "artya7-100t"], "needs Vivado: write its project with 'opennpe fpga vivado"),
        (["vivado", "ulx3s"], "needs no Vivado: use 'opennpe fpga build ulx3s'"),
        (["fit", "ulx3s", "--freq", "900"], "900 MHz cannot be made from 25 MHz by EHXPLLL"),
        (["fit", "ulx3s", "--seeds", "1,x"], "seeds are numbers with commas between"),
        (["program", "ulx3s", "--out", "nowhere"], "there is no bitstream at nowhere/top.bit"),
        (["compare", "--family", "max10"], "unknown family 'max10': expected one of ecp5"),
    ],
)
def test_errors_are_one_line(arguments, expected, capsys):
    assert main(["fpga", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert "\n" not in said


def test_a_board_too_small_for_the_engines_is_refused(monkeypatch):
    counted = {"luts": 3000.0}
    monkeypatch.setattr(build.verilated, "remembered", lambda make, *parts: "")
    monkeypatch.setattr(
        build.utilisation, "count_verilog", lambda *given: type("Counts", (), {"kinds": counted})()
    )
    small = catalog.EDGE_4X4.memory.__class__(
        bus_bits=64, buffer_lines=16, operand_lines=4, weight_lines=4
    )
    spec = catalog.CoprocessorSpec("SMALL", catalog.EDGE_8X8.array, small)
    with pytest.raises(SpecError, match=r"SMALL needs more than 192,000 LUT4 \(64 engines of 3,0"):
        build.check_size(boards.get("ulx3s"), spec, "coprocessor")
    counted["luts"] = 1000.0
    build.check_size(boards.get("ulx3s"), spec, "coprocessor")


def test_the_spec_of_the_ulx3s_leaves_half_its_block_ram():
    board, spec = boards.get("ulx3s"), catalog.ULX3S_4X4
    assert build.memory_bits(board, spec) < board.memory_bits // 2
    assert build.memory_bits(board, catalog.EDGE_4X4) > board.memory_bits * 0.6


def test_a_co_processor_is_behind_the_link_that_is_simulated():
    board = boards.get("ulx3s")
    top = build.component(board, catalog.EDGE_2X2, "coprocessor", 50e6)
    assert isinstance(top, BoardTop) and top.settings.divisor == 50
    assert top.memory.size == top.settings.memory_bytes == board.memory_bytes
    ports = {"__".join(path) for path, _, _ in top.signature.flatten(top)}
    assert ports == {"receive", "transmit", *boards.LIGHTS}
    with pytest.raises(SpecError, match="1000000 baud take a clock of 4000000 Hz at least"):
        build.component(board, catalog.EDGE_2X2, "coprocessor", 3e6)


def test_a_missing_tool_names_its_cure(monkeypatch):
    def missing(name):
        raise toolchain.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(toolchain.metadata, "version", missing)
    with pytest.raises(ToolError, match=r"nextpnr-ecp5 is missing: pip install 'opennpe\[fpga\]'"):
        toolchain.command("nextpnr-ecp5", {})
    with pytest.raises(ToolError, match="ECPPACK names '/no/such', which is not there"):
        toolchain.command("ecppack", {"ECPPACK": "/no/such"})
    with pytest.raises(ToolError, match="/no/loader is missing: install it"):
        toolchain.loader({"OPENFPGALOADER": "/no/loader"})


def test_a_failing_tool_is_quoted(tmp_path):
    code = "print('Info: fine'); print('ERROR: no room'); raise SystemExit(3)"
    tool = next(iter(toolchain.TOOLS.values()))
    command = [sys.executable, "-c", code, tool.code()]
    with pytest.raises(ToolError, match="nextpnr-ecp5 failed with status 3: ERROR: no room"):
        toolchain.run(command, tmp_path, tmp_path / "log")


def test_the_log_of_place_and_route_shows_progress():
    class Told:
        def __init__(self):
            self.stages, self.steps = [], 0

        def stage(self, text, total):
            self.stages.append((text, total))

        def advance(self, steps=1):
            self.steps += steps

    told = Told()
    listen = place_route._listener(told)
    listen("Info:     at iteration #1, type ALL: wirelen solved = 864, spread = 21811\n")
    listen("Info: Routing 13660 arcs.\n")
    listen(
        "Info:       1000 |      579        420 |  579   420 |     13341|       0.58       0.58|\n"
    )
    listen(
        "Info:       2000 |     1001        998 |  422   578 |     12886|       0.42       1.00|\n"
    )
    assert told.stages == [("place", place_route.ITERATIONS), ("route", 136)]
    assert told.steps == 1 + (13660 - 12886) // 100


def test_steps_are_kept_by_their_content(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "file").write_text("x")

    for key, times in (("a", 1), ("a", 1), ("b", 2)):
        build.Steps(tmp_path).run("step", key, ("file",), make)
        assert len(made) == times
    (tmp_path / "file").unlink()
    build.Steps(tmp_path).run("step", "b", ("file",), make)
    assert len(made) == 3


def test_a_report_without_a_clock_is_refused(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"fmax": {}, "utilization": {}}))
    with pytest.raises(ToolError, match="no clock or no cells"):
        place_route.read_report(tmp_path / "r.json")


@pytest.mark.parametrize("name", ["artya7-100t", "vcu129"])
def test_a_vivado_project_names_what_exists(name, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "check_size", lambda *given: None)
    board = boards.get(name)
    files = vivado.emit(board, catalog.EDGE_1X1, tmp_path)
    assert complaints(board, {path.name: path.read_text() for path in files}) == []


def complaints(board, texts):
    """Files that the script adds and are not there, ports that constraints name and no one has."""
    tcl, verilog = texts[vivado.SCRIPT], texts[vivado.SOURCE]
    added = re.findall(r"add_files (?:-fileset \w+ )?-norecurse (\S+)", tcl)
    found = [f for f in added if f not in texts and f != vivado.PINS]
    head = re.search(rf"^module {shell.TOP}\(([^;]*)\);", verilog, re.M)[1]
    ports = {part.strip() for part in head.split(",")}
    named = " ".join(
        re.findall(
            r"get_ports \{?([^\]}]*)\}?\]",
            "\n".join(text for file, text in texts.items() if file.endswith(".xdc")),
        )
    ).split()
    found += sorted(set(named) - ports)
    if board.pins:
        found += sorted(ports - set(named))
    if f"set top {shell.TOP}\n" not in tcl or f"set part {board.device}\n" not in tcl:
        found.append("top or part")
    steps = ("synth_design", "place_design", "route_design", "write_bitstream")
    return found + [step for step in steps if f"\n{step}" not in tcl.replace("  ", "")]


def test_a_planted_fault_in_a_vivado_project_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "check_size", lambda *given: None)
    board = boards.get("artya7-100t")
    texts = {path.name: path.read_text() for path in vivado.emit(board, catalog.EDGE_1X1, tmp_path)}
    for file, old, new, expected in (
        (vivado.PINS, "{receive}", "{recieve}", "recieve"),
        (vivado.SCRIPT, "norecurse top.v", "norecurse tip.v", "tip.v"),
        (vivado.SCRIPT, "route_design", "", "route_design"),
    ):
        assert old in texts[file]
        assert expected in complaints(board, {**texts, file: texts[file].replace(old, new)})
