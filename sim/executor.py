"""A network run layer by layer, bit for bit as golden has it, and what the engine did for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import array, formats, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network, Tensor, encode_inputs
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import attention, cpu, elementwise, movement, pooling, product
from opennpe.sim.encode import MAX_SCALE, encode
from opennpe.sim.softmax import softmax
from opennpe.sim.tables import Unsuited
from opennpe.sim.values import Value

__all__ = ["LayerTrace", "Trace", "run"]

Codes = NDArray[Any]
Handler = Callable[..., tuple[Value, str]]


@dataclass(frozen=True)
class LayerTrace:
    """One layer of a run.

    Attributes:
        name: the layer's.
        kind: its class, "Conv" and so on.
        macs: multiply-accumulates by the layer's definition, all samples together.
        cycles: cycles of the array for all samples (:mod:`opennpe.golden.array`).
        words_in: 16-bit operand words entering the array.
        words_out: 16-bit words of results.
        seconds: wall time of this layer in the simulation.
        path: the kernel that computed it; "reference" is golden's integers.
    """

    name: str
    kind: str
    macs: int
    cycles: int
    words_in: int
    words_out: int
    seconds: float
    path: str


@dataclass(frozen=True)
class Trace:
    """A run: its layers in order, and how many samples it held."""

    layers: tuple[LayerTrace, ...]
    samples: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Cycles of the array, one layer after the other."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def words_in(self) -> int:
        """Operand words entering the array."""
        return sum(layer.words_in for layer in self.layers)

    @property
    def words_out(self) -> int:
        """Words of results."""
        return sum(layer.words_out for layer in self.layers)

    @property
    def seconds(self) -> float:
        """Wall time of the layers."""
        return sum(layer.seconds for layer in self.layers)


def run(
    spec: CoprocessorSpec,
    network: Network,
    inputs: Mapping[str, Any],
    threads: int | None = None,
    keep: Sequence[str] = (),
) -> tuple[dict[str, Codes], Trace]:
    """Codes of a network's outputs, the same bits as ``golden.reference.evaluate``.

    They do not depend on the number of threads, on tiling, or on how many samples run at once.
    A tensor is freed after the last layer that reads it.

    Args:
        spec: gives the underflow rule, the accumulator and the array that cycles are counted for.
        network: where its ``batch_axis`` is 0, any number of samples along axis 0.
        inputs: real values or unsigned codes by input name.
        threads: at most so many; what numba may use where None.
        keep: names of further tensors to return.

    Returns:
        Codes (channels-first) by name of every output and of every kept tensor, and the trace.

    Raises:
        DataError: inputs that do not fit, or a kept name the network does not have.
        FormatError: a NaR and a format that has no code for it.
        AccumulatorError: a layer with more terms than the accumulator holds.
    """
    wanted = tuple(dict.fromkeys((*network.outputs, *keep)))
    unknown = [name for name in wanted if name not in network.tensors]
    if unknown:
        raise DataError(f"the network has no tensor '{unknown[0]}' to keep")
    count = cpu.threads(threads)
    encoded = encode_inputs(network, inputs, spec.underflow, _encode)
    samples = 1
    if network.batch_axis == 0 and encoded:
        samples = next(iter(encoded.values())).shape[0]
    values = {name: Value(first=np.asarray(codes)) for name, codes in encoded.items()}
    values |= {name: Value(first=np.asarray(c)) for name, c in network.constants.items()}
    uses = Counter(name for layer in network.layers for name in layer.inputs)
    traces = []
    works = _works(spec, network, samples)
    for layer, work in zip(network.layers, works, strict=True):
        begun = time.perf_counter()
        ins, out = network.layer_tensors(layer)
        operands = [values[name] for name in layer.inputs]
        values[layer.output], path = _execute(spec, layer, operands, ins, out, count)
        seconds = time.perf_counter() - begun
        del operands
        for name in layer.inputs:
            uses[name] -= 1
            if not uses[name] and name not in wanted:
                values.pop(name, None)
        if not uses[layer.output] and layer.output not in wanted:
            del values[layer.output]
        traces.append(
            LayerTrace(
                name=layer.name,
                kind=type(layer).__name__,
                macs=work.macs,
                cycles=work.cycles,
                words_in=work.words_in,
                words_out=work.words_out,
                seconds=seconds,
                path=path,
            )
        )
    return {name: values[name].first() for name in wanted}, Trace(tuple(traces), samples)


def _encode(tensor: Tensor, values: Any, underflow: formats.Underflow) -> Codes:
    """``Tensor.encode`` by the rounding kernel."""
    if tensor.format == formats.INDEX.name:
        return tensor.encode(values)
    reals = np.asarray(values, dtype=np.float64)
    if abs(tensor.scale) > MAX_SCALE:
        return tensor.encode(reals, underflow)
    # A product with a power of two is ldexp, several times faster.
    return encode(reals * 2.0**-tensor.scale, tensor.format, underflow)


_WORKS: WeakKeyDictionary[Network, dict[Any, tuple[array.Work, ...]]] = WeakKeyDictionary()


def _works(spec: CoprocessorSpec, network: Network, samples: int) -> tuple[array.Work, ...]:
    """What each layer asks of the array; counted once a network, spec and batch."""
    held = _WORKS.setdefault(network, {})
    key = (spec, samples)
    if key not in held:
        held[key] = tuple(array.layer_work(spec, network, x, samples) for x in network.layers)
    return held[key]


def _execute(
    spec: CoprocessorSpec,
    layer: L.Layer,
    values: list[Value],
    ins: list[Tensor],
    out: Tensor,
    threads: int,
) -> tuple[Value, str]:
    """One layer by its kernel, or by golden where none is proven exact."""
    if isinstance(layer, L.Conv | L.Linear | L.MatMul):
        if spec.mac.accumulator == "windowed":
            return _reference(spec, layer, values, ins, out, "reference, windowed")
        return _product(spec, layer, values, ins, out, threads)
    try:
        return _HANDLERS[type(layer)](spec, layer, ins, values, out, threads)
    except Unsuited:
        return _reference(spec, layer, values, ins, out, "reference")


def _product(
    spec: CoprocessorSpec,
    layer: L.Conv | L.Linear | L.MatMul,
    values: list[Value],
    ins: list[Tensor],
    out: Tensor,
    threads: int,
) -> tuple[Value, str]:
    match layer:
        case L.Conv():
            return product.conv(spec, layer, values[0], ins[0], out, threads)
        case L.Linear():
            return product.linear(spec, layer, values[0], ins[0], out, threads)
        case L.MatMul():
            a, b = values
            return product.matmul(spec, layer, a, b, (ins[0], ins[1]), out, threads)


def _reference(
    spec: CoprocessorSpec,
    layer: L.Layer,
    values: list[Value],
    ins: list[Tensor],
    out: Tensor,
    path: str,
) -> tuple[Value, str]:
    codes = reference.evaluate_layer(spec, layer, ins, [v.first() for v in values], out)
    return Value(first=codes), path


_HANDLERS: dict[type, Handler] = {
    L.Add: elementwise.add,
    L.Mul: elementwise.multiply,
    L.Activate: elementwise.activate,
    L.Convert: elementwise.recode,
    L.Pool: pooling.pool,
    L.Concat: movement.concat,
    L.Resize: movement.resize,
    L.Pad: movement.pad,
    L.Slice: movement.slices,
    L.Reshape: movement.reshape,
    L.Transpose: movement.transpose,
    L.Softmax: softmax,
    L.StreamSoftmax: attention.stream_softmax,
    L.Normalise: attention.normalise,
    L.Gather: attention.rows,
    L.Rotary: attention.rotary,
    L.Append: attention.append,
    L.Select: attention.select,
    L.Reduce: attention.reduce,
}
