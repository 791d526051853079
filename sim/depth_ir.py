"""The inner loop of a depthwise convolution in vectors: two taps a multiply-and-add.

Sixteen neighbouring channels of two taps are interleaved, so that one instruction multiplies both
taps and adds them, which is what the ``pairs`` instructions of :mod:`opennpe.sim.microkernel` do
for neighbours in K.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from opennpe.sim.cpu import ISAS

__all__ = ["LANES", "interleave", "run_sums"]

LANES = 16
I16, I32, I64, PTR = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.PointerType()
WORDS, SUMS = ir.VectorType(I16, LANES), ir.VectorType(I32, LANES // 2)
LOW = [0, 1, 2, 3, 8, 9, 10, 11]
"""Channels that the lower halves of both 128-bit lanes hold."""
HIGH = [4, 5, 6, 7, 12, 13, 14, 15]


def interleave(weights: NDArray[np.int16]) -> NDArray[np.int16]:
    """Weights (taps, n) as (ceil(n / 16), pairs, 2, 16): what :func:`run_sums` reads in order."""
    taps, n = weights.shape
    pairs, vectors = -(-taps // 2), -(-n // LANES)
    whole = np.zeros((2 * pairs, vectors * LANES), dtype=np.int16)
    whole[:taps, :n] = weights
    # (pair, tap of the pair, vector, channel) to (vector, pair, half, channel of it, tap).
    split = whole.reshape(pairs, 2, vectors, LANES).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(np.stack([split[:, :, LOW], split[:, :, HIGH]], axis=2)).reshape(
        vectors, pairs, 2, LANES
    )


def _run_sums(
    typingctx: Any, marker: Any, image: Any, taps: Any, pairs: Any, weights: Any, out: Any,
    vectors: Any
) -> Any:  # fmt: skip
    """int32 sums of ``16 * vectors`` neighbouring channels.

    Args:
        marker: a kernel's (:class:`opennpe.sim.microkernel.Kernel`).
        image: address of the first int16 value under the window.
        taps: address of int64 byte offsets, two a pair.
        pairs: number of pairs.
        weights: address of interleaved weights.
        out: address of the sums.
    """
    plain = ISAS[(len(marker) - 1) % len(ISAS)].dot == "generic"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_function(builder.module, plain), args[1:])
        return context.get_dummy_value()

    return types.void(marker, *(types.int64,) * 6), codegen


run_sums: Any = intrinsic(_run_sums)


def _function(module: ir.Module, plain: bool) -> Any:
    name = "opennpe_depthwise_plain" if plain else "opennpe_depthwise"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), name)
    function.linkage = "internal"
    image, taps, pairs, weights, out, vectors = function.args
    entry, outer, inner, done, leave = (
        function.append_basic_block(n) for n in ("entry", "outer", "inner", "done", "leave")
    )
    b = ir.IRBuilder(entry)
    b.branch(outer)
    b.position_at_end(outer)
    v, right = b.phi(I64), b.phi(I64)
    left = b.add(image, b.mul(v, I64(2 * LANES)))
    b.branch(inner)
    b.position_at_end(inner)
    p, at = b.phi(I64), b.phi(I64)
    sums = [b.phi(SUMS), b.phi(SUMS)]
    entry_of = b.add(taps, b.mul(p, I64(16)))
    pair = [
        _load(b, WORDS, b.add(left, _load(b, I64, b.add(entry_of, I64(8 * i))))) for i in (0, 1)
    ]
    result = []
    for half, (held, channels) in enumerate(zip(sums, (LOW, HIGH), strict=True)):
        mask = [i for c in channels for i in (c, c + LANES)]
        both = b.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, LANES), mask))
        factor = _load(b, WORDS, b.add(at, I64(2 * LANES * half)))
        result.append(b.add(held, _pairs(b, module, both, factor, plain)))
    following, beyond = b.add(p, I64(1)), b.add(at, I64(4 * LANES))
    zero = ir.Constant(SUMS, None)
    for phi, first, second in ((p, I64(0), following), (at, right, beyond),
                               (sums[0], zero, result[0]), (sums[1], zero, result[1])):  # fmt: skip
        phi.add_incoming(first, outer)
        phi.add_incoming(second, inner)
    b.cbranch(b.icmp_signed("<", following, pairs), inner, done)
    b.position_at_end(done)
    place = b.add(out, b.mul(v, I64(4 * LANES)))
    for i, mask in enumerate(([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])):
        order = ir.Constant(ir.VectorType(I32, LANES // 2), mask)
        ordered = b.shuffle_vector(result[0], result[1], order)
        b.store(ordered, b.inttoptr(b.add(place, I64(2 * LANES * i)), PTR)).align = 4
    after = b.add(v, I64(1))
    for phi, first, second in ((v, I64(0), after), (right, weights, beyond)):
        phi.add_incoming(first, entry)
        phi.add_incoming(second, done)
    b.cbranch(b.icmp_signed("<", after, vectors), outer, leave)
    b.position_at_end(leave)
    b.ret_void()
    return function


def _pairs(b: Any, module: ir.Module, left: Any, right: Any, plain: bool) -> Any:
    """Products of neighbours, added in pairs."""
    if not plain:
        name = "llvm.x86.avx2.pmadd.wd"
        add = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(SUMS, [WORDS, WORDS]), name
        )
        return b.call(add, [left, right])
    wide = ir.VectorType(I32, LANES)
    product = b.mul(b.sext(left, wide), b.sext(right, wide))
    halves = [
        b.shuffle_vector(product, ir.Constant(wide, ir.Undefined),
                         ir.Constant(SUMS, list(range(first, LANES, 2))))
        for first in (0, 1)
    ]  # fmt: skip
    return b.add(*halves)


def _load(b: Any, kind: Any, address: Any) -> Any:
    value = b.load(b.inttoptr(address, PTR), typ=kind)
    value.align = 8 if kind is I64 else 2
    return value
