"""Training recipes: which stages a network goes through, and how each of them trains.

A recipe is TOML::

    version = 1
    workload = "fashion"           # a name of opennpe.quant.workloads.registry
    options = { width = 2.0 }      # optional: of the workload
    seed = 0                       # of weights, order of samples and stochastic rounding
    threads = 1                    # of torch; other counts sum in another order
    batch = 128                    # samples a step
    start = "fp32.pt"              # optional: weights of the float network
    validation_samples = 1000      # a row of metrics looks at so many; 0: all
    checkpoint_s = 60              # seconds between checkpoints inside an epoch

    [[stage]]                      # in order; "float" ones first
    name = "fp4"
    kind = "full"                  # or "float" (with BatchNorm), "weights" (only they rounded)
    epochs = 3                     # or steps = 1500
    lr = 0.01
    optimiser = "sgd"              # with Nesterov momentum, or "adamw"
    momentum = 0.9                 # of sgd
    schedule = "cosine"            # or "constant", "onecycle"
    warmup = 0.05                  # share of the stage over which the rate rises
    weight_decay = 1e-4            # on matrices and kernels; never on biases and scales
    clip = 1.0                     # largest norm of all gradients together; 0: any
    format = "fp4"                 # or policy = "mixed.toml", beside the recipe
    gradient = "clipped"           # or "straight"
    activations = "ema"            # where scales come from: "calibrated", "ema" or "learned"
    scales = "calibrated"          # of weights, or "learned"
    stochastic = false             # stochastic rounding while training

    [stage.distill]                # optional: learn from a float network too
    alpha = 0.5                    # share of the teacher in the loss
    temperature = 4.0
    loss = "kl"                    # or "mse"; by the targets unless given
    teacher = "float"              # an earlier float stage, or "start"; the latest unless given

    [stage.prune]                  # optional: gradual magnitude pruning
    pattern = "unstructured"       # or "4x1", or N:M such as "2:4"
    sparsity = 0.9                 # in the end; a pattern N:M has its own
    begin = 0.0                    # shares of the stage between which sparsity grows
    end = 0.6
    every = 50                     # steps from one choice of masks to the next
    layers = ["*"]                 # globs: just these, whatever their kind
    skip = ["head*"]               # globs: not these

Files it names are sought beside the recipe.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from opennpe.golden.errors import OpenNPEError, SparseError
from opennpe.quant import prune
from opennpe.quant.policy import Policy
from opennpe.quant.qat.errors import RecipeError
from opennpe.quant.qat.recipe_keys import DISTILL, PRUNE, ROUNDED, STAGE, TOP, near, read_table

__all__ = ["START", "Distill", "Prune", "Recipe", "Stage", "differences", "shipped"]

VERSION = 1
START = "start"
ONECYCLE_WARMUP = 0.3
MAX_FILE_BYTES = 1 << 20
FOLDER = Path(__file__).resolve().parents[1] / "recipes"

Kind = Literal["float", "weights", "full"]


@dataclass(frozen=True)
class Distill:
    """Learning from a teacher; see the module's description of the file."""

    alpha: float = 0.5
    temperature: float = 4.0
    loss: str = ""
    teacher: str = ""


@dataclass(frozen=True)
class Prune:
    """Gradual magnitude pruning; see the module's description of the file."""

    sparsity: float
    pattern: str = "unstructured"
    begin: float = 0.0
    end: float = 0.6
    every: int = 50
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage; see the module's description of the file. Of ``epochs`` and ``steps`` one is 0."""

    name: str
    kind: Kind
    lr: float
    epochs: int = 0
    steps: int = 0
    optimiser: str = "sgd"
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    gradient: Literal["clipped", "straight"] = "clipped"
    activations: Literal["calibrated", "ema", "learned"] = "calibrated"
    scales: Literal["calibrated", "learned"] = "calibrated"
    stochastic: bool = False
    policy: Policy | None = None
    policy_text: str = ""
    distill: Distill | None = None
    prune: Prune | None = None


