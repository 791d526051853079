"""``opennpe cost``: what a spec takes of silicon, and with a network what a run takes of energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opennpe.cli import cost_measure, cost_quick
from opennpe.cli.cost_compare import Entry, comparison
from opennpe.cli.cost_roofline import Roofline, roofline
from opennpe.cli.cost_rows import run_summary
from opennpe.cli.progress import Progress, Silent
from opennpe.cli.simulate import engine_spec
from opennpe.golden.errors import DataError, TechError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.cost import ENGINES, is_whole, memories_of, technology
from opennpe.sim.cost_peak import Peak, peaks
from opennpe.sim.cost_types import OPERATIONS, Cost, Options
from opennpe.sim.roofs import peak_gops
from opennpe.tech import coefficients
from opennpe.tech.areas import RECIPE, SpecArea
from opennpe.tech.figures import Figure, worst
from opennpe.tech.scaling import band

__all__ = ["Report", "SpecCost", "cost", "of_area", "source_of", "spec_cost"]

SCHEMA = "opennpe.cost/1"


@dataclass(frozen=True, eq=False)
class SpecCost:
    """A spec in a library.

    Attributes:
        area: by block, measured. memories: by name, um2.
        at_28_nm: area of cells and clock by method: "area_mm2", "clock_ghz", "engine_um2".
        peak_gops: of the array at the achieved clock, by format.
        cautions: what is not in the figures.
        peaks: of each format, with area and energy.
    """

    spec: CoprocessorSpec
    area: SpecArea
    memories: dict[str, Figure]
    at_28_nm: dict[str, dict[str, Figure]]
    peak_gops: dict[str, float]
    cautions: tuple[str, ...]
    peaks: tuple[Peak, ...] = ()

    @property
    def memory_um2(self) -> float:
        """All memories."""
        return sum(figure.value for figure in self.memories.values())

    @property
    def total_um2(self) -> float:
        """Cells and memories."""
        return self.area.area_um2 + self.memory_um2

    @property
    def engine(self) -> tuple[float, float, float]:
        """One engine's area in um2, its registers, and its slowest stage in ps."""
        block = next(b for b in self.area.blocks if b.name == ENGINES)
        return block.area_um2 / block.copies, block.registers / block.copies, block.stage_ps

    def summary(self) -> dict[str, Any]:
        """JSON-ready, units in names."""
        return {
            "spec": self.spec.name,
            "library": self.area.library,
            "node_nm": self.area.node_nm,
            "voltage_v": self.area.voltage_v,
            "recipe": self.area.recipe,
            "key": self.area.key,
            "clock_mhz": 1e6 / self.area.period_ps,
            "clock_limited_by": self.area.limit,
            "slowest_block": self.area.slowest.name,
            "label": "measured",
            "blocks": [
                {
                    "block": b.name,
                    "copies": b.copies,
                    "area_um2": b.area_um2,
                    "registers": b.registers,
                    "leakage_nw": b.leakage_nw,
                    "slowest_stage_ps": b.stage_ps,
                }
                for b in self.area.blocks
            ],
            "memories": {name: f.summary() for name, f in self.memories.items()},
            "at_28_nm": {
                what: {name: f.summary() for name, f in figures.items()}
                for what, figures in self.at_28_nm.items()
            },
            "peak_gops": self.peak_gops,
            "peaks": {
                peak.format: {what: f.summary() for what, f in peak.figures().items()}
                for peak in self.peaks
            },
            "cautions": list(self.cautions),
        }


@dataclass(frozen=True, eq=False)
class Report:
    """What ``opennpe cost`` found."""

    specs: tuple[SpecCost, ...]
    run: Cost | None = None

    def comparison(self) -> tuple[Entry, ...]:
        """Ours beside the published designs."""
        ours = []
        for one in self.specs:
            um2, _, stage = one.engine
            source = source_of(one.area)
            engine = Figure(um2, "um2", "measured", source)
            ours.append((one.spec.name, one.area, engine, stage / 1000, one.peaks))
        return comparison(ours, self.run)

    def roofline(self) -> Roofline | None:
        """Of the run, which is one of the first spec's."""
        return None if self.run is None else roofline(self.run, self.specs[0].spec)

    def summary(self) -> dict[str, Any]:
        """JSON-ready, units in names."""
        roofs = self.roofline()
        return {
            "schema": SCHEMA,
            "operations_per_mac": OPERATIONS,
            "specs": [one.summary() for one in self.specs],
            "run": None if self.run is None else run_summary(self.run),
            "roofline": None if roofs is None else roofs.rows(),
            "comparison": [entry.summary() for entry in self.comparison()],
        }


def source_of(area: SpecArea) -> str:
    """Where figures of a spec's gates are from."""
    return f"our netlist on {area.library}, recipe {area.recipe}"


def spec_cost(
    spec: CoprocessorSpec,
    library: str | Path = "ihp130",
    progress: Progress | None = None,
    recipe: str = RECIPE,
) -> SpecCost:
    """Areas, clock and peak of a spec; synthesised unless what is kept is of this design.

    Raises:
        SpecError: no such recipe.
        TechError: no such library, or one that lacks a cell.
        ToolError: Yosys is missing.
    """
    from opennpe.fpga import liberty

    cells = liberty.load(library)
    return of_area(spec, cost_measure.measure(spec, cells, None, progress, recipe))


