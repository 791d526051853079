"""Convolutional networks of the image workloads, each drawn from a seed.

All of them are captured by ``torch.onnx.export`` and read by :func:`opennpe.quant.load_onnx`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from opennpe.golden.errors import ModelError
from torch import nn
from torch.nn import functional as F

__all__ = [
    "InvertedResidual",
    "MobileNet",
    "ResNet20",
    "SmallNet",
    "block",
    "load_resnet20",
    "seeded",
]

Net = TypeVar("Net", bound=nn.Module)

CHANNEL_STEP = 4
MAX_WIDTH = 16.0
MAX_CHECKPOINT_BYTES = 64 << 20


def seeded(seed: int, build: Callable[[], Net]) -> Net:
    """A network whose weights a seed decides; PyTorch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _wide(channels: int, width: float) -> int:
    """Channels times a width, in steps of four.

    Raises:
        ModelError: a width that no network has.
    """
    if not 0 < width <= MAX_WIDTH:
        raise ModelError(f"width {width}: expected above 0 and at most {MAX_WIDTH:g}")
    return max(CHANNEL_STEP, round(channels * width / CHANNEL_STEP) * CHANNEL_STEP)


def block(
    channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution (an odd kernel, padded to keep the size at stride 1), batch normalisation and,
    if ``act``, relu6."""
    layers = [
        nn.Conv2d(*channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels[1]),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))


class SmallNet(nn.Module):  # type: ignore[misc]
    """Classifies 28x28 grey images; made for four bits.

    Each filter sums at least 25 products, so that coarse weights average out, and no layer is
    depthwise. The stem's stride keeps training quick.
    """

    def __init__(self, width: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        first, second = _wide(32, width), _wide(64, width)
        self.stem = block((1, first), 5, stride=2)  # 14x14
        self.conv1 = block((first, first), 3)
        self.conv2 = block((first, second), 3, stride=2)  # 7x7
        self.conv3 = block((second, second), 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(second, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of images (N, 1, 28, 28)."""
        x = self.conv3(self.conv2(self.conv1(self.stem(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """Expand by a 1x1, filter each channel by a 3x3, project by a linear 1x1 (arXiv 1801.04381)."""

    def __init__(self, channels: tuple[int, int], stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels[0] * expansion
        self.expand = block((channels[0], hidden), 1)
        self.depthwise = block((hidden, hidden), 3, stride, groups=hidden)
        self.project = block((hidden, channels[1]), 1, act=False)
        self.added = stride == 1 and channels[0] == channels[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the same size, or half of it at stride 2."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.added else y


class MobileNet(nn.Module):  # type: ignore[misc]
    """A network of MobileNetV2's shape for 28x28 grey images."""

    def __init__(self, width: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        channels = [_wide(n, width) for n in (24, 24, 40, 40, 64)]
        strides = (1, 2, 1, 1)
        self.stem = block((1, channels[0]), 3, stride=2)  # 14x14
        self.blocks = nn.Sequential(
            *(
                InvertedResidual((channels[i], channels[i + 1]), stride, expansion=4)
                for i, stride in enumerate(strides)
            )
        )
        head = _wide(192, width)
        self.head = block((channels[-1], head), 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of images (N, 1, 28, 28)."""
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class _Residual(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions and a shortcut without weights (option A of arXiv 1512.03385)."""

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(*channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[1])
        self.conv2 = nn.Conv2d(channels[1], channels[1], 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels[1])
        self.stride, self.fill = stride, (channels[1] - channels[0]) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every ``stride``-th pixel, channels of zeros before and after, is what is added."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.fill:
            x = F.pad(x, (0, 0, 0, 0, self.fill, self.fill))
        return F.relu(x + y)


class ResNet20(nn.Module):  # type: ignore[misc]
    """ResNet20 for CIFAR-10 (arXiv 1512.03385, 4.2), named as the usual checkpoints name it."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(before: int, after: int, stride: int) -> nn.Sequential:
        blocks = [_Residual((before, after), stride)]
        return nn.Sequential(*blocks, *(_Residual((after, after), 1) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of normalised images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def load_resnet20(path: Path | str) -> ResNet20:
    """ResNet20 with the weights of a checkpoint, ready for inference.

    Args:
        path: a PyTorch file: a state dict, or a dict whose ``state_dict`` is one. Keys may begin
            with ``module.``, as those of networks trained on several devices do.

    Raises:
        ModelError: no such file, damaged, or not exactly this network's weights.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no checkpoint '{file}': expected ResNet20's weights, a PyTorch file")
    if file.stat().st_size > MAX_CHECKPOINT_BYTES:
        raise ModelError(f"'{file}' is larger than {MAX_CHECKPOINT_BYTES >> 20} MiB: no ResNet20")
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
        held = held.get("state_dict", held)
        weights = {name.removeprefix("module."): value for name, value in held.items()}
        net = ResNet20()
        net.load_state_dict(weights, strict=True)
    except Exception as error:
        # Damage shows as UnpicklingError, RuntimeError, EOFError, AttributeError and more.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"'{file}' is damaged or not ResNet20's weights: {reason}") from error
    return net.eval()
