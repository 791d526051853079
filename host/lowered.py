"""What lowering keeps, and what every layer's lowering needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import codec, formats
from opennpe.golden import layers as L
from opennpe.golden.errors import CompileError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.program import Output
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job, Stored

__all__ = [
    "Codes",
    "Lowered",
    "Pair",
    "checked_shift",
    "clamp_codes",
    "engine_format",
    "image",
    "negated",
    "nests",
    "powers",
    "refuse",
    "two",
]

Pair = tuple[int, int]
Codes = NDArray[Any]


@dataclass
class Lowered:
    """A network as jobs over stored tensors.

    Attributes:
        stored: tensors that take room, by name.
        root: the stored tensor that holds a network tensor's codes.
        jobs: in order.
        outputs: what the network gives; ``symbol`` names a stored tensor.
        spread: codes of constants that were spread to a layer's shape, by stored tensor.
        whole: stored tensors that are written by several jobs.
    """

    spec: CoprocessorSpec
    network: Network
    stored: dict[str, Stored] = field(default_factory=dict)
    root: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    spread: dict[str, Codes] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    def tensor(self, name: str) -> Tensor:
        """The network's tensor."""
        return self.network.tensors[name]

    def new(self, tensor: Tensor, shape: tuple[int, int, int], positive: bool = False) -> Stored:
        """Room for a network tensor, stored as (channels, height, width)."""
        stored = Stored(tensor.name, *shape, tensor.format, tensor.scale, positive=positive)
        self.stored[tensor.name] = stored
        self.root[tensor.name] = tensor.name
        return stored

    def held(self, name: str) -> Stored:
        """The stored tensor behind a network tensor."""
        return self.stored[self.root[name]]


def refuse(layer: L.LayerBase, why: str) -> CompileError:
    """The error of a layer the co-processor does not do."""
    return CompileError(f"layer '{layer.name}' ({type(layer).__name__}): {why}")


def image(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(channels, height, width) of a tensor of one sample, or None."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1], shape[2], shape[3]
    if len(shape) == 3 and shape[0] == 1:
        return shape[1], 1, shape[2]
    if len(shape) == 2 and shape[0] == 1:
        return shape[1], 1, 1
    if len(shape) == 1:
        return shape[0], 1, 1
    return None


def engine_format(low: Lowered, layer: L.LayerBase, name: str) -> None:
    """Refuse a format the engine does not have."""
    if name not in low.spec.mac.formats:
        known = ", ".join(low.spec.mac.formats)
        raise refuse(layer, f"the engine has no {name}: expected {known}")


def checked_shift(low: Lowered, layer: L.LayerBase, shift: int) -> int:
    """A shift that the engine can do, or refusal."""
    half = 1 << (low.spec.engine.shift_bits - 1)
    if not -half <= shift < half:
        raise refuse(layer, f"a shift by {shift} bits: the engine shifts by {-half} to {half - 1}")
    return shift


def clamp_codes(low: Lowered, out: Tensor, clip: L.Clip | None) -> Pair | None:
    """Codes that clipping before the rounding comes to: rounding is monotonic."""
    if clip is None or all(math.isinf(b) for b in clip):
        return None
    fmt = formats.get(out.format)
    ends = [int(c) for c in fmt.encode(np.array([-fmt.maxpos, fmt.maxpos]))]
    codes = []
    for bound, end in zip(clip, ends, strict=True):
        if math.isinf(bound):
            codes.append(end)
        else:
            exact = Fraction(bound)
            codes.append(
                codec.round_exact(
                    fmt, exact.numerator, -out.scale, low.spec.underflow, exact.denominator
                )
            )
    return codes[0], codes[1]


def two(values: tuple[int, ...], lead: int) -> Pair:
    """The (y, x) of one or two spatial axes."""
    return (lead, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def powers(name: str) -> dict[int, int]:
    """Codes of a format's powers of two, by exponent."""
    fmt = formats.get(name)
    found = {}
    for code, value in enumerate(fmt.values):
        if value > 0 and math.isfinite(value) and math.frexp(value)[0] == 0.5:
            found[math.frexp(value)[1] - 1] = code
    return found


def negated(name: str, code: int) -> int:
    """The code of the negative value."""
    fmt = formats.get(name)
    return int(fmt.encode(np.array(-fmt.values[code])))


def nests(name: str, mode: str) -> bool:
    """Whether a fill brings codes of a format to a mode."""
    if name == mode:
        return True
    return bool(formats.get(name).bits < formats.get(mode).bits)
