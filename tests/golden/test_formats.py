"""Formats against exact rationals, SoftPosit and ml_dtypes: every code, every boundary."""

from fractions import Fraction

import numpy as np
import pytest
from opennpe.golden import codec, formats
from opennpe.golden.errors import FormatError

pytestmark = pytest.mark.fast

SCALARS = [
    *formats.CATALOG,
    "posit(2,0)",
    "posit(5,2)",
    "posit(6,0)",
    "posit(8,1)",
    "posit(8,2)",
    "posit(12,2)",
    "posit(16,0)",
    "posit(16,2)",
]
POSITS = [name for name in SCALARS if formats.get(name).kind == "posit"]
RULES = ["minpos", "zero"]


def probes(fmt, count=300):
    """Values that hurt: every boundary (sampled when many), its neighbours, and random ones."""
    rng = np.random.default_rng(fmt.bits)
    edges = fmt._boundaries
    edges = rng.choice(edges, min(count, len(edges)), replace=False)
    powers = rng.standard_normal(count) * 2.0 ** rng.integers(-40, 40, count)
    small = fmt.minpos * np.array([0.25, 0.5, np.nextafter(0.5, 1), 0.75, 1])
    large = fmt.maxpos * np.array([1, 1.001, 1.5, 2, 1e6])
    x = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1e300), powers])
    x = np.concatenate([x, small, large, [0.0]])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("name", SCALARS)
def test_every_finite_code_survives_decode_and_encode(name):
    fmt = formats.get(name)
    codes = np.arange(1 << fmt.bits)
    finite = np.isfinite(fmt.values)
    assert np.array_equal(fmt.encode(fmt.values[finite]), codes[finite])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCALARS)
def test_array_and_scalar_rounding_are_one_function(name, rule):
    fmt = formats.get(name)
    for x, code in zip(probes(fmt).tolist(), fmt.encode(probes(fmt), rule).tolist(), strict=True):
        exact = Fraction(x)
        scalar = codec.round_exact(fmt, exact.numerator, 0, rule, exact.denominator)
        if x == 0 and fmt.signed_zero:
            assert code in (0, 1 << (fmt.bits - 1))
        else:
            assert code == scalar, f"{name} {x!r} {rule}: array {code:#x}, scalar {scalar:#x}"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCALARS)
def test_rounding_is_monotone(name, rule):
    fmt = formats.get(name)
    x = np.sort(probes(fmt))
    keys = fmt.order_key(fmt.encode(x, rule)).astype(np.int64)
    if fmt.signed_zero:
        keys = np.where(keys == -1, 0, keys)
    assert (np.diff(keys) >= 0).all()


@pytest.mark.parametrize("name", POSITS)
def test_underflow_rules(name):
    fmt = formats.get(name)
    half = fmt.minpos / 2
    x = np.array([half, np.nextafter(half, 1), 1e-300, -half, 0.0])
    negative = (1 << fmt.bits) - 1
    assert fmt.encode(x, "minpos").tolist() == [1, 1, 1, negative, 0]
    assert fmt.encode(x, "zero").tolist() == [0, 1, 0, 0, 0]


