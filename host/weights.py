"""Weights and parameters of a job as the lines that loads bring in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, lanes
from opennpe.golden.commands import PARAMETER_LINES, TABLE_LINES
from opennpe.golden.layout import Layout
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job, Task

__all__ = ["channel_tiles", "narrow_lines", "packed_parameters", "parameter_lines",
           "table_lines", "weight_steps"]  # fmt: skip

Codes = NDArray[Any]
Words = NDArray[np.uint16]
BIAS_LINES = 8


def channel_tiles(job: Job, columns: int, fold: int) -> int:
    """Channel tiles of a job."""
    return -(-job.channels // (columns // fold * job.lanes))


def weight_steps(job: Job, source: Layout, columns: int, fold: int) -> Codes:
    """Weight codes (channel tiles, steps, columns, lanes), steps in the order of the walk."""
    if job.kind == "dense":
        size = source.pixel_words * source.lanes
        blocks = np.split(job.weights, range(size, job.weights.shape[1], size), axis=1)
        parts = [b.transpose(0, 2, 3, 1).reshape(job.channels, -1) for b in blocks]
        flat = np.concatenate(parts, axis=1)
    else:
        flat = job.weights.reshape(job.channels, -1)
        if job.kind == "max":
            # One product a sum, whatever the window.
            flat = flat[:, :1]
    tiles, group = channel_tiles(job, columns, fold), columns // fold
    held = np.zeros((tiles * group * job.lanes, flat.shape[1]), dtype=flat.dtype)
    held[: job.channels] = flat
    steps = held.reshape(tiles, group, job.lanes, -1).transpose(0, 3, 1, 2)
    # Every column group works on its own pixel with the same weights.
    return np.tile(steps, (1, 1, fold, 1))


def narrow_lines(job: Job, steps: Codes) -> Words:
    """Codes (n, columns, lanes) as lines of their own format; the last may be padded."""
    columns = steps.shape[1]
    per_word = lanes.lanes(job.weight_format)
    flat = steps.reshape(-1)
    lines = -(-flat.size // (columns * per_word))
    held = np.zeros(lines * columns * per_word, dtype=formats.get(job.weight_format).dtype)
    held[: flat.size] = flat
    return lanes.pack(job.weight_format, held.reshape(lines, columns, per_word))


def parameter_lines(job: Job, spec: CoprocessorSpec, fold: int) -> Words:
    """Biases and shifts (channel tiles, lines a tile, columns)."""
    group = spec.line_words // fold
    return np.tile(packed_parameters(spec, job, job.bias, job.shift, job.lanes, group), fold)


def packed_parameters(
    spec: CoprocessorSpec, job: Task, bias: list[int], shift: list[int], share: int, group: int
) -> Words:
    """Biases and shifts (channel tiles, lines a tile, columns), ``share`` channels a column.

    Args:
        group: columns that a channel tile takes.
    """
    bits = spec.engine.lane_accumulator_bits(job.mode_a)
    tiles = -(-len(bias) // (group * share))
    found = np.zeros((tiles, PARAMETER_LINES, group), dtype=np.uint16)
    mask, shift_mask = (1 << bits) - 1, (1 << spec.engine.shift_bits) - 1
    for channel, (offset, power) in enumerate(zip(bias, shift, strict=True)):
        word, lane = divmod(channel, share)
        tile, column = divmod(word, group)
        value = (offset & mask) << lane * bits
        for i in range(BIAS_LINES):
            found[tile, i, column] |= value >> 16 * i & 0xFFFF
        found[tile, BIAS_LINES + lane, column] = power & shift_mask
    return found


def table_lines(job: Task, columns: int) -> Words:
    """The activation table (lines, columns)."""
    entries = np.zeros(TABLE_LINES, dtype=np.uint16)
    if job.table is not None:
        entries[: len(job.table)] = job.table
    return np.tile(entries[:, None], (1, columns))
