"""Whole networks and matrix products, fast and exact to the bit; golden is the judge.

Names are imported when they are first asked for: numba takes its time, and who only asks for help
need not wait for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opennpe.sim.executor import LayerTrace, Trace, run
    from opennpe.sim.matmul import matmul

__all__ = ["LayerTrace", "Trace", "matmul", "run"]

_HOMES = {"LayerTrace": "executor", "Trace": "executor", "matmul": "matmul", "run": "executor"}


class _Room(ModuleType):
    """Keeps ``opennpe.sim.matmul`` a function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
