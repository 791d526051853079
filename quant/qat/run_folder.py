"""The folder of a training run: where it stands, its metrics and its results.

========================  =====================================================================
``checkpoint.pt``         where the run stands, and the recipe it follows
``start.pt``              the float network that it began with
``metrics.csv``           a row an epoch
``results.json``          a record a finished stage
``<stage>/stage.pt``      the network at the end of a stage
``<stage>/network.npz``   the same as a network file, where it is rounded
========================  =====================================================================

Every file is there whole or not at all, and all follow from the checkpoint, so that a kill between
two of them costs nothing.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from opennpe.golden.whole import replacing
from opennpe.quant.qat import checkpoint
from opennpe.quant.qat.errors import CheckpointError, RecipeError
from opennpe.quant.qat.recipe import Recipe, differences

__all__ = ["Folder", "Position"]

RUN, STAGE = "opennpe.training/1", "opennpe.training-stage/1"
COLUMNS = ("stage", "epoch", "step", "seconds", "lr", "train_loss", "sparsity_share")


@dataclass
class Position:
    """Where a run stands; tensors and plain values only.

    Attributes:
        stage: the index of the present stage.
        epoch, batch: epochs of it that are done, batches of the next that are done.
        step: steps of the stage that are done.
        loss_sum: of the present epoch's steps.
        seconds: of training in the present epoch.
        pass_steps: batches of one pass over the data.
        rows, results: of ``metrics.csv`` and ``results.json``.
        float_metrics: of the float network, on the test split.
        before: metrics of the present stage before its first step.
        network: its tensors and masks, or nothing before its first step.
        optimiser: its state.
        rng: the state of torch's generator inside an epoch.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    pass_steps: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    float_metrics: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    network: dict[str, Any] | None = None
    optimiser: dict[str, Any] | None = None
    rng: torch.Tensor | None = None

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch, self.batch, self.rng = self.epoch + 1, 0, None
        self.loss_sum, self.seconds = 0.0, 0.0

    def end_stage(self) -> None:
        """Go to the next stage."""
        self.end_epoch()
        self.stage, self.epoch, self.step = self.stage + 1, 0, 0
        self.before, self.network, self.optimiser = {}, None, None


class Folder:
    """A run's files.

    Args:
        path: the folder; made where it does not exist.
        recipe: what the run follows.
    """

    def __init__(self, path: str | Path, recipe: Recipe) -> None:
        self.path, self.recipe = Path(path), recipe
        self.record = json.loads(json.dumps(recipe.summary()))
        self._start_digest = ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; a kill opens the lock.

        Raises:
            CheckpointError: another run is at work, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / ".lock").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
        except BlockingIOError as error:
            raise CheckpointError(f"another run trains into '{self.path}'") from error
        except OSError as error:
            raise CheckpointError(
                f"cannot write to '{self.path}': {error.strerror or error}"
            ) from error

    def file(self, name: str, stage: str = "") -> Path:
        """A file of the run, or of one of its stages."""
        return self.path / stage / name if stage else self.path / name

    def resumed(self) -> Position | None:
        """Where the run in the folder stands; None where there is none.

        Raises:
            CheckpointError: damaged, or files of a run without its checkpoint.
            RecipeError: it follows another recipe.
        """
        file = self.file("checkpoint.pt")
        if not file.exists():
            for name in ("metrics.csv", "results.json"):
                if self.file(name).exists():
                    raise CheckpointError(
                        f"'{self.path}' holds {name} but no checkpoint.pt: restore it, or begin "
                        f"anew"
                    )
            return None
        state = checkpoint.load(file, RUN)
        try:
            record, self._start_digest = json.loads(state["recipe"]), str(state["start_digest"])
            position = Position(**{item.name: state[item.name] for item in fields(Position)})
            changed = differences(record, self.record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"'{file}' lacks parts of a checkpoint: begin anew") from error
        start = self.recipe.start
        if start is not None and start.exists() and checkpoint.digest(start) != self._start_digest:
            changed.append(f"start, '{start}', holds other weights")
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise RecipeError(
                f"'{self.path}' was trained by another recipe: {'; '.join(changed[:3])}{more}; "
                f"begin anew or choose another folder"
            )
        return position

    def clear(self) -> None:
        """Remove a run's files, its checkpoint first; what else lies there stays."""
        names = ("checkpoint.pt", "start.pt", "metrics.csv", "results.json")
        for name in names:
            self.file(name).unlink(missing_ok=True)
        for file in self.path.glob("*/stage.pt"):
            file.unlink()
            (file.parent / "network.npz").unlink(missing_ok=True)
            if not any(file.parent.iterdir()):
                file.parent.rmdir()

    def begin(self, model: dict[str, torch.Tensor]) -> None:
        """Keep the float network that the run begins with."""
        self.save_stage("", "float", {"model": model, "masks": {}})
        start = self.recipe.start
        self._start_digest = checkpoint.digest(start) if start is not None else ""

    def save(self, position: Position) -> None:
        """Write the checkpoint, then the files that follow from it."""
        held = {item.name: getattr(position, item.name) for item in fields(Position)}
        state = {"recipe": json.dumps(self.record), "start_digest": self._start_digest, **held}
        checkpoint.save(state, self.file("checkpoint.pt"), RUN)
        self.publish(position)

    def publish(self, position: Position) -> None:
        """Write the metrics and results of a position, where there are some."""
        if position.rows:
            names = list(dict.fromkeys([*COLUMNS, *(k for row in position.rows for k in row)]))
            text = io.StringIO()
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(position.rows)
            _write(self.file("metrics.csv"), text.getvalue())
        if position.results:
            text_json = json.dumps(finite(position.results), indent=2, allow_nan=False)
            _write(self.file("results.json"), text_json + "\n")

    def save_stage(self, name: str, kind: str, state: dict[str, Any]) -> Path:
        """Write a stage's network, or with no name the one that the run begins with."""
        if name:
            self.file("", name).mkdir(exist_ok=True)
        file = self.file("stage.pt", name) if name else self.file("start.pt")
        checkpoint.save({"stage": name, "kind": kind, **state}, file, STAGE)
        return file

    def load_stage(self, name: str) -> dict[str, Any]:
        """A finished stage's network, or with no name the one that the run began with.

        Raises:
            CheckpointError: missing or damaged.
        """
        file = self.file("stage.pt", name) if name else self.file("start.pt")
        state = checkpoint.load(file, STAGE)
        if not isinstance(state.get("model"), dict) or not isinstance(state.get("masks"), dict):
            raise CheckpointError(f"'{file}' lacks parts of a stage: begin anew")
        return state


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite(held) for key, held in value.items()}
    if isinstance(value, list):
        return [finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
