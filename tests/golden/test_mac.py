"""Sums and their one rounding against exact rationals and SoftPosit's quires."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opennpe.golden import catalog, codec, formats, lanes, mac, window
from opennpe.golden.array import matmul
from opennpe.golden.errors import AccumulatorError, FormatError, SpecError
from opennpe.golden.spec import ArraySpec, EngineSpec, MacSpec

pytestmark = pytest.mark.fast

NAMES = [*formats.ENGINE_FORMATS, "posit(12,2)", "fp8_e4m3", "bf16", "int8"]


def rational_dot(name, a, b, bias, shift, rule, b_name=None, out=None):
    """The definition with Fractions alone: no grid, no fixed point."""
    fa, fb = formats.get(name), formats.get(b_name or name)
    target = formats.get(out or name)
    x, y = fa.decode(a), fb.decode(b)
    if np.isnan(x).any() or np.isnan(y).any():
        return target.nan_code
    total = sum((Fraction(p) * Fraction(q) for p, q in zip(x, y, strict=True)), Fraction(bias))
    total *= Fraction(2) ** shift
    return codec.round_exact(target, total.numerator, 0, rule, total.denominator)


@pytest.mark.parametrize("rule", ["minpos", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_dot_is_the_rational_sum_rounded_once(name, rule):
    fmt = formats.get(name)
    rng = np.random.default_rng(5)
    usable = np.nonzero(~np.isnan(fmt.values) & ~np.isinf(fmt.values))[0]
    for k, shift in itertools.product((1, 2, 7, 40), (-9, 0, 3)):
        a, b = rng.choice(usable, (2, k))
        bias = float(rng.integers(-64, 64)) * 2.0 ** (2 * fmt.lsb_exponent + 3)
        expected = rational_dot(name, a, b, bias, shift, rule)
        assert mac.dot(name, a, b, bias, shift, rule) == expected


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pairs_of_formats_meet_exactly(data):
    a_name, b_name, out = (data.draw(st.sampled_from(formats.ENGINE_FORMATS)) for _ in range(3))
    k = data.draw(st.integers(1, 12))
    draw = [
        data.draw(st.lists(st.integers(0, (1 << formats.get(n).bits) - 1), min_size=k, max_size=k))
        for n in (a_name, b_name)
    ]
    rule = data.draw(st.sampled_from(["minpos", "zero"]))
    shift = data.draw(st.integers(-40, 40))
    arguments = (a_name, draw[0], draw[1], 0.0, shift, rule)
    expected = rational_dot(*arguments, b_name, out)
    if expected is None:
        with pytest.raises(FormatError, match="NaR"):
            mac.dot(*arguments, b_format=b_name, out_format=out)
    else:
        assert mac.dot(*arguments, b_format=b_name, out_format=out) == expected


def test_softposit_quire16_agrees():
    sp = pytest.importorskip("softposit")
    rng = np.random.default_rng(7)
    for k in (1, 3, 50, 400):
        for spread in (0.3, 1.0):
            a, b = (formats.get("posit16").encode(rng.standard_normal(k) * spread) for _ in "ab")
            a[rng.integers(k)] = rng.integers(1, 32768)
            quire = sp.quire16()
            for x, y in zip(a.tolist(), b.tolist(), strict=True):
                quire.qma(sp.posit16(bits=x), sp.posit16(bits=y))
            assert quire.toPosit().v.v == mac.dot("posit16", a, b)


def test_softposit_products_agree_on_every_pair_of_posit8():
    sp = pytest.importorskip("softposit")
    values = [sp.posit8(bits=c) for c in range(256)]
    for x in range(0, 256, 3):
        for y in range(x, 256, 5):
            assert (values[x] * values[y]).v.v == mac.dot("posit8", [x], [y])


@pytest.mark.parametrize("name", ["fp4", "posit4", "posit8"])
def test_every_product_of_two_codes(name):
    fmt = formats.get(name)
    for x, y in itertools.product(range(1 << fmt.bits), repeat=2):
        product, nan = mac.multiply(name, name, x, y)
        if nan:
            assert np.isnan(fmt.values[x]) or np.isnan(fmt.values[y])
        else:
            exact = fmt.values[x] * fmt.values[y]
            assert product * 2.0 ** mac.grid_exponent(name, name) == exact


def test_limits_of_the_accumulator():
    limits = {n: catalog.EDGE_4X4.max_terms(n) for n in formats.ENGINE_FORMATS}
    assert limits == {
        "fp4": 14_913_080,
        "posit4": 32_767,
        "posit8": 2**39 - 1,
        "posit16": 32_767,
    }
    top = (1 << 15) - 1
    for sign in (top, -top & 0xFFFF):
        full = mac.Accumulator("posit16", "posit16")
        full.add_fixed((32_767 - 1) * mac.max_product("posit16", "posit16"))
        full.add(top, top)
        assert abs(full.total) < 1 << 127
        with pytest.raises(AccumulatorError, match="holds 32767"):
            full.add(top, sign)


def test_bias_enters_on_the_grid_to_nearest_even():
    unit = 2.0**-12
    for bias, expected in ((0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (0.75, 1)):
        assert mac.to_grid(bias * unit, -12) == expected
    with pytest.raises(AccumulatorError):
        mac.dot("posit8", [64], [64], bias=float("nan"))


def test_lanes_are_independent_sums():
    rng = np.random.default_rng(3)
    for a, b in [("fp4", "fp4"), ("fp4", "posit4"), ("posit8", "posit8"), ("posit16", "posit16")]:
        n = lanes.lanes(a)
        codes = [rng.integers(0, 1 << formats.get(f).bits, (9, n)) for f in (a, b)]
        for f, c in zip((a, b), codes, strict=True):
            if formats.get(f).nan_code is not None:
                c[c == formats.get(f).nan_code] = 1
            np.testing.assert_array_equal(lanes.unpack(f, lanes.pack(f, c)), c)
        words = [lanes.pack(f, c) for f, c in zip((a, b), codes, strict=True)]
        shift = rng.integers(-3, 3, n)
        got = lanes.dot_words(a, b, *words, "posit8", shift=shift)
        for lane in range(n):
            expected = mac.dot(
                a,
                codes[0][:, lane],
                codes[1][:, lane],
                shift=int(shift[lane]),
                b_format=b,
                out_format="posit8",
            )
            assert got[lane] == expected
    with pytest.raises(FormatError, match="16 bits into 6-bit codes"):
        lanes.lanes("fp6_e2m3")


def test_the_array_computes_what_dot_computes():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 128, (5, 11)), rng.integers(129, 256, (11, 19))
    got = matmul(catalog.STRICT_4X4, "posit8", a, b)
    for i, j in np.ndindex(got.shape):
        assert got[i, j] == mac.dot("posit8", a[i], b[:, j])


def test_a_wide_window_is_exact_and_a_narrow_one_is_not():
    rng = np.random.default_rng(6)
    a, b = formats.get("posit16").encode(rng.standard_normal((2, 40)))
    assert window.windowed_dot("posit16", a, b, 128) == mac.dot("posit16", a, b)
    assert window.windowed_dot("posit16", a, b, 8) != mac.dot("posit16", a, b)
    # The order of summation is part of the contract: 2**20 + 1 - 2**20 in a 12-bit window.
    big, one = formats.get("posit16").encode([2.0**10, 1.0])
    minus = -int(big) & 0xFFFF
    near = [[big, minus, one], [big, big, one]]
    far = [[big, one, minus], [big, one, big]]
    assert window.windowed_dot("posit16", *near, 12, 1) == one
    assert window.windowed_dot("posit16", *far, 12, 1) == 0


def test_block_dot_is_exact():
    fmt = formats.get("mxfp4")
    x, y = np.random.default_rng(8).standard_normal((2, 64))
    a, b = fmt.encode(x), fmt.encode(y)
    exact = sum(
        Fraction(p) * Fraction(q) for p, q in zip(fmt.decode(*a), fmt.decode(*b), strict=True)
    )
    expected = formats.get("bf16").encode(float(exact))
    assert mac.block_dot("mxfp4", a, b) == expected


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EngineSpec(word_bits=10), "lanes must divide the word: 10 bits into 4-bit codes"),
        (lambda: ArraySpec(rows=0), "an array has 1 to 64 rows, got 0"),
        (lambda: MacSpec(underflow="never"), "expected 'minpos' or 'zero'"),
        (lambda: MacSpec(formats=()), "at least one format"),
        (lambda: MacSpec(accumulator="windowed"), "takes 4 to 128 bits, got 0"),
        (lambda: MacSpec(formats=("mxfp4",)), "block-scaled"),
        (lambda: catalog.get("HUGE"), "unknown spec 'HUGE'"),
    ],
)
def test_specs_refuse_early(make, text):
    with pytest.raises((SpecError, FormatError), match=text):
        make()


def test_dot_refuses_shapes_that_differ():
    with pytest.raises(FormatError, match="one length"):
        mac.dot("posit8", [1, 2], [1])
