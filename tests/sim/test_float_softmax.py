"""The host's float32 softmax against float64, and against itself on other threads and vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opennpe.golden.errors import DataError
from opennpe.sim import cpu, float_softmax
from opennpe.sim.float_softmax import softmax
from opennpe.sim.jit import DISABLED

ALGORITHMS: tuple[Any, ...] = ("two-pass", "three-pass", "three-pass-reload")
TWO_PASS_ULP, PER_OCTAVE = 7.0, 1 / 31
"""Most units in the last place of the two-pass results, and what octaves below the top add."""
THREE_PASS_ULP = 7.0
"""The same of three passes, where the rounding of x - max adds as many as it is large."""


def reference(x: Any) -> Any:
    """float64 softmax along the last axis."""
    power = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True).astype(np.float64))
    return power / power.sum(axis=-1, keepdims=True)


def units(got: Any, wanted: Any) -> Any:
    """Distance in units in the last place of the wanted float32."""
    unit = np.spacing(np.maximum(wanted.astype(np.float32), np.float32(1e-45)))
    return np.abs(got.astype(np.float64) - wanted) / unit.astype(np.float64)


def families(length: int, rng: np.random.Generator) -> dict[str, Any]:
    normal = rng.normal(size=length)
    spike = np.zeros(length)
    spike[length // 2] = 60.0
    return {
        "normal": 4 * normal,
        "constant": np.full(length, 3.3),
        "constant and negative": np.full(length, -777.7),
        "ramp": np.linspace(-150, 150, length),
        "falling ramp": np.linspace(4000, -4000, length),
        "one hot": spike,
        "exp overflows": 700 + normal,
        "exp underflows": -700 + normal,
        "wide": 1e4 * normal,
        "wider than pairs": 1e30 * normal,
        "near the pairs' limit": 3e5 * normal,
        "far below zero": -3e6 + 10 * normal,
        "steps": np.repeat(rng.normal(size=-(-length // 700)) * 300, 700)[:length],
        "masked": np.where(rng.random(length) * np.arange(length) > 0.3 * length, -np.inf, normal),
        "mostly masked": np.where(np.arange(length) == length - 1, 5.0, -np.inf),
        "largest floats": np.where(rng.random(length) < 0.5, -3.4e38, 3.4e38),
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("length", [1, 3, 63, 64, 65, 100, 1000, 1024, 1100, 5000, 70_000, 300_001])
def test_error_against_float64(algorithm: Any, length: int) -> None:
    rng = np.random.default_rng(length)
    for name, values in families(length, rng).items():
        x = values.astype(np.float32)
        got, wanted = softmax(x, algorithm=algorithm, threads=1), reference(x)
        below = (x.max() - x.astype(np.float64)).clip(0, 200)
        bound = (
            TWO_PASS_ULP + below * PER_OCTAVE / np.log(2)
            if algorithm == "two-pass"
            else THREE_PASS_ULP + 1.1 * below
        )
        # Where pairs give up, three passes take over, and their bound.
        if algorithm == "two-pass" and np.abs(x[np.isfinite(x)]).max(initial=0) > 9e5:
            bound = THREE_PASS_ULP + 1.1 * below
        worst = units(got, wanted) - bound
        assert (worst <= 0).all(), (name, float(worst.max()))
        assert abs(got.astype(np.float64).sum() - 1) < 1e-5, name
        assert not got[np.isneginf(x)].any()


def test_the_error_test_can_fail() -> None:
    x = (4 * np.random.default_rng(0).normal(size=5000)).astype(np.float32)
    wrong = softmax(x) * np.float32(1 + 2.0**-20)
    assert units(wrong, reference(x)).max() > TWO_PASS_ULP


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_threads_do_not_matter(algorithm: Any) -> None:
    rng = np.random.default_rng(1)
    for shape in ((1, 1_000_003), (2, 400_000), (700, 300), (3, 70_001)):
        for values in families(shape[1], rng).values():
            x = np.broadcast_to(values, shape).astype(np.float32)
            one = softmax(x, algorithm=algorithm, threads=1)
            for threads in (2, 3):
                other = softmax(x, algorithm=algorithm, threads=threads)
                assert np.array_equal(one.view(np.int32), other.view(np.int32))
            if shape[1] > 100_000:
                break


@pytest.mark.skipif(DISABLED, reason="vectors are compiled")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vectors_do_not_matter(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every width compiles for any processor: wider vectors are cut, the bits stay."""
    rng = np.random.default_rng(2)
    rows = [v.astype(np.float32) for n in (65, 5000) for v in families(n, rng).values()]
    found = {}
    for isa in cpu.ISAS:
        monkeypatch.setattr(cpu, "host", lambda isa=isa: isa)
        found[isa.vector_bits] = [softmax(x, algorithm=algorithm, threads=1) for x in rows]
    assert sorted(found) == [128, 256, 512]
    for other in found.values():
        for a, b in zip(found[256], other, strict=True):
            assert np.array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_streaming_does_not_matter(algorithm: Any) -> None:
    x = np.random.default_rng(3).normal(size=(4, 1 << 14)).astype(np.float32)
    past, through = (softmax(x, algorithm=algorithm, stream=s) for s in (True, False))
    assert np.array_equal(past, through)
    odd = x[:, :-1]
    past, through = (softmax(odd, algorithm=algorithm, stream=s) for s in (True, False))
    assert np.array_equal(past, through)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("length", [1, 70, 3000])
