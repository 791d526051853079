"""Small networks that QAT tests train, of every kind of layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["MODELS", "Convolutions", "Sequence", "Vit"]


class Convolutions(nn.Module):
    """Batch normalisation, a depthwise and a grouped convolution, a residual, both poolings."""

    inputs = (1, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(2)
        self.residual = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=4)
        self.average = nn.AvgPool2d(3)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu6(self.stem(x)))
        x = F.relu(x + self.residual(x))
        x = F.hardswish(self.depthwise(x))
        return self.fc(self.average(F.relu(self.grouped(x))).flatten(1))


class Sequence(nn.Module):
    """1-D convolutions, prelu, concatenation, an elementwise product."""

    inputs = (6, 20)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 8, 5, padding=2)
        self.slope = nn.PReLU(8)
        self.second = nn.Conv1d(8, 8, 3, stride=2, padding=1)
        self.gate = nn.Conv1d(8, 8, 1)
        self.fc = nn.Linear(160, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slope(self.first(x))
        y = self.second(x)
        y = y * torch.sigmoid(self.gate(y))
        return self.fc(torch.cat([F.leaky_relu(x[:, :, ::2], 0.1), y], dim=1).flatten(1))


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.mixed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.mixed(x))))


class Vit(nn.Module):
    """Patches, attention's projections, layer normalisation, a mean over tokens."""

    inputs = (1, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, 4)
        self.block = Block()
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


MODELS = {kind.__name__: kind for kind in (Convolutions, Sequence, Vit)}


def made(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A network whose normalisations have seen data, and inputs for it (24 samples)."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    x = torch.rand(24, *model.inputs)
    with torch.no_grad():
        for _ in range(20):
            model(x)
    return model.eval(), x
