"""``opennpe quantize``: from an ONNX file and some inputs to a network file."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from opennpe import quant
from opennpe.cli import data as datasets
from opennpe.cli import graphs
from opennpe.cli.files import output_file
from opennpe.cli.study import CALIBRATION_SAMPLES
from opennpe.golden import formats, storage
from opennpe.golden import layers as L
from opennpe.golden.errors import PolicyError
from opennpe.golden.network import Network
from opennpe.quant.policy import Policy

__all__ = ["quantize", "summary"]


def quantize(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    format: str | None = None,
    policy: str | Path | None = None,
    method: str = "mse",
) -> Network:
    """Calibrate a model for one format (posit8 unless given) or one policy; write it where asked.

    Raises:
        OpenNPEError: anything wrong with the input, in one line.
    """
    if format is not None and policy is not None:
        raise PolicyError("quantize takes --format or --policy, got both: a policy names formats")
    chosen = Policy.load(policy) if policy is not None else Policy.uniform(format or "posit8")
    graph = quant.load_onnx(model)
    arrays = datasets.load_npz(data)
    samples = datasets.fit(arrays, graphs.input_shapes(graph), Path(data).name)
    network: Network = quant.calibrate(
        graph, samples.first(CALIBRATION_SAMPLES).inputs, chosen, method=method
    )
    if out is not None:
        with output_file(out) as temporary:
            storage.save(network, temporary)
    return network


def summary(network: Network) -> dict[str, Any]:
    """What a network holds, JSON-ready."""
    weights: Counter[str] = Counter()
    bits = 0
    for layer in network.layers:
        if isinstance(layer, L.Conv | L.Linear):
            weights[layer.weight_format] += layer.weights.size
            bits += layer.weights.size * formats.get(layer.weight_format).bits
    tensors = network.tensors
    return {
        "name": network.name,
        "layers": dict(Counter(type(layer).__name__ for layer in network.layers)),
        "weights_by_format": dict(weights),
        "weight_bytes": math.ceil(bits / 8),
        "macs_per_sample": sum(network.macs(layer) for layer in network.layers),
        "inputs": {n: _tensor(tensors[n]) for n in network.inputs},
        "outputs": {n: _tensor(tensors[n]) for n in network.outputs},
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "format": tensor.format, "scale_log2": tensor.scale}
