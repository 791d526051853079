"""Networks written as ONNX: onnxruntime computes them, and the importer reads them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from opennpe import sim
from opennpe.golden import catalog, codec, formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.golden.network import Network
from opennpe.quant import UnsupportedModelError, calibrate, export, float_eval, load_onnx, zoo
from opennpe.quant.graph import Graph, conv, linear
from opennpe.quant.policy import Policy
from quant_models import build, save, small_cnn

node = helper.make_node
RNG = np.random.default_rng(8)
QONNX, OWN = "qonnx.custom_op.general", "opennpe"


# -- the float graph -----------------------------------------------------------------------------
def single(layer: L.Layer, *given: Any, constants: dict[str, Any] | None = None) -> Graph:
    """A graph of one layer that reads tensors of the given shapes, then constants."""
    held = {n: np.asarray(v, np.float64) for n, v in (constants or {}).items()}
    names = [n for n in layer.inputs if n not in held]
    ins = dict(zip(names, given, strict=True))
    every = {**ins, **{n: v.shape for n, v in held.items()}}
    out = shapes.output_shape(layer, [every[n] for n in layer.inputs])
    return Graph(tuple(ins), (layer.output,), (layer,), {**every, layer.output: out}, held)


def base(*inputs: str) -> dict[str, Any]:
    return {"name": "it", "inputs": inputs, "output": "y"}


def act(kind: str, **params: float) -> Graph:
    return single(L.Activate(**base("x"), kind=kind, params=tuple(params.items())), (1, 3, 7))


def pool(kind: Any, *shape: int, **fields: Any) -> Graph:
    rank = len(shape) - 2
    values = {"kernel": (3,) * rank, "strides": (2,) * rank, "pads": (0,) * 2 * rank,
              "dilations": (1,) * rank, **fields}  # fmt: skip
    return single(L.Pool(**base("x"), kind=kind, **values), shape)


def taps(*rows: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(r, np.int64).reshape(len(r), -1) for r in rows)


def nearest(*rows: Any) -> Graph:
    indices = taps(*rows)
    weights = tuple(np.full(r.shape, 1 << 12) for r in indices)
    return single(L.Resize(**base("x"), indices=indices, weights=weights), (1, 2, 3, 4))


def blended() -> Graph:
    """Taps that no mode of ONNX Resize gives."""
    indices = taps(range(1), [[0, 1], [1, 2], [0, 2]])
    weights = (np.array([[4096]]), np.array([[1000, 3096], [4096, 0], [2048, 2048]]))
    return single(L.Resize(**base("x"), indices=indices, weights=weights), (1, 3))


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.5, shape)


def activations() -> dict[str, Graph]:
    plain = ("relu", "relu6", "sigmoid", "tanh", "hard_swish", "softplus", "softsign", "mish",
             "exp", "erf", "abs", "gelu", "gelu_tanh", "silu")  # fmt: skip
    slope = weights(3, 1)
    return {
        **{kind: act(kind) for kind in plain},
        "clip": act("clip", min=-0.5, max=0.7),
        "clip above": act("clip", min=-np.inf, max=0.7),
        "hard_sigmoid": act("hard_sigmoid", alpha=0.25, beta=0.5),
        "elu": act("elu", alpha=0.5),
        "selu": act("selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
        "leaky": single(L.Activate(**base("x"), kind="leaky", slope=np.array([0.125])), (1, 3, 7)),
        "prelu": single(L.Activate(**base("x"), kind="prelu", slope=slope), (1, 3, 7)),
    }


GRAPHS: dict[str, Graph] = {
    **activations(),
    "conv 1d": single(conv("it", "x", "y", weights(4, 3, 3), pads=(1, 0)), (1, 3, 9)),
    "conv 2d": single(
        replace(
            conv("it", "x", "y", weights(4, 3, 3, 2), weights(4), (2, 1), (1, 0, 0, 1), (1, 2)),
            clip=(0.0, np.inf),
        ),
        (1, 3, 9, 8),
    ),
    "conv 3d": single(conv("it", "x", "y", weights(2, 1, 2, 2, 2), groups=2), (1, 2, 4, 4, 4)),
    "depthwise": single(
        replace(conv("it", "x", "y", weights(6, 1, 3, 3), groups=3), clip=(-0.5, 0.5)),
        (1, 3, 6, 6),
    ),
    "linear": single(linear("it", "x", "y", weights(5, 7), weights(5)), (1, 7)),
    "linear over rows": single(linear("it", "x", "y", weights(5, 7), weights(5)), (1, 4, 7)),
    "linear, no bias": single(linear("it", "x", "y", weights(5, 7)), (1, 4, 7)),
    "matmul": single(L.MatMul(**base("a", "b"), clip=(-1.0, 1.0)), (1, 2, 3, 4), (1, 2, 4, 5)),
    "add": single(L.Add(**base("a", "b")), (1, 3, 4), (1, 3, 1)),
    "subtract": single(L.Add(**base("a", "b"), signs=(1, -1)), (1, 3, 4), (1, 3, 1)),
    "subtract the other way": single(L.Add(**base("a", "b"), signs=(-1, 1)), (1, 4), (1, 4)),
    "negative sum": single(L.Add(**base("a", "b"), signs=(-1, -1)), (1, 4), (1, 4)),
    "add a constant": single(L.Add(**base("x", "c")), (1, 3), constants={"c": weights(3)}),
    "multiply": single(L.Mul(**base("a", "b")), (1, 3, 4), (1, 3, 4)),
    "max pool": pool("max", 1, 2, 9, 9, pads=(1, 1, 1, 1), dilations=(2, 1)),
    "max pool, rounded up": pool("max", 1, 2, 8, ceil_mode=True),
    "average pool": pool("average", 1, 2, 8, 8, pads=(1, 0, 1, 0), count_include_pad=True),
    "average pool, padding not counted": pool("average", 1, 2, 8, pads=(1, 1)),
    "concat": single(L.Concat(**base("a", "b"), axis=1), (1, 3, 4), (1, 2, 4)),
    "concat a constant": single(
        L.Concat(**base("c", "x"), axis=1), (1, 3, 4), constants={"c": weights(1, 1, 4)}
    ),
    "resize nearest": nearest([0], [0, 1], [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3]),
    "tile": nearest([0], [0, 1, 0, 1], [0, 1, 2], [0, 1, 2, 3, 0, 1, 2, 3]),
    "pick rows": nearest([0], [1], [2, 0], [0, 1, 2, 3]),
    "blend rows": blended(),
    "pad": single(L.Pad(**base("x"), pads=(0, 1, 0, 2), value=0.5), (1, 4)),
    "reflect": single(L.Pad(**base("x"), pads=(0, 1, 0, 2), mode="reflect"), (1, 4)),
    "slice": single(L.Slice(**base("x"), slices=((None, None, 1), (4, None, -2))), (1, 6)),
    "slice of all": single(L.Slice(**base("x"), slices=((None, None, 1), (0, 6, 1))), (1, 6)),
    "reshape": single(L.Reshape(**base("x"), shape=(1, 12)), (1, 3, 4)),
    "transpose": single(L.Transpose(**base("x"), permutation=(0, 2, 1)), (1, 3, 4)),
    "transpose of the batch": single(L.Transpose(**base("x"), permutation=(1, 0)), (1, 3)),
    "softmax": single(L.Softmax(**base("x"), axis=1), (1, 3, 4)),
    "log softmax": single(L.Softmax(**base("x"), axis=2, log=True), (1, 3, 4)),
    "attention's softmax": single(
        L.StreamSoftmax(**base("x", "m"), scale=0.5),
        (1, 2, 4, 4),
        constants={"m": np.array([[1, 1, 0, 1]])},
    ),
    "causal softmax": single(L.StreamSoftmax(**base("x"), causal=True), (1, 2, 4, 4)),
    "layer normalisation": single(
        L.Normalise(**base("x"), kind="layer", epsilon=1e-5, gamma=weights(6), beta=weights(6)),
        (1, 4, 6),
    ),
    "layer normalisation, bare": single(
        L.Normalise(**base("x"), kind="layer", epsilon=1e-3), (1, 4, 6)
    ),
    "rms normalisation": single(
        L.Normalise(**base("x"), kind="rms", epsilon=1e-5, gamma=weights(6)), (1, 4, 6)
    ),
    "sum": single(L.Reduce(**base("x"), kind="sum", axes=(1,)), (1, 3, 4)),
    "mean": single(L.Reduce(**base("x"), kind="mean", axes=(1, 2)), (1, 3, 4)),
    "rotary": single(
        L.Rotary(**base("x"), cos=np.cos(weights(5, 4)), sin=np.sin(weights(5, 4))), (1, 2, 5, 8)
    ),
}
GRAPHS["attention's softmax"] = replace(GRAPHS["attention's softmax"], indices=frozenset({"m"}))


def onnxruntime_agrees(graph: Graph, path: Path, samples: int) -> None:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    rng = np.random.default_rng(3)
    free = graph.batch_axis == 0
    given = {
        n: rng.normal(0, 1, (samples, *graph.shapes[n][1:]) if free else graph.shapes[n])
        for n in graph.inputs
    }
    inputs = {n: v.astype(np.float32) for n, v in given.items()}
    ours = float_eval.evaluate(graph, inputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name, theirs in zip(graph.outputs, session.run(list(graph.outputs), inputs), strict=True):
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("name", GRAPHS)
def test_every_kind_of_layer_is_onnxruntime_s(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    export.write_float(GRAPHS[name], path)
    onnxruntime_agrees(GRAPHS[name], path, samples=3)
    again = load_onnx(path)
    assert again.batch_axis == GRAPHS[name].batch_axis
    for tensor in GRAPHS[name].outputs:
        assert again.shapes[tensor] == GRAPHS[name].shapes[tensor]


def test_whole_networks_are_onnxruntime_s(tmp_path: Path) -> None:
    for source in (save(small_cnn(), tmp_path), zoo.MODEL):
        graph = load_onnx(source)
        path = tmp_path / "out.onnx"
        export.write_float(graph, path)
        onnxruntime_agrees(graph, path, samples=2)
        again = load_onnx(path)
        assert [(type(a), a.name, a.output) for a in again.layers] == [
            (type(a), a.name, a.output) for a in graph.layers
        ]


def test_ids_and_masks(tmp_path: Path) -> None:
    table, ids, mask = weights(9, 4), np.array([[3, 0, 8]]), np.array([[[1], [0], [1]]])
    graph = Graph(
        inputs=("ids", "mask"),
        outputs=("y",),
        layers=(
            L.Gather(name="rows", inputs=("table", "ids"), output="e"),
            L.Select(name="kept", inputs=("mask", "e", "zero"), output="y"),
        ),
        shapes={
            "ids": (1, 3),
            "mask": (1, 3, 1),
            "e": (1, 3, 4),
            "y": (1, 3, 4),
            "table": (9, 4),
            "zero": (1, 1, 1),
        },
        constants={"table": table, "zero": np.zeros((1, 1, 1))},
        indices=frozenset({"ids", "mask"}),
    )
    path = tmp_path / "model.onnx"
    export.write_float(graph, path)
    given = {"ids": ids, "mask": mask}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, given)
    np.testing.assert_allclose(theirs, float_eval.evaluate(graph, given)["y"], rtol=1e-6)
    network = calibrate(graph, given, "posit8")
    export.write(graph, network, path)
    assert load_onnx(path).indices >= {"ids", "mask"}


def test_what_has_no_place_in_onnx_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    append = L.Append(**base("cache", "new", "at"))
    positioned = L.StreamSoftmax(**base("x", "at"), causal=True, positioned=True)
    for layer, given in ((append, [(1, 8, 4), (1, 1, 4), (1,)]), (positioned, [(1, 4, 4), (1,)])):
        graph = replace(single(layer, *given), indices=frozenset({"at"}))
        with pytest.raises(ModelError, match=f"layer 'it' .{type(layer).__name__}."):
            export.write_float(graph, path)
    assert not list(tmp_path.iterdir())


# -- quantised networks ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_onnx(zoo.MODEL)


def samples() -> dict[str, np.ndarray]:
    with np.load(zoo.CALIBRATION, allow_pickle=False) as held:
        return {"x": held["x"]}


def images(count: int) -> dict[str, np.ndarray]:
    with np.load(zoo.TEST_DATA, allow_pickle=False) as held:
        return {"x": held["x"][:count]}


CONVERTING = """
version = 1
default = {format = "posit8"}
layer = [
    {match = ["first.*", "fc"], inputs = "fp4", weights = "int4", output = "posit16"},
    {match = "stem", inputs = "fp8_e4m3", output = "posit8"},
    {match = "*", output = "posit8"},
]
"""
"""Layers that ask for other formats than their inputs are written in, the image's among them."""


