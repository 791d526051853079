"""Named specifications. *supported*: the tests run it; *experimental*: it should work."""

from __future__ import annotations

from dataclasses import replace

from opennpe.golden.errors import SpecError
from opennpe.golden.spec import ArraySpec, CoprocessorSpec, EngineSpec, MacSpec, MemorySpec

__all__ = [
    "CATALOG",
    "EDGE_1X1",
    "EDGE_2X2",
    "EDGE_4X4",
    "EDGE_8X8",
    "EDGE_16X16",
    "FPGA_1X1",
    "STRICT_4X4",
    "ULX3S_4X4",
    "get",
    "with_kind",
]

EDGE_1X1 = CoprocessorSpec("EDGE_1X1", ArraySpec(rows=1, columns=1))
"""One engine, for iCE40-class devices and for reading waveforms; no co-processor. supported"""

FPGA_1X1 = CoprocessorSpec("FPGA_1X1", ArraySpec(EngineSpec(fabric="fpga"), rows=1, columns=1))
"""One engine as FPGAs like it: hard multipliers, a stage more; no co-processor. supported"""

EDGE_2X2 = CoprocessorSpec(
    "EDGE_2X2",
    ArraySpec(rows=2, columns=2),
    MemorySpec(bus_bits=32, buffer_lines=32768, operand_lines=2048),
)
"""The smallest co-processor: 128 KiB of buffer, 8 KiB a row, 32 KiB of weights. supported"""

EDGE_4X4 = CoprocessorSpec(
    "EDGE_4X4", ArraySpec(rows=4, columns=4), MemorySpec(buffer_lines=16384, operand_lines=2048)
)
"""The default: 128 KiB of buffer, 16 KiB a row, 64 KiB of weights. supported"""

EDGE_8X8 = CoprocessorSpec("EDGE_8X8", ArraySpec(rows=8, columns=8), MemorySpec(operand_lines=2048))
"""The shape the utilisation figures are quoted for: 128 KiB of buffer, 32 KiB a row, 128 KiB of
weights. supported"""

EDGE_16X16 = CoprocessorSpec(
    "EDGE_16X16",
    ArraySpec(rows=16, columns=16),
    MemorySpec(bus_bits=128),
)
"""The largest array of the co-processor: 256 KiB of buffer, 32 KiB a row. experimental"""

STRICT_4X4 = CoprocessorSpec(
    "STRICT_4X4",
    ArraySpec(EngineSpec(MacSpec(underflow="minpos")), rows=4, columns=4),
    MemorySpec(buffer_lines=16384, operand_lines=2048),
)
"""EDGE_4X4 with the posit standard's underflow rule. supported"""

ULX3S_4X4 = CoprocessorSpec(
    "ULX3S_4X4",
    ArraySpec(EngineSpec(fabric="fpga"), rows=4, columns=4),
    MemorySpec(buffer_lines=8192, operand_lines=1024, weight_lines=4096),
    kinds=(),
)
"""EDGE_4X4 for an ECP5 of 84 thousand LUT4s: engines for FPGAs; products, sums and maxima only;
64 KiB of buffer, 8 KiB a row, 32 KiB of weights. supported"""

CATALOG = {
    spec.name: spec
    for spec in (
        EDGE_1X1,
        FPGA_1X1,
        EDGE_2X2,
        EDGE_4X4,
        EDGE_8X8,
        EDGE_16X16,
        STRICT_4X4,
        ULX3S_4X4,
    )
}


def with_kind(spec: CoprocessorSpec, kind: str) -> CoprocessorSpec:
    """A specification with gates for a kind of exec: of the same array, if there is one.

    Whatever the gates are made for: programs and results are the same on every fabric.
    """

    def shape(array: ArraySpec) -> ArraySpec:
        return replace(array, engine=replace(array.engine, fabric=spec.engine.fabric))

    able = [other for other in CATALOG.values() if not other.lacks(kind) and other.array.rows > 1]
    return next((other for other in able if shape(other.array) == spec.array), able[0])


def get(name: str) -> CoprocessorSpec:
    """The specification called ``name``.

    Raises:
        SpecError: no such specification; the message lists those there are.
    """
    if name not in CATALOG:
        raise SpecError(f"unknown spec '{name}': expected one of {', '.join(CATALOG)}")
    return CATALOG[name]
