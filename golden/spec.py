"""Specifications: the choices that make an engine; widths, limits and latencies follow.

Nested by level, MacSpec < EngineSpec < ArraySpec < CoprocessorSpec; a component receives its own
level only. Fields are choices, properties are consequences.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from opennpe.golden.errors import SpecError
from opennpe.golden.formats import ENGINE_FORMATS, Underflow, check_underflow, get
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.golden.mac import GROUP_BITS, max_terms, operand_format
from opennpe.golden.softmax_spec import SoftmaxSpec

__all__ = [
    "LOAD_QUEUE",
    "OPTIONAL_KINDS",
    "STORE_LINES",
    "UNIT_BYTES",
    "ArraySpec",
    "CoprocessorSpec",
    "EngineSpec",
    "MacSpec",
    "MemorySpec",
]


@dataclass(frozen=True)
class MacSpec:
    """How numbers meet: formats, underflow rule, accumulator.

    ``accumulator``: "exact" (order-free) or "windowed" (``window_bits`` wide, ``window_terms``
    products a step, in index order; see :mod:`opennpe.golden.window`).
    """

    formats: tuple[str, ...] = ENGINE_FORMATS
    underflow: Underflow = "zero"
    accumulator: Literal["exact", "windowed"] = "exact"
    window_bits: int = 0
    window_terms: int = 4

    def __post_init__(self) -> None:
        check_underflow(self.underflow)
        if not self.formats:
            raise SpecError("a MAC needs at least one format, got none")
        for name in self.formats:
            operand_format(name)
        if self.accumulator not in ("exact", "windowed"):
            raise SpecError(f"accumulator is '{self.accumulator}': expected exact or windowed")
        if self.accumulator == "windowed" and not 4 <= self.window_bits <= 128:
            raise SpecError(f"a windowed accumulator takes 4 to 128 bits, got {self.window_bits}")
        if self.accumulator == "exact" and self.window_bits:
            raise SpecError(f"an exact accumulator has no window, got {self.window_bits} bits")


@dataclass(frozen=True)
class EngineSpec:
    """One SIMD engine: a word of operands in, one accumulator a lane, one shared round unit.

    ``fabric``: what the gates are made for; results are the same bits. "fpga" multiplies with the
    multipliers that an FPGA has, holds registers by their enables, and has two registers more: at
    the operands, and between finding a sum's leading bits and moving them to the top.
    """

    mac: MacSpec = field(default_factory=MacSpec)
    word_bits: int = 16
    accumulator_bits: int = GROUP_BITS
    shift_bits: int = 10
    fabric: Literal["cells", "fpga"] = "cells"

    def __post_init__(self) -> None:
        if self.fabric not in ("cells", "fpga"):
            raise SpecError(f"fabric is '{self.fabric}': expected cells or fpga")
        for name in self.mac.formats:
            bits = get(name).bits
            if self.word_bits % bits:
                raise SpecError(
                    f"lanes must divide the word: {self.word_bits} bits into {bits}-bit codes"
                )
        if self.accumulator_bits % max(self.lane_counts):
            raise SpecError(
                f"accumulator lanes must divide {self.accumulator_bits} bits into "
                f"{max(self.lane_counts)}"
            )

    @property
    def lane_counts(self) -> tuple[int, ...]:
        """Lanes of each format, in the order of ``mac.formats``."""
        return tuple(self.lanes(name) for name in self.mac.formats)

    def lanes(self, name: str) -> int:
        """Operands of a format in one word."""
        return int(self.word_bits // get(name).bits)

    def lane_accumulator_bits(self, name: str) -> int:
        """Accumulator bits of one lane in a format's mode."""
        return self.accumulator_bits // self.lanes(name)

    def max_terms(self, a: str, b: str | None = None) -> int:
        """Products one lane's accumulator is sure to hold (DESIGN 2)."""
        return max_terms(a, b, self.accumulator_bits)

    @property
    def stages(self) -> tuple[str, ...]:
        """Pipeline stages in order; no stage holds more than one step."""
        common = ("decode", "multiply", "align", "accumulate", "normalise", "round")
        if self.fabric == "cells":
            return common
        return ("operands", *common[:4], "lead", *common[4:])

    @property
    def latency(self) -> int:
        """Cycles from a sum's last word pair accepted to its first result offered."""
        return len(self.stages)


@dataclass(frozen=True)
class ArraySpec:
    """``rows`` x ``columns`` engines, output-stationary.

    A row holds one output pixel (or token), a column ``lanes`` consecutive output channels.
    """

    engine: EngineSpec = field(default_factory=EngineSpec)
    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        for what, count in (("rows", self.rows), ("columns", self.columns)):
            if not 1 <= count <= 64:
                raise SpecError(f"an array has 1 to 64 {what}, got {count}")

    def macs_per_cycle(self, name: str) -> int:
        """Peak multiply-accumulates a cycle in a format."""
        return self.rows * self.columns * self.engine.lanes(name)


