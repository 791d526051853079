"""Networks of transformers' layers: what contradicts itself is refused, in one line."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from opennpe.golden import catalog, formats, reference, rotary, storage
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, FormatError, NetworkError, OpenNPEError
from opennpe.golden.network import Network, Tensor

pytestmark = pytest.mark.fast

COS, SIN = rotary.tables(8, 4)
ONE = formats.get("posit16").encode(np.ones(4))
LAYERS = (
    L.Gather("rows", ("table", "ids"), "e"),
    L.Normalise("norm", ("e",), "n", "layer", 1e-5, ONE, np.zeros(4)),
    L.Rotary("turn", ("n", "position"), "r", COS, SIN),
    L.Append("cache", ("held", "r", "position"), "c"),
    L.Transpose("columns", ("c",), "t", (0, 2, 1)),
    L.MatMul("logits", ("r", "t"), "l"),
    L.StreamSoftmax("weigh", ("l", "mask", "position"), "p", 0.5, True, positioned=True),
    L.MatMul("mix", ("p", "c"), "m"),
    L.Select("choose", ("flag", "m", "r"), "s"),
    L.Reduce("mean", ("s",), "y", "mean", (1,)),
)
TENSORS = {
    t.name: t
    for t in (
        Tensor("table", (5, 4), "posit8"),
        Tensor("ids", (1, 2), "index"),
        Tensor("position", (1,), "index"),
        Tensor("mask", (1, 1, 6), "index"),
        Tensor("flag", (1, 2, 1), "index"),
        Tensor("held", (1, 6, 4), "posit8"),
        *(Tensor(n, (1, 2, 4), "posit8") for n in "enrms"),
        Tensor("c", (1, 6, 4), "posit8"),
        Tensor("t", (1, 4, 6), "posit8"),
        Tensor("l", (1, 2, 6), "posit16"),
        Tensor("p", (1, 2, 6), "posit8", -4),
        Tensor("y", (1, 1, 4), "posit16"),
    )
}
INPUTS = ("ids", "position", "mask", "flag", "held")


def network(**changes):
    """The network, some layers replaced by name."""
    layers = tuple(changes.get(layer.name, layer) for layer in LAYERS)
    table = formats.get("posit8").encode(np.random.default_rng(1).normal(size=(5, 4)))
    return Network(INPUTS, ("y",), changes.get("tensors", TENSORS), layers, {"table": table})


def given(**changes):
    return {
        "ids": np.array([[0, 4]]),
        "position": np.array([2]),
        "mask": np.array([[[1, 1, 0, 1, 1, 1]]]),
        "flag": np.array([[[1], [0]]]),
        "held": np.zeros((1, 6, 4)),
        **changes,
    }


def layer(name, **fields):
    return {name: replace(next(item for item in LAYERS if item.name == name), **fields)}


def test_it_runs_and_is_stored(tmp_path):
    storage.save(network(), tmp_path / "t.npz")
    again = storage.load(tmp_path / "t.npz")
    for field in dataclasses.fields(again.layers[6]):
        assert getattr(again.layers[6], field.name) == getattr(LAYERS[6], field.name)
    spec = catalog.EDGE_4X4
    before, after = (reference.evaluate(spec, n, given()) for n in (network(), again))
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert (before["p"][0, 0, 4:] == 0).all() and (before["p"][0, :, 2] == 0).all()


SHAPES = {
    "gamma of shape": layer("norm", gamma=ONE[:3]),
    "needs an axis, and gamma where there is beta": layer("norm", gamma=None),
    "do not rotate shape": layer("turn", cos=COS[:, :1], sin=SIN),
    "do not fit a cache": layer("cache", inputs=("r", "held", "position")),
    "a position is one index": layer("cache", inputs=("held", "r", "mask")),
    "takes numbers where 'ids' is index": layer("mean", inputs=("ids",)),
    "takes indices where 'e' is posit8": layer("weigh", inputs=("l", "e", "position")),
    "do not broadcast": layer("weigh", inputs=("l", "flag", "ids", "position")),
    "it has a position but no input": layer("weigh", inputs=("l",)),
}


@pytest.mark.parametrize("message", SHAPES)
def test_layers_that_do_not_fit_are_refused(message):
    with pytest.raises(NetworkError, match=message):
        network(**SHAPES[message])


def test_numbers_are_no_indices():
    wrong = {**TENSORS, "e": Tensor("e", (1, 2, 4), "index")}
    with pytest.raises(NetworkError, match="cannot write 'e' as index"):
        network(tensors=wrong)
    with pytest.raises(FormatError, match="index numbers rows: no arithmetic"):
        reference.evaluate_layer(
            catalog.EDGE_4X4, L.MatMul("m", ("a", "b"), "y"),
            [Tensor("a", (1, 1), "index"), Tensor("b", (1, 1), "index")],
            [np.zeros((1, 1), np.uint16)] * 2, Tensor("y", (1, 1), "posit8"),
        )  # fmt: skip


STORED = {
    "its unit: softmax mode is 'soft'": layer("weigh", unit=(("mode", "soft"),)),
    "its unit: .*unexpected keyword": layer("weigh", unit=(("speed", 3),)),
    "needs a positive scale": layer("weigh", scale=-1.0),
    "has the offset": layer("weigh", offset=1 << 40),
    "needs an epsilon": layer("norm", epsilon=float("nan")),
    "has no normalisation 'batch'": layer("norm", kind="batch"),
    "needs a finite beta": layer("norm", beta=np.full(4, np.inf)),
    "posit8 codes lie below 256": layer("turn", weight_format="posit8"),
    "has no reduction 'product'": layer("mean", kind="product"),
    "unknown format 'half'": layer("norm", inner_format="half"),
}


@pytest.mark.parametrize("message", STORED)
def test_files_with_impossible_parameters_are_refused(tmp_path, message):
    storage.save(network(**STORED[message]), tmp_path / "t.npz")
    with pytest.raises(OpenNPEError, match=message) as caught:
        storage.load(tmp_path / "t.npz")
    assert "\n" not in str(caught.value)


INPUT_ERRORS = {
    "row 5 of a table with 5": {"ids": np.array([[0, 5]])},
    "an index is a whole number from 0 to 65535, got -1": {"ids": np.array([[0, -1]])},
    "an index is a whole number from 0 to 65535, got 70000": {"ids": np.array([[0, 70000]])},
    "indices are integers, got float64": {"ids": np.array([[0.0, 1.5]])},
    "rows 5 to 6 of a cache of 6: it is full": {"position": np.array([5])},
    "position 8 of tables with 8": {"position": np.array([7])},
}


@pytest.mark.parametrize("message", INPUT_ERRORS)
def test_inputs_that_are_not_there_are_refused(message):
    with pytest.raises(DataError, match=message):
        reference.evaluate(catalog.EDGE_4X4, network(), given(**INPUT_ERRORS[message]))
