"""The softmax kernels against golden, bit for bit, and what they cost (``python`` this file).

python tests/sim/test_sim_stream_softmax.py     # nanoseconds an element, and ratios
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opennpe.golden import formats
from opennpe.golden import softmax as golden
from opennpe.golden.errors import AccumulatorError, DataError, FormatError
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.sim import stream_softmax as sim

SPECS = {
    "exact": SoftmaxSpec(),
    "truncating": SoftmaxSpec(mode="truncating"),
    "truncating, few bits": SoftmaxSpec(
        lanes=3, mode="truncating", accumulator_bits=17, carry_bits=9
    ),
    "exact, divisor longer than a mantissa": SoftmaxSpec(
        lanes=2, mantissa_bits=11, reciprocal_bits=18, multiplier_bits=8
    ),
    "exact, few octaves": SoftmaxSpec(integer_bits=5, fraction_bits=9, table_bits=4),
}
OUTS = ("fp4", "posit4", "posit8", "posit16", "u0.8", "u0.16", "fp8_e4m3")


def case(spec: SoftmaxSpec, rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random arguments: shapes, formats, masks, NaR where it may be, usual and absurd scales."""
    name, out = str(rng.choice([*formats.ENGINE_FORMATS, "int8"])), str(rng.choice(OUTS))
    fmt = formats.get(name)
    shape = [(int(rng.integers(1, 90)),), (3, int(rng.integers(1, 40))), (2, 2, 5)][rng.integers(3)]
    if rng.random() < 0.5:
        codes = rng.integers(0, 1 << fmt.bits, shape)
    else:
        codes = fmt.encode(rng.normal(rng.normal(0, 9), rng.choice([0.1, 3, 30]), shape))
    has_nan = out not in golden.FIXED and formats.get(out).nan_code is not None
    if not has_nan or rng.random() < 0.7:
        codes = np.where(fmt.is_nan(codes), 0, codes)
    keep = None
    if rng.random() < 0.6:
        keep = rng.random(shape[-1:] if rng.random() < 0.4 else shape) < rng.choice([0, 0.1, 0.8])
    low = 1 << (spec.multiplier_bits - 1)
    factor = golden.multiplier(float(2.0 ** rng.uniform(-6, 4)), spec.multiplier_bits)
    if rng.random() < 0.2:
        factor = int(rng.integers(low, 2 * low)), int(rng.integers(-512, 512))
    shift = int(rng.choice([0, rng.integers(-5, 14), rng.integers(-512, 512)]))
    underflow = "zero" if rng.random() < 0.5 else "minpos"
    codes = codes.astype(fmt.dtype)
    return (spec, codes, name, factor, keep, out, shift, underflow), {}


@pytest.mark.fast
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_kernels_are_golden(spec: SoftmaxSpec) -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(400):
        given, _ = case(spec, rng)
        want = golden.softmax(*given)
        got = sim.softmax(*given, threads=2)
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.array_equal(got, want), given
        pairs = zip(sim.deferred(*given), golden.deferred(*given), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), given
        seen.add((given[2], given[5]))
    assert len(seen) == 5 * len(OUTS)


