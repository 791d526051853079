"""What a run costs: energy by component, time, area, how far from the roof; in silicon's units.

A pure function of a workload (cycles and accesses, from the cycle model), of the engines' events
(:mod:`opennpe.sim.activity`) and of a technology (measured areas and energies). Every component
says how it came about; figures at another node come as a band.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opennpe.golden.commands import PARAMETER_LINES
from opennpe.golden.errors import DataError, OpenNPEError
from opennpe.golden.spec import CoprocessorSpec, EngineSpec
from opennpe.sim.accesses import memory_shapes
from opennpe.sim.activity import LayerActivity
from opennpe.sim.cost_bands import bands
from opennpe.sim.cost_types import (
    COMPONENTS,
    OPERATIONS,
    Cost,
    LayerCost,
    Options,
    Technology,
)
from opennpe.sim.roofs import bus_bytes_per_second, peak_gops
from opennpe.sim.workload import LayerWork, Workload
from opennpe.tech import areas, coefficients
from opennpe.tech.areas import Block, SpecArea
from opennpe.tech.coefficients import Coefficients
from opennpe.tech.figures import Figure, Label
from opennpe.tech.memories import Memory, memory

__all__ = ["ENGINES", "estimate", "is_whole", "memories_of", "technology"]

ENGINES = "engines"
"""The block of a design's areas that is the engines, energies of which are measured."""

Counts = Mapping[str, int]
Moving = Callable[[Counts, CoprocessorSpec], float]


def _beats(name: str) -> Moving:
    return lambda c, spec: c[name] / spec.memory.bus_bits


def _of(name: str, share: Callable[[CoprocessorSpec], float] = lambda spec: 1.0) -> Moving:
    return lambda c, spec: c[name] / share(spec)


MOVING: dict[str, tuple[str, Moving]] = {
    "array": ("datapath", _of("steps")),
    "array_rows": ("datapath", _of("steps")),
    "parameters": ("datapath", _of("parameter_reads", lambda spec: PARAMETER_LINES)),
    "rows": ("datapath", _of("operand_reads", lambda spec: spec.array.rows)),
    "weights": ("datapath", _of("weight_reads")),
    "sparse_decode": ("datapath", _of("weight_reads")),
    "results": ("datapath", _of("buffer_writes")),
    "sequence": ("datapath", _of("operand_reads", lambda spec: spec.array.rows)),
    "transpose": ("datapath", _of("moves")),
    "rowwise": ("row_units", _of("row_steps")),
    "softmax": ("row_units", _of("row_steps")),
    "norm": ("row_units", _of("row_steps")),
    "load": ("control", _beats("bus_bits_read")),
    "store": ("control", _beats("bus_bits_written")),
    "fill": ("control", _of("operand_writes", lambda spec: spec.array.rows)),
    "dispatcher": ("control", _of("command_reads")),
}
"""Component of each block, and cycles of a layer in which it moves something."""
REST: tuple[str, Moving] = ("control", _of("command_reads"))
"""Of blocks that are not named above."""

MEMORIES = {
    "operand": "operands",
    "weight": "weights",
    "buffer": "buffer",
    "parameter": "parameters",
    "table": "parameters",
    "command": "parameters",
}
"""Component of each memory."""


def is_whole(spec: CoprocessorSpec) -> bool:
    """Whether the spec is a co-processor; else it is an array without memories."""
    try:
        spec.check_coprocessor()
    except OpenNPEError:
        return False
    return True


def memories_of(spec: CoprocessorSpec, node_nm: float) -> dict[str, Memory]:
    """The memories of a spec at a node, by the name that their counts begin with.

    Raises:
        DataError: a node at which memories are not known.
    """
    shapes = memory_shapes(spec) if is_whole(spec) else {}
    return {name: memory(shape, node_nm) for name, shape in shapes.items()}


def technology(
    spec: CoprocessorSpec,
    library: str = "ihp130",
    area: SpecArea | None = None,
    energies: Coefficients | None = None,
    recipe: str = areas.RECIPE,
) -> Technology:
    """A spec in a library, from what came along unless it is given.

    Raises:
        TechError: areas or energies that are not there.
    """
    area = area or areas.load(library, spec.name, recipe)
    held = memories_of(spec, area.node_nm)
    slowest = max((m.access_ps for m in held.values()), default=0.0)
    return Technology(area, energies or coefficients.load(library), held, slowest)