def lowered(graph: Graph, name: str) -> Network:
    if name == "converting":
        return calibrate(graph, samples(), Policy.parse(CONVERTING))
    policy = Policy.load(zoo.MIXED) if name == "mixed" else Policy.uniform(name)
    return calibrate(graph, samples(), policy)


FORMATS = ("fp4", "posit4", "posit8", "posit16", "int8", "fp8_e4m3", "mixed", "converting")


@pytest.mark.parametrize("name", FORMATS)
def test_the_shipped_network_survives_its_file(tmp_path: Path, graph: Graph, name: str) -> None:
    network = lowered(graph, name)
    path = tmp_path / "quantised.onnx"
    export.write(graph, network, path, check=False)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    again = calibrate(load_onnx(path), samples(), "model")
    assert export.difference(network, again) is None
    assert {n: t for n, t in again.tensors.items() if n not in again.constants} == {
        n: t for n, t in network.tensors.items() if n not in network.constants
    }
    for ours, theirs in zip(network.layers, again.layers, strict=True):
        assert (ours.name, ours.inputs, ours.output) == (theirs.name, theirs.inputs, theirs.output)
        if isinstance(ours, L.Conv | L.Linear):
            assert ours.weights.tobytes() == theirs.weights.tobytes()
            assert np.array_equal(ours.bias, theirs.bias)
    if not {t.format for t in network.tensors.values()} <= set(formats.ENGINE_FORMATS):
        return
    spec, x = catalog.get("EDGE_4X4"), images(20)
    (first, _), (second, _) = sim.run(spec, network, x), sim.run(spec, again, x)
    assert np.array_equal(first["scores"], second["scores"])


