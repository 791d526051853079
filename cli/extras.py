"""What optional parts of the installation are for, when they are missing."""

from __future__ import annotations

import importlib.util

from opennpe.golden.errors import ToolError

__all__ = ["need_torch"]


def need_torch(verb: str) -> None:
    """Go on only with PyTorch.

    Raises:
        ToolError: it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ToolError(f"opennpe {verb} needs PyTorch: pip install 'opennpe[qat]'")
