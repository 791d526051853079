"""The reader of sparse TFLite tensors, on tensors made by hand."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.fast

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sparse_detectors.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sparse_detectors", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Vector:
    """Stands in for a flatbuffer's vector: its table is the list itself."""

    def Init(self, held, _):
        self.held = held

    def ValuesAsNumpy(self):
        return np.array(self.held)


def sparsity(order, dimensions, blocks=0):
    held = [
        SimpleNamespace(
            Format=lambda d=d: 0 if d is None else 1,
            ArraySegmentsType=lambda: 3,
            ArrayIndicesType=lambda: 2,
            ArraySegments=lambda d=d: SimpleNamespace(Bytes=d[0], Pos=0),
            ArrayIndices=lambda d=d: SimpleNamespace(Bytes=d[1], Pos=0),
        )
        for d in dimensions
    ]
    return SimpleNamespace(
        TraversalOrderAsNumpy=lambda: np.array(order),
        BlockMapLength=lambda: blocks,
        DimMetadata=lambda i: held[i],
    )


def reader(script):
    file = object.__new__(script.File)
    file.tflite = SimpleNamespace(Int32Vector=Vector, Uint16Vector=Vector, Uint8Vector=Vector)
    return file


def test_rows_with_indices_are_written_out(script):
    values = np.arange(1, 6, dtype=np.float32)
    held = sparsity([0, 1, 2, 3], [None, None, None, ([0, 2, 2, 5], [1, 3, 0, 2, 3])])
    dense = reader(script).densified(values, (3, 1, 1, 4), held)
    assert dense.reshape(3, 4).tolist() == [[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 4, 5]]


def test_another_order_of_traversal_is_undone(script):
    values = np.arange(1, 4, dtype=np.float32)
    held = sparsity([1, 0], [None, ([0, 1, 3], [1, 0, 1])])
    dense = reader(script).densified(values, (2, 2), held)
    assert dense.tolist() == [[0, 2], [1, 3]]


def test_what_is_not_understood_is_refused(script):
    values = np.arange(2, dtype=np.float32)
    with pytest.raises(SystemExit, match="in blocks"):
        reader(script).densified(values, (2,), sparsity([0, 1], [None, None], 1))
    with pytest.raises(SystemExit, match="2 values for 1 places"):
        reader(script).densified(values, (2,), sparsity([0], [([0, 1], [1])]))


def test_only_pointwise_layers_lose_multiplications(script):
    weights = np.zeros((8, 1, 1, 32), np.float32)
    weights[:, 0, 0, ::8] = 1
    found = script.count("n", script.Layer("l", "1x1", weights, 10), "fp4")
    assert (found.macs_dense, found.macs_nonzero, found.goes_sparse) == (2560, 320, True)
    assert found.bytes_sparse < found.bytes_dense == 128
    other = script.count("n", script.Layer("l", "3x3", weights, 10), "fp4")
    assert (other.macs_nonzero, other.goes_sparse, other.packing) == (2560, False, "dense")


def test_names_are_the_operators_own(script):
    joined = "m/a/Relu;m/b/FusedBatchNormV3;m/conv2d_7/Conv2D"
    assert script.short(joined) == "conv2d_7" and script.short("conv2d") == "conv2d"
