"""The simulator's normalisation kernels are golden, bit for bit, on any threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opennpe.golden import formats
from opennpe.golden import layer_norm as golden
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.golden.layer_norm_spec import KINDS, NormSpec
from opennpe.sim import layer_norm as sim

SPEC = NormSpec()
OTHERS = {
    "narrow": NormSpec(fraction_bits=6, integer_bits=7, rsqrt_bits=14, table_bits=3, seed_bits=5,
                       middle_bits=9, epsilon_bits=8),
    "golden itself": NormSpec(fraction_bits=28, integer_bits=29),
}  # fmt: skip


def rows_of(name: str, rng: np.random.Generator, rows: int, length: int) -> Any:
    fmt = formats.get(name)
    kinds = [
        rng.integers(0, 1 << fmt.bits, (rows, length)),
        fmt.encode(rng.normal(size=(rows, length)) * 2.0 ** rng.integers(-14, 12)),
        np.broadcast_to(rng.integers(0, 1 << fmt.bits, (rows, 1)), (rows, length)),
        fmt.encode(np.where(rng.random((rows, length)) < 0.02, fmt.maxpos, 0.0)),
    ]
    codes = np.concatenate(kinds).astype(fmt.dtype)
    if fmt.nan_code is not None:
        codes[(codes == fmt.nan_code) & (rng.random(codes.shape) < 0.98)] = 1
    return codes


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
@pytest.mark.parametrize("spec", [SPEC, *OTHERS.values()], ids=["shipped", *OTHERS])
def test_kernels_are_golden(name: str, spec: NormSpec) -> None:
    rng = np.random.default_rng(formats.ENGINE_FORMATS.index(name))
    cases = 0
    for _ in range(60):
        codes = rows_of(name, rng, int(rng.integers(1, 4)), int(rng.integers(1, 90)))
        out = formats.ENGINE_FORMATS[rng.integers(4)]
        nan_code = formats.get(name).nan_code
        if out == "fp4" and nan_code is not None:
            codes[codes == nan_code] = 1
        given: dict[str, Any] = {
            "scale": int(rng.integers(-6, 9)),
            "kind": KINDS[rng.integers(2)],
            "epsilon": float(rng.choice([0.0, 1e-12, 1e-5, 0.5])),
            "keep": None if rng.random() < 0.5 else rng.random(codes.shape) < rng.random(),
            "out": out,
            "out_shift": int(rng.choice([0, rng.integers(-20, 20), rng.integers(-512, 512)])),
            "underflow": ("minpos", "zero")[rng.integers(2)],
        }
        want = golden.normalise(spec, codes, name, **given)
        got = sim.normalise(spec, codes, name, **given, threads=2)
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.array_equal(got, want), given
        cases += codes.size
    assert cases > 3000


def test_every_root_is_goldens() -> None:
    """All operands of the root, through the kernel's own integers."""
    p = SPEC.rsqrt_bits
    operand = np.arange(1 << p, 4 << p)
    want = golden.rsqrt(SPEC, operand.astype(object)).astype(np.int64)
    n = sim.Numbers(p, SPEC.table_bits, SPEC.seed_bits, SPEC.middle_bits)
    got = np.empty_like(want)
    _roots(operand.view(np.uint64), sim._seeds(SPEC), n, got)
    assert np.array_equal(got, want)


@sim.kernel()
def _roots(operand, seeds, n, got):  # type: ignore[no-untyped-def]
    for i in range(operand.size):
        got[i] = sim._root(np.uint64(0), operand[i], seeds, n)[0]


@pytest.mark.fast
def test_the_longest_row_of_the_largest_values() -> None:
    fmt = formats.get("posit16")
    for low in (-1.0, 0.0, 1.0):
        row = np.full(SPEC.max_length, int(fmt.encode(fmt.maxpos)))
        row[::2] = int(fmt.encode(low * fmt.maxpos))
        for kind in KINDS:
            want = golden.normalise(SPEC, row, "posit16", kind=kind)  # type: ignore[arg-type]
            assert np.array_equal(sim.normalise(SPEC, row, "posit16", kind=kind), want)  # type: ignore[arg-type]


@pytest.mark.fast
def test_threads_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    codes = formats.get("posit16").encode(rng.normal(size=(700, 384)))
    one = sim.normalise(SPEC, codes, "posit16")
    assert np.array_equal(one, sim.normalise(SPEC, codes, "posit16", threads=3))
    assert np.array_equal(one[17], golden.normalise(SPEC, codes[17], "posit16"))


@pytest.mark.fast
def test_refusals_are_goldens() -> None:
    nan = np.array([[1, 2], [0x80, 2]])
    with pytest.raises(FormatError, match="NaR and fp4 has no code"):
        sim.normalise(SPEC, nan, "posit8", out="fp4")
    keep = np.array([[True, True], [False, True]])
    assert sim.normalise(SPEC, nan, "posit8", out="fp4", keep=keep)[1, 0] == 0
    with pytest.raises(AccumulatorError, match="4097"):
        sim.normalise(SPEC, np.zeros(4097, dtype=int), "posit8")
    with pytest.raises(FormatError, match="kind is 'batch'"):
        sim.normalise(SPEC, nan, "posit8", kind="batch")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="posit8 codes lie below 256"):
        sim.normalise(SPEC, [300, 1], "posit8")
    assert sim.normalise(SPEC, np.zeros((3, 0), dtype=int), "posit8").shape == (3, 0)
