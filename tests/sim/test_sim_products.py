"""Products by every path against golden's exact sums; certificates against planted faults."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from numba import njit
from opennpe import sim
from opennpe.golden import formats, mac
from opennpe.golden.errors import AccumulatorError, FormatError
from opennpe.sim import affine, cpu, gemm, packing, quire, steps, wide
from opennpe.sim.encode import target
from opennpe.sim.matmul import matmul, sides
from opennpe.sim.microkernel import ADD, KINDS, STORE, micro
from opennpe.sim.operands import grid_units, operands

ENGINE = formats.ENGINE_FORMATS
OTHERS = ("int4", "int8", "fp6_e2m3", "fp8_e4m3", "fp8_e5m2", "bf16", "posit(12,2)", "posit(10,1)")
PATHS = ("", "split", "limbs", "golden")


def codes(name, shape, rng, nan=False):
    """Half random codes, half values around one; NaR only where asked for."""
    fmt = formats.get(name)
    picked = rng.integers(0, 1 << fmt.bits, shape).astype(fmt.dtype)
    picked = np.where(rng.random(shape) < 0.5, picked, fmt.encode(rng.normal(size=shape), "zero"))
    return picked if nan else np.where(np.isfinite(fmt.decode(picked)), picked, 0).astype(fmt.dtype)


def by_golden(a, b, out, left, right, shift, underflow, bias=None):
    return np.array(
        [
            [
                mac.dot(a, row, column, 0.0 if bias is None else bias[j], shift, underflow,
                        b_format=b, out_format=out)
                for j, column in enumerate(right.T)
            ]
            for row in left
        ]
    )  # fmt: skip


@pytest.mark.parametrize("force", PATHS)
@pytest.mark.parametrize(("a", "b"), itertools.product(ENGINE, ENGINE))
def test_engine_formats_by_every_path(a, b, force):
    rng = np.random.default_rng([ENGINE.index(a), ENGINE.index(b), PATHS.index(force)])
    for out in ENGINE:
        m, k, n = rng.integers(1, 9), rng.integers(1, 150), rng.integers(1, 20)
        nan = out != "fp4" and rng.random() < 0.5
        left, right = codes(a, (m, k), rng, nan), codes(b, (k, n), rng, nan)
        bias = rng.normal(size=n) * 4 if rng.random() < 0.5 else None
        for underflow in ("minpos", "zero"):
            shift = int(rng.integers(-9, 4))
            got = matmul(a, left, right, shift, underflow, b_format=b, out_format=out, bias=bias,
                         force=force, threads=2)  # fmt: skip
            expected = by_golden(a, b, out, left, right, shift, underflow, bias)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_by_every_path(name):
    rng = np.random.default_rng(len(name))
    left, right = codes(name, (5, 33), rng), codes(name, (33, 18), rng)
    expected = by_golden(name, name, name, left, right, -2, "minpos")
    for force in PATHS:
        np.testing.assert_array_equal(matmul(name, left, right, -2, force=force), expected)


def test_an_infinity_makes_the_sum_nan():
    left = np.array([[0x7F80, 0x3F80]], dtype=np.uint16)
    right = np.array([[0x3F80], [0x3F80]], dtype=np.uint16)
    assert matmul("bf16", left, right)[0, 0] == mac.dot("bf16", left[0], right[:, 0])


@pytest.mark.parametrize("name", ENGINE)
def test_maxpos_to_the_last_term(name):
    """The longest sum of the largest products: int32 would overflow, float64 would round."""
    fmt = formats.get(name)
    largest = int(np.nanargmax(np.where(np.isfinite(fmt.values), fmt.values, -1)))
    depth = min(mac.max_terms(name), 40_000)
    left = np.full((1, depth), largest, dtype=fmt.dtype)
    right = np.full((depth, 2), largest, dtype=fmt.dtype)
    right[-1, 1] = fmt.encode(fmt.minpos)
    shift = -int(np.log2(depth * fmt.maxpos))
    for column in range(2):
        values = fmt.decode(right[:, column]).tolist()
        total = sum(int(fmt.maxpos * 2**28) * int(v * 2**28) for v in values)
        expected = mac.round_sum(fmt, total, shift - 56)
        assert matmul(name, left, right, shift)[0, column] == expected


def test_terms_and_shapes_are_checked():
    with pytest.raises(AccumulatorError, match="32768 terms of posit16 x posit16.*32767"):
        matmul("posit16", np.zeros((1, 32768), np.uint16), np.zeros((32768, 1), np.uint16))
    with pytest.raises(FormatError, match="got shapes"):
        matmul("fp4", np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(FormatError, match="NaR and fp4"):
        matmul("posit4", np.full((1, 1), 8, np.uint8), np.ones((1, 1), np.uint8), out_format="fp4")
    with pytest.raises(FormatError, match="unknown format"):
        sim.matmul("posit5", np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize("isa", [i for i in cpu.ISAS if all(map(cpu.features().get, i.needs))])
def test_every_instruction_set_gives_the_same_sums(isa):
    """All micro-kernels this machine can run, on operands at the ends of their ranges."""
    rng = np.random.default_rng(7)
    for kind in KINDS.values():
        kernel = micro(kind.name, isa)
        low, high = {"u8": (-12, 13), "i16": (-300, 301), "f64": (-9, 10)}[kind.name]
        dtypes = {"u8": (np.uint8, np.int8)}.get(
            kind.name, (f"{kind.name[0]}{kind.value_bytes}",) * 2
        )
        for depth, rows in ((1, 1), (37, 7), (1000, 13)):
            a = rng.integers(0 if kind.name == "u8" else low, 25 if kind.name == "u8" else high,
                             (rows, depth))  # fmt: skip
            b = rng.integers(low, high, (depth, 21))
            a[0], b[:, 0] = (24 if kind.name == "u8" else high - 1), high - 1
            b[:, 1] = low
            left = np.zeros(a.size + packing.SLACK, dtype=dtypes[0])
            left[: a.size] = a.reshape(-1)
            panels = packing.pack_panels(b.astype(dtypes[1]), kind.group, kernel.nr)
            walk = packing.segments(((0, depth),), kind, 1 << 30)
            sums = _sums(kernel, left, depth, rows, walk, panels)
            np.testing.assert_array_equal(sums[:rows, :21], a @ b)


def _sums(kernel, left, depth, rows, walk, panels):
    dtype = np.float64 if kernel.kind.name == "f64" else np.int32
    height = -(-rows // kernel.mr) * kernel.mr
    sums = np.empty((height, len(panels) * kernel.nr), dtype=dtype)
    place = np.minimum(np.arange(height + kernel.mr), rows - 1) * depth * left.itemsize
    table = place + left.ctypes.data
    span = (0, rows, 0, len(panels))
    gemm._sum_block(kernel.marker, kernel.mr, table, 0, rows, span, walk.table, panels, sums)
    return sums


def test_a_machine_without_our_vector_code_gives_the_same_codes(tmp_path):
    rng = np.random.default_rng(3)
    script = (
        "import numpy as np; from opennpe import sim; from opennpe.sim import cpu;"
        "assert cpu.host().name == 'plain';"
        "d = np.load(%r); print([sim.matmul(f, d[f + 'a'], d[f + 'b'], -3).tolist()"
        " for f in ('fp4', 'posit4', 'posit8', 'posit16')])"
    )
    held = {n + s: codes(n, (9, 9), rng) for n in ENGINE for s in "ab"}
    expected = str([matmul(n, held[n + "a"], held[n + "b"], -3).tolist() for n in ENGINE])
    path = tmp_path / "codes.npz"
    np.savez(path, **held)
    done = subprocess.run(
        [sys.executable, "-c", script % str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENNPE_ISA": "plain"},
    )
    assert done.stdout.strip() == expected, done.stderr[-2000:]


# -- the certificate ------------------------------------------------------------------------------
def network_like(rng, m=40, k=300, n=30):
    fmt = formats.get("posit16")
    left = fmt.encode(rng.normal(size=(m, k)), "zero")
    right = fmt.encode(rng.normal(size=(k, n)) / 2, "zero")
    left.flat[::577] = fmt.encode(1e-7 * rng.normal(size=left.flat[::577].shape))
    right.flat[::1177] = fmt.encode(1e-6 * rng.normal(size=right.flat[::1177].shape))
    return left, right


def path_of(name, left, right):
    taken = []
    original = affine.multiply

    def spy(*arguments):
        taken.append(original(*arguments))
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine, "multiply", spy)
        result = matmul(name, left, right, -4)
    return taken[0], result


@pytest.mark.parametrize("seed", range(8))
def test_tails_keep_float64_exact(seed):
    left, right = network_like(np.random.default_rng(seed))
    path, result = path_of("posit16", left, right)
    assert path == "f64 tails"
    np.testing.assert_array_equal(result, matmul("posit16", left, right, -4, force="limbs"))


def adversarial(kind, rng):
    """Operands that plain float64 sums would get wrong."""
    fmt = formats.get("posit16")
    shape_a, shape_b = (12, 200), (200, 9)
    if kind == "any codes":
        return codes("posit16", shape_a, rng), codes("posit16", shape_b, rng)
    if kind == "extremes":
        picks = np.array([fmt.minpos, fmt.maxpos, -fmt.maxpos, 1.0, -fmt.minpos])
        return (fmt.encode(rng.choice(picks, s)) for s in (shape_a, shape_b))
    if kind == "cancellation":
        half = fmt.encode(rng.normal(size=(12, 100)) * 2.0 ** rng.integers(-20, 20, (12, 100)))
        b = fmt.encode(rng.normal(size=(100, 9)) * 2.0 ** rng.integers(-20, 20, (100, 9)))
        left = np.concatenate([half, (-half.astype(np.int32) & 0xFFFF).astype(np.uint16)], axis=1)
        left[:, -1] = 1
        return left, np.concatenate([b, b])
    spread = fmt.encode(rng.normal(size=shape_a) * 2.0 ** rng.integers(-25, 3, shape_a))
    return spread, fmt.encode(rng.normal(size=shape_b))


@pytest.mark.parametrize("kind", ["any codes", "extremes", "cancellation", "wide spread"])
@pytest.mark.parametrize("seed", range(5))
def test_adversarial_operands(kind, seed):
    left, right = adversarial(kind, np.random.default_rng(seed))
    got = matmul("posit16", left, right, -2)
    expected = by_golden("posit16", "posit16", "posit16", left, right, -2, "minpos")
    np.testing.assert_array_equal(got, expected)


def test_a_certificate_that_lets_too_much_through_is_caught(monkeypatch):
    """With every sum taken for exact, float64 rounds on the way and a code comes out wrong."""
    left, right = adversarial("cancellation", np.random.default_rng(0))
    expected = matmul("posit16", left, right, -4, force="limbs")
    everything = wide.Certificate(0, 0, 0, 0)
    monkeypatch.setattr(wide, "certify", lambda *_: everything)
    path, result = path_of("posit16", left, right)
    assert path == "f64" and not np.array_equal(result, expected)


def test_an_int32_bound_that_lets_too_much_through_is_caught(monkeypatch):
    fmt = formats.get("posit8")
    left = np.full((1, 400), fmt.encode(64.0), np.uint8)
    right = np.full((400, 1), fmt.encode(64.0), np.uint8)
    expected = by_golden("posit8", "posit8", "posit8", left, right, -16, "minpos")
    assert path_of("posit8", left, right)[0] == "i16 split"
    np.testing.assert_array_equal(matmul("posit8", left, right, -16), expected)
    monkeypatch.setattr(affine.Right, "largest_column", property(lambda self: 1))
    assert not np.array_equal(matmul("posit8", left, right, -16), expected)


def test_the_certificate_follows_its_proof():
    """Kept elements are multiples of the thresholds, and the bounds hold for the real sums."""
    rng = np.random.default_rng(5)
    left, right = network_like(rng)
    a, b = sides("posit16", "posit16", left, right)
    found = wide.certify(a.side, b.side, 1.0, 1.0, 1e9)
    assert found is not None and found.left_tail + found.right_tail > 0
    integers = [operands("posit16", "posit16").left[c].astype(object) for c in (left, right)]
    whole = [np.vectorize(int, otypes=[object])(v) for v in integers]
    kept = [
        np.where(np.vectorize(lambda v, t=t: v % (1 << t) == 0)(w), w, 0)
        for w, t in zip(whole, (found.left, found.right), strict=True)
    ]
    unit = 1 << (max(found.left, a.side.lowest) + max(found.right, b.side.lowest))
    worst = np.abs(kept[0]) @ np.abs(kept[1])
    assert worst.max() <= (1 << 53) * unit
    assert ((kept[0] @ kept[1]) % unit == 0).all()


# -- pieces ---------------------------------------------------------------------------------------
@njit
def _join(a, b, c, d, e):
    return quire.join_odd(a, b, c, d, e)


def test_wide_sums_round_to_odd():
    random.seed(1)
    for _ in range(3000):
        bits = random.randint(1, 126)
        value = random.getrandbits(bits) - random.getrandbits(bits)
        if random.random() < 0.3:
            value = (random.getrandbits(20) << random.randint(0, 100)) + random.choice([0, 1, -1])
        size = abs(value)
        cut = max(size.bit_length() - 53, 0)
        mantissa = size >> cut
        mantissa |= mantissa << cut != size
        assert _join(*quire.split(value)) == float(mantissa) * 2.0**cut * (1 if value > 0 else -1)


@pytest.mark.fast
@pytest.mark.parametrize("underflow", ["minpos", "zero"])
@pytest.mark.parametrize("name", ["fp4", "posit4"])
def test_steps_round_as_the_general_kernel(name, underflow):
    rng = np.random.default_rng(2)
    n = 64
    offset, factor = rng.integers(-50, 50, n).astype(float), 2.0 ** rng.integers(-9, 3, n)
    sums = rng.integers(-1000, 1000, (64, n)).astype(np.int32)
    sums[::3] = -offset.astype(np.int32) + np.arange(-11, 11)[:, None]
    for bounds in ((-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (0.0, 1.3)):
        made = steps.make(name, underflow, offset, factor, bounds, 10**6)
        fast, slow = np.empty((2, 64, n), np.uint8)
        steps.finish(sums, fast, 0, 0, n, made)
        general = gemm.Epilogue(offset, factor, *bounds, 0, target(name, underflow))
        gemm.round_block(sums, np.empty((0, 0)), slow, 0, 0, n, general)
        np.testing.assert_array_equal(fast, slow)
    assert steps.make("posit8", underflow, offset, factor, bounds, 10) is None
    assert steps.make(name, underflow, offset, factor, (-1.0, 1.0), 10) is None
    assert steps.make(name, underflow, offset, factor, bounds, 1 << 31) is None


@pytest.mark.fast
def test_biases_enter_the_grid_as_golden_has_it():
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(size=50), [0.0, 0.5, 1.5, -2.5, 1e300, 1e-300, 2.0**70]])
    exponents = rng.integers(-60, 20, values.size)
    exponents[50:54] = 0
    expected = [mac.to_grid(float(v), int(e)) for v, e in zip(values, exponents, strict=True)]
    assert [int(v) for v in grid_units(values, exponents)] == expected
    assert [int(v) for v in grid_units(values[:50], exponents[:50])] == expected[:50]


@pytest.mark.fast
def test_segments_cover_k_once_and_flush_in_time():
    for name, runs, terms in (
        ("u8", ((0, 1000), (4000, 3)), 1 << 30),
        ("i16", ((0, 64),) * 9, 127),
        ("u8", tuple((8 * i, 5) for i in range(40)), 33),
        ("f64", ((0, 70_000),), 1 << 15),
    ):
        kind = KINDS[name]
        walk = packing.segments(runs, kind, terms)
        groups = walk.table[:, 1]
        assert groups.sum() == walk.groups == sum(-(-length // kind.group) for _, length in runs)
        assert walk.table[-1, 2] and walk.chunks[:, 1].sum() == len(groups)
        for first, count, place in walk.chunks:
            flushes = walk.table[first : first + count, 2]
            flushes = flushes[flushes > 0].tolist()
            assert flushes == [STORE] + [ADD] * (len(flushes) - 1)
            part = groups[first : first + count]
            assert part.sum() * kind.group <= max(terms, kind.group)
            assert place == groups[:first].sum()
        since = 0
        for taken, flush in walk.table[:, 1:]:
            since += taken
            assert since <= packing.FLUSH_GROUPS
            since = 0 if flush else since
