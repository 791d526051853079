"""Fake quantisation rounds as golden does, and its gradients are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from opennpe.golden import formats
from opennpe.golden.errors import FormatError

torch = pytest.importorskip("torch", reason="needs the extra 'qat': pip install 'opennpe[qat]'")
from opennpe.quant.qat import rounding  # noqa: E402
from opennpe.quant.qat.fake import fake_quantize, on_grid  # noqa: E402

NAMES = ("fp4", "posit4", "posit8", "posit16", "fp8_e4m3", "fp8_e5m2", "int8", "posit(6,1)")


def numbers(name: str) -> np.ndarray:
    """Every value and every midpoint, their float32 neighbours, and numbers of all sizes."""
    values = formats.get(name).values
    values = np.unique(values[np.isfinite(values)])
    middles = (values[1:] + values[:-1]) / 2
    rng = np.random.default_rng(7)
    x = np.concatenate(
        [values, middles, np.geomspace(1e-12, 1e12, 4000), rng.normal(size=4000), [0.0, math.inf]]
    ).astype(np.float32)
    x = np.concatenate([x, -x])
    up, down = (np.nextafter(x, np.float32(s * math.inf)) for s in (1, -1))
    return np.concatenate([x, up, down, [1e-45, 1e-38, 3e38, math.nan]]).astype(np.float32)


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("underflow", ["zero", "minpos"])
def test_rounding_is_golden_s(name: str, underflow: formats.Underflow) -> None:
    fmt, x = formats.get(name), numbers(name)
    finite = np.where(np.isnan(x), np.float32(0), x)
    want = fmt.decode(fmt.encode(finite.astype(np.float64), underflow)).astype(np.float32)
    want[np.isnan(x)] = math.nan
    got = rounding.nearest(x, name, np.array(0), underflow=underflow)
    np.testing.assert_array_equal(got, want)


def test_a_wrong_cell_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = rounding.table("fp4", "zero")
    at = int(np.argmax(held.values == 1.5))
    monkeypatch.setitem(held.__dict__, "values", held.values.copy())
    held.values[at] = 2.0
    with pytest.raises(AssertionError):
        test_rounding_is_golden_s("fp4", "zero")


@pytest.mark.parametrize("exponent", [-7, 0, 3])
def test_scales_bounds_and_channels(exponent: int) -> None:
    x = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32) * 4
    fmt = formats.get("posit8")
    scale = np.arange(exponent, exponent + 5)
    got = rounding.nearest(x, "posit8", scale, 0.0, 6.0)
    for row, e in enumerate(scale):
        held = np.ldexp(np.clip(x[row].astype(np.float64), 0, 6), -e)
        want = np.ldexp(fmt.decode(fmt.encode(held, "zero")), e)
        np.testing.assert_array_equal(got[row], want.astype(np.float32))


def test_threads_do_not_change_a_bit() -> None:
    x = np.random.default_rng(2).normal(size=300_001).astype(np.float32)
    one, two = (rounding.nearest(x, "posit8", np.array(-2), threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_chance_keeps_the_mean_and_hits_neighbours() -> None:
    x = torch.full((200_000,), 1.2)
    chance = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    got = fake_quantize(x, torch.zeros(()), "fp4", chance=chance)
    assert set(got.tolist()) == {1.0, 1.5}
    assert got.mean().item() == pytest.approx(1.2, abs=0.003)
    exact = fake_quantize(torch.tensor([0.5, -3.0, 6.0]), torch.zeros(()), "fp4", chance=chance[:3])
    assert exact.tolist() == [0.5, -3.0, 6.0]


@pytest.mark.fast
def test_gradients_pass_inside_and_stop_where_something_cuts() -> None:
    x = torch.tensor([-9.0, -1.0, 0.3, 5.0, 7.0, 100.0], requires_grad=True)
    fake_quantize(x, torch.zeros(()), "fp4", (-1e9, 1e9)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0]
    x.grad = None
    fake_quantize(x, torch.zeros(()), "fp4", (0.0, 6.0)).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 0, 0]
    x.grad = None
    fake_quantize(x, torch.zeros(()), "fp4", clipped=False).sum().backward()
    assert x.grad.tolist() == [1] * 6


@pytest.mark.parametrize("shape", [(), (4,)])
def test_a_learned_scale_has_the_gradient_of_the_paper(shape: tuple[int, ...]) -> None:
    """arXiv 1903.08066, equation 8: ln 2 (q - x) inside, ln 2 times the largest where it cuts."""
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(4)) * 5
    exponent = torch.zeros(shape, requires_grad=True)
    got = fake_quantize(x, exponent, "fp4")
    got.sum().backward()
    inside = x.abs() <= 6
    want = (math.log(2) * (got.detach() - torch.where(inside, x, torch.zeros(())))).double()
    want = want.sum() if shape == () else want.sum(1)
    torch.testing.assert_close(exponent.grad.double(), want, rtol=1e-5, atol=1e-4)


def test_channels_last_and_strided_tensors() -> None:
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    got = fake_quantize(x, torch.tensor(-1.0), "posit8")
    assert got.is_contiguous(memory_format=torch.channels_last)
    again = fake_quantize(x.detach().contiguous(), torch.tensor(-1.0), "posit8")
    torch.testing.assert_close(got, again, rtol=0, atol=0)
    weight = torch.randn(2, 8, 5, 5)
    (got * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight, rtol=0, atol=0)
    half = torch.randn(6, 10)[:, ::2]
    torch.testing.assert_close(
        fake_quantize(half, torch.zeros(()), "fp4"),
        fake_quantize(half.clone(), torch.zeros(()), "fp4"),
    )


def test_biases_go_to_their_grid_with_the_gradient_straight_through() -> None:
    bias = torch.tensor([0.3, -0.7], requires_grad=True)
    held = on_grid(bias, torch.tensor([-2.0, -1.0]))
    assert held.tolist() == [0.25, -0.5]
    held.sum().backward()
    assert bias.grad.tolist() == [1, 1]


def test_formats_that_tables_cannot_hold_are_refused() -> None:
    with pytest.raises(FormatError, match="mxfp4 has no rounding of single numbers"):
        rounding.table("mxfp4")