@pytest.mark.fast
def test_both_ways_to_an_exact_sum_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose exponents span the whole range, and rows just on either side of the limit."""
    spec = SoftmaxSpec()
    f = formats.get("posit16")
    rng = np.random.default_rng(2)
    octaves = (1 << 15, -15)
    for spread in range(30, 50):
        values = rng.uniform(-spread, 0, (20, 33))
        values[:, 7] = -spread
        values[:, 3] = 0
        codes = f.encode(values)
        want = golden.softmax(spec, codes, "posit16", octaves, out="posit16")
        assert np.array_equal(sim.softmax(spec, codes, "posit16", octaves, out="posit16"), want)
    # A carry that runs through all exponents: 2**0 + 2**-1 + ... + 2**-n + 2**-n = 2.
    for last in range(1, 120):
        row = np.concatenate([-np.arange(last + 1.0), [-last]]) + 60
        codes = f.encode(row)
        want = golden.softmax(spec, codes, "posit16", octaves, out="posit16")
        assert np.array_equal(sim.softmax(spec, codes, "posit16", octaves, out="posit16"), want)
        assert f.decode(want)[0] == 0.5


@pytest.mark.fast
def test_a_wrong_bit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SoftmaxSpec(), table_bits=6)
    real = sim._elements(spec, "posit16", golden.multiplier(0.3))
    monkeypatch.setattr(sim, "_elements", lambda *_: real ^ 256)
    codes = np.random.default_rng(3).integers(0, 1 << 15, (50, 40)).astype(np.uint16)
    given = spec, codes, "posit16", golden.multiplier(0.3), None, "posit16"
    assert not np.array_equal(sim.softmax(*given), golden.softmax(*given))


@pytest.mark.fast
def test_refusals_are_goldens() -> None:
    row = np.zeros(5, dtype=np.uint8)
    good = SoftmaxSpec(), row, "posit8", golden.multiplier(1.0)
    nan = np.array([0x80, 0, 1], dtype=np.uint8)
    for given, error in (
        ((*good[:3], (3, 0)), DataError),
        ((good[0], row[:0], *good[2:]), DataError),
        ((good[0], row + 0.5, *good[2:]), FormatError),
        ((good[0], np.zeros(4097, np.uint8), *good[2:]), AccumulatorError),
        ((good[0], nan, *good[2:], None, "fp4"), FormatError),
        ((good[0], nan, *good[2:], None, "u0.8"), FormatError),
        ((*good, None, "posit8", 512), DataError),
        ((good[0], row, "fp8_e5m2", good[3]), FormatError),
    ):
        with pytest.raises(error) as want:
            golden.softmax(*given)
        with pytest.raises(error) as got:
            sim.softmax(*given)
        assert str(got.value) == str(want.value)


def test_without_numba() -> None:
    """The kernels as plain Python."""
    code = "\n".join(
        [
            "import numpy as np",
            "from opennpe.golden import softmax as g",
            "from opennpe.sim import stream_softmax as s",
            "c = np.arange(0, 65536, 997, dtype=np.uint16)",
            "specs = g.SoftmaxSpec(), g.SoftmaxSpec(mode='truncating')",
            "outs = 'posit8', 'u0.16', 'posit16'",
            "k, m = g.multiplier(0.2), c % 5 > 0",
            "given = [(p, c, 'posit16', k, m, o) for p in specs for o in outs]",
            "ok = [np.array_equal(s.softmax(*x), g.softmax(*x)) for x in given]",
            "print(len(ok), all(ok))",
        ]
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["6", "True"], done.stderr


def measure(*calls: Callable[[], Any], runs: int = 20) -> list[float]:
    """Thread seconds of the fastest run of each, taken in turns."""
    found = [float("inf")] * len(calls)
    for _ in range(runs):
        for i, call in enumerate(calls):
            begin = time.thread_time()
            call()
            found[i] = min(found[i], time.thread_time() - begin)
    return found


def benchmark() -> list[tuple[str, str, str, float, float, float]]:
    """Mode, input, output, nanoseconds an element, golden's and NumPy's float64 time over ours.

    NumPy's softmax gets decoded float64 values and gives float64: it neither decodes nor rounds.
    """
    rng = np.random.default_rng(0)
    rows = []
    for mode in ("exact", "truncating"):
        spec = SoftmaxSpec(mode=mode)  # type: ignore[arg-type]
        for name in ("posit8", "posit16"):
            codes = formats.get(name).encode(rng.normal(0, 3, (768, 197)))
            values = formats.get(name).decode(codes)
            factor = golden.multiplier(1.0)
            for out in ("posit8", "posit16", "u0.8"):
                given = spec, codes, name, factor, None, out
                assert np.array_equal(sim.softmax(*given), golden.softmax(*given))
                ours, floats = measure(
                    lambda given=given: sim.softmax(*given),
                    lambda values=values: golden.three_pass(values),
                )
                (slow,) = measure(lambda given=given: golden.softmax(*given), runs=2)
                rows.append((mode, name, out, ours / codes.size * 1e9, slow / ours, floats / ours))
    return rows


def keep_memory() -> None:
    """Freed arrays stay with the process: NumPy's temporaries would be paged in each time."""
    libc = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(option, 1 << 30)


if __name__ == "__main__":
    keep_memory()
    print("| mode | codes | results | ns an element | golden / ours | NumPy float64 / ours |")
    print("|---|---|---|---|---|---|")
    for mode, name, out, ns, slow, floats in benchmark():
        print(f"| {mode} | {name} | {out} | {ns:.1f} | {slow:.0f} | {floats:.1f} |")
