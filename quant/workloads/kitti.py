"""Drives in the layout of the KITTI odometry benchmark, with inertial samples beside them.

``ROOT/sequences/XX/image_2/000000.png ...`` (or ``image_0``, grey), ``ROOT/poses/XX.txt`` (a line a
frame: the 3 x 4 matrix row by row, camera to the first camera), ``ROOT/sequences/XX/times.txt`` (a
line a frame, seconds; optional), and the inertial samples, ten from each frame to the next and one
at the last frame, six numbers each (ax ay az gx gy gz: m/s2 and rad/s, x forward, y left, z up):

* ``ROOT/imus/XX.npz``, an array ``imu`` (rows, 6); or
* ``ROOT/imus/XX.csv`` or ``.txt``, a line a sample, commas or blanks; lines with # are skipped; or
* ``ROOT/imus/XX.mat``, a matrix ``imu_data_interp`` (rows, 6), as UL-VIO publishes them (needs
  SciPy).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads.base import Split
from opennpe.quant.workloads.recording import CHANNELS, Recording
from PIL import Image

__all__ = ["SPLITS", "PngFrames", "load", "read_inertial", "read_poses", "read_times"]

SPLITS: Mapping[Split, Sequence[str]] = {
    "train": ("00", "01", "02", "04", "06", "08", "09"),
    "validation": ("10",),
    "test": ("05", "07", "10"),
}
"""UL-VIO's, whose validation sequences are the ones it is tested on."""
IMAGE_FOLDERS = ("image_2", "image_0")
MAT_KEY = "imu_data_interp"
MAX_BYTES = 1 << 28
"""Largest text or array file that is read, and largest sequence of pictures that is kept."""
MAX_PIXELS = 1 << 24
"""Largest picture that is decoded."""


@dataclass(frozen=True, eq=False)
class PngFrames:
    """Pictures on disk, read and scaled when first asked for, and kept if they are small.

    Attributes:
        files: in order.
        shape: (C, H, W) of what is returned; C is 1 for grey or 3 for red, green, blue.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    _kept: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (n, C, H, W).

        Raises:
            DataError: a file is no PNG, is damaged or too large.
        """
        return np.stack([self._picture(int(i)) for i in index])

    def _picture(self, number: int) -> NDArray[np.uint8]:
        held = self._kept.get(number)
        if held is None:
            held = self._read(self.files[number])
            if len(self) * math.prod(self.shape) <= MAX_BYTES:
                self._kept[number] = held
        return held

    def _read(self, file: Path) -> NDArray[np.uint8]:
        channels, height, width = self.shape
        try:
            with Image.open(file, formats=("PNG",)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"'{file}' has {picture.width} x {picture.height} pixels, expected at most "
                        f"{MAX_PIXELS:,}"
                    )
                scaled = picture.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except DataError:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise DataError(
                f"'{file}' is no readable PNG: it is damaged or of another kind"
            ) from None
        pixels = np.asarray(scaled, dtype=np.uint8)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def load(
    root: str | Path, name: str, shape: tuple[int, int, int] = (1, 64, 128), rate: int = 10
) -> Recording:
    """One sequence.

    Args:
        root: the folder that holds ``sequences``, ``poses`` and ``imus``.
        name: of the sequence, as "05".
        shape: (C, H, W) that frames are converted and scaled to.
        rate: inertial samples from a frame to the next.

    Raises:
        DataError: a file is missing, empty or damaged, or the files do not fit each other.
    """
    root = Path(root)
    frames = PngFrames(_pictures(root, name), shape)
    poses = read_poses(root / "poses" / f"{name}.txt")
    count = len(frames)
    if len(poses) != count:
        raise DataError(f"sequence {name} of '{root}': {count} pictures and {len(poses)} poses")
    times = root / "sequences" / name / "times.txt"
    if times.exists() and len(read_times(times)) != count:
        raise DataError(f"sequence {name} of '{root}': {count} pictures, other times in '{times}'")
    inertial = _inertial(root, name)
    rows = rate * (count - 1) + 1
    if len(inertial) < rows:
        raise DataError(
            f"sequence {name} of '{root}': {len(inertial)} inertial samples, expected {rows}: "
            f"{rate} between two of {count} frames"
        )
    # UL-VIO's files go on past the last frame.
    return Recording(f"sequence {name}", frames, poses, inertial[:rows], rate)


