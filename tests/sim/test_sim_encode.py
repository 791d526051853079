"""The rounding kernel against golden's scalar codec, exhaustively, and against exact sums."""

import math
import os
import subprocess
import sys
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opennpe.golden import codec, formats
from opennpe.golden.errors import FormatError
from opennpe.golden.network import Tensor
from opennpe.sim import encode as E
from opennpe.sim.jit import kernel

pytestmark = pytest.mark.fast

SMALL = [name for name, f in formats.CATALOG.items() if f.bits <= 8] + [
    f"posit({n},{es})" for n in (2, 3, 5, 6, 7) for es in (0, 1, 2)
]
LARGE = ["posit16", "bf16", "posit(16,0)", "posit(16,2)", "posit(12,1)", "posit(9,0)"]


def exact(fmt, x, underflow):
    """Golden's scalar rounding of a float64; infinities as golden's arrays have them."""
    if not math.isfinite(x):
        return int(fmt.encode(x, underflow))
    if x == 0 and math.copysign(1, x) < 0:
        return int(fmt.encode(-0.0))
    numerator, denominator = x.as_integer_ratio()
    return codec.round_exact(fmt, numerator, 0, underflow, denominator)


def probes(fmt):
    """Every value, every boundary, the neighbours of each, both signs, and the far ends."""
    values = fmt.values[np.isfinite(fmt.values)]
    ends = [fmt.minpos / 2, fmt.minpos / 4, fmt.minpos * 0.75, fmt.maxpos * 1.5, fmt.maxpos * 2]
    ends += [fmt.maxpos + 0.5, 5e-324, 2.0**-1000, 2.0**-149, 2.0**1000, math.inf]
    some = np.concatenate([values, fmt._boundaries, ends])
    some = np.concatenate([some, np.nextafter(some, np.inf), np.nextafter(some, -np.inf)])
    return np.unique(np.concatenate([some, -some, [0.0]]).view(np.int64)).view(np.float64)


@pytest.mark.parametrize("underflow", ["minpos", "zero"])
@pytest.mark.parametrize("name", SMALL)
def test_every_value_boundary_and_neighbour_of_narrow_formats(name, underflow):
    fmt = formats.get(name)
    x = probes(fmt)
    assert x.size > 3 << (fmt.bits - 1)
    expected = np.array([exact(fmt, float(v), underflow) for v in x])
    got = E.encode(x, fmt, underflow)
    wrong = np.nonzero(got != expected)[0]
    assert not wrong.size, f"{name}: {float(x[wrong[0]]).hex()} gives {got[wrong[0]]:x}"


@pytest.mark.parametrize("underflow", ["minpos", "zero"])
@pytest.mark.parametrize("name", LARGE)
def test_every_value_boundary_and_neighbour_of_wide_formats(name, underflow):
    """All against golden's array path (itself tested against the codec), a sample by the codec."""
    fmt = formats.get(name)
    x = probes(fmt)
    got = E.encode(x, fmt, underflow)
    np.testing.assert_array_equal(got, fmt.encode(x, underflow))
    for i in np.random.default_rng(1).integers(0, x.size, 1500):
        assert got[i] == exact(fmt, float(x[i]), underflow), float(x[i]).hex()


def test_not_a_number():
    x = np.array([np.nan, -np.nan, 1.0])
    assert list(E.encode(x, "posit8")) == [0x80, 0x80, 0x40]
    assert list(E.encode(x, "fp8_e4m3")) == [0x7F, 0x7F, 0x38]
    with pytest.raises(FormatError, match="fp4 has no code for NaN and 2 of 3"):
        E.encode(x, "fp4")


@kernel()
def sums(a, b, out):
    for i in range(a.size):
        out[i] = E.two_sum_odd(a[i], b[i])


