"""The rooms: imported by their full names only, and only forwards."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "golden": set(),
    "tech": {"golden"},
    "rtl": {"golden"},
    "sim": {"golden", "tech"},
    "quant": {"golden"},
    "fpga": {"golden", "rtl", "tech"},
    "host": {"golden", "rtl", "sim"},
    "cli": {"golden", "tech", "rtl", "sim", "quant", "fpga", "host"},
}
"""Dependencies run one way; tests, scripts and notebooks may use every room."""
ROOMS = set(MAY_IMPORT)
GUESTS = ("tests", "scripts", "notebooks")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever it stands; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = called.id if isinstance(called, ast.Name) else called
            first = node.args[0] if node.args else None
            if (
                name in ("import_module", "__import__")
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                yield node.lineno, first.value


def complaints(source: str, room: str | None) -> list[str]:
    """What is wrong with a module's imports; ``room`` is None for guests."""
    found = []
    for line, name in imported(ast.parse(source)):
        parts = name.split(".")
        if parts[0] in ROOMS:
            found.append(f"line {line}: '{name}' makes a second copy: import opennpe.{parts[0]}")
        elif name.startswith("."):
            found.append(f"line {line}: '{name}' is relative: import opennpe.<room> by name")
        elif parts[0] == "opennpe" and len(parts) > 1 and room is not None:
            other = parts[1]
            if other != room and other in ROOMS and other not in MAY_IMPORT[room]:
                found.append(f"line {line}: {room} must not import {other}")
    return found


def cells(path: Path) -> str:
    """A notebook's code, without the lines that are the shell's."""
    held = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(c["source"]) for c in held if c["cell_type"] == "code").splitlines()
    return "\n".join("pass" if line.lstrip()[:1] in ("%", "!") else line for line in lines)


def modules(folder: str) -> list[Path]:
    return [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.ipynb")]


@pytest.mark.parametrize("folder", sorted(ROOMS) + list(GUESTS))
def test_imports_use_full_names_and_run_one_way(folder):
    paths = modules(folder)
    if not (ROOT / folder).exists():
        pytest.skip(f"there is no {folder}/ yet")
    assert paths, f"nothing to check in {folder}/"
    wrong = []
    for path in paths:
        source = cells(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
        room = folder if folder in ROOMS else None
        wrong += [f"{path.relative_to(ROOT)}, {text}" for text in complaints(source, room)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("sim", "import golden", "second copy"),
        ("cli", "from sim.encode import target", "second copy"),
        (None, "import quant.scales as s", "second copy"),
        ("sim", "from opennpe.rtl import engine", "sim must not import rtl"),
        ("sim", "from opennpe import golden, rtl", "sim must not import rtl"),
        ("golden", "import opennpe.sim.executor", "golden must not import sim"),
        ("golden", "def f():\n    from opennpe.cli import main", "line 2: golden must not"),
        ("rtl", "import importlib\nimportlib.import_module('opennpe.sim')", "rtl must not"),
        ("quant", "import_module('opennpe.sim.executor')", "quant must not import sim"),
        ("rtl", "from opennpe import fpga", "rtl must not import fpga"),
        ("sim", "from .encode import target", "relative"),
        ("sim", "from . import encode", "relative"),
    ],
)
def test_a_planted_violation_is_caught(room, source, expected):
    assert expected in "\n".join(complaints(source, room))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("sim", "from opennpe.golden import formats\nimport numpy as np"),
        ("sim", "from opennpe.sim.encode import target"),
        ("fpga", "from opennpe import golden, rtl"),
        ("cli", "from opennpe import quant, sim"),
        (None, "from opennpe.rtl import engine"),
        ("golden", "from opennpe.golden import codec  # sim, rtl"),
    ],
)
def test_what_is_allowed_passes(room, source):
    assert not complaints(source, room)


def shown(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def test_sim_waits_with_numba_until_it_is_needed():
    assert shown("import sys, opennpe.sim; print('numba' in sys.modules)") == "False"


def test_matmul_stays_a_function_whoever_imports_its_module_first():
    first = "import opennpe.sim.matmul; from opennpe.sim import matmul, run, Trace"
    assert shown(f"{first}; print(callable(matmul), callable(run))") == "True True"
