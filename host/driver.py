"""The host's side of a run: real inputs in, codes or real values of the outputs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network, Tensor, encode_inputs
from opennpe.golden.program import Program
from opennpe.golden.registers import MemorySettings
from opennpe.host.backends import Backend, Run

__all__ = ["decode", "encode", "run"]

Codes = NDArray[Any]


def run(
    program: Program,
    inputs: Mapping[str, Any],
    backend: Backend,
    settings: MemorySettings | None = None,
) -> Run:
    """Run one sample of a program on a back-end.

    Args:
        program: compiled for the back-end's spec.
        inputs: real values or unsigned codes by input name, axis 0 of extent 1.
        backend: one of :mod:`opennpe.host.backends`.
        settings: how fast the memory outside answers.

    Returns:
        Codes of the outputs and of kept tensors, counters, wall time.

    Raises:
        DataError: inputs that do not fit.
        ProgramError: a program for another co-processor.
        DeviceError: the co-processor stopped with an error, or hangs.
    """
    return backend.run(program, encode(program, inputs), settings or MemorySettings())


def encode(program: Program, inputs: Mapping[str, Any]) -> dict[str, Codes]:
    """Codes of a program's inputs, rounded once as the network's tensors say.

    Raises:
        DataError: a missing, unknown or wrongly shaped input, or more than one sample.
    """
    tensors = {
        symbol.name: Tensor(symbol.name, symbol.shape, symbol.layout.format, symbol.scale)
        for symbol in program.of("input")
    }
    names = tuple(tensors)
    network = Network(inputs=names, outputs=names, tensors=tensors, layers=())
    codes = encode_inputs(network, inputs, program.facts["underflow"])
    for name, array in codes.items():
        if array.shape != tensors[name].shape:
            raise DataError(
                f"a program runs one sample: input '{name}' has shape {array.shape}, expected "
                f"{tensors[name].shape}"
            )
    return codes


def decode(program: Program, tensors: Mapping[str, Codes]) -> dict[str, NDArray[np.float64]]:
    """Real values of a program's outputs."""
    return {o.tensor.name: o.tensor.decode(tensors[o.tensor.name]) for o in program.outputs}