@dataclass(frozen=True)
class MemorySpec:
    """The co-processor's memories and its bus. A line is a 16-bit word a column of the array.

    Attributes:
        bus_bits: width of the AXI4 data channels; at most a line.
        burst_beats: longest AXI burst.
        bursts_in_flight: read bursts asked for and not yet finished.
        buffer_lines: the shared buffer, where tensors live.
        operand_lines: each row's operand memory, a ring; a power of two.
        weight_lines: the columns' weight memory, a ring; a power of two.
        parameter_tiles: channel tiles whose biases and shifts are held; a power of two.
        command_units: command memory in units of 32 bytes; a power of two, refilled by halves.
        queue: commands waiting a unit, beside the one that runs.
    """

    bus_bits: int = 64
    burst_beats: int = 16
    bursts_in_flight: int = 8
    buffer_lines: int = 8192
    operand_lines: int = 1024
    weight_lines: int = 8192
    parameter_tiles: int = 64
    command_units: int = 64
    queue: int = 4

    def __post_init__(self) -> None:
        powers = ("bus_bits", "burst_beats", "bursts_in_flight", "operand_lines", "weight_lines")
        for name in (*powers, "parameter_tiles", "command_units"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise SpecError(f"{name} is a power of two, got {value}")
        for name, low, high in (
            ("bus_bits", 32, 256),
            ("burst_beats", 1, 256),
            ("bursts_in_flight", 1, 64),
            ("buffer_lines", 16, 1 << 20),
            ("operand_lines", 4, 1 << 12),
            ("weight_lines", 4, 1 << 16),
            ("parameter_tiles", 2, 1 << 10),
            ("command_units", 16, 1 << 12),
            ("queue", 1, 16),
        ):
            if not low <= getattr(self, name) <= high:
                raise SpecError(f"{name} lies in {low}..{high}, got {getattr(self, name)}")


OPTIONAL_KINDS = ("sparse", "transpose", "softmax", "norm")
"""Kinds of execs that a co-processor may leave out; products, sums and maxima it always has."""


@dataclass(frozen=True)
class CoprocessorSpec:
    """An array with its memories and its bus: what ``opennpe sim`` and ``opennpe run`` take.

    ``kinds``: those of `OPTIONAL_KINDS` that there are gates for; others are illegal commands.
    """

    name: str = "custom"
    array: ArraySpec = field(default_factory=ArraySpec)
    memory: MemorySpec = field(default_factory=MemorySpec)
    softmax: SoftmaxSpec = field(default_factory=SoftmaxSpec)
    norm: NormSpec = field(default_factory=NormSpec)
    kinds: tuple[str, ...] = OPTIONAL_KINDS

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in OPTIONAL_KINDS:
                raise SpecError(f"kinds has '{kind}': expected some of {', '.join(OPTIONAL_KINDS)}")

    def lacks(self, kind: str) -> bool:
        """Whether there are no gates for a kind of exec."""
        return kind in OPTIONAL_KINDS and kind not in self.kinds

    @property
    def engine(self) -> EngineSpec:
        """The array's engine."""
        return self.array.engine

    @property
    def mac(self) -> MacSpec:
        """The engine's arithmetic."""
        return self.array.engine.mac

    @property
    def softmax_unit(self) -> SoftmaxSpec:
        """The softmax unit: a lane a column, whatever ``softmax.lanes`` says."""
        return replace(self.softmax, lanes=self.array.columns)

    @property
    def norm_unit(self) -> NormSpec:
        """The normalisation unit: a lane a column, whatever ``norm.lanes`` says."""
        return replace(self.norm, lanes=self.array.columns)

    @property
    def underflow(self) -> Underflow:
        """The underflow rule of every rounding."""
        rule: Underflow = self.mac.underflow
        return rule

    def max_terms(self, a: str, b: str | None = None) -> int:
        """Products one lane's accumulator is sure to hold."""
        return self.engine.max_terms(a, b)

    @property
    def line_words(self) -> int:
        """16-bit words in a line: one a column."""
        return self.array.columns

    @property
    def line_bytes(self) -> int:
        """Bytes in a line."""
        return self.line_words * self.engine.word_bits // 8

    @property
    def beats_per_line(self) -> int:
        """Bus beats that carry a line."""
        return 8 * self.line_bytes // self.memory.bus_bits

    @property
    def burst_beats(self) -> int:
        """Beats of the longest burst: the memory's, or what fits below a boundary, if less."""
        return min(self.memory.burst_beats, BOUNDARY_BYTES * 8 // self.memory.bus_bits)

    def check_coprocessor(self) -> None:
        """Refuse what the co-processor has no gates for.

        Raises:
            SpecError: an array or a bus it does not take.
        """
        rows, columns = self.array.rows, self.array.columns
        if not 2 <= rows <= 16 or columns not in (2, 4, 8, 16):
            raise SpecError(
                f"the co-processor takes 2 to 16 rows by 2, 4, 8 or 16 columns, got {rows} by "
                f"{columns}: choose another spec"
            )
        if self.engine.word_bits != 16 or self.mac.accumulator != "exact":
            raise SpecError("the co-processor takes 16-bit words and an exact accumulator")
        if self.memory.bus_bits > 8 * self.line_bytes:
            raise SpecError(
                f"a bus is at most a line wide: {self.memory.bus_bits} bits of bus, "
                f"{8 * self.line_bytes} bits of line"
            )
        if self.memory.command_units * UNIT_BYTES % (2 * self.line_bytes):
            raise SpecError("half the command memory is a whole number of lines")


BOUNDARY_BYTES = 4096
"""No AXI burst crosses a multiple of it (ARM IHI 0022H, A3.4.1)."""
UNIT_BYTES = 32
"""Bytes that commands are counted in."""
LOAD_QUEUE = 4
"""Loads asked for whose lines have not all arrived."""
STORE_LINES = 4
"""Lines a store reads ahead of its bus: a read takes two cycles to get there."""
