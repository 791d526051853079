"""Scales, shared scales, limits, and the distance to FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from opennpe.golden import catalog, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, DataError
from opennpe.quant import Policy, calibrate, float_eval, load_onnx, scales
from opennpe.quant.emulate import emulate
from quant_models import REAL_MODELS, build, extra, save, small_cnn

node = helper.make_node
ENGINE = ("fp4", "posit4", "posit8", "posit16")
X = np.random.default_rng(2).normal(size=(3, 3, 12, 12))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", ENGINE)
def test_the_search_finds_the_best_exponent_of_all(name: str) -> None:
    fmt = formats.get(name)
    rng = np.random.default_rng(1)
    for width in (1e-3, 1.0, 37.0):
        values = np.abs(rng.normal(0, width, 4000))
        exponent, error = scales.best(name, values)
        every = [scales.squared_error(fmt, values, s).sum() for s in range(-40, 40)]
        assert error <= min(every) * scales.NEARLY
        assert error == pytest.approx(every[exponent + 40])


@pytest.mark.parametrize("name", ENGINE)
def test_channel_scales_equal_the_search_of_each_channel(name: str) -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(0, 1, (6, 4, 3, 3)) * np.exp2(np.arange(-3, 3))[:, None, None, None]
    weights[2] = 0
    found = scales.channels(name, weights, "mse")
    for o, channel in enumerate(weights):
        expected = scales.best(name, np.abs(channel[channel != 0]))[0] if channel.any() else 0
        assert found[o] == expected


def test_maxabs_stays_in_range_and_near_one() -> None:
    values = np.array([0.01, -5.3, 0.4])
    for name in ("fp4", "int8", "posit4", "posit8", "posit16"):
        fmt = formats.get(name)
        top = 5.3 * 2.0 ** -scales.tensor_scale(name, values, "maxabs")
        assert scales.anchor(fmt) / 2 < top <= scales.anchor(fmt) <= fmt.maxpos


@pytest.mark.parametrize("method", ["mse", "maxabs", "percentile"])
@pytest.mark.parametrize("name", ENGINE)
def test_every_method_and_format_gives_a_network(tmp_path: Path, name: str, method: str) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    network = calibrate(graph, X, Policy.uniform(name), method)
    truth = float_eval.evaluate(graph, {"x": X})["y"]
    limit = {"fp4": 0.8, "posit4": 0.8, "posit8": 0.15, "posit16": 2e-3}[name]
    assert distance(emulate(network, {"x": X})["y"], truth) < limit


@pytest.mark.fast
@pytest.mark.parametrize("name", ENGINE)
def test_emulation_stays_close_to_the_exact_reference(tmp_path: Path, name: str) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    network = calibrate(graph, X, Policy.uniform(name))
    spec = catalog.get("EDGE_4X4")
    exact = reference.evaluate(spec, network, {"x": X[:1]})
    quick = emulate(network, {"x": X[:1]}, spec.underflow)
    for layer in network.layers:
        tensor = network.tensors[layer.output]
        codes = tensor.encode(quick[layer.output], spec.underflow)
        fmt = formats.get(tensor.format)
        steps = np.abs(fmt.order_key(codes) - fmt.order_key(exact[layer.output]))
        assert steps.max() <= 2, layer.name
        assert steps.size < 100 or (steps == 0).mean() > 0.99, layer.name


def test_moving_layers_share_format_and_scale(tmp_path: Path) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    network = calibrate(graph, X, Policy.uniform("posit8"))
    for layer in network.layers:
        if isinstance(layer, L.Reshape) or (isinstance(layer, L.Pool) and layer.kind == "max"):
            (source,), out = network.layer_tensors(layer)
            assert (source.format, source.scale) == (out.format, out.scale)


def concat_model(gain: float) -> object:
    nodes = [
        node("Mul", ["x", "g"], ["1"], "gain"),
        node("Concat", ["x", "1"], ["y"], "join", axis=1),
    ]
    return build(nodes, {"x": [1, 8]}, ["y"], {"g": np.array(gain)})


def test_concat_shares_a_scale_only_where_nobody_loses(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(64, 8))
    for gain, shared in ((1.1, True), (1e4, False)):
        graph = load_onnx(save(concat_model(gain), tmp_path))
        network = calibrate(graph, x, Policy.uniform("posit8"))
        join = next(layer for layer in network.layers if isinstance(layer, L.Concat))
        ins, out = network.layer_tensors(join)
        assert (len({t.scale for t in (*ins, out)}) == 1) is shared


def test_too_many_terms_are_refused_by_layer_name(tmp_path: Path) -> None:
    weights = {"w": np.full((40_000, 2), 0.01)}
    model = build(
        [node("MatMul", ["x", "w"], ["y"], "wide_one")], {"x": [1, 40_000]}, ["y"], weights
    )
    graph = load_onnx(save(model, tmp_path))
    x = np.ones((1, 40_000))
    calibrate(graph, x, "posit8")
    with pytest.raises(AccumulatorError, match=r"wide_one.*40000 terms"):
        calibrate(graph, x, "posit16")


def test_dead_channels_with_a_bias_fit_the_accumulator(tmp_path: Path) -> None:
    weights = np.ones((2, 8)) * [[1.0], [1e-30]]
    model = build(
        [node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)],
        {"x": [1, 8]},
        ["y"],
        {"w": weights, "b": np.array([0.5, 3.0])},
    )
    graph = load_onnx(save(model, tmp_path))
    x = np.random.default_rng(0).normal(size=(4, 8))
    for name in ENGINE:
        network = calibrate(graph, x, name)
        exact = reference.evaluate(catalog.get("EDGE_4X4"), network, {"x": x})["y"]
        tensor = network.tensors["y"]
        assert (tensor.decode(exact)[:, 1] == tensor.decode(tensor.encode(3.0, "zero"))).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((2, 3, 12, 11)), r"expected \(N, 3, 12, 12\)"),
        (np.full((2, 3, 12, 12), np.nan), "NaN"),
        ({"z": X}, "'z' is no input"),
        ({}, "missing"),
        (np.array(["a"]), "expected numbers"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, samples: object, message: str) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    with pytest.raises(DataError, match=message):
        calibrate(graph, samples, "posit8")


def test_the_format_model_takes_what_a_qdq_model_says(tmp_path: Path) -> None:
    constants = {
        "q": np.arange(-12, 12).reshape(8, 3).astype(np.int8),
        "ws": np.array(0.125, np.float32),
        "s": np.array(0.0625, np.float32),
        "z": np.array(0, np.int8),
    }
    nodes = [
        node("DequantizeLinear", ["q", "ws"], ["w"], "dq_w"),
        node("MatMul", ["x", "w"], ["1"], "fc"),
        node("QuantizeLinear", ["1", "s", "z"], ["2"], "q_a"),
        node("DequantizeLinear", ["2", "s", "z"], ["y"], "dq_a"),
    ]
    graph = load_onnx(save(build(nodes, {"x": [1, 8]}, ["y"], constants), tmp_path))
    x = np.random.default_rng(0).normal(size=(4, 8))
    network = calibrate(graph, x, "model")
    (layer,) = network.layers
    assert isinstance(layer, L.Linear)
    assert layer.weight_format == "int8" and layer.weight_scale.tolist() == [-3, -3, -3]
    assert network.tensors["y"].format == "int8" and network.tensors["y"].scale == -4
    assert network.tensors["x"].format == "posit16"


@pytest.mark.parametrize("name", REAL_MODELS)
def test_posit16_stays_within_a_hundredth_of_onnxruntime(name: str) -> None:
    folder = extra()
    if folder is None:
        pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")
    graph = load_onnx(folder / name)
    rng = np.random.default_rng(0)
    x = {n: rng.uniform(0, 1, (2, *graph.shapes[n][1:])).astype(np.float32) for n in graph.inputs}
    network = calibrate(graph, x, "posit16")
    values = emulate(network, x)
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    runs = [session.run(None, {n: a[i : i + 1] for n, a in x.items()}) for i in range(2)]
    for output, *parts in zip(names, *runs, strict=True):
        assert distance(values[output], np.concatenate(parts)) < 1e-2
