"""Execs that take a row of elements twice: softmax and norm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["row_results"]

Ints = NDArray[Any]


def row_results(spec: CoprocessorSpec, command: C.Command, codes: Ints) -> Ints:
    """Result codes (rows, elements of whole lines) of a softmax or norm.

    Args:
        spec, command: as given.
        codes: (rows, elements of whole lines).
    """
    name, out = (spec.mac.formats[command[m]] for m in ("mode_a", "out"))
    row, element = np.ogrid[: codes.shape[0], : codes.shape[1]]
    kept = np.minimum(command["inputs"], command["keep"] + row * command["causal"])
    keep = np.asarray(element < kept)
    words = [command[f"setting{i}"] for i in range(C.SETTINGS)]
    kind = C.KINDS[command["kind"]]
    from opennpe.golden import softmax  # noqa
    from opennpe.golden import layer_norm as norm

    unit = softmax.row_unit if kind == "softmax" else norm.row_unit
    found: Ints = unit(
        spec.softmax_unit if kind == "softmax" else spec.norm_unit,
        codes, name, words, keep, out, command["out_shift"], spec.underflow,
    )  # fmt: skip
    return found
