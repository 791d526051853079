"""Activations by table, and a softmax that is the same on every machine.

A table holds, for every code of the input format, the correctly rounded code of the function's
value (DESIGN 3). Functions are evaluated in float64; entries that lie within 2**-40 of a rounding
boundary are evaluated again with 200 bits, so no entry depends on a platform's math library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from opennpe.golden import codec, formats
from opennpe.golden.errors import NetworkError

__all__ = ["KINDS", "exp_fixed", "prelu", "softmax", "table"]

Float = NDArray[np.float64]
Params = dict[str, float]
CLOSE = 2.0**-40
PRECISION = 200


def _sigmoid(x: Any, m: Any, p: Params) -> Any:
    return 1 / (1 + m.exp(-x))


def _gelu(x: Any, m: Any, p: Params) -> Any:
    return x * m.erfc(-x / m.sqrt(2)) / 2


def _gelu_tanh(x: Any, m: Any, p: Params) -> Any:
    # 1 + tanh(u) = 2 / (1 + exp(-2u)) keeps its relative accuracy for u << 0.
    u = m.sqrt(2 / m.pi) * (x + x * x * x * _real(m, "0.044715"))
    return x / (1 + m.exp(-2 * u))


def _softplus(x: Any, m: Any, p: Params) -> Any:
    return m.log1p(m.exp(x)) if x < 30 else x + m.log1p(m.exp(-x))


def _elu(x: Any, m: Any, p: Params) -> Any:
    return x if x > 0 else p["alpha"] * m.expm1(x)


def _selu(x: Any, m: Any, p: Params) -> Any:
    return p["gamma"] * (x if x > 0 else p["alpha"] * m.expm1(x))


def _hard_sigmoid(x: Any, m: Any, p: Params) -> Any:
    y = x * _real(m, p["alpha"]) + _real(m, p["beta"])
    return min(max(y, 0), 1)


def _hard_swish(x: Any, m: Any, p: Params) -> Any:
    return x * min(max(x + 3, 0), 6) / 6


def _real(m: Any, value: Any) -> Any:
    return m.mpf(value)


def _log(x: Any, m: Any, p: Params) -> Any:
    return m.log(x) if x > 0 else (-m.inf if x == 0 else m.nan)


class _Double:
    """The functions the formulas use, over float64; mpmath offers the same names."""

    pi, inf, nan = math.pi, math.inf, math.nan
    mpf = staticmethod(float)
    sqrt, erf, erfc, tanh = map(staticmethod, (math.sqrt, math.erf, math.erfc, math.tanh))
    log, log1p = map(staticmethod, (math.log, math.log1p))

    @staticmethod
    def exp(x: float) -> float:
        return math.exp(x) if x < 709 else math.inf

    @staticmethod
    def expm1(x: float) -> float:
        return math.expm1(x) if x < 709 else math.inf


_FORMULAS: dict[str, Callable[[Any, Any, Params], Any]] = {
    "relu": lambda x, m, p: max(x, 0),
    "relu6": lambda x, m, p: min(max(x, 0), 6),
    "sigmoid": _sigmoid,
    "tanh": lambda x, m, p: m.tanh(x),
    "hard_swish": _hard_swish,
    "hard_sigmoid": _hard_sigmoid,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x, m, p: x * _sigmoid(x, m, p),
    "elu": _elu,
    "selu": _selu,
    "softplus": _softplus,
    "softsign": lambda x, m, p: x / (1 + abs(x)),
    "mish": lambda x, m, p: x * m.tanh(_softplus(x, m, p)),
    "exp": lambda x, m, p: m.exp(x),
    "log": _log,
    "sqrt": lambda x, m, p: m.sqrt(x) if x >= 0 else m.nan,
    "reciprocal": lambda x, m, p: 1 / x if x else m.inf,
    "erf": lambda x, m, p: m.erf(x),
    "abs": lambda x, m, p: abs(x),
    "clip": lambda x, m, p: min(max(x, p["min"]), p["max"]),
}
_DEFAULTS: dict[str, Params] = {
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "elu": {"alpha": 1.0},
    "selu": {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    "clip": {"min": -math.inf, "max": math.inf},
}
_PIECEWISE = frozenset({"relu", "relu6", "clip", "abs", "hard_sigmoid", "hard_swish"})
KINDS = (*_FORMULAS, "leaky", "prelu")
"""Activations there are; ``leaky`` and ``prelu`` multiply (:func:`prelu`), the rest are tables."""


@lru_cache(maxsize=512)
def table(
    kind: str,
    in_format: str,
    in_scale: int,
    out_format: str,
    out_scale: int,
    params: tuple[tuple[str, float], ...] = (),
    underflow: formats.Underflow = "minpos",
) -> NDArray[Any]:
    """Output code for every input code: uint8 or uint16 (2**bits of the input format,).

    NaN, and values without a result, give the output format's NaN, or code 0 where it has none.

    Raises:
        NetworkError: no such activation.
    """
    if kind not in _FORMULAS:
        raise NetworkError(f"unknown activation '{kind}': expected one of {', '.join(KINDS)}")
    source, target = formats.get(in_format), formats.get(out_format)
    settings = {**_DEFAULTS.get(kind, {}), **dict(params)}
    formula = _FORMULAS[kind]
    x = np.ldexp(source.values, in_scale)
    y = np.array([_evaluate(formula, float(v), _Double, settings) for v in x])
    scaled = np.ldexp(y, -out_scale)
    usable = np.isfinite(scaled)
    codes = _encode(target, scaled, underflow)
    low = _encode(target, scaled * (1 - CLOSE), underflow)
    high = _encode(target, scaled * (1 + CLOSE), underflow)
    doubtful = low != high
    for code in np.nonzero(usable & doubtful)[0]:
        codes[code] = _refine(formula, float(x[code]), settings, target, out_scale, underflow)
    if kind not in _PIECEWISE:
        # A float64 zero away from x = 0 may be an underflow that has lost its sign. Such values
        # are far below minpos and share their sign on either side of 0: one code for each side.
        for side in (x < 0, x > 0):
            lost = np.nonzero(usable & (y == 0) & side)[0]
            if lost.size:
                value = float(x[lost[np.argmin(np.abs(x[lost]))]])
                codes[lost] = _refine(formula, value, settings, target, out_scale, underflow)
    codes.setflags(write=False)
    return codes


def _evaluate(formula: Callable[..., Any], x: float, m: Any, settings: Params) -> float:
    return float(formula(x, m, settings)) if math.isfinite(x) else math.nan


def _encode(target: Any, y: Float, underflow: formats.Underflow) -> NDArray[Any]:
    missing = np.isnan(y)
    codes = np.array(target.encode(np.where(missing, 0.0, y), underflow))
    codes[missing] = target.nan_code or 0
    return codes


def _refine(
    formula: Callable[..., Any],
    x: float,
    settings: Params,
    target: Any,
    out_scale: int,
    underflow: formats.Underflow,
) -> int:
    with mpmath.workprec(PRECISION):
        y = formula(mpmath.mpf(x), mpmath, settings)
        sign, mantissa, exponent, _ = mpmath.mpf(y)._mpf_
    value = -int(mantissa) if sign else int(mantissa)
    return codec.round_exact(target, value, int(exponent) - out_scale, underflow)


def prelu(
    codes: NDArray[Any],
    slope: NDArray[Any],
    in_format: str,
    in_scale: int,
    out_format: str,
    out_scale: int,
    underflow: formats.Underflow = "minpos",
) -> NDArray[Any]:
    """``x`` where x >= 0, else ``round(x * slope)``: one exact product, one rounding.

    Args:
        codes: input codes, any shape.
        slope: posit16 codes that broadcast against them.
    """
    source, target = formats.get(in_format), formats.get(out_format)
    x = source.decode(codes)
    # At most 13 + 16 significant bits: the float64 product is exact.
    y = np.where(x < 0, x * formats.get("posit16").decode(slope), x)
    return _encode(target, np.ldexp(y, in_scale - out_scale), underflow)


_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
EXP_BITS = 40


def exp_fixed(x: Float) -> NDArray[np.int64]:
    """``exp(x)`` for x <= 0 in units of ``2**-40``, from IEEE basic operations only.

    Cody-Waite reduction and a Taylor polynomial of degree 13: every operation is a single
    correctly rounded float64 one in a fixed order, so the bits are the same everywhere.
    """
    clipped = np.maximum(x, -64.0)
    n = np.rint(clipped * _LOG2E)
    r = (clipped - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.full_like(r, 1.0 / math.factorial(13))
    for k in range(12, -1, -1):
        p = p * r + 1.0 / math.factorial(k)
    return np.rint(np.ldexp(p, n.astype(np.int64) + EXP_BITS)).astype(np.int64)


def softmax(x: Float, axis: int, log: bool = False) -> Float:
    """Softmax of float64 values along an axis; the sum is an integer, so it has no order.

    The host's softmax for the end of a classifier; the streaming unit is another layer.
    """
    bad = np.isnan(x).any(axis=axis, keepdims=True)
    clean = np.where(bad, 0.0, x)
    shifted = clean - clean.max(axis=axis, keepdims=True)
    powers = exp_fixed(shifted)
    total = powers.sum(axis=axis, keepdims=True)
    if not log:
        return np.where(bad, np.nan, powers / total)
    return np.where(bad, np.nan, shifted - np.vectorize(_log_exact)(total))


def _log_exact(total: int) -> float:
    with mpmath.workprec(80):
        return float(mpmath.log(mpmath.mpf(int(total)) / (1 << EXP_BITS)))
