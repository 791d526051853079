"""Pairs of operand formats, and where their lanes sit: in the word, the multiplier, the sum.

The accumulator is four *slots* of equal width. A lane owns the slots from its own up to the next
lane's, so lane 0 begins in slot 0 in every mode and one datapath serves it in all of them.
"""

# No "from __future__ import annotations": data.Struct reads its fields from real annotations.

from functools import lru_cache

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.lib import data
from opennpe.golden import formats, mac

__all__ = [
    "FRACTION_BITS",
    "HALF",
    "NARROW",
    "PAIRS",
    "SCALE_BITS",
    "SEGMENT",
    "SHIFT_BITS",
    "SIGNIFICAND_BITS",
    "SLOTS",
    "WHOLE",
    "WORD_BITS",
    "Pair",
    "Tag",
    "grid_exponent",
    "lane_count",
    "log2_maxpos",
    "pair_of",
    "significand_places",
    "slot_of",
    "slot_signs",
    "table",
]

NARROW = ("fp4", "posit4")
HALF = "posit8"
WHOLE = "posit16"

PAIRS = {
    0: ("fp4", "fp4"),
    1: ("fp4", "posit4"),
    2: ("posit4", "posit4"),
    4: (HALF, HALF),
    5: (WHOLE, WHOLE),
}
"""Pair code to operand formats; code 1 stands for both orders."""

WORD_BITS = int(formats.get(WHOLE).bits)
SLOTS = WORD_BITS // int(formats.get(NARROW[0]).bits)
SIGNIFICAND_BITS = {name: formats.get(name).significand_bits for name in (*NARROW, HALF, WHOLE)}
FRACTION_BITS = SIGNIFICAND_BITS[WHOLE]
"""Fraction bits that any rounding looks at: the longest fraction and its round bit."""


@lru_cache(maxsize=8)
def log2_maxpos(name: str) -> int:
    """Largest exponent of two of a posit; its smallest is the negative of it."""
    return int(formats.get(name).maxpos).bit_length() - 1


SCALE_BITS = {name: log2_maxpos(name).bit_length() + 1 for name in (HALF, WHOLE)}
"""Signed bits of a posit's exponent of two."""
SEGMENT = 16
"""Bits that the coarse part of a shift moves by, up and down."""
SHIFT_BITS = 3
"""Bits of a 4-bit operand's left shift onto its grid (see ``codec.narrow_operand``)."""


class Pair(data.Struct):
    """What the operands are, in three bits: the key of :data:`PAIRS`."""

    count: 2  # type: ignore[valid-type]
    wide: 1  # type: ignore[valid-type]

    @property
    def whole(self) -> Value:
        """posit16: one lane."""
        return self.wide & self.count[0]

    @property
    def half(self) -> Value:
        """posit8: two lanes."""
        return self.wide & ~self.count[0]

    @property
    def narrow(self) -> Value:
        """4-bit operands: four lanes."""
        return ~self.wide

    @property
    def last_lane(self) -> Value:
        """Number of lanes less one."""
        return Cat(~self.whole, self.narrow)


class Tag(data.Struct):
    """What travels with a word pair until it is summed."""

    pair: Pair
    first: 1  # type: ignore[valid-type]
    last: 1  # type: ignore[valid-type]
    out: 2  # type: ignore[valid-type]
    nothing: 1  # type: ignore[valid-type]


def pair_of(mode_a: Value, mode_b: Value) -> Value:
    """The pair code of two indices into ENGINE_FORMATS, of equal width."""
    wide = mode_a[1]
    low = Mux(wide, mode_a[0], mode_a[0] ^ mode_b[0])
    return Cat(low, mode_a[0] & mode_b[0] & ~wide, wide)


def significand_places(lanes: int) -> tuple[int, ...]:
    """Lowest bit of each lane's significand in the multiplier's operand.

    The lanes of a mode split the operand as its halves and their halves do, so that the products
    of a lane with itself lie on the diagonal of the array of partial products.
    """
    whole, half = SIGNIFICAND_BITS[WHOLE], SIGNIFICAND_BITS[HALF]
    quarter = SIGNIFICAND_BITS[NARROW[0]]
    high = whole - half
    return {1: (0,), 2: (0, high), 4: (0, half - quarter, high, whole - quarter)}[lanes]


def slot_signs(pair: Pair, word: Value) -> Value:
    """The sign bit of the lane that owns each slot (SLOTS bits)."""
    step = WORD_BITS // SLOTS
    own = [word[step * (slot + 1) - 1] for slot in range(SLOTS)]
    top = own[-1]
    return Cat(
        Mux(pair.narrow, own[0], Mux(pair.half, own[1], top)),
        Mux(pair.whole, top, own[1]),
        Mux(pair.narrow, own[2], top),
        top,
    )


def table(index: Value, entries: list[int], width: int) -> Value:
    """A constant table as a tree of multiplexers; ``entries`` has a power of two of them."""
    level: list[Value | int] = list(entries)
    for bit in range(len(entries).bit_length() - 1):
        sides = zip(level[::2], level[1::2], strict=True)
        level = [_choose(index[bit], low, high, width) for low, high in sides]
    return Value.cast(level[0])


def _choose(bit: Value, low: Value | int, high: Value | int, width: int) -> Value | int:
    if isinstance(low, int) and isinstance(high, int) and low == high:
        return low
    sides = [Const(x, width) if isinstance(x, int) else x for x in (low, high)]
    return Mux(bit, sides[1], sides[0])


def slot_of(lanes: int, lane: int) -> int:
    """The slot in which a lane begins."""
    return lane * SLOTS // lanes


def grid_exponent(pair: int) -> int:
    """Exponent of the accumulator's lowest bit."""
    return mac.grid_exponent(*PAIRS[pair])


def lane_count(pair: int) -> int:
    """Lanes of a pair."""
    return int(WORD_BITS // formats.get(PAIRS[pair][0]).bits)
