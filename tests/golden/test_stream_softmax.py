"""The streaming softmax's arithmetic: exhaustive where the space is small, bounds elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from opennpe.golden import codec, formats, softmax
from opennpe.golden.errors import AccumulatorError, DataError, FormatError, SpecError
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.golden.softmax_table import exp2_table, powers

EXACT = SoftmaxSpec(mode="exact")
CUT = SoftmaxSpec(mode="truncating")
SPECS = {"exact": EXACT, "truncating": CUT}
BOTH = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
OCTAVES = (1 << 15, -15)
"""A multiplier of one: codes' values are base-2 exponents."""


# -- exp2 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fraction_bits", [8, 12])
def test_references_are_exact(fraction_bits: int) -> None:
    with mpmath.workprec(200):
        step = mpmath.mpf(2) ** -fraction_bits
        found = powers(fraction_bits)
        assert len(found) == (1 << fraction_bits) + 1
        for j in range(1 << fraction_bits):
            assert found[j] == int(mpmath.floor(mpmath.mpf(2) ** (61 + j * step)))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("table", "mantissa", "fraction", "bits"),
    [(3, 10, 8, 9.8), (4, 12, 8, 12.1), (5, 16, 12, 14.4), (6, 18, 16, 16.3), (0, 8, 6, 4.5)],
)
def test_every_fraction_is_monotone_and_in_bound(
    table: int, mantissa: int, fraction: int, bits: float
) -> None:
    """All 2**F fractions: the proof that 2**f is monotone, in [1, 2), and as close as stated."""
    lines = exp2_table(table, mantissa, fraction)
    m = lines(np.arange(1 << fraction)).astype(object)
    assert m[0] == 1 << mantissa and m[-1] < 2 << mantissa
    assert (np.diff(m) >= 0).all()
    exact = np.array(powers(fraction)[:-1], dtype=object)
    scale = 61 - mantissa
    worst = max(
        Fraction(abs((int(a) << scale) - int(b)), int(b)) for a, b in zip(m, exact, strict=True)
    )
    assert worst <= Fraction(lines.error) <= worst * Fraction(1001, 1000)
    assert lines.error <= 2.0**-bits


@pytest.mark.fast
def test_exp2_grows_over_all_exponents() -> None:
    t = np.arange(-(1 << 19), 1 << 19)
    m, n = softmax.exp2(EXACT, t)
    order = n * (1 << 20) + m
    assert (np.diff(order) >= 0).all()
    with mpmath.workprec(80):
        for at in (-(1 << 19), -4097, -1, 0, 4095, (1 << 19) - 1):
            i = at + (1 << 19)
            got = mpmath.ldexp(int(m[i]), int(n[i]) - 16)
            exact = mpmath.mpf(2) ** (mpmath.mpf(at) / 4096)
            assert abs(got / exact - 1) <= EXACT.exp2_error


def test_a_shifted_base_is_noticed() -> None:
    lines = exp2_table(5, 16, 12)
    bad = lines._replace(base=lines.base + (np.arange(32) == 7) * 60)
    m = bad(np.arange(4096))
    exact = np.array(powers(12)[:-1]) / 2.0**61
    assert np.abs(m / 65536 / exact - 1).max() > lines.error
    assert (np.diff(m) < 0).any() or np.abs(m / 65536 / exact - 1).max() > 2.0**-11


# -- logits --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*formats.ENGINE_FORMATS, "int8", "fp8_e4m3"])
@pytest.mark.parametrize("factor", [OCTAVES, (47274, -15), (65535, -20), (32768, 12), (50000, -99)])
def test_logits_are_the_rounded_product(name: str, factor: tuple[int, int]) -> None:
    fmt = formats.get(name)
    got = softmax.logit(EXACT, name, factor)
    for code in range(0, 1 << fmt.bits, 1 if fmt.bits <= 8 else 37):
        u = codec.unpack(fmt, code)
        value = Fraction(u.significand) * Fraction(2) ** u.exponent * (-1 if u.sign else 1)
        exact = value * factor[0] * Fraction(2) ** (factor[1] + 12)
        want = min(max(math.floor(exact + Fraction(1, 2)), -(1 << 19)), (1 << 19) - 1)
        assert got[code] == want, (name, code)


