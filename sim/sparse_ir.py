"""Inner loops of sparse products as LLVM IR: one block of rows by one tile of columns.

The weights are stored as blocks of R output channels by one input channel; activations lie channel
by channel, so each block broadcasts R weights to the tile's columns, which are neighbours in
memory (Elsen et al., *Fast Sparse ConvNets*, arXiv 1911.09723, section 3). Sums stay in registers
until the block of rows is done.

- ``f32``: float32 fused multiply-add; sums begin with the bias and are clamped on the way out.
- ``i16``: int16 by int16 into int32, two blocks at a time.
- ``u8``: unsigned by signed bytes into int16 that are widened before they could overflow, two
  blocks at a time.

The integer kinds use the pair dot products of the dense kernels (:mod:`sim.microkernel`). There
the right side is packed so that the two values of a pair lie side by side; here any two stored
blocks may meet, so their rows of activations are interleaved in registers, once for all R rows.
That permutes columns within 128-bit lanes; sums go back to their places when they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from opennpe.sim.cpu import ISAS, Isa

__all__ = ["FLUSH_PAIRS", "Shape", "copy", "shape", "tile"]

I32, I64, PTR = ir.IntType(32), ir.IntType(64), ir.PointerType()
F32 = ir.FloatType()
KINDS = ("f32", "i16", "u8")
HEIGHTS = (1, 2, 4)
WIDTHS = tuple(range(1, 9))
FLUSH_PAIRS = 56
"""Pairs of byte products that an int16 sum holds: 56 x 2 x 24 x 12 <= 32,767."""


@dataclass(frozen=True)
class Shape:
    """A tile.

    Attributes:
        kind: "f32", "i16" or "u8".
        rows: output channels of a block.
        vectors: loaded vectors across the tile.
        columns: columns of the tile.
        marker: selects the kernel in njit code by the lengths of its parts, which stand for
            kind, rows, vectors and instruction set, as in :mod:`sim.microkernel`.
    """

    kind: str
    rows: int
    vectors: int
    columns: int
    marker: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def shape(kind: str, rows: int, vectors: int, isa: Isa) -> Shape:
    """The tile of ``rows`` by ``vectors`` vectors of an instruction set."""
    columns = vectors * isa.vector_bits // {"f32": 32, "i16": 16, "u8": 8}[kind]
    places = (KINDS.index(kind), HEIGHTS.index(rows), WIDTHS.index(vectors), ISAS.index(isa))
    return Shape(kind, rows, vectors, columns, tuple((0,) * (place + 1) for place in places))


def _tile(typingctx, marker, values, offsets, count, x, out, column, extra):  # type: ignore[no-untyped-def]
    """One tile; all arguments but the marker are integers.

    ``values``: address of the weights, R of each block (f32), or of each pair of blocks two
    int16 (i16) or two bytes twice (u8); ``offsets``: address of int32 byte offsets of each block's
    row of activations; ``count``: blocks or pairs; ``x``: address of the tile's first activation.

    f32: ``out``: address of int64 [R] addresses of output rows; ``column``: bytes from their
    beginning; ``extra``: address of float32 (lowest, highest, R biases).
    Integers: ``out``: address of int32 sums; ``column``: bytes between rows; ``extra``: 0 to
    overwrite them, 1 to add.
    """
    kind, rows, width, isa = (len(part) - 1 for part in marker.types)
    build = _Floats if KINDS[kind] == "f32" else _Integers
    emit = build(KINDS[kind], HEIGHTS[rows], WIDTHS[width], ISAS[isa])
    signature = types.void(marker, *(types.int64,) * 7)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.call(emit.function(builder.module), args[1:])
        return context.get_dummy_value()

    return signature, codegen


tile: Any = intrinsic(_tile)


def _copy(typingctx, marker, x, pitch, count, out):  # type: ignore[no-untyped-def]
    """A tile's activations side by side: ``count`` rows, ``pitch`` bytes apart, to ``out``."""
    _, _, width, isa = (len(part) - 1 for part in marker.types)
    emit = _Copy(WIDTHS[width], ISAS[isa])
    signature = types.void(marker, *(types.int64,) * 4)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.call(emit.function(builder.module), args[1:])
        return context.get_dummy_value()

    return signature, codegen


copy: Any = intrinsic(_copy)


