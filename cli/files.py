"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opennpe.cli.errors import OutputError
from opennpe.golden.whole import replacing

__all__ = ["output_file", "output_folder"]


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to write into; on success its files move to ``path``.

    A new folder appears by one rename; in an existing one each file is replaced by one rename and
    the user's other files stay. On any error nothing is left behind, parents included.

    Raises:
        OutputError: ``path`` is a file, or it or its parent cannot be written.
    """
    target = Path(path)
    made = _make_parents(target)
    try:
        temporary = _temporary(target)
        try:
            yield temporary
            _publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        for parent in reversed(made):
            parent.rmdir()
        raise


@contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write a file under; on success it replaces ``path``.

    Raises:
        OutputError: ``path`` is a folder, or its parent cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write '{target}': it is a folder; give a file name")
    made = _make_parents(target)
    try:
        try:
            with replacing(target) as temporary:
                temporary.touch()
                yield temporary
        except OSError as error:
            raise _refusal(target, error) from error
    except BaseException:
        for parent in reversed(made):
            parent.rmdir()
        raise


def _refusal(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"cannot write to '{target}': {reason}; choose another --out")


def _make_parents(target: Path) -> list[Path]:
    """Create missing parents of ``target``; those created, outermost first."""
    missing = []
    parent = target.absolute().parent
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = parent.parent
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
    except OSError as error:
        for folder in reversed(made):
            folder.rmdir()
        raise _refusal(target, error) from error
    return made


def _temporary(target: Path) -> Path:
    """Beside a folder that does not exist yet, inside one that does: the same file system."""
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"cannot write to '{target}': it is not a folder; choose another --out")
    place = target if target.is_dir() else target.absolute().parent
    try:
        return Path(tempfile.mkdtemp(prefix=".opennpe-", dir=place))
    except OSError as error:
        raise _refusal(target, error) from error


def _publish(temporary: Path, target: Path) -> None:
    try:
        if target.is_dir():
            for file in sorted(temporary.iterdir()):
                os.replace(file, target / file.name)
            return
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp makes private folders
        temporary.rename(target)
    except OSError as error:
        raise _refusal(target, error) from error
