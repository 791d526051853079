"""Published designs that ours are compared with: figures of their authors, as they stand there.

Figures are "measured" where the authors give them for the node they worked at. What an operation
is differs: PDPU's tables count a multiply-accumulate as one, accelerators count two.
"""

from __future__ import annotations

from dataclasses import dataclass

from opennpe.tech.figures import Label

__all__ = ["DESIGNS", "PDPU_ROWS", "XR_NPE", "Design"]


@dataclass(frozen=True)
class Design:
    """A published design; None where a figure is not given.

    Attributes:
        what: what it computes.
        node_nm: process, None where not stated.
        area_um2, delay_ns, clock_ghz, power_mw, energy_pj: as published; a delay is that of a
            combinational design.
        gops_per_w: as published, ``macs`` says whether a multiply-accumulate counts once.
        accumulator: "exact", "windowed", "rounded" each step, or "" where not stated.
    """

    name: str
    what: str
    node_nm: float | None
    source: str
    area_um2: float | None = None
    delay_ns: float | None = None
    clock_ghz: float | None = None
    power_mw: float | None = None
    energy_pj: float | None = None
    gops_per_w: str = ""
    macs: bool = False
    accumulator: str = ""
    label: Label = "measured"


_PDPU = "PDPU, ISCAS 2023, TSMC 28 nm, synthesis, combinational"
_NPE = "XR-NPE, arXiv 2508.13049, abstract"


def _pdpu(
    name: str, what: str, area: float, delay: float, power: float, exact: bool = False
) -> Design:
    return Design(
        name, what, 28.0, _PDPU, area_um2=area, delay_ns=delay, power_mw=power,
        accumulator="exact" if exact else "windowed", macs=True,
    )  # fmt: skip


PDPU_ROWS = (
    _pdpu("PDPU P(16/16,2) N4 w14", "dot product of 4, window of 14", 9579, 1.62, 4.49),
    _pdpu("PDPU P(13/16,2) N4 w14", "dot product of 4, window of 14", 7695, 1.60, 3.66),
    _pdpu("PDPU P(13/16,2) N8 w14", "dot product of 8, window of 14", 13560, 1.69, 5.80),
    _pdpu("PDPU P(10/16,2) N8 w14", "dot product of 8, window of 14", 10006, 1.70, 4.24),
    _pdpu("PDPU P(13/16,2) N8 w10", "dot product of 8, window of 10", 12157, 1.66, 5.06),
    _pdpu("PDPU quire", "dot product of 4, P(13/16,2), 256 bits", 29209, 2.10, 5.87, exact=True),
)
"""The six configurations that the calibrated constants come from."""

XR_NPE = Design(
    "XR-NPE", "SIMD MAC engine: FP4, Posit(4,1), Posit(8,0), Posit(16,1)", 28.0, _NPE,
    area_um2=16000, clock_ghz=1.72, energy_pj=14,
)  # fmt: skip
"""The paper that this project implements; what its 14 pJ are an operation of is not stated."""

DESIGNS = (
    XR_NPE,
    *PDPU_ROWS,
    Design("PACoGen", "dot product of 4, P(16,2)", 28.0, _PDPU, area_um2=13433, delay_ns=4.45,
           power_mw=12.21, accumulator="rounded", macs=True),
    Design("posit FMA", "P(16,2), one lane", 28.0, _PDPU, area_um2=7035, delay_ns=1.35,
           power_mw=3.79, accumulator="rounded", macs=True),
    Design("FPnew FMA FP16", "one lane", 28.0, _PDPU, area_um2=3714, delay_ns=1.0, power_mw=2.51,
           accumulator="rounded", macs=True),
    Design("FPnew FMA FP32", "one lane", 28.0, _PDPU, area_um2=6668, delay_ns=1.2, power_mw=3.97,
           accumulator="rounded", macs=True),
    Design("FPnew FP16", "dot product of 4", 28.0, _PDPU, area_um2=13449, delay_ns=2.75,
           power_mw=4.29, accumulator="rounded", macs=True),
    Design("FPnew FP32", "dot product of 4", 28.0, _PDPU, area_um2=28563, accumulator="rounded",
           macs=True),
    Design("SPADE", "SIMD P(8,0), P(16,1), P(32,2)", 28.0, "arXiv 2601.17279", clock_ghz=1.38,
           power_mw=6.1),
    Design("FP8/FP4 PE", "4x4 multiplier that splits into two of 2x2", 28.0, "arXiv 2604.04507",
           area_um2=3960, clock_ghz=1.94, power_mw=2.13),
    Design("MX datapath", "8x8 MACs, MXINT8 / MXFP8-6 / MXFP4", None, "arXiv 2511.06313",
           gops_per_w="657 / 1438-1675 / 4065"),
    Design("MXFP8 / MXFP4 cluster", "RISC-V cluster with MX dot products", 12.0,
           "secondary source", gops_per_w="843 / 1632"),
)  # fmt: skip
"""Every design of the comparison, XR-NPE first."""
