"""Execs that are no dense sums: sparse layers and transposition.

Each function takes what it reads as arrays and gives result codes; :mod:`opennpe.golden.machine`
fetches and writes. docs/coprocessor.md is the prose to this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import commands as C
from opennpe.golden import exact, formats, lanes, microops
from opennpe.golden.errors import ProgramError
from opennpe.golden.machine_rows import normalised_multiplier
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["illegal", "sparse_sums", "stream_of", "transposed"]

Ints = NDArray[Any]
Words = NDArray[np.uint16]


def stream_of(spec: CoprocessorSpec, command: C.Command) -> microops.Shape:
    """How records of a sparse exec look.

    Raises:
        ProgramError: as :class:`microops.Shape`, or another format's widening.
    """
    wide = spec.mac.formats[command["mode_b"]]
    if command["weight_widen"] >= len(C.WIDEN) or command["delta"] >= len(microops.DELTAS):
        raise ProgramError(f"widening {command['weight_widen']}, difference {command['delta']}")
    pair = C.WIDEN[command["weight_widen"]]
    if pair is not None and pair[1] != wide:
        raise ProgramError(f"weights of {pair[1]} in a layer of {wide}")
    return microops.Shape(
        wide if pair is None else pair[0],
        1 << command["block_rows"],
        microops.DELTAS[command["delta"]],
        spec.line_words,
    )


def illegal(spec: CoprocessorSpec, command: C.Command) -> str:
    """What makes a command of one of these kinds illegal; empty if nothing does."""
    kind = C.KINDS[command["kind"]]
    rows, columns = spec.array.rows, spec.line_words
    names = [spec.mac.formats[command[m]] for m in ("mode_a", "mode_b", "out")]
    per_word, out_lanes = lanes.lanes(names[0]), lanes.lanes(names[2])
    if not (command["begin"] and command["finish"]) or command["fold"] or command["table"]:
        return f"a {kind} in parts, folded or with a table"
    taps = command["kernel_y"] * command["kernel_x"]
    if taps != 1 or (kind != "transpose" and command["words"] * command["last_words"] != 1):
        return f"a {kind} with taps or words"
    if kind == "transpose":
        if rows != columns or per_word != out_lanes or command["tiles"] != 1:
            return f"a transposition on {rows} rows by {columns} columns, {names[0]} to {names[2]}"
        return ""
    if kind == "sparse":
        block = 1 << command["block_rows"]
        if per_word != out_lanes or rows % block or command["lines"] % block:
            return f"blocks of {block} rows, {command['lines']} lines, {names[0]} to {names[2]}"
        if not command["inputs"] or not command["stream_lines"]:
            return "a stream of nothing"
        try:
            stream_of(spec, command)
        except ProgramError as error:
            return str(error)
        return ""
    unit = spec.softmax_unit if kind == "softmax" else spec.norm_unit
    most = min(unit.max_length, command["blocks"] * columns * per_word)
    if not 1 <= command["inputs"] <= most or command["tiles"] != 2:
        return f"a row of {command['inputs']} elements, {most} at most"
    if kind == "softmax" and not normalised_multiplier(command):
        return "a multiplier without its leading bit"
    return ""


def sparse_sums(
    spec: CoprocessorSpec, command: C.Command, lines: Words, read: Any
) -> tuple[Any, Any]:
    """Sums and NaR flags (pixel blocks, blocks, rows a block, columns, lanes).

    Args:
        spec, command: as given.
        lines: the stream.
        read: input channels (n,) to codes (pixel blocks, n, columns, lanes).

    Raises:
        ProgramError: a malformed stream.
    """
    shape = stream_of(spec, command)
    a, b = (spec.mac.formats[command[m]] for m in ("mode_a", "mode_b"))
    blocks = microops.read(shape, command["inputs"], command["tiles"], lines)
    table = np.arange(1 << shape.weight_bits)
    if b != shape.format:
        table = formats.widen_table(shape.format, b)
    found = []
    for block in blocks:
        codes = read(np.array([at for at, _ in block]))
        weights = table[np.array([w for _, w in block])]  # (records, rows)
        per_row = []
        for j in range(shape.rows):
            own = np.broadcast_to(weights[:, j, None, None], (len(block), *codes.shape[2:]))
            taps = [exact.Operand(a, codes[:, i]) for i in range(len(block))]
            per_row.append(exact.elementwise(taps, exact.Operand(b, own)))
        found.append(per_row)

    def gathered(part: int) -> Ints:
        return np.stack([np.stack([r[part] for r in rows], axis=1) for rows in found], axis=1)

    return gathered(0), gathered(1)


def transposed(codes: Ints, rows: int) -> list[tuple[int, int, Ints]]:
    """Where codes (slots, elements) go: (element, pixel tile, codes of its rows)."""
    slots, elements = codes.shape
    held = np.zeros((-(-slots // rows) * rows, elements), dtype=codes.dtype)
    held[:slots] = codes
    tiles = held.reshape(-1, rows, elements)
    return [(k, t, tiles[t, :, k]) for t in range(len(tiles)) for k in range(elements)]
