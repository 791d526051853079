"""Kernels are cached between runs, and compiled again when any source of the room changes."""

import importlib.util

import pytest
from opennpe.sim import jit

pytestmark = pytest.mark.fast

SOURCE = """
from opennpe.sim.jit import kernel

@kernel()
def plus_one(x):
    return x + 1
"""


def loaded(path):
    """The module as a new process would see it."""
    spec = importlib.util.spec_from_file_location("cached_kernel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.plus_one(41) == 42
    return sum(module.plus_one.stats.cache_hits.values())


def test_a_kernel_is_cached_until_another_source_changes(tmp_path, monkeypatch):
    path = tmp_path / "cached_kernel.py"
    path.write_text(SOURCE)
    assert loaded(path) == 0
    assert loaded(path) == 1
    changed = (*jit._stamp(), ("encode.py", 1, 2))
    monkeypatch.setattr(jit, "_stamp", lambda: changed)
    assert loaded(path) == 0
    assert loaded(path) == 1


def test_the_stamp_knows_every_source_of_the_room():
    names = {name for name, _, _ in jit._stamp()}
    assert {"encode.py", "words.py", "gemm.py", "elementwise.py"} <= names
