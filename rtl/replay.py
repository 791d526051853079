"""Sums replayed on the Verilated engine by a C++ harness: millions of word pairs a second."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats
from opennpe.golden.errors import DataError, ToolError
from opennpe.golden.spec import CoprocessorSpec, EngineSpec
from opennpe.rtl import ports, verilated
from opennpe.rtl.verilog import TOP, verilog

__all__ = ["Replayer", "Run", "TileCase"]

HARNESS = Path(__file__).with_name("replay.cpp")
FAILURES = {
    1: "fell silent before all results were out",
    2: "numbered the lanes of a sum wrongly",
    3: "gave more results than it was asked for",
}


@dataclass(frozen=True, eq=False)
class TileCase:
    """One sum of word pairs.

    Attributes:
        mode_a: format of the first operands.
        mode_b: format of the second, of the same width.
        words_a: uint16 (K,), lane 0 low.
        words_b: uint16 (K,).
        bias: accumulator preload in units of the grid, lanes packed.
        shifts: a power of two a lane.
        out_format: format of the results.
        underflow: "minpos" or "zero".
    """

    mode_a: str
    mode_b: str
    words_a: NDArray[np.uint16]
    words_b: NDArray[np.uint16]
    bias: int
    shifts: tuple[int, ...]
    out_format: str
    underflow: formats.Underflow = "minpos"


@dataclass(frozen=True, eq=False)
class Run:
    """What came out.

    Attributes:
        codes: uint16 (S, lanes of the narrowest format); lanes a sum does not have are 0.
        cycles: clock cycles from the first word offered to the last result taken.
        accepted: int64 (S,), cycle in which a sum's last word was accepted.
        offered: int64 (S,), cycle in which its first result was offered.
    """

    codes: NDArray[np.uint16]
    cycles: int
    accepted: NDArray[np.int64]
    offered: NDArray[np.int64]


class Replayer:
    """The engine of a spec, built once, kept in the user's cache: :mod:`opennpe.rtl.verilated`.

    Args:
        spec: whose engine.
        verilog: Verilog file to build instead of the engine's own, with the same top module and
            ports.

    Raises:
        ToolError: Verilator or the compiler is missing, or the build failed.

    Attributes:
        cycles: clock cycles of all replays so far.
    """

    def __init__(
        self, spec: CoprocessorSpec | EngineSpec, verilog: str | os.PathLike[str] | None = None
    ) -> None:
        self.spec = spec.engine if isinstance(spec, CoprocessorSpec) else spec
        ports.check_spec(self.spec)
        self.names = self.spec.mac.formats
        self.library = _build(self.spec, None if verilog is None else Path(verilog).read_text())
        self._replay = ctypes.CDLL(str(self.library)).replay
        self._replay.restype = ctypes.c_int
        self.cycles = 0

    def replay(
        self, cases: Sequence[TileCase], idle_seed: int | None = None
    ) -> list[NDArray[np.uint16]]:
        """Codes a lane of every case, in order; see :meth:`run` for ``idle_seed``.

        Raises:
            DataError: a case that the engine does not take.
            ToolError: the engine did not answer as its ports promise.
        """
        results: list[NDArray[np.uint16]] = []
        # The underflow rule is static: it changes only when the pipeline is empty.
        for underflow, group in groupby(cases, key=lambda case: case.underflow):
            results += self._replay_group(list(group), underflow, idle_seed)
        return results

    def _replay_group(
        self, cases: list[TileCase], underflow: formats.Underflow, idle_seed: int | None
    ) -> list[NDArray[np.uint16]]:
        index = {name: i for i, name in enumerate(self.names)}
        for case in cases:
            for name in (case.mode_a, case.mode_b, case.out_format):
                if name not in index:
                    raise DataError(f"the engine has {', '.join(self.names)}, not {name}")
        lengths = [len(case.words_a) for case in cases]
        mask = (1 << 64) - 1
        shifts = np.zeros((len(cases), ports.lane_count(self.spec)), dtype=np.int64)
        for row, case in zip(shifts, cases, strict=True):
            row[: len(case.shifts)] = case.shifts
        run = self.run(
            [index[case.mode_a] for case in cases],
            [index[case.mode_b] for case in cases],
            [index[case.out_format] for case in cases],
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([case.words_a for case in cases]),
            np.concatenate([case.words_b for case in cases]),
            np.array([[c.bias & mask, c.bias >> 64 & mask] for c in cases], dtype=np.uint64),
            shifts,
            underflow,
            idle_seed,
        )
        self.cycles += run.cycles
        return [
            codes[: self.spec.lanes(case.mode_a)]
            for codes, case in zip(run.codes, cases, strict=True)
        ]

    def run_arrays(
        self,
        mode_a: ArrayLike,
        mode_b: ArrayLike,
        out: ArrayLike,
        start: ArrayLike,
        words_a: ArrayLike,
        words_b: ArrayLike,
        bias: ArrayLike,
        shift: ArrayLike,
        underflow: formats.Underflow,
        idle_seed: int | None = None,
    ) -> tuple[NDArray[np.uint16], int]:
        """Codes (S, 4) and cycles of many sums; arguments and errors as in :meth:`run`."""
        run = self.run(
            mode_a, mode_b, out, start, words_a, words_b, bias, shift, underflow, idle_seed
        )
        return run.codes, run.cycles

    def run(
        self,
        mode_a: ArrayLike,
        mode_b: ArrayLike,
        out: ArrayLike,
        start: ArrayLike,
        words_a: ArrayLike,
        words_b: ArrayLike,
        bias: ArrayLike,
        shift: ArrayLike,
        underflow: formats.Underflow,
        idle_seed: int | None = None,
    ) -> Run:
        """Replay S sums over W word pairs, one after the other without a gap.

        Args:
            mode_a: (S,), index into the spec's formats.
            mode_b: (S,), of equal width.
            out: (S,), format of the results.
            start: (S + 1,); sum s takes words ``start[s]:start[s + 1]``, at least one.
            words_a: uint16 (W,).
            words_b: uint16 (W,).
            bias: uint64 (S, 2), the preload's low and high half.
            shift: (S, 4), a power of two a lane.
            underflow: "minpos" or "zero".
            idle_seed: pause all streams at random; the seed decides when. None never pauses.

        Raises:
            DataError: arrays that do not fit each other or the engine.
            ToolError: the engine did not answer as its ports promise.
        """
        formats.check_underflow(underflow)
        lanes = ports.lane_count(self.spec)
        sides = [np.ascontiguousarray(x, dtype=np.uint8) for x in (mode_a, mode_b, out)]
        begin = np.ascontiguousarray(start, dtype=np.int64)
        words = [np.ascontiguousarray(x, dtype=np.uint16) for x in (words_a, words_b)]
        preload = np.ascontiguousarray(bias, dtype=np.uint64)
        shifts = np.asarray(shift, dtype=np.int64)
        count = len(sides[0])
        self._check(sides, begin, words, preload, shifts)
        mask = (1 << self.spec.shift_bits) - 1
        places = np.arange(lanes, dtype=np.uint64) * np.uint64(self.spec.shift_bits)
        packed = np.bitwise_or.reduce((shifts & mask).astype(np.uint64) << places, axis=1)
        used = np.array(self.spec.lane_counts, dtype=np.uint8)[sides[0]]
        codes = np.zeros((count, lanes), dtype=np.uint16)
        times = [np.zeros(count, dtype=np.int64) for _ in range(2)]
        cycles = ctypes.c_int64(0)
        given: list[NDArray[Any]] = [*sides, begin, *words, preload, packed, used]
        found: list[NDArray[Any]] = [codes, *times]
        status = self._replay(
            ctypes.c_int64(count),
            *(array.ctypes.data_as(ctypes.c_void_p) for array in given),
            ctypes.c_int(underflow == "zero"),
            ctypes.c_int(idle_seed is not None),
            ctypes.c_uint64((idle_seed or 0) & ((1 << 63) - 1)),
            *(array.ctypes.data_as(ctypes.c_void_p) for array in found),
            ctypes.byref(cycles),
        )
        if status:
            raise ToolError(f"the simulated engine {FAILURES[status]}: its Verilog is wrong")
        return Run(codes, cycles.value, *times)

    def _check(
        self,
        sides: list[NDArray[np.uint8]],
        start: NDArray[np.int64],
        words: list[NDArray[np.uint16]],
        bias: NDArray[np.uint64],
        shift: NDArray[np.int64],
    ) -> None:
        count = len(sides[0])
        shapes = [side.shape == (count,) for side in sides]
        shapes += [start.shape == (count + 1,), bias.shape == (count, 2)]
        shapes += [shift.shape == (count, ports.lane_count(self.spec))]
        if not all(shapes) or words[0].shape != words[1].shape:
            raise DataError(
                "arrays of a replay do not fit: expected modes and out (S,), start (S + 1,), two "
                f"arrays of words (W,), bias (S, 2), shift (S, {ports.lane_count(self.spec)})"
            )
        if count == 0:
            raise DataError("a replay needs at least one sum, got none")
        lengths = np.diff(start)
        if lengths.min() < 1 or start[0] != 0 or start[-1] != len(words[0]):
            raise DataError(
                f"sums of a replay cover all words in order, at least one each: got {len(words[0])}"
                f" words, sums from {start[0]} to {start[-1]}, shortest {lengths.min()}"
            )
        names = self.names
        if max(int(side.max()) for side in sides) >= len(names):
            raise DataError(f"formats of a replay are indices below {len(names)}")
        widths = np.array(self.spec.lane_counts)
        if (widths[sides[0]] != widths[sides[1]]).any():
            raise DataError("operands of different width meet in a sum: widen the narrower first")
        limit = 1 << (self.spec.shift_bits - 1)
        if shift.min() < -limit or shift.max() >= limit:
            raise DataError(
                f"shifts lie in {-limit}..{limit - 1}, got {shift.min()} to {shift.max()}"
            )


def _layout(spec: EngineSpec) -> str:
    """The C++ constants that describe the ports."""
    word, result = ports.word_layout(spec), ports.result_layout(spec)
    fields = [(f"WORD_{str(key).upper()}", f.offset, f.width) for key, f in word]
    fields += [(f"RESULT_{str(key).upper()}", f.offset, f.width) for key, f in result]
    half = spec.accumulator_bits // 2
    fields += [("BIAS_LOW", 0, half), ("BIAS_HIGH", half, half)]
    lines = ["#pragma once", "struct Field { int offset, width; };"]
    lines += [f"constexpr Field {name}{{{offset}, {width}}};" for name, offset, width in fields]
    lanes = ports.lane_count(spec)
    lines += [
        f"constexpr int LANES = {lanes};",
        f"constexpr int SHIFT_BITS = {spec.shift_bits};",
        f"constexpr int TAIL_CYCLES = {4 * (spec.latency + lanes)};",
        f"constexpr int SILENCE_CYCLES = {100 * (spec.latency + lanes)};",
    ]
    return "\n".join(lines) + "\n"


def _build(spec: EngineSpec, text: str | None) -> Path:
    """The shared library, from the cache if it is there."""
    source = verilog(spec) if text is None else text
    sources = {f"{TOP}.v": source, "layout.h": _layout(spec), HARNESS.name: HARNESS.read_text()}
    return verilated.library(TOP, sources)
