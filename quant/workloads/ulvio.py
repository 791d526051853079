"""A visual-inertial odometry network of UL-VIO's shape, any width, and UL-VIO's own weights.

UL-VIO (Park, Chun, Seok, ECCV 2024): a convolutional encoder of an image pair, a one-dimensional
one of the inertial samples between, both features side by side into a small perceptron that gives
the relative pose. Here a module is one pair: images (n, 2 C, H, W), inertial (n, 6, window) to
(n, 6), so that a network is two tensors in and one out.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from opennpe.golden.errors import ModelError
from opennpe.golden.whole import replacing
from torch import nn

__all__ = ["FULL", "SMALL", "UlVio", "Widths", "example", "export", "load_checkpoint", "rename"]

SLOPE = 0.1
"""Of every leaky rectifier."""
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 22


@dataclass(frozen=True)
class Widths:
    """Sizes of a network.

    Attributes:
        height, width: pixels of a frame.
        colours: channels of a frame.
        visual: output channels of the eight image convolutions.
        inertial: output channels of the three inertial convolutions.
        window: inertial samples a pair.
        inertial_features: numbers that describe the inertial window.
        hidden: of the perceptron.
    """

    height: int
    width: int
    colours: int
    visual: tuple[int, int, int, int, int, int, int, int]
    inertial: tuple[int, int, int]
    window: int
    inertial_features: int
    hidden: int

    def __post_init__(self) -> None:
        sides = (self.height, self.width, self.colours, self.window)
        numbers = [*sides, *self.visual, *self.inertial, self.inertial_features, self.hidden]
        if len(self.visual) != 8 or len(self.inertial) != 3:
            raise ModelError(
                f"{len(self.visual)} image and {len(self.inertial)} inertial convolutions: "
                "expected 8 and 3"
            )
        if min(numbers) < 1 or max(numbers) > 4096 or self.height * self.width > MAX_PIXELS:
            raise ModelError(
                f"widths {numbers}: expected 1 to 4,096 each, at most {MAX_PIXELS:,} pixels"
            )


FULL = Widths(
    height=256,
    width=512,
    colours=3,
    visual=(8, 16, 64, 64, 64, 192, 64, 378),
    inertial=(32, 64, 64),
    window=11,
    inertial_features=128,
    hidden=128,
)
"""UL-VIO as published."""
SMALL = Widths(
    height=64,
    width=128,
    colours=1,
    visual=(8, 16, 32, 32, 32, 64, 32, 96),
    inertial=(16, 32, 32),
    window=11,
    inertial_features=32,
    hidden=64,
)
"""Of the same shape, for training in minutes."""
STAGES = (
    ("conv1", 5, 2),
    ("conv2", 3, 2),
    ("conv3", 5, 2),
    ("conv4", 3, 2),
    ("conv4_1", 3, 1),
    ("conv5", 3, 2),
    ("conv5_1", 3, 1),
    ("conv6", 3, 2),
)
"""Name, kernel and stride of the image convolutions."""


class ConvNorm(nn.Module):  # type: ignore[misc]
    """A convolution without bias, batch normalisation, a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class InertialConv(nn.Module):  # type: ignore[misc]
    """A convolution along time with bias, batch normalisation, a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm1d(outputs)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class VisualEncoder(nn.Module):  # type: ignore[misc]
    """Image pairs (n, 2 C, H, W) to features (n, visual[-1])."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        inputs = 2 * widths.colours
        for (name, kernel, stride), outputs in zip(STAGES, widths.visual, strict=True):
            self.add_module(name, ConvNorm(inputs, outputs, kernel, stride))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, _, _ in STAGES:
            x = getattr(self, name)(x)
        return self.head(self.pool(x).flatten(1))


class InertialEncoder(nn.Module):  # type: ignore[misc]
    """Inertial windows (n, 6, window) to features (n, inertial_features)."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        first, second, third = widths.inertial
        self.conv1 = InertialConv(6, first)
        self.conv2 = InertialConv(first, second)
        self.conv3 = InertialConv(second, third)
        self.proj = nn.Linear(third * widths.window, widths.inertial_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.conv3(self.conv2(self.conv1(x))).flatten(1))


class PoseDecoder(nn.Module):  # type: ignore[misc]
    """Both features (n, f) to the relative pose (n, 6)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.act1 = nn.LeakyReLU(SLOPE)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, hidden)
        self.act3 = nn.LeakyReLU(SLOPE)
        self.out = nn.Linear(hidden, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act3(self.fc3(self.fc2(self.act1(self.fc1(x))))))


