"""Whole networks: the simulator's tensors equal golden's, whatever the batch and the threads."""

import dataclasses
import os
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from opennpe import sim
from opennpe.golden import array, catalog, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, DataError
from opennpe.golden.network import Network, Tensor
from opennpe.sim import elementwise, executor, gemm, integers, pooling, softmax, tables
from sim_networks import everything, inputs
from test_agree_transformer_layers import CASES as TRANSFORMER_LAYERS

SPECS = {"zero": catalog.EDGE_4X4, "minpos": catalog.STRICT_4X4}
ENGINE = formats.ENGINE_FORMATS
POLICIES = {
    **{name: lambda i, name=name: name for name in ENGINE},
    "narrow": lambda i: ("posit8", "fp4", "posit8", "posit4")[i % 4],
    "wide": lambda i: ("posit8", "posit16", "posit8", "posit8", "posit16")[i % 5],
    "any": lambda i: ENGINE[(5 * i * i + i) % 4],
}


@lru_cache(maxsize=2)
def golden(policy, rule):
    network = everything(POLICIES[policy])
    return network, reference.evaluate(SPECS[rule], network, inputs(3))


def differences(tensors, expected):
    """The first tensor that differs, in words."""
    for name in (n for n in expected if n in tensors):
        codes = tensors[name]
        assert codes.shape == expected[name].shape and codes.dtype == expected[name].dtype
        wrong = np.argwhere(codes != expected[name])
        if wrong.size:
            at = tuple(wrong[0])
            return f"{name}{at}: sim {codes[at]:x}, golden {expected[name][at]:x}"
    return ""


def test_every_kind_of_layer_is_compared():
    """In this network, or by itself where it is a transformer's."""
    network = everything(POLICIES["any"])
    rng = np.random.default_rng(0)
    alone = {type(make(rng)) for make, *_ in TRANSFORMER_LAYERS.values()}
    compared = {type(layer) for layer in network.layers} | alone
    assert compared == set(reference._HANDLERS)
    assert compared == {
        getattr(L, name) for name in L.__all__ if name not in ("Clip", "Layer", "LayerBase")
    }
    assert network.batch_axis == 0