def test_posit_values_are_the_published_ones():
    assert formats.get("posit4").values[:8].tolist() == [0, 1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16]
    assert formats.get("fp4").values[:8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    limits = {"posit8": 2.0**6, "posit16": 2.0**28}
    for name, top in limits.items():
        fmt = formats.get(name)
        assert (fmt.maxpos, fmt.minpos, fmt.nan_code) == (top, 1 / top, 1 << (fmt.bits - 1))
    widths = {name: formats.get(name).significand_bits for name in formats.ENGINE_FORMATS}
    assert widths == {"fp4": 2, "posit4": 1, "posit8": 6, "posit16": 13}


def test_the_engine_formats_nest():
    for narrow, wide in [("fp4", "posit8"), ("posit4", "posit8"), ("posit8", "posit16")]:
        table = formats.widen_table(narrow, wide)
        np.testing.assert_array_equal(formats.get(wide).values[table], formats.get(narrow).values)
    with pytest.raises(FormatError, match="does not nest"):
        formats.widen_table("posit16", "posit8")


def test_softposit_agrees_on_every_code_and_on_rounding():
    sp = pytest.importorskip("softposit")
    rng = np.random.default_rng(0)
    for name, to_posit, make in (
        ("posit8", sp.convertDoubleToP8, sp.posit8),
        ("posit16", sp.convertDoubleToP16, sp.posit16),
    ):
        fmt = formats.get(name)
        for code in range(1 << fmt.bits):
            if code != fmt.nan_code:
                assert float(make(bits=code)) == fmt.values[code]
        x = np.concatenate([probes(fmt), rng.standard_normal(20000)])
        x = x[np.abs(x) > fmt.minpos / 2]
        theirs = np.array([to_posit(v).v for v in x.tolist()])
        np.testing.assert_array_equal(fmt.encode(x), theirs)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fp4", "float4_e2m1fn"),
        ("fp6_e2m3", "float6_e2m3fn"),
        ("fp6_e3m2", "float6_e3m2fn"),
        ("fp8_e4m3", "float8_e4m3fn"),
        ("fp8_e5m2", "float8_e5m2"),
        ("bf16", "bfloat16"),
    ],
)
def test_ml_dtypes_agrees_on_every_code_and_on_rounding(name, theirs):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt, dtype = formats.get(name), getattr(ml_dtypes, theirs)
    codes = np.arange(1 << fmt.bits).astype(fmt.dtype)
    # NaN codes, and probes beyond float32, are meant to be converted.
    with np.errstate(invalid="ignore", over="ignore"):
        reals = codes.view(dtype).astype(np.float64)
        x = probes(fmt).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(reals, fmt.values)
    x = x[np.abs(x) <= fmt.maxpos]
    mine = fmt.encode(x)
    outside = x.astype(np.float32).astype(dtype).view(fmt.dtype)
    np.testing.assert_array_equal(mine, outside)


def test_minifloats_saturate_and_keep_the_sign_of_tiny_values():
    fmt = formats.get("fp4")
    assert fmt.encode([7.0, 1e9, np.inf, -np.inf]).tolist() == [7, 7, 7, 15]
    assert fmt.encode([-0.1, -0.25, 0.25, -0.26]).tolist() == [8, 8, 0, 9]
    assert formats.get("fp8_e4m3").encode([1e9, np.nan]).tolist() == [0x7E, 0x7F]


def test_nan_needs_a_code():
    assert formats.get("posit8").encode([np.nan, np.inf]).tolist() == [128, 128]
    for name in ("fp4", "int8"):
        with pytest.raises(FormatError, match="no code for NaN"):
            formats.get(name).encode([1.0, np.nan])


@pytest.mark.parametrize("name", ["posit(17,1)", "posit(8,3)", "posit(1,0)", "fp5", "", "POSIT"])
def test_unknown_formats_are_refused(name):
    with pytest.raises(FormatError):
        formats.get(name)


def test_codes_are_checked():
    fmt = formats.get("fp4")
    for bad in ([16], [-1], [0.5]):
        with pytest.raises(FormatError):
            fmt.decode(bad)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8", "mxint8", "nvfp4"])
def test_block_formats_bound_their_error(name):
    fmt = formats.get(name)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 75)) * 2.0 ** rng.integers(-20, 20, (5, 1))
    codes, scales = fmt.encode(x)
    assert codes.shape == x.shape and scales.shape == (5, -(-75 // fmt.size))
    again = fmt.decode(codes, scales)
    width = np.repeat(fmt.scale_values(scales), fmt.size, axis=-1)[:, :75]
    steps = np.diff(fmt.element._finite_magnitudes[1]).max()
    clipped = np.maximum(np.abs(x) - width * fmt.element.maxpos, 0)
    normal = width > (0 if fmt.scale == "e8m0" else formats.get("fp8_e4m3").minpos)
    assert (np.abs(again - x) <= width * steps / 2 + clipped + 1e-300)[normal].all()


def test_mx_scale_is_the_power_of_two_of_the_specification():
    fmt = formats.get("mxfp4")
    x = np.zeros(32)
    x[3] = 6.0
    codes, scales = fmt.encode(x)
    assert (codes[3], scales.tolist()) == (7, [127])
    x[4] = 8.0
    assert fmt.encode(x)[1].tolist() == [128]
    codes, scales = fmt.encode(np.full(40, np.nan))
    assert scales.tolist() == [255, 255] and np.isnan(fmt.decode(codes, scales)).all()