def test_conversions_are_second_nodes_on_their_edges(tmp_path: Path, graph: Graph) -> None:
    network = lowered(graph, "converting")
    converts = [layer for layer in network.layers if isinstance(layer, L.Convert)]
    assert len(converts) > 2
    path = tmp_path / "quantised.onnx"
    export.write(graph, network, path)
    nodes = {n.name: n for n in onnx.load(path).graph.node}
    for layer in converts:
        assert nodes[layer.name].op_type in ("FloatQuant", "PositQuant", "Quant")
        assert list(nodes[layer.name].output) == [layer.output]


def test_the_bytes_depend_on_nothing_else(tmp_path: Path, graph: Graph) -> None:
    network = lowered(graph, "mixed")
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    export.write(graph, network, first)
    export.write(load_onnx(zoo.MODEL), lowered(load_onnx(zoo.MODEL), "mixed"), second)
    assert first.read_bytes() == second.read_bytes()


def test_a_written_network_can_be_written_again(tmp_path: Path, graph: Graph) -> None:
    """The graph of a file has clips that its network does without."""
    network = lowered(graph, "converting")
    path = tmp_path / "quantised.onnx"
    export.write(graph, network, path)
    middle = load_onnx(path)
    export.write(middle, calibrate(middle, samples(), "model"), path)
    assert export.difference(network, calibrate(load_onnx(path), samples(), "model")) is None


