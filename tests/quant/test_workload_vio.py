"""Visual-inertial odometry: the network, and the workload."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from opennpe.golden.errors import DataError, ModelError  # noqa: E402
from opennpe.quant import load_onnx  # noqa: E402
from opennpe.quant.float_eval import evaluate  # noqa: E402
from opennpe.quant.workloads import (  # noqa: E402
    poses,
    registry,
    synthetic_motion,
    synthetic_vio,
    ulvio,
    vio,
    vio_fit,
)
from opennpe.quant.workloads.recording import Recording  # noqa: E402

TINY = ulvio.Widths(32, 64, 1, (4, 4, 8, 8, 8, 8, 8, 16), (4, 8, 8), 11, 8, 16)
SIZE = synthetic_vio.Size(32, 64, frames=41, train_frames=11, train=6, validation=1, test=2)


@pytest.fixture(scope="module")
def work() -> vio.Vio:
    drawn = {split: synthetic_vio.recordings(split, SIZE) for split in synthetic_vio.SEEDS}
    return vio.Vio(drawn, TINY)


def checkpoint() -> Path:
    root = Path(os.environ.get("OPENNPE_EXTRA") or "/nowhere")
    for place in (root, root / "data"):
        if (file := place / "ulvio" / "model_ulvio_v1.pth").is_file():
            return file
    pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")


# -- the network -----------------------------------------------------------------------------------
def theirs(model: ulvio.UlVio) -> dict[str, torch.Tensor]:
    """A state dict under UL-VIO's names."""
    back = {ours: name for name, ours in ulvio._PREFIXES.items()}
    state = {}
    for key, value in model.state_dict().items():
        (prefix,) = (p for p in back if key.startswith(p))
        state[back[prefix] + key[len(prefix) :]] = value
    return state


def randomised(widths: ulvio.Widths) -> ulvio.UlVio:
    """A network whose normalisations are not the identity."""
    torch.manual_seed(3)
    model = ulvio.UlVio(widths).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def test_the_full_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in ulvio.UlVio(ulvio.FULL).parameters()) == 893_976


def test_a_checkpoint_comes_back_under_their_names(tmp_path: Path) -> None:
    model = randomised(TINY)
    torch.save(theirs(model), tmp_path / "state.pth")
    back = ulvio.load_checkpoint(tmp_path / "state.pth", TINY)
    inputs = [torch.randn(3, *x.shape[1:]) for x in ulvio.example(TINY)]
    assert torch.equal(back(*inputs), model(*inputs)) and not back.training


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def test_foreign_checkpoints_are_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, good = tmp_path / "state.pth", theirs(ulvio.UlVio(TINY))
    torch.save(good, file)
    whole = file.read_bytes()
    first = next(iter(good))
    cases = {
        r"is no state dict that torch": [b"", b"not a checkpoint", whole[: len(whole) // 2]],
        r"holds no state dict": [[1, 2], {"a": 1}],
        r"is no parameter of UL-VIO": [{**good, "module.fc": torch.zeros(1)}],
        r"has shape": [{**good, first: torch.zeros(1)}],
        r"NaN or infinity": [{**good, first: torch.full_like(good[first], math.nan)}],
        r"lacks 1 parameters": [{k: v for k, v in good.items() if k != first}],
    }
    for message, contents in cases.items():
        for content in contents:
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                torch.save(content, file)
            with pytest.raises(ModelError, match=message) as caught:
                ulvio.load_checkpoint(file, TINY)
            assert "\n" not in str(caught.value)
    for save in (lambda value, to: pickle.dump(value, to, 2), torch.save):
        with file.open("wb") as out:
            save(Hostile(), out)
        with pytest.raises(ModelError, match=r"more than tensors"):
            ulvio.load_checkpoint(file, TINY)
        assert not (tmp_path / "unpickled").exists()
    with pytest.raises(ModelError, match=r"cannot be read"):
        ulvio.load_checkpoint(tmp_path / "none.pth")
    torch.save(good, file)
    monkeypatch.setattr(ulvio, "MAX_FILE_BYTES", len(whole) - 1)
    with pytest.raises(ModelError, match=r"unpacks to"):
        ulvio.load_checkpoint(file, TINY)


def imported(model: ulvio.UlVio, file: Path) -> float:
    """Largest error of the imported graph over what the network gives, over its largest output."""
    ulvio.export(model, file)
    graph = load_onnx(file)
    assert graph.inputs == ("images", "inertial") and graph.outputs == ("pose",)
    assert graph.batch_axis == 0
    kinds = [type(layer).__name__ for layer in graph.layers]
    assert kinds.count("Conv") == 11 and kinds.count("Linear") == 6 and "Affine" not in kinds
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, *x.shape[1:], generator=generator) for x in ulvio.example(model.widths)
    ]
    with torch.inference_mode():
        wanted = model(*inputs).numpy()
    values = evaluate(graph, dict(zip(graph.inputs, (x.numpy() for x in inputs), strict=True)))
    return float(np.abs(values["pose"] - wanted).max() / np.abs(wanted).max())