@dataclass(frozen=True)
class Recipe:
    """A workload and the stages to train it in; see the module's description of the file."""

    workload: str
    stages: tuple[Stage, ...]
    seed: int = 0
    threads: int = 1
    batch: int = 128
    start: Path | None = None
    validation_samples: int = 0
    checkpoint_s: float = 60.0
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = field(default="recipe", compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file, or a shipped one by its name.

        Raises:
            RecipeError: unreadable, another version, unknown keys or values.
            PolicyError: a policy file that it names is invalid.
        """
        file = _find(Path(path))
        if file.stat().st_size > MAX_FILE_BYTES:
            raise RecipeError(f"'{file}' is larger than {MAX_FILE_BYTES >> 20} MiB: no recipe")
        try:
            return cls.parse(file.read_text(encoding="utf-8"), file.name, file.parent)
        except UnicodeDecodeError as error:
            raise RecipeError(f"'{file}' is no text file") from error

    @classmethod
    def parse(cls, text: str, source: str = "recipe", folder: str | Path = ".") -> Recipe:
        """A recipe from TOML text; ``source`` names it in messages, files lie in ``folder``."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{source} is no TOML: {error}") from error
        version = data.get("version")
        if version != VERSION:
            given = "no version" if version is None else f"version {version}"
            raise RecipeError(f"{source} has {given}: expected version = {VERSION}")
        values = read_table(source, "", data, TOP)
        tables = data.get("stage")
        if not isinstance(tables, list) or not tables:
            raise RecipeError(f"{source} has no stage: write [[stage]] (double brackets) for each")
        del values["version"], values["stage"]
        for key, value in values.get("options", {}).items():
            if not isinstance(value, str | int | float):
                raise RecipeError(f"{source}: options: {key} = {value!r}, expected one value")
        if "start" in values:
            values["start"] = Path(folder) / values["start"]
        stages = tuple(_stage(source, i, t, Path(folder)) for i, t in enumerate(tables, start=1))
        recipe = cls(stages=stages, source=source, **values)
        _check_order(recipe)
        return recipe

    def from_checkpoint(self, file: str | Path) -> Recipe:
        """This recipe from a trained float network on: its leading dense float stages left out.

        Raises:
            RecipeError: no stage is left.
        """
        lead = 0
        while lead < len(self.stages) and _is_dense_float(self.stages[lead]):
            lead += 1
        left = self.stages[lead:]
        if not left:
            raise RecipeError(f"{self.source} has only float stages: nothing follows '{file}'")
        gone = {stage.name for stage in self.stages[:lead]}
        stages = tuple(
            replace(stage, distill=replace(stage.distill, teacher=START))
            if stage.distill and stage.distill.teacher in gone
            else stage
            for stage in left
        )
        return replace(self, stages=stages, start=Path(file))

    def summary(self) -> dict[str, Any]:
        """JSON-ready: all that decides the bits of the result, policies by their text."""
        found = asdict(replace(self, stages=(), options=dict(self.options)))
        del found["source"], found["checkpoint_s"]
        found["start"] = self.start.name if self.start else None
        stages = []
        for stage in self.stages:
            held = asdict(replace(stage, policy=None))
            del held["policy"]
            stages.append(held)
        return {**found, "stages": stages}


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}


def _find(path: Path) -> Path:
    """A file as given, or a shipped recipe."""
    if path.is_file():
        return path
    known = shipped()
    if str(path) in known:
        return known[str(path)]
    raise RecipeError(
        f"no recipe '{path}': expected a TOML file or one of {', '.join(known) or 'none'}"
        f"{near(str(path), tuple(known))}"
    )


