"""Events of layers: words are those that the co-processor's engines meet, toggles are golden's."""

from __future__ import annotations

from itertools import pairwise

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


def short_sums(fmt, steps, sums=33):
    """Sums of few words, with biases and shifts, and the integers that leave each lane."""
    rng = np.random.default_rng(steps)
    share, width = lanes.lanes(fmt), mac.GROUP_BITS // lanes.lanes(fmt)
    f = formats.get(fmt)
    sides = [f.encode(rng.normal(0, 2, (sums, steps, share)), "zero") for _ in range(2)]
    bias = np.zeros((sums, 4, 2), np.uint64)
    bias[:, :share, 0] = rng.integers(0, 1 << 20, (sums, share))
    shift = np.zeros((sums, 4), np.int64)
    shift[:, :share] = rng.integers(-9, 9, (sums, share))
    held = word_activity.Sums(
        *(lanes.pack(fmt, side).reshape(-1) for side in sides),
        np.arange(sums + 1) * steps, np.array([0, sums]), bias, np.ones(sums, np.uint8), shift,
    )  # fmt: skip
    products = np.zeros((sums, steps, share), dtype=object)
    for at in np.ndindex(products.shape):
        products[at] = mac.multiply(fmt, fmt, int(sides[0][at]), int(sides[1][at]))[0]
    return held, products, width


def toggles(values, mask=-1):
    """Bits that differ from one value to the next."""
    return sum(((x ^ y) & mask).bit_count() for x, y in pairwise(values))


@pytest.mark.parametrize("fmt", ["fp4", "posit8", "posit16"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_what_the_adder_and_the_normaliser_see_is_goldens(fmt, steps):
    held, products, width = short_sums(fmt, steps)
    sums, _, share = products.shape
    mask = (1 << width) - 1
    found = dict(zip(CLASSES, word_activity.count(fmt, fmt, held)[0], strict=True))
    base: list[list[int]] = [[] for _ in range(share)]
    seen, leaves = [], []
    for k in range(sums):
        totals = [int(held.bias[k, lane, 0]) for lane in range(share)]
        before = [total & mask for total, _, _ in leaves[-share:]]
        for w in range(steps):
            for lane in range(share):
                if w + 1 == steps < share and (k or w):  # the last word waits, the sum stands
                    base[lane].append(totals[lane] & mask if w else before[lane])
                base[lane].append(totals[lane] & mask)
                totals[lane] += products[k, w, lane]
            seen.append(totals[0] & mask)
        leaves += [(totals[lane], int(held.shift[k, lane]), lane) for lane in range(share)]
    assert found["base"] == sum(map(toggles, base))
    assert found["gap"] == sums * (steps < share)
    # What a run of single words begins with is not known, nor is its first sum's end.
    leaves = leaves[share - 1 :] if steps == 1 else [(0, 0, 0), *leaves]
    ones = [(total & mask).bit_count() for total, _, _ in leaves]
    # Only single lanes that follow each other at once take each other's place in the slots.
    drained = toggles(seen) if share == steps == 1 else sum(map(sum, pairwise(ones)))
    assert found["drained"] == drained
    grid = mac.grid_exponent(fmt, fmt)
    places = [max((~t if t < 0 else t).bit_length() - 1, 0) for t, _, _ in leaves]
    exponents = [place + grid + leaf[1] for place, leaf in zip(places, leaves, strict=True)]
    if steps > 1:
        exponents[0] = 0
    assert found["exponent"] == toggles(exponents, 0x3FF)
    # Planted faults: biases and shifts that are not these.
    for field, name in (("bias", "base"), ("shift", "exponent")):
        spoilt = held._replace(**{field: getattr(held, field)[::-1] // 2})
        other = word_activity.count(fmt, fmt, spoilt)[0]
        assert other[CLASSES.index(name)] != found[name]


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


@pytest.mark.parametrize("fmt", ["fp4", "posit16"])
def test_sampled_additions_are_close_to_whole_ones(fmt):
    """Of two-word sums that leave, runs show all lanes but not all words."""
    rng = np.random.default_rng(6)
    f = formats.get(fmt)
    shape = (1, 8, 32, 32)
    tensors = {n: Tensor(n, shape, fmt, 0) for n in "abc"}
    network = Network(("a", "b"), ("c",), tensors, (L.Add("add", ("a", "b"), "c"),))
    codes = {n: f.encode(rng.normal(0, 1, shape), "zero").astype(f.dtype) for n in "ab"}
    (whole,) = activity.activity(SPEC, network, codes, budget=1 << 30)
    (sampled,) = activity.activity(SPEC, network, codes, budget=1 << 11)
    assert whole.exact and sampled.looked_at <= 1 << 11 < whole.words
    for name, all_of_it, some in zip(CLASSES, whole.counts, sampled.counts, strict=True):
        assert some == pytest.approx(all_of_it, rel=0.1, abs=whole.words / 50), name


def test_idle_engines_meet_words_of_zeros():
    network, x = one_conv("fp4")
    (found,) = activity.activity(SPEC, network, {"x": x})
    more = found.padded(found.words + 7)
    assert more.counts[1] == found.counts[1] + 7
    with pytest.raises(DataError, match="its engines made 3 steps"):
        found.padded(3)
