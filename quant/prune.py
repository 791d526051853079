"""One-shot magnitude pruning to a density, and recognising the zeros that weights already have.

Pruned are linear layers and 1x1 convolutions, the layers that sparse kernels take. The first
convolution and depthwise ones stay dense: they have few weights and much to lose (Elsen et al.,
*Fast Sparse ConvNets*, arXiv 1911.09723, section 4). What is smallest goes first (Zhu and Gupta,
*To prune, or not to prune*, arXiv 1710.01878): single weights, blocks by their norm, or all but
the N largest of every M. Magnitudes are real ones, an output channel's scale included.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats, sparse, sparse_pack
from opennpe.golden import layers as L
from opennpe.golden.errors import SparseError
from opennpe.golden.network import Network
from opennpe.quant.graph import Graph

__all__ = [
    "SPARSE_FROM",
    "LayerReport",
    "Pattern",
    "Recognition",
    "keep",
    "pattern",
    "prune",
    "recognise",
    "recognise_layers",
    "stays_dense",
]

SPARSE_FROM = 2 / 3
"""A layer goes sparse when more than this share of its weights is zero.

The rule of Fast Sparse ConvNets' kernels. It holds here too: an 8-bit step beside each 4-bit code
makes a stored weight cost three dense ones, so unstructured weights save bytes from there on; and
unstructured posit8, the last of the host's kernels to gain, breaks even at about 60 %
(``opennpe bench --sparse``; for one layer :mod:`opennpe.sim.sparse_choice` measures it).
"""
Model = TypeVar("Model", Network, Graph)
Weighted = L.Conv | L.Linear


@dataclass(frozen=True)
class Pattern:
    """Which weights go together.

    Attributes:
        kind: "unstructured", "blocks" or "structured".
        rows: output channels of a block (blocks of one input channel).
        n, m: weights kept of neighbouring input channels, where structured.
    """

    kind: str = "unstructured"
    rows: int = 1
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        if self.kind == "blocks":
            return f"{self.rows}x1"
        return f"{self.n}:{self.m}" if self.kind == "structured" else self.kind


def pattern(text: str | Pattern) -> Pattern:
    """A pattern by name: "unstructured", "4x1" (output by input channels), "2:4" (N:M).

    Raises:
        SparseError: no such pattern.
    """
    if isinstance(text, Pattern):
        return text
    blocks, structured = re.fullmatch(r"(\d+)x1", text), re.fullmatch(r"(\d+):(\d+)", text)
    if text == "unstructured":
        return Pattern()
    if blocks and int(blocks[1]) in sparse.BLOCK_ROWS:
        return Pattern("blocks", rows=int(blocks[1]))
    if structured and 1 <= int(structured[1]) <= int(structured[2]) <= 256:
        return Pattern("structured", n=int(structured[1]), m=int(structured[2]))
    raise SparseError(
        f"pattern '{text}': expected 'unstructured', '4x1' (output x input channels; "
        f"{', '.join(map(str, sparse.BLOCK_ROWS))} rows) or N:M such as '2:4'"
    )


@dataclass(frozen=True)
class LayerReport:
    """One layer of a pruned network.

    Attributes:
        name, kind: of the layer.
        rows, columns: of its weights as a matrix.
        before, after: share of weights that are not zero.
        energy: share of the squares of the weights that is left.
        pruned: whether it was a layer to prune; ``why`` says why not.
        sparse: whether it now goes sparse (:data:`SPARSE_FROM`).
    """

    name: str
    kind: str
    rows: int
    columns: int
    before: float
    after: float
    energy: float
    pruned: bool
    why: str
    sparse: bool

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def keep(weights: ArrayLike, density: float, how: str | Pattern = "unstructured") -> NDArray[Any]:
    """Which of the real weights (M, K) stay, a bool each.

    ``round(density * count)`` of the largest weights, or of the blocks with the largest norms;
    N of every M where structured, whatever the density. Of equal ones the first stay.

    Raises:
        SparseError: no matrix, a density outside 0 to 1.
    """
    wanted, size = pattern(how), np.abs(np.asarray(weights, dtype=np.float64))
    if size.ndim != 2 or not size.size:
        raise SparseError(f"pruning takes weights (rows, columns), got shape {size.shape}")
    if not 0.0 <= density <= 1.0:
        raise SparseError(f"a density lies in 0 to 1, got {density}")
    size = np.where(np.isnan(size), np.inf, size)
    rows, columns = size.shape
    if wanted.kind == "structured":
        cut = np.zeros((rows, -(-columns // wanted.m) * wanted.m))
        cut[:, :columns] = size
        groups = cut.reshape(rows, -1, wanted.m)
        order = np.argsort(-groups, axis=2, kind="stable").argsort(axis=2)
        return np.asarray((order < wanted.n).reshape(rows, -1)[:, :columns])
    height = wanted.rows
    full = np.zeros((-(-rows // height) * height, columns))
    full[:rows] = size
    norms = np.sqrt((full.reshape(-1, height, columns) ** 2).sum(axis=1))
    rank = np.argsort(-norms.reshape(-1), kind="stable").argsort().reshape(norms.shape)
    held = rank < round(density * norms.size)
    return np.asarray(np.repeat(held, height, axis=0)[:rows])


def prune(
    model: Model, density: float, how: str | Pattern = "unstructured"
) -> tuple[Model, tuple[LayerReport, ...]]:
    """The model with small weights set to zero, and a report a layer with weights.

    Args:
        model: a quantised network (codes become the code 0) or a float graph.
        density: share of the weights that stay; a structured pattern's own is N/M.
        how: a pattern or its name.

    Raises:
        SparseError: no such pattern; a density outside 0 to 1.
    """
    wanted = pattern(how)
    layers: list[L.Layer] = []
    reports = []
    first = next((layer for layer in model.layers if isinstance(layer, L.Conv)), None)
    for layer in model.layers:
        if not isinstance(layer, Weighted):
            layers.append(layer)
            continue
        why = _stays_dense(layer, layer is first)
        weights = layer.weights
        if not why:
            flat = _real(layer).reshape(len(weights), -1)
            held = keep(flat, density, wanted).reshape(weights.shape)
            weights = np.where(held, weights, np.zeros((), weights.dtype))
        reports.append(_report(layer, weights, why))
        layers.append(replace(layer, weights=weights))
    return replace(model, layers=tuple(layers)), tuple(reports)


def stays_dense(shape: tuple[int, ...], groups: int = 1, is_first: bool = False) -> str:
    """Why weights (O, I, ...) are not pruned, or nothing.

    Args:
        shape: of the weights; two extents are a linear layer's, more a convolution's.
        groups: of the convolution.
        is_first: whether it is the network's first convolution.
    """
    if len(shape) == 2:
        return ""
    if is_first:
        return "the first convolution"
    if groups > 1:
        return "depthwise" if shape[1] == 1 else "grouped"
    return "" if all(extent == 1 for extent in shape[2:]) else "no 1x1 convolution"


def _stays_dense(layer: Weighted, is_first: bool) -> str:
    groups = layer.groups if isinstance(layer, L.Conv) else 1
    return stays_dense(layer.weights.shape, groups, is_first)


def _real(layer: Weighted) -> NDArray[np.float64]:
    """The weights as real numbers."""
    if not layer.weight_format:
        return np.asarray(layer.weights, dtype=np.float64)
    values = formats.get(layer.weight_format).decode(layer.weights)
    side = layer.weight_scale.reshape(-1, *(1,) * (values.ndim - 1))
    return np.asarray(np.ldexp(values, side))


def _report(layer: Weighted, weights: NDArray[Any], why: str) -> LayerReport:
    real = np.nan_to_num(_real(layer), nan=0.0)
    total = float((real**2).sum())
    left = float((np.where(weights != 0, real, 0.0) ** 2).sum())
    after = float(np.count_nonzero(weights) / weights.size)
    return LayerReport(
        name=layer.name,
        kind=type(layer).__name__,
        rows=len(weights),
        columns=weights.size // len(weights),
        before=float(np.count_nonzero(layer.weights) / layer.weights.size),
        after=after,
        energy=left / total if total else 1.0,
        pruned=not why,
        why=why,
        sparse=not why and 1.0 - after > SPARSE_FROM,
    )


@dataclass(frozen=True)
class Recognition:
    """What the zeros of a weight matrix look like.

    Attributes:
        rows, columns: of the matrix.
        density: share of weights that are not zero.
        fill: share of the weights inside nonzero blocks of 2 and of 4 rows that are not zero.
        block_rows: 1, 2 or 4: the highest block that is at least 90 % full.
        structures: N:M patterns that the weights keep.
        packing: the packing of the fewest bits, by name.
        bits: its bits a dense weight.
        dense_bits: bits of a dense weight.
        sparse: whether more than 2/3 of the weights are zero (:data:`SPARSE_FROM`).
    """

    rows: int
    columns: int
    density: float
    fill: tuple[float, float]
    block_rows: int
    structures: tuple[tuple[int, int], ...]
    packing: str
    bits: float
    dense_bits: int
    sparse: bool

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def recognise(weights: ArrayLike, name: str = "fp4") -> Recognition:
    """Density, block structure and best packing of weights (O, ...), real or codes.

    Args:
        weights: the first axis is output channels, all others together input channels.
        name: the format the weights have or will have; it decides what a position may cost.

    Raises:
        SparseError: no weights.
    """
    given = np.asarray(weights)
    if given.ndim < 2 or not given.size:
        raise SparseError(f"weights are (output channels, ...), got shape {given.shape}")
    held = (given.reshape(len(given), -1) != 0).astype(np.uint8)
    best = sparse_pack.best(held, name)
    density = float(held.mean())
    return Recognition(
        rows=held.shape[0],
        columns=held.shape[1],
        density=density,
        fill=(sparse_pack.block_fill(held, 2), sparse_pack.block_fill(held, 4)),
        block_rows=sparse_pack.choose_rows(held),
        structures=sparse_pack.structures(held),
        packing=_describe(best),
        bits=best.bits().per_weight,
        dense_bits=int(formats.get(name).bits),
        sparse=1.0 - density > SPARSE_FROM,
    )


def _describe(packed: sparse.Packed) -> str:
    if isinstance(packed, sparse.Structured):
        return f"{packed.n}:{packed.m}"
    if isinstance(packed, sparse.BlockRows):
        return f"{packed.block[0]}x1 blocks, {packed.index_bits}-bit columns"
    return f"{packed.block[0]}x1 blocks, {packed.delta_bits}-bit {packed.steps} steps"


def recognise_layers(model: Network | Graph) -> dict[str, Recognition]:
    """:func:`recognise` for every layer that sparse kernels take, by layer name."""
    return {
        layer.name: recognise(layer.weights, layer.weight_format or "fp4")
        for layer in model.layers
        if isinstance(layer, Weighted) and not _stays_dense(layer, False)
    }
