"""A network in one npz file: layers, codes, formats and scales, without pickle.

The member ``network`` is JSON text; wherever it says ``{"array": name}`` the array is the member
of that name. Everything is checked on reading, because files are untrusted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import attention, formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError, OpenNPEError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.whole import replacing

__all__ = ["SCHEMA", "load", "save"]

SCHEMA = "opennpe.network/1"
MAX_BYTES = 4 << 30
"""Refuse files that would unpack to more than this."""
KINDS: dict[str, Any] = {
    name: getattr(L, name) for name in L.__all__ if name not in ("Clip", "Layer", "LayerBase")
}
Arrays = dict[str, NDArray[Any]]


def save(network: Network, path: str | Path) -> None:
    """Write a network; the file appears whole or not at all.

    Raises:
        NetworkError: the file cannot be written.
    """
    arrays: Arrays = {}
    head = {
        "schema": SCHEMA,
        "name": network.name,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "tensors": [dataclasses.asdict(tensor) for tensor in network.tensors.values()],
        "constants": list(network.constants),
        "layers": [_packed(layer, index, arrays) for index, layer in enumerate(network.layers)],
    }
    for name, codes in network.constants.items():
        arrays[f"constants/{name}"] = codes
    text = json.dumps(head, allow_nan=False)
    arrays["network"] = np.frombuffer(text.encode(), dtype=np.uint8)
    file = Path(path)
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise NetworkError(f"cannot write '{file}': {error.strerror or error}") from error


def load(path: str | Path) -> Network:
    """Read a network.

    Raises:
        NetworkError: not a network file, another version, or contents that contradict themselves.
        FormatError: a format or code that does not exist.
    """
    arrays = _arrays(Path(path))
    try:
        head = json.loads(arrays["network"].tobytes())
        if head["schema"] != SCHEMA:
            raise NetworkError(f"'{path}' has schema {head['schema']}, expected {SCHEMA}")
        tensors = [_tensor(item) for item in head["tensors"]]
        network = Network(
            inputs=tuple(head["inputs"]),
            outputs=tuple(head["outputs"]),
            tensors={tensor.name: tensor for tensor in tensors},
            layers=tuple(_layer(item, arrays) for item in head["layers"]),
            constants={n: arrays[f"constants/{n}"] for n in head["constants"]},
            name=str(head["name"]),
        )
        _check(network)
    except OpenNPEError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}".strip().splitlines()[0]
        raise NetworkError(f"'{path}' is no network file of {SCHEMA}: {reason}") from error
    return network


def _arrays(file: Path) -> Arrays:
    if not file.is_file():
        raise NetworkError(f"no network file '{file}': expected an npz file")
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAX_BYTES:
            raise NetworkError(f"'{file}' unpacks to {size >> 20} MiB: at most {MAX_BYTES >> 20}")
        with np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except NetworkError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(f"'{file}' is no network file: {reason}") from error
    except (NotImplementedError, RuntimeError, SyntaxError, OverflowError) as error:
        # zipfile refuses unknown compressions so, and NumPy's header parser these.
        raise NetworkError(f"'{file}' is no network file: {type(error).__name__}") from error


def _packed(layer: L.Layer, index: int, arrays: Arrays) -> dict[str, Any]:
    fields = {
        field.name: _pack(getattr(layer, field.name), f"layers/{index}/{field.name}", arrays)
        for field in dataclasses.fields(layer)
    }
    return {"type": type(layer).__name__, **fields}


def _pack(value: Any, name: str, arrays: Arrays) -> Any:
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


def _unpack(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        return arrays[value["array"]] if "array" in value else float(value["float"])
    if isinstance(value, list):
        return tuple(_unpack(item, arrays) for item in value)
    return value


def _tensor(item: dict[str, Any]) -> Tensor:
    name, shape, fmt, scale = item["name"], item["shape"], item["format"], item["scale"]
    if not all(isinstance(n, int) and n > 0 for n in shape) or not isinstance(scale, int):
        raise NetworkError(f"tensor '{name}' has the shape {shape} and the scale {scale}")
    formats.get(fmt)
    return Tensor(name, tuple(shape), fmt, scale)


def _layer(item: dict[str, Any], arrays: Arrays) -> L.Layer:
    kind = item["type"]
    if kind not in KINDS:
        raise NetworkError(f"unknown layer kind '{kind}': expected one of {', '.join(KINDS)}")
    fields = {name: _unpack(value, arrays) for name, value in item.items() if name != "type"}
    layer: L.Layer = KINDS[kind](**fields)
    return layer


def _check(network: Network) -> None:
    """Codes that exist, and one scale and one finite bias an output channel."""
    for name, codes in network.constants.items():
        formats.get(network.tensors[name].format).check_codes(codes)
    for layer in network.layers:
        _check_parameters(layer)
        if isinstance(layer, L.Conv | L.Linear):
            formats.get(layer.weight_format).check_codes(layer.weights)
            channels = layer.weights.shape[:1]
            if layer.weight_scale.shape != channels or layer.weight_scale.dtype.kind != "i":
                raise NetworkError(f"layer '{layer.name}' needs an integer scale a channel")
            if layer.bias.shape != channels or not np.isfinite(layer.bias).all():
                raise NetworkError(f"layer '{layer.name}' needs a finite bias a channel")


def _check_parameters(layer: L.Layer) -> None:
    """Codes and numbers of the layers of transformers."""
    match layer:
        case L.StreamSoftmax():
            attention.unit(layer)
            if not (math.isfinite(layer.scale) and layer.scale > 0):
                raise NetworkError(f"layer '{layer.name}' needs a positive scale")
            _whole(layer, "offset", layer.offset)
        case L.Normalise():
            attention.norm_unit(layer)
            for name in (layer.weight_format, layer.inner_format):
                mac.operand_format(name)
            if layer.gamma is not None:
                formats.get(layer.weight_format).check_codes(layer.gamma)
            if layer.beta is not None and not np.isfinite(layer.beta.astype(np.float64)).all():
                raise NetworkError(f"layer '{layer.name}' needs a finite beta a channel")
            if not (math.isfinite(layer.epsilon) and layer.epsilon >= 0):
                raise NetworkError(f"layer '{layer.name}' needs an epsilon of at least 0")
            if layer.kind not in ("layer", "rms"):
                raise NetworkError(f"layer '{layer.name}' has no normalisation '{layer.kind}'")
            _whole(layer, "scales", layer.weight_scale, layer.inner_scale)
        case L.Rotary():
            for codes in (layer.cos, layer.sin):
                mac.operand_format(layer.weight_format).check_codes(codes)
        case L.Reduce():
            if layer.kind not in ("sum", "mean"):
                raise NetworkError(f"layer '{layer.name}' has no reduction '{layer.kind}'")
            _whole(layer, "axes", *layer.axes)
        case _:
            pass


def _whole(layer: L.LayerBase, what: str, *values: Any) -> None:
    if not all(isinstance(v, int) and abs(v) < 1 << 16 for v in values):
        raise NetworkError(f"layer '{layer.name}' has the {what} {values}: expected whole numbers")
