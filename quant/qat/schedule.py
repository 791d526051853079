"""The learning rate of a step, a function of the step alone, so that a resumed run agrees."""

from __future__ import annotations

import math

__all__ = ["rate"]

ONECYCLE_FIRST, ONECYCLE_LAST = 1 / 25, 1e-4 / 25


def rate(kind: str, peak: float, step: int, total: int, warmup: float = 0.0) -> float:
    """The learning rate of a step.

    Args:
        kind: "constant"; "cosine" to zero (Loshchilov and Hutter, arXiv 1608.03983, without
            restarts); "onecycle" up and down by cosines (Smith and Topin, arXiv 1708.07120).
        peak: the highest rate.
        step: of ``total``, from 0.
        total: steps of the stage.
        warmup: share of the stage over which the rate rises, linearly or by onecycle's cosine.
    """
    rise = warmup * total
    first, last = (ONECYCLE_FIRST, ONECYCLE_LAST) if kind == "onecycle" else (0.0, 0.0)
    if step < rise:
        if kind == "onecycle":
            return peak * _between(first, 1.0, step / rise)
        return peak * (step + 1) / (rise + 1)
    if kind == "constant":
        return peak
    return peak * _between(1.0, last, min(1.0, (step - rise) / max(1.0, total - rise)))


def _between(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
