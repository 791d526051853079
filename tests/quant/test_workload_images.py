"""Image workloads: readers refuse what is bad, pictures are what they claim, networks import."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from opennpe import quant, sim  # noqa: E402
from opennpe.golden import catalog  # noqa: E402
from opennpe.golden.errors import DataError, ModelError  # noqa: E402
from opennpe.quant import float_eval, zoo  # noqa: E402
from opennpe.quant.workloads import cifar, convnets, eyes, fashion, images, registry  # noqa: E402
from opennpe.quant.workloads.gaze import UNIT, Gaze, GazeNet, angular_errors  # noqa: E402
from quant_models import extra  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:Constant folding:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]

INSTALLED = (fashion.DEBIAN / "train-images-idx3-ubyte.gz").is_file()
needs_fashion = pytest.mark.skipif(
    not INSTALLED, reason="no Fashion-MNIST: apt-get install dataset-fashion-mnist"
)


# -- data of the test's own ----------------------------------------------------------------------


def packed(content: bytes) -> bytes:
    """Gzip without a time: the same bytes in every process of a test run."""
    return gzip.compress(content, mtime=0)


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + bytes(
        values.tobytes()
    )


def write_fashion(folder: Path, counts: tuple[int, int] = (48, 20)) -> Path:
    """Images whose first pixel is their number and whose label is the number modulo 10."""
    folder.mkdir(exist_ok=True)
    for part, count in zip(("train", "t10k"), counts, strict=True):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        pixels[:, 0, 0] = np.arange(count)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(packed(idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed(idx(labels)))
    return folder


def write_cifar(folder: Path, count: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for i, name in enumerate((*cifar.TRAINING, *cifar.TEST)):
        records = rng.integers(0, 256, (count, cifar.RECORD), dtype=np.uint8)
        records[:, 0], records[:, 1] = np.arange(count) % 10, i
        (folder / name).write_bytes(records.tobytes())
    return folder


def perfect(labels: np.ndarray):
    """A prediction that knows the labels, in order."""
    seen = 0

    def predict(inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        nonlocal seen
        start, seen = seen, seen + len(inputs[0])
        return 50 * np.eye(10, dtype=np.float32)[labels[start:seen]]

    return predict


def captured(net, shape: tuple[int, ...], folder: Path) -> tuple[quant.Graph, float]:
    """The imported graph and its largest difference from the module on one input."""
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            net.eval(), (x[:1],), folder / "net.onnx", dynamo=False,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    graph = quant.load_onnx(folder / "net.onnx")
    with torch.inference_mode():
        wanted = net(x).numpy()
    got = float_eval.evaluate(graph, {"x": x.numpy()})["y"]
    return graph, float(np.abs(got - wanted).max() / np.abs(wanted).max())


# -- Fashion-MNIST -------------------------------------------------------------------------------


def test_fashion_splits_are_in_order_and_apart(tmp_path: Path) -> None:
    work = fashion.Fashion(write_fashion(tmp_path))
    held = work.splits()
    assert [len(held[s]) for s in ("train", "validation", "test")] == [44, 4, 20]
    numbers = [held[s].pixels[:, 0, 0, 0].tolist() for s in ("train", "validation")]
    assert numbers == [list(range(44)), list(range(44, 48))]
    passed = list(work.batches("validation", 3, torch.Generator()))
    assert [len(b.targets) for b in passed] == [3, 1]
    assert torch.cat([b.inputs[0] for b in passed]).equal(held["validation"].pixels.float() / 255)


def test_a_training_pass_follows_its_seed_and_meets_each_image_once(tmp_path: Path) -> None:
    work = fashion.Fashion(write_fashion(tmp_path))

    def run(seed: int):
        return list(work.batches("train", 11, torch.Generator().manual_seed(seed)))

    first, again, other = run(1), run(1), run(2)
    pairs = zip(first, again, strict=True)
    assert all(a.inputs[0].equal(b.inputs[0]) and a.targets.equal(b.targets) for a, b in pairs)
    assert not first[0].inputs[0].equal(other[0].inputs[0])
    seen = torch.cat([b.targets for b in first]).bincount(minlength=10)
    assert seen.equal(work.splits()["train"].labels.bincount(minlength=10))
    assert sum(len(b.targets) for b in work.batches("train", 40, torch.Generator())) == 40
    assert sum(len(b.targets) for b in work.batches("train", 99, torch.Generator())) == 44


def test_metrics_know_right_from_wrong(tmp_path: Path) -> None:
    work = fashion.Fashion(write_fashion(tmp_path))
    labels = work.splits()["test"].labels.numpy()
    assert work.metrics(perfect(labels))["top1_percent"] == 100
    assert work.metrics(perfect(labels))["cross_entropy"] < 1e-6
    assert work.metrics(perfect((labels + 1) % 10))["top1_percent"] == 0
    assert work.metrics(perfect(np.where(labels == 0, 1, labels)))["top1_percent"] == 90
    flat = work.metrics(lambda x: np.zeros((len(x[0]), 10)), limit=10)
    assert flat["top1_percent"] == 10  # of equals the first: class 0
    assert flat["cross_entropy"] == pytest.approx(np.log(10))


def test_augmentation_moves_and_mirrors_only() -> None:
    pixels = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4).repeat(64, 1, 1, 1)
    rng = torch.Generator().manual_seed(0)
    found = {tuple(p.flatten().tolist()) for p in images.mirrored(pixels, rng)}
    assert found == {tuple(p.flatten().tolist()) for p in (pixels[0], pixels[0].flip(2))}
    moved = images.shifted(pixels, 1, rng)
    wanted = {
        tuple(np.pad(pixels[0, 0], 1)[i : i + 3, j : j + 4].ravel().tolist())
        for i in range(3)
        for j in range(3)
    }
    assert {tuple(p.flatten().tolist()) for p in moved} == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "apt-get install dataset-fashion-mnist"),
        (b"no gzip", "no gzip file or is damaged"),
        (packed(idx(np.zeros((48, 28, 28), np.uint8)))[:-9], "damaged"),
        (packed(b""), "no IDX file"),
        (packed(idx(np.zeros((48, 784), np.uint8))), "no IDX file of bytes with 3 axes"),
        (packed(idx(np.zeros((48, 28, 28), np.uint8))[:-1]), "37631 bytes"),
        (packed(struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3)), "0 bytes"),
        (packed(idx(np.zeros((48, 28, 27), np.uint8))), "expected 28x28"),
        (packed(idx(np.zeros((47, 28, 28), np.uint8))), "47 images but 48 labels"),
    ],
)
def test_bad_fashion_files_are_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = write_fashion(tmp_path) / "train-images-idx3-ubyte.gz"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        fashion.Fashion(tmp_path).splits()
    assert "\n" not in str(raised.value)


def test_labels_empty_splits_and_batches_are_checked(tmp_path: Path) -> None:
    folder = write_fashion(tmp_path, (5, 0))
    work = fashion.Fashion(folder)
    with pytest.raises(DataError, match="no images in the split 'validation'"):
        next(work.batches("validation", 1, torch.Generator()))
    with pytest.raises(DataError, match="no images in the split 'test'"):
        work.metrics(lambda x: x[0])
    with pytest.raises(DataError, match="a batch of 0 images"):
        next(work.batches("train", 0, torch.Generator()))
    labels = idx(np.full(5, 10, np.uint8))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(packed(labels))
    with pytest.raises(DataError, match="a label 10, expected 0 to 9"):
        fashion.Fashion(folder).splits()


def test_the_folder_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fashion.VARIABLE, str(tmp_path))
    assert fashion.folder() == tmp_path
    assert fashion.folder("/elsewhere") == Path("/elsewhere")
    monkeypatch.delenv(fashion.VARIABLE)
    assert fashion.folder() == fashion.DEBIAN


@needs_fashion
def test_the_packaged_images_are_split_as_documented() -> None:
    held = fashion.Fashion(fashion.DEBIAN).splits()
    assert {name: len(part) for name, part in held.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    assert held["test"].labels.bincount().tolist() == [1000] * 10
    with np.load(zoo.TEST_DATA) as shipped:  # cut from the same images by another reader
        assert held["test"].labels[:1000].numpy().tolist() == shipped["y"].tolist()
        pixels = held["test"].pixels[:1000].numpy().astype(np.float32) / 255
        np.testing.assert_allclose(pixels, shipped["x"], atol=1e-6)


@needs_fashion
def test_the_small_network_learns_clothes() -> None:
    work = fashion.Fashion(fashion.DEBIAN)
    before, after = learn(work, steps=60, rate=3e-3, limit=500)
    assert before["top1_percent"] < 30 and after["top1_percent"] > 60


def learn(work, steps: int, rate: float, limit: int = 0) -> tuple[dict, dict]:
    """Validation figures before and after a few steps of training."""
    net = work.model(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    rng = torch.Generator().manual_seed(0)

    def predict(inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        with torch.inference_mode():
            return net.eval()(torch.from_numpy(inputs[0])).numpy()

    before, done = work.metrics(predict, "validation", limit), 0
    while done < steps:
        for batch in work.batches("train", 64, rng):
            net.train()
            loss = work.loss(net(*batch.inputs), batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == steps:
                break
    return before, work.metrics(predict, "validation", limit)


# -- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape", "products"),
    [
        (convnets.SmallNet, (1, 28, 28), 5),
        (lambda: convnets.MobileNet(0.5), (1, 28, 28), 12),
        (convnets.ResNet20, (3, 32, 32), 20),
        (GazeNet, (1, eyes.HEIGHT, eyes.WIDTH), 5),
    ],
)
def test_networks_are_captured_with_the_values_of_the_module(
    tmp_path: Path, build, shape: tuple[int, ...], products: int
) -> None:
    net = convnets.seeded(0, build)
    graph, error = captured(net, shape, tmp_path)
    assert error < 1e-4
    assert sum(hasattr(layer, "weights") for layer in graph.layers) == products
    with torch.no_grad():
        next(net.parameters()).mul_(1.01)
    x = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    changed = net(torch.from_numpy(x)).detach().numpy()
    unchanged = float_eval.evaluate(graph, {"x": x})["y"]
    assert np.abs(changed - unchanged).max() > 1e-6  # the comparison sees a changed weight


def test_a_seed_decides_the_weights_and_touches_nothing_else() -> None:
    state = torch.random.get_rng_state()
    one, two = (convnets.seeded(3, convnets.SmallNet).state_dict() for _ in range(2))
    assert all(one[name].equal(two[name]) for name in one)
    other = convnets.seeded(4, convnets.SmallNet).state_dict()
    assert not one["fc.weight"].equal(other["fc.weight"])
    assert state.equal(torch.random.get_rng_state())


def test_width_scales_channels_and_is_bounded() -> None:
    def parameters(width: float) -> int:
        return sum(p.numel() for p in convnets.MobileNet(width).parameters())

    assert parameters(0.5) < parameters(1.0) / 2 < parameters(2.0) / 4
    for width in (0.0, -1.0, float("nan"), 17.0):
        with pytest.raises(ModelError, match="width"):
            convnets.MobileNet(width)


# -- ResNet20 and CIFAR-10 -----------------------------------------------------------------------


def resnet_file() -> Path:
    folder = extra()
    if folder is None:
        pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")
    return folder / "resnet20_cifar10" / "resnet20-12fca82f.th"


def test_resnet20_takes_the_public_weights_and_imports(tmp_path: Path) -> None:
    net = convnets.load_resnet20(resnet_file())
    graph, error = captured(net, (3, 32, 32), tmp_path)
    assert error < 1e-5
    assert cifar.Cifar(weights=resnet_file()).model().linear.weight.equal(net.linear.weight)
    assert {type(layer).__name__ for layer in graph.layers} >= {"Slice", "Pad", "Add"}


def test_bad_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.th"
    with pytest.raises(ModelError, match="no checkpoint"):
        convnets.load_resnet20(file)
    good = {f"module.{k}": v for k, v in convnets.ResNet20().state_dict().items()}
    torch.save({"state_dict": good, "best_prec1": 0.1}, file)
    convnets.load_resnet20(file)
    whole = file.read_bytes()
    marker = tmp_path / "ran"
    bad = {
        "short": whole[: len(whole) // 2],
        "text": b"hello",
        "empty": b"",
        "code": pickle.dumps(Planted(marker)),
    }
    lacking = {k: v for k, v in good.items() if "linear" not in k}
    wide = {**good, "module.linear.weight": torch.zeros(11, 64)}
    for name, held in (("lacking", lacking), ("wide", wide), ("list", [1])):
        torch.save(held, file)
        bad[name] = file.read_bytes()
    for name, content in bad.items():
        file.write_bytes(content)
        with pytest.raises(ModelError, match="damaged or not ResNet20's weights: .") as raised:
            convnets.load_resnet20(file)
        assert "\n" not in str(raised.value), name
    good["module.layer2.0.bn1.weight"][3] = float("nan")
    torch.save(good, file)
    with pytest.raises(ModelError, match=r"NaN or infinite values in 'layer2\.0\.bn1\.weight'"):
        convnets.load_resnet20(file)
    assert not marker.exists()
    pickle.loads(bad["code"])
    assert marker.exists()  # what was planted does run where a pickle is trusted


class Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_cifar_reads_the_binary_version(tmp_path: Path) -> None:
    work = cifar.Cifar(write_cifar(tmp_path))
    held = work.splits()
    assert [len(held[s]) for s in ("train", "validation", "test")] == [45, 5, 10]
    assert held["train"].pixels[:, 0, 0, 0].tolist() == [i // 10 for i in range(45)]
    record = np.frombuffer((tmp_path / "test_batch.bin").read_bytes(), np.uint8)
    planes = held["test"].pixels[0].numpy()
    assert (planes[2, 31, 30], planes[1, 0, 5]) == (record[3071], record[1 + 1024 + 5])
    given = next(work.batches("test", 10, torch.Generator())).inputs[0]
    wanted = (planes[0, 3, 4] / 255 - 0.485) / 0.229
    assert float(given[0, 0, 3, 4]) == pytest.approx(wanted, abs=1e-5)
    train = next(work.batches("train", 8, torch.Generator().manual_seed(0)))
    assert train.inputs[0].shape == (8, 3, 32, 32)


def test_cifar_refuses_pickles_and_damage(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(cifar.VARIABLE, raising=False)
    with pytest.raises(DataError, match=r"has no data.*cifar-10-binary\.tar\.gz"):
        cifar.Cifar().splits()
    with pytest.raises(DataError, match=r"no '.*data_batch_1\.bin'"):
        cifar.Cifar(tmp_path).splits()
    marker = tmp_path / "ran"
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(DataError, match=r"pickle.*not opened.*cifar-10-binary\.tar\.gz"):
        cifar.Cifar(tmp_path).splits()
    assert not marker.exists()
    file = write_cifar(tmp_path) / "data_batch_3.bin"
    whole = file.read_bytes()
    for content, words in (
        (whole[:-1], "records of 3073"),
        (b"", "records of 3073"),
        (b"\x0a" + whole[1:], "a label 10"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words):
            cifar.Cifar(tmp_path).splits()


# -- eyes ----------------------------------------------------------------------------------------


def drawn(seed: int, count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gazes = eyes.draw_gazes(count, rng)
    return gazes, eyes.render(gazes, rng)


def test_eyes_follow_their_seed() -> None:
    (_, one), (_, two), (_, other) = drawn(5), drawn(5), drawn(6)
    assert one.shape == (64, eyes.HEIGHT, eyes.WIDTH) and one.dtype == np.uint8
    assert (one == two).all() and (one != other).any(axis=(1, 2)).all()
    _, longer = drawn(5, 200)
    assert longer.std(axis=(1, 2)).min() > 5  # there is something in every picture


def test_the_pupil_is_where_the_eye_looks() -> None:
    """In eyes of one look the darkest spot moves by the ball's radius times the gaze's sine."""
    gazes = np.array([(yaw, 0.0) for yaw in range(-30, 31, 5)], dtype=np.float32)
    pictures = plain_eyes(gazes)
    columns = np.arange(eyes.WIDTH) - (eyes.WIDTH - 1) / 2
    dark = np.clip(60 - pictures.astype(float), 0, None).sum(axis=1)
    centres = (dark * columns).sum(axis=1) / dark.sum(axis=1)
    np.testing.assert_allclose(centres, 14 * np.sin(np.radians(gazes[:, 0])), atol=0.7)
    assert np.abs(centres + 14 * np.sin(np.radians(gazes[:, 0]))).max() > 5  # the sign counts


def plain_eyes(gazes: np.ndarray) -> np.ndarray:
    """Bright, still eyes: all looks in the middle, no lashes, brow, crease, glint or noise."""
    fixed = {"radius": 14, "skin": 0.8, "iris": 0.5, "pupil": 0.25, "gain": 1, "gamma": 1}
    off = ("centre_x", "centre_y", "roll", "tilt", "corner_x", "corner_y", "lash", "crease",
           "brow", "light_x", "light_y", "shade", "glint", "noise")  # fmt: skip
    middle = {name: (low + high) / 2 for name, (low, high) in eyes.RANGES.items()}
    values = {**middle, **fixed, **dict.fromkeys(off, 0)}
    looks = eyes.Looks(
        **{name: np.full(len(gazes), value, np.float32) for name, value in values.items()}
    )
    return eyes.picture(gazes, looks, np.random.default_rng(0))


def test_gazes_are_checked() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"expected \(N, 2\)"):
        eyes.render(np.zeros(2), rng)
    for gaze in ((31, 0), (0, -21), (np.nan, 0)):
        with pytest.raises(DataError, match="cannot be drawn"):
            eyes.render(np.array([gaze]), rng)


def test_angular_errors_are_angles_between_vectors() -> None:
    wanted = np.array([(0.0, 0.0), (10.0, 0.0), (0.0, 5.0), (30.0, 20.0)])
    given = np.array([(3.0, 0.0), (10.0, -4.0), (0.0, 5.0), (30.0, 20.001)])
    np.testing.assert_allclose(angular_errors(given, wanted), [3, 4, 0, 0.001], atol=1e-9)
    # Far from the equator a degree of yaw is less than a degree.
    assert angular_errors(np.array([(1.0, 20.0)]), np.array([(0.0, 20.0)]))[0] < 0.95


def test_mirrored_eyes_look_the_other_way() -> None:
    work = Gaze(scale=0.01)
    pictures, gazes = work.eyes("train")
    known = {p.numpy().tobytes(): g for p, g in zip(pictures, gazes, strict=True)}
    kept = swapped = 0
    for batch in work.batches("train", 50, torch.Generator().manual_seed(0)):
        for x, y in zip((batch.inputs[0] * 255).round().byte(), batch.targets, strict=True):
            straight = known.get(x.numpy().tobytes())
            gaze = known[x.flip(2).numpy().tobytes()] if straight is None else straight
            sign = -1 if straight is None else 1
            assert (float(y[0]), float(y[1])) == (sign * float(gaze[0]), float(gaze[1]))
            kept, swapped = kept + (sign > 0), swapped + (sign < 0)
    assert kept > 50 and swapped > 50


def test_the_gaze_network_learns_to_see() -> None:
    work = Gaze(scale=0.05)
    blind = work.blind("validation")
    _, after = learn(work, steps=120, rate=3e-3)
    assert after["angular_error_degrees"] < blind / 2
    truth = work.eyes("test")[1].numpy()
    exact = work.metrics(lambda x: truth[: len(x[0])] / UNIT)
    assert exact["angular_error_degrees"] < 1e-4 < exact["angular_error_degrees"] + 1


def test_gaze_refuses_what_is_not_there() -> None:
    for scale in (0, -1, float("nan"), 1e9):
        with pytest.raises(DataError, match="scale"):
            Gaze(scale=scale)
    with pytest.raises(DataError, match="no split 'dev'"):
        Gaze(scale=0.001).eyes("dev")


def test_iris_landmarks_run_in_posit8_and_find_the_drawn_iris() -> None:
    """A network that others trained on photographs, through the importer, on eyes drawn here."""
    folder = extra()
    if folder is None:
        pytest.skip("set OPENNPE_EXTRA to the folder of networks made by others")
    graph = quant.load_onnx(folder / "converted_onnx" / "iris_landmark.onnx")
    gazes, pictures = drawn(0, 25)
    crop = pictures[:, :, 8:40].repeat(2, axis=1).repeat(2, axis=2).astype(np.float32) / 255
    x = np.repeat(crop[:, None], 3, axis=1)
    wanted = float_eval.evaluate(graph, {"input_1": x})
    network = quant.calibrate(graph, x[1:9], "posit8")
    codes, _ = sim.run(catalog.get("EDGE_4X4"), network, {"input_1": x[:1]})
    for name in graph.outputs:
        got = network.tensors[name].decode(codes[name])[0]
        assert np.linalg.norm(got - wanted[name][0]) < 0.05 * np.linalg.norm(wanted[name][0])
    centre = wanted["output_iris"][:, :2]  # x to the right, y down
    assert np.corrcoef(centre[:, 0], gazes[:, 0])[0, 1] > 0.8
    assert np.corrcoef(centre[:, 1], gazes[:, 1])[0, 1] < -0.8


# -- names ---------------------------------------------------------------------------------------


def test_workloads_are_found_by_name() -> None:
    for name in registry.NAMES:
        if name != "vio":
            work = registry.get(name)
            assert work.name == name
            assert work.score and work.higher == (name != "gaze")
            with torch.inference_mode():
                assert len(work.model(0).eval()(*work.example())) == 1
    assert registry.get("mobilenet", width=0.5).width == 0.5
    with pytest.raises(DataError, match="did you mean 'gaze': there are fashion, mobilenet, gaze"):
        registry.get("gase")
    with pytest.raises(DataError, match="no option 'width': expected seed, scale"):
        registry.get("gaze", width=1)
    with pytest.raises(DataError, match="no option 'network'"):
        registry.get("fashion", network="mobilenet")


# -- the page ------------------------------------------------------------------------------------


def cost(work) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one sample."""
    net, products = work.model(0), []

    def count(layer, inputs, output) -> None:
        products.append(layer.weight[0].numel() * output[0].numel())

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        net.eval()(*work.example())
    return sum(p.numel() for p in net.parameters()), sum(products)


def test_the_page_states_what_is_counted() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "workloads.md").read_text("utf-8")
    for name in ("fashion", "mobilenet", "gaze", "resnet20-cifar10"):
        work = registry.get(name)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        parameters, products = cost(work)
        assert f"| {parameters:,} | {products:,} | `{work.score}` |" in row
    assert f"scores {Gaze().blind():.1f} degrees" in page