def estimate(
    spec: CoprocessorSpec,
    work: Workload,
    activity: Sequence[LayerActivity],
    tech: Technology,
    options: Options | None = None,
) -> Cost:
    """The cost of a run of one sample.

    Args:
        spec: what ran.
        work: its layers, of :mod:`opennpe.sim.workload`.
        activity: events of the network's layers, of the same run; none where they are not known.
        tech: of :func:`technology`.
        options: clock, external memory, power gating.

    Raises:
        DataError: a clock that the gates do not reach, or a workload of nothing.
    """
    options = options or Options()
    achieved = 1e12 / tech.period_ps
    clock = options.clock_hz or achieved
    if clock > achieved * (1 + 1e-9):
        raise DataError(
            f"a clock of {clock / 1e6:.4g} MHz is more than {tech.area.library} reaches: "
            f"{achieved / 1e6:.4g} MHz, {tech.limit}"
        )
    if not work.cycles:
        raise DataError(f"{work.name} takes no cycles: there is nothing to estimate")
    events = {one.name: one for one in activity}
    density = _density(spec, activity, tech)
    engine = _Engines(spec, tech, events, density)
    layers = tuple(_layer(spec, row, tech, options, clock, engine) for row in work.layers)
    total = _total(spec, work, layers, clock)
    idle = _idle(spec, work, tech, options, clock)
    return Cost(
        spec=spec.name,
        library=tech.area.library,
        scope=work.scope,
        clock_hz=clock,
        achieved_hz=achieved,
        limit=tech.limit,
        layers=layers,
        total=total,
        labels=_labels(tech),
        area=_area(tech),
        power_gating=options.power_gating,
        idle_pj=idle,
        bands=bands(spec, work, total, tech),
        cautions=engine.cautions() + _other_gates(spec, tech),
        recipe=tech.area.recipe,
    )


def _other_gates(spec: CoprocessorSpec, tech: Technology) -> tuple[str, ...]:
    """That energies are of other gates than areas and clock."""
    own, areas_own = tech.coefficients.recipe, tech.area.recipe
    found = []
    if own != areas_own:
        found.append(
            f"energies are those of engines by recipe {own}, areas and clock by {areas_own}"
        )
    if spec.engine.fabric != EngineSpec().fabric:
        found.append(
            f"energies are those of engines for {EngineSpec().fabric}, the spec's are for "
            f"{spec.engine.fabric}"
        )
    return tuple(found)


# -- engines --------------------------------------------------------------------------------------
class _Engines:
    """Energy of the engines' work in a layer, and what had to be assumed on the way."""

    def __init__(
        self,
        spec: CoprocessorSpec,
        tech: Technology,
        events: Mapping[str, LayerActivity],
        density: float,
    ) -> None:
        self.count = spec.array.rows * spec.array.columns
        self.energies, self.events, self.density = tech.coefficients, events, density
        self.fewer: list[str] = []
        self.unknown: list[str] = []

    def energy_pj(self, row: LayerWork) -> float:
        """Events of all engines in a layer, clock and leakage not included."""
        steps = row.steps * self.count
        known = [self.events[p] for p in row.parts if p in self.events and self.events[p].mode]
        words = sum(one.words for one in known)
        if not words:
            if steps:
                self.unknown.append(row.name)
            return steps * self.density / 1000
        if steps < words:
            # Weights that are not zero only: what the dense layer would have done, in proportion.
            self.fewer.append(row.name)
        total = 0.0
        for one in known:
            share = round(steps * one.words / words)
            if share >= one.words:
                counts = one.padded(share).counts
            else:
                counts = one.counts * (share / one.words)
            total += self.energies.energy_of(one.mode, counts)
        return total / 1000

    def cautions(self) -> tuple[str, ...]:
        """A line for each assumption."""
        found = []
        if self.unknown:
            found.append(
                "engine events are not counted in "
                + _some(self.unknown)
                + ": steps there cost what the mean step of the other layers does"
            )
        if self.fewer:
            found.append(
                "fewer steps than words in "
                + _some(self.fewer)
                + ": events of the dense layer in proportion"
            )
        return tuple(found)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _density(spec: CoprocessorSpec, activity: Sequence[LayerActivity], tech: Technology) -> float:
    """fJ of a mean engine step without clock and leakage, over all layers that have events."""
    known = [one for one in activity if one.mode and one.words]
    words = sum(one.words for one in known)
    if not words:
        return 0.0
    return sum(tech.coefficients.energy_of(one.mode, one.counts) for one in known) / words


# -- a layer --------------------------------------------------------------------------------------
def _layer(
    spec: CoprocessorSpec,
    row: LayerWork,
    tech: Technology,
    options: Options,
    clock: float,
    engines: _Engines,
) -> LayerCost:
    energy = dict.fromkeys(COMPONENTS, 0.0)
    energy["engines"] = engines.energy_pj(row)
    steps = row.steps * engines.count
    per_step = 1000 * energy["engines"] / steps if steps else engines.density
    per_um2 = per_step / tech.coefficients.area_um2
    for block in _others(tech):
        component, moving = MOVING.get(block.name, REST)
        energy[component] += per_um2 * block.area_um2 * moving(row.counts, spec) / 1000
    for name, held in tech.memories.items():
        reads, writes = row.counts[f"{name}_reads"], row.counts[f"{name}_writes"]
        energy[MEMORIES[name]] += reads * held.read_pj.value + writes * held.write_pj.value
    seconds = row.cycles / clock
    clocked, leaked = _standing(spec, row, tech, options, seconds)
    energy["clock"], energy["leakage"] = clocked, leaked
    bits = row.counts["bus_bits_read"] + row.counts["bus_bits_written"]
    energy["external"] = bits * options.external_pj_per_bit
    return _layer_cost(spec, row, energy, bits / 8, seconds, clock)