def test_saturation_stays_where_the_policy_has_another_format(tmp_path: Path) -> None:
    graph = single(linear("it", "x", "y", np.eye(3)), (1, 3))
    network = calibrate(graph, {"x": np.array([[1.0, -1.0, 0.5]])}, "fp4")
    path = tmp_path / "quantised.onnx"
    export.write(graph, network, path)
    again, far = load_onnx(path), {"x": np.array([[100.0, -100.0, 0.25]], np.float32)}
    top = 6.0 * 2.0 ** network.tensors["y"].scale
    values = float_eval.evaluate(again, far)["y"]
    assert values[0, :2].tolist() == [top, -top]
    wide = calibrate(again, far, "posit16")
    codes, _ = sim.run(catalog.get("EDGE_4X4"), wide, far)
    assert wide.tensors["y"].decode(codes["y"])[0, 0] == top


def test_any_code_of_the_network_comes_back(tmp_path: Path, graph: Graph) -> None:
    """Codes that the float weights do not round to are written as their values."""
    network = lowered(graph, "fp4")
    layers = list(network.layers)
    at, first = next((i, x) for i, x in enumerate(layers) if isinstance(x, L.Conv))
    rng = np.random.default_rng(1)
    odd = rng.integers(0, 16, first.weights.shape).astype(np.uint8)
    layers[at] = replace(first, weights=odd, weight_scale=first.weight_scale - 1)
    changed = replace(network, layers=tuple(layers))
    path = tmp_path / "quantised.onnx"
    export.write(graph, changed, path)
    again = calibrate(load_onnx(path), samples(), "model")
    assert export.difference(changed, again) is None
    assert export.difference(network, again) == f"layer '{first.name}': its weights differs"


