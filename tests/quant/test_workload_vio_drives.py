"""What odometry is measured on and by: poses, trajectories, synthetic drives, KITTI's layout."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from opennpe.golden.errors import DataError  # noqa: E402
from opennpe.quant.workloads import (  # noqa: E402
    kitti,
    poses,
    synthetic_motion,
    synthetic_scene,
    synthetic_vio,
    trajectory,
    ulvio,
    vio,
)
from PIL import Image  # noqa: E402


def path_of(seed: int, count: int = 60, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    motions = np.concatenate(
        (rng.normal(0, 0.02, (count, 3)), rng.normal([0, 0, 1], 0.1, (count, 3))), axis=1
    )
    return poses.accumulate(motions + np.random.default_rng(seed + 1).normal(0, noise, (count, 6)))


# -- poses -----------------------------------------------------------------------------------------
def test_angles_and_motions_come_back() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-1.5, 1.5, (200, 3))
    assert np.allclose(poses.euler(poses.rotation(angles)), angles)
    motions = np.concatenate((angles, rng.normal(size=(200, 3))), axis=1)
    assert np.allclose(poses.relative(poses.accumulate(motions)), motions)
    path = path_of(1)
    assert np.allclose(poses.inverse(path) @ path, np.eye(4))


def test_a_quarter_turn_still_gives_the_same_rotation() -> None:
    turned = poses.rotation(np.array([[0.3, math.pi / 2, -0.4], [0.1, -math.pi / 2, 0.2]]))
    assert np.allclose(poses.rotation(poses.euler(turned)), turned, atol=1e-7)


def test_what_is_no_rotation_is_refused() -> None:
    path = path_of(2)
    path[7, :3, :3] *= 1.01
    with pytest.raises(DataError, match=r"drive: pose 7 is not a rotation"):
        poses.check_poses(path, "drive")


# -- trajectories ----------------------------------------------------------------------------------
def slow_segments(truth: np.ndarray, guess: np.ndarray, lengths: tuple[float, ...]) -> list:
    """The benchmark's rule in words, one segment at a time."""
    found = []
    for first in range(0, len(truth), 10):
        for length in lengths:
            driven, last = 0.0, first
            while last + 1 < len(truth) and driven <= length:
                driven += float(np.linalg.norm(truth[last + 1, :3, 3] - truth[last, :3, 3]))
                last += 1
            if driven <= length:
                continue
            true = np.linalg.inv(truth[first]) @ truth[last]
            off = np.linalg.inv(np.linalg.inv(guess[first]) @ guess[last]) @ true
            angle = math.acos(max(-1.0, min(1.0, (np.trace(off[:3, :3]) - 1) / 2)))
            found.append((np.linalg.norm(off[:3, 3]) / length, angle / length))
    return found


def test_relative_errors_equal_the_rule_said_slowly() -> None:
    truth, guess, lengths = path_of(3, 120), path_of(3, 120, 0.01), (10.0, 25.0, 60.0, 500.0)
    found = trajectory.segments(truth, guess, lengths)
    wanted = np.array(slow_segments(truth, guess, lengths))
    assert len(found.lengths) == len(wanted) > 20
    assert np.allclose(found.translation, wanted[:, 0])
    assert np.allclose(found.rotation, wanted[:, 1])
    assert math.isclose(found.t_rel_percent, 100 * wanted[:, 0].mean())


def test_errors_of_a_straight_road_are_known() -> None:
    """5 % too long: 5 %. A steady turn of a degree a metre: 100 degrees a 100 m."""
    truth = poses.accumulate(np.tile([0, 0, 0, 0, 0, 0.5], (200, 1)))
    longer = poses.accumulate(np.tile([0, 0, 0, 0, 0, 0.525], (200, 1)))
    found = trajectory.score([(truth, longer)], (20.25,))
    assert math.isclose(found["t_rel_percent"], 5 * 20.5 / 20.25, rel_tol=1e-9)
    assert found["r_rel_deg_per_100m"] < 1e-4
    bent = poses.accumulate(np.tile([0, math.radians(0.5), 0, 0, 0, 0.5], (200, 1)))
    found = trajectory.score([(truth, bent)], (20.25,))
    assert math.isclose(found["r_rel_deg_per_100m"], 100 * 20.5 / 20.25, rel_tol=1e-9)


