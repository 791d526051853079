"""Pruning keeps what it says, where it says; zeros that are there are recognised."""

import numpy as np
import pytest
from opennpe.golden import formats, sparse_pack
from opennpe.golden.errors import SparseError
from opennpe.golden.network import Network, Tensor
from opennpe.quant import graph, prune
from opennpe.quant.graph import Graph

pytestmark = pytest.mark.fast


def float_graph():
    """conv 3x3, depthwise, 1x1, 1x1, linear."""
    rng = np.random.default_rng(0)
    draw = rng.normal
    layers = (
        graph.conv("first", "x", "a", draw(size=(16, 3, 1, 1))),
        graph.conv("deep", "a", "b", draw(size=(16, 1, 3, 3)), pads=(1, 1, 1, 1), groups=16),
        graph.conv("point", "b", "c", draw(size=(32, 16, 1, 1))),
        graph.conv("wide", "c", "d", draw(size=(8, 32, 3, 3)), pads=(1, 1, 1, 1)),
        graph.conv("second", "d", "e", draw(size=(24, 8, 1, 1))),
    )
    shapes = {n: (1, c, 6, 6) for n, c in zip("xabcde", (3, 16, 16, 32, 8, 24), strict=True)}
    return Graph(("x",), ("e",), layers, shapes)


def network(scales):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 40))
    layer = graph.linear("line", "x", "y", values)
    codes = formats.get("posit8").encode(values, "zero")
    held = {"weights": codes, "weight_format": "posit8", "weight_scale": scales}
    tensors = {n: Tensor(n, (1, c), "posit8") for n, c in (("x", 40), ("y", 8))}
    return Network(("x",), ("y",), tensors, (type(layer)(**{**layer.__dict__, **held}),))


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("how", ["unstructured", "4x1", "2x1"])
def test_the_largest_stay_and_their_number_is_exact(how, density):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(32, 50))
    held = prune.keep(weights, density, how)
    assert held.sum() == round(density * weights.size)
    if how == "unstructured":
        if 0 < density < 1:
            assert np.abs(weights[held]).min() >= np.abs(weights[~held]).max()
        return
    rows = int(how[0])
    blocks = held.reshape(-1, rows, 50)
    assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
    norms = (weights.reshape(-1, rows, 50) ** 2).sum(axis=1)
    if 0 < density < 1:
        kept = blocks.any(axis=1)
        assert norms[kept].min() >= norms[~kept].max()


def test_n_of_m_keeps_the_largest_of_every_group():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(9, 23))
    held = prune.keep(weights, 1.0, "2:4")
    pruned = weights * held
    assert (2, 4) in sparse_pack.structures(pruned)
    group = np.abs(weights[:, :20]).reshape(9, 5, 4)
    kept = held[:, :20].reshape(9, 5, 4)
    assert (kept.sum(axis=2) == 2).all()
    assert (np.where(kept, group, 9).min(axis=2) >= np.where(kept, 0, group).max(axis=2)).all()


def test_first_depthwise_and_larger_kernels_stay_dense():
    model = float_graph()
    pruned, reports = prune.prune(model, 0.1, "unstructured")
    found = {r.name: (r.pruned, r.why, r.sparse) for r in reports}
    assert found == {
        "first": (False, "the first convolution", False),
        "deep": (False, "depthwise", False),
        "point": (True, "", True),
        "wide": (False, "no 1x1 convolution", False),
        "second": (True, "", True),
    }
    for before, after, report in zip(model.layers, pruned.layers, reports, strict=True):
        kept = after.weights != 0
        assert np.array_equal(after.weights[kept], before.weights[kept])
        assert kept.mean() == pytest.approx(report.after) and report.before == 1.0
        assert report.after == pytest.approx(0.1, abs=0.01) or not report.pruned
        assert (report.energy < 1.0) == report.pruned
    assert isinstance(pruned, Graph) and pruned.shapes == model.shapes


def test_a_layer_goes_sparse_above_two_thirds_of_zeros():
    model = float_graph()
    for density, expected in ((0.30, True), (0.40, False)):
        reports = prune.prune(model, density)[1]
        assert {r.sparse for r in reports if r.pruned} == {expected}


def test_codes_are_pruned_by_their_real_magnitudes():
    scales = np.array([9, 0, 0, 0, 0, 0, 0, 0])
    pruned, reports = prune.prune(network(scales), 1 / 8)
    weights = pruned.layers[0].weights
    # A channel with a scale of 2**9 outweighs all others.
    assert weights[1:].any() == (np.count_nonzero(weights[0]) < 40)
    assert np.count_nonzero(weights[0]) >= 38
    assert weights.dtype == np.uint8 and reports[0].after <= 1 / 8
    assert isinstance(pruned, Network)


@pytest.mark.parametrize("text", ["3x1", "4x4", "5:4", "random", "0:4"])
def test_unknown_patterns_are_refused(text):
    with pytest.raises(SparseError, match="expected 'unstructured'"):
        prune.pattern(text)


def test_a_density_beyond_one_is_refused():
    with pytest.raises(SparseError, match="0 to 1, got 90"):
        prune.prune(float_graph(), 90)


def test_zeros_are_recognised():
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(64, 128, 1, 1))
    flat = weights.reshape(64, 128)
    dense = prune.recognise(weights)
    assert (dense.density, dense.sparse, dense.structures) == (1.0, False, ())
    loose = prune.recognise(flat * prune.keep(flat, 0.1))
    assert loose.sparse and loose.block_rows == 1 and loose.bits < 1.3
    assert "1x1 blocks, 4-bit" in loose.packing
    blocks = prune.recognise(flat * prune.keep(flat, 0.1, "4x1"))
    assert blocks.sparse and blocks.block_rows == 4 and blocks.fill == (1.0, 1.0)
    assert blocks.packing.startswith("4x1 blocks") and blocks.bits < loose.bits
    half = prune.recognise(flat * prune.keep(flat, 1.0, "2:4"))
    assert half.structures == ((2, 4),) and half.packing == "2:4" and not half.sparse
    with pytest.raises(SparseError, match="got shape"):
        prune.recognise(np.zeros(4))


def test_every_layer_that_could_go_sparse_is_looked_at():
    pruned = prune.prune(float_graph(), 0.2, "4x1")[0]
    found = prune.recognise_layers(pruned)
    assert set(found) == {"first", "point", "second"}
    assert found["point"].block_rows == 4 and found["first"].density == 1.0
