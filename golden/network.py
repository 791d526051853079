"""A network as plain data: tensors with formats and scales, constants, and layers in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, FormatError, NetworkError

__all__ = ["Network", "Tensor", "encode_inputs"]


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, full shape (axis 0 as the model has it), format and scale.

    The real value of a code is ``decode(code) * 2**scale``.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    scale: int = 0

    def decode(self, codes: Any) -> NDArray[np.float64]:
        """Codes of any shape to real values (float64)."""
        return np.asarray(np.ldexp(formats.get(self.format).decode(codes), self.scale))

    def encode(self, values: Any, underflow: formats.Underflow = "minpos") -> NDArray[Any]:
        """Real values of any shape to codes, one rounding."""
        scaled = np.ldexp(np.asarray(values, dtype=np.float64), -self.scale)
        return np.asarray(formats.get(self.format).encode(scaled, underflow))


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order over named tensors; checked on construction.

    Attributes:
        inputs: names of the tensors the caller gives.
        outputs: names of the tensors the caller gets.
        tensors: every tensor by name.
        constants: codes of the constant tensors by name.
        layers: in an order in which every tensor is written before it is read.
        name: for reports.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    layers: tuple[L.Layer, ...]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    name: str = "network"

    def __post_init__(self) -> None:
        known = {*self.inputs, *self.constants}
        for name in known:
            self._tensor(name, "the network")
        for name, codes in self.constants.items():
            if tuple(np.shape(codes)) != self.tensors[name].shape:
                raise NetworkError(
                    f"constant '{name}' has shape {np.shape(codes)}, its tensor says "
                    f"{self.tensors[name].shape}"
                )
        for layer in self.layers:
            for name in layer.inputs:
                if name not in known:
                    raise NetworkError(
                        f"layer '{layer.name}' reads '{name}' before anything writes it"
                    )
            out = self._tensor(layer.output, f"layer '{layer.name}'")
            _check_indices(layer, [self.tensors[n] for n in layer.inputs], out)
            shape = shapes.output_shape(layer, [self.tensors[n].shape for n in layer.inputs])
            if shape != out.shape:
                raise NetworkError(
                    f"layer '{layer.name}' writes shape {shape}, tensor '{out.name}' says "
                    f"{out.shape}"
                )
            known.add(layer.output)
        missing = [name for name in self.outputs if name not in known]
        if missing:
            raise NetworkError(f"nothing writes the network's output '{missing[0]}'")

    def _tensor(self, name: str, who: str) -> Tensor:
        if name not in self.tensors:
            raise NetworkError(f"{who} names the tensor '{name}', which is not described")
        return self.tensors[name]

    @cached_property
    def batch_axis(self) -> int | None:
        """0 when any number of samples may run at once along axis 0, else None."""
        if any(self.tensors[n].shape[:1] != (1,) for n in self.inputs):
            return None
        for layer in self.layers:
            constant = [n in self.constants for n in layer.inputs]
            inputs = [self.tensors[n].shape for n in layer.inputs]
            if all(constant) or not shapes.keeps_batch(
                layer, inputs, constant, self.tensors[layer.output].shape
            ):
                return None
        return 0

    def layer_tensors(self, layer: L.Layer) -> tuple[list[Tensor], Tensor]:
        """The tensors a layer reads and the one it writes."""
        return [self.tensors[n] for n in layer.inputs], self.tensors[layer.output]

    def macs(self, layer: L.Layer) -> int:
        """Multiply-accumulates of one layer for one run at the model's own shapes."""
        out = self.tensors[layer.output].shape
        outputs = int(np.prod(out))
        if isinstance(layer, L.Conv):
            return outputs * int(np.prod(layer.weights.shape[1:]))
        if isinstance(layer, L.Linear):
            return outputs * int(layer.weights.shape[1])
        if isinstance(layer, L.MatMul):
            return outputs * int(self.tensors[layer.inputs[0]].shape[-1])
        return 0


