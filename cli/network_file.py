"""A network in one npz file: layers, codes, formats and scales, without pickle.

The member ``network`` is JSON text; wherever it says ``{"array": name}`` the array is the member
of that name. Everything is checked on reading, as files are untrusted.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.cli.data import load_npz
from opennpe.cli.files import output_file
from opennpe.golden import formats
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError, OpenNPEError
from opennpe.golden.network import Network, Tensor

__all__ = ["SCHEMA", "load", "save"]

SCHEMA = "opennpe.network/1"
KINDS: dict[str, Any] = {
    name: getattr(L, name) for name in L.__all__ if name not in ("Clip", "Layer", "LayerBase")
}


def save(network: Network, path: str | Path) -> None:
    """Write a network; the file appears whole or not at all."""
    arrays: dict[str, Any] = {}
    layers = [
        {"type": type(layer).__name__}
        | {
            field.name: _pack(getattr(layer, field.name), f"layers/{index}/{field.name}", arrays)
            for field in dataclasses.fields(layer)
        }
        for index, layer in enumerate(network.layers)
    ]
    for name, codes in network.constants.items():
        arrays[f"constants/{name}"] = codes
    head = {
        "schema": SCHEMA,
        "name": network.name,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "tensors": [dataclasses.asdict(tensor) for tensor in network.tensors.values()],
        "constants": list(network.constants),
        "layers": layers,
    }
    text = json.dumps(head, allow_nan=False)
    arrays["network"] = np.frombuffer(text.encode(), dtype=np.uint8)
    with output_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load(path: str | Path) -> Network:
    """Read a network.

    Raises:
        OpenNPEError: not a network file, another version, or contents that contradict themselves.
    """
    arrays = load_npz(path)
    try:
        head = json.loads(arrays["network"].tobytes())
        if head["schema"] != SCHEMA:
            raise NetworkError(f"'{path}' has schema {head['schema']}, expected {SCHEMA}")
        tensors = [Tensor(**{**t, "shape": tuple(t["shape"])}) for t in head["tensors"]]
        network = Network(
            inputs=tuple(head["inputs"]),
            outputs=tuple(head["outputs"]),
            tensors={tensor.name: tensor for tensor in tensors},
            layers=tuple(_layer(item, arrays) for item in head["layers"]),
            constants={name: arrays[f"constants/{name}"] for name in head["constants"]},
            name=head["name"],
        )
        _check_codes(network)
    except OpenNPEError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}".strip()
        raise NetworkError(f"'{path}' is no network file of {SCHEMA}: {reason}") from error
    return network


def _pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """JSON for a layer's field; arrays go to ``arrays`` under ``name``."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, tuple | list):
        return [_pack(item, f"{name}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _unpack(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return arrays[value["array"]] if "array" in value else float(value["float"])
    if isinstance(value, list):
        return tuple(_unpack(item, arrays) for item in value)
    return value


def _layer(item: dict[str, Any], arrays: dict[str, Any]) -> L.Layer:
    kind = item.pop("type")
    if kind not in KINDS:
        raise NetworkError(f"unknown layer kind '{kind}': expected one of {', '.join(KINDS)}")
    layer: L.Layer = KINDS[kind](**{name: _unpack(v, arrays) for name, v in item.items()})
    return layer


def _check_codes(network: Network) -> None:
    for tensor in network.tensors.values():
        formats.get(tensor.format)
    for name, codes in network.constants.items():
        formats.get(network.tensors[name].format).check_codes(codes)
    for layer in network.layers:
        if isinstance(layer, L.Conv | L.Linear):
            formats.get(layer.weight_format).check_codes(layer.weights)