class _Builder:
    """What both kinds share: the loop over stored blocks."""

    step_bytes = 4
    """Bytes of offsets that a step takes."""
    unroll = 1
    """Steps of a turn of the loop, each with sums of its own."""

    def __init__(self, kind: str, rows: int, vectors: int, isa: Isa) -> None:
        self.kind, self.rows, self.vectors, self.isa = kind, rows, vectors, isa
        self.name = f"opennpe_sparse_{kind}_{rows}x{vectors}_{isa.name}"
        self.bytes = isa.vector_bits // 8

    def function(self, module: ir.Module) -> Any:
        """The function in ``module``, emitted once."""
        if self.name in module.globals:
            return module.globals[self.name]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 7), self.name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        self._emit(function)
        return function

    def _emit(self, function: Any) -> None:
        values, offsets, count, x, out, column, extra = function.args
        names = ("entry", "loop", "left", "rest", "done")
        blocks = {name: function.append_basic_block(name) for name in names}
        b = ir.IRBuilder(blocks["entry"])
        state = [values, offsets, count, *self._begin(b, extra)]
        turn = I64(self.unroll)
        b.cbranch(b.icmp_signed(">=", count, turn), blocks["loop"], blocks["left"])

        b.position_at_end(blocks["loop"])
        held = self._merge(b, ("entry", state), blocks)
        looped = self._turn(b, held, x, self.unroll)
        for phi, value in zip(held, looped, strict=True):
            phi.add_incoming(value, blocks["loop"])
        b.cbranch(b.icmp_signed(">=", looped[2], turn), blocks["loop"], blocks["left"])

        b.position_at_end(blocks["left"])
        held = self._merge(b, ("entry", state), blocks, ("loop", looped))
        b.cbranch(b.icmp_signed(">", held[2], I64(0)), blocks["rest"], blocks["done"])
        b.position_at_end(blocks["rest"])
        rest = self._turn(b, held, x, 1)
        b.branch(blocks["done"])

        b.position_at_end(blocks["done"])
        final = self._merge(b, ("left", held), blocks, ("rest", rest))
        self._finish(b, final[3:], out, column, extra)
        b.ret_void()

    def _merge(self, b: Any, first: Any, blocks: Any, second: Any = None) -> list[Any]:
        """The state that one or two blocks come with."""
        phis = [b.phi(value.type) for value in first[1]]
        for name, values in (first, second) if second else (first,):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, blocks[name])
        return phis

    def _turn(self, b: Any, state: list[Any], x: Any, steps: int) -> list[Any]:
        """``steps`` stored blocks, each into its own set of sums."""
        at, place, left, *sums = state
        each = len(sums) // self.unroll
        for i in range(steps):
            which = slice(i * each, (i + 1) * each)
            sums[which] = self._step(b, at, place, x, sums[which])
            at = b.add(at, I64(4 * self.rows))
            place = b.add(place, I64(self.step_bytes))
        # Opaque, so that the loop is not unrolled further: rows are short, and the branches of an
        # unrolled loop's odd turns are guessed wrong half of the time.
        left = b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [b.sub(left, I64(steps))], False)
        return [at, place, left, *sums]

    def _begin(self, b: Any, extra: Any) -> list[Any]:
        raise NotImplementedError

    def _step(self, b: Any, at: Any, place: Any, x: Any, sums: list[Any]) -> list[Any]:
        raise NotImplementedError

    def _finish(self, b: Any, sums: list[Any], out: Any, column: Any, extra: Any) -> None:
        raise NotImplementedError

    # -- instructions ------------------------------------------------------------------------
    def _load(self, b: Any, kind: Any, address: Any, align: int = 4) -> Any:
        value = b.load(b.inttoptr(address, PTR), typ=kind)
        value.align = align
        return value

    def _put(self, b: Any, value: Any, address: Any, align: int = 4) -> None:
        b.store(value, b.inttoptr(address, PTR)).align = align

    def _spread(self, b: Any, scalar: Any, lanes: int) -> Any:
        vector = ir.VectorType(scalar.type, lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        single = b.insert_element(undefined, scalar, I32(0))
        return b.shuffle_vector(
            single, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        )

    def _call(self, b: Any, name: str, result: Any, *args: Any) -> Any:
        function = b.module.globals.get(name) or ir.Function(
            b.module, ir.FunctionType(result, [a.type for a in args]), name
        )
        return b.call(function, list(args))

    def _row(self, b: Any, x: Any, offset: Any) -> Any:
        """Address of a row of activations; the offset is int32 in memory."""
        return b.add(x, b.sext(self._load(b, I32, offset), I64))


class _Floats(_Builder):
    def __init__(self, kind: str, rows: int, vectors: int, isa: Isa) -> None:
        super().__init__(kind, rows, vectors, isa)
        # A fused operation takes four cycles and two begin in each: eight sums keep it busy.
        self.unroll = 2 if 1 < rows * vectors < 8 else 1

    @property
    def lanes(self) -> int:
        return self.isa.vector_bits // 32

    def _begin(self, b: Any, extra: Any) -> list[Any]:
        biases = [self._load(b, F32, b.add(extra, I64(8 + 4 * r))) for r in range(self.rows)]
        first = [v for bias in biases for v in [self._spread(b, bias, self.lanes)] * self.vectors]
        return first + [ir.Constant(v.type, None) for v in first] * (self.unroll - 1)

    def _step(self, b: Any, at: Any, place: Any, x: Any, sums: list[Any]) -> list[Any]:
        vector = ir.VectorType(F32, self.lanes)
        row = self._row(b, x, place)
        held = [self._load(b, vector, b.add(row, I64(v * self.bytes))) for v in range(self.vectors)]
        result = []
        for r in range(self.rows):
            weight = self._spread(b, self._load(b, F32, b.add(at, I64(4 * r))), self.lanes)
            for v in range(self.vectors):
                total = sums[r * self.vectors + v]
                if self.isa.dot == "generic":  # no fused instruction to rely on
                    result.append(b.fadd(total, b.fmul(weight, held[v])))
                else:
                    name = f"llvm.fma.v{self.lanes}f32"
                    result.append(self._call(b, name, vector, weight, held[v], total))
        return result

    def _finish(self, b: Any, sums: list[Any], out: Any, column: Any, extra: Any) -> None:
        for i in range(len(sums) - self.rows * self.vectors):
            sums[i] = b.fadd(sums[i], sums[i + self.rows * self.vectors])
        low, high = (
            self._spread(b, self._load(b, F32, b.add(extra, I64(4 * i))), self.lanes)
            for i in range(2)
        )
        for r in range(self.rows):
            row = b.add(self._load(b, I64, b.add(out, I64(8 * r)), 8), column)
            for v in range(self.vectors):
                value = sums[r * self.vectors + v]
                # A NaN compares false both times and stays.
                value = b.select(b.fcmp_ordered("<", value, low), low, value)
                value = b.select(b.fcmp_ordered(">", value, high), high, value)
                self._put(b, value, b.add(row, I64(v * self.bytes)))


class _Integers(_Builder):
    step_bytes = 8

    def __init__(self, kind: str, rows: int, vectors: int, isa: Isa) -> None:
        super().__init__(kind, rows, vectors, isa)
        self.width = 16 if kind == "i16" else 8
        count = isa.vector_bits // self.width
        self.operand = ir.VectorType(ir.IntType(self.width), count)
        self.sums = ir.VectorType(ir.IntType(2 * self.width), count // 2)

    def _begin(self, b: Any, extra: Any) -> list[Any]:
        return [ir.Constant(self.sums, None)] * (2 * self.rows * self.vectors)

    def _interleaved(self, b: Any, first: Any, second: Any) -> tuple[Any, Any]:
        """Values of two rows side by side: the lower and the upper half of each 128-bit lane."""
        count, lane = self.operand.count, 128 // self.width
        halves = []
        for half in range(2):
            mask = []
            for start in range(0, count, lane):
                for i in range(lane // 2):
                    place = start + half * lane // 2 + i
                    mask += [place, count + place]
            halves.append(
                b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, count), mask))
            )
        return halves[0], halves[1]

    def _step(self, b: Any, at: Any, place: Any, x: Any, sums: list[Any]) -> list[Any]:
        rows = [self._row(b, x, b.add(place, I64(4 * i))) for i in range(2)]
        pairs: list[Any] = []
        for v in range(self.vectors):
            both = [self._load(b, self.operand, b.add(r, I64(v * self.bytes)), 1) for r in rows]
            pairs += self._interleaved(b, *both)
        lanes = self.isa.vector_bits // 32
        result = []
        for r in range(self.rows):
            weight = self._spread(b, self._load(b, I32, b.add(at, I64(4 * r))), lanes)
            weight = b.bitcast(weight, self.operand)
            for i, pair in enumerate(pairs):
                result.append(self._dot(b, sums[r * len(pairs) + i], pair, weight))
        return result

    def _dot(self, b: Any, total: Any, x: Any, weight: Any) -> Any:
        """``total`` plus the sums of neighbouring products."""
        wide = self.isa.vector_bits == 512
        if self.isa.dot == "generic":
            return b.add(total, self._generic(b, x, weight))
        if self.kind == "i16" and self.isa.dot == "fused":
            return self._call(b, "llvm.x86.avx512.vpdpwssd.512", self.sums, total, x, weight)
        name = {
            ("i16", False): "llvm.x86.avx2.pmadd.wd",
            ("i16", True): "llvm.x86.avx512.pmaddw.d.512",
            ("u8", False): "llvm.x86.avx2.pmadd.ub.sw",
            ("u8", True): "llvm.x86.avx512.pmaddubs.w.512",
        }[self.kind, wide]
        return b.add(total, self._call(b, name, self.sums, x, weight))

    def _generic(self, b: Any, x: Any, weight: Any) -> Any:
        count = self.operand.count
        double = ir.VectorType(self.sums.element, count)
        widen = b.zext if self.kind == "u8" else b.sext
        product = b.mul(widen(x, double), b.sext(weight, double))
        none = ir.Constant(double, ir.Undefined)
        halves = [
            b.shuffle_vector(
                product,
                none,
                ir.Constant(ir.VectorType(I32, count // 2), list(range(i, count, 2))),
            )
            for i in range(2)
        ]
        return b.add(*halves)

    def _finish(self, b: Any, sums: list[Any], out: Any, column: Any, extra: Any) -> None:
        function = b.function
        fresh, more, end = (function.append_basic_block(n) for n in ("fresh", "more", "end"))
        b.cbranch(b.icmp_signed("==", extra, I64(0)), fresh, more)
        for block, adds in ((fresh, False), (more, True)):
            b.position_at_end(block)
            for r in range(self.rows):
                row = b.add(out, b.mul(column, I64(r)))
                for v in range(self.vectors):
                    i = 2 * (r * self.vectors + v)
                    first = v * self.operand.count
                    for place, part in self._natural(b, sums[i], sums[i + 1]):
                        address = b.add(row, I64(4 * (first + place)))
                        value = b.add(self._load(b, part.type, address), part) if adds else part
                        self._put(b, value, address)
            b.branch(end)
        b.position_at_end(end)

    def _natural(self, b: Any, low: Any, high: Any) -> list[tuple[int, Any]]:
        """Vectors of eight int32 sums with their first column, columns in order."""
        count = self.sums.count
        lane = 128 // self.sums.element.width
        found = []
        for j in range(count // lane):
            places = [j * lane + i for i in range(lane)]
            if self.kind == "i16":
                mask = places + [count + p for p in places]
                held = b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 8), mask))
                found.append((8 * j, held))
                continue
            for half, source in enumerate((low, high)):
                part = b.shuffle_vector(source, source, ir.Constant(ir.VectorType(I32, 8), places))
                found.append((16 * j + 8 * half, b.sext(part, ir.VectorType(I32, 8))))
        return found