@pytest.mark.fast
def test_multipliers_are_nearest() -> None:
    with mpmath.workprec(100):
        for scale in (1.0, 0.125, 1 / math.sqrt(48), 3.0e-20, 7.0e30, 2.0**-0.5288):
            mantissa, exponent = softmax.multiplier(scale)
            assert 1 << 15 <= mantissa < 1 << 16
            ratio = mpmath.mpf(scale) / mpmath.ln(2) / mpmath.ldexp(mantissa, exponent)
            assert abs(ratio - 1) <= 2.0**-16
            assert abs(mpmath.mpf(scale) / mpmath.ln(2) - mpmath.ldexp(mantissa, exponent)) <= (
                mpmath.ldexp(1, exponent - 1)
            )
    assert softmax.multiplier(1.0, 8) == (185, -7)


# -- reciprocal ----------------------------------------------------------------------------------
@pytest.mark.parametrize("places", [5, 9, 16, 18])
def test_every_reciprocal(places: int) -> None:
    """All 2**R divisors: nearest, and with the cut of the divisor within 2**-(R-1)."""
    spec = replace(EXACT, reciprocal_bits=places)
    s = np.arange(1 << places, 2 << places)
    r = softmax.reciprocal(spec, s)
    numerator = 1 << (2 * places + 1)
    assert (np.abs(numerator - r * s) * 2 <= s).all()
    assert r.min() > 1 << places and r.max() == r[0] == 2 << places
    # A sum is anywhere in [s, s + 1): both ends of that.
    for end in (s.astype(object), s.astype(object) + 1):
        # |r * end / numerator - 1| <= 2**-(R-1)
        assert (np.abs(r.astype(object) * end - numerator) << places - 1 <= numerator).all()


@pytest.mark.fast
def test_a_short_division_is_the_same() -> None:
    """The gates' restoring steps, with all their bits, for every divisor."""
    for step in (1, 2, 3, 4, 5):
        spec = replace(EXACT, reciprocal_bits=9, reciprocal_step=step)
        s = np.arange(1 << 9, 2 << 9)
        remainder, quotient = np.full_like(s, 1 << 9), np.zeros_like(s)
        for _ in range(spec.reciprocal_cycles * step):
            remainder = remainder << 1
            bit = remainder >= s
            remainder, quotient = remainder - bit * s, quotient << 1 | bit
        spare = spec.reciprocal_cycles * step - 10
        rounded = (quotient + (1 << spare - 1)) >> spare
        assert (rounded == softmax.reciprocal(spec, s)).all()


# -- whole rows ----------------------------------------------------------------------------------
def exact_softmax(spec: SoftmaxSpec, t: NDArray[Any], keep: NDArray[Any]) -> NDArray[np.object_]:
    """Softmax to base 2 of t (..., N) in units of 2**-F, as fractions from 62-bit powers."""
    table = np.array(powers(spec.fraction_bits)[:-1], dtype=object)
    f = t & ((1 << spec.fraction_bits) - 1)
    values = (table[f] << ((t >> spec.fraction_bits) - spec.lowest).astype(object)) * keep
    total = values.sum(axis=-1, keepdims=True)
    divide = np.frompyfunc(lambda a, b: Fraction(int(a), int(b) or 1), 2, 1)
    return np.asarray(divide(values, total))


def check_bound(
    spec: SoftmaxSpec,
    codes: NDArray[Any],
    name: str,
    factor: tuple[int, int] = OCTAVES,
    keep: NDArray[Any] | None = None,
) -> float:
    """Every result within ``error_bound`` before rounding and half an ulp after; the worst error.

    Rows also sum to one within the bound.
    """
    codes = np.atleast_2d(codes)
    kept = np.broadcast_to(True if keep is None else keep, codes.shape)
    t = softmax.logit(spec, name, factor)[codes]
    want = exact_softmax(spec, t, kept)
    bound = Fraction(spec.error_bound(codes.shape[-1]))
    row = softmax._elements(spec, codes, name, factor, keep)
    s, e, _ = softmax._sum(spec, row)
    product, exponent = softmax.normalise(
        spec, row.mantissa, row.exponent, softmax.reciprocal(spec, s), e
    )
    power = np.frompyfunc(lambda p, x: Fraction(int(p)) * Fraction(2) ** int(x), 2, 1)
    got = power(product, exponent)
    worst = Fraction(0)
    for y, x in zip(got.ravel(), want.ravel(), strict=True):
        assert (y == 0) == (x == 0)
        if x:
            worst = max(worst, abs(y / x - 1))
    assert worst <= bound, (float(worst), float(bound))
    for total in got.sum(axis=-1):
        assert total == 0 or abs(total - 1) <= bound
    fixed = softmax.softmax(spec, codes, name, factor, keep, out="u0.16")
    half_ulp = Fraction(1, 1 << 17)
    for code, x in zip(fixed.ravel(), want.ravel(), strict=True):
        saturated = x > 1 - half_ulp and code == 65535
        assert saturated or abs(Fraction(int(code), 1 << 16) - x) <= bound * x + half_ulp
    return float(worst)


