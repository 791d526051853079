"""The disassembler shows every command, and what a program is refused for."""

import json
import re

import pytest
from host_cases import SPECS, random_network
from opennpe.cli import disasm
from opennpe.cli.main import main
from opennpe.golden import program
from opennpe.golden.commands import UNITS, WAITS
from opennpe.host.compile import compile

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    network, _ = random_network(3)
    path = tmp_path_factory.mktemp("disasm") / "p.npe"
    program.save(compile(network, SPECS["4x4"], "all"), path)
    return path


def test_a_line_a_command(saved, capsys):
    assert main(["disasm", str(saved)]) == 0
    text = capsys.readouterr().out
    held = program.load(saved)
    for offset, command in held.commands:
        (line,) = re.findall(rf"^  {offset:06x}  {command.op}.*$", text, re.MULTILINE)
        for unit, wait in zip(UNITS, WAITS, strict=True):
            assert (f"{unit}>={command[wait]}" in line) == bool(command[wait])
    for symbol in held.symbols:
        assert f"0x{symbol.address:08x}" in text and symbol.name in text
    for layer in set(held.layers) - {""}:
        assert f"\n{layer}:\n" in text


def test_json_holds_the_same(saved, capsys):
    assert main(["disasm", str(saved), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(disasm.describe(saved)))
    held = program.load(saved)
    assert [c["op"] for c in found["commands"]] == [c.op for _, c in held.commands]
    execs = [c["fields"] for c in found["commands"] if c["op"] == "exec"]
    assert execs and all(c["kind"] in ("dense", "depth", "max") for c in execs)


def test_what_is_no_program_is_one_line(tmp_path, capsys):
    path = tmp_path / "x"
    path.write_bytes(b"not a program at all" * 9)
    assert main(["disasm", str(path)]) == 2
    assert capsys.readouterr().err == f"opennpe: error: '{path}' is no program file\n"