def test_absolute_error_ignores_where_and_which_way() -> None:
    truth = path_of(4)
    moved = poses.to_matrices([0.3, -1.0, 2.0, 5.0, 6.0, -7.0]) @ truth
    assert trajectory.ate(truth, moved) < 1e-9
    assert trajectory.ate(truth, path_of(4, noise=0.02)) > 0.05


def test_absolute_error_and_relative_motions_equal_evo() -> None:
    metrics = pytest.importorskip("evo.core.metrics")
    paths = pytest.importorskip("evo.core.trajectory")
    truth, guess = path_of(5), path_of(5, noise=0.02)
    reference, estimate = (paths.PosePath3D(poses_se3=list(p)) for p in (truth, guess))
    relation = metrics.PoseRelation
    for kind, mine in (
        (relation.translation_part, lambda off: np.linalg.norm(off[:, :3, 3], axis=1)),
        (relation.rotation_angle_deg, lambda off: _degrees(off)),
    ):
        judge = metrics.RPE(kind, delta=10, delta_unit=metrics.Unit.frames, all_pairs=True)
        judge.process_data((reference, estimate))
        true, given = (poses.inverse(p[:-10]) @ p[10:] for p in (truth, guess))
        assert np.allclose(judge.error, mine(poses.inverse(given) @ true), atol=1e-6)
    estimate.align(reference)
    judge = metrics.APE(relation.translation_part)
    judge.process_data((reference, estimate))
    rmse = judge.get_statistic(metrics.StatisticsType.rmse)
    assert math.isclose(trajectory.ate(truth, guess), rmse, rel_tol=1e-9)


