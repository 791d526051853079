"""Random sparse execs, transpositions, softmaxes and norms for command lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from opennpe.golden import layer_norm, machine_rows, microops, softmax
from opennpe.golden.commands import KINDS, PARAMETER_LINES, SETTINGS, TARGETS, WIDEN
from opennpe.golden.errors import ProgramError
from opennpe.golden.formats import ENGINE_FORMATS, get
from opennpe.golden.spec import OPTIONAL_KINDS

PLAIN = {
    "begin": 1, "finish": 1, "blocks": 1, "kernel_y": 1, "kernel_x": 1, "words": 1,
    "last_words": 1, "last_elements": 1, "height": 1, "width": 1, "limit": 1, "tiles": 1,
}  # fmt: skip


def add_kind(b: Any, side: int) -> None:
    """One exec of a kind of its own, with loads, fills and stores; ``b`` builds the list.

    In place of kinds that its spec lacks come products, unless the list is to be ``illegal``.
    """
    square = b.spec.array.rows == b.spec.array.columns
    kinds = [k for k in OPTIONAL_KINDS if square or k != "transpose"]
    kind = str(b.rng.choice(kinds))
    if b.spec.lacks(kind) and not b.illegal:
        return b.round(side)
    mode = b.pick(0, 3)
    name = ENGINE_FORMATS[mode]
    {"sparse": _sparse, "transpose": _transpose}.get(kind, _row)(b, side, kind, mode, name)
    return None


def _operands(b: Any, side: int, name: str, nan: bool, before: dict[str, int]) -> tuple[int, int]:
    """Random lines by way of the buffer; the fill's number and the first line."""
    memory = b.spec.memory
    lines = min(memory.operand_lines // 2, b.pick(8, 60))
    source = b.pick(0, 20) + side * (memory.buffer_lines // 2)
    at = b.place(b.codes(name, lines, nan))
    waits = {"fill": max(0, before["fill"] - 1), "store": max(0, before["store"] - 1)}
    loaded = b.add("load", waits, target=TARGETS.index("buffer"), line=source, lines=lines,
                   address=at)  # fmt: skip
    first = b.pick(0, memory.operand_lines - 1)
    filled = b.add("fill", {"load": loaded, "exec": before["exec"]}, source=source, line=first,
                   run=lines, inner=1, outer=1)  # fmt: skip
    return filled, first


def _stored(b: Any, done: int, line: int, lines: int) -> None:
    assert line + lines <= b.spec.memory.buffer_lines
    b.add("store", {"exec": done}, line=line, lines=lines, address=b.out_bytes)
    b.out_bytes += (lines + b.pick(0, 2)) * b.spec.line_bytes


def _out_line(b: Any, side: int) -> int:
    half = b.spec.memory.buffer_lines // 2
    return int(b.pick(0, half // 8) + side * half + half // 2)


def _clamp(b: Any, out: str) -> dict[str, int]:
    codes = sorted(
        (int(c) for c in b.rng.integers(0, 1 << get(out).bits, 2)),
        key=lambda c: int(get(out).order_key(np.array(c))),
    )
    return {"clamp": b.pick(0, 1), "low": codes[0], "high": codes[1]}


def _sparse(b: Any, side: int, kind: str, mode: int, name: str) -> None:
    spec, rng = b.spec, b.rng
    columns, rows = spec.line_words, spec.array.rows
    lanes = 16 // int(get(name).bits)
    out = int(rng.choice([i for i in range(4) if get(ENGINE_FORMATS[i]).bits * lanes == 16]))
    mode_b = int(rng.choice([i for i in range(4) if get(ENGINE_FORMATS[i]).bits * lanes == 16]))
    wide = ENGINE_FORMATS[mode_b]
    widen = int(rng.choice([0, *(i for i, w in enumerate(WIDEN) if w and w[1] == wide)]))
    stored = WIDEN[widen][0] if WIDEN[widen] else wide
    block = int(rng.choice([i for i in range(3) if rows % (1 << i) == 0]))
    blocks, inputs = b.pick(1, 6), b.pick(1, 40)
    density = float(rng.choice([0.0, 0.1, 0.4, 1.0]))
    fmt = get(stored)
    weights = rng.integers(0, 1 << fmt.bits, (blocks << block, inputs)).astype(fmt.dtype)
    if fmt.nan_code is not None:
        weights[weights == fmt.nan_code] = 1
    weights = np.where(rng.random(weights.shape) < density, weights, 0).astype(fmt.dtype)
    for delta in rng.permutation(3):
        try:
            shape = microops.Shape(stored, 1 << block, microops.DELTAS[delta], columns)
            break
        except ProgramError:
            continue
    else:
        return b.round(side)
    packed = microops.pack(shape, weights)
    before = dict(b.counts)
    filled, first = _operands(b, side, name, False, before)
    at = b.place(packed.lines)
    weight_line = b.pick(0, spec.memory.weight_lines - 1)
    b.add("load", {"exec": before["exec"]}, target=TARGETS.index("weights"), line=weight_line,
          lines=len(packed.lines), address=at)  # fmt: skip
    tiles = -(-(blocks << block) // columns)
    parameter = b.pick(0, spec.memory.parameter_tiles - tiles)
    at = b.place(b.parameters(tiles, lanes))
    ready = b.add("load", {"exec": before["exec"]}, target=TARGETS.index("parameters"),
                  line=parameter, lines=PARAMETER_LINES * tiles, address=at)  # fmt: skip
    share = rows >> block
    pixels = b.pick(1, 2 * share + 1)
    outputs = blocks << block
    line = _out_line(b, side)
    done = b.add(
        "exec", {"fill": filled, "load": ready, "store": max(0, before["store"] - 1)},
        **PLAIN | {
            "kind": KINDS.index(kind), "mode_a": mode, "mode_b": mode_b, "out": out,
            "tiles": blocks, "block_rows": block, "delta": int(delta), "weight_widen": widen,
            "stream_lines": len(packed.lines), "inputs": inputs,
            "base": first % spec.memory.operand_lines * columns % (1 << 16),
            "pixel_step": b.pick(0, 3) * columns, "tile_step": b.pick(0, 3) * columns,
            "weight_line": weight_line, "parameter": parameter, "lines": pixels << block,
            "out_line": line, "out_tile": share * outputs, "out_block": outputs,
            **_clamp(b, ENGINE_FORMATS[out]),
        },
    )  # fmt: skip
    _stored(b, done, line, pixels * outputs)
    return None


def _transpose(b: Any, side: int, kind: str, mode: int, name: str) -> None:
    spec = b.spec
    columns, lanes = spec.line_words, 16 // int(get(name).bits)
    before = dict(b.counts)
    filled, first = _operands(b, side, name, True, before)
    blocks, words = b.pick(1, 3), b.pick(1, columns)
    last_words, last_elements = b.pick(1, words), b.pick(1, lanes)
    elements = (blocks - 1) * words * lanes + (last_words - 1) * lanes + last_elements
    pixels = b.pick(1, 3 * columns * lanes)
    line = _out_line(b, side)
    done = b.add(
        "exec", {"fill": filled, "store": max(0, before["store"] - 1)},
        **PLAIN | {
            "kind": KINDS.index(kind), "mode_a": mode, "mode_b": mode, "out": mode,
            "blocks": blocks, "words": words, "last_words": last_words,
            "last_elements": last_elements, "block_step": b.pick(0, 20), "lines": pixels,
            "base": first * columns % (1 << 16), "pixel_step": b.pick(0, 9),
            "tile_step": b.pick(0, 30), "out_line": line, "out_tile": elements,
        },
    )  # fmt: skip
    _stored(b, done, line, elements * -(-pixels // (columns * lanes)))


def _row(b: Any, side: int, kind: str, mode: int, name: str) -> None:
    spec, rng = b.spec, b.rng
    columns, lanes = spec.line_words, 16 // int(get(name).bits)
    before = dict(b.counts)
    out = b.pick(0, 3)
    nan = ENGINE_FORMATS[out] != "fp4"
    filled, first = _operands(b, side, name, nan, before)
    blocks, rows = b.pick(1, 4), b.pick(1, 9)
    inputs = b.pick((blocks - 1) * columns * lanes + 1, blocks * columns * lanes)
    causal = b.pick(0, 1) if kind == "softmax" else 0
    keep = b.pick(1, inputs) if causal else inputs
    if kind == "softmax":
        given = machine_rows.softmax_settings(softmax.multiplier(float(2.0 ** rng.uniform(-9, 5))))
    else:
        chosen = layer_norm.settings(
            spec.norm_unit, name, inputs, b.pick(-6, 6), str(rng.choice(["layer", "rms"])), 1e-5
        )
        given = machine_rows.norm_settings(chosen)
    assert len(given) == SETTINGS
    line = _out_line(b, side)
    out_lanes = 16 // int(get(ENGINE_FORMATS[out]).bits)
    wider = max(1, lanes // out_lanes)
    done = b.add(
        "exec", {"fill": filled, "store": max(0, before["store"] - 1)},
        **PLAIN | given | {
            "kind": KINDS.index(kind), "mode_a": mode, "mode_b": mode, "out": out,
            "blocks": blocks, "block_step": b.pick(0, 9) * columns, "tiles": 2, "lines": rows,
            "inputs": inputs, "causal": causal, "keep": keep, "out_shift": b.pick(-3, 8),
            "base": first * columns % (1 << 16), "tile_step": b.pick(0, 4) * columns,
            "out_line": line, "out_tile": rows * wider, "out_block": rows,
            **_clamp(b, ENGINE_FORMATS[out]),
        },
    )  # fmt: skip
    _stored(b, done, line, rows * wider * (blocks if wider > 1 or lanes == out_lanes
                                           else -(-blocks * lanes // out_lanes)))  # fmt: skip
