"""What a workload is: a model, its data, its loss and its metrics, without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["Batch", "Predict", "Split", "Workload"]

Split = Literal["train", "validation", "test"]
Predict = Callable[[tuple[NDArray[np.float32], ...]], NDArray[np.float32]]
"""From a batch of inputs, samples along axis 0, to the first output's real values."""


@dataclass(frozen=True)
class Batch:
    """Inputs, samples along axis 0, and what the loss compares with."""

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor


class Workload(Protocol):
    """A task that networks are trained and measured on.

    Attributes:
        name: as commands call it.
        score: the metric that budgets speak of.
        higher: whether more of it is better.
    """

    name: str
    score: str
    higher: bool

    def model(self, seed: int = 0) -> nn.Module:
        """The float network, its weights drawn from a seed."""

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs of one sample, batch 1."""

    def calibration(self) -> tuple[torch.Tensor, ...]:
        """Inputs that scales are chosen from, of the training split."""

    def batches(self, split: Split, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass: in random order and augmented for "train", in order for the others.

        Raises:
            DataError: there are no data, or none of this split.
        """

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """A number to be made small."""

    def metrics(self, predict: Predict, split: Split = "test", limit: int = 0) -> dict[str, float]:
        """Figures over a split (its first ``limit`` samples, if not 0); units in the names."""
