"""Cached decoding equals full prefill, token by token and bit by bit, in golden and simulator."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_model import BLOCKS, VOCABULARY, Decoder, generate
from opennpe import sim
from opennpe.golden import catalog, formats, reference, storage

pytestmark = pytest.mark.fast

SPEC = catalog.EDGE_4X4
SEEDS = range(4)


def golden(network, inputs):
    return reference.evaluate(SPEC, network, inputs)


def simulated(network, inputs):
    return sim.run(SPEC, network, inputs, keep=network.outputs)[0]


def tokens(seed, count):
    return np.random.default_rng(100 + seed).integers(0, VOCABULARY, count)


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_simulator_decodes_as_it_prefills(name, seed):
    decoder, ids = Decoder(name, seed), tokens(seed, 12)
    whole = simulated(decoder.prefill(len(ids)), {"ids": ids[None]})["logits"][0]
    steps = generate(decoder.step(16), ids, simulated)
    for position, (a, b) in enumerate(zip(whole, steps, strict=True)):
        assert np.array_equal(a, b), f"{name}, seed {seed}: token {position} differs"
    assert len(np.unique(whole)) > 2, "logits that say nothing"


@pytest.mark.parametrize(
    ("name", "seed"),
    [("posit8", 0), ("posit8", 1), ("posit16", 0), ("posit16", 1), ("fp4", 2), ("posit4", 3)],
)
def test_golden_decodes_as_it_prefills_and_as_the_simulator(name, seed):
    decoder, ids = Decoder(name, seed), tokens(seed, 5)
    network = decoder.prefill(len(ids))
    expected = golden(network, {"ids": ids[None]})
    found = sim.run(SPEC, network, {"ids": ids[None]}, keep=tuple(network.tensors))[0]
    for layer in network.layers:
        assert np.array_equal(found[layer.output], expected[layer.output]), layer.name
    steps = generate(decoder.step(8), ids, golden)
    assert np.array_equal(steps, expected["logits"][0])
    assert np.array_equal(steps, generate(decoder.step(8), ids, simulated))


def test_a_longer_cache_changes_nothing():
    decoder, ids = Decoder("posit8", 5), tokens(5, 6)
    assert np.array_equal(
        generate(decoder.step(6), ids, simulated), generate(decoder.step(15), ids, simulated)
    )


def test_a_prompt_may_be_a_prefix():
    """Prefill of a prefix gives the prefix of prefill: rows see only what precedes them."""
    decoder, ids = Decoder("posit16", 6), tokens(6, 9)
    whole = simulated(decoder.prefill(9), {"ids": ids[None]})["logits"]
    part = simulated(decoder.prefill(4), {"ids": ids[None, :4]})["logits"]
    assert np.array_equal(whole[:, :4], part)


def test_blocks_differ_as_openelm_has_them():
    assert len({heads for heads, _, _ in BLOCKS}) == len(BLOCKS)
    assert any(heads // groups > 1 for heads, groups, _ in BLOCKS)


def test_a_wrong_position_is_seen():
    """The check can fail: a step told the wrong position gives other logits."""
    decoder, ids = Decoder("posit16", 7), tokens(7, 6)
    right = generate(decoder.step(8), ids, simulated)

    def late(network, inputs):
        position = inputs["position"] + (inputs["position"] > 2)
        return simulated(network, {**inputs, "position": position})

    assert not np.array_equal(right, generate(decoder.step(8), ids, late))


def test_decoders_are_stored(tmp_path):
    network = Decoder("posit8", 8).step(8)
    storage.save(network, tmp_path / "step.npz")
    again = storage.load(tmp_path / "step.npz")
    ids = tokens(8, 4)
    assert np.array_equal(generate(network, ids, simulated), generate(again, ids, simulated))
