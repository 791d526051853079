"""Tables of sixteen bytes looked up in registers: 4-bit codes to bytes, or on to int16."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from opennpe.sim import cpu
from opennpe.sim.jit import DISABLED, kernel

__all__ = ["decode", "suits"]

I8, I64, PTR = ir.IntType(8), ir.IntType(64), ir.PointerType()
WIDTH = 32


def suits(table: NDArray[Any]) -> bool:
    """Whether :func:`decode` takes the table: sixteen values that fit bytes, and AVX2."""
    if table.size != 16 or DISABLED or cpu.host() == cpu.PLAIN:
        return False
    fits = table.dtype in (np.uint8, np.int8) or (
        table.dtype == np.int16 and int(np.abs(table).max()) < 128
    )
    return bool(fits and cpu.features().get("avx2", False))


def _shuffle_code(typingctx: Any, line: Any, table: Any, codes: Any, out: Any, count: Any) -> Any:
    """``count`` vectors of 32 codes; the last four are integers, ``line`` only gives a dtype."""
    bits = line.dtype.bitwidth

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_function(builder.module, bits), args[1:])
        return context.get_dummy_value()

    return types.void(line, *(types.int64,) * 4), codegen


_shuffle: Any = intrinsic(_shuffle_code)


def _function(module: ir.Module, bits: int) -> Any:
    name = f"opennpe_shuffle_{bits}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), name)
    function.linkage = "internal"
    table, codes, out, count = function.args
    half, whole = ir.VectorType(I8, WIDTH // 2), ir.VectorType(I8, WIDTH)
    entry, loop, after = (function.append_basic_block(n) for n in ("entry", "loop", "after"))
    b = ir.IRBuilder(entry)
    narrow = b.load(b.inttoptr(table, PTR), typ=half)
    narrow.align = 1
    twice = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [i % 16 for i in range(WIDTH)])
    values = b.shuffle_vector(narrow, ir.Constant(half, ir.Undefined), twice)
    b.cbranch(b.icmp_signed(">", count, I64(0)), loop, after)
    b.position_at_end(loop)
    i = b.phi(I64)
    place = b.mul(i, I64(WIDTH))
    taken = b.load(b.inttoptr(b.add(codes, place), PTR), typ=whole)
    taken.align = 1
    pshufb = module.globals.get("llvm.x86.avx2.pshuf.b") or ir.Function(
        module, ir.FunctionType(whole, [whole, whole]), "llvm.x86.avx2.pshuf.b"
    )
    found = b.call(pshufb, [values, taken])
    if bits == 16:
        found = b.sext(found, ir.VectorType(ir.IntType(16), WIDTH))
    target = b.add(out, b.mul(place, I64(bits // 8)))
    b.store(found, b.inttoptr(target, PTR)).align = 1
    following = b.add(i, I64(1))
    i.add_incoming(I64(0), entry)
    i.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    b.ret_void()
    return function


@kernel()
def _rows(codes, table, narrow, out):  # type: ignore[no-untyped-def]
    """Rows of codes (R, L) to rows of values, both contiguous along the row; two equal tables."""
    length = codes.shape[1]
    full = length // WIDTH
    for r in range(codes.shape[0]):
        source, target = codes[r], out[r]
        _shuffle(target, narrow.ctypes.data, source.ctypes.data, target.ctypes.data, full)
        for i in range(full * WIDTH, length):
            target[i] = table[source[i]]


def decode(codes: NDArray[np.uint8], table: NDArray[Any], out: NDArray[Any]) -> None:
    """Codes below 16, rows (R, L), to table values in ``out`` (R, L)."""
    _rows(codes, table, table if table.itemsize == 1 else table.astype(np.int8), out)
