"""The tables of docs/softmax.md are what their script prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from opennpe.golden.softmax import SoftmaxSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "softmax.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "softmax_tables", ROOT / "scripts" / "softmax_tables.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_tables(script: ModuleType) -> None:
    lines = script.tables()
    assert len(lines) > 50
    assert "\n".join(lines[:8]).strip() in PAGE
    page = set(PAGE.splitlines())
    assert [line for line in lines if line not in page] == []


@pytest.mark.fast
def test_the_page_states_the_bounds() -> None:
    for mode, text in (("exact", "1.22e-4 (exact)"), ("truncating", "1.26e-4 (truncating)")):
        bound = SoftmaxSpec(mode=mode).error_bound(1024)  # type: ignore[arg-type]
        assert f"{bound * 1e4:.2f}e-4 ({mode})" == text and text in PAGE


def test_deferred_division_repairs_posit8(script: ModuleType) -> None:
    """The claims, not only the figures: what normalised posit8 does, and each cure."""
    codes, exact = script.logits(197, 1.0)

    def l1(*way: object) -> float:
        return float(np.abs(script.probabilities(codes, *way) - exact).sum(axis=1).mean())

    normalised = script.probabilities(codes, "posit8", 0, "minpos", False)
    assert normalised.sum(axis=1).mean() == pytest.approx(3.17, abs=0.01)
    assert l1("posit8", 0, "minpos", False) > 2.2
    assert l1("posit8", 0, "zero", True) < 0.04
    assert l1("posit8", 6, "zero", False) < 0.02
    assert l1("posit16", 0, "zero", False) < 0.001
    for length, sum_ in ((511, 511 / 256), (512, 0.0)):
        row = np.zeros((1, length), dtype=np.uint16)
        assert script.probabilities(row, "u0.8", 0, "zero", False).sum() == sum_
