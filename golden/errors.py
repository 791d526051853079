"""Errors a user can cause, each one line: what was given, what is expected, what to do."""

from __future__ import annotations

__all__ = [
    "AccumulatorError",
    "CompileError",
    "DataError",
    "DeviceError",
    "FormatError",
    "ModelError",
    "NetworkError",
    "OpenNPEError",
    "PolicyError",
    "ProgramError",
    "SparseError",
    "SpecError",
    "TechError",
    "ToolError",
]


class OpenNPEError(ValueError):
    """Base of every error caused by input; the command line turns it into exit status 2."""


class FormatError(OpenNPEError):
    """A number format does not exist, or cannot hold the value given."""


class SpecError(OpenNPEError):
    """An engine specification contradicts itself."""


class AccumulatorError(OpenNPEError):
    """A sum has more terms than the accumulator holds exactly."""


class NetworkError(OpenNPEError):
    """A network is malformed: unknown tensors, shapes that do not fit, a cycle."""


class ModelError(OpenNPEError):
    """A model file cannot be read or holds something unsupported."""


class DataError(OpenNPEError):
    """Input data does not fit the model."""


class PolicyError(OpenNPEError):
    """A format policy or specification file is invalid."""


class ToolError(OpenNPEError):
    """An external tool is missing or failed; the message names the cure."""


class ProgramError(OpenNPEError):
    """A program or one of its commands is malformed, or made for another co-processor."""


class CompileError(OpenNPEError):
    """A network cannot be mapped onto a co-processor; the message names the layer."""


class DeviceError(OpenNPEError):
    """The co-processor stopped with an error; the message gives its cause."""


class SparseError(OpenNPEError):
    """Packed sparse weights break an invariant, or weights do not fit a packing."""


class TechError(OpenNPEError):
    """A cell library or a table of silicon facts cannot be read, or lacks what a flow needs."""
