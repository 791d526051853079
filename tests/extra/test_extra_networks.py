"""Networks made by others, without edits, in every format.

They are not part of the project: set OPENNPE_EXTRA to their folder. Run as a script, this prints
the table of distances.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from opennpe.cli.metrics import relative_l2
from opennpe.cli.results import Result
from opennpe.cli.simulate import simulate
from opennpe.golden import formats

pytestmark = pytest.mark.extra

NETWORKS = {
    "mnist8/mnist8.onnx": (0, 255),
    "converted_onnx/pretrainedResnet.onnx": (0, 255),
    "converted_onnx/vww_96_float.onnx": (0, 1),
    "converted_onnx/ad01_fp32.onnx": (-50, 10),
    "converted_onnx/iris_landmark.onnx": (0, 1),
    "converted_onnx/face_landmark.onnx": (0, 1),
    "converted_onnx/face_detection_front.onnx": (-1, 1),
    "converted_onnx/hand_landmark_lite.onnx": (0, 1),
}
"""Range of each network's inputs: pixels, or decibels of a spectrum for ad01."""
TOLERANCE = 1e-2
"""Largest relative L2 distance of a posit16 output to onnxruntime's float32."""
SAMPLES, CALIBRATION = 2, 6


def folder() -> Path | None:
    root = Path(os.environ.get("OPENNPE_EXTRA") or "/nowhere")
    places = (root, root / "data")
    return next((p for p in places if (p / next(iter(NETWORKS))).is_file()), None)


def picture(
    rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float
) -> np.ndarray:
    """Random patches of several sizes, smoothly blended: neighbours resemble each other as in
    photographs, unlike in noise."""
    channels, *extents = (1, *shape) if len(shape) == 1 else shape
    total = np.zeros((channels, *extents))
    for cells, weight in ((2, 0.35), (5, 0.35), (11, 0.2), (max(extents), 0.1)):
        patches = rng.uniform(size=(channels, *(min(cells, n) for n in extents)))
        for axis, extent in enumerate(extents, start=1):
            places = np.linspace(0, patches.shape[axis] - 1, extent)
            left = np.minimum(places.astype(int), max(0, patches.shape[axis] - 2))
            right = np.minimum(left + 1, patches.shape[axis] - 1)
            part = (places - left).reshape(-1, *(1,) * (patches.ndim - 1 - axis))
            patches = patches.take(left, axis) * (1 - part) + patches.take(right, axis) * part
        total += weight * patches
    return (low + (high - low) * total).reshape(shape).astype(np.float32)


@dataclass(frozen=True)
class Measured:
    """One network in every format, and what onnxruntime says of it."""

    result: Result
    errors: dict[str, dict[str, float]]
    seconds: float


def measure(model: Path, low: float, high: float, place: Path) -> Measured:
    """Run a network through the command's function and through onnxruntime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    shape = tuple(source.shape[1:])
    rng = np.random.default_rng(11)
    images = np.stack([picture(rng, shape, low, high) for _ in range(SAMPLES + CALIBRATION)])
    np.savez(place / "data.npz", x=images[:SAMPLES])
    np.savez(place / "calibration.npz", x=images[SAMPLES:])
    begun = time.perf_counter()
    result = simulate(model, place / "data.npz", calibration=place / "calibration.npz")
    seconds = time.perf_counter() - begun
    names = [output.name for output in session.get_outputs()]
    wanted: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for image in images[:SAMPLES]:
        for name, value in zip(names, session.run(None, {source.name: image[None]}), strict=True):
            wanted[name].append(value)
    errors = {
        run.name: {
            name: relative_l2(
                run.values[name], np.concatenate(values).reshape(run.values[name].shape)
            )
            for name, values in wanted.items()
        }
        for run in result.runs
    }
    return Measured(result, errors, seconds)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_runs_and_posit16_is_close(name: str, tmp_path: Path) -> None:
    place = folder()
    if place is None:
        pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")
    measured = measure(place / name, *NETWORKS[name], tmp_path)
    assert list(measured.errors) == list(formats.ENGINE_FORMATS)
    assert all(outputs for outputs in measured.errors.values())
    for output, error in measured.errors["posit16"].items():
        assert error < TOLERANCE, f"{output}: {error:.2e}"
    for run in measured.result.runs:
        assert all(np.isfinite(values).all() for values in run.values.values())
        assert run.macs > 0 and run.cycles > 0
    # Fewer bits are not allowed to look better than many: the comparison can fail.
    worst = {name: max(outputs.values()) for name, outputs in measured.errors.items()}
    assert worst["posit16"] < worst["posit8"] < max(worst["fp4"], worst["posit4"])


if __name__ == "__main__":
    found = folder()
    if found is None:
        raise SystemExit("set OPENNPE_EXTRA to the folder of networks made by others")
    for network, limits in NETWORKS.items():
        with tempfile.TemporaryDirectory() as scratch:
            table = measure(found / network, *limits, Path(scratch))
        for fmt, outputs in table.errors.items():
            cells = ", ".join(f"{n} {e:.1e}" for n, e in outputs.items())
            speed = next(r.samples_per_second for r in table.result.runs if r.name == fmt)
            print(f"{Path(network).stem:22} {fmt:8} {speed:8.1f} images/s  {cells}", flush=True)
        print(f"{Path(network).stem:22} {table.seconds:.1f} s in all")