def _degrees(off: np.ndarray) -> np.ndarray:
    cosine = (np.trace(off[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_trajectories_that_cannot_be_scored() -> None:
    path = path_of(6)
    with pytest.raises(DataError, match=r"no trajectory"):
        trajectory.score([])
    with pytest.raises(DataError, match=r"61 true poses, 60 estimated"):
        trajectory.ate(path, path[:-1])
    with pytest.raises(DataError, match=r"shortest segment 100 m"):
        trajectory.score([(path, path)])
    broken = path.copy()
    broken[3, 0, 3] = np.nan
    with pytest.raises(DataError, match=r"NaN"):
        trajectory.ate(path, broken)


# -- synthetic drives ------------------------------------------------------------------------------
def integrated(drive: synthetic_motion.Drive) -> tuple[np.ndarray, np.ndarray]:
    """Body axes and positions at the frames from the inertial samples alone, by midpoints."""
    step = synthetic_motion.SECONDS / synthetic_motion.RATE
    axes = drive.axes[0] @ synthetic_motion.CAMERA_AXES.T
    place, speed = drive.centres[0].copy(), drive.velocity.copy()
    turns, places = [axes], [place]
    middle = (drive.inertial[1:] + drive.inertial[:-1]) / 2
    for index, sample in enumerate(middle, start=1):
        half = axes @ _turn(sample[3:] * step / 2)
        gain = half @ sample[:3] - [0, 0, synthetic_motion.GRAVITY]
        place = place + speed * step + gain * step**2 / 2
        speed = speed + gain * step
        axes = axes @ _turn(sample[3:] * step)
        if index % synthetic_motion.RATE == 0:
            turns.append(axes)
            places.append(place)
    return np.array(turns), np.array(places)


def _turn(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / max(angle, 1e-300)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


@pytest.mark.parametrize("seed", range(3))
def test_inertial_samples_integrate_to_the_drive(seed: int) -> None:
    """An oracle for the kinematics: strapdown integration, which shares no formula with them."""
    drive = synthetic_motion.drive(60, np.random.default_rng(seed))
    turns, places = integrated(drive)
    assert np.abs(turns @ synthetic_motion.CAMERA_AXES - drive.axes).max() < 1e-4
    assert np.abs(places - drive.centres).max() < 0.01
    wrong = dataclasses.replace(drive, inertial=drive.inertial * [1, 1, 1, 1, -1, 1])
    assert np.abs(integrated(wrong)[1] - drive.centres).max() > 0.05


def test_a_post_is_drawn_where_the_camera_sees_it() -> None:
    camera = synthetic_scene.Camera(64, 128)
    drive = synthetic_motion.drive(2, np.random.default_rng(3))
    ahead, aside = drive.axes[0, :, 2], drive.axes[0, :, 0]
    foot = drive.centres[0, :2] + 8 * ahead[:2] + 2 * aside[:2]
    post = np.array([[*foot, 3.0, 0.4, 1.0, 0.0]])
    bare, planted = (
        synthetic_scene.render(drive.centres[:1], drive.axes[:1], p, camera, 1)[0]
        for p in (post[:0], post)
    )
    rows, columns = np.nonzero(bare != planted)
    seen = (np.array([*foot, 1.5]) - drive.centres[0]) @ drive.axes[0]
    u, v = camera.focal * seen[:2] / seen[2] + [63.5, 31.5]
    assert abs(columns.mean() - u) < 1 and abs(rows.mean() - v) < 1.5


def test_the_ground_moves_as_the_camera_does() -> None:
    """A frame, seen again from a pose further on by the ground's homography, is the next frame."""
    camera = synthetic_scene.Camera(64, 128)
    drive = synthetic_motion.drive(12, np.random.default_rng(5))
    pictures = synthetic_scene.render(drive.centres, drive.axes, np.zeros((0, 6)), camera, 9)
    v, u = np.mgrid[44:60, 10:118]
    rays = np.stack(((u - 63.5) / camera.focal, (v - 31.5) / camera.focal, np.ones(u.shape)))

    def error(true: int, claimed: int) -> float:
        world = np.einsum("ij,jrc->irc", drive.axes[claimed], rays)
        points = drive.centres[claimed][:, None, None] - world * (
            drive.centres[claimed, 2] / world[2]
        )
        seen = np.einsum("ji,jrc->irc", drive.axes[0], points - drive.centres[0][:, None, None])
        column = np.rint(seen[0] / seen[2] * camera.focal + 63.5).astype(int)
        row = np.rint(seen[1] / seen[2] * camera.focal + 31.5).astype(int)
        inside = (row >= 0) & (row < 64) & (column >= 0) & (column < 128)
        return float(
            np.abs(pictures[true][v, u] - pictures[0][row % 64, column % 128])[inside].mean()
        )

    assert 2 * error(1, 1) < min(error(1, 0), error(1, 2), error(1, 6))


def test_drives_are_the_same_for_the_same_seed_and_shared_by_no_split() -> None:
    camera, noise = synthetic_scene.Camera(16, 32), synthetic_vio.Noise()
    first, again, other = (
        synthetic_vio.record("drive", seed, 4, camera, noise) for seed in (1000, 1000, 2000)
    )
    rows = np.arange(4)
    assert first.frames[rows].tobytes() == again.frames[rows].tobytes()
    assert first.inertial.tobytes() == again.inertial.tobytes()
    assert not np.array_equal(first.frames[rows], other.frames[rows])
    starts = sorted(synthetic_vio.SEEDS.values())
    assert min(np.diff(starts)) >= 1000
    with pytest.raises(DataError, match=r"no split 'holdout': expected train"):
        synthetic_vio.recordings("holdout")
    with pytest.raises(DataError, match=r"height = 4, expected 8"):
        synthetic_vio.Size(height=4)
    with pytest.raises(DataError, match=r"pixels a split"):
        synthetic_vio.Size(height=4096, width=4096)


# -- KITTI's layout --------------------------------------------------------------------------------
@pytest.fixture
def root(tmp_path: Path) -> Path:
    count, rng = 4, np.random.default_rng(0)
    place = tmp_path / "sequences" / "03"
    (place / "image_2").mkdir(parents=True)
    (tmp_path / "poses").mkdir()
    (tmp_path / "imus").mkdir()
    for index in range(count):
        pixels = np.full((20, 40, 3), 10 * index, np.uint8)
        Image.fromarray(pixels).save(place / "image_2" / f"{index:06d}.png")
    np.savetxt(tmp_path / "poses" / "03.txt", path_of(0, count - 1)[:, :3].reshape(count, 12))
    np.savetxt(place / "times.txt", np.arange(count) * 0.1)
    np.savez(tmp_path / "imus" / "03.npz", imu=rng.normal(size=(10 * (count - 1) + 1, 6)))
    return tmp_path


def test_a_sequence_comes_back(root: Path) -> None:
    drive = kitti.load(root, "03", (3, 8, 16))
    pairs = drive.images(np.array([0, 2]))
    assert pairs.shape == (2, 6, 8, 16)
    assert pairs[1, :3].max() == 20 and pairs[1, 3:].min() == 30
    assert np.allclose(drive.motions, poses.relative(path_of(0, 3)))
    held = np.load(root / "imus" / "03.npz")["imu"]
    assert np.array_equal(drive.windows(np.array([2]))[0], held[20:31].T)
    grey = kitti.load(root, "03", (1, 8, 16))
    assert grey.images(np.array([1])).shape == (1, 2, 8, 16)


@pytest.mark.parametrize("kind", ["csv", "txt", "mat"])
def test_inertial_samples_in_other_files(root: Path, kind: str) -> None:
    old = root / "imus" / "03.npz"
    values, new = np.load(old)["imu"], old.with_suffix(f".{kind}")
    if kind == "mat":
        pytest.importorskip("scipy.io").savemat(new, {"imu_data_interp": values})
    else:
        comma = "," if kind == "csv" else " "
        np.savetxt(new, values, delimiter=comma, header="ax ay az gx gy gz")
    old.unlink()
    assert np.allclose(kitti.load(root, "03").inertial, values)


def _remove_pictures(root: Path) -> None:
    for file in (root / "sequences/03/image_2").iterdir():
        file.unlink()


FAULTS = {
    "no pictures": (_remove_pictures, r"the sequence is empty"),
    "a picture less": (
        lambda r: (r / "sequences/03/image_2/000003.png").unlink(),
        r"3 pictures and 4 poses",
    ),
    "no poses": (lambda r: (r / "poses/03.txt").unlink(), r"poses/03.txt' cannot be read"),
    "empty poses": (lambda r: (r / "poses/03.txt").write_text(""), r"03.txt' is empty"),
    "short line": (
        lambda r: (r / "poses/03.txt").write_text("1 0 0\n"),
        r"line 1 has 3 numbers, expected 12",
    ),
    "words": (lambda r: (r / "poses/03.txt").write_text("a " * 12), r"not numbers"),
    "no rotation": (
        lambda r: (r / "poses/03.txt").write_text("2 0 0 0 0 2 0 0 0 0 2 0\n" * 4),
        r"pose 0 is not a rotation",
    ),
    "no inertial": (lambda r: (r / "imus/03.npz").unlink(), r"has no 'imus/03'"),
    "damaged inertial": (lambda r: (r / "imus/03.npz").write_bytes(b"PK\3\4rest"), r"no readable"),
    "few samples": (
        lambda r: np.savez(r / "imus/03.npz", imu=np.zeros((30, 6))),
        r"30 inertial samples, expected 31",
    ),
    "wide samples": (
        lambda r: np.savez(r / "imus/03.npz", imu=np.zeros((31, 7))),
        r"shape \(31, 7\)",
    ),
    "pickled samples": (
        lambda r: np.savez(r / "imus/03.npz", imu=np.array([{}], dtype=object)),
        r"no readable .npz",
    ),
    "NaN": (
        lambda r: np.savez(r / "imus/03.npz", imu=np.full((31, 6), np.nan)),
        r"sample 0 holds NaN",
    ),
    "times back": (
        lambda r: (r / "sequences/03/times.txt").write_text("0\n1\n1\n2\n"),
        r"line 3 is no later time",
    ),
    "other times": (lambda r: (r / "sequences/03/times.txt").write_text("0\n1\n"), r"other times"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_sequences_are_refused_in_one_line(root: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        kitti.load(root, "03")
    assert "\n" not in str(caught.value)


def test_missing_folders_and_damaged_pictures(root: Path) -> None:
    with pytest.raises(DataError, match=r"is no folder"):
        kitti.load(root / "nothing", "03")
    with pytest.raises(DataError, match=r"has no folder 'sequences/04'"):
        kitti.load(root, "04")
    drive = kitti.load(root, "03")
    (root / "sequences/03/image_2/000001.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(DataError, match=r"no readable PNG"):
        drive.images(np.array([1]))


def test_the_workload_reads_a_sequence(root: Path) -> None:
    widths = dataclasses.replace(ulvio.SMALL, height=8, width=16)
    splits = {split: ["03"] for split in ("train", "validation", "test")}
    work = vio.Vio.kitti(root, splits, widths)
    (batch,) = work.batches("validation", 8, torch.Generator())
    assert batch.inputs[0].shape == (3, 2, 8, 16) and batch.targets.shape == (3, 6)
    assert work.lengths == trajectory.KITTI_LENGTHS
    with pytest.raises(DataError, match=r"has no folder 'sequences/00'"):
        vio.Vio(data=root)
    with pytest.raises(DataError, match=r"not both"):
        vio.Vio({}, data=root)
