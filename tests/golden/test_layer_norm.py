"""The normalisation unit's arithmetic against exact rationals."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from opennpe.golden import codec, formats
from opennpe.golden import layer_norm as ln
from opennpe.golden.errors import AccumulatorError, FormatError, SpecError
from opennpe.golden.layer_norm_spec import KINDS, NormSpec

SPEC = NormSpec()
EXACT = NormSpec(fraction_bits=28, integer_bits=29)
"""A grid on which posit16 is exact."""
FINE = 1 << 200
Codes = NDArray[Any]


def families(name: str, rng: np.random.Generator) -> dict[str, Codes]:
    """Rows that are hard on some step."""
    fmt = formats.get(name)
    top, low = int(fmt.encode(fmt.maxpos)), int(fmt.encode(fmt.minpos))
    minus = int(fmt.encode(-fmt.maxpos))
    any_code = rng.integers(0, 1 << fmt.bits, 61)
    any_code = any_code[~fmt.is_nan(any_code)]
    one_hot = np.zeros(37, dtype=int)
    one_hot[11] = low
    steep = one_hot.copy()
    steep[11] = top
    drift = fmt.encode(fmt.maxpos / 4 + rng.normal(size=50) * fmt.minpos)
    return {
        "any code": any_code,
        "zeros": np.zeros(9, dtype=int),
        "constant": np.full(33, top),
        "all but one": np.append(np.full(33, top), low),
        "one": np.array([low]),
        "smallest one hot": one_hot,
        "largest one hot": steep,
        "extremes": np.tile([top, minus], 20),
        "smallest": np.tile([low, 0, low], 7),
        "mean far from zero": drift,
        "normal": fmt.encode(rng.normal(size=64)),
        "outlier": np.append(fmt.encode(rng.normal(size=64)), top),
        "ramp": np.sort(fmt.encode(np.linspace(-3, 5, 40))),
    }


def wanted(
    spec: NormSpec, name: str, codes: Codes, kind: str, epsilon: Fraction
) -> list[tuple[int, Fraction]]:
    """Sign and square of each exact result, from rationals and the definition."""
    grid = ln.grid_table(spec, name)
    x = [Fraction(int(grid[c]), 1 << spec.fraction_bits) for c in codes]
    mean = sum(x, Fraction(0)) / len(x) if kind == "layer" else Fraction(0)
    power = sum(((v - mean) ** 2 for v in x), Fraction(0)) / len(x) + epsilon
    return [((v > mean) - (v < mean), (v - mean) ** 2 / power if power else Fraction(0)) for v in x]


def root_of(square: Fraction) -> Fraction:
    """The square root to 200 bits."""
    return Fraction(isqrt(square.numerator * FINE**2 // square.denominator), FINE)


def key(fmt: Any, code: int) -> int:
    return int(fmt.order_key(np.array(code)))


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
@pytest.mark.parametrize("spec", [SPEC, EXACT], ids=["shipped", "exact grid"])
def test_results_are_within_the_bound(
    name: str, kind: ln.Kind, epsilon: float, spec: NormSpec
) -> None:
    rng = np.random.default_rng(formats.ENGINE_FORMATS.index(name))
    cases = 0
    for family, codes in families(name, rng).items():
        mantissa, shift = ln.epsilon_units(spec, epsilon, 0, len(codes))
        on_grid = Fraction(mantissa << shift, (len(codes) << spec.fraction_bits) ** 2)
        half_unit = Fraction(1, 2 * (len(codes) << spec.fraction_bits) ** 2)
        cut = Fraction(epsilon) / (1 << spec.epsilon_bits)
        assert abs(on_grid - Fraction(epsilon)) <= max(half_unit, cut)
        exact = wanted(spec, name, codes, kind, on_grid)
        for out, underflow in (("posit16", "zero"), ("posit8", "minpos"), ("fp4", "zero")):
            fmt = formats.get(out)
            got = ln.normalise(
                spec, codes, name, 0, kind, epsilon, out=out, underflow=underflow  # type: ignore[arg-type]
            )  # fmt: skip
            for code, (sign, square) in zip(got.tolist(), exact, strict=True):
                y = root_of(square)
                ends = []
                for error in (-spec.relative_error, spec.relative_error):
                    bound = sign * y * (1 + Fraction(error))
                    ends.append(
                        codec.round_exact(fmt, bound.numerator, 0, underflow, bound.denominator)  # type: ignore[arg-type]
                    )
                keys = sorted(key(fmt, end) for end in ends)
                assert keys[0] <= key(fmt, code) <= keys[1], (family, out, code, float(y))
                cases += 1
    assert cases > 1000


def test_the_bound_can_fail() -> None:
    """A root that is wrong by four times the bound is seen in posit16."""
    rng = np.random.default_rng(1)
    codes = formats.get("posit16").encode(rng.normal(size=1500))
    given = ln.settings(SPEC, "posit16", len(codes))
    right = ln.normalise(SPEC, codes, "posit16")
    values, exponent, _ = ln._row(SPEC, given, codes.astype(int), np.ones(len(codes), dtype=bool))
    off = [Fraction(int(v)) * (1 + Fraction(4 * SPEC.relative_error)) for v in values]
    fmt = formats.get("posit16")
    wrong = [codec.round_exact(fmt, v.numerator, exponent, "zero", v.denominator) for v in off]
    assert (np.array(wrong) != right).any()


def test_every_reciprocal_root_is_within_the_bound() -> None:
    p = SPEC.rsqrt_bits
    operand = np.arange(1 << p, 4 << p)
    found = ln.rsqrt(SPEC, operand.astype(object)).astype(np.int64)
    assert found.min() >= 1 << (p - 1) and found.max() == 1 << p
    # found^2 * operand stands for (1 + e)^2 * 2^(3p); the operand is cut from less than one more.
    squares = found**2
    errors = [np.sqrt(squares * (operand + more) / 2.0 ** (3 * p)) - 1 for more in (0, 1)]
    assert max(np.abs(e).max() for e in errors) <= SPEC.rsqrt_error
    assert np.all(np.diff(found) <= 0), "the root is monotone"
    assert found[0] == 1 << p, "powers of four have exact roots"


@pytest.mark.parametrize("spec", [NormSpec(rsqrt_bits=14, table_bits=3, seed_bits=5,
                                           middle_bits=9), NormSpec(rsqrt_bits=16)])  # fmt: skip
def test_other_roots_are_within_their_bounds(spec: NormSpec) -> None:
    p = spec.rsqrt_bits
    operand = np.arange(1 << p, 4 << p)
    found = ln.rsqrt(spec, operand.astype(object)).astype(np.int64)
    for more in (0, 1):
        error = np.sqrt(found**2 * (operand + more) / 2.0 ** (3 * p)) - 1
        assert np.abs(error).max() <= spec.rsqrt_error


@pytest.mark.fast
def test_the_accumulators_hold_the_longest_row() -> None:
    n, x = SPEC.max_length, SPEC.largest
    assert n == 4096
    assert n * x < 1 << (SPEC.sum_bits - 1)
    assert n * x * x < 1 << SPEC.square_sum_bits
    assert n * n * x * x < 1 << SPEC.variance_bits
    total = (1 << SPEC.total_bits) - 1
    assert ln.root(SPEC, total).exponent < 1 << SPEC.exponent_bits
    assert 2 * n * x << SPEC.rsqrt_bits < 1 << (SPEC.difference_bits - 1)
    mantissa, shift = (1 << SPEC.epsilon_bits) - 1, SPEC.variance_bits - SPEC.epsilon_bits
    assert shift < 1 << SPEC.epsilon_shift_bits
    assert (mantissa << shift) + n * n * x * x < 1 << SPEC.total_bits
    top = int(formats.get("posit16").encode(1e9))
    row = np.full(n, top)
    row[::2] = 0x8001
    sums = ln.accumulate(SPEC, "posit16", row, np.ones(n, dtype=bool))
    assert sums == ln.Sums(0, n * x * x, False)
    assert set(ln.normalise(SPEC, row, "posit16").tolist()) == {0x4000, 0xC000}
    with pytest.raises(AccumulatorError, match="a row of 4097 elements .* the sums hold 4096"):
        ln.normalise(SPEC, np.zeros(n + 1, dtype=int), "posit8")
    with pytest.raises(AccumulatorError, match="4097"):
        ln.settings(SPEC, "posit8", n + 1)
    keep = np.arange(n + 1) > 0
    assert not ln.normalise(SPEC, np.zeros(n + 1, dtype=int), "posit8", keep=keep).any()


@pytest.mark.fast
@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
def test_codes_on_the_grid(name: str) -> None:
    fmt = formats.get(name)
    codes = np.arange(1 << fmt.bits)
    finite = codes[~fmt.is_nan(codes)]
    assert all(
        Fraction(int(x), 1 << 28) == Fraction(float(v))
        for x, v in zip(ln.grid_table(EXACT, name)[finite], fmt.decode(finite), strict=True)
    )
    x = ln.grid_table(SPEC, name)[finite].astype(np.int64)
    scaled = fmt.decode(finite) * 2.0**SPEC.fraction_bits
    held = np.clip(np.rint(scaled), -SPEC.largest, SPEC.largest)
    assert np.array_equal(x, held)
    assert name == "posit16" or np.array_equal(x, scaled)
    # What the gates rely on: a significand of 13 bits and a shift.
    lowest = np.maximum(np.abs(x) & -np.abs(x), 1)
    assert (np.abs(x) // lowest < 1 << SPEC.significand_bits).all()


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
def test_order_and_masks_do_not_matter(kind: ln.Kind) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        codes = formats.get("posit16").encode(rng.normal(size=70) * 2.0 ** rng.integers(-8, 8))
        order = rng.permutation(70)
        whole = ln.normalise(SPEC, codes, "posit16", kind=kind)
        assert np.array_equal(ln.normalise(SPEC, codes[order], "posit16", kind=kind), whole[order])
        keep = rng.random(70) < 0.7
        masked = ln.normalise(SPEC, codes, "posit16", kind=kind, keep=keep)
        assert not masked[~keep].any()
        alone = ln.normalise(SPEC, codes[keep], "posit16", kind=kind)
        assert np.array_equal(masked[keep], alone)


@pytest.mark.fast
def test_scale_only_weighs_epsilon() -> None:
    rng = np.random.default_rng(4)
    codes = formats.get("posit8").encode(rng.normal(size=(5, 40)))
    base = ln.normalise(SPEC, codes, "posit8", epsilon=2.0**-10)
    assert np.array_equal(base, ln.normalise(SPEC, codes, "posit8", 3, epsilon=2.0**-4))
    assert (base != ln.normalise(SPEC, codes, "posit8", epsilon=0.1)).any()
    # Whole octaves change nothing where the grid loses nothing.
    wide = formats.get("posit8").decode(codes)
    octaves = [
        ln.normalise(EXACT, formats.get("posit16").encode(wide * 2.0**k), "posit16", epsilon=0.0)
        for k in (-2, 0, 3)
    ]
    assert np.array_equal(octaves[0], octaves[1]) and np.array_equal(octaves[1], octaves[2])


@pytest.mark.fast
def test_out_shift_is_the_scale_of_the_output() -> None:
    rng = np.random.default_rng(5)
    codes = formats.get("posit16").encode(rng.normal(size=60))
    fine = formats.get("posit16").decode(ln.normalise(SPEC, codes, "posit16"))
    moved = formats.get("posit16").decode(ln.normalise(SPEC, codes, "posit16", out_shift=-3))
    assert np.abs(moved * 8 - fine).max() < 2.0**-9
    gone = ln.normalise(SPEC, codes, "posit16", out_shift=-400)
    assert not gone.any()
    least = ln.normalise(SPEC, codes, "posit16", out_shift=-400, underflow="minpos")
    assert set(least.tolist()) == {1, 0xFFFF}


@pytest.mark.fast
def test_nan_rows() -> None:
    codes = np.array([[3, 0x80, 5], [3, 4, 5]])
    got = ln.normalise(SPEC, codes, "posit8", out="posit16")
    assert got[0].tolist() == [0x8000] * 3 and 0x8000 not in got[1]
    keep = np.array([True, False, True])
    got = ln.normalise(SPEC, codes, "posit8", keep=keep)
    assert got[0].tolist()[1] == 0 and 0x8000 not in got[0]
    keep = np.array([True, True, False])
    assert ln.normalise(SPEC, codes, "posit8", keep=keep)[0].tolist() == [0x8000, 0x8000, 0]
    with pytest.raises(FormatError, match="NaR and fp4 has no code"):
        ln.normalise(SPEC, codes, "posit8", out="fp4")


@pytest.mark.fast
def test_shapes() -> None:
    codes = formats.get("posit8").encode(np.random.default_rng(6).normal(size=(2, 3, 8)))
    got = ln.normalise(SPEC, codes, "posit8", out="posit8")
    assert got.shape == (2, 3, 8) and got.dtype == np.uint8
    assert np.array_equal(got[1, 2], ln.normalise(SPEC, codes[1, 2], "posit8", out="posit8"))
    assert ln.normalise(SPEC, np.zeros((0, 8), dtype=int), "fp4").shape == (0, 8)
    assert ln.normalise(SPEC, np.zeros((2, 0), dtype=int), "fp4").shape == (2, 0)
    assert not ln.normalise(SPEC, np.full((2, 3), 9), "posit8", keep=False).any()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "bf16"}, "takes fp4, posit4, posit8, posit16, got 'bf16'"),
        ({"out": "int8"}, "got 'int8'"),
        ({"kind": "batch"}, "kind is 'batch': expected one of layer, rms"),
        ({"epsilon": -1.0}, "epsilon is -1.0: expected a finite"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"scale": -60}, "beyond the unit's grid for rows of 4 at scale 2\\^-60"),
        ({"out_shift": 512}, r"out_shift lies in -512\.\.511, got 512"),
        ({"underflow": "flush"}, "underflow is 'flush'"),
        ({"codes": 7}, "got a single code"),
        ({"codes": [300]}, "posit8 codes lie below 256"),
    ],
)
def test_what_is_refused(change: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"codes": [1, 2, 3, 4], "format": "posit8"} | change
    with pytest.raises(FormatError, match=text):
        ln.normalise(SPEC, **given)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lanes": 0}, "lanes lies in 1..16 .*got 0"),
        ({"fraction_bits": 5}, "fraction_bits lies in 6..28"),
        ({"seed_bits": 12, "middle_bits": 10}, "expected seed_bits <= middle_bits"),
        ({"digit_bits": 0}, "digit_bits lies in 1..16"),
    ],
)
def test_specs_that_are_refused(change: dict[str, int], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        NormSpec(**change)


@pytest.mark.fast
def test_cycles() -> None:
    assert (SPEC.latency, SPEC.turnaround) == (6, 24)
    assert SPEC.cycles(10) == 43
