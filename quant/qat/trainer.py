"""Training by a recipe: the same bits whether it runs through or is killed and resumed.

What is drawn by chance (order of samples, augmentation, stochastic rounding) comes from seeds of
the recipe's seed, the stage and the epoch, so an epoch starts alike whatever came before; inside
an epoch a checkpoint holds how many batches are done and the state of torch's generator. Learning
rates and sparsities are functions of the step. With the recipe's count of threads torch sums in
one order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opennpe.golden import storage
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network
from opennpe.quant.qat import checkpoint, convert, distill, pruning, schedule, stages
from opennpe.quant.qat.errors import CheckpointError, TrainingError
from opennpe.quant.qat.recipe import START, Recipe, Stage
from opennpe.quant.qat.report import Report, Silent, Simulate, Watcher
from opennpe.quant.qat.run_folder import Folder, Position
from opennpe.quant.workloads.base import Batch, Workload
from torch import nn

__all__ = ["train"]


def train(
    recipe: Recipe,
    folder: str | Path,
    workload: Workload | None = None,
    *,
    resume: bool | None = None,
    watcher: Watcher | None = None,
    simulate: Simulate | None = None,
    simulated_samples: int = 0,
) -> Report:
    """Run a recipe, or go on with it where it stands.

    Args:
        recipe: what to do.
        folder: where its files go (:mod:`opennpe.quant.qat.run_folder`).
        workload: the recipe's, from the registry, unless given.
        resume: True goes on with a run that is there, False begins anew in its place, None goes
            on if there is one.
        watcher: hears of progress.
        simulate: also measures each rounded stage's converted network.
        simulated_samples: samples of the test split for that; 0: all.

    Raises:
        RecipeError: it does not fit the network, or the folder's run follows another.
        PolicyError: a policy names a layer that does not exist.
        CheckpointError: a file of the run is damaged; nothing is overwritten.
        TrainingError: a loss or a weight is no number; the checkpoint before it stays.
        DataError: no training data.
    """
    if workload is None:
        from opennpe.quant.workloads import registry

        workload = registry.get(recipe.workload, **recipe.options)
    place = Folder(folder, recipe)
    with place.locked(), _torch(recipe.threads):
        run = _Run(recipe, workload, place, watcher or Silent(), simulate, simulated_samples)
        run.open(resume)
        while run.position.stage < len(recipe.stages):
            run.stage()
    return Report(recipe, place.path, tuple(run.position.results), workload.score, workload.higher)


@contextmanager
def _torch(threads: int) -> Iterator[None]:
    """So many threads and a generator of our own; both are put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """A run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        workload: Workload,
        folder: Folder,
        watcher: Watcher,
        simulate: Simulate | None,
        simulated_samples: int,
    ) -> None:
        self.recipe, self.workload, self.folder, self.watcher = recipe, workload, folder, watcher
        self.simulate, self.simulated_samples = simulate, simulated_samples
        self.position = Position()

    # -- beginning -----------------------------------------------------------------------------
    def open(self, resume: bool | None) -> None:
        """Find where the run stands, or begin one; nothing is written before all is checked."""
        found = None if resume is False else self.folder.resumed()
        if found is not None:
            self.position = found
            self.folder.publish(found)
            return
        if resume:
            raise CheckpointError(f"'{self.folder.path}' holds no run to resume")
        start = self.recipe.start
        weights = checkpoint.load_weights(start) if start is not None else None
        model = stages.float_network(self.workload, self.recipe.seed, weights, str(start))
        self.position.pass_steps = self._count()
        stages.check(self.recipe, self.workload, model)
        self.folder.clear()
        self.folder.begin({key: value.detach() for key, value in model.state_dict().items()})
        self.folder.save(self.position)

    def _count(self) -> int:
        """Batches of one pass over the training data."""
        rng = torch.Generator().manual_seed(self.recipe.seed)
        count = sum(1 for _ in self.workload.batches("train", self.recipe.batch, rng))
        if not count:
            raise DataError(
                f"workload '{self.workload.name}' has no training data: nothing to learn from"
            )
        return count

    def _source(self, index: int) -> str:
        """The float stage that a stage's float network comes from; none: the run's start."""
        names = [s.name for s in self.recipe.stages[:index] if s.kind == "float"]
        return names[-1] if names else ""

    def _build(self, index: int) -> stages.Live:
        last = self.recipe.stages[index - 1] if index else None
        before = self.folder.load_stage(last.name) if last and last.kind != "float" else None
        source = self.folder.load_stage(self._source(index))
        return stages.live(self.recipe, index, self.workload, source, before)

    def _teacher(self, stage: Stage) -> nn.Module | None:
        if stage.distill is None:
            return None
        name = stage.distill.teacher or self._source(self.position.stage)
        state = self.folder.load_stage("" if name == START else name)
        model = stages.float_network(self.workload, self.recipe.seed, state["model"], name)
        return model.eval().requires_grad_(False)

    # -- a stage -------------------------------------------------------------------------------
    def stage(self) -> None:
        """Train the present stage to its end, and go to the next."""
        position, index = self.position, self.position.stage
        spec = self.recipe.stages[index]
        live = self._build(index)
        total = spec.steps or spec.epochs * position.pass_steps
        names = pruning.chosen(live.masks.products, spec.prune) if spec.prune else ()
        if position.network is None:
            if live.quantised is not None:
                self._measure_before(live, index)
            optimiser = stages.optimiser(live)
            self._save(live, optimiser)
        else:
            live.restore(position.network, str(self.folder.file("checkpoint.pt")))
            optimiser = stages.optimiser(live)
            optimiser.load_state_dict(position.optimiser or optimiser.state_dict())
        loop = _Loop(live, optimiser, self._teacher(spec), names, total)
        self.watcher.stage(spec.name, total)
        self.watcher.advance(position.step)
        while position.step < total:
            self._epoch(loop)
        self._finish(live)

    def _epoch(self, loop: _Loop) -> None:
        position, live = self.position, loop.live
        seeds = np.random.SeedSequence([self.recipe.seed, position.stage, position.epoch])
        of_data, of_torch = (int(seed) for seed in seeds.generate_state(2))
        torch.manual_seed(of_torch)
        rng = torch.Generator().manual_seed(of_data)
        batches = iter(self.workload.batches("train", self.recipe.batch, rng))
        for _ in range(position.batch):
            next(batches, None)
        if position.rng is not None:
            torch.set_rng_state(position.rng)
        live.module.train()
        begun = saved = time.perf_counter()
        for batch in batches:
            self._step(loop, batch)
            now = time.perf_counter()
            if position.step == loop.total:
                break
            if now - saved > self.recipe.checkpoint_s:
                position.seconds += now - begun
                position.rng = torch.get_rng_state()
                self._save(live, loop.optimiser)
                begun = saved = time.perf_counter()
        position.seconds += time.perf_counter() - begun
        if not position.batch:
            raise DataError(f"workload '{self.workload.name}' gave no batch in this epoch")
        self._end_epoch(loop)

    def _step(self, loop: _Loop, batch: Batch) -> None:
        position, live, spec = self.position, loop.live, loop.live.stage
        if spec.prune and pruning.is_due(position.step, loop.total, spec.prune):
            sparsity = pruning.sparsity_at(position.step, loop.total, spec.prune)
            pruning.update(live.masks, loop.names, sparsity, spec.prune.pattern)
        lr = loop.rate(position.step)
        for group in loop.optimiser.param_groups:
            group["lr"] = lr
        loop.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(loop, batch)
        value = float(loss.detach())
        if not np.isfinite(value):
            self._refuse(f"the loss is {value}")
        loss.backward()
        if spec.clip:
            nn.utils.clip_grad_norm_(live.module.parameters(), spec.clip)
        loop.optimiser.step()
        live.masks.hold()
        position.step, position.batch = position.step + 1, position.batch + 1
        position.loss_sum += value
        self.watcher.advance()

    def _loss(self, loop: _Loop, batch: Batch) -> torch.Tensor:
        output = _first(loop.live.module(*batch.inputs))
        loss = self.workload.loss(output, batch)
        plan = loop.live.stage.distill
        if plan is None or loop.teacher is None:
            return loss
        with torch.no_grad():
            wanted = _first(loop.teacher(*batch.inputs))
        return distill.blend(loss, output, wanted, batch.targets, plan)

    def _refuse(self, what: str) -> None:
        position, spec = self.position, self.recipe.stages[self.position.stage]
        raise TrainingError(
            f"stage '{spec.name}', epoch {position.epoch + 1}, step {position.step + 1}: {what}; "
            f"the checkpoint before it stays in '{self.folder.path}'. Give a lower lr than "
            f"{spec.lr:g} or a clip, and begin anew"
        )

    def _end_epoch(self, loop: _Loop) -> None:
        position, live = self.position, loop.live
        found = stages.measure(
            live.module, self.workload, "validation", self.recipe.validation_samples
        )
        row = {
            "stage": live.stage.name,
            "epoch": position.epoch + 1,
            "step": position.step,
            "seconds": round(position.seconds, 3),
            "lr": loop.rate(position.step - 1),
            "train_loss": position.loss_sum / position.batch,
            "sparsity_share": live.masks.sparsity(),
            **{f"validation_{name}": value for name, value in found.items()},
        }
        position.rows.append(row)
        position.end_epoch()
        self._save(live, loop.optimiser)
        self.watcher.epoch(row)

    def _save(self, live: stages.Live, optimiser: torch.optim.Optimizer) -> None:
        """A checkpoint, unless a weight is no number."""
        state = live.state()
        for key, value in state["model"].items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                self._refuse(f"'{key}' holds a value that is no number")
        self.position.network, self.position.optimiser = state, optimiser.state_dict()
        self.folder.save(self.position)

    # -- results -------------------------------------------------------------------------------
    def _measure_before(self, live: stages.Live, index: int) -> None:
        """The float network and the rounded one, before the stage's first step."""
        module = live.quantised
        assert module is not None
        if not self.position.float_metrics:
            state = self.folder.load_stage(self._source(index))
            model = stages.float_network(self.workload, self.recipe.seed, state["model"])
            self.position.float_metrics = stages.measure(model, self.workload, "test")
        module.set_rounding(True, True)
        self.position.before = stages.measure(module, self.workload, "test")
        module.set_rounding(True, live.stage.kind == "full")

    def _finish(self, live: stages.Live) -> None:
        """Measure on the test split, write the stage's files, and go on to the next."""
        position, spec, module = self.position, live.stage, live.quantised
        steps = {"stage": spec.name, "kind": spec.kind, "steps": position.step}
        rows = [row["seconds"] for row in position.rows if row["stage"] == spec.name]
        result: dict[str, Any] = {**steps, "seconds": round(sum(rows), 3)}
        result["sparsity_share"] = live.masks.sparsity()
        files = {}
        if module is None:
            position.float_metrics = stages.measure(live.module, self.workload, "test")
            result["float"] = position.float_metrics
        else:
            if spec.kind == "weights":
                self._give_scales(live)
            module.eval()
            module.set_rounding(True, True)
            result["float"] = position.float_metrics
            result["before"] = position.before
            result["after"] = stages.measure(module, self.workload, "test")
            network = convert(module)
            if self.simulate is not None:
                result["simulated"] = self._simulated(network)
            file = self.folder.file("network.npz", spec.name)
            file.parent.mkdir(exist_ok=True)
            storage.save(network, file)
            files["network"] = f"{spec.name}/network.npz"
        self.folder.save_stage(spec.name, spec.kind, live.state())
        result["files"] = {"stage": f"{spec.name}/stage.pt", **files}
        position.results.append(result)
        position.end_stage()
        self.folder.save(position)

    def _give_scales(self, live: stages.Live) -> None:
        """Tensors have not been rounded in this stage: their scales fit the weights of its end."""
        module = live.quantised
        assert module is not None
        if live.stage.scales == "calibrated":
            stages.recalibrate(module, self.workload)

    def _simulated(self, network: Network) -> dict[str, Any]:
        assert self.simulate is not None
        count = self.simulated_samples
        found = self.workload.metrics(self.simulate(network), "test", count)
        return {"samples": count or "all", **{name: float(v) for name, v in found.items()}}


@dataclass(frozen=True)
class _Loop:
    """What the steps of a stage share."""

    live: stages.Live
    optimiser: torch.optim.Optimizer
    teacher: nn.Module | None
    names: tuple[str, ...]
    total: int

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        spec = self.live.stage
        return schedule.rate(spec.schedule, spec.lr, step, self.total, spec.warmup)


def _first(output: Any) -> torch.Tensor:
    """A network's first output."""
    found: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return found