def _stage(source: str, index: int, table: Any, folder: Path) -> Stage:
    if not isinstance(table, dict):
        raise RecipeError(f"{source}: [[stage]] number {index} is no table")
    named = isinstance(table.get("name"), str) and table["name"]
    where = f"stage '{table['name']}'" if named else f"[[stage]] number {index}"
    values = read_table(source, where, table, STAGE)
    if values.get("schedule") == "onecycle":
        values.setdefault("warmup", ONECYCLE_WARMUP)
    place = f"{source}: {where}"
    name = values["name"]
    if name == START or name != Path(name).name or name.startswith("."):
        raise RecipeError(f"{place}: a stage's name is that of a folder, and not '{START}'")
    if ("epochs" in values) == ("steps" in values):
        raise RecipeError(f"{place} needs epochs or steps, one of them")
    formats = [values.pop(key) for key in ("format", "policy") if key in values]
    if values["kind"] == "float":
        wrong = next((key for key in ROUNDED if key in table), None)
        if wrong:
            raise RecipeError(f"{place} is float and rounds nothing: drop '{wrong}'")
    elif len(formats) != 1:
        raise RecipeError(f"{place} needs a format or a policy file, one of them")
    elif "format" in table:
        values.update(policy=_uniform(place, formats[0]), policy_text=f"format {formats[0]}")
    else:
        file = folder / formats[0]
        policy = Policy.load(file)
        values.update(policy=policy, policy_text=file.read_text(encoding="utf-8"))
    if "distill" in values:
        held = read_table(source, f"{where}, distill", values["distill"], DISTILL)
        values["distill"] = Distill(**held)
    if "prune" in values:
        values["prune"] = _prune(source, f"{where}, prune", values["prune"])
    return Stage(**values)


def _uniform(place: str, name: str) -> Policy:
    try:
        return Policy.uniform(name)
    except OpenNPEError as error:
        raise RecipeError(f"{place}: format: {error}") from error


def _prune(source: str, where: str, table: Mapping[str, Any]) -> Prune:
    values = read_table(source, where, table, PRUNE)
    place = f"{source}: {where}"
    try:
        pattern = prune.pattern(values.get("pattern", "unstructured"))
    except SparseError as error:
        raise RecipeError(f"{place}: {error}") from error
    if pattern.kind == "structured":
        own = 1 - pattern.n / pattern.m
        if not math.isclose(values.setdefault("sparsity", own), own, abs_tol=1e-6):
            raise RecipeError(
                f"{place}: sparsity = {values['sparsity']:g}, but {pattern} leaves {own:g} zero: "
                f"drop it"
            )
    elif "sparsity" not in values:
        raise RecipeError(f"{place} lacks 'sparsity', {PRUNE['sparsity'].expected()}")
    plan = Prune(**values)
    if plan.begin > plan.end:
        raise RecipeError(f"{place}: begin = {plan.begin:g} comes after end = {plan.end:g}")
    return plan


def _is_dense_float(stage: Stage) -> bool:
    return stage.kind == "float" and stage.prune is None


def _check_order(recipe: Recipe) -> None:
    """Names once each, float stages first, teachers before their pupils."""
    teachers = [START] if recipe.start else []
    seen: dict[str, Stage] = {}
    for stage in recipe.stages:
        place = f"{recipe.source}: stage '{stage.name}'"
        if stage.name in seen:
            raise RecipeError(f"{place} comes twice: results lie in folders of that name")
        if stage.kind == "float" and any(s.kind != "float" for s in seen.values()):
            raise RecipeError(f"{place} is float after a rounded one: put float stages first")
        if stage.distill and not teachers:
            raise RecipeError(f"{place} distils, but no float stage or start comes before it")
        if stage.distill and stage.distill.teacher not in ("", *teachers):
            raise RecipeError(
                f"{place}: teacher = '{stage.distill.teacher}', expected {', '.join(teachers)}"
            )
        seen[stage.name] = stage
        if stage.kind == "float":
            teachers.append(stage.name)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two recipes' summaries differ, with both values."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key} was {before.get(key, 'absent')!r}, now {after.get(key, 'absent')!r}"
        for key in dict.fromkeys([*after, *before])
        if before.get(key) != after.get(key)
    ]


def _flat(value: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, held in value.items():
        if key == "stages":
            names = [stage["name"] for stage in held]
            found["stages"] = ", ".join(names)
            for stage in held:
                found |= _flat(stage, f"stage '{stage['name']}': ")
        elif isinstance(held, Mapping):
            found |= _flat(held, f"{lead}{key}.")
        else:
            found[f"{lead}{key}"] = list(held) if isinstance(held, tuple) else held
    return found
