"""Vector micro-kernels: a tile of MR rows by NR columns of an exact product, written as LLVM IR.

numba never emits the integer dot-product instructions that these products live on, so their inner
loops are built here, one for each operand kind and instruction set. All variants of a kind compute
the same integers; only speed differs. Reference for the loop nest: Goto and van de Geijn, *Anatomy
of High-Performance Matrix Multiplication* (2008); for the row pointers: Dukhan, *The Indirect
Convolution Algorithm* (arXiv 1907.02129).

Operands. A row of the left side is a run of K values; K is cut into *groups* that fill 32 or 64
bits (4 bytes, 2 int16, 1 float64). Rows are reached through a table of addresses, so a convolution
reads its image in place. The right side is packed into panels:
``[group][column of the panel][value of the group]``.

Segments drive the loop: each names a byte offset into the rows, a number of groups, and whether
partial sums leave their narrow registers behind it ("flush"), the first time by starting the tile
in memory, later by adding to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from opennpe.sim.cpu import ISAS, Isa

__all__ = ["ADD", "FLUSH_GROUPS", "KINDS", "STORE", "Kernel", "Kind", "micro", "tile"]

I32, I64, PTR = ir.IntType(32), ir.IntType(64), ir.PointerType()
ADD, STORE = 1, 2
"""What a segment's flush field may ask for; 0 is neither."""
VECTORS = 2
"""Vectors across a tile."""
FLUSH_GROUPS = 56
"""Groups of four byte products that an int16 pair-sum holds: 56 x 2 x 24 x 12 <= 32,767."""


@dataclass(frozen=True)
class Kind:
    """What a micro-kernel multiplies.

    Attributes:
        name: "u8" (unsigned by signed bytes, int32 sums), "i16" (int16 by int16, int32 sums),
            "f64" (float64 fused multiply-add).
        group: values of K in one broadcast.
        value_bytes: bytes of one operand value.
        sum_bytes: bytes of one sum.
    """

    name: str
    group: int
    value_bytes: int
    sum_bytes: int

    @property
    def group_bytes(self) -> int:
        """Bytes of one broadcast."""
        return self.group * self.value_bytes


KINDS = {k.name: k for k in (Kind("u8", 4, 1, 4), Kind("i16", 2, 2, 4), Kind("f64", 1, 8, 8))}
"""Operand kinds by name."""


@dataclass(frozen=True)
class Kernel:
    """The shape of a micro-kernel, and the marker that selects it in njit code.

    ``marker`` is a tuple whose length stands for (kind, instruction set). It is part of every
    signature that leads to :func:`tile`, so compiled code of different instruction sets never
    meets in a cache.
    """

    kind: Kind
    mr: int
    nr: int
    marker: tuple[int, ...]


def micro(kind: str, isa: Isa) -> Kernel:
    """The micro-kernel of a kind for an instruction set."""
    lanes = isa.vector_bits // 8 // KINDS[kind].sum_bytes
    number = list(KINDS).index(kind) * len(ISAS) + ISAS.index(isa)
    return Kernel(KINDS[kind], isa.rows, VECTORS * lanes, (0,) * (number + 1))


