"""mypy over the rooms under their full names.

An editable install maps ``opennpe.golden`` to ``golden/`` by an import hook that mypy does not
follow, so a folder of links stands in for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("golden", "tech", "rtl", "fpga", "sim", "quant", "host", "cli")
STRICT = ("golden", "tech", "sim", "quant", "host", "fpga", "cli")


def main() -> int:
    """Check the strict rooms; the exit status is mypy's."""
    links = ROOT / "build" / "typing" / "opennpe"
    links.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = links / room
        if not link.is_symlink():
            link.symlink_to(ROOT / room)
    packages = [word for room in STRICT for word in ("-p", f"opennpe.{room}")]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    environment = {**os.environ, "MYPYPATH": str(links.parent)}
    return subprocess.run([*command, *packages], cwd=links.parent, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