def test_nan_and_infinities(algorithm: Any, length: int) -> None:
    for what in (np.nan, -np.nan, np.inf):
        x = np.zeros((3, length), np.float32)
        x[1, length // 2] = what
        got = softmax(x, algorithm=algorithm)
        assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2]]).all()
    assert np.isnan(softmax(np.full(length, -np.inf, np.float32), algorithm=algorithm)).all()


def test_axes_and_out() -> None:
    x = np.random.default_rng(4).normal(size=(3, 5, 70)).astype(np.float32)
    for axis in range(-3, 3):
        rows = softmax(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
        assert np.array_equal(softmax(x, axis=axis), np.moveaxis(rows, -1, axis))
    out = np.empty_like(x)
    assert softmax(x, out=out) is out and np.array_equal(out, softmax(x))
    assert softmax(x, axis=1, out=out) is out and np.array_equal(out, softmax(x, axis=1))
    assert np.array_equal(softmax(x[:, ::2]), softmax(x[:, ::2].copy()))
    assert softmax(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert softmax(np.zeros((4, 0), np.float32)).shape == (4, 0)


def test_auto_goes_by_the_length_alone() -> None:
    edge = float_softmax.TWO_PASS_FROM
    assert float_softmax.chosen("auto", edge) == "two-pass"
    assert float_softmax.chosen("auto", edge - 1) == float_softmax.IN_CACHE
    assert float_softmax.chosen("three-pass", edge) == "three-pass"


@pytest.mark.parametrize(
    ("x", "given", "text"),
    [
        (np.zeros(3), {}, "takes float32, got float64: convert"),
        (np.zeros(3, np.float32), {"axis": 1}, "axis 1 of an array of 1 axes"),
        (np.float32(3), {}, "axis -1 of an array of 0 axes"),
        (np.zeros(3, np.float32), {"algorithm": "four-pass"}, "algorithm is 'four-pass'"),
        (np.zeros(3, np.float32), {"out": np.zeros(4, np.float32)}, r"out is float32 \(4,\)"),
        (np.zeros(3, np.float32), {"out": np.zeros(3)}, "out is float64"),
    ],
)
def test_refusals(x: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        softmax(x, **given)


def test_results_never_overwrite_the_input() -> None:
    x = np.zeros(100, np.float32)
    with pytest.raises(DataError, match="another C-contiguous float32 array"):
        softmax(x, out=x)