def families(spec: SoftmaxSpec) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Rows of posit16 codes as base-2 exponents that a softmax could get wrong."""
    f = formats.get("posit16")
    rng = np.random.default_rng(3)
    lanes = spec.lanes
    n = np.arange(64)
    jumps = np.repeat(np.arange(16) * 7.9 - 100, lanes) + rng.uniform(0, 1, 16 * lanes)
    sawtooth = np.where((n // lanes) % 2 == 0, -40.0, n * 1.5)
    one_hot = np.full(64, -120.0)
    one_hot[37] = 120.0
    tail = np.concatenate([[10.0], np.full(500, -9.97)])
    # A sum at FA = 28 bits below its largest: every later element is all but lost.
    lost = np.concatenate([[0.0], np.full(300, -27.999)])
    random = rng.normal(0, 6, (20, 77))
    mask = rng.random((20, 77)) < 0.4
    mask[0] = False
    values = {
        "ramp up": n * 0.37 - 10,
        "ramp down": 10 - n * 0.37,
        "steep ramp": n * 3.9 - 120,
        "constant": np.full(197, 1.37),
        "constant at the bottom": np.full(197, -500.0),
        "constant at the top": np.full(197, 500.0),
        "one hot": one_hot,
        "two near equal": np.array([3.0, 3.0 + 2.0**-10]),
        "exponent jumps at each tile": jumps,
        "exponent jumps back and forth": sawtooth,
        "one element and a long tail": tail,
        "a tail that cutting loses": lost,
        "tail first": lost[::-1],
        "partial tile": n[: 3 * lanes + 1] * 0.2,
        "one element": np.array([-3.3]),
        "random": random,
    }
    found = {name: (f.encode(v).astype(np.int64), None) for name, v in values.items()}
    codes = found["random"][0]
    return {
        **found,
        "random, masked": (codes, mask),
        "causal": (codes, np.arange(77) <= np.arange(20)[:, None]),
        "fully masked": (codes, np.zeros(77, dtype=bool)),
    }


@BOTH
@pytest.mark.parametrize("family", families(EXACT))
def test_the_bound_holds(spec: SoftmaxSpec, family: str) -> None:
    codes, keep = families(spec)[family]
    check_bound(spec, codes, "posit16", OCTAVES, keep)


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 16])
def test_the_bound_holds_for_other_lanes(lanes: int) -> None:
    spec = replace(CUT, lanes=lanes, accumulator_bits=16, mantissa_bits=12, reciprocal_bits=14)
    for codes, keep in families(spec).values():
        check_bound(spec, codes, "posit16", OCTAVES, keep)


def test_a_worse_sum_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a sum that forgets to move down its old part is noticed."""

    def careless(spec: SoftmaxSpec, mantissa: Any, exponent: Any) -> Any:
        total = np.zeros(mantissa.shape[:-2], dtype=np.int64)
        largest = exponent.max(axis=(-2, -1))
        for tile in range(mantissa.shape[-2]):
            moved = mantissa[..., tile, :] << spec.accumulator_bits - spec.mantissa_bits
            down = np.minimum(largest[..., None] - exponent[..., tile, :], 62)
            total = total + (moved >> down).sum(axis=-1) - tile * 900
            yield total, largest

    codes, keep = families(CUT)["ramp up"]
    monkeypatch.setattr(softmax, "accumulate", careless)
    with pytest.raises(AssertionError):
        check_bound(replace(CUT, accumulator_bits=20), codes, "posit16", OCTAVES, keep)


