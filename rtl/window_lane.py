"""One lane of a unit of one format: decode, multiply, align, accumulate, all combinational.

Bits are those of :mod:`opennpe.golden.running_window`; registers are the unit's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from opennpe.golden import formats, mac
from opennpe.golden.running_window import RunningWindow
from opennpe.rtl.codec import PositString, narrow_operand
from opennpe.rtl.hierarchy import place
from opennpe.rtl.lanes import NARROW, SHIFT_BITS, SIGNIFICAND_BITS, WHOLE, log2_maxpos, table
from opennpe.rtl.mac import add

__all__ = ["Shapes", "accumulate", "align_exact", "align_window", "decode", "multiply"]


@dataclass(frozen=True)
class Shapes:
    """Widths of a lane that follow from its window."""

    window: RunningWindow

    @property
    def narrow(self) -> bool:
        """4-bit operands: a scale is a left shift onto the format's grid."""
        return self.window.name in NARROW

    @property
    def scale(self) -> int:
        """Bits of an operand's scale, signed but for 4-bit operands."""
        if self.narrow:
            return SHIFT_BITS
        return log2_maxpos(self.window.name).bit_length() + 1

    @property
    def significand(self) -> int:
        """Bits of an operand's significand."""
        return 2 if self.narrow else SIGNIFICAND_BITS[self.window.name]

    @property
    def addend(self) -> int:
        """Bits of an aligned product's magnitude."""
        window = self.window
        if window.exact:
            return int(mac.max_product(window.name, window.name)).bit_length()
        return window.room

    @property
    def anchor(self) -> Any:
        """Shape of a sum of exponents."""
        return signed(self.scale + 1)

    def operand(self) -> data.StructLayout:
        """A decoded operand."""
        return data.StructLayout(
            {"significand": self.significand, "scale": self.scale, "sign": 1, "nan": 1}
        )

    def product(self) -> data.StructLayout:
        """A product before it is aligned; ``some`` is 0 where it is zero."""
        return data.StructLayout(
            {
                "significand": 2 * self.significand,
                "scale": self.scale + 1,
                "sign": 1,
                "some": 1,
                "nan": 1,
            }
        )


def decode(m: Module, platform: Any, shapes: Shapes, name: str, code: Value) -> Value:
    """The fields of :meth:`Shapes.operand`, concatenated."""
    bits = int(formats.get(shapes.window.name).bits)
    if shapes.narrow:
        entries = [narrow_operand(shapes.window.name, code) for code in range(1 << bits)]
        packed = [s | k << 2 | n << (2 + SHIFT_BITS) for s, k, n in entries]
        found = Signal(2 + SHIFT_BITS + 1, name=name)
        m.d.comb += found.eq(table(code, packed, len(found)))
        return Cat(found[:-1], code[-1], found[-1])
    string = PositString(bits)
    place(m, platform, name, string)
    m.d.comb += string.code.eq(code)
    if shapes.window.name == WHOLE:
        significand, scale = string.tail[:-1], Cat(string.tail[-1], string.regime)
    else:
        significand, scale = string.tail, string.regime
    return Cat(significand, string.hidden, scale, code[-1], string.nan)


def multiply(shapes: Shapes, a: Any, b: Any) -> Value:
    """The fields of :meth:`Shapes.product`: rows as the engine adds them, no multiplier blocks."""
    width = shapes.significand
    total: Value = Const(0, 2 * width)
    for i in range(width):
        row = a.significand & b.significand[i].replicate(width)
        total = (total + (row << i))[: 2 * width]
    if shapes.narrow:
        scale = a.scale + b.scale
        some = a.significand.any() & b.significand.any()
    else:
        scale = a.scale.as_signed() + b.scale.as_signed()
        some = a.significand[-1] & b.significand[-1]
    return Cat(total, scale[: shapes.scale + 1], a.sign ^ b.sign, some, a.nan | b.nan)


def align_exact(m: Module, shapes: Shapes, name: str, product: Any) -> Value:
    """A product's magnitude on the grid."""
    value, drop = product.significand, 0
    amount = product.scale
    if not shapes.narrow:
        # Exponents are offset by half their range, which inverts their highest bit.
        offset = 1 << (len(amount) - 1)
        drop = 2 * (shapes.significand - 1) + offset + shapes.window.grid
        amount = Cat(amount[:-1], ~amount[-1])
    top = drop + shapes.addend
    for index in range(len(amount)):
        step = 1 << index
        level = Signal(min(len(value) + step, top), name=f"{name}_by{step}")
        m.d.comb += level.eq(Mux(amount[index], value << step, value))
        value = level
    return value[drop:]


def align_window(
    m: Module, shapes: Shapes, name: str, product: Any, before: Value
) -> tuple[Value, Value, Value]:
    """A product's magnitude in the window, the new anchor, and how far the total goes down."""
    room, scale = shapes.window.room, product.scale.as_signed()
    bits = len(product.scale) + 1
    ahead, behind = Signal(signed(bits), name=f"{name}_ahead"), Signal(bits, name=f"{name}_behind")
    rises = Signal(name=f"{name}_rises")
    m.d.comb += [
        ahead.eq(scale - before),
        behind.eq(before - scale),
        rises.eq(~ahead[-1] & product.some),
    ]
    width = len(product.significand)
    top = product.significand[max(width - room, 0) :] << max(room - width, 0)
    value = down(m, f"{name}_down", top, behind[:-1] & (~rises).replicate(bits - 1), Const(0, 1))
    lowered = ahead[:-1] & rises.replicate(bits - 1)
    return value, Mux(rises, scale, before), lowered


def down(m: Module, name: str, value: Value, amount: Value, fill: Value) -> Value:
    """A shift to the right by any amount, the largest steps first."""
    width = len(value)
    for index in reversed(range(len(amount))):
        step = min(1 << index, width)
        level = Signal(width, name=f"{name}{index}")
        m.d.comb += level.eq(Mux(amount[index], Cat(value[step:], fill.replicate(step)), value))
        value = level
    return value


def accumulate(m: Module, base: Value, addend: Value, sign: Value) -> Value:
    """The base and an addend, as wide as the base; a negative one comes inverted."""
    width = len(base)
    above = sign.replicate(width - len(addend))
    # A guard bit below: the sign added to itself is the carry that completes the complement.
    return add(m, Cat(sign, base), Cat(sign, addend, above))[1 : width + 1]