def of_area(spec: CoprocessorSpec, area: SpecArea) -> SpecCost:
    """The same from areas that are known.

    Raises:
        TechError: areas that leave out other memories than the spec has.
    """
    cost_measure.check_memories(spec, area)
    clock_hz = 1e12 / area.period_ps
    cautions = ["no clock tree and no wires"]
    if is_whole(spec):
        cautions.append(
            "a second port of memories: macros have one, the design reads and writes in a cycle"
        )
    held: dict[str, Figure] = {}
    at_28: dict[str, dict[str, Figure]] = {}
    try:
        there = memories_of(spec, area.node_nm)
        held = {m.shape.name: m.area_um2 for m in there.values()}
    except DataError as error:
        cautions.append(str(error))
    try:
        at_28 = _at_28(area)
    except DataError as error:
        cautions.append(f"no figures at 28 nm: {error}")
    peak = {name: peak_gops(spec, name, clock_hz) for name in spec.mac.formats}
    most = _peaks(spec, area, clock_hz, held, cautions)
    return SpecCost(spec, area, held, at_28, peak, tuple(cautions), most)


def _peaks(
    spec: CoprocessorSpec,
    area: SpecArea,
    clock_hz: float,
    held: dict[str, Figure],
    cautions: list[str],
) -> tuple[Peak, ...]:
    """Every format's; without energies where the library has none, which is said."""
    energies = None
    try:
        energies = coefficients.load(area.library)
    except TechError as error:
        cautions.append(f"no TOPS/W: {error}")
    if energies is not None and energies.recipe != area.recipe:
        cautions.append(
            f"energies of gates by recipe {area.recipe}: they are of engines by {energies.recipe}"
        )
    source = source_of(area)
    engines = next(b.area_um2 for b in area.blocks if b.name == ENGINES)
    label = worst("measured", *(f.label for f in held.values()))
    whole = area.area_um2 + sum(f.value for f in held.values())
    return peaks(
        spec,
        clock_hz,
        Figure(whole, "um2", label, source),
        Figure(engines, "um2", "measured", source),
        energies,
    )


def _at_28(area: SpecArea) -> dict[str, dict[str, Figure]]:
    where = area.library, area.node_nm, area.voltage_v, area.recipe
    source = source_of(area)
    engine = next(block for block in area.blocks if block.name == ENGINES)

    def carried(quantity: Any, value: float, unit: str) -> dict[str, Figure]:
        return band(quantity, Figure(value, unit, "measured", source), *where)

    periods = carried("delay", engine.stage_ps / 1000, "ns")
    clocks = {n: Figure(1 / f.value, "GHz", f.label, f.source) for n, f in periods.items()}
    found = {
        "engine_um2": carried("area", engine.area_um2 / engine.copies, "um2"),
        "cells_mm2": carried("area", area.area_um2 / 1e6, "mm2"),
        "engine_clock_ghz": clocks,
    }
    # One method alone is no band.
    return {what: figures for what, figures in found.items() if len(figures) > 1}


def cost(
    specs: Sequence[str] = ("EDGE_4X4",),
    library: str | Path = "ihp130",
    model: str | Path | None = None,
    data: str | Path | None = None,
    *,
    formats: Sequence[str] = (),
    clock_mhz: float | None = None,
    external_pj_per_bit: float | None = None,
    power_gating: bool = False,
    recipe: str = RECIPE,
    progress: Progress | None = None,
) -> Report:
    """Costs of specs, and of a network's run on the first of them.

    Args:
        specs: names in the catalog.
        library: a shipped library's name, or Liberty files.
        model, data: an ONNX model with inputs that calibrate it; the first sample runs.
        formats: at most one.
        clock_mhz: of the run; the fastest that the gates allow unless given.
        external_pj_per_bit: of the memory outside; LPDDR4's unless given.
        recipe: of the synthesis (:mod:`opennpe.fpga.recipes`).

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
    """
    progress = progress or Silent()
    options = _options(clock_mhz, external_pj_per_bit, power_gating)
    chosen = [engine_spec(name) for name in specs]
    if model is not None and data is None:
        raise DataError("a network is calibrated by inputs: give them by --data FILE.npz")
    found = tuple(spec_cost(spec, library, progress, recipe) for spec in chosen)
    run = None
    if model is not None:
        energies = coefficients.load(found[0].area.library)
        run = network_cost(chosen[0], found[0].area, energies, model, data, formats, options)
    return Report(found, run)


def _options(
    clock_mhz: float | None, external_pj_per_bit: float | None, power_gating: bool
) -> Options:
    given: dict[str, Any] = {"power_gating": power_gating}
    if clock_mhz is not None:
        given["clock_hz"] = clock_mhz * 1e6
    if external_pj_per_bit is not None:
        given["external_pj_per_bit"] = external_pj_per_bit
    return Options(**given)


def network_cost(
    spec: CoprocessorSpec,
    area: SpecArea,
    energies: coefficients.Coefficients,
    model: str | Path,
    data: str | Path | None,
    formats: Sequence[str],
    options: Options,
) -> Cost:
    """The cost of one sample of a model on a co-processor."""
    from opennpe import quant
    from opennpe.cli import data as datasets
    from opennpe.cli import graphs
    from opennpe.cli.study import CALIBRATION_SAMPLES
    from opennpe.host.compile import compile
    from opennpe.quant.policy import Policy
    from opennpe.sim.coprocessor import cycles

    assert data is not None
    spec.check_coprocessor()
    graph = quant.load_onnx(model)
    given = datasets.fit(datasets.load_npz(data), graphs.input_shapes(graph), Path(data).name)
    if len(formats) > 1:
        raise DataError(f"cost takes one format, got {', '.join(formats)}")
    policy = Policy.uniform(*(formats or ["posit8"]))
    network = quant.calibrate(graph, given.first(CALIBRATION_SAMPLES).inputs, policy)
    program = compile(network, spec)
    return cost_quick.priced(
        Path(model).name,
        spec,
        network,
        program,
        cycles(spec, program),
        given.take(0, 1),
        technology(spec, area.library, area, energies),
        options,
    )
