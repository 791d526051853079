"""Errors of training, each one line: what was given, what is expected, what to do."""

from __future__ import annotations

from opennpe.golden.errors import OpenNPEError

__all__ = ["CheckpointError", "RecipeError", "TrainingError"]


class RecipeError(OpenNPEError):
    """A training recipe is invalid, or does not fit the network or the folder it is to train."""


class CheckpointError(OpenNPEError):
    """A checkpoint cannot be read or written, or belongs to another network or recipe."""


class TrainingError(OpenNPEError):
    """Training cannot go on: a loss or a weight is no number."""