@BOTH
@pytest.mark.parametrize("name", ["int8", "posit8", "fp8_e4m3"])
@pytest.mark.parametrize("factor", [softmax.multiplier(1 / 8), OCTAVES], ids=["e", "octaves"])
def test_every_pair_of_codes(spec: SoftmaxSpec, name: str, factor: tuple[int, int]) -> None:
    """All 65,536 pairs of 8-bit codes at N = 2 are within the bound."""
    fmt = formats.get(name)
    usable = np.flatnonzero(np.isfinite(fmt.values))
    pairs = np.stack(np.meshgrid(usable, usable, indexing="ij"), axis=-1).reshape(-1, 2)
    t = softmax.logit(spec, name, factor)[pairs]
    difference = (t[:, 1] - t[:, 0]) / 4096.0
    want = 1 / (1 + 2.0**difference)
    row = softmax._elements(spec, pairs, name, factor, None)
    s, e, _ = softmax._sum(spec, row)
    product, exponent = softmax.normalise(
        spec, row.mantissa, row.exponent, softmax.reciprocal(spec, s), e
    )
    got = np.ldexp(product[:, 0].astype(float), exponent[:, 0])
    assert len(pairs) == len(usable) ** 2 >= 254**2
    error = np.abs(got / want - 1)
    assert error.max() <= spec.error_bound(2) * (1 + 2.0**-40)
    codes = softmax.softmax(spec, pairs, name, factor, out="u0.16")[:, 0] / 65536.0
    assert (np.abs(codes - want) <= spec.error_bound(2) * want + 2.0**-17 + (codes > 0.9999)).all()
    # The first element's results fall as the second grows: monotone like softmax itself.
    order = np.lexsort((difference,))
    high = got[order]
    assert (np.diff(high) <= high[:-1] * 2 * spec.error_bound(2)).all()


@pytest.mark.fast
@BOTH
@pytest.mark.parametrize("out", [*formats.ENGINE_FORMATS, "u0.8", "u0.16"])
def test_whole_octaves_change_no_bit(spec: SoftmaxSpec, out: str) -> None:
    rng = np.random.default_rng(8)
    base = rng.integers(-20, 20, (50, 40))
    factor = (1 << 15, -18)  # an eighth of an octave a code
    want = softmax.softmax(spec, base & 255, "int8", factor, out=out, out_shift=2)
    for octaves in (-10, -1, 1, 7):
        moved = (base + 8 * octaves) & 255
        got = softmax.softmax(spec, moved, "int8", factor, out=out, out_shift=2)
        assert (got == want).all()


@pytest.mark.fast
def test_an_exact_sum_has_no_order() -> None:
    rng = np.random.default_rng(9)
    f = formats.get("posit16")
    codes = f.encode(rng.normal(0, 15, (30, 101))).astype(np.int64)
    keep = rng.random(codes.shape) < 0.8
    factor = softmax.multiplier(1.0)
    want = softmax.softmax(EXACT, codes, "posit16", factor, keep, out="posit16")
    for lanes in (1, 2, 3, 4, 8, 16, 64):
        spec = replace(EXACT, lanes=lanes)
        assert (softmax.softmax(spec, codes, "posit16", factor, keep, "posit16") == want).all()
        order = rng.permutation(101)
        got = softmax.softmax(spec, codes[:, order], "posit16", factor, keep[:, order], "posit16")
        assert (got == want[:, order]).all()
        last = softmax.trace(spec, codes, "posit16", factor, keep).total[:, -1]
        assert (last == softmax.trace(EXACT, codes, "posit16", factor, keep).total[:, -1]).all()


def test_a_truncating_sum_has_one() -> None:
    """What the exact mode is for: here order and lanes do change bits."""
    spec = replace(CUT, accumulator_bits=17)
    codes = families(spec)["random"][0]
    want = softmax.softmax(spec, codes, "posit16", OCTAVES, out="posit16")
    turned = softmax.softmax(spec, codes[:, ::-1], "posit16", OCTAVES, out="posit16")[:, ::-1]
    eight = softmax.softmax(replace(spec, lanes=8), codes, "posit16", OCTAVES, out="posit16")
    assert (turned != want).any() and (eight != want).any()


@pytest.mark.fast
@BOTH
def test_exact_rows(spec: SoftmaxSpec) -> None:
    """One-hot rows are one and nothing, constant rows of 2**k elements 2**-k, to the bit."""
    f = formats.get("posit16")
    hot = f.encode([100.0, -100.0, -100.0, -100.0, -100.0])
    got = softmax.softmax(spec, hot, "posit16", OCTAVES, out="posit16")
    assert f.decode(got).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    for k in range(13):
        same = np.full(1 << k, f.encode(3.0))
        got = softmax.softmax(spec, same, "posit16", OCTAVES, out="posit16")
        assert (f.decode(got) == 2.0**-k).all()


