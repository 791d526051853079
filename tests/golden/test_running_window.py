"""The running window against exact sums: equal where it is wide enough, close where it is not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from opennpe.golden import formats, mac, running_window
from opennpe.golden.errors import SpecError
from opennpe.golden.running_window import RunningWindow

pytestmark = pytest.mark.fast
NAMES = formats.ENGINE_FORMATS


def operands(name: str, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    fmt = formats.get(name)
    codes = rng.integers(0, 1 << fmt.bits, (2, count))
    if fmt.nan_code is not None:
        codes[codes == fmt.nan_code] = 0
    return list(codes.astype(fmt.dtype))


def exact(name: str, a: np.ndarray, b: np.ndarray) -> int:
    return sum(mac.multiply(name, name, int(x), int(y))[0] for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_window_of_the_whole_range_is_exact(name):
    rng = np.random.default_rng(1)
    window = RunningWindow(name, 128)
    assert window.exact
    for _ in range(60):
        a, b = operands(name, 30, rng)
        bias = int(rng.integers(-64, 64))
        total = bias + exact(name, a, b)
        want = codes_of(name, total, window.grid)
        assert running_window.dot(window, a, b, bias) == want


def codes_of(name: str, total: int, exponent: int) -> int:
    return mac.round_sum(formats.get(name), total, exponent)


def test_only_what_lies_below_the_window_is_lost():
    """At most a unit of the last place a term, and one more as the anchor rises."""
    rng = np.random.default_rng(2)
    window = RunningWindow("posit16", 32)
    cut = 0
    for _ in range(100):
        a, b = operands("posit16", 40, rng)
        anchor = window.floor
        for x, y in zip(a, b, strict=True):
            anchor = max(anchor, window.product(int(x), int(y))[1])
        total = exact("posit16", a, b)
        unit = Fraction(2) ** (window.unit(anchor) - window.grid)
        low, high = total - 80 * unit, total + 80 * unit
        between = sorted(
            codes_of("posit16", x.numerator, window.grid + 1 - x.denominator.bit_length())
            for x in (low, high)
        )
        order = formats.get("posit16").order_key
        found = running_window.dot(window, a, b)
        keys = order(np.array([*between, found], dtype=np.uint16))
        assert min(keys[:2]) <= keys[2] <= max(keys[:2])
        cut += found != codes_of("posit16", total, window.grid)
    assert cut


def test_order_is_part_of_the_meaning():
    """A large term first hides small ones, whose sum would have been seen."""
    fmt = formats.get("posit16")
    one, small = (int(fmt.encode(np.array([x]))[0]) for x in (1.0, 2.0**-20))
    many = [small] * 2048
    window = RunningWindow("posit16", 32)
    large_last = running_window.dot(window, [*many, one], [one] * 2049)
    large_first = running_window.dot(window, [one, *many], [one] * 2049)
    assert fmt.decode([large_last, large_first]).tolist() == [1 + 2.0**-9, 1.0]


def test_headroom_holds_the_promised_terms():
    fmt = formats.get("posit16")
    top = int(fmt.encode(np.array([1.9990234375]))[0])
    window = RunningWindow("posit16", 32)
    value, scale, _ = window.product(top, top)
    step = value >> (window.unit(max(window.floor, scale)) - window.grid)
    total = step * running_window.PROMISED_TERMS
    assert total.bit_length() <= window.width - 1


def test_a_bias_beyond_a_product_and_a_narrow_window_are_refused():
    with pytest.raises(SpecError, match="larger than a product of posit8"):
        RunningWindow("posit8", 32).preload(1 << 25)
    with pytest.raises(SpecError, match="at least 32 bits, got 31"):
        running_window.lane_bits("fp4", 31)
