"""A network survives its file, and a broken file is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from opennpe.cli import network_file
from opennpe.golden import catalog, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import OpenNPEError
from opennpe.golden.network import Network, Tensor

pytestmark = pytest.mark.fast


def network() -> Network:
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
    leaky = L.Activate("leaky", ("s",), "y", "leaky", slope=formats.get("posit16").encode([0.1]))
    table = L.Activate("elu", ("y",), "z", "elu", (("alpha", 0.5),))
    shapes = {"x": (1, 2, 2, 2), "c": (1, 4, 2, 2), "k": (1, 4, 1, 1)}
    names = ("x", "c", "r", "k", "s", "y", "z")
    tensors = {n: Tensor(n, shapes.get(n, (1, 4, 4, 2)), "posit8", i - 3)
               for i, n in enumerate(names)}  # fmt: skip
    constants = {"k": posit8.encode(rng.normal(size=(1, 4, 1, 1)))}
    return Network(("x",), ("z",), tensors, (conv, resize, add, leaky, table), constants, "small")


def test_a_network_survives_its_file(tmp_path: Path) -> None:
    before = network()
    network_file.save(before, tmp_path / "net.npz")
    after = network_file.load(tmp_path / "net.npz")
    assert (after.inputs, after.outputs, after.name) == (("x",), ("z",), "small")
    assert after.tensors == before.tensors and after.layers[0].clip == (0.0, math.inf)
    x = {"x": np.random.default_rng(1).normal(size=(3, 2, 2, 2))}
    spec = catalog.get("EDGE_1X1")
    got, expected = reference.evaluate(spec, after, x), reference.evaluate(spec, before, x)
    for name, codes in expected.items():
        np.testing.assert_array_equal(got[name], codes)
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]


def broken(tmp_path: Path, change: dict[str, object]) -> Path:
    network_file.save(network(), tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as archive:
        arrays = dict(archive)
    head = json.loads(arrays["network"].tobytes()) | change
    arrays["network"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    if change.get("codes"):
        arrays["layers/0/weights"] = np.full((4, 2, 3, 3), 99)
    np.savez(tmp_path / "net.npz", **arrays)
    return tmp_path / "net.npz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "opennpe.network/9"}, "schema opennpe.network/9, expected"),
        ({"layers": [{"type": "Evil"}]}, "unknown layer kind 'Evil'"),
        ({"layers": [{"type": "Conv"}]}, "is no network file"),
        ({"layers": [{"type": "LayerBase"}]}, "unknown layer kind"),
        ({"outputs": ["nothing"]}, "nothing"),
        ({"tensors": [{"name": "x"}]}, "is no network file"),
        ({"codes": True}, "fp4 codes lie below 16, got 99"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(OpenNPEError, match=message):
        network_file.load(broken(tmp_path, change))


def test_data_is_no_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros(3))
    with pytest.raises(OpenNPEError, match="is no network file"):
        network_file.load(tmp_path / "d.npz")