class UlVio(nn.Module):  # type: ignore[misc]
    """Image pairs (n, 2 C, H, W) and inertial windows (n, 6, window) to relative poses (n, 6).

    With UL-VIO's own weights images are pixels from -0.5 to 0.5 (red, green, blue, the earlier
    frame first), inertial samples m/s2 and rad/s, poses radians and metres.
    """

    def __init__(self, widths: Widths = SMALL) -> None:
        super().__init__()
        self.widths = widths
        self.visual = VisualEncoder(widths)
        self.inertial = InertialEncoder(widths)
        self.pose = PoseDecoder(widths.visual[-1] + widths.inertial_features, widths.hidden)

    def forward(self, images: torch.Tensor, inertial: torch.Tensor) -> torch.Tensor:
        return self.pose(torch.cat((self.visual(images), self.inertial(inertial)), dim=1))


def example(widths: Widths) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of one sample, zeros."""
    return (
        torch.zeros(1, 2 * widths.colours, widths.height, widths.width),
        torch.zeros(1, 6, widths.window),
    )


def rename(key: str) -> str:
    """UL-VIO's name of a parameter in ours.

    Raises:
        ModelError: UL-VIO has no parameter of that name.
    """
    for theirs, ours in _PREFIXES.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    raise ModelError(f"'{key[:80]}' is no parameter of UL-VIO: expected its published state dict")


_PREFIXES = {
    **{f"visual_encoder.{name}.": f"visual.{name}." for name, _, _ in STAGES},
    "visual_encoder.visual_head.": "visual.head.",
    "inertial_encoder.encoder_conv.0.": "inertial.conv1.conv.",
    "inertial_encoder.encoder_conv.1.": "inertial.conv1.norm.",
    "inertial_encoder.encoder_conv.4.": "inertial.conv2.conv.",
    "inertial_encoder.encoder_conv.5.": "inertial.conv2.norm.",
    "inertial_encoder.encoder_conv.8.": "inertial.conv3.conv.",
    "inertial_encoder.encoder_conv.9.": "inertial.conv3.norm.",
    "inertial_encoder.proj.": "inertial.proj.",
    "pose_net.mlp.0.": "pose.fc1.",
    "pose_net.mlp.2.": "pose.fc2.",
    "pose_net.regressor.0.": "pose.fc3.",
    "pose_net.regressor.2.": "pose.out.",
}


def load_checkpoint(path: str | Path, widths: Widths = FULL) -> UlVio:
    """A network with weights under UL-VIO's names, the published ones at full width; eval mode.

    Raises:
        ModelError: the file is missing, damaged, holds more than tensors, or is of another network.
    """
    path = Path(path)
    state = _read(path)
    model = UlVio(widths)
    wanted = model.state_dict()
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        try:
            name = rename(key)
        except ModelError as error:
            raise ModelError(f"'{path.name}': {error}") from None
        if name not in wanted:
            raise ModelError(f"'{path.name}': '{key}' is no parameter of UL-VIO")
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"'{path.name}': '{key}' has shape {tuple(value.shape)}, expected "
                f"{tuple(wanted[name].shape)}"
            )
        if not bool(torch.isfinite(value.double()).all()):
            raise ModelError(f"'{path.name}': '{key}' holds NaN or infinity: the file is damaged")
        found[name] = value
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ModelError(f"'{path.name}' lacks {len(missing)} parameters, the first '{missing[0]}'")
    model.load_state_dict(found, strict=True)
    model.eval()
    return model


def _read(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, unpickled as weights only."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from None
    with file:
        _check_size(file, path.name)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:
            # The unpickler raises whatever the bytes lead it to; its text may be theirs.
            raise ModelError(
                f"'{path.name}' is no state dict that torch.load(weights_only=True) reads: it is "
                "damaged or holds more than tensors"
            ) from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ModelError(f"'{path.name}' holds no state dict: expected names and tensors")
    return dict(state)


def _check_size(file: BinaryIO, name: str) -> None:
    """Refuse what is, or unpacks to, more than a checkpoint may have; the file is at its start."""
    size = file.seek(0, 2)
    file.seek(0)
    if size <= MAX_FILE_BYTES and zipfile.is_zipfile(file):
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                size = max(size, sum(item.file_size for item in archive.infolist()))
        except zipfile.BadZipFile:
            # torch.load is asked next, and refuses it.
            size = 0
    file.seek(0)
    if size > MAX_FILE_BYTES:
        raise ModelError(f"'{name}' unpacks to {size:,} bytes, expected {MAX_FILE_BYTES:,} at most")


def export(model: UlVio, path: str | Path) -> None:
    """Write an ONNX file: inputs ``images`` and ``inertial``, output ``pose``, a free batch ``n``.

    Raises:
        OSError: the folder cannot be written.
    """
    names = ("images", "inertial", "pose")
    training = model.training
    with replacing(Path(path)) as part, warnings.catch_warnings():
        # The tracing exporter needs nothing but torch and onnx.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval(),
            example(model.widths),
            str(part),
            dynamo=False,
            input_names=list(names[:2]),
            output_names=[names[2]],
            dynamic_axes={name: {0: "n"} for name in names},
        )
    model.train(training)
