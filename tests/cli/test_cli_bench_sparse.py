"""The sparse bench checks before it times, counts what it says, and notices a wrong kernel."""

import json

import numpy as np
import pytest
from opennpe.cli import bench_sparse as bench
from opennpe.cli.errors import CheckFailed
from opennpe.golden.errors import DataError
from opennpe.sim import sparse, sparse_float

SMALL = (16, 24, 70)
DENSITIES = (0.5, 0.1)


@pytest.fixture(scope="module")
def report():
    return bench.bench_sparse(SMALL, DENSITIES, repeat=1)


def test_every_kernel_is_timed_at_every_density(report):
    kernels = {(r.kernel, r.block) for r in report.rows if r.block != "dense"}
    assert {("float32", b) for b in ("1x1", "2x1", "4x1")} <= kernels
    assert {(f, b) for f in bench.FORMATS for b in ("1x1", "4x1")} <= kernels
    for key in kernels:
        assert {r.density for r in report.rows if (r.kernel, r.block) == key} == set(DENSITIES)
    assert all(r.milliseconds > 0 and r.speedup > 0 for r in report.rows)
    assert {(b.kernel, b.block) for b in report.break_even} == kernels
    assert report.claims == () and any("targets are stated" in n for n in report.notes)


def test_the_report_is_json_and_draws(report):
    held = json.loads(json.dumps(report.summary()))
    assert held["shape"] == list(SMALL) and held["storage"] and held["break_even"]
    assert set(bench.figures(report)) == {"sparse_speed.png", "sparse_storage.png"}
    assert bench.table(report).row_count == len(report.break_even)


def test_claims_are_made_of_the_rows_they_name():
    def row(kernel, block, density, ms, speed):
        return bench.SparseTiming(kernel, block, density, ms, speed, speed)

    rows = [row("float32", "dense", 1.0, 10.0, 1.0), row("scipy CSR", "1x1", 0.1, 5.0, 2.0)]
    for kernel, block, ms, speed in (
        ("float32", "1x1", 2.5, 4.0),
        ("float32", "4x1", 1.0, 6.0),
        ("fp4", "4x1", 1.0, 2.0),
        ("posit8", "4x1", 1.0, 1.0),
    ):
        rows.append(row(kernel, block, 0.1, ms, speed))
    assert [(c.ratio, c.met) for c in bench._claims(rows)] == [
        (4.0, True), (2.0, True), (6.0, False), (2.0, True), (1.0, False)
    ]  # fmt: skip


def test_break_even_lies_between_the_densities_around_it():
    def rows(speeds):
        return [
            bench.SparseTiming("k", "1x1", d, 1.0, s, s)
            for d, s in zip((0.8, 0.4, 0.1), speeds, strict=True)
        ]

    assert bench._break_even(rows((0.5, 2.0, 4.0)))[0].density == pytest.approx(0.4 + 0.4 / 3)
    assert bench._break_even(rows((1.5, 2.0, 4.0)))[0].density == 0.8
    assert bench._break_even(rows((0.2, 0.3, 0.4)))[0].density is None


def test_storage_grows_with_density_and_is_made_of_its_parts():
    held = bench.storage((0.1, 0.5))
    for row in held:
        if row.parts:
            assert sum(row.parts.values()) == pytest.approx(row.per_weight)
    by_name = {}
    for row in held:
        by_name.setdefault(row.packing, []).append(row.per_weight)
    assert all(v == sorted(v) for v in by_name.values())
    assert by_name["2:4"] == [3.0] and by_name["1:4"] == [1.5]


def test_a_wrong_exact_kernel_stops_the_bench(monkeypatch):
    right = sparse.Product.__call__

    def wrong(self, x):
        out = right(self, x)
        out[0, 0] ^= 1
        return out

    monkeypatch.setattr(sparse.Product, "__call__", wrong)
    with pytest.raises(CheckFailed, match="differs from the dense one"):
        bench.bench_sparse(SMALL, DENSITIES, repeat=1)


def test_a_wrong_float_kernel_stops_the_bench(monkeypatch):
    right = sparse_float.multiply
    monkeypatch.setattr(sparse_float, "multiply", lambda *a, **k: right(*a, **k) + np.float32(0.1))
    with pytest.raises(CheckFailed, match="float32 1x1 kernel differs"):
        bench.bench_sparse(SMALL, DENSITIES, repeat=1)


def test_nothing_to_time_is_refused():
    for arguments in ((SMALL, ()), ((0, 4, 4), DENSITIES), (SMALL, DENSITIES, 0)):
        with pytest.raises(DataError, match="bench takes"):
            bench.bench_sparse(*arguments)