def test_the_network_is_imported_with_a_free_batch(tmp_path: Path) -> None:
    model = randomised(TINY)
    assert imported(model, tmp_path / "net.onnx") < 1e-5
    assert not [p for p in tmp_path.iterdir() if p.name != "net.onnx"]


@pytest.mark.extra
def test_published_weights_load_and_are_imported(tmp_path: Path) -> None:
    model = ulvio.load_checkpoint(checkpoint())
    assert sum(p.numel() for p in model.parameters()) == 893_976
    assert imported(model, tmp_path / "ulvio.onnx") < 1e-4


@pytest.mark.extra
def test_published_weights_were_trained_on_our_order_of_inertial_channels() -> None:
    """The first normalisation's mean is the kernels' sums times the samples': gravity on az."""
    model = ulvio.load_checkpoint(checkpoint())
    kernels = model.inertial.conv1.conv.weight.detach().sum(dim=2).double().numpy()
    means = model.inertial.conv1.norm.running_mean.double().numpy()
    samples = np.linalg.lstsq(kernels, means, rcond=None)[0]
    assert 8 < samples[2] < 11 and np.abs(np.delete(samples, 2)).max() < 0.5


# -- the workload ----------------------------------------------------------------------------------
def test_batches_fit_the_network_and_are_reproducible(work: vio.Vio) -> None:
    runs = [
        list(work.batches("train", 8, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    ]
    assert sum(len(b.targets) for b in runs[0]) == 56  # 60 pairs, the last 4 fill no batch
    for mine, same, other in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.inputs, same.inputs, strict=True))
        assert not torch.equal(mine.inputs[0], other.inputs[0])
    model = work.model().eval()
    assert model(*work.example()).shape == (1, 6)
    assert model(*work.calibration()).shape == (60, 6)
    assert torch.equal(work.model(5).pose.out.weight, work.model(5).pose.out.weight)
    assert not torch.equal(work.model(5).pose.out.weight, work.model(6).pose.out.weight)


def test_a_mirrored_pair_is_the_pair_in_a_mirror() -> None:
    """A drive with y turned to -y, rendered and measured, is what the augmentation makes."""
    mirror = np.diag([1.0, -1.0, 1.0])
    drive = synthetic_motion.drive(3, np.random.default_rng(1))
    flipped = np.diag([-1.0, 1, 1, 1])
    motions = poses.relative(drive.poses)
    assert np.allclose(
        poses.relative(flipped @ drive.poses @ flipped), motions * vio.MIRRORED_MOTION
    )
    felt, turned = drive.inertial[:, :3], drive.inertial[:, 3:]
    # An angular rate is a pseudovector: the mirror turns it and changes its sign.
    seen = np.concatenate((felt @ mirror, -turned @ mirror), axis=1)
    assert np.allclose(seen, drive.inertial * vio.MIRRORED_INERTIAL)


