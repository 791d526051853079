"""The engine's netlist fed with sums, as the Verilated engine is: one stream for both.

:class:`WordStream` holds what :meth:`opennpe.rtl.replay.Replayer.run` takes, so that bits and
energies come from the same words.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.fpga import liberty, synthesis, timing
from opennpe.fpga.gate_events import GateRun, Put, simulate
from opennpe.fpga.gate_model import Delays, GateModel, model
from opennpe.fpga.netlist import Netlist
from opennpe.fpga.timing import Timing
from opennpe.golden.errors import DataError
from opennpe.golden.spec import EngineSpec
from opennpe.rtl import ports
from opennpe.rtl.verilog import TOP, verilog
from opennpe.tech.cells import CellLibrary

__all__ = ["EngineGates", "WordStream", "build", "codes_of", "puts_of", "run", "uniform"]

Bits = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class WordStream:
    """Sums over word pairs, one after the other; arrays as ``Replayer.run`` takes them.

    Attributes:
        mode_a, mode_b, out: uint8 (S,), indices into the spec's formats.
        start: int64 (S + 1,). words_a, words_b: uint16 (W,).
        bias: uint64 (S, 2). shift: int64 (S, 4).
    """

    mode_a: NDArray[np.uint8]
    mode_b: NDArray[np.uint8]
    out: NDArray[np.uint8]
    start: NDArray[np.int64]
    words_a: NDArray[np.uint16]
    words_b: NDArray[np.uint16]
    bias: NDArray[np.uint64]
    shift: NDArray[np.int64]

    @property
    def sums(self) -> int:
        """How many."""
        return len(self.mode_a)

    @property
    def words(self) -> int:
        """Of all sums."""
        return len(self.words_a)


def uniform(
    spec: EngineSpec,
    a: str,
    b: str,
    words_a: ArrayLike,
    words_b: ArrayLike,
    bias: ArrayLike | None = None,
    shift: ArrayLike | None = None,
    out: str | None = None,
) -> WordStream:
    """Sums of one mode and one length: words (S, K); bias uint64 (S, 2), shift (S, 4)."""
    left = np.asarray(words_a, dtype=np.uint16)
    right = np.asarray(words_b, dtype=np.uint16)
    if left.ndim != 2 or left.shape != right.shape or left.shape[1] < 1:
        raise DataError(f"sums are words (S, K) twice, got {left.shape} and {right.shape}")
    sums, steps = left.shape
    names = spec.mac.formats
    left_mode, right_mode, out_mode = (
        np.full(sums, names.index(name), dtype=np.uint8) for name in (a, b, out or a)
    )
    zeros = np.zeros((sums, ports.lane_count(spec)), dtype=np.int64)
    return WordStream(
        left_mode,
        right_mode,
        out_mode,
        np.arange(sums + 1, dtype=np.int64) * steps,
        left.reshape(-1),
        right.reshape(-1),
        np.zeros((sums, 2), np.uint64) if bias is None else np.asarray(bias, np.uint64),
        zeros if shift is None else np.asarray(shift, np.int64),
    )


@dataclass(frozen=True, eq=False)
class EngineGates:
    """The engine of a spec in a library's cells.

    Attributes:
        spec: whose engine. netlist, timing: of it. engine_hash: of the Verilog.
        recipe: of the synthesis.
    """

    spec: EngineSpec
    netlist: Netlist
    timing: Timing
    engine_hash: str
    recipe: str

    def model(self, delays: Delays = "library") -> GateModel:
        """For the simulator."""
        return model(self.netlist, self.timing, delays)


def build(
    spec: EngineSpec, library: str | Path | CellLibrary, recipe: str = "stock"
) -> EngineGates:
    """Synthesise the engine, or take it from the cache.

    Raises:
        TechError: the library cannot be read or lacks what the engine needs.
        ToolError: Yosys is missing or refuses.
    """
    cells = library if isinstance(library, CellLibrary) else liberty.load(library)
    text = verilog(spec)
    netlist = synthesis.synthesise(text, cells, top=TOP, recipe=recipe)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return EngineGates(spec, netlist, timing.analyse(netlist), digest, recipe)


def puts_of(spec: EngineSpec, stream: WordStream) -> list[Put]:
    """The stream as bits at the engine's ports: words, biases (one a sum), shifts (one a lane)."""
    layout = ports.word_layout(spec)
    lengths = np.diff(stream.start)
    owner = np.repeat(np.arange(stream.sums), lengths)
    begins, ends = np.zeros((2, stream.words), dtype=np.uint64)
    begins[stream.start[:-1]] = 1
    ends[stream.start[1:] - 1] = 1
    whole: dict[str, NDArray[Any]] = {
        "a": stream.words_a,
        "b": stream.words_b,
        "mode_a": stream.mode_a[owner],
        "mode_b": stream.mode_b[owner],
        "first": begins,
        "last": ends,
        "out": stream.out[owner],
    }
    rows = np.zeros((stream.words, layout.size), dtype=np.uint8)
    for name, field in layout:
        rows[:, field.offset : field.offset + field.width] = _bits_of(whole[name], field.width)
    lanes = np.array(spec.lane_counts)[stream.mode_a]
    used = np.arange(stream.shift.shape[1]) < lanes[:, None]
    shifts = _bits_of(stream.shift[used].view(np.uint64), spec.shift_bits)
    return [Put("words", rows), Put("biases", _bias_bits(stream.bias)), Put("shifts", shifts)]