def odd_rounded(x: Fraction) -> float:
    """``x`` rounded to odd at 53 bits, from the definition."""
    if x == 0:
        return 0.0
    sign, x = (-1 if x < 0 else 1), abs(x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length() - 54
    while x / Fraction(2) ** exponent >= 1 << 53:
        exponent += 1
    units = x / Fraction(2) ** exponent
    cut = math.floor(units)
    return sign * math.ldexp(cut | (units != cut), exponent)


numbers = st.builds(
    math.ldexp, st.integers(-(2**53), 2**53).map(float), st.integers(min_value=-120, max_value=60)
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_sums_round_to_odd(pairs):
    a, b = np.array(pairs).T.copy()
    got = np.empty_like(a)
    sums(a, b, got)
    for x, y, z in zip(a, b, got, strict=True):
        assert z == odd_rounded(Fraction(float(x)) + Fraction(float(y)))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["posit8", "posit16", "bf16", "fp4", "posit(16,0)"]),
    st.sampled_from(["minpos", "zero"]),
    st.integers(0, 1 << 16),
    st.integers(-60, 60),
    st.booleans(),
)
def test_a_sum_rounded_to_odd_is_as_good_as_the_exact_one(name, underflow, at, far, below):
    """A boundary plus something much smaller: what double rounding would get wrong."""
    fmt = formats.get(name)
    boundary = float(fmt._boundaries[at % len(fmt._boundaries)])
    small = math.ldexp(-1.0 if below else 1.0, far - 160)
    out = np.empty(1)
    sums(np.array([boundary]), np.array([small]), out)
    total = Fraction(boundary) + Fraction(small)
    expected = codec.round_exact(fmt, total.numerator, 0, underflow, total.denominator)
    assert E.encode(out, fmt, underflow)[0] == expected


@lru_cache(maxsize=1)
def many():
    rng = np.random.default_rng(3)
    return np.ldexp(rng.normal(size=(50, 7)), rng.integers(-20, 20, (50, 7)))


@pytest.mark.parametrize("name", ["fp4", "posit4", "posit8", "posit16"])
@pytest.mark.parametrize("clip", [None, (0.0, math.inf), (0.0, 6.0), (-1.0, 0.3)])
def test_finish_scales_clips_and_rounds_once(name, clip):
    fmt, out = formats.get(name), Tensor("y", (1,), name, -2)
    exponents = np.arange(-3, 4)
    got = E.finish(many(), exponents, out, "zero", clip)
    real = np.ldexp(many(), exponents)
    real = real if clip is None else np.clip(real, *clip)
    np.testing.assert_array_equal(got, fmt.encode(np.ldexp(real, 2) + 0.0, "zero"))


def test_finish_gives_plus_zero_for_exact_zeros_and_minus_zero_for_rounded_ones():
    out = Tensor("y", (1,), "fp4", 0)
    x = np.array([[-0.0, 0.0, -0.1, 0.1]])
    assert list(E.finish(x, np.zeros(4, dtype=int), out, "zero")[0]) == [0, 0, 8, 0]
    assert list(E.finish(x, np.zeros(4, dtype=int), out, "zero", (0.0, 6.0))[0]) == [0, 0, 0, 0]


def test_finish_carries_nar_or_refuses_it():
    x = np.array([[np.nan, 1.0]])
    zeros = np.zeros(2, dtype=int)
    got = E.finish(x, zeros, Tensor("y", (1,), "posit8"), "zero", (0.0, 6.0))
    assert list(got[0]) == [0x80, 0x40]
    with pytest.raises(FormatError, match="NaR and fp4 has no code"):
        E.finish(x, zeros, Tensor("y", (1,), "fp4"), "zero")


def test_integers_saturate_and_break_ties_at_the_lowest_value():
    x = np.array([-127.5, -127.25, -128.0, -300.0, 126.5, 127.5, -np.inf])
    expected = [0x80, 0x81, 0x80, 0x80, 126, 127, 0x80]
    assert list(E.encode(x, "int8")) == expected
    assert list(formats.get("int8").encode(x)) == expected


def test_absurd_scales_are_refused():
    out = Tensor("y", (1,), "posit8", 900)
    with pytest.raises(FormatError, match="scales differ"):
        E.finish(np.ones((1, 1)), np.zeros(1, dtype=int), out, "zero")
    with pytest.raises(FormatError, match="cannot be scaled"):
        E.bounds((1e-300, 1.0), 1000)


PLAIN = """
import numpy as np
from opennpe.golden import formats
from opennpe.golden.network import Tensor
from opennpe.sim import encode as E
for name in ("fp4", "posit4", "posit8", "int8", "fp8_e5m2"):
    fmt = formats.get(name)
    x = np.concatenate([fmt.values[np.isfinite(fmt.values)], fmt._boundaries, -fmt._boundaries])
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])[::3]
    for rule in ("minpos", "zero"):
        assert (E.encode(x, fmt, rule) == fmt.encode(x, rule)).all(), name
        out = Tensor("y", (1,), name)
        y = E.finish(x[None], np.ones(x.size, dtype=int), out, rule, (-2.0, 3.0))
        assert (y == fmt.encode(np.clip(2 * x, -2, 3) + 0.0, rule)).all(), name
assert E.two_sum_odd(1.0, 2.0**-80) == 1.0 + 2.0**-52
print("same", type(E._encode_array).__name__)
"""


def test_kernels_mean_the_same_without_a_compiler():
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["same", "function"], done.stderr
