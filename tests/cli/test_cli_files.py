"""Outputs appear whole or not at all."""

import os
from pathlib import Path

import pytest
from opennpe.cli.errors import OutputError
from opennpe.cli.files import output_file, output_folder

pytestmark = pytest.mark.fast


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert everything(tmp_path) == ["a", "a/b", "a/b/x"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o700 == 0o700


def test_existing_files_are_replaced_and_strangers_stay(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "x").write_text("old")
    (target / "mine").write_text("mine")
    with output_folder(target) as folder:
        (folder / "x").write_text("new")
        assert (target / "x").read_text() == "old"
    assert everything(target) == ["mine", "x"]
    assert (target / "x").read_text() == "new"


@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "deep" / "out"
    if exists:
        target.mkdir(parents=True)
    before = everything(tmp_path)
    with pytest.raises(KeyboardInterrupt), output_folder(target) as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert everything(tmp_path) == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(OutputError, match="cannot write to"), output_folder(place):
            pass
    assert everything(tmp_path) == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), output_folder(tmp_path / "out"):
        pass
    tmp_path.chmod(0o700)


def test_a_file_replaces_or_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "net.npz"
    with output_file(target) as temporary:
        temporary.write_text("one")
    with pytest.raises(ValueError), output_file(target) as temporary:
        temporary.write_text("two")
        raise ValueError
    assert everything(tmp_path) == ["net.npz"]
    assert target.read_text() == "one"
    with pytest.raises(OutputError, match="it is a folder"), output_file(tmp_path):
        pass