def read_poses(path: Path) -> NDArray[np.float64]:
    """Poses (N, 4, 4) of a file with twelve numbers a line.

    Raises:
        DataError: missing, empty, or a line that is not twelve numbers.
    """
    rows = _table(path, 12)
    out = np.zeros((len(rows), 4, 4))
    out[:, :3] = rows.reshape(-1, 3, 4)
    out[:, 3, 3] = 1.0
    return out


def read_times(path: Path) -> NDArray[np.float64]:
    """Seconds (N,), one a line, each later than the one before.

    Raises:
        DataError: missing, empty, not numbers, or not growing.
    """
    times = _table(path, 1)[:, 0]
    if not (np.diff(times) > 0).all():
        raise DataError(f"'{path}': line {int(np.argmin(np.diff(times) > 0)) + 2} is no later time")
    return times


def read_inertial(path: Path) -> NDArray[np.float64]:
    """Samples (rows, 6) of a file .npz, .csv, .txt or .mat; see the module's description.

    Raises:
        DataError: missing, damaged, of another kind or shape; SciPy is missing for a .mat.
    """
    if path.suffix in (".csv", ".txt"):
        return _table(path, len(CHANNELS))
    if path.suffix not in (".npz", ".mat"):
        raise DataError(f"'{path}': expected .npz, .csv, .txt or .mat")
    _check_size(path)
    values = np.asarray(_npz(path) if path.suffix == ".npz" else _mat(path))
    if values.ndim != 2 or values.shape[1] != len(CHANNELS) or values.dtype.kind not in "fiu":
        raise DataError(
            f"'{path}': an array of shape {values.shape} and type {values.dtype}, expected "
            f"(rows, {len(CHANNELS)}) real numbers"
        )
    return values.astype(np.float64)


def _pictures(root: Path, name: str) -> tuple[Path, ...]:
    if not root.is_dir():
        raise DataError(f"'{root}' is no folder: give the one with sequences, poses and imus")
    place = root / "sequences" / name
    if not place.is_dir():
        raise DataError(f"'{root}' has no folder 'sequences/{name}'")
    for folder in IMAGE_FOLDERS:
        files = tuple(sorted((place / folder).glob("*.png")))
        if files:
            return files
    raise DataError(f"'{place}' has no .png in {' or '.join(IMAGE_FOLDERS)}: the sequence is empty")


def _inertial(root: Path, name: str) -> NDArray[np.float64]:
    for suffix in (".npz", ".csv", ".txt", ".mat"):
        path = root / "imus" / f"{name}{suffix}"
        if path.exists():
            return read_inertial(path)
    raise DataError(f"'{root}' has no 'imus/{name}' with .npz, .csv, .txt or .mat")


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise DataError(f"'{path}' has {size:,} bytes, expected at most {MAX_BYTES:,}")


def _table(path: Path, columns: int) -> NDArray[np.float64]:
    """Numbers (rows, columns) of a text file."""
    _check_size(path)
    rows: list[list[float]] = []
    try:
        with path.open(encoding="ascii") as file:
            for number, line in enumerate(file, start=1):
                words = line.split("#", 1)[0].replace(",", " ").split()
                if not words:
                    continue
                if len(words) != columns:
                    raise DataError(
                        f"'{path}': line {number} has {len(words)} numbers, expected {columns}"
                    )
                rows.append([float(word) for word in words])
    except DataError:
        raise
    except (OSError, ValueError):
        raise DataError(f"'{path}': line {len(rows) + 1} or one after it is not numbers") from None
    if not rows:
        raise DataError(f"'{path}' is empty")
    return np.array(rows, dtype=np.float64)


def _npz(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(item.file_size for item in archive.infolist())
        if total > MAX_BYTES:
            raise DataError(f"'{path}' unpacks to {total:,} bytes, expected at most {MAX_BYTES:,}")
        with np.load(path, allow_pickle=False) as data:
            if "imu" not in data.files:
                raise DataError(
                    f"'{path}' has no array 'imu': it has {', '.join(data.files) or '-'}"
                )
            return data["imu"]
    except DataError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise DataError(f"'{path}' is no readable .npz: it is damaged or of another kind") from None


def _mat(path: Path) -> Any:
    try:
        # SciPy comes with no types, and need not be there.
        from scipy.io import loadmat  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise DataError(f"'{path}': pip install scipy to read .mat, or save it as .npz") from None
    try:
        data = loadmat(path, variable_names=[MAT_KEY])
    except Exception:
        # SciPy's reader raises whatever the bytes lead it to.
        raise DataError(f"'{path}' is no readable .mat: it is damaged or of another kind") from None
    if MAT_KEY not in data:
        raise DataError(f"'{path}' has no matrix '{MAT_KEY}'")
    return data[MAT_KEY]
