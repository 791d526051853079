"""``opennpe formats``: the formats there are, and what each code of one of them means."""

from __future__ import annotations

import math
from typing import Any

from opennpe.golden import formats
from opennpe.golden.errors import FormatError

__all__ = ["codes", "describe", "listing", "markdown"]

Row = dict[str, Any]


def describe(name: str) -> Row:
    """What a format is, JSON-ready.

    ``dynamic_range_bits`` is log2(maxpos/minpos); ``nan_codes`` counts NaR or NaN;
    ``lsb_log2`` is the exponent of the unit every finite value is a multiple of.
    """
    fmt = formats.get(name)
    element = fmt.element if fmt.kind == "block" else fmt
    finite = [value for value in element.values.tolist() if math.isfinite(value)]
    row = {
        "name": fmt.name,
        "kind": fmt.kind,
        "bits": element.bits,
        "values": len(set(finite)),
        "minpos": element.minpos,
        "maxpos": element.maxpos,
        "lsb_log2": element.lsb_exponent,
        "significand_bits": element.significand_bits,
        "nan_codes": int(sum(math.isnan(value) for value in element.values.tolist())),
        "engine": fmt.name in formats.ENGINE_FORMATS,
    }
    if fmt.kind == "block":
        row |= {"element": fmt.element_name, "block": fmt.size, "scale": fmt.scale}
    return row


def listing() -> list[Row]:
    """Every format that has a name of its own."""
    return [describe(name) for name in formats.names() if "(" not in name]


def codes(name: str, limit: int = 1 << 16) -> list[Row]:
    """Every code of a scalar format: its bits and its exact value.

    Raises:
        FormatError: an unknown format, or a block format, whose codes mean nothing alone.
    """
    fmt = formats.get(name)
    if fmt.kind == "block":
        raise FormatError(
            f"{fmt.name} scales blocks of {fmt.element_name}: show the codes of {fmt.element_name}"
        )
    return [
        {"code": code, "bits": f"{code:0{fmt.bits}b}", "value": _value(fmt, code)}
        for code in range(min(limit, 1 << fmt.bits))
    ]


def _value(fmt: Any, code: int) -> float | str:
    """The value as a number; the special ones by name, as JSON has no number for them."""
    value = float(fmt.values[code])
    if math.isnan(value):
        return "NaR" if fmt.kind == "posit" else "NaN"
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def markdown(rows: list[Row]) -> str:
    """The listing as a Markdown table, for the documentation."""
    lines = [
        "| format | kind | bits | values | smallest | largest | unit | significand | NaN codes |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        mark = "**" if row["engine"] else ""
        kind = row["kind"]
        if "block" in row:
            kind = f"{row['block']} x {row['element']}, scale {row['scale']}"
        lines.append(
            f"| {mark}`{row['name']}`{mark} | {kind} | {row['bits']} | {row['values']} | "
            f"{row['minpos']:.6g} | {row['maxpos']:.6g} | 2^{row['lsb_log2']} | "
            f"{row['significand_bits']} | {row['nan_codes']} |"
        )
    return "\n".join(lines)
