"""Transformer graphs as exporters write them: what they become, and that they mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from opennpe import sim
from opennpe.golden import catalog
from opennpe.golden import layers as L
from opennpe.golden.errors import ModelError
from opennpe.quant import calibrate, load_onnx
from opennpe.quant.float_eval import evaluate
from opennpe.quant.graph import Graph, UnsupportedModelError
from opennpe.quant.policy import Policy

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(11)
T, C, H, D = 6, 16, 2, 8
INT, BOOL, FLOAT = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    domain = attributes.pop("domain", "")
    return helper.make_node(op, inputs.split(), outputs.split(), domain=domain, **attributes)


def model(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, Any]],
    constants: dict[str, Any],
    out: str = "y",
    opset: int = 18,
) -> Path:
    """A file; inputs are (element type, shape)."""
    stored = []
    for key, value in constants.items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        stored.append(numpy_helper.from_array(array, key))
    graph = helper.make_graph(
        nodes,
        "t",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_value_info(out, helper.make_tensor_type_proto(FLOAT, None))],
        stored,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def check(path: Path, given: dict[str, np.ndarray], tolerance: float = 1e-5) -> Graph:
    """Import, compare the float graph with ONNX's reference and posit16 with the float graph."""
    graph = load_onnx(path)
    expected = ReferenceEvaluator(str(path)).run(None, given)[0]
    return compare(graph, given, expected, tolerance)


def compare(graph: Graph, given: Any, expected: np.ndarray, tolerance: float = 1e-5) -> Graph:
    name = graph.outputs[0]
    found = evaluate(graph, given, np.float64)[name]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
    network = calibrate(graph, given, "posit16")
    codes, _ = sim.run(catalog.EDGE_4X4, network, given)
    rounded = network.tensors[name].decode(codes[name])
    distance = np.linalg.norm(rounded - expected) / np.linalg.norm(expected)
    assert distance < 5e-3, f"posit16 is {distance:.1e} away"
    return graph


def kinds(graph: Graph) -> list[str]:
    return [type(layer).__name__ for layer in graph.layers]


def only(graph: Graph, kind: type) -> Any:
    found = [layer for layer in graph.layers if isinstance(layer, kind)]
    assert len(found) == 1, kinds(graph)
    return found[0]


