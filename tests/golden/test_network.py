"""Layers by definition against float64, where every step is exact or the rounding known."""

import math

import mpmath
import numpy as np
import pytest
from opennpe.golden import activations, array, catalog, formats, mac, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, DataError, NetworkError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.rounding import reciprocal

pytestmark = pytest.mark.fast

SPEC = catalog.EDGE_4X4
ZERO = np.zeros


def single(layer, in_shapes, out_shape, fmt="posit16", out_fmt=None, scale=0):
    """A network of one layer."""
    tensors = {
        name: Tensor(name, shape, fmt, scale)
        for name, shape in zip(layer.inputs, in_shapes, strict=True)
    }
    tensors[layer.output] = Tensor(layer.output, out_shape, out_fmt or fmt, scale)
    return Network(layer.inputs, (layer.output,), tensors, (layer,))


def conv(weights, x_shape, strides=1, pads=0, dilations=1, groups=1, clip=None, bias=None):
    rank = weights.ndim - 2
    fmt = formats.get("posit16")
    out_channels = weights.shape[0]
    return L.Conv(
        "conv",
        ("x",),
        "y",
        fmt.encode(weights),
        "posit16",
        ZERO(out_channels, dtype=np.int64),
        ZERO(out_channels) if bias is None else bias,
        (strides,) * rank,
        (pads,) * (2 * rank),
        (dilations,) * rank,
        groups,
        clip,
    )


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (1, {"strides": 2, "pads": 1}),
        (2, {}),
        (2, {"strides": 2, "pads": 1}),
        (2, {"dilations": 2, "pads": 2}),
        (2, {"groups": 2, "pads": 1}),
        (2, {"groups": 4, "pads": 1, "clip": (0, math.inf)}),
        (3, {"pads": 1}),
    ],
)
def test_convolution_of_small_integers_is_exact(rank, options):
    """Small integers are posit16 values and so are these sums: no rounding hides an error."""
    rng = np.random.default_rng(rank)
    groups = options.get("groups", 1)
    x = rng.integers(-3, 4, (2, 4, *(6,) * rank)).astype(float)
    w = rng.integers(-2, 3, (4, 4 // groups, *(3,) * rank)).astype(float)
    bias = rng.integers(-5, 5, 4).astype(float)
    layer = conv(w, x.shape, bias=bias, **options)
    one = (1, *x.shape[1:])
    out = _shape(layer, one)
    net = single(layer, [one], out)
    got = net.tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"])
    np.testing.assert_array_equal(got, naive_conv(x, w, bias, options, rank))


def _shape(layer, x):
    from opennpe.golden.shapes import output_shape

    return output_shape(layer, [x])


def naive_conv(x, w, bias, options, rank):
    """Loops over outputs, as a textbook has it."""
    stride, pad = options.get("strides", 1), options.get("pads", 0)
    dilation, groups = options.get("dilations", 1), options.get("groups", 1)
    padded = np.pad(x, [(0, 0), (0, 0)] + [(pad, pad)] * rank)
    reach = dilation * (w.shape[2] - 1) + 1
    size = (padded.shape[2] - reach) // stride + 1
    out = np.zeros((x.shape[0], w.shape[0], *(size,) * rank))
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for index in np.ndindex(out.shape):
        n, o, where = index[0], index[1], index[2:]
        g = o // per_out
        window = tuple(slice(p * stride, p * stride + reach, dilation) for p in where)
        block = padded[(n, slice(g * per_in, (g + 1) * per_in), *window)]
        out[index] = (block * w[o]).sum() + bias[o]
    clip = options.get("clip")
    return out if clip is None else np.clip(out, *clip)


def test_scales_and_channel_scales_are_shifts():
    fmt = formats.get("posit8")
    weights = fmt.encode(np.array([[1.0, 2.0], [0.5, -1.0]]))
    layer = L.Linear(
        "fc", ("x",), "y", weights, "posit8", np.array([3, -2]), np.array([8.0, 0.0]), None
    )
    tensors = {"x": Tensor("x", (1, 2), "posit8", -1), "y": Tensor("y", (1, 2), "posit8", 2)}
    net = Network(("x",), ("y",), tensors, (layer,))
    x = np.array([[1.0, 0.5]])
    got = tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"])
    np.testing.assert_array_equal(got, [[24.0, 0.0]])


def test_pooling_follows_its_rules():
    x = np.arange(16.0).reshape(1, 1, 4, 4) - 8
    for kind, expected in (("max", [[-3, -1], [5, 7]]), ("average", [[-5.5, -3.5], [2.5, 4.5]])):
        layer = L.Pool("p", ("x",), "y", kind, (2, 2), (2, 2), (0,) * 4, (1, 1))
        net = single(layer, [x.shape], (1, 1, 2, 2))
        got = net.tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"])
        np.testing.assert_array_equal(got[0, 0], expected)
    assert reciprocal(4) == (1 << 16, 18)
    for n in range(1, 2000):
        m, q = reciprocal(n)
        assert m.bit_length() <= 17 and abs(m / 2.0**q * n - 1) <= 2.0**-16


def test_padding_never_wins_a_maximum():
    x = np.full((1, 1, 2, 2), -5.0)
    layer = L.Pool("p", ("x",), "y", "max", (3, 3), (1, 1), (1,) * 4, (1, 1))
    net = single(layer, [x.shape], x.shape)
    got = net.tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"])
    assert (got == -5).all()


def test_average_counts_padding_only_when_told():
    x = np.ones((1, 1, 2, 2))
    for include, corner in ((False, 1.0), (True, 4 / 9)):
        layer = L.Pool("p", ("x",), "y", "average", (3, 3), (1, 1), (1,) * 4, (1, 1), include)
        net = single(layer, [x.shape], x.shape)
        got = net.tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"])
        assert abs(got[0, 0, 0, 0] - corner) < 2e-4


def test_an_operand_far_below_the_grid_rounds_on_entry():
    layer = L.Add("add", ("a", "b"), "y")
    tensors = {
        "a": Tensor("a", (1, 1), "posit8", 0),
        "b": Tensor("b", (1, 1), "posit8", -14),
        "y": Tensor("y", (1, 1), "posit8", 0),
    }
    net = Network(("a", "b"), ("y",), tensors, (layer,))
    for b, expected in ((2.0**-13, 0), (2.0**-12, 1)):
        codes = reference.evaluate(SPEC, net, {"a": [[0.0]], "b": [[b]]})["y"]
        assert mac.to_grid(b, -12) == expected
        assert codes[0, 0] == 0
    strict = reference.evaluate(catalog.STRICT_4X4, net, {"a": [[0.0]], "b": [[2.0**-12]]})
    assert strict["y"][0, 0] == 1


@pytest.mark.parametrize("kind", [k for k in activations.KINDS if k not in ("leaky", "prelu")])
def test_tables_are_correctly_rounded(kind):
    fmt = formats.get("posit8")
    params = (("min", -1.0), ("max", 2.0)) if kind == "clip" else ()
    codes = activations.table(kind, "posit8", 1, "posit8", -1, params)
    settings = {**activations._DEFAULTS.get(kind, {}), **dict(params)}
    for code in range(256):
        value = fmt.values[code] * 2
        if math.isnan(value):
            assert codes[code] == 128
            continue
        with mpmath.workprec(300):
            y = activations._FORMULAS[kind](mpmath.mpf(value), mpmath, settings)
            if not mpmath.isfinite(y):
                assert codes[code] == 128
                continue
            sign, mantissa, exponent, _ = mpmath.mpf(y)._mpf_
        signed = -int(mantissa) if sign else int(mantissa)
        from opennpe.golden.codec import round_exact

        assert codes[code] == round_exact(fmt, signed, int(exponent) + 1), (kind, value)


def test_softmax_is_close_and_sums_to_one():
    x = np.random.default_rng(0).standard_normal((4, 10)) * 5
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(
        activations.softmax(x, 1), e / e.sum(1, keepdims=True), rtol=1e-9, atol=1e-11
    )
    log = activations.softmax(x, 1, log=True)
    np.testing.assert_allclose(log, np.log(e / e.sum(1, keepdims=True)), atol=1e-9)
    one = activations.exp_fixed(np.array([0.0, -1.0]))
    assert one[0] == 1 << 40 and abs(one[1] - math.exp(-1) * 2**40) < 1


def test_nar_reaches_the_output_and_only_its_own():
    layer = conv(np.ones((1, 1, 3, 3)), None, pads=1)
    net = single(layer, [(1, 1, 5, 5)], (1, 1, 5, 5))
    x = np.ones((1, 1, 5, 5))
    x[0, 0, 0, 0] = np.nan
    got = np.isnan(net.tensors["y"].decode(reference.evaluate(SPEC, net, {"x": x})["y"]))[0, 0]
    assert got[:2, :2].all() and got.sum() == 4


def test_more_terms_than_the_accumulator_holds_names_the_layer():
    k = 32_768
    layer = L.Linear(
        "huge",
        ("x",),
        "y",
        ZERO((1, k), dtype=np.uint16),
        "posit16",
        ZERO(1, dtype=np.int64),
        ZERO(1),
    )
    net = single(layer, [(1, k)], (1, 1))
    with pytest.raises(AccumulatorError, match="layer 'huge' sums 32768 terms"):
        reference.evaluate(SPEC, net, {"x": ZERO((1, k))})


def test_networks_are_checked():
    layer = L.Reshape("r", ("x",), "y", (3,))
    with pytest.raises(NetworkError, match="cannot reshape"):
        single(layer, [(1, 4)], (3,))
    with pytest.raises(NetworkError, match="reads 'z' before"):
        Network(("x",), (), {"x": Tensor("x", (1,), "fp4")}, (L.Convert("c", ("z",), "x"),))
    net = single(L.Convert("c", ("x",), "y"), [(1, 4)], (1, 4))
    for bad, text in (
        ({}, "'x' is missing"),
        ({"x": ZERO((1, 5))}, r"expected \(N, 4\)"),
        ({"x": ZERO((1, 4)), "w": 1}, "'w' is no input"),
        ({"x": np.array([["a"] * 4])}, "expected numbers"),
    ):
        with pytest.raises(DataError, match=text):
            reference.evaluate(SPEC, net, bad)


def test_cycles_of_a_layer_are_the_documented_closed_form():
    layer = conv(np.ones((10, 3, 3, 3)), None, pads=1)
    net = single(layer, [(1, 3, 6, 6)], (1, 10, 6, 6))
    work = array.layer_work(SPEC, net, layer, batch=2)
    tiles = -(-72 // 4) * -(-10 // 4)
    assert work.cycles == tiles * 27 + SPEC.engine.latency
    assert work.macs == 2 * 36 * 10 * 27
