"""The manifest against the Verilog it came with, as two independent parsers read it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyslang.ast
import pyslang.syntax
import pytest
from opennpe.golden import catalog
from opennpe.rtl import verilog
from pyverilog.vparser import ast
from pyverilog.vparser.parser import VerilogParser

pytestmark = pytest.mark.fast

Port = tuple[str, int]
"""Direction and width."""


@dataclass(frozen=True)
class Reading:
    """What a parser found: the top, its ports by name, and every module under it."""

    top: str
    ports: dict[str, Port]
    modules: frozenset[str]


def by_pyslang(path: Path) -> Reading:
    """Elaborated by slang; what it calls an error is one here."""
    compilation = pyslang.ast.Compilation()
    compilation.addSyntaxTree(pyslang.syntax.SyntaxTree.fromFile(str(path)))
    errors = [str(d.code) for d in compilation.getAllDiagnostics() if d.isError()]
    assert not errors, f"slang refuses the Verilog: {errors[:3]}"
    (top,) = compilation.getRoot().topInstances
    names = {"In": "input", "Out": "output"}
    ports = {
        port.name: (names[port.direction.name], int(port.type.bitWidth))
        for port in top.body.portList
    }
    modules: set[str] = set()

    def note(symbol: Any) -> None:
        if isinstance(symbol, pyslang.ast.InstanceSymbol):
            modules.add(symbol.definition.name)

    compilation.getRoot().visit(note)
    return Reading(top.name, ports, frozenset(modules))


@lru_cache(maxsize=1)
def _pyverilog() -> Any:
    """Its parser, made once: the tables take seconds, and are written where it is told."""
    with tempfile.TemporaryDirectory() as folder:
        return VerilogParser(outputdir=folder, debug=False)


def by_pyverilog(path: Path) -> Reading:
    """Parsed by pyverilog; the top is the module that none instantiates."""
    parsed = _pyverilog().parse(path.read_text())
    definitions = {d.name: d for d in parsed.description.definitions}
    used = {
        item.module
        for definition in definitions.values()
        for item in definition.items
        if isinstance(item, ast.InstanceList)
    }
    assert used <= set(definitions), "a module is instantiated and not there"
    (top,) = set(definitions) - used
    ports = {
        found.name: (type(found).__name__.lower(), _width(found))
        for item in definitions[top].items
        if isinstance(item, ast.Decl)
        for found in item.list
        if isinstance(found, ast.Input | ast.Output | ast.Inout)
    }
    listed = [port.name for port in definitions[top].portlist.ports]
    assert sorted(listed) == sorted(ports)
    return Reading(top, ports, frozenset(definitions))


def _width(declared: Any) -> int:
    if declared.width is None:
        return 1
    return int(declared.width.msb.value) - int(declared.width.lsb.value) + 1


PARSERS = {"pyslang": by_pyslang, "pyverilog": by_pyverilog}


def differences(manifest: dict[str, Any], found: Reading) -> list[str]:
    """Where a manifest and a reading disagree."""
    said: dict[str, Port] = {p["name"]: (p["direction"], p["width"]) for p in manifest["ports"]}
    wrong = []
    if manifest["top"] != found.top:
        wrong.append(f"top: manifest {manifest['top']}, Verilog {found.top}")
    for name in sorted(said.keys() | found.ports.keys()):
        if said.get(name) != found.ports.get(name):
            wrong.append(f"port {name}: manifest {said.get(name)}, Verilog {found.ports.get(name)}")
    prefix = manifest["top"].rsplit("_", 1)[0]
    for stage in manifest["stages"]:
        if f"{prefix}_{stage}" not in found.modules:
            wrong.append(f"stage {stage}: no module {prefix}_{stage}")
    for port in manifest["ports"]:
        if "fields" in port:
            wrong += _field_gaps(port)
    return wrong


def _field_gaps(port: dict[str, Any]) -> list[str]:
    """Fields must fill their port without gaps, from bit 0 up."""
    place = 0
    for field in port["fields"]:
        if field["offset"] != place:
            return [f"{port['name']}.{field['name']} begins at {field['offset']}, not {place}"]
        place += field["width"]
    if place != port["width"]:
        return [f"fields of {port['name']} end at {place}, the port at {port['width']}"]
    return []


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    source, manifest = verilog.emit(catalog.EDGE_4X4, tmp_path_factory.mktemp("verilog"))
    return source, json.loads(manifest.read_text())


@pytest.mark.parametrize("parser", PARSERS)
def test_manifest_is_the_verilog(parser: str, emitted: tuple[Path, dict[str, Any]]) -> None:
    source, manifest = emitted
    found = PARSERS[parser](source)
    assert len(found.ports) == 15
    assert differences(manifest, found) == []


def test_the_parsers_agree(emitted: tuple[Path, dict[str, Any]]) -> None:
    assert by_pyslang(emitted[0]) == by_pyverilog(emitted[0])


def _narrower(text: str) -> str:
    return text.replace("[18:0] results__payload", "[17:0] results__payload")


def _turned(text: str) -> str:
    head, engine = text.split("module opennpe_engine(")
    return (
        f"{head}module opennpe_engine({engine.replace('input words__valid', 'output words__valid')}"
    )


def _renamed(text: str) -> str:
    return text.replace("words__ready", "words__redy")


def _other_top(text: str) -> str:
    return text.replace("module opennpe_engine(", "module opennpe_motor(")


def _no_stage(text: str) -> str:
    return re.sub(r"\bopennpe_align\b", "opennpe_aline", text)


PLANTED: dict[str, tuple[Callable[[str], str], str]] = {
    "width": (_narrower, "port results__payload"),
    "direction": (_turned, "port words__valid"),
    "name": (_renamed, "port words__ready"),
    "top": (_other_top, "top: manifest"),
    "stage": (_no_stage, "stage align"),
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_mismatch_is_caught(
    parser: str, planted: str, emitted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, manifest = emitted
    change, message = PLANTED[planted]
    text = source.read_text()
    assert change(text) != text
    # Without its logic the Verilog parses fast.
    changed = tmp_path / "changed.v"
    changed.write_text(change(_skeleton(text)))
    found = PARSERS[parser](changed)
    assert any(line.startswith(message) for line in differences(manifest, found))


def test_the_skeleton_alone_is_no_mismatch(
    emitted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, manifest = emitted
    plain = tmp_path / "plain.v"
    plain.write_text(_skeleton(source.read_text()))
    for parser in PARSERS.values():
        assert differences(manifest, parser(plain)) == []


def test_fields_with_gaps_are_caught(emitted: tuple[Path, dict[str, Any]]) -> None:
    source, manifest = emitted
    found = by_pyslang(source)
    for port in json.loads(json.dumps(manifest["ports"])):
        if "fields" not in port:
            continue
        port["fields"][-1]["width"] += 1
        others = [p for p in manifest["ports"] if p["name"] != port["name"]]
        assert differences({**manifest, "ports": [*others, port]}, found)


def _skeleton(text: str) -> str:
    """Module headers, declarations and instances; the logic left out."""
    kept, instance = [], False
    for line in text.splitlines():
        begins = re.match(r"  opennpe_\w+ +\\?\S+ +\(", line) is not None
        declares = re.match(r"(module|endmodule)\b|  (input|output|wire|reg)\b", line) is not None
        if declares or begins or instance:
            kept.append(line)
        instance = (instance or begins) and not line.strip().startswith(");")
    return "\n".join(kept) + "\n"
