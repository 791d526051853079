"""Tiles cut from a run give golden's own codes, and a wrong bit is reported."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from opennpe.cli import check, tiles
from opennpe.cli.errors import CheckFailed
from opennpe.golden import array, catalog, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network, Tensor

SPEC = catalog.get("EDGE_4X4")
FORMATS = [
    ("fp4", "fp4", "fp4"),
    ("posit4", "posit4", "posit8"),
    ("posit8", "posit8", "posit8"),
    ("posit16", "posit16", "posit16"),
    ("posit8", "fp4", "posit16"),
    ("posit4", "fp4", "fp4"),
    ("posit4", "posit16", "posit4"),
]


def conv(rng: Any, weight: str, groups: int, per: int, k: tuple[int, ...]) -> L.Conv:
    fmt, outputs = formats.get(weight), 6
    rank = len(k)
    return L.Conv(
        "conv", ("x",), "y", fmt.encode(rng.normal(0, 1.5, (outputs, per, *k))), weight,
        rng.integers(-2, 2, outputs), rng.normal(size=outputs),
        (2, 1)[:rank], (1, 0, 2, 3)[: 2 * rank], (1, 2)[:rank], groups, (0.0, 2.5),
    )  # fmt: skip


def build(kind: str, x: str, w: str, out: str) -> tuple[Network, dict[str, Any]]:
    rng = np.random.default_rng(5)
    fmt = formats.get(w)
    shapes: dict[str, tuple[int, ...]] = {"x": (1, 6, 5, 6), "y": (1, 6, 3, 5)}
    names: tuple[str, ...] = ("x",)
    layer: Any
    if kind.startswith("conv"):
        groups = {"conv": 1, "conv grouped": 3, "conv depthwise": 6}[kind]
        layer = conv(rng, w, groups, 6 // groups, (3, 2))
        shapes["y"] = (1, 6, 3, 7)
    elif kind == "linear":
        weights, bias = fmt.encode(rng.normal(0, 1, (9, 7))), rng.normal(size=9)
        layer = L.Linear("fc", ("x",), "y", weights, w, rng.integers(-2, 2, 9), bias, (-1.0, 1.0))
        shapes = {"x": (1, 5, 7), "y": (1, 5, 9)}
    else:
        layer = L.MatMul("mm", ("x", "z"), "y", None)
        shapes = {"x": (1, 2, 5, 7), "z": (1, 1, 7, 6), "y": (1, 2, 5, 6)}
        names = ("x", "z")
    held = {"x": x, "y": out, "z": w}
    tensors = {n: Tensor(n, s, held[n], i - 1) for i, (n, s) in enumerate(shapes.items())}
    network = Network(names, ("y",), tensors, (layer,))
    return network, {n: rng.normal(0, 2, (2, *shapes[n][1:])) for n in names}


def by_golden(cases: Sequence[tiles.Case]) -> tuple[list[Any], int]:
    return [check.golden_codes(SPEC, case) for case in cases], sum(len(c.words[0]) for c in cases)


@pytest.mark.parametrize("kind", ["conv", "conv grouped", "conv depthwise", "linear", "matmul"])
@pytest.mark.parametrize("which", FORMATS, ids="-".join)
def test_every_tile_is_golden_s(kind: str, which: tuple[str, str, str]) -> None:
    network, inputs = build(kind, *which)
    tensors = reference.evaluate(SPEC, network, inputs)
    rng = np.random.default_rng(0)
    done = check.check(SPEC, network, tensors, 10**6, rng, by_golden)
    assert done.outputs == tensors["y"].size and not done.skipped
    (layer,) = network.layers
    view = tiles.product(network, layer, tensors)
    assert view is not None
    count = SPEC.engine.lanes(view.modes()[0])
    each = len(list(array.tiles(SPEC.array, view.m, view.n, count)))
    assert done.tiles == {layer.name: each * view.groups}


def test_sampling_takes_the_number_asked_for() -> None:
    network, inputs = build("conv", "posit8", "posit8", "posit8")
    tensors = reference.evaluate(SPEC, network, inputs)
    done = check.check(SPEC, network, tensors, 2, np.random.default_rng(0), by_golden)
    assert done.tiles == {"conv": 2} and 0 < done.outputs <= 2 * 4 * 8


def test_words_hold_lane_0_in_the_low_bits() -> None:
    network, inputs = build("linear", "posit8", "posit8", "posit8")
    tensors = reference.evaluate(SPEC, network, inputs)
    view = tiles.product(network, network.layers[0], tensors)
    assert view is not None
    case = next(tiles.sample(SPEC, view, tensors["y"], 1, np.random.default_rng(0)))[0]
    np.testing.assert_array_equal(case.words[1] & 255, case.codes[1][:, 0])
    np.testing.assert_array_equal(case.words[0] >> 8, case.words[0] & 255)


@pytest.mark.parametrize("lane", [0, 1])
def test_one_wrong_bit_is_reported(lane: int) -> None:
    network, inputs = build("linear", "posit8", "posit8", "posit8")
    tensors = reference.evaluate(SPEC, network, inputs)

    def faulty(cases: Sequence[tiles.Case]) -> tuple[list[Any], int]:
        results, cycles = by_golden(cases)
        full = [i for i, case in enumerate(cases) if len(case.outputs) > lane]
        small = [i for i in full if abs(cases[i].out.decode(results[i][lane])) < 0.5]
        results[small[0]][lane] ^= 1
        return results, cycles

    with pytest.raises(CheckFailed, match=rf"layer 'fc' output \d+ \(lane {lane}\): RTL .., "):
        check.check(SPEC, network, tensors, 10, np.random.default_rng(0), faulty)
    with pytest.raises(CheckFailed, match=r"answered 0 of \d+ cases"):
        check.check(SPEC, network, tensors, 1, np.random.default_rng(0), lambda cases: ([], 0))


def test_nothing_to_replay_is_an_error() -> None:
    tensors = {n: Tensor(n, (1, 4), "posit8") for n in "xy"}
    relu = Network(("x",), ("y",), tensors, (L.Activate("r", ("x",), "y", "relu"),))
    codes = reference.evaluate(SPEC, relu, {"x": np.ones((1, 4))})
    with pytest.raises(DataError, match="no layer of this run can be replayed"):
        check.check(SPEC, relu, codes, 1, np.random.default_rng(0), by_golden)
    network, inputs = build("linear", "int8", "int8", "int8")
    codes = reference.evaluate(SPEC, network, inputs)
    with pytest.raises(DataError, match="no layer of this run can be replayed"):
        check.check(SPEC, network, codes, 1, np.random.default_rng(0), by_golden)


def test_clipping_after_rounding_equals_clipping_before() -> None:
    for name in formats.ENGINE_FORMATS:
        fmt = formats.get(name)
        codes = np.array([c for c in range(1 << fmt.bits) if c != fmt.nan_code], dtype=fmt.dtype)
        out = Tensor("y", (1,), name, 1)
        case = tiles.Case("l", (0,), codes, (name, name), (codes, codes), (codes, codes),
                          (0,), (0,), out, (0.0, 3.0))  # fmt: skip
        got = out.decode(check.clipped(SPEC, case, codes))
        expected = np.clip(out.decode(codes), 0.0, out.decode(out.encode(3.0)))
        np.testing.assert_array_equal(got, expected)
        assert not np.signbit(got).any() and math.isfinite(got.max())