def x_of(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


# -- normalisation and activations ---------------------------------------------------------------
def test_layer_normalization(tmp_path):
    path = model(
        tmp_path, [node("LayerNormalization", "x g b", "y", epsilon=1e-6)],
        {"x": (FLOAT, [1, T, C])}, {"g": RNG.normal(1, 0.3, C), "b": RNG.normal(size=C)},
    )  # fmt: skip
    layer = only(check(path, {"x": x_of(1, T, C)}), L.Normalise)
    assert layer.kind == "layer" and layer.epsilon == pytest.approx(1e-6)


DECOMPOSED = {
    "layer, div and pow": [
        node("ReduceMean", "x axes", "m"), node("Sub", "x m", "d"), node("Pow", "d two", "p"),
        node("ReduceMean", "p axes", "v"), node("Add", "v eps", "e"), node("Sqrt", "e", "s"),
        node("Div", "d s", "n"), node("Mul", "n g", "w"), node("Add", "w b", "y"),
    ],
    "layer, two sums and mul": [
        node("ReduceMean", "x axes", "m"), node("Sub", "x m", "d"), node("Mul", "d d", "p"),
        node("ReduceMean", "p axes", "v"), node("Add", "eps v", "e"), node("Sqrt", "e", "s"),
        node("Reciprocal", "s", "r"), node("Mul", "d r", "n"), node("Mul", "g n", "w"),
        node("Add", "b w", "y"),
    ],
    "rms, reciprocal": [
        node("Pow", "x two", "p"), node("ReduceMean", "p axes", "v"), node("Add", "v eps", "e"),
        node("Sqrt", "e", "s"), node("Reciprocal", "s", "r"), node("Mul", "x r", "n"),
        node("Mul", "g n", "y"),
    ],
    "rms, power of minus a half": [
        node("Mul", "x x", "p"), node("ReduceMean", "p axes", "v"), node("Add", "v eps", "e"),
        node("Pow", "e minus", "r"), node("Mul", "x r", "n"), node("Mul", "n g", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DECOMPOSED)
def test_normalisations_written_out(tmp_path, name):
    constants = {
        "axes": np.array([-1]), "two": np.float32(2), "eps": np.float32(1e-5),
        "minus": np.float32(-0.5), "g": RNG.normal(1, 0.3, C), "b": RNG.normal(size=C),
    }  # fmt: skip
    path = model(tmp_path, DECOMPOSED[name], {"x": (FLOAT, [1, T, C])}, constants)
    graph = check(path, {"x": x_of(1, T, C)})
    assert kinds(graph) == ["Normalise"]
    layer = only(graph, L.Normalise)
    assert layer.kind == name.split(",")[0] and layer.epsilon == pytest.approx(1e-5)
    assert (layer.beta is None) == (layer.kind == "rms")


def test_what_only_resembles_a_normalisation_stays(tmp_path):
    """The mean over another axis, or another tensor divided."""
    nodes = [
        node("Mul", "x x", "p"), node("ReduceMean", "p axes", "v"), node("Add", "v eps", "e"),
        node("Sqrt", "e", "s"), node("Div", "x s", "y"),
    ]  # fmt: skip
    path = model(tmp_path, nodes, {"x": (FLOAT, [1, T, C])},
                 {"axes": np.array([1]), "eps": np.float32(1e-5)})  # fmt: skip
    assert "Normalise" not in kinds(check(path, {"x": x_of(1, T, C)}))


def test_simplified_layer_normalization(tmp_path):
    path = model(
        tmp_path,
        [node("SimplifiedLayerNormalization", "x g", "y", epsilon=1e-5, axis=-1)],
        {"x": (FLOAT, [1, T, C])},
        {"g": np.ones(C)},
    )
    graph, x = load_onnx(path), x_of(1, T, C)
    compare(graph, {"x": x}, x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5))


GELUS = {
    "tanh": [
        node("Pow", "x three", "c"), node("Mul", "c k", "d"), node("Add", "x d", "e"),
        node("Mul", "e root", "f"), node("Tanh", "f", "t"), node("Add", "t one", "u"),
        node("Mul", "x half", "h"), node("Mul", "h u", "y"),
    ],
    "tanh, factored": [
        node("Mul", "x root", "a"), node("Mul", "x k", "b"), node("Mul", "b x", "c"),
        node("Add", "c one", "d"), node("Mul", "a d", "e"), node("Tanh", "e", "t"),
        node("Add", "one t", "u"), node("Mul", "x u", "v"), node("Mul", "half v", "y"),
    ],
    "erf": [
        node("Div", "x sqrt2", "a"), node("Erf", "a", "e"), node("Add", "e one", "u"),
        node("Mul", "half u", "h"), node("Mul", "x h", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GELUS)
def test_gelus_written_out(tmp_path, name):
    constants = {
        "three": np.float32(3), "k": np.float32(0.044715), "root": np.float32(0.7978845608),
        "one": np.float32(1), "half": np.float32(0.5), "sqrt2": np.float32(2**0.5),
    }  # fmt: skip
    path = model(tmp_path, GELUS[name], {"x": (FLOAT, [1, T, C])}, constants)
    graph = check(path, {"x": x_of(1, T, C)}, 1e-6)
    assert kinds(graph) == ["Activate"]
    assert graph.layers[0].kind == ("gelu" if name == "erf" else "gelu_tanh")


# -- embeddings ----------------------------------------------------------------------------------
def test_embeddings_and_a_pooled_mean(tmp_path):
    """Rows by token id, and a mean that a mask of 0 and 1 weighs."""
    nodes = [
        node("Gather", "table ids", "e"),
        node("Cast", "mask", "m", to=FLOAT), node("Unsqueeze", "m last", "u"),
        node("Mul", "e u", "w"), node("ReduceSum", "w one", "s", keepdims=0),
        node("ReduceSum", "u one", "n", keepdims=0), node("Div", "s n", "y"),
    ]  # fmt: skip
    path = model(
        tmp_path, nodes, {"ids": (INT, [1, T]), "mask": (INT, [1, T])},
        {"table": RNG.normal(size=(30, C)), "last": np.array([-1]), "one": np.array([1])},
    )  # fmt: skip
    given = {"ids": RNG.integers(0, 30, (1, T)), "mask": np.array([[1, 1, 1, 1, 0, 0]])}
    graph = check(path, given)
    assert {"Gather", "Select", "Reduce"} <= set(kinds(graph))
    assert graph.indices >= {"ids", "mask"}


def test_ids_beyond_the_table_are_refused_when_run(tmp_path):
    path = model(tmp_path, [node("Gather", "table ids", "y")], {"ids": (INT, [1, T])},
                 {"table": RNG.normal(size=(9, C))})  # fmt: skip
    network = calibrate(load_onnx(path), {"ids": np.arange(T)[None]}, "posit8")
    with pytest.raises(ValueError, match="row 9 of a table with 9"):
        sim.run(catalog.EDGE_4X4, network, {"ids": np.full((1, T), 9)})
    with pytest.raises(ValueError, match="input 'ids': an index is a whole number"):
        sim.run(catalog.EDGE_4X4, network, {"ids": np.full((1, T), -1)})


# -- attention -----------------------------------------------------------------------------------
def _logits(scale: str = "Div") -> list[Any]:
    return [
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]), node("MatMul", "q kt", "l"),
        node(scale, "l root", "s"),
    ]  # fmt: skip


MASKS = {
    "one minus mask, times a large number": [
        node("Unsqueeze", "mask where_", "u"), node("Cast", "u", "f", to=FLOAT),
        node("Sub", "one f", "o"), node("Mul", "o big", "a"), node("Add", "s a", "z"),
        node("Softmax", "z", "p", axis=-1),
    ],
    "where on an additive mask, and a guard": [
        node("Cast", "mask", "b", to=BOOL), node("Unsqueeze", "b where_", "u"),
        node("Expand", "u whole", "x"), node("Where", "x zero infinite", "a"),
        node("Add", "a s", "z"), node("Softmax", "z", "r", axis=-1), node("IsNaN", "r", "i"),
        node("Where", "i zero r", "p"),
    ],
    "where on the logits": [
        node("Unsqueeze", "mask where_", "u"), node("Equal", "u nought", "e"),
        node("Where", "e big s", "z"), node("Softmax", "z", "p", axis=-1),
    ],
    "not": [
        node("Cast", "mask", "b", to=BOOL), node("Unsqueeze", "b where_", "u"),
        node("Not", "u", "n"), node("Where", "n infinite s", "z"),
        node("Softmax", "z", "p", axis=-1),
    ],
    "causal, added": [node("Add", "s causal", "z"), node("Softmax", "z", "p", axis=-1)],
    "causal, chosen": [
        node("Where", "lower s infinite", "z"), node("Softmax", "z", "p", axis=-1),
    ],
    "causal and padding": [
        node("Cast", "mask", "b", to=BOOL), node("Unsqueeze", "b where_", "u"),
        node("And", "u lower", "w"), node("Where", "w zero big", "a"), node("Add", "s a", "z"),
        node("Softmax", "z", "p", axis=-1),
    ],
    "none": [node("Softmax", "s", "p", axis=-1)],
}  # fmt: skip
LOWER = np.tril(np.ones((T, T), bool))[None, None]
CONSTANTS = {
    "root": np.float32(D**0.5), "where_": np.array([1, 2]), "one": np.float32(1),
    "big": np.float32(-3.4e38), "whole": np.array([1, 1, T, T]), "zero": np.float32(0),
    "infinite": np.float32(-np.inf), "nought": np.array(0), "lower": LOWER,
    "causal": np.where(LOWER, 0, -1e9).astype(np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_reach_the_softmax(tmp_path, name):
    nodes = [*_logits(), *MASKS[name], node("MatMul", "p v", "y")]
    shape = (FLOAT, [1, H, T, D])
    inputs = {"q": shape, "k": shape, "v": shape}
    text = " ".join(n for item in MASKS[name] for n in item.input)
    given: dict[str, np.ndarray] = {n: x_of(1, H, T, D) for n in "qkv"}
    masked = "mask" in text.split()
    if masked:
        inputs["mask"] = (INT, [1, T])
        given["mask"] = np.array([[1, 1, 1, 1, 0, 0]])
    used = {n for item in nodes for n in item.input}
    constants = {k: v for k, v in CONSTANTS.items() if k in used}
    graph = check(model(tmp_path, nodes, inputs, constants), given)
    layer = only(graph, L.StreamSoftmax)
    assert layer.scale == pytest.approx(D**-0.5)
    assert len(layer.inputs) == 1 + masked + (name == "causal and padding" and not layer.causal)
    assert layer.causal == ("causal" in name)
    assert "Select" not in kinds(graph) and "Mul" not in kinds(graph)


def test_scales_on_both_operands_join_the_softmax(tmp_path):
    nodes = [
        node("Mul", "q r", "a"), node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
        node("Mul", "kt r", "b"), node("MatMul", "a b", "s"), node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]  # fmt: skip
    shape = (FLOAT, [1, H, T, D])
    path = model(tmp_path, nodes, dict.fromkeys("qkv", shape), {"r": np.float32(D**-0.25)})
    graph = check(path, {n: x_of(1, H, T, D) for n in "qkv"})
    assert only(graph, L.StreamSoftmax).scale == pytest.approx(D**-0.5)
    assert "Mul" not in kinds(graph)


def test_a_classifiers_softmax_stays_the_hosts(tmp_path):
    path = model(tmp_path, [node("Softmax", "x", "y", axis=-1)], {"x": (FLOAT, [1, 10])}, {})
    assert kinds(check(path, {"x": x_of(1, 10)})) == ["Softmax"]


def test_repeated_keys_are_moved_not_multiplied(tmp_path):
    """Grouped queries as exporters write them: unsqueeze, expand, reshape."""
    nodes = [
        node("Unsqueeze", "k two", "a"), node("Expand", "a wide", "b"),
        node("Reshape", "b flat", "kk"), node("Transpose", "kk", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q kt", "s"), node("Softmax", "s", "p", axis=-1),
        node("Unsqueeze", "v two", "c"), node("Expand", "c wide", "d"),
        node("Reshape", "d flat", "vv"), node("MatMul", "p vv", "y"),
    ]  # fmt: skip
    constants = {
        "two": np.array([2]),
        "wide": np.array([1, H, 3, T, D]),
        "flat": np.array([1, 3 * H, T, D]),
    }
    path = model(
        tmp_path, nodes,
        {"q": (FLOAT, [1, 3 * H, T, D]), "k": (FLOAT, [1, H, T, D]), "v": (FLOAT, [1, H, T, D])},
        constants,
    )  # fmt: skip
    graph = check(path, {"q": x_of(1, 6, T, D), "k": x_of(1, H, T, D), "v": x_of(1, H, T, D)})
    assert "Mul" not in kinds(graph)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_of_opset_23(tmp_path, causal, grouped):
    heads = 3 * H if grouped else H
    path = model(
        tmp_path,
        [node("Attention", "q k v", "y", q_num_heads=heads, kv_num_heads=H, is_causal=causal)],
        {"q": (FLOAT, [1, T, heads * D]), "k": (FLOAT, [1, T, H * D]), "v": (FLOAT, [1, T, H * D])},
        {},
        opset=23,
    )
    graph = check(
        path, {"q": x_of(1, T, heads * D), "k": x_of(1, T, H * D), "v": x_of(1, T, H * D)}
    )
    layer = only(graph, L.StreamSoftmax)
    assert layer.causal == bool(causal) and layer.scale == pytest.approx(D**-0.5)


def test_attention_of_opset_23_with_a_mask(tmp_path):
    shape = (FLOAT, [1, H, T, D])
    path = model(
        tmp_path,
        [node("Cast", "mask", "m", to=BOOL), node("Attention", "q k v m", "y", scale=0.5)],
        {"q": shape, "k": shape, "v": shape, "mask": (INT, [1, 1, T, T])},
        {},
        opset=23,
    )
    mask = (RNG.random((1, 1, T, T)) < 0.7).astype(np.int64)
    mask[..., 0] = 1
    graph = check(path, {**{n: x_of(1, H, T, D) for n in "qkv"}, "mask": mask})
    assert only(graph, L.StreamSoftmax).inputs[1] == "mask"


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(tmp_path, interleaved):
    angles = np.arange(T)[:, None] * 100.0 ** (-np.arange(D // 2) / (D // 2))
    path = model(
        tmp_path,
        [node("RotaryEmbedding", "x c s p", "y", interleaved=interleaved)],
        {"x": (FLOAT, [1, H, T, D])},
        {"c": np.cos(angles), "s": np.sin(angles), "p": np.arange(T)[None]},
        opset=23,
    )
    layer = only(check(path, {"x": x_of(1, H, T, D)}), L.Rotary)
    assert layer.interleaved == bool(interleaved)


# -- refusals ------------------------------------------------------------------------------------
REFUSED = {
    "to keep": [
        node("Cast", "mask", "f", to=FLOAT), node("Unsqueeze", "f where_", "u"),
        node("Mul", "u big", "a"), node("Add", "s a", "z"), node("Softmax", "z", "p", axis=-1),
    ],
    "only a softmax may": [
        node("Unsqueeze", "mask where_", "u"), node("Cast", "u", "f", to=FLOAT),
        node("Sub", "one f", "o"), node("Mul", "o big", "a"), node("Add", "s a", "z"),
        node("Tanh", "z", "p"),
    ],
    "something else than 'and'": [
        node("Cast", "mask", "b", to=BOOL), node("Cast", "other", "c", to=BOOL),
        node("Or", "b c", "e"), node("Unsqueeze", "e where_", "u"),
        node("Where", "u s infinite", "z"), node("Softmax", "z", "p", axis=-1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_masks_that_have_no_place_are_refused(tmp_path, why):
    nodes = [*_logits(), *REFUSED[why], node("MatMul", "p v", "y")]
    shape = (FLOAT, [1, H, T, D])
    inputs = {**dict.fromkeys("qkv", shape), "mask": (INT, [1, T]), "other": (INT, [1, T])}
    used = {n for item in nodes for n in item.input}
    inputs = {k: v for k, v in inputs.items() if k in used}
    path = model(tmp_path, nodes, inputs, {k: v for k, v in CONSTANTS.items() if k in used})
    with pytest.raises(UnsupportedModelError, match=why):
        load_onnx(path)


def test_a_mask_is_no_output(tmp_path):
    path = model(tmp_path, [node("Cast", "mask", "y", to=FLOAT)], {"mask": (INT, [1, T])}, {})
    with pytest.raises(ModelError, match="is a mask or row numbers"):
        load_onnx(path)


def test_rules_by_kind(tmp_path):
    policy = Policy.parse(
        'version = 1\n[default]\nformat = "posit8"\n'
        '[[layer]]\nkind = "Normalise"\noutput = "posit16"\n'
    )
    nodes = [node("MatMul", "x w", "m"), node("LayerNormalization", "m g", "y")]
    path = model(tmp_path, nodes, {"x": (FLOAT, [1, T, C])},
                 {"w": RNG.normal(size=(C, C)), "g": np.ones(C)})  # fmt: skip
    network = calibrate(load_onnx(path), {"x": x_of(4, T, C)}, policy)
    assert [network.tensors[n.output].format for n in network.layers] == ["posit8", "posit16"]
    with pytest.raises(ValueError, match="kind = 'Nothing', expected some of"):
        Policy.parse('version = 1\n[default]\nformat = "posit8"\n[[layer]]\nkind = "Nothing"\n')
