"""Results of synthesis, JSON, made once and kept in the user's cache."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opennpe.fpga import toolchain
from opennpe.golden.whole import replacing
from opennpe.rtl import verilated

__all__ = ["kept"]


def kept(folder: str, make: Callable[[], dict[str, Any]], *parts: str) -> dict[str, Any]:
    """What ``make`` gives, made only if the cache does not have it.

    Args:
        folder: of the cache, for one sort of results.
        make: makes the result, JSON-ready.
        parts: what it is known by, beside the version of Yosys.

    Raises:
        ToolError: pyosys is missing.
    """
    name = f"{verilated.content(*parts, toolchain.yosys_version())}.json.gz"
    target = verilated.cache_folder().parent / folder / name
    if target.is_file():
        # A damaged entry is made again.
        with suppress(OSError, EOFError, ValueError):
            found: dict[str, Any] = json.loads(gzip.decompress(target.read_bytes()))
            return found
    made = make()
    # A cache that cannot be written costs time, not the result.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(made).encode(), 5))
    return made
