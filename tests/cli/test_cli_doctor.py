"""``opennpe doctor`` finds what is there, cures what is not, and imports nothing heavy."""

import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from opennpe.cli import doctor, tables
from opennpe.cli.main import main

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "numba", "llvmlite", "onnx", "matplotlib", "torch", "amaranth", "pyosys", "rich")


def without(*names: str):  # type: ignore[no-untyped-def]
    import shutil

    return lambda name: None if name in names else shutil.which(name)


def test_everything_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {item["name"]: item for item in found["findings"]}
    assert found["ready"] and names["numpy"]["found"] == metadata.version("numpy")
    assert all(names[name]["found"] for name in ("Python", "g++", "make", "perl", "verilator"))
    assert all(item["cure"] for item in found["findings"] if not item["found"])
    assert (names["numba"]["level"], names["torch"]["level"]) == ("needed", "optional")


def test_the_table_names_every_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "make sim has all it needs" in out and "g++" in out


def test_a_missing_program_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = doctor.examine(without("g++", "perl"))
    assert not doctor.ready(findings)
    lines = tables.doctor_lines(findings)
    assert "g++ (missing): apt-get install g++ (Debian)" in lines
    assert lines[-1] == "make sim lacks g++, perl"
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor"]) == 2
    assert "apt-get install perl" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"verilator", "torch", "pyslang"}
    real = metadata.version

    def version(name: str) -> str:
        if name in gone:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    findings = doctor.examine()
    assert {f.name for f in findings if not f.found} >= gone and not doctor.ready(findings)
    cures = {f.name: f.cure for f in findings}
    assert cures["verilator"] == "make install" and "qat" in cures["torch"]
    gone = {"torch", "pyslang"}
    assert doctor.ready(doctor.examine())


def test_a_program_that_does_not_start_counts_as_missing(tmp_path: Path) -> None:
    broken = tmp_path / "make"
    broken.write_text("not a program")
    broken.chmod(0o755)
    findings = doctor.examine(lambda name: str(broken) if name == "make" else f"/usr/bin/{name}")
    make = next(f for f in findings if f.name == "make")
    assert not make.found and "does not work" in make.cure


def test_every_dependency_is_looked_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        line.split(";")[0].split("[")[0].rstrip("0123456789.=<>,").strip()
        for group in (
            project["dependencies"],
            *(project["optional-dependencies"][name] for name in ("rtl", "lint", "qat")),
        )
        for line in group
    }
    assert wanted and wanted <= set(doctor.DISTRIBUTIONS)


def loaded(code: str) -> set[str]:
    """Top-level modules that a command leaves loaded."""
    script = f"{code}\nimport sys\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_doctor_import_nothing_heavy() -> None:
    call = "from opennpe.cli.main import main\nmain({!r})"
    assert not loaded(call.format(["--help"])) & set(HEAVY)
    assert not loaded(call.format(["doctor", "--json"])) & set(HEAVY)
    assert "numpy" in loaded("import opennpe.golden.formats")  # the check can fail


def test_help_answers_at_once() -> None:
    """Below half a second, or four times a bare interpreter that loads typer on a busy machine."""

    def seconds(arguments: list[str]) -> float:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
        return min(times)

    ours = seconds(["-m", "opennpe.cli", "--help"])
    assert ours < max(0.5, 4 * seconds(["-c", "import typer"])), ours