def test_biases_that_float32_does_not_hold(tmp_path: Path) -> None:
    """In posit16 the accumulator sees what float32 would have cut off."""
    graph = single(linear("it", "x", "y", np.eye(2), np.array([1 + 2.0**-40, 0.1])), (1, 2))
    network = calibrate(graph, {"x": np.array([[1.0, -1.0]])}, "posit16")
    path = tmp_path / "quantised.onnx"
    export.write(graph, network, path)
    (bias,) = [layer.bias for layer in load_onnx(path).layers if isinstance(layer, L.Linear)]
    assert np.array_equal(bias, graph.layers[0].bias)
    export.write_float(graph, path)
    (cut,) = [layer.bias for layer in load_onnx(path).layers if isinstance(layer, L.Linear)]
    assert not np.array_equal(cut, bias) and np.allclose(cut, bias)


def test_differences_are_found(graph: Graph) -> None:
    network = lowered(graph, "posit8")

    def planted(index: int, **fields: Any) -> str | None:
        layers = list(network.layers)
        layers[index] = replace(layers[index], **fields)
        return export.difference(network, replace(network, layers=tuple(layers)))

    at, first = next((i, x) for i, x in enumerate(network.layers) if isinstance(x, L.Conv))
    codes = first.weights.copy()
    codes.flat[0] ^= 1
    assert planted(at, weights=codes) == f"layer '{first.name}': its weights differs"
    assert "weight_scale" in str(planted(at, weight_scale=first.weight_scale + 1))
    assert "bias" in str(planted(at, bias=first.bias + 1e-9))
    assert "clip" in str(planted(at, clip=(0.0, 1.0)))
    tensor = network.tensors[first.output]
    moved = {**network.tensors, first.output: replace(tensor, scale=tensor.scale + 1)}
    assert first.name in str(export.difference(network, replace(network, tensors=moved)))
    assert planted(at, name="other") is None


