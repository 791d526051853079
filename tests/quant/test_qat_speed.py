"""A training step costs at most twice the float step; a ratio within one run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'qat': pip install 'opennpe[qat]'")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "qat_speed.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qat_speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["fp4", "posit16"])
def test_a_step_costs_at_most_twice_the_float_step(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = [script().ratio(name, "fashion", 64, 12)[1] for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert min(measured) < 2.0, measured
