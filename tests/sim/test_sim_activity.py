"""Events of layers: words are those that the co-processor's engines meet, toggles are golden's."""

from __future__ import annotations

import numpy as np
import pytest
from opennpe.golden import catalog, formats, lanes, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.machine import Machine
from opennpe.golden.network import Network, Tensor
from opennpe.host.backends import Golden
from opennpe.host.compile import compile
from opennpe.sim import activity, word_activity
from opennpe.sim.layer_words import layer_product
from opennpe.tech.coefficients import CLASSES

pytestmark = pytest.mark.fast

SPEC = catalog.EDGE_2X2


def one_conv(fmt, channels=5, size=6, out=6):
    """A network of a single convolution, and codes of a sample."""
    rng = np.random.default_rng(3)
    f = formats.get(fmt)
    tensors = {
        "x": Tensor("x", (1, channels, size, size), fmt, 0),
        "y": Tensor("y", (1, out, size, size), fmt, 1),
    }
    weights = f.encode(rng.normal(0, 1, (out, channels, 3, 3)), "zero")
    layer = L.Conv(
        "conv", ("x",), "y", weights, fmt, np.zeros(out, dtype=np.int64),
        rng.normal(0, 0.5, out), (1, 1), (1, 1, 1, 1), (1, 1),
    )  # fmt: skip
    x = f.encode(np.maximum(rng.normal(0, 1, (1, channels, size, size)), 0), "zero")
    return Network(("x",), ("y",), tensors, (layer,)), x.astype(f.dtype)


@pytest.mark.parametrize("fmt", formats.ENGINE_FORMATS)
def test_words_are_those_of_the_machine(fmt, monkeypatch):
    network, x = one_conv(fmt)
    product = layer_product(SPEC, network, network.layers[0], [x])
    seen = set()

    def watched(self, command, name, n, weights):
        left = self._elements(command, name, n)
        words = self._weight_lines(command, n)
        for line, folds, column in np.ndindex(*left.shape[:2], words.shape[1]):
            if column * left.shape[1] // words.shape[1] == folds:
                own = left[line, folds].astype("<u2")
                seen.add((own.tobytes(), words[:, column].astype("<u2").tobytes()))
        return original(self, command, name, n, weights)

    original = Machine._dense
    monkeypatch.setattr(Machine, "_dense", watched)
    Golden(SPEC).run(compile(network, SPEC, sparse="never"), {"x": x}, None)
    assert seen
    pixel, tile = (z.reshape(-1) for z in np.indices((product.pixels, product.tiles)))
    left, right = product.sums(pixel, tile)
    codes = left & ((1 << formats.get(fmt).bits) - 1)
    pairs = zip(codes.astype("<u2"), right.astype("<u2"), strict=True)
    mine = {(a.tobytes(), b.tobytes()) for a, b in pairs}
    assert len(mine) > product.pixels // 2
    assert mine <= seen


@pytest.mark.parametrize("fmt", ["fp4", "posit8", "posit16"])
def test_toggles_of_the_sum_are_goldens(fmt):
    rng = np.random.default_rng(4)
    share, steps = lanes.lanes(fmt), 12
    f = formats.get(fmt)
    sides = [f.encode(rng.normal(0, 2, (steps, share)), "zero") for _ in range(2)]
    words = [lanes.pack(fmt, side) for side in sides]
    held = word_activity.Sums(
        *words, np.array([0, steps]), np.array([0, 1]),
        np.zeros((1, 4, 2), np.uint64), np.ones(1, np.uint8),
        np.zeros((1, 4), np.int64),
    )  # fmt: skip
    found = dict(zip(CLASSES, word_activity.count(fmt, fmt, held)[0], strict=True))
    totals = np.zeros(share, dtype=object)
    mask, expected = (1 << mac.GROUP_BITS // share) - 1, 0
    for k in range(steps):
        before = totals.copy()
        for lane in range(share):
            totals[lane] += mac.multiply(fmt, fmt, int(sides[0][k, lane]), int(sides[1][k, lane]))[
                0
            ]
        if k:  # what came before the first word is not known
            expected += sum(
                int((a ^ b) & mask).bit_count() for a, b in zip(before, totals, strict=True)
            )
    assert found["total"] == expected
    ports = np.bitwise_xor(words[0][1:], words[0][:-1])
    assert found["port_a"] == sum(int(w).bit_count() for w in ports)
    assert found["word"] + found["zero_word"] == steps


def test_figures_are_the_same_on_any_number_of_threads_and_sampled_close_to_whole():
    network, x = one_conv("posit8", channels=8, size=16, out=16)
    runs = [activity.activity(SPEC, network, {"x": x}, threads=n, budget=1 << 11) for n in (1, 2)]
    assert np.array_equal(runs[0][0].counts, runs[1][0].counts)
    (whole,) = activity.activity(SPEC, network, {"x": x}, budget=1 << 30)
    (sampled,) = runs[0]
    assert whole.exact and not sampled.exact
    assert sampled.looked_at < whole.words // 4
    assert sampled.counts[CLASSES.index("word")] == pytest.approx(
        whole.counts[CLASSES.index("word")], rel=0.1
    )


def test_idle_engines_meet_words_of_zeros():
    network, x = one_conv("fp4")
    (found,) = activity.activity(SPEC, network, {"x": x})
    more = found.padded(found.words + 7)
    assert more.counts[1] == found.counts[1] + 7
    with pytest.raises(DataError, match="its engines made 3 steps"):
        found.padded(3)
