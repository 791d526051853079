"""What an estimate gives: energies by component, with how each came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opennpe.golden.errors import DataError
from opennpe.tech.areas import SpecArea
from opennpe.tech.coefficients import Coefficients
from opennpe.tech.figures import Band, Figure, Label
from opennpe.tech.memories import EXTERNAL_PJ_PER_BIT, Memory

__all__ = ["COMPONENTS", "OPERATIONS", "Component", "Cost", "LayerCost", "Options", "Technology"]

OPERATIONS = 2
"""A multiply-accumulate is two operations, in every figure of ours in operations a second."""


@dataclass(frozen=True)
class Component:
    """A part of a run's energy: its name on a page and how it comes about."""

    title: str
    how: str


COMPONENTS: dict[str, Component] = {
    "engines": Component(
        "engines", "events counted in the run, times what each costs on the engine's gates"
    ),
    "datapath": Component(
        "datapath around them",
        "rows, weights, parameters, results and the like: the engines' switching per um2 in this "
        "layer, times their area, in the cycles in which they move something",
    ),
    "row_units": Component("row units", "softmax and norm: the same, in the steps that they take"),
    "control": Component(
        "control and transfers",
        "dispatcher, registers, load, fill and store: the same, in the cycles they move something",
    ),
    "clock": Component("clock", "both edges at every flop's clock pin, no tree and no wires"),
    "operands": Component("operand memories", "reads and writes of the run, times a macro's"),
    "weights": Component("weight memory", "the same"),
    "buffer": Component("buffer", "the same"),
    "parameters": Component("parameters and tables", "the same, commands included"),
    "leakage": Component("leakage", "of all cells and memories, times the time"),
    "external": Component("external memory", "bits of the bus, times a parameter"),
}
"""In the order in which they are shown; the last is not on the chip."""


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        clock_hz: of the run; the fastest that the gates allow where None.
        external_pj_per_bit: of the memory outside.
        power_gating: whether engines are switched off in cycles without a step.
        gated_share: of leakage and clock that switching off takes away; waking costs nothing here.

    Raises:
        DataError: a value out of its range.
    """

    clock_hz: float | None = None
    external_pj_per_bit: float = EXTERNAL_PJ_PER_BIT["lpddr4"]
    power_gating: bool = False
    gated_share: float = 0.9

    def __post_init__(self) -> None:
        if self.clock_hz is not None and not 0 < self.clock_hz <= 1e12:
            raise DataError(f"a clock lies above 0 and up to 1000 GHz, got {self.clock_hz:g} Hz")
        if not 0 <= self.external_pj_per_bit <= 1e4:
            raise DataError(
                f"external memory takes 0 to 10000 pJ per bit, got {self.external_pj_per_bit:g}"
            )
        if not 0 <= self.gated_share <= 1:
            raise DataError(f"a gated share lies in 0 to 1, got {self.gated_share:g}")


@dataclass(frozen=True, eq=False)
class Technology:
    """A design in a library: its areas, its engine's energies, its memories.

    Attributes:
        memories: by the name that their counts begin with; empty for an engine alone.
        access_ps: of the slowest memory, where known.
    """

    area: SpecArea
    coefficients: Coefficients
    memories: Mapping[str, Memory]
    access_ps: float = 0.0

    @property
    def period_ps(self) -> float:
        """The shortest: the slowest path between registers, or a memory's access."""
        return max(self.area.period_ps, self.access_ps)

    @property
    def limit(self) -> str:
        """What the period comes from."""
        if self.access_ps > self.area.period_ps:
            return "the access of a memory macro"
        return self.area.limit

    @property
    def memory_um2(self) -> float:
        """Area of all memories."""
        return sum(memory.area_um2.value for memory in self.memories.values())


@dataclass(frozen=True)
class LayerCost:
    """A layer, or the whole run.

    Attributes:
        seconds: cycles at the run's clock.
        utilisation: share of the array's peak, None where there are no products.
        energy_pj: by component.
        external_bytes: over the bus, both ways.
        roof_gops: the most that the array or the bus allow at this intensity. bound: which.
    """

    name: str
    format: str
    cycles: int
    seconds: float
    macs: int
    utilisation: float | None
    energy_pj: Mapping[str, float]
    external_bytes: float
    roof_gops: float | None
    bound: str

    @property
    def chip_pj(self) -> float:
        """Without the memory outside."""
        return sum(value for name, value in self.energy_pj.items() if name != "external")

    @property
    def total_pj(self) -> float:
        """With it."""
        return sum(self.energy_pj.values())

    @property
    def gops(self) -> float:
        """Operations a second, in 10^9."""
        return OPERATIONS * self.macs / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def tops_per_w(self) -> float:
        """Operations a pJ on the chip, which is 10^12 a second and watt."""
        return OPERATIONS * self.macs / self.chip_pj if self.chip_pj else 0.0

    @property
    def tops_per_w_with_external(self) -> float:
        """The same, the memory outside included."""
        return OPERATIONS * self.macs / self.total_pj if self.total_pj else 0.0

    @property
    def intensity(self) -> float | None:
        """Operations a byte over the bus; None where nothing crosses it."""
        return OPERATIONS * self.macs / self.external_bytes if self.external_bytes else None


@dataclass(frozen=True, eq=False)
class Cost:
    """A run's cost.

    Attributes:
        spec, library, scope: what was estimated.
        clock_hz: of the run. achieved_hz: the most that the gates allow; limit: why.
        layers: in order; total: all of them.
        labels: how each component's figure came about.
        area: by block and memory, um2.
        power_gating: whether idle engines were switched off.
        idle_pj: clock and leakage of engines in cycles without a step, "isolated" and
            "power_gated".
        bands: quantities at 28 nm by every method.
        cautions: what a reader has to know.
        recipe: of the gates whose area and clock these are.
    """

    spec: str
    library: str
    scope: str
    clock_hz: float
    achieved_hz: float
    limit: str
    layers: tuple[LayerCost, ...]
    total: LayerCost
    labels: Mapping[str, Label]
    area: Mapping[str, Figure]
    power_gating: bool
    idle_pj: Mapping[str, float]
    bands: Mapping[str, Band]
    cautions: tuple[str, ...] = ()
    recipe: str = ""

    @property
    def area_mm2(self) -> float:
        """Cells and memories."""
        return sum(figure.value for figure in self.area.values()) / 1e6

    @property
    def gops_per_mm2(self) -> float:
        """Of the run, all area counted."""
        return self.total.gops / self.area_mm2

    @property
    def milliwatts(self) -> float:
        """Mean power on the chip."""
        return self.total.chip_pj / self.total.seconds / 1e9 if self.total.seconds else 0.0
