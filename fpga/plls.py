"""Clocks: the divisions of a family's PLL that come nearest to a frequency, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from opennpe.golden.errors import SpecError

__all__ = ["LIMITS", "Limits", "Ratio", "parameters", "solve"]


@dataclass(frozen=True)
class Limits:
    """What a PLL can do; frequencies in MHz.

    Attributes:
        feedback: what is divided by ``multiply`` to meet the input: the "output" itself, or the
            oscillator ("vco").
        divide: largest division of the input.
        multiply: range of the division of the feedback.
        post: divisions of the oscillator that give the output.
        compare: range where input and feedback are compared.
        vco: range of the oscillator.
    """

    feedback: Literal["output", "vco"]
    divide: int
    multiply: tuple[int, int]
    post: tuple[int, ...]
    compare: tuple[float, float]
    vco: tuple[float, float]


LIMITS: Mapping[str, Limits] = {
    # Lattice FPGA-DS-02012, sysCLOCK PLL timing.
    "EHXPLLL": Limits("output", 128, (1, 80), tuple(range(1, 129)), (3.125, 400.0), (400.0, 800.0)),
    # Lattice FPGA-DS-02008, sysCLOCK PLL timing.
    "SB_PLL40_PAD": Limits(
        "vco", 16, (1, 128), tuple(1 << n for n in range(1, 7)), (10.0, 133.0), (533.0, 1066.0)
    ),
    # Gowin DS117, PLL switching characteristics, C6/I5.
    "rPLL": Limits(
        "output",
        64,
        (1, 64),
        (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128),
        (3.0, 400.0),
        (400.0, 1200.0),
    ),
    # AMD DS181 and DS923, speed grade -1.
    "PLLE2_BASE": Limits("vco", 56, (2, 64), tuple(range(1, 129)), (19.0, 450.0), (800.0, 1600.0)),
    "MMCME4_BASE": Limits(
        "vco", 106, (2, 128), tuple(range(1, 129)), (10.0, 450.0), (800.0, 1600.0)
    ),
}


@dataclass(frozen=True)
class Ratio:
    """Divisions of a PLL.

    Attributes:
        given: input in MHz.
        mhz: output in MHz.
        vco: oscillator in MHz.
    """

    given: float
    divide: int
    multiply: int
    post: int
    mhz: float
    vco: float


def solve(cell: str, given: float, wanted: float) -> Ratio:
    """The divisions that come nearest to a frequency; of equals, the fastest comparison.

    Args:
        cell: the PLL, a name of :data:`LIMITS`.
        given: MHz at its input.
        wanted: MHz at its output.

    Raises:
        SpecError: no divisions come within 2 % of it.
    """
    limits = LIMITS[cell]
    found: tuple[float, int, float] | None = None
    best: Ratio | None = None
    for divide in range(1, limits.divide + 1):
        compared = given / divide
        if not limits.compare[0] <= compared <= limits.compare[1]:
            continue
        for multiply in range(limits.multiply[0], limits.multiply[1] + 1):
            for ratio in _posts(limits, given, divide, multiply):
                middle = abs(ratio.vco - sum(limits.vco) / 2)
                rank = (round(abs(ratio.mhz - wanted), 6), divide, middle)
                if found is None or rank < found:
                    found, best = rank, ratio
    if best is None or abs(best.mhz - wanted) > 0.02 * wanted:
        near = f", the nearest is {best.mhz:.4g}" if best else ""
        raise SpecError(
            f"a clock of {wanted:g} MHz cannot be made from {given:g} MHz by {cell}{near}: choose "
            "another --freq"
        )
    return best


def _posts(limits: Limits, given: float, divide: int, multiply: int) -> list[Ratio]:
    """What the divisions after the oscillator give, as far as it can run."""
    found = []
    for post in limits.post:
        if limits.feedback == "output":
            mhz = given * multiply / divide
            vco = mhz * post
        else:
            vco = given * multiply / divide
            mhz = vco / post
        if limits.vco[0] <= vco <= limits.vco[1]:
            found.append(Ratio(given, divide, multiply, post, mhz, vco))
    return found


def parameters(cell: str, ratio: Ratio) -> dict[str, int | str | float]:
    """The cell's parameters, by its maker's names."""
    return PARAMETERS[cell](ratio)


def _ecp5(ratio: Ratio) -> dict[str, int | str | float]:
    return {
        "CLKI_DIV": ratio.divide,
        "CLKFB_DIV": ratio.multiply,
        "CLKOP_DIV": ratio.post,
        "CLKOP_CPHASE": ratio.post - 1,
        "CLKOP_FPHASE": 0,
        "CLKOP_ENABLE": "ENABLED",
        "FEEDBK_PATH": "CLKOP",
        "PLLRST_ENA": "DISABLED",
        "INTFB_WAKE": "DISABLED",
        "STDBY_ENABLE": "DISABLED",
        "DPHASE_SOURCE": "DISABLED",
        "OUTDIVIDER_MUXA": "DIVA",
    }


def _ice40(ratio: Ratio) -> dict[str, int | str | float]:
    compared = ratio.given / ratio.divide
    ranges = (17.0, 26.0, 44.0, 66.0, 101.0)
    return {
        "FEEDBACK_PATH": "SIMPLE",
        "DIVR": ratio.divide - 1,
        "DIVF": ratio.multiply - 1,
        "DIVQ": ratio.post.bit_length() - 1,
        "FILTER_RANGE": 1 + sum(compared >= limit for limit in ranges),
    }


def _gowin(ratio: Ratio) -> dict[str, int | str | float]:
    return {
        "FCLKIN": f"{ratio.given:g}",
        "IDIV_SEL": ratio.divide - 1,
        "FBDIV_SEL": ratio.multiply - 1,
        "ODIV_SEL": ratio.post,
        **dict.fromkeys(("DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL", "DYN_DA_EN"), "false"),
        **dict.fromkeys(("CLKOUT_BYPASS", "CLKOUTP_BYPASS", "CLKOUTD_BYPASS"), "false"),
        "PSDA_SEL": "0000",
        "DUTYDA_SEL": "1000",
        "CLKFB_SEL": "internal",
        "DYN_SDIV_SEL": 2,
    }


def _plle2(ratio: Ratio) -> dict[str, int | str | float]:
    return {
        "CLKIN1_PERIOD": 1000 / ratio.given,
        "DIVCLK_DIVIDE": ratio.divide,
        "CLKFBOUT_MULT": ratio.multiply,
        "CLKOUT0_DIVIDE": ratio.post,
    }


def _mmcme4(ratio: Ratio) -> dict[str, int | str | float]:
    return {
        "CLKIN1_PERIOD": 1000 / ratio.given,
        "DIVCLK_DIVIDE": ratio.divide,
        "CLKFBOUT_MULT_F": float(ratio.multiply),
        "CLKOUT0_DIVIDE_F": float(ratio.post),
    }


PARAMETERS = {
    "EHXPLLL": _ecp5,
    "SB_PLL40_PAD": _ice40,
    "rPLL": _gowin,
    "PLLE2_BASE": _plle2,
    "MMCME4_BASE": _mmcme4,
}
