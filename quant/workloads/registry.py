"""Workloads by name."""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import Any

from opennpe.golden.errors import DataError
from opennpe.quant.workloads.base import Workload

__all__ = ["NAMES", "get"]

# Modules are imported when asked for: each brings what only it needs.
_PLACES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fashion": ("fashion", "Fashion", {"network": "small"}),
    "mobilenet": ("fashion", "Fashion", {"network": "mobilenet"}),
    "gaze": ("gaze", "Gaze", {}),
    "vio": ("vio", "Vio", {}),
    "resnet20-cifar10": ("cifar", "Cifar", {}),
}
NAMES = tuple(_PLACES)
"""All workloads, as commands call them."""


def get(name: str, **options: Any) -> Workload:
    """A workload; ``options`` are its constructor's (``data``, ``width``, ``seed``, ...).

    Raises:
        DataError: no such workload, or one without such an option; the message lists those
            there are.
    """
    if name not in _PLACES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f", did you mean '{near[0]}'" if near else ""
        raise DataError(f"no workload '{name}'{hint}: there are {', '.join(NAMES)}")
    module, kind, fixed = _PLACES[name]
    build = getattr(import_module(f"opennpe.quant.workloads.{module}"), kind)
    known = [n for n in inspect.signature(build).parameters if n not in fixed]
    for option in options:
        if option not in known:
            raise DataError(
                f"workload '{name}' has no option '{option}': expected {', '.join(known) or 'none'}"
            )
    workload: Workload = build(**fixed, **options)
    return workload