def test_a_network_of_another_graph_is_refused_and_nothing_written(
    tmp_path: Path, graph: Graph
) -> None:
    other = load_onnx(save(small_cnn(), tmp_path))
    network = lowered(graph, "posit8")
    path = tmp_path / "quantised.onnx"
    path.write_text("kept")
    with pytest.raises(ModelError, match="not one of the graph's"):
        export.write(other, network, path)
    short = replace(graph, layers=graph.layers[:-1])
    with pytest.raises(ModelError, match="'fc'"):
        export.write(short, network, path)
    assert path.read_text() == "kept"
    assert not list(tmp_path.glob("*.part"))


def test_a_file_that_would_read_back_otherwise_takes_no_name(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lowered(graph, "posit8")
    path = tmp_path / "quantised.onnx"
    read = export.load_onnx

    def careless(file: Path) -> Graph:
        found = read(file)
        return replace(
            found, hints={n: replace(h, scale=h.scale + 1) for n, h in found.hints.items()}
        )

    monkeypatch.setattr(export, "load_onnx", careless)
    with pytest.raises(ModelError, match="would not read back"):
        export.write(graph, network, path)
    assert not list(tmp_path.iterdir())


# -- what the nodes compute ------------------------------------------------------------------------
def minifloat(x: Any, scale: Any, mantissa: float, bias: float, largest: float) -> np.ndarray:
    """FloatQuant by its definition: a grid of mantissa steps under every power of two."""
    scaled = np.asarray(x, np.float64) / scale
    exponent = np.frexp(scaled)[1] - 1
    step = np.exp2(np.maximum(np.where(scaled == 0, -999, exponent), 1 - bias) - mantissa)
    return np.clip(np.rint(scaled / step) * step, -largest, largest) * scale


def constant(op: str, domain: str, x: Any, extra: dict[str, Any], **fields: Any) -> onnx.ModelProto:
    """A product with constant weights that pass one quantisation node."""
    constants = {"w": x, **extra}
    nodes = [node(op, ["w", *extra], ["q"], "quantise", domain=domain, **fields),
             node("MatMul", ["x", "q"], ["y"], "fc")]  # fmt: skip
    return build(nodes, {"x": [1, len(x)]}, ["y"], constants, domains=(domain,))


MINIFLOATS = [n for n, f in formats.CATALOG.items() if f.kind == "float"]


@pytest.mark.parametrize("name", MINIFLOATS)
@pytest.mark.parametrize("shift", [0, 2])
def test_float_quant_is_its_definition(tmp_path: Path, name: str, shift: int) -> None:
    """Also where the node's bias is not the format's: then the scale is another."""
    fmt = formats.get(name)
    x = np.concatenate([RNG.normal(0, s, (32, 4)) for s in (1, fmt.maxpos / 2, fmt.minpos * 4)])
    x = np.clip(x, -3e38, 3e38).astype(np.float32)
    if shift and name == "bf16":
        pytest.skip("its largest value would be no float32")
    largest = fmt.maxpos * 2.0**shift
    scale = np.exp2([-1.0, 0.0, -3.0, 1.0])[None, :]
    if name == "bf16":
        scale = np.exp2([-1.0, 0.0, -3.0, -2.0])[None, :]
    extra = {"s": scale, "e": fmt.exponent_bits, "m": fmt.mantissa_bits,
             "b": fmt.bias - shift, "top": largest}  # fmt: skip
    extra = {n: np.asarray(v, np.float32) for n, v in extra.items()}
    graph = load_onnx(save(constant("FloatQuant", QONNX, x, extra), tmp_path))
    wanted = minifloat(x, scale, fmt.mantissa_bits, fmt.bias - shift, largest)
    assert np.array_equal(graph.layers[0].weights.T, wanted.astype(np.float32))
    hint = graph.weight_hints["fc"]
    assert (hint.format, hint.exact) == (name, True)
    assert np.array_equal(hint.scale, np.log2(scale[0]).astype(int) + shift)


@pytest.mark.parametrize("bits,es", [(4, 1), (8, 0), (16, 1), (6, 2)])
@pytest.mark.parametrize("underflow", ["zero", "minpos"])
def test_posit_quant_rounds_as_the_codec(
    tmp_path: Path, bits: int, es: int, underflow: Any
) -> None:
    fmt = formats.get(f"posit({bits},{es})")
    x = RNG.normal(0, 2, (40, 3)).astype(np.float32)
    x[:3] = [[fmt.minpos / 4, -fmt.minpos / 4, fmt.maxpos * 8]] * 3
    extra = {"s": np.array(0.5, np.float32)}
    fields = {"bits": bits, "es": es, "underflow": underflow}
    graph = load_onnx(save(constant("PositQuant", OWN, x, extra, **fields), tmp_path))
    wanted = []
    for value in x.ravel():
        top, bottom = float(value).as_integer_ratio()
        code = codec.round_exact(fmt, top, 1, underflow, bottom)
        wanted.append(codec.to_float(fmt, code) / 2)
    assert np.array_equal(graph.layers[0].weights.T.ravel(), np.float32(wanted))
    assert graph.weight_hints["fc"].format == fmt.name


class FloatQuant(OpRun):
    op_domain = QONNX

    def _run(self, x, scale, e, m, b, top, **kwargs):  # type: ignore[no-untyped-def]
        return (minifloat(x, scale, float(m), float(b), float(top)).astype(np.float32),)


class PositQuant(OpRun):
    op_domain = OWN

    def _run(self, x, scale, bits=None, es=None, underflow=None):  # type: ignore[no-untyped-def]
        fmt = formats.get(f"posit({bits},{es})")
        return (np.float32(fmt.decode(fmt.encode(x / scale, underflow)) * scale),)


def test_the_file_computes_what_the_simulator_does(tmp_path: Path, graph: Graph) -> None:
    """ONNX's own evaluator, the two operators added: its float32 sums turn a code now and then."""
    network = lowered(graph, "mixed")
    path, x = tmp_path / "quantised.onnx", images(16)
    export.write(graph, network, path)
    session = ReferenceEvaluator(onnx.load(path), new_ops=[FloatQuant, PositQuant])
    (theirs,) = session.run(None, x)
    codes, _ = sim.run(catalog.get("EDGE_4X4"), network, x)
    ours = network.tensors["scores"].decode(codes["scores"])
    blind = ReferenceEvaluator(onnx.load(zoo.MODEL)).run(None, x)[0]
    assert np.array_equal(theirs.argmax(axis=1), ours.argmax(axis=1))
    assert np.abs(theirs - ours).mean() < np.abs(blind - ours).mean() / 10


# -- hostile nodes --------------------------------------------------------------------------------
NUMBERS: dict[str, Any] = {"s": 0.5, "e": 2.0, "m": 1.0, "b": 1.0, "top": 6.0}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a scale of zero": ({"s": 0.0}, "positive|more than 0"),
    "a negative scale": ({"s": -1.0}, "positive|more than 0"),
    "a scale that is no number": ({"s": np.nan}, "single number|NaN"),
    "an infinite scale": ({"s": np.inf}, "single number|NaN"),
    "a thousand exponent bits": ({"e": 1000.0}, "no number format"),
    "no exponent bits": ({"e": 0.0}, "no number format"),
    "negative mantissa bits": ({"m": -3.0}, "no number format"),
    "half a bit": ({"m": 1.5}, "whole numbers"),
    "an absurd bias": ({"b": 1e30}, "no number format"),
    "a largest value below zero": ({"top": -6.0}, "no number format"),
    "a format that is none": ({"e": 5.0, "m": 10.0, "b": 15.0, "top": 65504.0}, "no format has"),
    "another largest value": ({"top": 5.0}, "no format has"),
    "widths by element": ({"e": np.array([2.0, 3.0])}, "no single number"),
    "scales of the wrong rank": ({"s": np.ones((2, 2, 2, 3))}, "single number|do not fit"),
}