def _bits_of(values: ArrayLike, width: int) -> Bits:
    """uint8 (N, width) of integers (N,), lowest bit first."""
    whole = np.asarray(values, dtype=np.uint64)[:, None]
    return (whole >> np.arange(width, dtype=np.uint64) & np.uint64(1)).astype(np.uint8)


def _bias_bits(bias: NDArray[np.uint64]) -> Bits:
    """uint8 (S, 128), lowest first."""
    flat = np.ascontiguousarray(bias, dtype="<u8").view(np.uint8)
    return np.unpackbits(flat, axis=1, bitorder="little")


def run(
    spec: EngineSpec,
    gate_model: GateModel,
    stream: WordStream,
    underflow: str = "zero",
    pauses: float = 0.0,
    seed: int = 0,
) -> tuple[NDArray[np.uint16], GateRun]:
    """Codes (S, lanes) of a stream, lanes a sum does not have 0, and what the gates did.

    Raises:
        ToolError: lanes in another order than the ports promise, or as :func:`simulate`.
    """
    lanes = np.array(spec.lane_counts)[stream.mode_a]
    made = simulate(
        gate_model,
        puts_of(spec, stream),
        int(lanes.sum()),
        constants={"underflow_zero": int(underflow == "zero")},
        pauses=pauses,
        seed=seed,
        tail_cycles=spec.latency + int(lanes.max()),
    )
    return codes_of(spec, lanes, made), made


def codes_of(spec: EngineSpec, lanes: NDArray[np.int64], made: GateRun) -> NDArray[np.uint16]:
    """Result codes (S, most lanes) out of the bits that came.

    Raises:
        DataError: lanes that are not those of the sums, in order.
    """
    layout = ports.result_layout(spec)
    fields = {}
    for name, field in layout:
        bits = made.results[:, field.offset : field.offset + field.width].astype(np.int64)
        fields[name] = bits @ (1 << np.arange(field.width))
    most = ports.lane_count(spec)
    place = np.concatenate([np.arange(n) for n in lanes])
    last = np.concatenate([np.arange(n) == n - 1 for n in lanes])
    if not (np.array_equal(fields["lane"], place) and np.array_equal(fields["last"], last)):
        raise DataError("the gates numbered the lanes of a sum wrongly")
    codes = np.zeros((len(lanes), most), dtype=np.uint16)
    codes[np.repeat(np.arange(len(lanes)), lanes), place] = fields["code"]
    return codes
