"""The networks of :mod:`opennpe.cli.networks` in PyTorch; the only module here that imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from opennpe.cli.networks import Op, Plan, Weights
from torch import nn
from torch.nn import functional as F

__all__ = ["PlanModule", "load", "ways"]


class PlanModule(nn.Module):  # type: ignore[misc]
    """A plan as a module; float32, NCHW.

    Subclasses see every tensor in :meth:`written`, and may change it.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.products = nn.ModuleDict(
            {_key(op): _product(op) for op in plan.ops if op.weight_shape}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes)."""
        tensors = {"x": x}
        for op in self.plan.ops:
            given = [tensors[name] for name in op.inputs]
            tensors[op.name] = self.written(op, self.run(op, given))
        return tensors[self.plan.ops[-1].name]

    def written(self, op: Op, value: torch.Tensor) -> torch.Tensor:
        """What later operations read instead of ``value``."""
        return value

    def run(self, op: Op, given: list[torch.Tensor]) -> torch.Tensor:
        """One operation."""
        x = given[0]
        if op.weight_shape:
            result: torch.Tensor = self.products[_key(op)](x)
            return result
        match op.kind:
            case "relu":
                return F.relu(x)
            case "relu6":
                return F.relu6(x)
            case "hard_swish":
                return F.hardswish(x)
            case "add":
                return x + given[1]
            case "max_pool":
                return F.max_pool2d(x, op.kernel, op.stride, op.padding)
            case "average":
                return x.mean((2, 3))
        raise ValueError(f"no PyTorch operation for '{op.kind}'")

    def weights(self) -> dict[str, Any]:
        """Arrays by the names of :func:`opennpe.cli.networks.random_weights`."""
        found = {}
        for op in self.plan.ops:
            if op.weight_shape:
                layer = self.products[_key(op)]
                found[f"{op.name}.weight"] = layer.weight.detach().numpy().copy()
                found[f"{op.name}.bias"] = layer.bias.detach().numpy().copy()
        return found


def load(plan: Plan, weights: Weights) -> PlanModule:
    """The plan with given weights, ready for inference."""
    module = PlanModule(plan)
    with torch.no_grad():
        for op in plan.ops:
            if op.weight_shape:
                layer = module.products[_key(op)]
                layer.weight.copy_(torch.from_numpy(weights[f"{op.name}.weight"]))
                layer.bias.copy_(torch.from_numpy(weights[f"{op.name}.bias"]))
    module.eval()
    return module


def _key(op: Op) -> str:
    return op.name.replace(".", "_")  # a module's name holds no dot


def _product(op: Op) -> nn.Module:
    if op.kind == "linear":
        return nn.Linear(*op.channels)
    return nn.Conv2d(
        *op.channels, op.kernel, stride=op.stride, padding=op.padding, groups=op.groups
    )


def ways(
    plan: Plan, weights: Weights, image: NDArray[Any], threads: int
) -> dict[str, Callable[[], NDArray[Any]]]:
    """The plan run on one image in each way that PyTorch offers for inference on a CPU."""
    torch.set_num_threads(threads)
    module = load(plan, weights).to(memory_format=torch.channels_last)
    x = torch.from_numpy(image).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(module, x))
        fused = torch.jit.optimize_for_inference(torch.jit.trace(module, x))

    def call(runner: Any) -> Callable[[], NDArray[Any]]:
        def run() -> NDArray[Any]:
            with torch.inference_mode():
                result: NDArray[Any] = runner(x).numpy()
            return result

        return run

    for runner in (frozen, fused):
        for _ in range(3):  # the first calls of a script still optimise
            call(runner)()
    return {"channels_last": call(module), "frozen": call(frozen), "fused": call(fused)}
