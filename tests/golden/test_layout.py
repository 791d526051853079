"""Tensors in lines: by the definition, code by code, and back."""

import numpy as np
import pytest
from opennpe.golden import formats
from opennpe.golden.errors import FormatError
from opennpe.golden.layout import Layout

pytestmark = pytest.mark.fast

CASES = [
    (channels, size, fmt, fold, columns)
    for fmt in formats.ENGINE_FORMATS
    for columns in (2, 4, 8)
    for fold in (1, 2, 4)
    for channels in (1, 3, 5, 17)
    for size in ((1, 1), (3, 5))
    if columns % fold == 0
    and (fold == 1 or channels <= columns // fold * (16 // formats.get(fmt).bits))
]


@pytest.mark.parametrize(("channels", "size", "fmt", "fold", "columns"), CASES)
def test_a_code_lies_where_the_contract_says(channels, size, fmt, fold, columns):
    layout = Layout(channels, *size, fmt, fold, columns)
    bits = formats.get(fmt).bits
    lanes = 16 // bits
    rng = np.random.default_rng(channels)
    codes = rng.integers(0, 1 << bits, (channels, *size)).astype(formats.get(fmt).dtype)
    words = layout.pack(codes)
    assert words.shape == (layout.lines, columns) and words.dtype == np.uint16
    per_block = columns // fold * lanes
    for channel in range(channels):
        for pixel in range(size[0] * size[1]):
            block, own = divmod(channel, per_block)
            line = block * -(-size[0] * size[1] // fold) + pixel // fold
            column = pixel % fold * (columns // fold) + own // lanes
            code = int(words[line, column]) >> own % lanes * bits & ((1 << bits) - 1)
            assert code == codes[channel, pixel // size[1], pixel % size[1]]
    assert np.array_equal(layout.unpack(words), codes)


def test_cases_there_are():
    assert len(CASES) > 100


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Layout(9, 2, 2, "posit8", 2, 4), "9 channels of posit8 do not fit in 2 words"),
        (lambda: Layout(1, 2, 2, "posit8", 4, 2), "2 columns do not hold 4 pixels"),
        (lambda: Layout(1, 0, 2, "posit8", 1, 2), "empty"),
        (lambda: Layout(1, 1, 2, "posit8", 1, 2).pack(np.zeros((1, 2, 1), np.uint8)), "shape"),
        (lambda: Layout(1, 1, 2, "posit8", 1, 2).unpack(np.zeros((1, 2), np.uint16)), "2 lines"),
    ],
)
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises(FormatError, match=text):
        make()