def hostile(kind: str, values: dict[str, Any], op: str, domain: str, **fields: Any) -> Any:
    if kind == "constant":
        return constant(op, domain, weights(3, 4).astype(np.float32), values, **fields)
    nodes = [node("Sigmoid", ["x"], ["a"], "gate"),
             node(op, ["a", *values], ["y"], "quantise", domain=domain, **fields)]  # fmt: skip
    return build(nodes, {"x": [1, 4]}, ["y"], values, domains=(domain,))


def refused(model: Any, folder: Path, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        load_onnx(save(model, folder))
    listed = isinstance(caught.value, UnsupportedModelError)
    assert len(str(caught.value).splitlines()) == 1 + listed
    assert "quantise" in str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["constant", "activation"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_float_quant(tmp_path: Path, name: str, kind: str) -> None:
    changed, text = HOSTILE[name]
    values = {n: np.asarray(v, np.float32) for n, v in {**NUMBERS, **changed}.items()}
    refused(hostile(kind, values, "FloatQuant", QONNX), tmp_path, text)


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["constant", "activation"])
@pytest.mark.parametrize(
    "fields,text",
    [
        ({}, "lacks its attributes"),
        ({"bits": 99, "es": 1}, r"posit\(99,1\)"),
        ({"bits": 1, "es": 0}, r"posit\(1,0\)"),
        ({"bits": -8, "es": 0}, r"posit\(-8,0\)"),
        ({"bits": 8, "es": 9}, r"posit\(8,9\)"),
        ({"bits": "eight", "es": 0}, "lacks its attributes"),
    ],
)
def test_hostile_posit_quant(tmp_path: Path, kind: str, fields: Any, text: str) -> None:
    values = {"s": np.float32(0.5)}
    refused(hostile(kind, values, "PositQuant", OWN, **fields), tmp_path, text)
    stray = hostile(kind, values, "PositQuant", "far.away", bits=8, es=0)
    refused(stray, tmp_path, "far.away")


def test_weights_that_a_format_does_not_hold_keep_no_exact_hint(tmp_path: Path) -> None:
    """A scale an input channel over square weights looks like one an output channel."""
    w = np.diag([5.0, 0.25, 1.0, 3.0]) + 0.5
    extra = {n: np.asarray(v, np.float32) for n, v in {**NUMBERS, "s": 1.0}.items()}
    extra["s"] = np.exp2([[1.0], [-2.0], [0.0], [3.0]]).astype(np.float32)
    graph = load_onnx(save(constant("FloatQuant", QONNX, w, extra), tmp_path))
    assert not graph.weight_hints["fc"].exact


# -- after training -------------------------------------------------------------------------------
def test_a_trained_module_survives_its_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from opennpe.quant.qat import Options, convert, prepare

    torch.manual_seed(2)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(64, 16),
        torch.nn.LayerNorm(16), torch.nn.Linear(16, 3),
    )  # fmt: skip
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    module = prepare(model, x[:1], "fp4", x, Options(activations="learned", weights="learned"))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        module(x).square().sum().backward()
        optimiser.step()
    network, path = convert(module), tmp_path / "trained.onnx"
    export.write(module.float_graph(), network, path)
    again = calibrate(load_onnx(path), {network.inputs[0]: x.numpy()}, "model")
    assert export.difference(network, again) is None
    spec, given = catalog.get("EDGE_4X4"), {network.inputs[0]: x.numpy()}
    (first, _), (second, _) = sim.run(spec, network, given), sim.run(spec, again, given)
    assert np.array_equal(first[network.outputs[0]], second[network.outputs[0]])
