"""``opennpe assign``: a format for every layer, under a budget of size, energy or error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opennpe import quant
from opennpe.cli import assign_files, graphs
from opennpe.cli import data as datasets
from opennpe.cli.assign_bench import Bench, Mix, Score
from opennpe.cli.assign_cost import AXES
from opennpe.cli.assign_search import (
    METHODS,
    Found,
    fronts,
    rule_mixes,
    rule_within,
    search,
    uniform_mix,
)
from opennpe.cli.data import Data
from opennpe.cli.files import output_folder
from opennpe.cli.progress import Progress, Silent
from opennpe.cli.results import Result
from opennpe.cli.study import Job, Study
from opennpe.golden import catalog
from opennpe.golden.errors import DataError, PolicyError, ToolError
from opennpe.quant.calibration import batches
from opennpe.quant.decisions import Decisions, decisions, pin
from opennpe.quant.pareto import Front
from opennpe.quant.sensitivity import MEASURES, choose_measure

__all__ = ["Assigned", "Budgets", "Settings", "assign", "assign_graph", "read_pins"]

SAMPLES = 128
"""Calibration samples that are looked at."""


@dataclass(frozen=True)
class Budgets:
    """The most that a mix may have, of one sample; None is no budget.

    Attributes:
        weight_bytes: codes and scales of weights. size_percent: the same as a share of the
            weights in float32. energy_uj: chip and external memory. cycles: of the co-processor.
        loss: the measured error of the outputs; then ``minimise`` says what is made small.
    """

    weight_bytes: float | None = None
    size_percent: float | None = None
    energy_uj: float | None = None
    cycles: float | None = None
    loss: float | None = None
    minimise: str = "energy_pj"

    def of(self, decided: Decisions) -> dict[str, float]:
        """By axis.

        Raises:
            DataError: none at all, or one that is not positive.
        """
        size = self.weight_bytes
        if self.size_percent is not None:
            share = decided.float_bytes * self.size_percent / 100
            size = share if size is None else min(size, share)
        energy = None if self.energy_uj is None else self.energy_uj * 1e6
        named = dict(zip((*AXES, "error"), (size, energy, self.cycles, self.loss), strict=True))
        found = {name: float(limit) for name, limit in named.items() if limit is not None}
        for name, limit in found.items():
            if not limit > 0:
                raise DataError(f"a budget of {name} must be positive, got {limit:g}")
        if not found:
            raise DataError(
                "assign needs a budget: give --budget-bytes, --budget-size-percent, "
                "--budget-energy, --budget-cycles or --budget-loss"
            )
        if self.minimise not in AXES:
            raise DataError(f"cannot minimise '{self.minimise}': expected {', '.join(AXES)}")
        return found


@dataclass(frozen=True)
class Settings:
    """How a mix is looked for.

    Attributes:
        formats: to assign. output: of the network's outputs, the widest of them unless given.
        first, last: formats of the first and last product; pins: of layers by name.
        method: "exact", "greedy" or "evolve". measure: "kl", "mse" or "auto".
        by: whose figures add up: the "output" error of each rounding, or "fisher".
        calibrate: how scales are chosen. evaluations: mixes that "evolve" measures.
        points: of the front that are measured. seed: of all draws.
        fisher: whether Fisher information is found; None where PyTorch is there.
    """

    formats: tuple[str, ...] = ("fp4", "posit4", "posit8", "posit16")
    output: str | None = None
    first: str | None = None
    last: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    method: str = "exact"
    measure: str = "auto"
    by: str = "output"
    calibrate: str = "mse"
    evaluations: int = 120
    points: int = 10
    seed: int = 0
    spec: str = "EDGE_4X4"
    fisher: bool | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("method", METHODS),
            ("measure", ("auto", *MEASURES)),
            ("by", ("output", "fisher")),
        ):
            if getattr(self, name) not in known:
                raise DataError(
                    f"unknown {name} '{getattr(self, name)}': expected {', '.join(known)}"
                )


@dataclass(frozen=True, eq=False)
class Assigned:
    """What was found, beside what it is compared with.

    Attributes:
        budgets: by axis. found: the mix. rule: the paper's rule within the same budgets, None
            where no share fits.
        uniform, rules, measured: one format each; the rule at every share; points of the front.
        front: as foretold, along ``front.axis``.
        runs: all of them on the data, where there are any.
    """

    model: str
    settings: Settings
    budgets: Mapping[str, float]
    bench: Bench
    found: Found
    rule: Mix | None
    uniform: tuple[Mix, ...]
    rules: tuple[Mix, ...]
    measured: tuple[Mix, ...]
    front: Front
    runs: Result | None = None

    @property
    def compared(self) -> tuple[Mix, ...]:
        """The rows of the table."""
        return (*self.uniform, *((self.rule,) if self.rule else ()), self.found.mix)

    def keeps(self, mix: Mix) -> bool:
        """Whether a mix is within all budgets, as measured."""
        return not mix.refusal and all(
            mix.cost(name) <= limit * (1 + 1e-9) for name, limit in self.budgets.items()
        )


def assign(
    model: str | Path,
    calibration: str | Path,
    budgets: Budgets,
    settings: Settings | None = None,
    *,
    data: str | Path | None = None,
    samples: int = SAMPLES,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Assigned:
    """Find a mix for an ONNX model.

    Args:
        model: path of the model. calibration: npz file of inputs; no labels are needed.
        data: npz file of inputs and labels, on which the mixes are compared in the end.
        samples: of the calibration file to look at.
        out: folder for results; it appears whole or not at all.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
    """
    graph = quant.load_onnx(model)
    shapes = graphs.input_shapes(graph)
    given = datasets.fit(datasets.load_npz(calibration), shapes, Path(calibration).name)
    shown = None
    if data is not None:
        shown = datasets.fit(datasets.load_npz(data), shapes, Path(data).name)
    found = assign_graph(
        graph,
        given.first(samples),
        budgets,
        settings,
        data=shown,
        name=Path(model).name,
        progress=progress,
    )
    if out is not None:
        with output_folder(out) as folder:
            assign_files.write(found, folder)
    return found


def assign_graph(
    graph: Any,
    calibration: Data,
    budgets: Budgets,
    settings: Settings | None = None,
    *,
    data: Data | None = None,
    name: str = "model",
    score: Score | None = None,
    progress: Progress | None = None,
) -> Assigned:
    """The same for a float graph.

    Args:
        score: an error of a calibrated network to make small in place of the outputs' distance;
            "evolve" and a budget of the error go by it.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
    """
    chosen, progress = settings or Settings(), progress or Silent()
    fisher = find_spec("torch") is not None if chosen.fisher is None else chosen.fisher
    if chosen.by == "fisher" and not fisher:
        raise ToolError("Fisher information needs PyTorch: pip install 'opennpe[qat]'")
    pins = {**pin(graph, chosen.first, chosen.last), **chosen.pins}
    decided = decisions(graph, chosen.formats, chosen.output, pins)
    if not decided.products:
        raise PolicyError(f"{name} has no layer with weights: there is nothing to assign")
    limits = budgets.of(decided)
    measure = choose_measure(graph) if chosen.measure == "auto" else chosen.measure
    runs = list(batches(graph, calibration.inputs))
    bench = Bench(
        decided,
        runs,
        catalog.get(chosen.spec),
        measure,
        chosen.calibrate,
        progress,
        chosen.seed,
        "fisher" if chosen.by == "fisher" else measure,
        score,
    )
    bench.look(fisher)
    axis = next((a for a in ("energy_pj", "cycles", "weight_bytes") if a in limits), None)
    uniform = tuple(uniform_mix(bench, fmt) for fmt in decided.formats)
    rules = tuple(rule_mixes(bench, *_narrow_and_wide(decided))) if len(decided.formats) > 1 else ()
    front, measured = fronts(bench, axis or budgets.minimise, chosen.points)
    progress.stage("searching", 1)
    found = search(bench, chosen.method, limits, budgets.minimise, chosen.evaluations)
    rule = rule_within(rules, limits, budgets.minimise)
    result = Assigned(
        name, chosen, limits, bench, found, rule, uniform, rules, tuple(measured), front
    )
    if data is not None:
        result = Assigned(**{**vars(result), "runs": _runs(result, graph, calibration, data)})
    return result


def read_pins(texts: Sequence[str]) -> dict[str, str]:
    """``LAYER=FORMAT`` by layer.

    Raises:
        PolicyError: a text without an equals sign, or a layer pinned twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, fmt = text.rpartition("=")
        if not (sign and name and fmt):
            raise PolicyError(f"--pin {text}: expected LAYER=FORMAT, such as fc=posit16")
        if name in found:
            raise PolicyError(f"layer '{name}' is pinned twice")
        found[name] = fmt
    return found


def _narrow_and_wide(decided: Decisions) -> tuple[str, str]:
    """The paper's fp4 and posit8 where both are assigned, else the narrowest and the widest."""
    names = decided.formats
    pair = ("fp4", "posit8")
    return pair if all(name in names for name in pair) else (names[0], names[-1])


def _runs(result: Assigned, graph: Any, calibration: Data, data: Data) -> Result:
    """Every compared mix on data of its own."""
    bench, settings = result.bench, result.settings
    jobs: Sequence[Job] = [
        Job(mix.name, bench.decided.policy(mix.chosen, mix.name)) for mix in result.compared
    ]
    study = Study(
        graph, data, calibration, bench.spec, settings.calibrate, None, 0, settings.seed,
        bench.progress,
    )  # fmt: skip
    return study.run(result.model, list(jobs), "auto")
