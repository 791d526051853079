"""A window that follows the largest exponent so far: the accumulator of the windowed baseline.

A lane keeps a total of ``bits`` bits and an *anchor*, the largest exponent of any product of its
sum so far. ``HEADROOM`` bits above the anchor hold as many terms as posit16's exact accumulator
does, the bits below the window are dropped: of a product towards zero, of the total towards minus
infinity when the anchor rises (what dropping bits of a magnitude and of two's complement does).
The order of the terms is part of the meaning. A window that holds all of a format's sums stands
still at the bottom, and is exact.

Cheaper to clock than :mod:`opennpe.golden.window`, which normalises after every step (PDPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from numpy.typing import ArrayLike
from opennpe.golden import codec, formats, mac
from opennpe.golden.errors import SpecError

__all__ = ["HEADROOM", "MIN_BITS", "RunningWindow", "dot", "lane_bits"]

PROMISED_TERMS = mac.max_terms("posit16")
HEADROOM = PROMISED_TERMS.bit_length()
"""Bits between the largest product and the sign."""
MIN_BITS = 32
"""Below it the 4-bit formats, which a window does nothing for, would need one."""


@lru_cache(maxsize=8)
def exact_bits(name: str) -> int:
    """Width that holds the promised terms of a format exactly, sign included."""
    return int((PROMISED_TERMS * mac.max_product(name, name)).bit_length()) + 1


def lane_bits(name: str, bits: int) -> int:
    """Bits of a lane's total: the window, or what is exact if that is less.

    Raises:
        SpecError: a window narrower than ``MIN_BITS``.
    """
    if bits < MIN_BITS:
        raise SpecError(f"a running window takes at least {MIN_BITS} bits, got {bits}")
    return min(bits, exact_bits(name))


@dataclass(frozen=True)
class RunningWindow:
    """What a window of ``bits`` is for operands of one format; its steps are in :func:`dot`."""

    name: str
    bits: int

    @cached_property
    def width(self) -> int:
        """Bits of the total."""
        return lane_bits(self.name, self.bits)

    @cached_property
    def exact(self) -> bool:
        """Whether it stands still, because nothing lies outside."""
        return self.width == exact_bits(self.name)

    @cached_property
    def room(self) -> int:
        """Bits of the total below the headroom: magnitudes of products lie under ``2**room``."""
        return self.width - 1 - HEADROOM

    @cached_property
    def grid(self) -> int:
        """Exponent of the lowest bit of any product."""
        return mac.grid_exponent(self.name, self.name)

    @cached_property
    def floor(self) -> int:
        """Lowest anchor: the window's lowest bit is the grid's."""
        return self.grid + self.room - 2

    def unit(self, anchor: int) -> int:
        """Exponent of the total's lowest bit: a product's significands reach below 4."""
        return self.grid if self.exact else anchor + 2 - self.room

    def preload(self, value: int) -> tuple[int, int]:
        """A bias in units of the grid as total and anchor; it counts as one term.

        Raises:
            SpecError: a bias larger than the largest product.
        """
        if abs(value) > mac.max_product(self.name, self.name):
            raise SpecError(f"a bias of {value} is larger than a product of {self.name}")
        if self.exact:
            return value, self.floor
        anchor = max(self.floor, self.grid + abs(value).bit_length() - 2)
        return _cut(value, self.unit(anchor) - self.grid), anchor

    def product(self, code_a: int, code_b: int) -> tuple[int, int, bool]:
        """A product in units of the grid, the sum of its exponents, and whether it is NaR."""
        value_a, scale_a, nan_a = _operand(self.name, code_a)
        value_b, scale_b, nan_b = _operand(self.name, code_b)
        value = value_a * value_b
        return value, scale_a + scale_b if value else self.floor, nan_a or nan_b


def dot(
    window: RunningWindow,
    a: ArrayLike,
    b: ArrayLike,
    bias: int = 0,
    shift: int = 0,
    out: str | None = None,
    underflow: formats.Underflow = "minpos",
) -> int:
    """``round((bias + sum of a*b) * 2**shift)`` through a window, in index order.

    Args:
        window: format of the operands, and bits.
        a: codes (K,).
        b: codes (K,).
        bias: in units of the grid, at most a product's magnitude.
        shift: a power of two.
        out: format of the result, the operands' unless given.
        underflow: rule of the rounding.

    Raises:
        FormatError: a NaR operand, and no code for NaR in ``out``.
    """
    fmt = formats.get(window.name)
    total, anchor = window.preload(bias)
    bad = False
    for code_a, code_b in zip(fmt.check_codes(a), fmt.check_codes(b), strict=True):
        value, scale, nan = window.product(int(code_a), int(code_b))
        bad |= nan
        higher = anchor if window.exact else max(anchor, scale)
        total >>= window.unit(higher) - window.unit(anchor)
        anchor = higher
        total += _cut(value, window.unit(anchor) - window.grid)
    target = formats.get(out or window.name)
    return mac.round_sum(target, total, window.unit(anchor) + shift, bad, underflow)


@lru_cache(maxsize=1 << 17)
def _operand(name: str, code: int) -> tuple[int, int, bool]:
    """A code in units of its format's grid, the exponent of its leading bit, and NaR."""
    fmt = formats.get(name)
    u = codec.unpack(fmt, code)
    if u.kind != "finite" or not u.significand:
        return 0, 0, u.kind != "finite"
    return codec.to_fixed(u, fmt.lsb_exponent), u.exponent + u.significand.bit_length() - 1, False


def _cut(value: int, places: int) -> int:
    """Towards zero, as the bits of a magnitude are dropped."""
    magnitude = abs(value) >> places
    return -magnitude if value < 0 else magnitude
