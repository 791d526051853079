"""``opennpe bench --softmax``: what it refuses, what it reports, what it would say of a miss."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from opennpe.cli import bench_softmax as bench
from opennpe.cli.bench_command import save_pictures
from opennpe.cli.errors import CheckFailed
from opennpe.golden.errors import DataError

TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")


@pytest.mark.fast
@pytest.mark.parametrize(("sizes", "repeat"), [((), 3), ((1024,), 0), ((10,), 3)])
def test_nothing_to_measure_is_refused(sizes: tuple[int, ...], repeat: int) -> None:
    with pytest.raises(DataError, match="rows of 64 elements or more"):
        bench.bench_softmax(sizes, repeat)


@TORCH
def test_a_small_run(tmp_path: Path) -> None:
    report = bench.bench_softmax((1 << 10, 1 << 17), 1)
    summary = json.loads(json.dumps(report.summary()))
    assert {row["elements"] for row in summary["rows"]} == {1 << 10, 1 << 17}
    assert len(summary["rows"]) == 2 * len({row["kernel"] for row in summary["rows"]})
    assert not report.claims and "targets are stated for" in summary["notes"][1]
    assert bench.table(report).row_count == 2
    (picture,) = save_pictures("softmax", report, tmp_path / "new")
    assert picture.read_bytes().startswith(b"\x89PNG")


@TORCH
def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.softmax
    monkeypatch.setattr(bench, "softmax", lambda *a, **k: right(*a, **k) * 1.001)
    with pytest.raises(CheckFailed, match="softmax of 1024 elements by auto is off by 1.0e-03"):
        bench.bench_softmax((1 << 10,), 1)


@pytest.mark.fast
def test_a_miss_is_a_miss() -> None:
    rows = [
        bench.SoftmaxTiming(size, kernel, ns, 1.0)
        for size in (1024, bench.STATED)
        for kernel, ns in {"auto": 1.0, "two-pass": 1.0, "three-pass": 1.1, "torch": 2.5,
                           "three-pass-reload": 1.3, "auto allocating": 1.0,
                           "torch allocating": 3.5, "memory": 0.8}.items()
    ]  # fmt: skip
    met = [claim.met for claim in bench._claims(rows)]
    assert met == [False, True, False, False, False]
