"""The cost of a run that ``opennpe sim`` and ``run`` make anyway, from areas and energies kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opennpe.golden.errors import OpenNPEError
from opennpe.golden.network import Network
from opennpe.golden.program import Program
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim.coprocessor import Timing, cycles
from opennpe.sim.cost import estimate, is_whole, technology
from opennpe.sim.cost_types import Cost, Options, Technology
from opennpe.sim.workload import of_program

__all__ = ["LIBRARY", "line", "of_network", "of_run", "priced", "summary"]

LIBRARY = "ihp130"
"""Whose energies the verbs that run networks print."""


def priced(
    name: str,
    spec: CoprocessorSpec,
    network: Network,
    program: Program,
    timing: Timing,
    inputs: Mapping[str, Any],
    tech: Technology,
    options: Options | None = None,
) -> Cost:
    """The cost of a program's run of one sample in a technology.

    Raises:
        DataError: as :func:`opennpe.sim.cost.estimate`.
    """
    from opennpe.sim.activity import activity

    work = of_program(name, spec, program, timing, network)
    return estimate(spec, work, activity(spec, network, inputs), tech, options)


def of_run(
    spec: CoprocessorSpec,
    network: Network,
    program: Program,
    timing: Timing,
    inputs: Mapping[str, Any],
) -> Cost | str:
    """The cost of a program's run of one sample, or why there is none."""
    try:
        tech = technology(spec, LIBRARY)
        return priced(network.name, spec, network, program, timing, inputs, tech)
    except OpenNPEError as error:
        return str(error)


def of_network(spec: CoprocessorSpec, network: Network, inputs: Mapping[str, Any]) -> Cost | str:
    """The same of a network, compiled for the co-processor first."""
    from opennpe.host.compile import compile

    if not is_whole(spec):
        return f"{spec.name} has no co-processor: `opennpe cost --spec {spec.name}` gives its area"
    try:
        technology(spec, LIBRARY)
        program = compile(network, spec)
        return of_run(spec, network, program, cycles(spec, program), inputs)
    except OpenNPEError as error:
        return str(error)


def line(name: str, found: Cost | str) -> str:
    """Area, energy and throughput in a line."""
    if isinstance(found, str):
        return f"cost {name}: none: {found}"
    total, area = found.total, found.bands.get("area_mm2")
    there = "" if area is None else f"; {area.low:.3g} to {area.high:.3g} mm2 at 28 nm"
    return (
        f"cost {name}, {found.library}, recipe {found.recipe}: {found.area_mm2:.3g} mm2 "
        f"(measured{there}), {total.seconds * 1e3:.3g} ms a sample at {found.clock_hz / 1e6:.4g} "
        f"MHz ({found.limit}), "
        f"{total.chip_pj / 1e6:.3g} uJ on the chip and {total.energy_pj['external'] / 1e6:.3g} uJ "
        f"outside, {total.gops:.3g} GOPS, {total.tops_per_w:.3g} TOPS/W"
    )


def summary(found: Cost | str | None) -> dict[str, Any] | None:
    """JSON-ready, units in names; None where there is no cost."""
    if found is None or isinstance(found, str):
        return None
    total = found.total
    return {
        "library": found.library,
        "recipe": found.recipe,
        "clock_mhz": found.clock_hz / 1e6,
        "limited_by": found.limit,
        "area_mm2": found.area_mm2,
        "area_um2": {name: figure.value for name, figure in found.area.items()},
        "time_ms_per_sample": total.seconds * 1e3,
        "chip_energy_uj_per_sample": total.chip_pj / 1e6,
        "external_energy_uj_per_sample": total.energy_pj["external"] / 1e6,
        "gops": total.gops,
        "tops_per_w": total.tops_per_w,
        "labels": dict(found.labels),
    }
