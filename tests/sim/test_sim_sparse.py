"""Sparse kernels against golden, against the dense kernels, and against planted faults."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from opennpe.golden import formats, sparse_pack, sparse_product
from opennpe.golden import sparse as packing
from opennpe.golden.errors import AccumulatorError, FormatError, SparseError
from opennpe.sim import cpu, gemm, matmul, sparse, sparse_float, sparse_ir
from opennpe.sim.matmul import matmul as dense_product

DENSITIES = (0.0, 0.03, 0.1, 0.2, 0.35, 0.5, 0.8, 1.0)
ENGINE = formats.ENGINE_FORMATS
SHAPES = 80
"""Random shapes a format: four formats make 320."""
THERE = [i for i in cpu.ISAS if all(cpu.features().get(need, False) for need in i.needs)]


def codes(name, shape, rng, nan=False):
    fmt = formats.get(name)
    picked = rng.integers(0, 1 << fmt.bits, shape).astype(fmt.dtype)
    picked = np.where(rng.random(shape) < 0.5, picked, fmt.encode(rng.normal(size=shape), "zero"))
    return picked if nan else np.where(np.isfinite(fmt.decode(picked)), picked, 0).astype(fmt.dtype)


def thinned(weights, density, height, rng):
    """Blocks of ``height`` rows kept with a probability; a whole block row is emptied."""
    keep = rng.random((-(-len(weights) // height), weights.shape[1])) < density
    if len(keep) > 2:
        keep[rng.integers(0, len(keep))] = False
    return weights * np.repeat(keep, height, axis=0)[: len(weights)].astype(weights.dtype)


def two_of_four(weights, rng):
    """At most two of every four columns kept."""
    rows, columns = weights.shape
    order = rng.random((rows, -(-columns // 4), 4)).argsort(axis=2)
    keep = (order < 2).reshape(rows, -1)[:, :columns]
    return weights * keep.astype(weights.dtype)


def packings(weights, name, rng):
    rows, bits = int(rng.choice([1, 2, 4])), int(rng.choice([4, 8, 16]))
    steps = str(rng.choice(["cyclic", "signed"]))
    yield sparse_pack.pack_delta(weights, name, rows, bits, steps, sort=bool(rng.random() < 0.5))
    height, group = int(rng.choice([1, 2, 4, 8, 16])), int(rng.choice([1, 4]))
    yield sparse_pack.pack_blocks(weights, name, height, group, sort=bool(rng.random() < 0.5))
    yield sparse_pack.pack_structured(two_of_four(weights, rng), name, 2, 4)


@pytest.mark.parametrize("name", ENGINE)
def test_sparse_is_dense_on_random_shapes_and_densities(name):
    rng = np.random.default_rng(ENGINE.index(name))
    paths = set()
    for case in range(SHAPES):
        density = DENSITIES[case % len(DENSITIES)]
        wide = case % 20 == 0
        m, k = (int(v) for v in rng.integers(1, 40, 2))
        n = int(rng.integers(1, 300))
        k = k * 20 if wide else k
        weights = thinned(codes(name, (m, k), rng), density, int(rng.choice([1, 4])), rng)
        x, bias = codes(name, (k, n), rng), rng.normal(size=m) * 3
        options = {
            "shift": int(rng.integers(-6, 2)),
            "underflow": str(rng.choice(["zero", "minpos"])),
        }
        for packed in packings(weights, name, rng):
            product = sparse.prepare(packed, name, bias=bias, threads=case % 2 + 1, **options)
            paths.add(product.path)
            # The dense product has its biases along columns: everything transposed.
            held = packing.unpack(packed)
            expected = dense_product(name, x.T, held.T, bias=bias, **options).T
            np.testing.assert_array_equal(product(x), expected)
    assert paths == {{"fp4": "sparse u8", "posit16": "dense"}.get(name, "sparse i16")}


@pytest.mark.parametrize("weight", ENGINE)
def test_sparse_is_golden_for_every_pair_of_formats(weight):
    rng = np.random.default_rng(20 + ENGINE.index(weight))
    for wanted in ENGINE:
        for out in ENGINE:
            m, k, n = (int(v) for v in rng.integers(1, 12, 3))
            nan = out != "fp4" and rng.random() < 0.5
            weights = thinned(codes(weight, (m, k), rng, nan), 0.5, 1, rng)
            x = codes(wanted, (k, n), rng, nan)
            options = {
                "bias": rng.normal(size=m),
                "shift": -2,
                "underflow": "zero",
                "out_format": out,
            }
            for packed in packings(weights, weight, rng):
                got = sparse.matmul(packed, x, wanted, **options)
                expected = sparse_product.matmul(packed, x, wanted, **options)
                np.testing.assert_array_equal(got, expected)


def test_a_clip_is_exact_before_the_rounding():
    rng = np.random.default_rng(30)
    for name in ("fp4", "posit8", "posit16"):
        weights, x = thinned(codes(name, (9, 50), rng), 0.3, 1, rng), codes(name, (50, 40), rng)
        packed = sparse_pack.pack_blocks(weights, name, 1)
        got = sparse.matmul(packed, x, shift=-2, clip=(0.0, 3.0), underflow="zero")
        wide = sparse.matmul(packed, x, shift=-2, underflow="zero", out_format="posit16")
        values = np.clip(formats.get("posit16").decode(wide), 0.0, 3.0)
        fmt = formats.get(name)
        assert (fmt.decode(got) >= 0).all() and (fmt.decode(got) <= 3).all()
        if name == "fp4":  # its sums are posit16 values, nothing was rounded on the way
            np.testing.assert_array_equal(got, fmt.encode(values, "zero"))
        forced = sparse.matmul(
            packed, x, shift=-2, clip=(0.0, 3.0), underflow="zero", force="dense"
        )
        np.testing.assert_array_equal(got, forced)


@pytest.mark.parametrize("name", ["posit4", "posit8", "posit16"])
def test_nar_meets_the_zeros_that_are_not_stored(name):
    rng = np.random.default_rng(31)
    fmt = formats.get(name)
    weights, x = thinned(codes(name, (12, 30), rng), 0.2, 1, rng), codes(name, (30, 20), rng)
    x[3, 7] = fmt.nan_code
    weights[:, 3] = 0
    weights[5, 4] = fmt.nan_code
    packed = sparse_pack.pack_delta(weights, name, 1, 8)
    got = sparse.matmul(packed, x)
    assert (got[:, 7] == fmt.nan_code).all() and (got[5] == fmt.nan_code).all()
    np.testing.assert_array_equal(got, matmul(name, weights, x))
    with pytest.raises(FormatError, match="fp4 has no code"):
        sparse.matmul(packed, x, out_format="fp4")


def test_long_rows_of_bytes_are_widened_in_time():
    """Extremes of fp4: 57 pairs would overflow an int16 sum."""
    for k in (112, 113, 114, 115, 1000):
        weights = np.full((4, k), 7, np.uint8)
        x = np.full((k, 33), 7, np.uint8)
        product = sparse.prepare(sparse_pack.pack_blocks(weights, "fp4", 4), shift=-12)
        assert product.path == "sparse u8"
        np.testing.assert_array_equal(product(x), matmul("fp4", weights, x, -12))


def test_a_flush_too_late_is_caught(monkeypatch):
    weights, x = np.full((4, 400), 7, np.uint8), np.full((400, 33), 7, np.uint8)
    packed = sparse_pack.pack_blocks(weights, "fp4", 4)
    monkeypatch.setattr(sparse, "FLUSH_PAIRS", 100)
    wrong = sparse.matmul(packed, x, shift=-8, out_format="posit16")
    assert (wrong != matmul("fp4", weights, x, -8, out_format="posit16")).any()


def test_sums_beyond_int32_take_the_dense_path():
    k = 200
    weights, x = np.full((3, k), 0x7F, np.uint8), np.full((k, 5), 0x7F, np.uint8)
    packed = sparse_pack.pack_blocks(weights, "posit8", 1)
    product = sparse.prepare(packed, shift=-8, out_format="posit16")
    assert product.bound > 2**31 and product.path == "dense"
    exact = matmul("posit8", weights, x, -8, out_format="posit16")
    np.testing.assert_array_equal(product(x), exact)
    # Few of the same weights are sure to fit, however long the row.
    weights[:, 100:] = 0
    packed = sparse_pack.pack_blocks(weights, "posit8", 1)
    assert sparse.prepare(packed).path == "sparse i16"
    np.testing.assert_array_equal(sparse.matmul(packed, x), matmul("posit8", weights, x))


def test_a_certificate_made_too_generous_is_caught(monkeypatch):
    k = 200
    weights, x = np.full((3, k), 0x7F, np.uint8), np.full((k, 5), 0x7F, np.uint8)
    packed = sparse_pack.pack_blocks(weights, "posit8", 1)
    monkeypatch.setattr(sparse, "INT32", 1 << 40)
    product = sparse.prepare(packed, shift=-8, out_format="posit16")
    assert product.path == "sparse i16"
    exact = matmul("posit8", weights, x, -8, out_format="posit16")
    assert (product(x) != exact).any()


def test_a_shifted_column_is_caught():
    rng = np.random.default_rng(33)
    weights, x = thinned(codes("fp4", (8, 60), rng), 0.4, 4, rng), codes("fp4", (61, 40), rng)
    packed = sparse_pack.pack_blocks(np.pad(weights, ((0, 0), (0, 1))), "fp4", 4)
    moved = dataclasses.replace(packed, columns=packed.columns + 1)
    assert (sparse.matmul(packed, x) != sparse.matmul(moved, x)).any()


@pytest.mark.parametrize("name", ["fp4", "posit8"])
def test_threads_and_parts_change_no_bit(name, monkeypatch):
    rng = np.random.default_rng(36)
    weights, x = thinned(codes(name, (24, 90), rng), 0.3, 4, rng), codes(name, (90, 700), rng)
    packed = sparse_pack.pack_blocks(weights, name, 4)
    expected = sparse.matmul(packed, x, shift=-3, threads=1)
    np.testing.assert_array_equal(expected, sparse.matmul(packed, x, shift=-3, force="dense"))
    spans = []
    run_spans = gemm.run_spans
    monkeypatch.setattr(gemm, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(gemm, "run_spans", lambda f, s: (spans.append(len(s)), run_spans(f, s)))
    np.testing.assert_array_equal(sparse.matmul(packed, x, shift=-3, threads=3), expected)
    assert spans == [3]
    monkeypatch.setattr(sparse, "REACH", 90 * 300 * 2)
    np.testing.assert_array_equal(sparse.matmul(packed, x, shift=-3, threads=2), expected)
    assert len(spans) > 2


def test_what_does_not_fit_is_refused():
    packed = sparse_pack.pack_blocks(np.ones((4, 8), np.uint8), "fp4")
    with pytest.raises(SparseError, match=r"take codes \(8, N\)"):
        sparse.matmul(packed, np.zeros((7, 3), np.uint8))
    with pytest.raises(FormatError, match="lie below 16"):
        sparse.matmul(packed, np.full((8, 3), 16, np.uint8))
    with pytest.raises(AccumulatorError, match="the accumulator holds"):
        sparse.prepare(
            sparse_pack.pack_blocks(np.ones((1, 128), np.uint8), "posit8"), bias=[2.0**60]
        )
    assert sparse.matmul(packed, np.zeros((8, 0), np.uint8)).shape == (4, 0)


@pytest.mark.parametrize("isa", THERE, ids=lambda isa: isa.name)
def test_every_instruction_set_gives_the_same_bits(isa, monkeypatch):
    monkeypatch.setattr(cpu, "host", lambda: isa)
    sparse_float.choose.cache_clear()
    rng = np.random.default_rng(34)
    for name in ("fp4", "posit4", "posit8"):
        for height in (1, 2, 4):
            weights = thinned(codes(name, (11, 130), rng), 0.5, height, rng)
            x = codes(name, (130, 300), rng)
            packed = sparse_pack.pack_blocks(weights, name, height)
            expected = sparse_product.matmul(packed, x[:, :3], shift=-4)
            got = sparse.matmul(packed, x, shift=-4)
            np.testing.assert_array_equal(got[:, :3], expected)
            np.testing.assert_array_equal(got, sparse.matmul(packed, x, shift=-4, force="dense"))
    for height in (1, 2, 4):
        floats(np.random.default_rng(35), 11, 60, 150, 0.5, height)
    sparse_float.choose.cache_clear()


# -- float32 --------------------------------------------------------------------------------------
def floats(rng, m, k, n, density, height, **options):
    weights = thinned(rng.normal(size=(m, k)), density, height, rng).astype(np.float32)
    x, bias = rng.normal(size=(k, n)).astype(np.float32), rng.normal(size=m)
    packed = sparse_float.pack(weights, height, sort=bool(rng.random() < 0.5))
    got = sparse_float.multiply(packed, x, bias, clamp=(-1.0, 2.5), **options)
    expected = np.clip(weights.astype(float) @ x + bias[:, None], -1.0, 2.5)
    np.testing.assert_allclose(got, expected, atol=1e-5 * (k + 1) ** 0.5, rtol=1e-5)
    return packed, x


def test_float_kernels_on_random_shapes():
    rng = np.random.default_rng(40)
    for case in range(330):
        m, k, n = (int(v) for v in rng.integers(1, 120, 3))
        density = DENSITIES[case % len(DENSITIES)]
        floats(rng, m, k, n, density, (1, 2, 4)[case % 3], threads=case % 2 + 1)


@pytest.mark.parametrize("height", [1, 2, 4])
def test_float_results_do_not_depend_on_alignment_or_threads(height, monkeypatch):
    rng = np.random.default_rng(41)
    packed, x = floats(rng, 48, 200, 512, 0.4, height)
    first = sparse_float.multiply(packed, x)
    monkeypatch.setattr(sparse_float, "WORTH_A_THREAD", 1)
    raw = np.empty(x.size + 32, dtype=np.float32)
    for skip in range(0, 17, 3):
        moved = raw[skip : skip + x.size].reshape(x.shape)
        moved[:] = x
        np.testing.assert_array_equal(sparse_float.multiply(packed, moved, threads=3), first)


def test_float_infinities_and_nan_reach_what_they_meet():
    weights = np.array([[1, 0, 2], [0, 0, 3]], np.float32)
    x = np.zeros((3, 70), np.float32)
    x[0, 5], x[2, 9] = np.inf, np.nan
    got = sparse_float.multiply(sparse_float.pack(weights), x)
    assert got[0, 5] == np.inf and got[1, 5] == 0 and np.isnan(got[:, 9]).all()


def test_float_weights_that_do_not_fit_are_refused():
    with pytest.raises(SparseError, match="blocks of 3 rows"):
        sparse_float.pack(np.ones((3, 3)), 3)
    with pytest.raises(SparseError, match="got shape"):
        sparse_float.pack(np.ones(3))
    with pytest.raises(SparseError, match=r"take x \(3, N\)"):
        sparse_float.multiply(sparse_float.pack(np.ones((3, 3))), np.ones((4, 3)))


def test_a_float_bias_left_out_is_caught():
    weights, x = np.ones((4, 5), np.float32), np.ones((5, 40), np.float32)
    packed = sparse_float.pack(weights, 4)
    assert (sparse_float.multiply(packed, x, np.arange(4.0)) == 5 + np.arange(4.0)[:, None]).all()
    assert (sparse_float.multiply(packed, x) == 5).all()


# -- without a compiler, and for machines that are not here ---------------------------------------
UNCOMPILED = """
import numpy as np
from opennpe.golden import sparse_pack
from opennpe.sim import sparse, sparse_float
weights = np.zeros((5, 9), np.uint8); weights[1, 2] = weights[4, 8] = 3
x = np.arange(9 * 4, dtype=np.uint8).reshape(9, 4) % 16
product = sparse.prepare(sparse_pack.pack_delta(weights, "fp4", 1))
print(product.path, product(x).tolist())
print(sparse_float.multiply(sparse_float.pack(weights), x.astype(np.float32)).tolist())
"""


def test_without_a_compiler_the_results_are_the_same():
    outputs = []
    for disabled in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run([sys.executable, "-c", UNCOMPILED], env=environment, text=True,
                              capture_output=True, check=True)  # fmt: skip
        outputs.append(done.stdout.splitlines())
    assert outputs[0][0].replace("sparse u8", "dense") == outputs[1][0]
    assert outputs[0][1] == outputs[1][1]


PROCESSORS = {"avx512vnni": "icelake-server", "avx512": "skylake-avx512", "avx2": "haswell"}


@pytest.mark.skipif("x86_64" not in llvm.get_default_triple(), reason="not an x86 machine")
@pytest.mark.parametrize("kind", sparse_ir.KINDS)
@pytest.mark.parametrize("isa", [i for i in cpu.ISAS if i.name in PROCESSORS], ids=lambda i: i.name)
def test_the_inner_loop_is_the_instruction_meant(isa, kind):
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    wanted = {"f32": "vfmadd", "u8": "vpmaddubsw", "i16": "vpmaddwd"}[kind]
    if (isa.dot, kind) == ("fused", "i16"):
        wanted = "vpdpwssd"
    build = sparse_ir._Floats if kind == "f32" else sparse_ir._Integers
    module = ir.Module()
    module.triple = llvm.get_default_triple()
    build(kind, 4, 1, isa).function(module).linkage = "external"
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=PROCESSORS[isa.name], opt=3
    )
    lines = machine.emit_assembly(parsed).splitlines()
    register = "zmm" if isa.vector_bits == 512 else "ymm"
    found = [line for line in lines if wanted in line and register in line]
    assert len(found) >= (4 if kind == "f32" else 8)