class _Copy:
    """Emits the copy of one tile's rows of activations."""

    def __init__(self, vectors: int, isa: Isa) -> None:
        self.vectors, self.bytes = vectors, isa.vector_bits // 8
        self.name = f"opennpe_sparse_copy_{vectors}_{isa.name}"

    def function(self, module: ir.Module) -> Any:
        """The function in ``module``, emitted once."""
        if self.name in module.globals:
            return module.globals[self.name]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), self.name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        x, pitch, count, out = function.args
        vector = ir.VectorType(I64, self.bytes // 8)
        entry, loop, done = (function.append_basic_block(n) for n in ("entry", "loop", "done"))
        ir.IRBuilder(entry).branch(loop)
        b = ir.IRBuilder(loop)
        source, target, left = (b.phi(I64) for _ in range(3))
        for v in range(self.vectors):
            place = I64(v * self.bytes)
            held = b.load(b.inttoptr(b.add(source, place), PTR), typ=vector)
            held.align = 4
            b.store(held, b.inttoptr(b.add(target, place), PTR)).align = 4
        following = b.sub(left, I64(1))
        for phi, first, after in (
            (source, x, b.add(source, pitch)),
            (target, out, b.add(target, I64(self.vectors * self.bytes))),
            (left, count, following),
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(after, loop)
        b.cbranch(b.icmp_signed(">", following, I64(0)), loop, done)
        ir.IRBuilder(done).ret_void()
        return function
