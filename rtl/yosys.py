"""Yosys, from the wheel pyosys, in a process of its own: an error there ends the process."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from opennpe.golden.errors import ToolError

__all__ = ["run"]

PROGRAM = """
import sys
from pyosys import libyosys
design = libyosys.Design()
with open(sys.argv[1], encoding="utf-8") as script:
    for command in script.read().split("\\n"):
        libyosys.run_pass(command, design)
"""


def run(*commands: str, timeout_s: float | None = None) -> str:
    """Run passes on an empty design, in order.

    Args:
        commands: one pass each, without line breaks.
        timeout_s: give up after so long; never, if None.

    Returns:
        Yosys's log.

    Raises:
        ToolError: pyosys is not installed, a pass failed, or it took too long.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise ToolError("pyosys is missing: install it with pip install 'opennpe[rtl]'")
    with tempfile.TemporaryDirectory(prefix="opennpe-yosys-") as folder:
        script, log = Path(folder, "script"), Path(folder, "log")
        script.write_text("\n".join(commands), encoding="utf-8")
        with log.open("wb") as out:
            try:
                done = subprocess.run(
                    [sys.executable, "-c", PROGRAM, str(script)],
                    stdout=out,
                    stderr=subprocess.PIPE,
                    timeout=timeout_s,
                )
            except subprocess.TimeoutExpired:
                raise ToolError(f"Yosys did not finish within {timeout_s:g} s") from None
        text = log.read_text(encoding="utf-8", errors="replace")
        if done.returncode:
            errors = done.stderr.decode(errors="replace")
            found = re.findall(r"ERROR: (.*)", errors + text)
            why = found[0] if found else (errors.strip().splitlines() or ["no message"])[-1]
            raise ToolError(f"Yosys failed: {why}")
        return text