def test_the_loss_is_zero_at_the_truth_and_counts_both_parts(work: vio.Vio) -> None:
    batch = next(work.batches("test", 16, torch.Generator()))
    scale, offset = work.units.motion_scale, work.units.motion_offset
    truth = ((batch.targets.double().numpy() - offset) / scale).astype(np.float32)
    assert float(work.loss(torch.from_numpy(truth), batch)) < 1e-10
    for column, weight in ((1, vio.ROTATION_WEIGHT), (5, 1.0)):
        off = truth.copy()
        off[:, column] += 0.5
        wanted = weight * (0.5 * scale[column]) ** 2
        assert math.isclose(float(work.loss(torch.from_numpy(off), batch)), wanted, rel_tol=1e-3)


def test_metrics_of_the_truth_are_zero_and_of_the_mean_are_not(work: vio.Vio) -> None:
    class Oracle:
        """Gives the truth in the order of the split."""

        def __init__(self) -> None:
            motions = np.concatenate([r.motions for r in work.recordings("test")])
            self.rest = (motions - work.units.motion_offset) / work.units.motion_scale

        def __call__(self, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
            now, self.rest = np.split(self.rest, [len(inputs[0])])
            return now

    assert max(work.metrics(Oracle()).values()) < 1e-3
    mean = work.metrics(vio_fit.mean_motion)
    assert set(mean) == {"t_rel_percent", "r_rel_deg_per_100m", "ate_m"}
    assert mean["t_rel_percent"] > 5
    assert work.metrics(vio_fit.mean_motion, limit=40) != mean
    with pytest.raises(DataError, match=r"shortest segment 10 m"):
        work.metrics(vio_fit.mean_motion, limit=3)
    with pytest.raises(DataError, match=r"shape \(80, 5\)"):
        work.metrics(lambda inputs: np.zeros((len(inputs[0]), 5), np.float32))
    with pytest.raises(DataError, match=r"NaN"):
        work.metrics(lambda inputs: np.full((len(inputs[0]), 6), np.nan, np.float32))


def test_data_that_do_not_fit_are_refused(work: vio.Vio) -> None:
    with pytest.raises(DataError, match=r"no drives in the split 'train'"):
        vio.Vio({"train": ()}, TINY).calibration()
    wide = dataclasses.replace(TINY, width=128)
    with pytest.raises(DataError, match=r"32 x 64 pixels.*the network takes 2, 32 x 128"):
        vio.Vio({"train": work.recordings("train")}, wide).calibration()
    with pytest.raises(DataError, match=r"a batch of 0 pairs"):
        next(work.batches("test", 0, torch.Generator()))
    drive = work.recordings("test")[0]
    with pytest.raises(DataError, match=r"shape \(400, 6\), expected \(401, 6\)"):
        dataclasses.replace(drive, inertial=drive.inertial[:-1])
    with pytest.raises(DataError, match=r"1 frames, expected at least 2"):
        Recording("drive", drive.frames[np.arange(1)], drive.poses[:1], drive.inertial[:1])


def test_training_learns_and_repeats_bit_for_bit(work: vio.Vio) -> None:
    losses: list[float] = []
    models = [
        vio_fit.fit(work, work.model(), 6, 8, report=lambda _, loss: losses.append(loss))
        for _ in range(2)
    ]
    assert losses[:6] == losses[6:] and losses[5] < 0.7 * losses[0]
    states = [m.state_dict() for m in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    blind = vio_fit.predictor(models[0], blank=(0,))
    inputs = tuple(x.numpy() for x in work.calibration())
    assert not np.array_equal(blind(inputs), vio_fit.predictor(models[0])(inputs))


def test_a_loss_of_nan_stops_training(work: vio.Vio) -> None:
    model = work.model()
    with torch.no_grad():
        model.pose.out.bias.fill_(math.nan)
    with pytest.raises(ModelError, match=r"the loss is nan at step 1 of epoch 1"):
        vio_fit.fit(work, model, 1, 8)


def test_the_registry_knows_it() -> None:
    named = registry.get("vio")
    assert (named.name, named.score, named.higher) == ("vio", "t_rel_percent", False)
