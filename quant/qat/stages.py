"""The network of a stage: a float module, or one rounded as the hardware rounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.quant.qat import Options, QuantModule, prepare, pruning
from opennpe.quant.qat.errors import CheckpointError, RecipeError
from opennpe.quant.qat.prepare import by_name
from opennpe.quant.qat.recipe import Recipe, Stage
from opennpe.quant.qat.run_folder import Folder
from opennpe.quant.workloads.base import Predict, Workload
from torch import nn

__all__ = [
    "Live",
    "check",
    "float_network",
    "live",
    "load",
    "measure",
    "optimiser",
    "predictor",
    "recalibrate",
    "restored",
    "restored_float",
]

State = Mapping[str, Any]


@dataclass(frozen=True)
class Live:
    """A network in training, and its masks."""

    stage: Stage
    module: nn.Module
    masks: pruning.Masks

    @property
    def quantised(self) -> QuantModule | None:
        """The module where it rounds, or None."""
        return None if self.stage.kind == "float" else cast(QuantModule, self.module)

    def state(self) -> dict[str, Any]:
        """Tensors of the network and its masks, detached copies."""
        model = {key: value.detach().clone() for key, value in self.module.state_dict().items()}
        return {"model": model, "masks": dict(self.masks.held)}

    def restore(self, state: State, source: str) -> None:
        """Take what :meth:`state` gave.

        Raises:
            CheckpointError: it is another network's; ``source`` names its file.
        """
        for name, mask in state["masks"].items():
            self.masks.set(name, mask)
        load(self.module, state["model"], source)


def load(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Tensors into a module, all of them.

    Raises:
        CheckpointError: names or shapes differ; ``source`` names the file.
    """
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in own or key not in state:
            where = "network" if key not in own else "file"
            raise CheckpointError(f"'{source}' is another network's: the {where} lacks '{key}'")
        if own[key].shape != state[key].shape:
            raise CheckpointError(
                f"'{source}' is another network's: '{key}' has shape {tuple(state[key].shape)}, "
                f"expected {tuple(own[key].shape)}"
            )
    module.load_state_dict(state)


def float_network(
    workload: Workload, seed: int, state: Mapping[str, torch.Tensor] | None = None, source: str = ""
) -> nn.Module:
    """A workload's float network, drawn from a seed or with weights of a file.

    Raises:
        CheckpointError: the file is another network's.
    """
    model = workload.model(seed)
    if state is not None:
        load(model, state, source)
    return model


def live(
    recipe: Recipe, index: int, workload: Workload, source: State, before: State | None = None
) -> Live:
    """The network with which a stage begins.

    Args:
        recipe, index: the stage.
        workload: gives the network and the inputs that scales are chosen from.
        source: of the float network that it is or is made from: "model" and "masks".
        before: of the rounded stage before it, if there is one.

    Raises:
        PolicyError: the stage's policy names a layer that does not exist.
    """
    stage = recipe.stages[index]
    model = float_network(workload, recipe.seed, source["model"], "the stage before")
    if stage.kind == "float":
        found = Live(stage, model, pruning.Masks(pruning.of_module(model)))
        masks = source["masks"]
    else:
        module = quantised(stage, model, workload)
        products = pruning.of_layers(module.layers, module.weights)
        found = Live(stage, module, pruning.Masks(products, module.set_mask))
        masks = (before or source)["masks"]
    for name, mask in masks.items():
        found.masks.set(name, mask)
    if before is not None:
        _continue(found, recipe.stages[index - 1], before["model"], workload)
    return found


def quantised(stage: Stage, model: nn.Module, workload: Workload) -> QuantModule:
    """A float network, rounded as a stage says."""
    assert stage.policy is not None
    options = Options(
        activations=stage.activations,
        weights=stage.scales,
        gradient=stage.gradient,
        stochastic=stage.stochastic,
    )
    samples = workload.calibration()
    module = prepare(
        copy.deepcopy(model).eval(), workload.example(), stage.policy, samples, options
    )
    module.set_rounding(True, stage.kind == "full")
    return module