def _tile(typingctx, marker, rows, segments, count, panel, out, stride):  # type: ignore[no-untyped-def]
    """Compute one tile; all arguments but the marker are integers.

    ``rows``: address of int64 [mr] row addresses; ``segments``: address of int64 [count][3] of
    (byte offset, groups, flush); ``panel``: address of the packed right side; ``out``: address of
    the tile's first sum; ``stride``: bytes between its rows. The tile is overwritten.
    """
    number = len(marker) - 1
    kind = list(KINDS.values())[number // len(ISAS)]
    emit = _Builder(kind, ISAS[number % len(ISAS)])
    signature = types.void(marker, *(types.int64,) * 6)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.call(emit.function(builder.module), args[1:])
        return context.get_dummy_value()

    return signature, codegen


tile: Any = intrinsic(_tile)


class _Builder:
    """Emits one micro-kernel as an LLVM function."""

    def __init__(self, kind: Kind, isa: Isa) -> None:
        self.kind, self.isa, self.mr, self.vectors = kind, isa, isa.rows, VECTORS
        self.name = f"opennpe_tile_{kind.name}_{isa.name}"
        bits = isa.vector_bits
        self.flushing = kind.name == "u8" and isa.dot == "pairs"
        self.sums = ir.VectorType(*((ir.DoubleType(), bits // 64) if kind.name == "f64"
                                    else (I32, bits // 32)))  # fmt: skip
        self.narrow = ir.VectorType(ir.IntType(16), bits // 16) if self.flushing else self.sums
        self.step = bits // 8

    def function(self, module: ir.Module) -> Any:
        """The function in ``module``, emitted once."""
        if self.name in module.globals:
            return module.globals[self.name]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), self.name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        self._emit(function)
        return function

    # -- the loop nest -----------------------------------------------------------------------
    def _emit(self, function: Any) -> None:
        rows, segments, count, panel, out, stride = function.args
        names = ("entry", "segment", "groups", "done", "first", "flush", "next", "exit")
        blocks = {name: function.append_basic_block(name) for name in names}
        b = ir.IRBuilder(blocks["entry"])
        zero = [ir.Constant(self.narrow, None)] * (self.mr * self.vectors)
        b.branch(blocks["segment"])

        b.position_at_end(blocks["segment"])
        number, right = b.phi(I64, "number"), b.phi(I64, "right")
        held = [b.phi(self.narrow) for _ in zero]
        for phi, value in ((number, I64(0)), (right, panel), *zip(held, zero, strict=True)):
            phi.add_incoming(value, blocks["entry"])
        entry = b.add(segments, b.mul(number, I64(24)))
        offset, groups, flush = (self._int(b, b.add(entry, I64(8 * i))) for i in range(3))
        left = [b.add(self._int(b, b.add(rows, I64(8 * m))), offset) for m in range(self.mr)]
        b.branch(blocks["groups"])

        b.position_at_end(blocks["groups"])
        k, at = b.phi(I64, "k"), b.phi(I64, "at")
        sums = [b.phi(self.narrow) for _ in zero]
        for phi, value in ((k, I64(0)), (at, right), *zip(sums, held, strict=True)):
            phi.add_incoming(value, blocks["segment"])
        result = self._group(b, left, k, at, sums)
        following = b.add(k, I64(1))
        beyond = b.add(at, I64(self.vectors * self.step))
        for phi, value in ((k, following), (at, beyond), *zip(sums, result, strict=True)):
            phi.add_incoming(value, blocks["groups"])
        b.cbranch(b.icmp_signed("<", following, groups), blocks["groups"], blocks["done"])

        b.position_at_end(blocks["done"])
        choice = b.switch(flush if self.flushing else I64(0), blocks["next"])
        for value, name in ((ADD, "flush"), (STORE, "first")):
            choice.add_case(I64(value), blocks[name])
            b.position_at_end(blocks[name])
            if self.flushing:
                self._widen(b, out, stride, result, fresh=value == STORE)
            b.branch(blocks["next"])

        b.position_at_end(blocks["next"])
        kept = list(result)
        if self.flushing:
            kept = [b.phi(self.narrow) for _ in zero]
            for phi, value, empty in zip(kept, result, zero, strict=True):
                phi.add_incoming(value, blocks["done"])
                phi.add_incoming(empty, blocks["flush"])
                phi.add_incoming(empty, blocks["first"])
        after = b.add(number, I64(1))
        for phi, value in ((number, after), (right, beyond), *zip(held, kept, strict=True)):
            phi.add_incoming(value, blocks["next"])
        b.cbranch(b.icmp_signed("<", after, count), blocks["segment"], blocks["exit"])

        b.position_at_end(blocks["exit"])
        if not self.flushing:
            self._store(b, out, stride, kept)
        b.ret_void()

    def _group(self, b: Any, left: list[Any], k: Any, at: Any, sums: list[Any]) -> list[Any]:
        """One group of K: a broadcast a row against the panel's vectors."""
        right = [self._load(b, self._bits(), b.add(at, I64(v * self.step)))
                 for v in range(self.vectors)]  # fmt: skip
        place = b.mul(k, I64(self.kind.group_bytes))
        element = ir.IntType(8 * self.kind.group_bytes)
        lanes = self.isa.vector_bits // element.width
        result = list(sums)
        for m in range(self.mr):
            one = self._load(b, element, b.add(left[m], place), self.kind.value_bytes)
            vector = ir.VectorType(element, lanes)
            single = b.insert_element(ir.Constant(vector, ir.Undefined), one, I32(0))
            mask = ir.Constant(ir.VectorType(I32, lanes), None)
            spread = b.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask)
            for v in range(self.vectors):
                i = m * self.vectors + v
                result[i] = self._dot(b, sums[i], spread, right[v])
        return result

    # -- instructions ------------------------------------------------------------------------
    def _bits(self) -> Any:
        return ir.VectorType(ir.IntType(8 * self.kind.group_bytes),
                             self.isa.vector_bits // 8 // self.kind.group_bytes)  # fmt: skip

    def _dot(self, b: Any, total: Any, left: Any, right: Any) -> Any:
        """``total`` plus the products of a broadcast and a vector of the panel."""
        bits = self.isa.vector_bits
        if self.isa.dot == "generic":
            return self._generic(b, total, left, right)
        if self.kind.name == "f64":
            name = f"llvm.fma.v{bits // 64}f64"
            fma = self._declare(b, name, self.sums, [self.sums] * 3)
            return b.call(fma, [b.bitcast(left, self.sums), b.bitcast(right, self.sums), total])
        if self.kind.name == "i16":
            words = ir.VectorType(ir.IntType(16), bits // 16)
            pair = [b.bitcast(x, words) for x in (left, right)]
            if self.isa.dot == "fused":
                return b.call(self._declare(b, f"llvm.x86.avx512.vpdpwssd.{bits}", self.sums,
                                            [self.sums, words, words]), [total, *pair])  # fmt: skip
            name = "llvm.x86.avx2.pmadd.wd" if bits == 256 else "llvm.x86.avx512.pmaddw.d.512"
            product = b.call(self._declare(b, name, self.sums, [words, words]), pair)
            return b.add(total, product)
        octets = ir.VectorType(ir.IntType(8), bits // 8)
        pair = [b.bitcast(x, octets) for x in (left, right)]
        if self.isa.dot == "fused":
            return b.call(self._declare(b, f"llvm.x86.avx512.vpdpbusd.{bits}", self.sums,
                                        [self.sums, octets, octets]), [total, *pair])  # fmt: skip
        name = "llvm.x86.avx2.pmadd.ub.sw" if bits == 256 else "llvm.x86.avx512.pmaddubs.w.512"
        return b.add(total, b.call(self._declare(b, name, self.narrow, [octets, octets]), pair))

    def _generic(self, b: Any, total: Any, left: Any, right: Any) -> Any:
        """The same without any processor's own instructions: widen, multiply, add neighbours."""
        if self.kind.name == "f64":
            # The products are exact, so a fused and a separate addition give the same bits.
            pair = [b.bitcast(x, self.sums) for x in (left, right)]
            return b.fadd(total, b.fmul(*pair))
        count = self.sums.count * self.kind.group
        values = ir.VectorType(ir.IntType(8 * self.kind.value_bytes), count)
        wide = ir.VectorType(I32, count)
        widen = b.zext if self.kind.name == "u8" else b.sext
        product = b.mul(
            widen(b.bitcast(left, values), wide), b.sext(b.bitcast(right, values), wide)
        )
        while count > self.sums.count:
            count //= 2
            halves = [
                b.shuffle_vector(
                    product,
                    ir.Constant(product.type, ir.Undefined),
                    ir.Constant(ir.VectorType(I32, count), list(range(first, 2 * count, 2))),
                )
                for first in (0, 1)
            ]
            product = b.add(*halves)
        return b.add(total, product)

    def _widen(self, b: Any, out: Any, stride: Any, narrow: list[Any], fresh: bool) -> None:
        """Add the int16 pair-sums to the int32 tile in memory, or start it with them."""
        bits = self.isa.vector_bits
        name = "llvm.x86.avx2.pmadd.wd" if bits == 256 else "llvm.x86.avx512.pmaddw.d.512"
        ones = ir.Constant(self.narrow, [1] * (bits // 16))
        function = self._declare(b, name, self.sums, [self.narrow, self.narrow])
        for m in range(self.mr):
            row = b.add(out, b.mul(stride, I64(m)))
            for v in range(self.vectors):
                place = b.add(row, I64(v * self.step))
                wide = b.call(function, [narrow[m * self.vectors + v], ones])
                if not fresh:
                    wide = b.add(self._load(b, self.sums, place), wide)
                self._put(b, wide, place)

    def _declare(self, b: Any, name: str, returned: Any, arguments: list[Any]) -> Any:
        if name in b.module.globals:
            return b.module.globals[name]
        return ir.Function(b.module, ir.FunctionType(returned, arguments), name)

    def _load(self, b: Any, kind: Any, address: Any, align: int = 4) -> Any:
        value = b.load(b.inttoptr(address, PTR), typ=kind)
        value.align = align
        return value

    def _int(self, b: Any, address: Any) -> Any:
        return self._load(b, I64, address, 8)

    def _put(self, b: Any, value: Any, address: Any) -> None:
        b.store(value, b.inttoptr(address, PTR)).align = 4

    def _store(self, b: Any, out: Any, stride: Any, sums: list[Any]) -> None:
        for m in range(self.mr):
            row = b.add(out, b.mul(stride, I64(m)))
            for v in range(self.vectors):
                place = b.add(row, I64(v * self.step))
                self._put(b, sums[m * self.vectors + v], place)