@pytest.mark.parametrize("rule", ["zero", "minpos"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_tensor_of_a_network_whatever_the_batch_and_the_threads(policy, rule):
    network, expected = golden(policy, rule)
    spec, data = SPECS[rule], inputs(3)["image"]
    written = [layer.output for layer in network.layers]
    for threads in (1, 2):
        tensors, trace = sim.run(spec, network, {"image": data}, threads=threads, keep=written)
        assert set(tensors) == set(written) and trace.samples == 3
        assert not differences(tensors, expected)
        alone = [sim.run(spec, network, {"image": data[i : i + 1]}, threads)[0] for i in range(3)]
        for name in network.outputs:
            together = np.concatenate([tensors_[name] for tensors_ in alone])
            np.testing.assert_array_equal(together, expected[name])


@pytest.mark.parametrize("policy", ["fp4", "posit8", "posit16", "any"])
def test_nothing_depends_on_tiles_and_shares(policy, monkeypatch):
    """Blocks of a few rows, and every layer shared out among threads however small it is."""
    shared = []

    def shares(count, threads, worth=0):
        cut = [count * t // threads for t in range(threads + 1)]
        return list(pairwise(cut))

    def counted(call, spans):
        shared.append(len(spans))
        good(call, spans)

    good = gemm.run_spans
    monkeypatch.setattr(gemm, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(gemm, "BLOCK_ROWS", dict.fromkeys(gemm.BLOCK_ROWS, 1))
    monkeypatch.setattr(gemm, "run_spans", counted)
    for module in (elementwise, integers, pooling, softmax, tables):
        monkeypatch.setattr(module, "spans", shares)
        monkeypatch.setattr(module, "run_spans", counted)
    network, expected = golden(policy, "zero")
    written = [layer.output for layer in network.layers]
    tensors, _ = sim.run(SPECS["zero"], network, inputs(3), threads=3, keep=written)
    assert not differences(tensors, expected)
    assert shared.count(3) > len(network.layers) // 3


@pytest.mark.parametrize("policy", ["posit8", "wide"])
def test_nar_travels_as_in_golden(policy):
    network = everything(POLICIES[policy])
    data = inputs(2)["image"]
    data[1, 2, 4, 4] = np.nan
    spec = SPECS["zero"]
    written = [layer.output for layer in network.layers]
    tensors, _ = sim.run(spec, network, {"image": data}, keep=written)
    expected = reference.evaluate(spec, network, {"image": data})
    assert not differences(tensors, expected)
    out = network.tensors[network.outputs[0]]
    assert formats.get(out.format).is_nan(expected[out.name]).any(axis=1).tolist() == [False, True]


@pytest.mark.fast
def test_a_difference_is_found_and_named(monkeypatch):
    network, expected = golden("posit8", "zero")
    good = executor._HANDLERS[L.Activate]

    def spoilt(*args):
        value, path = good(*args)
        codes = value.first().copy()
        codes.reshape(-1)[5] ^= 1
        return type(value)(first=codes), path

    monkeypatch.setitem(executor._HANDLERS, L.Activate, spoilt)
    written = [layer.output for layer in network.layers]
    tensors, _ = sim.run(SPECS["zero"], network, inputs(3), keep=written)
    assert "golden" in differences(tensors, expected)


@pytest.mark.fast
def test_the_trace_counts_what_golden_counts():
    network, _ = golden("posit8", "zero")
    spec = SPECS["zero"]
    tensors, trace = sim.run(spec, network, inputs(3))
    assert set(tensors) == set(network.outputs)
    works = [array.layer_work(spec, network, layer, 3) for layer in network.layers]
    assert trace.macs == sum(w.macs for w in works) > 0
    assert trace.cycles == sum(w.cycles for w in works) > 0
    assert trace.words_in == sum(w.words_in for w in works) > 0
    assert trace.words_out == sum(w.words_out for w in works) > 0
    assert trace.seconds == sum(t.seconds for t in trace.layers) > 0
    assert [t.name for t in trace.layers] == [layer.name for layer in network.layers]
    assert all(t.path and t.kind for t in trace.layers)


@pytest.mark.fast
def test_tensors_are_freed_after_their_last_reader(monkeypatch):
    """A chain of sixty layers never holds more than the two tensors at hand."""
    import weakref

    shape, alive, most = (1, 4, 8, 8), [], []
    names = [f"t{i}" for i in range(61)]
    layers = tuple(
        L.Activate(f"relu{i}", (a,), b, "relu") for i, (a, b) in enumerate(pairwise(names))
    )
    tensors = {n: Tensor(n, shape, "posit8") for n in names}
    network = Network((names[0],), (names[-1],), tensors, layers)
    good = executor._HANDLERS[L.Activate]

    def watched(*args):
        value, path = good(*args)
        alive.append(weakref.ref(value.first()))
        most.append(sum(ref() is not None for ref in alive))
        return value, path

    monkeypatch.setitem(executor._HANDLERS, L.Activate, watched)
    sim.run(SPECS["zero"], network, {"t0": np.ones(shape)})
    assert len(most) == 60 and max(most) <= 2


@pytest.mark.fast
def test_a_constant_or_an_input_may_be_an_output():
    layers = (L.Add("add", ("x", "c"), "y"),)
    tensors = {n: Tensor(n, (1, 4), "posit8") for n in "xyc"}
    codes = np.arange(4, dtype=np.uint8).reshape(1, 4)
    network = Network(("x",), ("x", "c", "y"), tensors, layers, {"c": codes})
    got, _ = sim.run(SPECS["zero"], network, {"x": codes})
    np.testing.assert_array_equal(got["c"], codes)
    np.testing.assert_array_equal(got["x"], codes)
    expected = reference.evaluate(SPECS["zero"], network, {"x": codes})
    np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.fast
def test_bad_requests_are_one_line():
    network, _ = golden("posit8", "zero")
    with pytest.raises(DataError, match="no tensor 'nothing' to keep"):
        sim.run(SPECS["zero"], network, inputs(1), keep=["nothing"])
    with pytest.raises(DataError, match="'image' is missing"):
        sim.run(SPECS["zero"], network, {})
    weights = np.ones((1, 40_000), dtype=np.uint8)
    one = np.zeros(1, dtype=np.int64)
    layer = L.Linear("wide", ("x",), "y", weights, "posit4", one, one * 0.0)
    tensors = {"x": Tensor("x", (1, 40_000), "posit4"), "y": Tensor("y", (1, 1), "posit4")}
    too_wide = Network(("x",), ("y",), tensors, (layer,))
    with pytest.raises(AccumulatorError, match="'wide' sums 40000 terms"):
        sim.run(SPECS["zero"], too_wide, {"x": np.ones((1, 40_000))})


@pytest.mark.fast
def test_a_windowed_accumulator_runs_through_golden():
    mac = dataclasses.replace(
        SPECS["zero"].mac, accumulator="windowed", window_bits=14, window_terms=4
    )
    engine = dataclasses.replace(SPECS["zero"].engine, mac=mac)
    spec = dataclasses.replace(
        SPECS["zero"], array=dataclasses.replace(SPECS["zero"].array, engine=engine)
    )
    rng = np.random.default_rng(0)
    fmt = formats.get("posit8")
    layer = L.Linear(
        "fc", ("x",), "y", fmt.encode(rng.normal(size=(3, 9))), "posit8",
        np.array([-1, 0, 1]), rng.normal(size=3),
    )  # fmt: skip
    tensors = {"x": Tensor("x", (1, 9), "posit8"), "y": Tensor("y", (1, 3), "posit8")}
    network = Network(("x",), ("y",), tensors, (layer,))
    data = {"x": rng.normal(size=(2, 9))}
    got, trace = sim.run(spec, network, data)
    np.testing.assert_array_equal(got["y"], reference.evaluate(spec, network, data)["y"])
    assert trace.layers[0].path == "reference, windowed"


PLAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from opennpe import sim
from opennpe.golden import catalog, reference
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from sim_networks import everything, inputs
from test_agree_transformer_layers import CASES as TRANSFORMER_LAYERS
whole = everything(lambda i: ("posit8", "posit16", "fp4", "posit8")[i % 4])
expected = reference.evaluate(catalog.EDGE_4X4, whole, inputs(1))
ran = 0
for layer in whole.layers:
    if isinstance(layer, L.Conv | L.Linear | L.MatMul):
        continue
    ins = {n: expected[n] for n in layer.inputs}
    tensors = {n: whole.tensors[n] for n in (*layer.inputs, layer.output)}
    network = Network(tuple(ins), (layer.output,), tensors, (layer,))
    got, _ = sim.run(catalog.EDGE_4X4, network, ins)
    assert (got[layer.output] == expected[layer.output]).all(), layer.name
    ran += 1
print("ran", ran)
"""


def test_layers_mean_the_same_without_a_compiler():
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, os.path.dirname(__file__)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["ran", "20"], done.stderr[-2000:]
