"""A workload small enough for tests: four classes of spots in noise."""

from collections.abc import Iterator

import numpy as np
import torch
from opennpe.quant.workloads.base import Batch
from torch import nn

SIDE = 8
COUNTS = {"train": 96, "validation": 40, "test": 80}


class Net(nn.Module):
    """Convolution with BatchNorm, a 1x1, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.mix(x))
        x = nn.functional.max_pool2d(x, SIDE // 2)
        return self.head(x.flatten(1))


class Blobs:
    """Spots in one of four corners."""

    name, score, higher = "blobs", "top1_percent", True

    def __init__(self, counts=None, poison=None):
        self.counts = {**COUNTS, **(counts or {})}
        self.poison = poison
        self.data = {split: self._draw(split, n) for split, n in self.counts.items()}
        self.steps = 0

    @staticmethod
    def _draw(split, count):
        rng = np.random.default_rng(["train", "validation", "test"].index(split))
        labels = rng.integers(0, 4, count)
        grid = np.indices((SIDE, SIDE)).transpose(1, 2, 0)
        places = np.array([(2, 2), (2, 5), (5, 2), (5, 5)])[labels]
        far = ((grid - places[:, None, None]) ** 2).sum(axis=-1)
        x = np.exp(-far / 3) + 0.3 * rng.normal(size=(count, SIDE, SIDE))
        return torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(labels)

    def model(self, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Net()

    def example(self):
        return (self.data["test"][0][:1],)

    def calibration(self):
        return (self.data["train"][0][:32],)

    def batches(self, split, size, rng) -> Iterator[Batch]:
        x, y = self.data[split]
        order = torch.randperm(len(x), generator=rng) if split == "train" else torch.arange(len(x))
        for start in range(0, len(x), size):
            held = x[order[start : start + size]]
            if split == "train":
                self.steps += 1
                held = held + 0.05 * torch.randn(held.shape, generator=rng)
                if self.steps == self.poison:
                    held = held * torch.nan
            yield Batch((held,), y[order[start : start + size]])

    def loss(self, output, batch):
        return nn.functional.cross_entropy(output, batch.targets)

    def metrics(self, predict, split="test", limit=0):
        x, y = self.data[split]
        count = limit or len(x)
        scores = predict((x[:count].numpy(),))
        return {"top1_percent": float(100 * (scores.argmax(1) == y[:count].numpy()).mean())}


RECIPE = """
version = 1
workload = "blobs"
seed = 3
batch = 16
[[stage]]
name = "float"
kind = "float"
epochs = 3
lr = 0.05
warmup = 0.1
weight_decay = 1e-4
[[stage]]
name = "rounded"
kind = "full"
steps = 9
lr = 0.01
optimiser = "adamw"
schedule = "onecycle"
clip = 1.0
format = "fp4"
activations = "ema"
stochastic = true
[stage.distill]
alpha = 0.5
"""