def _check_indices(layer: L.Layer, ins: list[Tensor], out: Tensor) -> None:
    """Indices where a layer takes indices, numbers everywhere else.

    Raises:
        NetworkError: naming the layer and the tensor.
    """
    given = [t.format == formats.INDEX.name for t in ins]
    moved = isinstance(layer, _MOVES) and all(given)
    if moved:
        wanted = given
    else:
        first, last = _INDEX_INPUTS.get(type(layer), (len(ins), len(ins)))
        wanted = [first <= i < last for i in range(len(ins))]
    for tensor, is_index, takes in zip(ins, given, wanted, strict=True):
        if is_index != takes and not (is_index and isinstance(layer, L.Convert)):
            what = "indices" if takes else "numbers"
            raise NetworkError(
                f"layer '{layer.name}' takes {what} where '{tensor.name}' is {tensor.format}"
            )
    if (out.format == formats.INDEX.name) != moved and not isinstance(layer, L.Convert):
        raise NetworkError(f"layer '{layer.name}' cannot write '{out.name}' as {out.format}")


_MOVES = (L.Reshape, L.Transpose, L.Slice, L.Concat, L.Resize)
_MANY = 1 << 30
_INDEX_INPUTS: dict[type, tuple[int, int]] = {
    L.Gather: (1, 2),
    L.StreamSoftmax: (1, _MANY),
    L.Rotary: (1, 2),
    L.Append: (2, 3),
    L.Select: (0, 1),
}
"""The inputs that are indices, by position: from the first to before the last."""


def encode_inputs(
    network: Network,
    inputs: Mapping[str, Any],
    underflow: formats.Underflow,
    encode: Callable[[Tensor, Any, formats.Underflow], NDArray[Any]] = Tensor.encode,
) -> dict[str, NDArray[Any]]:
    """Real inputs to codes; unsigned integer arrays are codes already. Batch along axis 0.

    Args:
        encode: rounds real values to a tensor's codes; a faster one of the same bits may be given.

    Raises:
        DataError: a missing, unknown or wrongly shaped input.
    """
    unknown = sorted(set(inputs) - set(network.inputs))
    if unknown:
        raise DataError(
            f"'{unknown[0]}' is no input of the network: expected {', '.join(network.inputs)}"
        )
    encoded = {}
    for name in network.inputs:
        if name not in inputs:
            raise DataError(f"the input '{name}' is missing: give an array of that name")
        tensor = network.tensors[name]
        array = np.asarray(inputs[name])
        expected = tensor.shape[1:] if network.batch_axis == 0 else tensor.shape
        given = array.shape[1:] if network.batch_axis == 0 else array.shape
        if array.ndim != len(tensor.shape) or given != expected:
            wanted = ("N", *expected) if network.batch_axis == 0 else expected
            text = ", ".join(map(str, wanted))
            raise DataError(f"input '{name}' has shape {array.shape}, expected ({text})")
        if tensor.format == formats.INDEX.name:
            encoded[name] = _indices(tensor, array)
        elif array.dtype.kind == "u":
            encoded[name] = formats.get(tensor.format).check_codes(array)
        elif array.dtype.kind in "fi":
            encoded[name] = encode(tensor, array, underflow)
        else:
            raise DataError(f"input '{name}' holds {array.dtype} values, expected numbers")
    sizes = {name: codes.shape[0] for name, codes in encoded.items() if codes.ndim}
    if network.batch_axis == 0 and len(set(sizes.values())) > 1:
        raise DataError(f"inputs hold different numbers of samples: {sizes}")
    return encoded


def _indices(tensor: Tensor, array: NDArray[Any]) -> NDArray[Any]:
    """Row numbers or flags as indices.

    Raises:
        DataError: values that are no whole numbers an index holds.
    """
    try:
        if array.dtype.kind not in "bui":
            raise FormatError(f"indices are integers, got {array.dtype} values")
        return tensor.encode(array)
    except FormatError as error:
        raise DataError(f"input '{tensor.name}': {error}") from error