def restored(folder: Folder, name: str, workload: Workload) -> QuantModule:
    """A rounded stage's network as it ended, of a run's folder.

    Raises:
        RecipeError: no such stage, or one that rounds nothing.
        CheckpointError: its file is missing, damaged or another network's.
    """
    stage = next((one for one in folder.recipe.stages if one.name == name), None)
    if stage is None or stage.kind == "float":
        known = [one.name for one in folder.recipe.stages if one.kind != "float"]
        raise RecipeError(f"'{name}' is no rounded stage: expected one of {', '.join(known)}")
    state = folder.load_stage(name)
    module = quantised(stage, float_network(workload, folder.recipe.seed), workload)
    load(module, state["model"], f"{folder.path}, stage {name}")
    return module


def restored_float(folder: Folder, name: str, workload: Workload) -> nn.Module:
    """A float stage's network as it ended, in evaluation mode.

    Raises:
        CheckpointError: its file is missing, damaged or another network's.
    """
    state = folder.load_stage(name)["model"]
    return float_network(workload, folder.recipe.seed, state, f"{folder.path}, stage {name}").eval()


def _continue(found: Live, last: Stage, state: State, workload: Workload) -> None:
    """Go on with the weights of the stage before; with its scales too where nothing differs."""
    module, stage = found.quantised, found.stage
    assert module is not None
    same = ("policy_text", "activations", "scales")
    if all(getattr(last, key) == getattr(stage, key) for key in same):
        load(module, state, "the stage before")
        return
    with torch.no_grad():
        for key, parameter in module.own.items():
            parameter.copy_(state[f"own.{key}"])
    recalibrate(module, workload)


def recalibrate(module: QuantModule, workload: Workload) -> None:
    """Choose all scales anew for the present weights."""
    module.calibrate(by_name(module.graph, workload.calibration()))


def check(recipe: Recipe, workload: Workload, model: nn.Module) -> None:
    """Build what the stages name before anything is trained.

    Raises:
        PolicyError, RecipeError: a policy or a pruning plan names a layer that does not exist.
    """
    products: dict[str, dict[str, pruning.Product]] = {}
    for stage in recipe.stages:
        key = stage.policy_text
        if key not in products:
            if stage.kind == "float":
                products[key] = pruning.of_module(model)
            else:
                module = quantised(stage, model, workload)
                products[key] = pruning.of_layers(module.layers, module.weights)
        if stage.prune:
            pruning.chosen(products[key], stage.prune)


def optimiser(found: Live) -> torch.optim.Optimizer:
    """A stage's optimiser; weight decay is for matrices and kernels only."""
    stage = found.stage
    groups: dict[float, list[nn.Parameter]] = {stage.weight_decay: [], 0.0: []}
    for parameter in found.module.parameters():
        if parameter.requires_grad:
            groups[stage.weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    held = [{"params": some, "weight_decay": decay} for decay, some in groups.items() if some]
    if stage.optimiser == "adamw":
        return torch.optim.AdamW(held, lr=stage.lr)
    return torch.optim.SGD(held, lr=stage.lr, momentum=stage.momentum, nesterov=stage.momentum > 0)


def predictor(module: nn.Module) -> Predict:
    """A network as metrics call it."""

    def predict(inputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
        with torch.no_grad():
            output = module(*(torch.from_numpy(array) for array in inputs))
        first = output[0] if isinstance(output, tuple) else output
        return cast(NDArray[np.float32], first.numpy())

    return predict


@contextmanager
def _aside(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and what is drawn from torch's generator is put back."""
    training = module.training
    with torch.random.fork_rng(devices=[]):
        module.eval()
        try:
            yield
        finally:
            module.train(training)


def measure(module: nn.Module, workload: Workload, split: str, limit: int = 0) -> dict[str, float]:
    """A workload's metrics of a network, which stays as it is."""
    with _aside(module):
        found = workload.metrics(predictor(module), split, limit)  # type: ignore[arg-type]
    return {name: float(value) for name, value in found.items()}
