"""Rows replayed on the Verilated normalisation unit by a C++ harness."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray
from opennpe.golden.errors import DataError, ToolError
from opennpe.golden.layer_norm import Settings, Sums
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.rtl import verilated, verilog
from opennpe.rtl.layer_norm import LayerNorm, sums_layout
from opennpe.rtl.row_streams import element_layout, result_layout

__all__ = ["TOP", "Replayer", "Row", "Run", "unit_verilog"]

TOP = "opennpe_layer_norm"
HARNESS = Path(__file__).with_name("layer_norm_replay.cpp")
FAILURES = {
    1: "fell silent before all results were out",
    2: "marked the wrong beat as a row's last",
    3: "gave more results than it was asked for",
    4: "changed or withdrew a result that waited",
}


@dataclass(frozen=True, eq=False)
class Row:
    """A row and its settings.

    Attributes:
        settings: golden's; rows of unlike settings wait for each other.
        codes: uint16 (K,), at least one.
        keep: bool (K,).
    """

    settings: Settings
    codes: NDArray[np.uint16]
    keep: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Run:
    """What came out.

    Attributes:
        codes: uint16 (K,) a row.
        sums: what pass 1 left, a row.
        times: int64 (R, 5): cycles in which the last beat of pass 1, the first and the last of
            pass 2 were accepted, and the first and the last result were offered.
        cycles: from the first beat offered to the last result taken.
    """

    codes: list[NDArray[np.uint16]]
    sums: list[Sums]
    times: NDArray[np.int64]
    cycles: int


def unit_verilog(spec: NormSpec) -> str:
    """The unit of a spec as Verilog text.

    Raises:
        ToolError: pyosys is missing.
    """
    return verilated.remembered(lambda: verilog.convert(LayerNorm(spec), TOP), TOP, repr(spec))


class Replayer:
    """The unit of a spec, built once, kept in the user's cache: :mod:`opennpe.rtl.verilated`.

    Args:
        spec: whose sums 64 bits hold.
        text: Verilog to build instead of the unit's own, with the same top module and ports.

    Raises:
        ToolError: Verilator or the compiler is missing, or the build failed.
    """

    def __init__(self, spec: NormSpec, text: str | None = None) -> None:
        if spec.square_sum_bits > 64:
            raise DataError(f"the harness reads sums of 64 bits, got {spec.square_sum_bits}")
        self.spec = spec
        source = unit_verilog(spec) if text is None else text
        sources = {f"{TOP}.v": source, "layout.h": _layout(spec), HARNESS.name: HARNESS.read_text()}
        self._replay = ctypes.CDLL(str(verilated.library(TOP, sources))).replay
        self._replay.restype = ctypes.c_int

    def run(self, rows: Sequence[Row], idle_seed: int | None = None) -> Run:
        """Replay rows one after the other without a gap, as far as their settings allow.

        Args:
            rows: at least one.
            idle_seed: pause both streams at random; the seed decides when. None never pauses.

        Raises:
            DataError: no rows, or an empty one.
            ToolError: the unit did not answer as its ports promise.
        """
        lengths = [len(row.codes) for row in rows]
        if not lengths or min(lengths) == 0:
            raise DataError("a replay needs at least one row, and a row at least one element")
        start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        settings = np.array([astuple(row.settings) for row in rows], dtype=np.int64)
        codes = np.concatenate([row.codes for row in rows]).astype(np.uint16)
        keep = np.concatenate([row.keep for row in rows]).astype(np.uint8)
        results = np.zeros_like(codes)
        sums = np.zeros((len(rows), 3), dtype=np.int64)
        times = np.zeros((len(rows), 5), dtype=np.int64)
        cycles = ctypes.c_int64(0)
        status = self._replay(
            ctypes.c_int64(len(rows)),
            *map(_pointer, (settings, start, codes, keep)),
            ctypes.c_int(idle_seed is not None),
            ctypes.c_uint64((idle_seed or 0) & ((1 << 63) - 1)),
            *map(_pointer, (results, sums, times)),
            ctypes.byref(cycles),
        )
        if status:
            raise ToolError(f"the simulated unit {FAILURES[status]}: its Verilog is wrong")
        found = [Sums(int(t), int(s) & ((1 << 64) - 1), bool(n)) for t, s, n in sums]
        return Run(np.split(results, start[1:-1]), found, times, cycles.value)


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _layout(spec: NormSpec) -> str:
    """The C++ constants that describe the ports."""
    layouts: dict[str, data.StructLayout] = {
        "ELEMENT": element_layout(spec.lanes),
        "RESULT": result_layout(spec.lanes),
        "SUMS": sums_layout(spec),
    }
    lines = ["#pragma once", "struct Field { int offset, width; };"]
    lines += [
        f"constexpr Field {prefix}_{str(key).upper()}{{{field.offset}, {field.width}}};"
        for prefix, layout in layouts.items()
        for key, field in layout
    ]
    patience = spec.turnaround + spec.latency
    lines += [
        f"constexpr int LANES = {spec.lanes};",
        f"constexpr int SHIFT_BITS = {spec.shift_bits};",
        f"constexpr int TAIL_CYCLES = {4 * patience};",
        f"constexpr int SILENCE_CYCLES = {100 * patience};",
    ]
    return "\n".join(lines) + "\n"
