"""Program files: what is written comes back, and damage of every kind is refused."""

import hashlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from opennpe.golden import program
from opennpe.golden.catalog import EDGE_2X2, EDGE_4X4, STRICT_4X4
from opennpe.golden.commands import Command, encode
from opennpe.golden.errors import ProgramError
from opennpe.golden.layout import Layout
from opennpe.golden.machine import Window
from opennpe.golden.network import Tensor

pytestmark = pytest.mark.fast


def made(**changes):
    data = encode(Command("load", {"lines": 1, "address": 0})) + encode(Command("end"))
    logits = Tensor("logits", (1, 3), "posit8", 1)
    soft = Tensor("soft", (1, 3), "posit8", -1)
    symbols = (
        program.Symbol("x", 16, Layout(2, 2, 2, "posit8", 2, 4), (1, 2, 2, 2), 3, "input"),
        program.Symbol("logits", 0, Layout(3, 1, 1, "posit8", 1, 4), (1, 3), 1, "output"),
    )
    fields = {
        "name": "n",
        "spec": "EDGE_4X4",
        "facts": program.facts(EDGE_4X4),
        "image": np.frombuffer(data, dtype=np.uint8),
        "origin": 64,
        "size": 64 + len(data),
        "address": 64,
        "lines": 8,
        "list_bytes": len(data),
        "window": Window(0, 128, 0, 16),
        "symbols": symbols,
        "outputs": (
            program.Output(soft, "logits", program.HostLayer("s", logits, soft, 1, False)),
        ),
        "layers": ("a", ""),
    }
    return program.Program(**{**fields, **changes})


def test_a_program_comes_back(tmp_path):
    first = made()
    program.save(first, tmp_path / "p")
    second = program.load(tmp_path / "p")
    for name in ("name", "spec", "facts", "origin", "size", "address", "lines", "list_bytes",
                 "window", "symbols", "outputs", "layers"):  # fmt: skip
        assert getattr(first, name) == getattr(second, name)
    assert np.array_equal(first.image, second.image)
    assert [c.op for _, c in second.commands] == ["load", "end"]
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_inputs_go_in_and_results_come_out():
    held = made()
    codes = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)
    memory = held.memory({"x": codes})
    assert np.array_equal(held.symbol("x").read(memory), codes)
    held.symbol("logits").write(memory, np.array([[64, 80, 32]], dtype=np.uint8))
    found = held.results(memory)
    assert found["logits"].tolist() == [[64, 80, 32]]
    assert found["soft"].shape == (1, 3) and found["soft"].argmax() == 1
    with pytest.raises(ProgramError, match="input 'x' is missing"):
        held.memory({})
    with pytest.raises(ProgramError, match="no tensor 'y'"):
        held.symbol("y")


def test_another_shape_is_refused():
    made().check(EDGE_4X4)
    with pytest.raises(ProgramError, match="rows 4 .EDGE_4X4., EDGE_2X2 has 2"):
        made().check(EDGE_2X2)
    with pytest.raises(ProgramError, match="underflow zero .*STRICT_4X4 has minpos"):
        made().check(STRICT_4X4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": 100}, "image up to byte 128"),
        ({"origin": -16}, "image up to"),
        ({"address": 0}, "outside the image"),
        ({"address": 68}, "inside a line|outside the image"),
        ({"window": Window(0, 1 << 20, 0, 0)}, "a window from 0"),
        ({"window": Window(8, 0, 0, 0)}, "a window from 8"),
        ({"layers": ("a",)}, "2 commands and layer names for 1"),
        ({"list_bytes": 32}, "without an end"),
        ({"symbols": ()}, "read from no tensor"),
    ],
)
def test_contradictions_are_refused(changes, text):
    with pytest.raises(ProgramError, match=text):
        made(**changes)


@pytest.mark.parametrize("change", [{"address": 12}, {"address": 1 << 20}, {"role": "toy"},
                                    {"shape": (1, 9)}, {"name": "logits"}])  # fmt: skip
def test_false_tensors_are_refused(change):
    first, second = made().symbols
    with pytest.raises(ProgramError, match="tensor"):
        made(symbols=(replace(first, **change), second))


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "p"
    program.save(made(), path)
    data = path.read_bytes()
    places = {*range(20), *range(20, len(data), 37), *range(len(data) - 32, len(data), 5)}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(ProgramError):
            program.load(path)
    for length in (0, 7, 19, 60, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ProgramError):
            program.load(path)


def rewritten(path, change):
    """The file with another head and a right checksum: what a liar would write."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<8sIQ", data)
    head = json.loads(data[20 : 20 + length])
    change(head)
    text = json.dumps(head).encode()
    body = struct.pack("<8sIQ", magic, version, len(text)) + text + data[20 + length : -32]
    path.write_bytes(body + hashlib.sha256(body).digest())


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("size"),
        lambda h: h.update(size="128"),
        lambda h: h.update(size=1 << 40),
        lambda h: h.update(size=True),
        lambda h: h.update(schema="other"),
        lambda h: h["facts"].update(rows="4"),
        lambda h: h["facts"].update(underflow="up"),
        lambda h: h["window"].update(extra=1),
        lambda h: h["symbols"][0].update(address=-16),
        lambda h: h["symbols"][0]["layout"].update(fold=3),
        lambda h: h["symbols"][0]["layout"].update(format="posit99"),
        lambda h: h["symbols"][0]["layout"].update(columns=8),
        lambda h: h["outputs"][0].update(symbol="x9"),
        lambda h: h["outputs"][0]["host"].update(axis="1"),
        lambda h: h["outputs"][0]["host"].update(axis=2),
        lambda h: h["outputs"][0]["host"]["input"].update(shape=[1, 4]),
        lambda h: h["outputs"][0]["host"]["input"].update(format="posit4"),
        lambda h: h["outputs"][0].update(host=None),
        lambda h: h["symbols"][0].update(shape=[-1, -8]),
        lambda h: h["symbols"][0].update(shape=[1 << 62, 4, 8]),
        lambda h: h.update(layers=[["a", 1 << 60]]),
        lambda h: h.update(layers=[["a", -5], ["b", 7]]),
        lambda h: h.update(symbols=7),
        lambda h: h.update(list_bytes=33),
    ],
)
def test_a_lying_head_is_refused(tmp_path, change):
    path = tmp_path / "p"
    program.save(made(), path)
    rewritten(path, lambda head: None)
    program.load(path)
    rewritten(path, change)
    with pytest.raises(ProgramError):
        program.load(path)


def test_another_version_and_no_file(tmp_path):
    path = tmp_path / "p"
    with pytest.raises(ProgramError, match="cannot read"):
        program.load(path)
    path.write_bytes(b"PK" * 40)
    with pytest.raises(ProgramError, match="no program file"):
        program.load(path)
    program.save(made(), path)
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(ProgramError, match="of version 9, expected 3"):
        program.load(path)
    with pytest.raises(ProgramError, match="cannot write"):
        program.save(made(), tmp_path / "none" / "p")
