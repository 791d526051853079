"""Execs that take a row of elements twice, softmax and norm, and the settings in a command."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden import layer_norm, softmax
from opennpe.golden.softmax_spec import MULTIPLIER_EXPONENT_BITS
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["NORM_FIELDS", "SOFTMAX_FIELDS", "norm_settings", "normalised_multiplier",
           "row_results", "softmax_settings"]  # fmt: skip

Ints = NDArray[Any]
SOFTMAX_FIELDS = (("multiplier", 16), ("multiplier_exponent", MULTIPLIER_EXPONENT_BITS))
"""Fields of the settings' 96 bits of a softmax, low first; the exponent is signed."""
NORM_FIELDS = (("epsilon", 32), ("epsilon_shift", 8), ("kind", 1), ("count", 17))
"""Those of a norm, as :class:`opennpe.golden.layer_norm.Settings` calls them."""
WORD_BITS = 32


def _words(fields: tuple[tuple[str, int], ...], values: dict[str, int]) -> dict[str, int]:
    word, place = 0, 0
    for name, width in fields:
        word |= (values[name] & ((1 << width) - 1)) << place
        place += width
    mask = (1 << WORD_BITS) - 1
    return {f"setting{i}": word >> WORD_BITS * i & mask for i in range(C.SETTINGS)}


def _values(fields: tuple[tuple[str, int], ...], command: C.Command) -> dict[str, int]:
    word = sum(command[f"setting{i}"] << WORD_BITS * i for i in range(C.SETTINGS))
    found, place = {}, 0
    for name, width in fields:
        found[name] = word >> place & ((1 << width) - 1)
        place += width
    return found


def softmax_settings(multiplier: softmax.Multiplier) -> dict[str, int]:
    """Fields ``setting0`` to ``setting2`` of a softmax (:func:`golden.softmax.multiplier`)."""
    mantissa, exponent = multiplier
    return _words(SOFTMAX_FIELDS, {"multiplier": mantissa, "multiplier_exponent": exponent})


def norm_settings(given: layer_norm.Settings) -> dict[str, int]:
    """Fields ``setting0`` to ``setting2`` of a norm (:func:`golden.layer_norm.settings`)."""
    return _words(NORM_FIELDS, vars(given))


def normalised_multiplier(command: C.Command) -> bool:
    """Whether a softmax's multiplier has its leading bit, as the gates rely on."""
    found, widths = _values(SOFTMAX_FIELDS, command), dict(SOFTMAX_FIELDS)
    return bool(found["multiplier"] >> (widths["multiplier"] - 1))


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
    if C.KINDS[command["kind"]] == "norm":
        given = _norm(spec, command)
        rows = [
            layer_norm.normalised(spec.norm_unit, given, *pair)
            for pair in zip(codes, keep, strict=True)
        ]
        return np.stack(rows)
    found = _values(SOFTMAX_FIELDS, command)
    half = 1 << (MULTIPLIER_EXPONENT_BITS - 1)
    exponent = (found["multiplier_exponent"] ^ half) - half
    return np.asarray(
        softmax.softmax(
            spec.softmax_unit, codes, name, (found["multiplier"], exponent), keep, out,
            command["out_shift"], spec.underflow,
        )
    )  # fmt: skip


def _norm(spec: CoprocessorSpec, command: C.Command) -> layer_norm.Settings:
    return layer_norm.Settings(
        format=command["mode_a"],
        out=command["out"],
        out_shift=command["out_shift"],
        underflow_zero=int(spec.underflow == "zero"),
        **_values(NORM_FIELDS, command),
    )
