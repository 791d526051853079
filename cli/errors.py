"""Ends of a command that are not bugs."""

from __future__ import annotations

from opennpe.golden.errors import OpenNPEError

__all__ = ["CheckFailed", "OutputError"]


class OutputError(OpenNPEError):
    """Results cannot be written where they were asked for; exit status 2."""


class CheckFailed(Exception):
    """The RTL and the simulator differ in a bit; exit status 1."""