@pytest.mark.fast
@BOTH
def test_masks(spec: SoftmaxSpec) -> None:
    rng = np.random.default_rng(10)
    f = formats.get("posit8")
    codes = f.encode(rng.normal(0, 2, (3, 2, 21)))
    keep = rng.random((2, 21)) < 0.6
    keep[1] = False
    factor = softmax.multiplier(1.0)
    got = softmax.softmax(spec, codes, "posit8", factor, keep, "posit16")
    assert got.shape == codes.shape and got.dtype == np.uint16
    assert (got[:, ~keep] == 0).all() and (got[:, 0, keep[0]] != 0).all()
    if spec.mode == "exact":  # left out or masked, the same
        short = softmax.softmax(spec, codes[:, 0, keep[0]], "posit8", factor, out="posit16")
        assert (got[:, 0, keep[0]] == short).all()
    # A masked NaR is nothing; a kept one makes its row NaR.
    codes[0, 0, np.flatnonzero(~keep[0])[0]] = 0x80
    assert (softmax.softmax(spec, codes, "posit8", factor, keep, "posit16") == got).all()
    codes[1, 0, np.flatnonzero(keep[0])[0]] = 0x80
    bad = softmax.softmax(spec, codes, "posit8", factor, keep, "posit16")
    assert (bad[1, 0] == np.where(keep[0], 0x8000, 0)).all()
    assert (np.delete(bad, 1, axis=0) == np.delete(got, 1, axis=0)).all()
    with pytest.raises(FormatError, match="holds NaR and fp4 has no code for it"):
        softmax.softmax(spec, codes, "posit8", factor, keep, "fp4")


@BOTH
def test_deferred_is_the_same_softmax(spec: SoftmaxSpec) -> None:
    for codes, keep in families(spec).values():
        if keep is not None and not keep.any():
            continue
        codes = np.atleast_2d(codes)
        t = softmax.logit(spec, "posit16", OCTAVES)[codes]
        kept = np.broadcast_to(True if keep is None else keep, codes.shape)
        want = exact_softmax(spec, t, kept).astype(float)
        got = softmax.deferred(spec, codes, "posit16", OCTAVES, keep, out="posit16")
        values = formats.get("posit16").decode(got.codes)
        some = got.mantissa > 0
        assert (some == kept.any(axis=-1)).all() and values.max() < 2
        total = np.ldexp(got.mantissa.astype(float), got.exponent)
        result = values[some] / total[some, None]
        # posit16 has eleven fraction bits and more down to 2**-4.
        large = values[some] > 2.0**-4
        assert np.abs(result[large] / want[some][large] - 1).max() < 2.0**-11
        assert np.abs(result - want[some]).max() < 2.0**-11


def test_the_sum_cannot_overflow() -> None:
    """Induction over tiles: a sum of k elements is at most k times the largest element.

    Exact: by distributivity. Truncating: moving down and cutting loses, never gains, so from
    S <= k * top * 2**(e' - e) follows the same at e'. Checked at the extremes: 2**carry_bits of
    the largest element there is reach the sum's last bit and no further.
    """
    for spec in (EXACT, CUT, replace(CUT, accumulator_bits=16), replace(EXACT, integer_bits=4)):
        most = (2 << spec.mantissa_bits) - 1
        top = int(spec.table(np.int64((1 << spec.fraction_bits) - 1)))
        assert spec.table(np.arange(1 << spec.fraction_bits)).max() == top <= most
        largest = top << (
            spec.exponents - 1
            if spec.mode == "exact"
            else spec.accumulator_bits - spec.mantissa_bits
        )
        assert (spec.max_length * largest).bit_length() == spec.total_bits
        code = int(formats.get("posit16").encode(1000.0))
        row = np.full(spec.max_length, code)
        got = softmax.trace(spec, row, "posit16", OCTAVES)
        assert int(got.total[-1]) == spec.max_length * largest
        with pytest.raises(AccumulatorError, match=r"row of \d+ elements is longer than"):
            softmax.softmax(spec, np.full(spec.max_length + 1, code), "posit16", OCTAVES)


