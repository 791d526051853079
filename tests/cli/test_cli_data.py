"""What --data accepts, and the one line for what it does not."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from opennpe.cli.data import fit, load_npz
from opennpe.golden.errors import DataError

pytestmark = pytest.mark.fast

ONE = {"image": (1, 3, 4, 4)}


def test_x_serves_a_model_with_one_input() -> None:
    data = fit({"x": np.ones((5, 3, 4, 4)), "y": np.arange(5)}, ONE, "d.npz")
    assert data.samples == 5 and data.labels is not None
    assert data.take(1, 3)["image"].shape == (2, 3, 4, 4)
    assert list(data.batches(2)) == [(0, 2), (2, 4), (4, 5)]
    assert data.first(3).samples == 3 and data.first(9).samples == 5


def test_one_sample_needs_no_batch_axis() -> None:
    assert fit({"image": np.ones((3, 4, 4))}, ONE, "d.npz").samples == 1


def test_a_model_without_batch_axis_takes_its_shape_or_a_stack() -> None:
    shapes = {"a": (4, 6), "b": (1, 2)}
    one = fit({"a": np.ones((4, 6)), "b": np.ones((1, 2))}, shapes, "d.npz")
    assert one.samples == 1 and one.take(0, 1)["a"].shape == (4, 6)
    many = fit({"a": np.ones((7, 4, 6)), "b": np.ones((7, 1, 2))}, shapes, "d.npz")
    assert list(many.batches(64)) == [(i, i + 1) for i in range(7)]
    assert many.take(3, 4)["b"].shape == (1, 2)


BAD = {
    "lacks the input 'image' \\(or 'x'\\): it holds z": {"z": np.ones(3)},
    "'x' has shape \\(5, 4, 4\\), expected \\(N, 3, 4, 4\\)": {"x": np.ones((5, 4, 4))},
    "expected \\(N, 3, 4, 4\\)": {"x": np.ones((5, 48))},
    "holds <U1 values": {"x": np.full((2, 3, 4, 4), "a")},
    "1 NaN or infinite": {"x": np.where(np.arange(48) == 7, np.nan, 1.0).reshape(1, 3, 4, 4)},
    "holds no samples": {"x": np.ones((0, 3, 4, 4))},
    "expected 2 labels": {"x": np.ones((2, 3, 4, 4)), "y": np.ones(3)},
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_arrays_are_refused(message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(BAD[message], ONE, "d.npz")


def test_unequal_sample_counts_are_refused() -> None:
    shapes = {"a": (1, 2), "b": (1, 2)}
    with pytest.raises(DataError, match="different numbers of samples: {'a': 3, 'b': 2}"):
        fit({"a": np.ones((3, 2)), "b": np.ones((2, 2))}, shapes, "d.npz")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    with pytest.raises(DataError, match="no data file"):
        load_npz(file)
    file.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="is not an npz file"):
        load_npz(file)
    np.savez(file, x=np.array([{"pickled": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read .* Object arrays"):
        load_npz(file)
    np.savez_compressed(file, x=np.zeros((100, 100)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        load_npz(file)


def test_a_header_that_promises_terabytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 64)}"
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", magic + b"\0" * 64)
    with pytest.raises(DataError, match="cannot read"):
        load_npz(file)