def _others(tech: Technology) -> list[Block]:
    return [block for block in tech.area.blocks if block.name != ENGINES]


def _standing(
    spec: CoprocessorSpec, row: LayerWork, tech: Technology, options: Options, seconds: float
) -> tuple[float, float]:
    """pJ of clock and of leakage in a layer's time."""
    count, held = spec.array.rows * spec.array.columns, tech.coefficients
    idle = max(0, row.cycles - row.steps)
    awake = 1.0 - (options.gated_share if options.power_gating else 0.0)
    engines = count * (row.steps * held.clock_fj + idle * held.clock_held_fj * awake)
    registers = sum(block.registers for block in _others(tech))
    clock = engines + registers * tech.area.flop_clock_fj * row.cycles
    standing = seconds * (1.0 - (1.0 - awake) * idle / row.cycles) if row.cycles else 0.0
    cells = sum(block.leakage_nw for block in _others(tech))
    cells += sum(m.leakage_nw.value for m in tech.memories.values())
    # nW times s is nJ, 1000 pJ.
    leakage = 1000 * (cells * seconds + count * held.leakage_nw * standing)
    return clock / 1000, leakage


def _layer_cost(
    spec: CoprocessorSpec,
    row: LayerWork,
    energy: Mapping[str, float],
    external_bytes: float,
    seconds: float,
    clock: float,
) -> LayerCost:
    peak = spec.array.macs_per_cycle(row.format) if row.format and row.macs else 0
    used = row.macs / (row.cycles * peak) if peak and row.cycles else None
    roof, bound = None, ""
    if peak:
        compute = peak_gops(spec, row.format, clock)
        roof, bound = compute, "compute"
        if external_bytes:
            intensity = OPERATIONS * row.macs / external_bytes
            memory_roof = intensity * bus_bytes_per_second(spec, clock) / 1e9
            if memory_roof < compute:
                roof, bound = memory_roof, "memory"
    return LayerCost(
        row.name, row.format, row.cycles, seconds, row.macs, used, energy, external_bytes, roof,
        bound,
    )  # fmt: skip


def _total(
    spec: CoprocessorSpec, work: Workload, layers: Sequence[LayerCost], clock: float
) -> LayerCost:
    energy = {name: sum(row.energy_pj[name] for row in layers) for name in COMPONENTS}
    bits = sum(row.external_bytes for row in layers)
    formats = {row.format for row in layers if row.macs}
    name = formats.pop() if len(formats) == 1 else ""
    whole = LayerWork("total", (), work.cycles, work.macs, name, 0)
    found = _layer_cost(spec, whole, energy, bits, work.cycles / clock, clock)
    if name:
        return found
    # Of several formats: the share of the peak that each layer could have had.
    ideal = sum(
        row.macs / spec.array.macs_per_cycle(row.format)
        for row in layers
        if row.macs and row.format
    )
    used = ideal / work.cycles if ideal else None
    return LayerCost(**{**vars(found), "utilisation": used})


def _idle(
    spec: CoprocessorSpec, work: Workload, tech: Technology, options: Options, clock: float
) -> dict[str, float]:
    """pJ of clock and leakage of engines in cycles without a step, isolated and switched off."""
    count, held = spec.array.rows * spec.array.columns, tech.coefficients
    idle = sum(max(0, row.cycles - row.steps) for row in work.layers)
    isolated = count * idle * (held.clock_held_fj / 1000 + 1000 * held.leakage_nw / clock)
    return {"isolated": isolated, "power_gated": isolated * (1 - options.gated_share)}


# -- area, labels ---------------------------------------------------------------------------
def _area(tech: Technology) -> dict[str, Figure]:
    source = f"Yosys and ABC on {tech.area.library}'s cells, recipe {tech.area.recipe}"
    found = {b.name: Figure(b.area_um2, "um2", "measured", source) for b in tech.area.blocks}
    for held in tech.memories.values():
        found[f"memory: {held.shape.name}"] = held.area_um2
    return found


def _labels(tech: Technology) -> dict[str, Label]:
    """Blocks without energies of their own are carried over from the engine's by area."""
    labels: dict[str, Label] = dict.fromkeys(COMPONENTS, "measured")
    for name in ("datapath", "row_units", "control", "external"):
        labels[name] = "scaled"
    for name, held in tech.memories.items():
        labels[MEMORIES[name]] = held.read_pj.label
    return labels
