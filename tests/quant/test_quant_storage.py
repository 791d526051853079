"""Networks in files: what goes in comes out; what is damaged is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opennpe.golden import catalog, formats, reference, storage
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError, OpenNPEError
from opennpe.golden.network import Network, Tensor
from opennpe.quant import calibrate, load_onnx
from quant_models import save, small_cnn

X = np.random.default_rng(2).normal(size=(2, 3, 12, 12))


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return calibrate(load_onnx(save(small_cnn(), tmp_path)), X, "posit8")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assorted() -> Network:
    """Arrays inside tuples, infinities, slopes, parameters and a constant tensor."""
    rng = np.random.default_rng(3)
    fp4, posit8 = formats.get("fp4"), formats.get("posit8")
    conv = L.Conv(
        "conv", ("x",), "c", fp4.encode(rng.normal(0, 2, (4, 2, 3, 3))), "fp4",
        np.array([-2, -1, 0, 1]), rng.normal(size=4), (1, 1), (1, 1, 1, 1), (1, 1),
        clip=(0.0, math.inf),
    )  # fmt: skip
    index = (
        np.zeros((1, 1), np.int64),
        np.arange(4)[:, None],
        np.array([[0], [0], [1], [1]]),
        np.array([[0, 1], [1, 1]]),
    )
    weight = tuple(np.full(i.shape, 4096 // i.shape[1], np.int64) for i in index)
    resize = L.Resize("resize", ("c",), "r", index, weight)
    add = L.Add("add", ("r", "k"), "s")
    leaky = L.Activate("leaky", ("s",), "t", "leaky", slope=formats.get("posit16").encode([0.1]))
    table = L.Activate("elu", ("t",), "y", "elu", (("alpha", 0.5),))
    shapes = {"x": (1, 2, 2, 2), "c": (1, 4, 2, 2), "k": (1, 4, 1, 1)}
    tensors = {
        n: Tensor(n, shapes.get(n, (1, 4, 4, 2)), "posit8", i - 3) for i, n in enumerate("xcrksty")
    }
    constants = {"k": posit8.encode(rng.normal(size=(1, 4, 1, 1)))}
    return Network(("x",), ("y",), tensors, (conv, resize, add, leaky, table), constants, "small")


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["imported", "assorted"])
def test_a_network_survives_its_file(kind: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    network = network if kind == "imported" else assorted()
    storage.save(network, path)
    back = storage.load(path)
    assert (back.inputs, back.outputs, back.name) == (
        network.inputs, network.outputs, network.name,
    )  # fmt: skip
    assert back.tensors == network.tensors
    for old, new in zip(network.layers, back.layers, strict=True):
        assert type(old) is type(new)
        for field in dataclasses.fields(old):
            assert same(getattr(old, field.name), getattr(new, field.name)), field.name
    spec = catalog.get("EDGE_4X4")
    x = X[:1] if kind == "imported" else X[:1, :2, :2, :2]
    first, second = (reference.evaluate(spec, n, {"x": x}) for n in (network, back))
    assert np.array_equal(first["y"], second["y"])
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_damaged_files_are_refused(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    storage.save(network, path)
    whole = path.read_bytes()
    rng = random.Random(5)
    refusals = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]))
        try:
            storage.load(path)
        except OpenNPEError as error:
            refusals += 1
            assert len(str(error).splitlines()) == 1
    assert refusals > 200


def edited(network: Network, path: Path, edit: Any) -> None:
    """Save a network with its JSON head changed."""
    storage.save(network, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    head = json.loads(arrays["network"].tobytes())
    edit(head)
    arrays["network"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h.update(schema="opennpe.network/9"), "network/9"),
        (lambda h: h["layers"][0].update(type="Magic"), "Magic"),
        (lambda h: h["layers"][0].update(type="LayerBase"), "unknown layer kind 'LayerBase'"),
        (lambda h: h.update(outputs=["nothing"]), "nothing"),
        (lambda h: h["tensors"][0].update(format="posit99"), "posit99"),
        (lambda h: h["tensors"][0].update(shape=[1, -3]), "shape"),
        (lambda h: h["layers"].reverse(), "before anything writes it"),
        (lambda h: h.pop("outputs"), "outputs"),
        (lambda h: h["layers"][0].pop("weights"), "weights"),
    ],
)
def test_heads_that_contradict_themselves_are_refused(
    network: Network, tmp_path: Path, edit: Any, message: str
) -> None:
    path = tmp_path / "n.npz"
    edited(network, path, edit)
    with pytest.raises(OpenNPEError, match=message):
        storage.load(path)


def test_codes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    storage.save(assorted(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "layers/0/weights": np.full((4, 2, 3, 3), 99)})
    with pytest.raises(OpenNPEError, match="fp4 codes lie below 16, got 99"):
        storage.load(path)


def test_data_is_no_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros(3))
    with pytest.raises(NetworkError, match="is no network file"):
        storage.load(tmp_path / "d.npz")


def test_missing_files_and_unwritable_folders(network: Network, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no network file"):
        storage.load(tmp_path / "nowhere.npz")
    with pytest.raises(NetworkError, match="cannot write"):
        storage.save(network, tmp_path / "no" / "folder" / "n.npz")
