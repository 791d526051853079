"""The loss of a pupil: its task's, and its distance from a teacher's outputs."""

from __future__ import annotations

import torch
from opennpe.quant.qat.recipe import Distill
from torch.nn import functional

__all__ = ["blend"]


def blend(
    task: torch.Tensor,
    pupil: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    plan: Distill,
) -> torch.Tensor:
    """(1 - alpha) of the task's loss and alpha of the distance from the teacher, a scalar.

    "kl" is Hinton's (Hinton et al., arXiv 1503.02531): the divergence of softmaxes at a
    temperature, times its square, a mean over samples. "mse" is the mean squared difference.
    Unless the plan says which, whole-numbered targets (classes) take "kl", others "mse".

    Args:
        task: the task's loss, a scalar.
        pupil, teacher: outputs (samples, ...), the last axis classes for "kl".
        targets: of the batch.
        plan: shares, temperature and kind.
    """
    kind = plan.loss or ("mse" if targets.is_floating_point() else "kl")
    if kind == "mse":
        distance = functional.mse_loss(pupil, teacher)
    else:
        soft = functional.log_softmax(pupil / plan.temperature, dim=-1)
        wanted = functional.log_softmax(teacher / plan.temperature, dim=-1)
        distance = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        distance = distance * plan.temperature**2
    return (1.0 - plan.alpha) * task + plan.alpha * distance
