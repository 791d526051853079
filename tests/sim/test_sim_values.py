"""Layouts: the same codes whichever way round, moved once."""

import numpy as np
import pytest
from opennpe.sim.values import Value, to_first_axes, to_last_axes

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "shape",
    [
        *((3,), (2, 5), (2, 3, 7), (2, 40, 65), (1, 3, 9, 8), (2, 17, 5, 6)),
        *((1, 1, 4, 4), (2, 5, 1, 1), (2, 3, 4, 5, 6), (0, 3, 4, 4)),
    ],
)
def test_layouts_hold_the_same_codes(shape, dtype):
    x = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    expected = np.ascontiguousarray(x.transpose(to_last_axes(x.ndim)))
    value = Value(first=x)
    np.testing.assert_array_equal(value.last(), expected)
    assert value.last() is value.last() and value.last().flags.c_contiguous
    other = Value(last=expected)
    assert other.shape == x.shape and other.size == x.size and other.ndim == x.ndim
    np.testing.assert_array_equal(other.view(), x)
    np.testing.assert_array_equal(other.first(), x)
    np.testing.assert_array_equal(other.layout(True), expected)
    assert other.first().flags.c_contiguous and other.dtype == dtype


def test_axis_orders_undo_each_other():
    for rank in range(1, 6):
        order = [to_last_axes(rank)[axis] for axis in to_first_axes(rank)]
        assert order == list(range(rank))


def test_a_value_needs_codes():
    with pytest.raises(ValueError, match="needs codes"):
        Value()