def test_sums_stay_in_their_induction_step() -> None:
    """S <= elements so far * largest mantissa, and S >= 1: at every tile of every family."""
    for spec in SPECS.values():
        for codes, keep in families(spec).values():
            got = softmax.trace(spec, np.atleast_2d(codes), "posit16", OCTAVES, keep)
            tiles = np.arange(1, got.total.shape[-1] + 1) * spec.lanes
            top = (2 << spec.mantissa_bits) - 1
            for row, exponents in zip(got.total, got.exponent, strict=True):
                for total, exponent, count in zip(row, exponents, tiles, strict=True):
                    shift = int(exponent) - spec.lowest
                    unit = shift if spec.mode == "exact" else spec.accumulator_bits - 16
                    assert int(total) <= int(count) * top << unit
                    assert total == 0 or int(total) >= 1 << spec.mantissa_bits + unit


@pytest.mark.fast
def test_two_and_three_passes_agree() -> None:
    rng = np.random.default_rng(11)
    for scale in (1, 30, 300):
        x = rng.normal(0, scale, (7, 5, 200))
        x[0, 0, 5:] = -np.inf
        x[1, 1] = -np.inf
        two, three = softmax.two_pass(x), softmax.three_pass(x)
        # A polynomial and exp of x - max differ by the rounding of a large x alone.
        assert np.abs(two - three).max() < 1e-12
        assert (two[1, 1] == 0).all() and (two[0, 0, 5:] == 0).all()
        sums = two.sum(axis=-1)
        assert np.abs(np.delete(sums.ravel(), 6) - 1).max() < 1e-12
    # No maximum, and still nothing overflows.
    assert softmax.two_pass([1e6, 1e6 - 1]).tolist() == pytest.approx([0.7310586, 0.2689414])


@pytest.mark.fast
def test_against_the_float_reference() -> None:
    """Natural base, real scale: within the bound and what the logits' grid adds."""
    rng = np.random.default_rng(12)
    f = formats.get("posit16")
    codes = f.encode(rng.normal(0, 8, (50, 64)))
    scale = 1 / math.sqrt(32)
    factor = softmax.multiplier(scale)
    want = softmax.two_pass(f.decode(codes) * scale)
    got = softmax.softmax(EXACT, codes, "posit16", factor, out="u0.16") / 65536.0
    grid = math.log(2) * 2.0**-12 + 2.0**-16 * 20
    bound = EXACT.error_bound(64) + grid
    assert np.abs(got - want).max() <= bound * want.max() + 2.0**-17


# -- refusals ------------------------------------------------------------------------------------
@pytest.mark.fast
@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"mode": "quire"}, "softmax mode is 'quire': expected exact or truncating"),
        ({"lanes": 0}, "a softmax unit's lanes lies in 1..64, got 0"),
        ({"integer_bits": 9}, "integer_bits lies in 4..8, got 9"),
        ({"fraction_bits": 4}, "a table of 2\\*\\*5 lines needs as many fraction bits, got 4"),
        ({"mode": "truncating", "accumulator_bits": 14}, "16, got accumulator_bits = 14: raise it"),
    ],
)
def test_specs_are_checked(choice: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        SoftmaxSpec(**choice)


@pytest.mark.fast
def test_settings_are_checked() -> None:
    row = np.zeros(4, dtype=np.uint8)
    for change, error, text in (
        ({"multiplier": (32767, 0)}, DataError, "mantissa has exactly 16 bits, got 32767"),
        ({"multiplier": (32768, 512)}, DataError, "exponent lies in -512..511, got 512"),
        ({"out_shift": 512}, DataError, "out_shift lies in -512..511"),
        ({"codes": np.zeros((3, 0), np.uint8)}, DataError, "at least one element"),
        ({"codes": row + 300.0}, FormatError, "unsigned integers"),
        ({"format": "bf16"}, FormatError, "bf16 has infinities"),
        ({"underflow": "up"}, FormatError, "expected 'minpos' or 'zero'"),
    ):
        given: dict[str, Any] = {
            "codes": row, "format": "posit8", "multiplier": OCTAVES, **change,
        }  # fmt: skip
        with pytest.raises(error, match=text):
            softmax.softmax(EXACT, **given)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="positive finite scale"):
            softmax.multiplier(scale)
    with pytest.raises(DataError, match="exponent lies in"):
        softmax.multiplier(1e300)


@pytest.mark.fast
def test_cycles_and_widths() -> None:
    assert (EXACT.total_bits, CUT.total_bits) == (284, 41)
    assert (EXACT.turnaround, CUT.turnaround, EXACT.latency) == (12, 11, 6)
    assert EXACT.row_cycles(64) == 2 * 16 + 11 and EXACT.row_cycles(65) == 2 * 17 + 11
    assert EXACT.rom_bits == 32 * (16 + 12)
    assert EXACT.max_length == 4096
