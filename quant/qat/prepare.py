"""From a PyTorch module to a :class:`QuantModule`, and on to golden's network and to a file."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, ModelError
from opennpe.golden.network import Network
from opennpe.quant import export
from opennpe.quant.graph import Graph
from opennpe.quant.importer import load_onnx
from opennpe.quant.policy import Policy
from opennpe.quant.qat.module import Options, QuantModule
from opennpe.quant.qat.split_attention import split
from torch import nn

__all__ = ["capture", "convert", "export_onnx", "prepare"]

OPSET = 17


def prepare(
    model: nn.Module | Graph,
    example: Any,
    policy: Policy | str,
    samples: Any,
    options: Options | None = None,
) -> QuantModule:
    """A module to train whose forward values are those of the engine.

    Args:
        model: a PyTorch module, left as it is (batch normalisation is folded in the copy); or a
            float graph.
        example: its inputs for one sample, a tensor or a tuple; not looked at for a graph.
        policy: formats, or one format's name.
        samples: inputs that scales are chosen from, samples along axis 0: a tensor or array, a
            tuple in the order of the inputs, or a dict by name.
        options: see :class:`Options`.

    Raises:
        UnsupportedModelError: operators that are not imported.
        PolicyError: a policy that names a layer that does not exist.
        DataError: samples that do not fit.
    """
    graph = model if isinstance(model, Graph) else capture(model, example)
    chosen = Policy.uniform(policy) if isinstance(policy, str) else policy
    return QuantModule(graph, by_name(graph, samples), chosen, options)


def by_name(graph: Graph, samples: Any) -> dict[str, Any]:
    """Samples as arrays by input name.

    Raises:
        DataError: another number of inputs.
    """
    if isinstance(samples, Mapping):
        given = dict(samples)
    else:
        several = samples if isinstance(samples, tuple | list) else (samples,)
        if len(several) != len(graph.inputs):
            raise DataError(
                f"{len(several)} arrays of samples, the network takes {len(graph.inputs)} inputs "
                f"({', '.join(graph.inputs)})"
            )
        given = dict(zip(graph.inputs, several, strict=True))
    return {
        name: values.detach().numpy() if isinstance(values, torch.Tensor) else values
        for name, values in given.items()
    }


def capture(model: nn.Module, example: Any) -> Graph:
    """The float graph of a module in evaluation mode, layers called after its submodules.

    Raises:
        ModelError: PyTorch cannot export it.
        UnsupportedModelError: operators that are not imported.
    """
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    names = _input_names(model, len(inputs))
    training = model.training
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with tempfile.TemporaryDirectory(prefix="opennpe-capture-") as folder:
            file = Path(folder, "model.onnx")
            _export(split(model), inputs, names, file)
            graph = load_onnx(file)
    finally:
        model.train(training)
        torch.backends.mha.set_fastpath_enabled(fast)
    return replace(graph, layers=_named(graph), name=type(model).__name__)


def _export(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], file: Path
) -> None:
    try:
        with warnings.catch_warnings():
            # The exporter by tracing needs nothing beside PyTorch; the other one does.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                inputs,
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                dynamic_axes={name: {0: "batch"} for name in names},
                do_constant_folding=True,
            )
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"PyTorch cannot export {type(model).__name__}: {first[0]}") from error


def _input_names(model: nn.Module, count: int) -> list[str]:
    """The names of forward's parameters."""
    found = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return found[:count] if len(found) >= count else [f"x{i}" for i in range(count)]


def _named(graph: Graph) -> tuple[L.Layer, ...]:
    """Layers by the path of the submodule that made them, in place of the exporter's scopes."""
    taken: set[str] = set()
    layers = []
    for layer in graph.layers:
        wanted = _path(layer.name, isinstance(layer, L.Conv | L.Linear))
        name, count = wanted, 2
        while name in taken:
            name, count = f"{wanted}_{count}", count + 1
        taken.add(name)
        layers.append(replace(layer, name=name))
    return tuple(layers)


def _path(scope: str, module: bool) -> str:
    """``/layer1/layer1.0/conv1/Conv`` to ``layer1.0.conv1``; ``/block/Add`` to ``block.add``.

    Args:
        module: the layer is what the innermost submodule is.
    """
    *scopes, kind = [part for part in scope.split("/") if part] or [scope]
    path: list[str] = []
    for part in scopes:
        if path and part.startswith(f"{'.'.join(path)}."):
            path = [part]
        elif path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    if not path or not module:
        path.append(kind.lower())
    return ".".join(path)


def convert(module: QuantModule) -> Network:
    """The golden network of a module's present weights and scales, for the simulator.

    Raises:
        AccumulatorError: a layer sums more than the accumulator holds.
    """
    return module.network()


def export_onnx(module: QuantModule, path: str | Path) -> None:
    """Write the network with its float weights as QONNX-style ONNX.

    ``load_onnx`` and the policy format ``model`` give back what :func:`convert` gives.

    Raises:
        ModelError: a layer that ONNX has no operator for.
        OSError: the file cannot be written.
    """
    export.write(module.float_graph(), module.network(), path)
