"""Passes of the float softmax as LLVM IR: each one sweep over a row in steps of 64 elements.

ExtExp (Dukhan and Ablavatski, *Two-Pass Softmax Algorithm*, arXiv 2001.04438, section 4) splits
``exp(x) = m * 2**n``, n = rint(x log2 e), m in [0.7, 1.42], and never joins the two, so that
nothing overflows. A block is summed around one exponent, that of the block before; if its largest
element lies too far from there, it is summed again around its own. Sums are kept in 16 lanes
whatever the vectors' width, so every instruction set gives the same bits.

n is rounded by adding 1.5 * 2^23 (plus an offset): the float's low bits then are the integer, and
shifted to the exponent field they are a power of two. Blocks of :data:`BLOCK_STEPS` steps are
closed in float64, which bounds the error of a sum by its block.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from opennpe.sim.cpu import ISAS, Isa

__all__ = [
    "BIAS",
    "BLOCK_STEPS",
    "GUARD",
    "KINDS",
    "LOWEST",
    "MAGIC",
    "STEP",
    "kind",
    "marker",
    "sweep",
]

LANES = 16
STEP = 64
"""Elements of a step: four to a lane."""
BLOCK_STEPS = 16
"""Steps whose sum is kept in float32."""
LOWEST = -(2.0**20)
"""What smaller elements are taken for, in the two-pass sum: infinities have no remainder."""
CACHE_LINE = 64
PREFETCH = 2048
"""Bytes ahead of a step that are fetched; processors on their own stop at the end of a page."""
WINDOW = 60.0
"""Octaves by which a block's largest element may lie above or below the exponent it is summed
around."""
GUARD = 64
"""Results are formed as (2**-64 m / s) * 2**(n + 64): one rounding where they are subnormal."""
MAGIC = 1.5 * 2.0**23
BIAS = 127
LOG2E = float.fromhex("0x1.715476p+0")
LN2 = float.fromhex("0x1.62e430p-1")
"""ln 2 as a float32, 1.9e-9 too large. x - n LN2 is exact in a fused multiply-add: a multiple of
2**-24 (or of x's unit) below 1/2. So exp gets a factor exp(1.9e-9 n), and a ratio of two only that
of the difference of their n: a unit in the last place for every 31 octaves below the largest, at
most. The second constant of Cody and Waite would cost an instruction in nine."""
POLYNOMIAL = tuple(
    map(
        float.fromhex,
        ("0x1.0fa64ap-7", "0x1.573ceap-5", "0x1.555a78p-3", "0x1.fffdc0p-2", "0x1.fffff6p-1"),
    )
)
"""(exp(t) - 1) / t on [-0.3475, 0.3475], highest power first: relative error of exp 1.6 * 2^-24."""

KINDS = (
    "sum_pairs",  # ExtExp of x, summed as pairs; a (float64, float32 exponent) a block
    "scale_pairs",  # y = 2^(n - E) m / s
    "max",  # largest x; a float32 a call
    "sum_exp",  # sum of exp(x - max); a float64 a block
    "sum_exp_store",  # the same, y = exp(x - max)
    "multiply",  # y = y / s
    "scale_exp",  # y = exp(x - max) / s
    "copy",  # y = x: what memory allows
)
"""What a pass does."""
STREAMED = ("scale_pairs", "multiply", "scale_exp", "copy")
"""Passes whose results are not read again."""

I32, I64, PTR = ir.IntType(32), ir.IntType(64), ir.PointerType()
F32, F64 = ir.FloatType(), ir.DoubleType()


def kind(name: str) -> tuple[int, ...]:
    """Selects a pass in njit code, as a constant: a tuple whose length stands for it."""
    return (0,) * KINDS.index(name)


def marker(isa: Isa, stream: bool) -> tuple[int, ...]:
    """Selects instruction set and stores likewise; part of the signature of what calls a pass.

    Args:
        isa: the instruction set.
        stream: results that are not read again go past the caches; they are then aligned to 64
            bytes.
    """
    return (0,) * (2 * ISAS.index(isa) + stream)


def _sweep(typingctx, kind, marker, x, y, steps, settings, result):  # type: ignore[no-untyped-def]
    """One pass over ``steps`` steps; all arguments but the markers are integers.

    ``x``, ``y``: addresses of float32 elements and results; ``settings``: address of float32 (4,):
    the max or the exponent's magic number, the least x, the factor; ``result``: address of 16 bytes
    a block (sums), or 4 a call ("max").
    """
    name = KINDS[len(kind)]
    emit = _Pass(name, ISAS[len(marker) // 2], len(marker) % 2 == 1 and name in STREAMED)
    signature = types.void(kind, marker, *(types.int64,) * 5)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.call(emit.function(builder.module), args[2:])
        return context.get_dummy_value()

    return signature, codegen


sweep: Any = intrinsic(_sweep)


class _Pass:
    """Emits one pass as an LLVM function."""

    def __init__(self, kind: str, isa: Isa, stream: bool) -> None:
        self.kind, self.stream = kind, stream
        self.width = min(isa.vector_bits // 32, LANES)
        self.name = f"opennpe_softmax_{kind}_{isa.name}{'_stream' if stream else ''}"
        self.floats = ir.VectorType(F32, self.width)
        self.ints = ir.VectorType(I32, self.width)
        self.parts = LANES // self.width

    def function(self, module: ir.Module) -> Any:
        """The function in ``module``, emitted once."""
        if self.name in module.globals:
            return module.globals[self.name]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5), self.name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        self._emit(function)
        return function

    # -- the loops ---------------------------------------------------------------------------
    def _emit(self, function: Any) -> None:
        x, y, steps, settings, result = function.args
        entry, block, loop, close, done = (
            function.append_basic_block(name)
            for name in ("entry", "block", "step", "close", "exit")
        )
        b = ir.IRBuilder(entry)
        given = [self._splat(b, self._scalar(b, settings, 4 * i)) for i in range(3)]
        summing = self.kind in ("sum_pairs", "sum_exp", "sum_exp_store")
        b.cbranch(b.icmp_signed(">", steps, I64(0)), block, done)

        b.position_at_end(block)
        begin, place = b.phi(I64, "begin"), b.phi(I64, "place")
        reference = b.phi(F32, "reference")
        for phi, value in ((begin, I64(0)), (place, result), (reference, F32(0.0))):
            phi.add_incoming(value, entry)
        if self.kind == "sum_pairs":
            given = self._around(b, reference)
        left = b.sub(steps, begin)
        whole = I64(BLOCK_STEPS) if summing else left
        count = b.select(b.icmp_signed("<", left, whole), left, whole)
        end = b.add(begin, count)
        b.branch(loop)

        b.position_at_end(loop)
        at = b.phi(I64, "at")
        at.add_incoming(begin, block)
        start = self._start(b)
        state = [b.phi(value.type) for value in start]
        for phi, value in zip(state, start, strict=True):
            phi.add_incoming(value, block)
        offset = b.mul(at, I64(4 * STEP))
        after = self._step(b, b.add(x, offset), b.add(y, offset), given, state)
        following = b.add(at, I64(1))
        for phi, value in ((at, following), *zip(state, after, strict=True)):
            phi.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", following, end), loop, close)

        b.position_at_end(close)
        self._close(b, place, after)
        on = end, b.add(place, I64(16)), reference
        if self.kind == "sum_pairs":
            on = self._judge(b, place, reference, after, begin, on)
        for phi, value in zip((begin, place, reference), on, strict=True):
            phi.add_incoming(value, close)
        b.cbranch(b.icmp_signed("<", on[0], steps), block, done)

        b.position_at_end(done)
        if self.stream:
            b.fence("seq_cst")  # such stores are in no order with others
        b.ret_void()

    def _start(self, b: Any) -> list[Any]:
        """What the lanes hold before a block."""
        zeros = [ir.Constant(self.floats, None)] * self.parts
        if self.kind == "sum_pairs":
            return [*zeros, *[self._float(LOWEST)] * self.parts]
        if self.kind == "max":
            return [self._float(float("-inf"))] * self.parts
        return zeros if self.kind.startswith("sum") else []

    def _step(self, b: Any, x: Any, y: Any, given: list[Any], state: list[Any]) -> list[Any]:
        """64 elements: for each vector of lanes, its four elements a lane in turn."""
        held = list(state)
        size = 4 * self.width
        if self.kind not in ("max", "copy"):  # whose reads are dense enough by themselves
            for line in range(0, 4 * STEP, CACHE_LINE):
                self._prefetch(b, b.add(x, I64(PREFETCH + line)))
        for part in range(self.parts):
            places = [4 * LANES * j + size * part for j in range(STEP // LANES)]
            values = [self._load(b, b.add(y if self.kind == "multiply" else x, I64(p)))
                      for p in places]  # fmt: skip
            results = self._vectors(b, values, given, held, part)
            for place, value in zip(places, results, strict=False):
                self._store(b, value, b.add(y, I64(place)))
        return held

    def _vectors(
        self, b: Any, values: list[Any], given: list[Any], held: list[Any], part: int
    ) -> list[Any]:
        """The four vectors of a part: results to store, ``held`` updated."""
        first, least, factor = given
        if self.kind == "copy":
            return values
        if self.kind == "multiply":
            return [b.fmul(value, factor) for value in values]
        if self.kind == "max":
            for value in values:
                held[part] = self._larger(b, value, held[part])
            return []
        if self.kind == "sum_pairs":
            largest = self.parts + part
            for value in values:
                held[largest] = self._larger(b, value, held[largest])
                m, n = self._ext_exp(b, self._larger(b, least, value), first)
                held[part] = self._fma(b, m, self._power(b, n), held[part])
            return []
        if self.kind == "scale_pairs":
            return [self._scaled(b, self._larger(b, least, v), first, factor) for v in values]
        results = []
        for value in values:
            z = self._larger(b, least, b.fsub(value, first))
            if self.kind == "scale_exp":
                results.append(self._scaled(b, z, self._float(MAGIC + GUARD + BIAS), factor))
                continue
            storing = self.kind == "sum_exp_store"
            if storing:
                small = self._float(2.0**-GUARD)
                power = self._scaled(b, z, self._float(MAGIC + GUARD + BIAS), small)
                results.append(power)
                held[part] = b.fadd(held[part], power)
            else:
                m, magic = self._ext_exp(b, z, self._float(MAGIC + BIAS))
                held[part] = self._fma(b, m, self._power(b, magic), held[part])
        return results

    def _around(self, b: Any, reference: Any) -> list[Any]:
        """What "sum_pairs" works with around an exponent: magic number, least x; no factor."""
        magic = b.fsub(F32(MAGIC + BIAS), reference)
        least = b.fmul(b.fsub(reference, F32(2.0 * WINDOW)), F32(LN2))
        return [self._splat(b, magic), self._splat(b, least), None]

    def _judge(
        self, b: Any, place: Any, reference: Any, state: list[Any], begin: Any, on: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Where "sum_pairs" goes on: a block that left the window is summed again around its own.

        Powers of two scale a sum exactly, so where in the window it lies does not show.
        """
        end, following, _ = on
        largest = self._fold(b, self._join(b, state[self.parts :]), self._larger)
        n = b.fsub(b.fadd(b.fmul(largest, F32(LOG2E)), F32(MAGIC)), F32(MAGIC))
        off = b.fsub(n, reference)
        again = b.or_(b.fcmp_ordered(">", off, F32(WINDOW)), b.fcmp_ordered("<", off, F32(-WINDOW)))
        b.store(reference, b.inttoptr(b.add(place, I64(8)), PTR)).align = 4
        return b.select(again, begin, end), b.select(again, place, following), n

    def _scaled(self, b: Any, x: Any, magic: Any, factor: Any) -> Any:
        m, n = self._ext_exp(b, x, magic)
        return b.fmul(b.fmul(m, factor), self._power(b, n))

    def _ext_exp(self, b: Any, x: Any, magic: Any) -> tuple[Any, Any]:
        """m, and n plus the magic number."""
        rounded = self._fma(b, x, self._float(LOG2E), magic)
        n = b.fsub(rounded, magic)
        t = self._fma(b, n, self._float(-LN2), x)
        p = self._float(POLYNOMIAL[0])
        for coefficient in (*POLYNOMIAL[1:], 1.0):
            p = self._fma(b, p, t, self._float(coefficient))
        return p, rounded

    def _power(self, b: Any, rounded: Any) -> Any:
        """The low bits of a magic number as a float's exponent field."""
        return b.bitcast(b.shl(b.bitcast(rounded, self.ints), self._int(23)), self.floats)

    # -- the end of a block ------------------------------------------------------------------
    def _close(self, b: Any, place: Any, state: list[Any]) -> None:
        if self.kind == "max":
            self._put(b, self._fold(b, self._join(b, state), self._larger), place)
        if self.kind.startswith("sum"):
            self._put(b, self._total(b, self._join(b, state[: self.parts])), place)

    def _total(self, b: Any, lanes: Any) -> Any:
        """The lanes' sum in float64, halves onto halves."""
        wide = b.fpext(lanes, ir.VectorType(F64, LANES))
        return self._fold(b, wide, lambda b, x, y: b.fadd(x, y))

    def _fold(self, b: Any, lanes: Any, join: Any) -> Any:
        count = LANES
        while count > 1:
            count //= 2
            low, high = (
                b.shuffle_vector(
                    lanes,
                    ir.Constant(lanes.type, ir.Undefined),
                    ir.Constant(ir.VectorType(I32, count), list(range(first, first + count))),
                )
                for first in (0, count)
            )
            lanes = join(b, low, high)
        return b.extract_element(lanes, I32(0))

    def _join(self, b: Any, parts: list[Any]) -> Any:
        """Vectors side by side."""
        while len(parts) > 1:
            count = 2 * parts[0].type.count
            mask = ir.Constant(ir.VectorType(I32, count), list(range(count)))
            parts = [b.shuffle_vector(low, high, mask)
                     for low, high in zip(parts[::2], parts[1::2], strict=True)]  # fmt: skip
        return parts[0]

    # -- instructions ------------------------------------------------------------------------
    def _larger(self, b: Any, x: Any, y: Any) -> Any:
        """The larger; y where either is NaN (x86's own rule: one instruction)."""
        return b.select(b.fcmp_ordered(">", x, y), x, y)

    def _fma(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        name = f"llvm.fma.v{self.width}f32"
        known = b.module.globals.get(name)
        if known is None:
            known = ir.Function(b.module, ir.FunctionType(self.floats, [self.floats] * 3), name)
        return b.call(known, [x, y, z])

    def _float(self, value: float) -> Any:
        return ir.Constant(self.floats, [value] * self.width)

    def _int(self, value: int) -> Any:
        return ir.Constant(self.ints, [value] * self.width)

    def _scalar(self, b: Any, address: Any, offset: int) -> Any:
        value = b.load(b.inttoptr(b.add(address, I64(offset)), PTR), typ=F32)
        value.align = 4
        return value

    def _splat(self, b: Any, value: Any) -> Any:
        return self._spread(b, value, self.width)

    def _spread(self, b: Any, value: Any, count: int) -> Any:
        vector = ir.VectorType(value.type, count)
        single = b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
        mask = ir.Constant(ir.VectorType(I32, count), None)
        return b.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask)

    def _load(self, b: Any, address: Any) -> Any:
        value = b.load(b.inttoptr(address, PTR), typ=self.floats)
        value.align = 4
        return value

    def _prefetch(self, b: Any, address: Any) -> None:
        name = "llvm.prefetch.p0"
        known = b.module.globals.get(name)
        if known is None:
            kind = ir.FunctionType(ir.VoidType(), [PTR, I32, I32, I32])
            known = ir.Function(b.module, kind, name)
        b.call(known, [b.inttoptr(address, PTR), I32(0), I32(3), I32(1)])

    def _store(self, b: Any, value: Any, address: Any) -> None:
        store = b.store(value, b.inttoptr(address, PTR))
        store.align = 4
        if self.stream:
            store.align = 4 * self.width
            store.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))

    def _put(self, b: Any, value: Any, address: Any) -> None:
        b.store(value, b.inttoptr(address, PTR)).align = 4
