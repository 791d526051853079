"""Arithmetic on 32-bit words, which numba would widen to 64 bits and so halve a vector.

Every function takes and returns int32 and wraps around; shifts take 0 to 31. Compiled they are one
instruction each; under ``NUMBA_DISABLE_JIT`` the same names are plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

__all__ = [
    "add",
    "bit_and",
    "bit_or",
    "bit_xor",
    "greater_mask",
    "larger",
    "select_greater",
    "shift_left",
    "shift_right",
    "shift_signed",
    "smaller",
    "subtract",
    "word",
]

Operation = Callable[[Any, Any], Any]
PLAIN = bool(getattr(config, "DISABLE_JIT", 0))


def word(value: Any) -> Any:
    """The low 32 bits as int32 (plain Python only; kernels write ``np.int32(...)``)."""
    value = int(value) & 0xFFFFFFFF
    return np.int32(value - (1 << 32) if value >> 31 else value)


def _unsigned(value: Any) -> int:
    return int(value) & 0xFFFFFFFF


def _operation(name: str, plain: Callable[[int, int], int]) -> Operation:
    """``builder.<name>(a, b)`` on int32, or ``plain`` on Python integers."""
    if PLAIN:
        return lambda a, b: word(plain(int(a), int(b)))

    @intrinsic
    def compiled(context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return types.int32(types.int32, types.int32), code

    step: Any = compiled
    return step  # type: ignore[no-any-return]


def _comparison(choose: Callable[..., Any], plain: Callable[..., int], count: int) -> Any:
    """``a > b`` and what to do with it: ``choose(builder, condition, args)``."""
    if PLAIN:
        return lambda *args: word(plain(*map(int, args)))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return choose(builder, builder.icmp_signed(">", args[0], args[1]), args)

    if count == 2:

        @intrinsic
        def two(context: Any, a: Any, b: Any) -> Any:
            return types.int32(types.int32, types.int32), code

        return two

    @intrinsic
    def four(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        return types.int32(types.int32, types.int32, types.int32, types.int32), code

    return four


add = _operation("add", lambda a, b: a + b)
subtract = _operation("sub", lambda a, b: a - b)
bit_and = _operation("and_", lambda a, b: a & b)
bit_or = _operation("or_", lambda a, b: a | b)
bit_xor = _operation("xor", lambda a, b: a ^ b)
shift_left = _operation("shl", lambda a, b: a << b)
shift_right = _operation("lshr", lambda a, b: _unsigned(a) >> b)
shift_signed = _operation("ashr", lambda a, b: a >> b)
larger = _comparison(lambda b, c, args: b.select(c, args[0], args[1]), max, 2)
smaller = _comparison(lambda b, c, args: b.select(c, args[1], args[0]), min, 2)
greater_mask = _comparison(
    lambda b, c, args: b.sext(c, args[0].type), lambda a, b: -1 if a > b else 0, 2
)
"""All ones where ``a > b``, else zero."""
select_greater = _comparison(
    lambda b, c, args: b.select(c, args[2], args[3]), lambda a, b, yes, no: yes if a > b else no, 4
)
"""``yes`` where ``a > b``, else ``no``."""
