"""Every planted bug is caught; see ``mutants.py`` for the command that prints the table."""

from __future__ import annotations

import sys
from pathlib import Path

import mutants
import pytest
from mutant_list import CONTROL, MUTANTS, QUICK, Mutant
from opennpe.golden.errors import ToolError
from opennpe.rtl import engine

NAMES = {mutant.name: mutant for mutant in MUTANTS}


def assert_caught(chosen: list[Mutant], folder: Path) -> None:
    print(mutants.HEADING)
    verdicts = []
    for verdict in mutants.run(chosen, folder):
        print(mutants.row(verdict))
        verdicts.append(verdict)
    assert len(verdicts) == len(chosen) > 1
    # The control shows that the judge can say no.
    assert [v.mutant.name for v in verdicts if v.batch is None] == [CONTROL.name]


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_mutants_still_apply(name: str) -> None:
    mutant = NAMES[name]
    source = (Path(engine.__file__).parent / f"{mutant.module}.py").read_text()
    assert mutant.plant(source) != source


@pytest.mark.fast
def test_there_are_enough_mutants() -> None:
    assert len(NAMES) == len(MUTANTS) >= 10
    assert set(QUICK) <= set(NAMES)


@pytest.mark.fast
def test_the_page_lists_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    rows = [f"| {mutant.name} | {mutant.breaks} |" for mutant in (*MUTANTS, CONTROL)]
    assert [row for row in rows if row not in page] == []


@pytest.mark.fast
def test_a_mutant_that_no_longer_applies_says_so() -> None:
    lost = Mutant("lost", "nothing", "codec", "no such text", "")
    with pytest.raises(ValueError, match="expected one: mend its text"):
        lost.plant("some source")
    with pytest.raises(ValueError, match="2 places"):
        Mutant("twice", "nothing", "codec", "a", "b").plant("a a")


@pytest.mark.rtl
def test_planted_bugs_are_caught(tmp_path: Path) -> None:
    assert_caught([*(NAMES[name] for name in QUICK), CONTROL], tmp_path)


@pytest.mark.regress
@pytest.mark.rtl
@pytest.mark.timeout(1800)
def test_every_planted_bug_is_caught(tmp_path: Path) -> None:
    assert_caught([*MUTANTS, CONTROL], tmp_path)


def test_unknown_mutants_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mutants.py", "nonsense"])
    with pytest.raises(SystemExit):
        mutants.main()
    assert "unknown mutant nonsense" in capsys.readouterr().err


def test_a_broken_mutant_is_an_error(tmp_path: Path) -> None:
    broken = Mutant("nobody", "nothing", "codec", "x", "y")
    with pytest.raises(ToolError, match="nobody"):
        mutants.emit(broken, tmp_path)
