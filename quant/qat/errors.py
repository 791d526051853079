"""What can go wrong in training."""

from opennpe.golden.errors import OpenNPEError

__all__ = ["TrainingError"]


class TrainingError(OpenNPEError):
    """Training cannot go on: a loss that is no number, or a checkpoint that does not fit."""
