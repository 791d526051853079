"""The softmax kernel against golden's, to the bit."""

import numpy as np
import pytest
from opennpe.golden import activations, catalog, formats
from opennpe.golden import layers as L
from opennpe.golden.errors import FormatError
from opennpe.golden.network import Tensor
from opennpe.sim.jit import kernel
from opennpe.sim.softmax import _exp_fixed, softmax
from opennpe.sim.values import Value

pytestmark = pytest.mark.fast
SPEC = catalog.EDGE_4X4


@kernel()
def exponentials(x, out):
    for i in range(x.size):
        out[i] = _exp_fixed(x[i])


def test_the_exponential_is_golden_s_bit_for_bit():
    rng = np.random.default_rng(0)
    x = -np.concatenate(
        [rng.exponential(3, 100_000), np.arange(0, 70, 2.0**-8), 2.0 ** np.arange(-60, 8)]
    )
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_array_equal(out, activations.exp_fixed(x))


@pytest.mark.parametrize("names", [("posit16", "posit16"), ("posit8", "fp4"), ("fp4", "posit8")])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 1), -1),
        ((5, 7), 1),
        ((2, 3, 197), 2),
        ((2, 21, 4, 5), 1),
        ((4, 3, 9), 0),
        ((1, 600), 1),
    ],
)
def test_rows_of_any_length_along_any_axis(shape, axis, names):
    rng = np.random.default_rng(1)
    x, out = Tensor("x", shape, names[0], 1), Tensor("y", shape, names[1], -3)
    codes = x.encode(rng.normal(0, 4, shape), "zero")
    layer = L.Softmax("s", ("x",), "y", axis)
    expected = out.encode(activations.softmax(x.decode(codes), axis), SPEC.underflow)
    for value in (Value(first=codes), Value(last=Value(first=codes).last())):
        for threads in (1, 3):
            got, _ = softmax(SPEC, layer, [x], [value], out, threads)
            np.testing.assert_array_equal(got.first(), expected)


def test_a_nar_takes_its_row_along():
    x, out = Tensor("x", (2, 3), "posit8"), Tensor("y", (2, 3), "posit8")
    codes = np.array([[0x80, 0x40, 0x10], [0x40, 0x40, 0x20]], dtype=np.uint8)
    layer = L.Softmax("s", ("x",), "y", 1)
    got, _ = softmax(SPEC, layer, [x], [Value(first=codes)], out, 1)
    assert (formats.get("posit8").is_nan(got.first()) == [[True] * 3, [False] * 3]).all()
    with pytest.raises(FormatError, match="no code for it"):
        softmax(SPEC, layer, [x], [Value(first=codes)], Tensor("y", (2, 3), "fp4"), 1)
