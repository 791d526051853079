"""What can go wrong in training, each one line: what was given, what is expected, what to do."""

from opennpe.golden.errors import OpenNPEError

__all__ = ["CheckpointError", "RecipeError", "TrainingError"]


class TrainingError(OpenNPEError):
    """Training cannot go on: a loss that is no number, or a checkpoint that does not fit."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or written, or belongs to another network."""


class RecipeError(OpenNPEError):
    """A training recipe is invalid, or does not fit the network or the folder it is to train."""
