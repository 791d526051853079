"""Checkpoints: tensors and plain values in one file that is there whole or not at all.

They are untrusted when they are read: no pickled code, a bound on their size, every byte under
the checksum of its zip member.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from opennpe.golden.whole import replacing
from opennpe.quant.qat.errors import CheckpointError

__all__ = ["digest", "load", "load_weights", "save"]

MAX_BYTES = 4 << 30
"""Refuse files that would unpack to more than this."""
DAMAGE = (
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


def save(state: Mapping[str, Any], path: Path, schema: str) -> None:
    """Write tensors and plain values; a kill or a full disk leaves the old file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            torch.save({"schema": schema, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"cannot write '{path}': {reason}") from error


def load(path: Path, schema: str) -> dict[str, Any]:
    """Read what :func:`save` wrote under the same schema.

    Raises:
        CheckpointError: missing, damaged, too large, or something else.
    """
    state = _read(path)
    if state.get("schema") != schema:
        given = state.get("schema", "none")
        raise CheckpointError(f"'{path}' has schema {str(given)[:40]!r}, expected {schema!r}")
    return state


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a float network: a ``state_dict`` saved by itself, or a float stage's file.

    Raises:
        CheckpointError: missing, damaged, too large, or something else.
    """
    state = _read(path)
    if "schema" in state:
        if state.get("kind") != "float":
            raise CheckpointError(f"'{path}' holds no float network: start from a float stage's")
        state = state.get("model", {})
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"'{path}' is no state_dict: expected tensors by name")
    return dict(state)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint '{path}': expected a file that torch.save wrote")
    damaged = f"'{path}' is damaged or no checkpoint: restore it, or begin anew"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise CheckpointError(f"'{path}' unpacks to more than {MAX_BYTES >> 30} GiB")
            if archive.testzip() is not None:
                raise CheckpointError(damaged)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(damaged) from error
    if not isinstance(state, dict):
        raise CheckpointError(damaged)
    return state
