"""Which layers run sparse, and what that comes to: records of weights, channel-major tensors.

The choice is made before anything is lowered, by closed forms: cycles of the array and of the bus,
transpositions included, or bytes of weights and parameters outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes, mac, microops
from opennpe.golden import layers as L
from opennpe.golden.commands import PARAMETER_LINES, WIDEN
from opennpe.golden.errors import CompileError, ProgramError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.lowered import without
from opennpe.host.plan import EXEC_CYCLES

__all__ = ["Candidate", "Choice", "best_shape", "candidates", "choose"]

Choice = Literal["auto", "cycles", "bytes", "never", "always"]
LEAST_GAIN = 0.1
"""Share of its dense cycles that a layer must gain at least."""


def record_counts(weights: NDArray[np.bool_], rows: int, delta_bits: int) -> NDArray[np.int64]:
    """Records of every row block (blocks,), as :func:`microops.pack` makes them.

    Args:
        weights: which are not zero, (outputs, inputs).
    """
    blocks = np.asarray(weights.reshape(-1, rows, weights.shape[1]).any(axis=1))
    block, index = np.nonzero(blocks)
    first = np.ones(len(block), dtype=bool)
    first[1:] = block[1:] != block[:-1]
    gap = np.where(first, index, np.diff(index, prepend=0))
    fillers = np.maximum(-(-gap // ((1 << delta_bits) - 1)) - 1, 0)
    counts = np.bincount(block, weights=1 + fillers, minlength=len(blocks))
    return np.maximum(counts.astype(np.int64), 1)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer that might run sparse.

    Attributes:
        spec: the co-processor.
        layer: a product with weights of 1x1.
        weights: its codes (outputs, inputs).
        pixels: of its input. modes: operands' formats. given, out: those of input and output.
        small: whether its records should take little room rather than few cycles.
    """

    spec: CoprocessorSpec
    layer: L.Conv | L.Linear
    weights: NDArray[Any]
    pixels: int
    modes: tuple[str, str]
    given: str
    out: str
    small: bool = False

    @property
    def lanes(self) -> int:
        """Codes a word of operands."""
        return lanes.lanes(self.modes[0])

    @property
    def pixel_blocks(self) -> int:
        """Lines that the pixels of one channel take."""
        return -(-self.pixels // (self.spec.line_words * self.lanes))

    @cached_property
    def nonzero(self) -> NDArray[np.bool_]:
        """Which weights are not zero."""
        return np.asarray(formats.get(self.layer.weight_format).decode(self.weights) != 0)

    @cached_property
    def shape(self) -> microops.Shape | None:
        """How its records look best; None where none fit in a line."""
        return best_shape(
            self.spec, self.layer.weight_format, self.nonzero, self.pixel_blocks, self.small
        )

    @property
    def why_not(self) -> str:
        """Why the co-processor cannot run it sparse; empty if it can."""
        memory, (mode_a, mode_b) = self.spec.memory, self.modes
        if self.spec.lacks("sparse"):
            return f"it needs sparse, {without(self.spec, 'sparse')}"
        if not {self.given, self.out, mode_a, mode_b} <= set(self.spec.mac.formats):
            return "a format that the engine does not have"
        widths = {lanes.lanes(f) for f in (self.given, self.out)} | {self.lanes}
        if len(widths) > 1:
            return (
                f"{self.given} to {self.out} in {mode_a}: a sparse layer's input, products and "
                "output are of one width"
            )
        pair = (self.layer.weight_format, mode_b)
        if pair[0] != pair[1] and pair not in WIDEN:
            return f"weights of {pair[0]} in {mode_b}"
        if self.weights.shape[1] > memory.operand_lines:
            return (
                f"{self.weights.shape[1]} input channels are more than the operand memories' "
                f"{memory.operand_lines} lines"
            )
        spare = self.pixels % (self.spec.line_words * self.lanes)
        if self.out == "fp4" and formats.get(mode_a).nan_code is not None and spare:
            return f"spare pixels of {mode_a} may hold NaR, for which fp4 has no code"
        if self.shape is None:
            return "no record fits in a line"
        return ""

    # -- costs ---------------------------------------------------------------------------------
    @property
    def dense_cycles(self) -> float:
        """Cycles as a dense layer, by the slower of array and bus."""
        outputs, inputs = self.weights.shape
        spec = self.spec
        columns, per_word = spec.line_words, self.lanes
        fold = max(f for f in (1, 2, 4) if f == 1 or (outputs <= columns // f * per_word
                   and f <= min(columns, per_word)))  # fmt: skip
        tiles = -(-outputs // (columns // fold * per_word))
        groups = -(-self.pixels // (spec.array.rows * fold))
        factor = lanes.lanes(self.layer.weight_format) // per_word
        lines = tiles * (inputs / factor + PARAMETER_LINES)
        work = groups * tiles * max(inputs, min(spec.array.rows, self.pixels))
        return float(max(work, lines * spec.beats_per_line) + EXEC_CYCLES)

    @property
    def sparse_cycles(self) -> float:
        """Cycles as a sparse layer, by the slower of array and bus; transpositions left out."""
        assert self.shape is not None
        work, lines, times = _cost(self.spec, self.shape, self.nonzero, self.pixel_blocks)
        lines = times * lines + PARAMETER_LINES * -(-len(self.weights) // self.spec.line_words)
        return max(work, lines * self.spec.beats_per_line) + EXEC_CYCLES

    @property
    def dense_bytes(self) -> int:
        """Bytes of weights and parameters outside as a dense layer."""
        outputs, inputs = self.weights.shape
        tiles = -(-outputs // (self.spec.line_words * self.lanes))
        factor = lanes.lanes(self.layer.weight_format) // self.lanes
        return int(tiles * (-(-inputs // factor) + PARAMETER_LINES) * self.spec.line_bytes)

    @property
    def sparse_bytes(self) -> int:
        """The same as a sparse layer."""
        assert self.shape is not None
        _, lines, _ = _cost(self.spec, self.shape, self.nonzero, self.pixel_blocks)
        tiles = -(-len(self.weights) // self.spec.line_words)
        return (lines + PARAMETER_LINES * tiles) * self.spec.line_bytes


def _cost(
    spec: CoprocessorSpec, shape: microops.Shape, nonzero: NDArray[np.bool_], pixel_blocks: int
) -> tuple[int, int, int]:
    """Cycles of the array, lines of records, and how often they are loaded."""
    counts = record_counts(nonzero, shape.rows, shape.delta_bits)
    share = spec.array.rows // shape.rows
    each, room = nonzero.shape[1], spec.memory.operand_lines
    band = min(room // 2 // each or room // each or 1, pixel_blocks)
    bands = -(-pixel_blocks // band)
    least = min(share, band) * shape.rows
    work = bands * -(-band // share) * int(np.maximum(counts, least).sum())
    lines = -(-int(counts.sum()) // shape.per_line)
    return work, lines, bands if lines > spec.memory.weight_lines else 1


def best_shape(
    spec: CoprocessorSpec,
    weight_format: str,
    nonzero: NDArray[np.bool_],
    pixel_blocks: int,
    small: bool = False,
) -> microops.Shape | None:
    """The records that take the fewest cycles, by the slower of array and bus; then, or where
    ``small`` first, the fewest lines. None where no record fits in a line."""
    found = []
    for rows in microops.BLOCK_ROWS:
        if spec.array.rows % rows or len(nonzero) % rows:
            continue
        for bits in microops.DELTAS:
            try:
                shape = microops.Shape(weight_format, rows, bits, spec.line_words)
            except ProgramError:
                continue
            work, lines, times = _cost(spec, shape, nonzero, pixel_blocks)
            cycles = max(work, times * lines * spec.beats_per_line)
            found.append(((lines, cycles) if small else (cycles, lines), rows, bits, shape))
    return min(found, key=lambda f: f[:3])[3] if found else None


# -- the choice ------------------------------------------------------------------------------------
def candidates(
    spec: CoprocessorSpec, network: Network, small: bool = False
) -> dict[str, Candidate]:
    """Layers that are products with weights of 1x1, by name; ``small`` is theirs."""
    found = {}
    for layer in network.layers:
        if not isinstance(layer, (L.Conv, L.Linear)):
            continue
        (x,), out = network.layer_tensors(layer)
        if isinstance(layer, L.Conv):
            one = set(layer.weights.shape[2:]) == {1} and set(layer.strides) == {1}
            if not one or any(layer.pads) or layer.groups > 1 or x.shape[0] != 1:
                continue
            pixels = math.prod(x.shape[2:])
        else:
            pixels = math.prod(x.shape[:-1])
        weights = layer.weights.reshape(layer.weights.shape[:2])
        modes = mac.compute_formats(x.format, layer.weight_format)
        own = (pixels, modes, x.format, out.format, small)
        found[layer.name] = Candidate(spec, layer, weights, *own)
    return found


def choose(spec: CoprocessorSpec, network: Network, sparse: Choice) -> set[str]:
    """Names of the layers that run sparse.

    Args:
        sparse: "auto" and "cycles" take what runs in fewer cycles, "bytes" what takes fewer bytes
            of weights, "never" and "always" say it.

    Raises:
        CompileError: "always", and a product with weights of 1x1 that cannot; or another word.
    """
    if sparse not in ("auto", "cycles", "bytes", "never", "always"):
        raise CompileError(f"sparse is '{sparse}': expected auto, cycles, bytes, never or always")
    if sparse == "never":
        return set()
    known = candidates(spec, network, sparse == "bytes")
    if sparse == "always":
        for name, own in known.items():
            if own.why_not:
                raise CompileError(f"layer '{name}' cannot run sparse: {own.why_not}")
        return set(known)
    known = {n: c for n, c in known.items() if not c.nonzero.all() and not c.why_not}
    if sparse == "bytes":
        cheaper = {n for n, c in known.items() if c.sparse_bytes < c.dense_bytes}
        square = spec.array.rows == spec.line_words
        return cheaper if square and not spec.lacks("transpose") else set()
    return _fewest_cycles(spec, network, known)


def _fewest_cycles(
    spec: CoprocessorSpec, network: Network, known: Mapping[str, Candidate]
) -> set[str]:
    """A set that no change of one layer, nor of a run of neighbours, makes cheaper."""
    names = [layer.name for layer in network.layers if layer.name in known]
    gain = {n: known[n].dense_cycles - known[n].sparse_cycles for n in names}
    # The forms are rough: what gains little may lose.
    names = [n for n in names if gain[n] > LEAST_GAIN * known[n].dense_cycles]

    def total(chosen: set[str]) -> float:
        return _turns(spec, network, chosen) - sum(gain[n] for n in chosen)

    chosen: set[str] = set(names)
    best, chosen = min(((total(s), s) for s in (chosen, set[str]())), key=lambda p: p[0])
    changed = True
    while changed:
        changed = False
        for first in range(len(names)):
            for stop in (first + 1, first + 2, first + 4):
                run = set(names[first:stop])
                for other in (chosen | run, chosen - run, chosen ^ run):
                    cost = total(other)
                    if cost < best:
                        best, chosen, changed = cost, other, True
    return chosen


def _turns(spec: CoprocessorSpec, network: Network, chosen: set[str]) -> float:
    """Cycles of the transpositions that a choice asks for; endless where none can be done."""
    major: dict[str, bool] = {}
    turned: set[str] = set()
    cost = 0.0
    for name in (*network.inputs, *network.constants):
        readers = [layer for layer in network.layers if name in layer.inputs]
        major[name] = bool(readers) and all(layer.name in chosen for layer in readers)
    for layer in network.layers:
        sparse = layer.name in chosen
        first = layer.inputs[0]
        if isinstance(layer, _LOOSE):
            major[layer.output] = major[first]
            if isinstance(layer, L.Add) and len({major[n] for n in layer.inputs}) > 1:
                wrong = next(n for n in layer.inputs if major[n])
                cost += _turn(spec, network, wrong, turned)
                major[layer.output] = False
            continue
        major[layer.output] = sparse
        for name in layer.inputs:
            if major[name] != sparse:
                cost += _turn(spec, network, name, turned)
    return cost


_LOOSE = (L.Activate, L.Add, L.Convert, L.Reshape, L.Slice, L.Transpose)
"""Layers that take a tensor as it lies."""


def _turn(spec: CoprocessorSpec, network: Network, name: str, turned: set[str]) -> float:
    if name in turned:
        return 0.0
    if spec.array.rows != spec.line_words or spec.lacks("transpose"):
        return math.inf
    turned.add(name)
    return math.prod(network.tensors[name].shape) / spec.array.rows + EXEC_CYCLES
