"""How a tensor's rows lie in the operand memories, and the walk of an exec over them."""

from __future__ import annotations

from dataclasses import dataclass

from opennpe.golden.layout import Layout
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job

__all__ = ["MOST", "Placement", "pixels", "placement", "places"]

MOST = (1 << 12) - 1
"""Most stretches a fill counts to, inner or outer."""
FAR = (1 << 14) - 1
"""An input column no walk comes to."""
ADDRESS_WORDS = 1 << 16


@dataclass(frozen=True)
class Placement:
    """Rows of one tensor in the operand memories, appended one after the other.

    Attributes:
        order: "lines" (one block: lines as they are), "rows" (row, block, pixel) or "pixels"
            (pixel, block).
        source: how the tensor lies in the buffer.
        factor: lines that one becomes by widening.
        unit_lines: operand lines of a unit: a source line in the order "lines", else a row.
        pixel, row, block, channel: words from one to the next.
        first: the first of the tensor's blocks that is taken.
    """

    order: str
    source: Layout
    factor: int
    blocks: int
    unit_lines: int
    pixel: int
    row: int
    block: int
    channel: int
    first: int = 0

    def units(self, first: int, stop: int) -> tuple[int, int]:
        """Units that hold rows ``first`` to ``stop - 1``."""
        if self.order != "lines":
            return first, stop
        words, columns = self.source.width * self.source.pixel_words, self.source.columns
        return first * words // columns, -(-stop * words // columns)

    def fills(
        self, first: int, stop: int, base: int, block_lines: int, start: int
    ) -> list[tuple[int, dict[str, int]]]:
        """Fills of units ``first`` to ``stop - 1``.

        Args:
            base: buffer line of unit ``start`` of the first block.
            block_lines: buffer lines from one block to the next.
            start: first unit that the buffer holds.

        Returns:
            First unit and fields of each fill; widening and target are left open.
        """
        width, found = self.source.width, []
        if self.order == "lines":
            while first < stop:
                run = min(stop - first, (1 << 16) - 1)
                found.append((first, {"source": base + first - start, "run": run,
                                      "inner": 1, "outer": 1}))  # fmt: skip
                first += run
            return found
        step = MOST if self.order == "rows" else MOST // width
        while first < stop:
            rows = min(stop - first, step)
            fields = {"source": base + (first - start) * width, "inner": self.blocks,
                      "inner_stride": block_lines}  # fmt: skip
            if self.order == "rows":
                fields |= {"run": width, "outer": rows, "outer_stride": width}
            else:
                fields |= {"run": 1, "outer": rows * width, "outer_stride": 1}
            found.append((first, fields))
            first += rows
        return found


def placement(
    job: Job, source: Layout, factor: int, taken: tuple[int, int] | None = None
) -> Placement:
    """The order in which a job wants a tensor's rows.

    Args:
        factor: lines that one becomes by widening.
        taken: first of the tensor's blocks taken and the one past the last; all unless given.
    """
    columns, width = source.columns, source.width
    first, stop = taken or (0, source.blocks)
    blocks = stop - first
    pixel = factor * source.pixel_words
    if blocks == 1:
        row = width * pixel
        return Placement("lines", source, factor, 1, factor, pixel, row, 0, columns, first)
    lines = blocks * width * factor
    order, row, block, channel = "rows", width * pixel * blocks, width * pixel, width * pixel
    if job.kind != "dense" and factor > 1:
        # Channel tiles of all blocks lie one after the other, or one step could not reach them.
        order, block, channel = "pixels", pixel, columns
        pixel *= blocks
    return Placement(order, source, factor, blocks, lines, pixel, row, block, channel, first)


def places(
    job: Job, spec: CoprocessorSpec, place: Placement, fold: int, row: int, column: int, top: int
) -> dict[str, int]:
    """Fields of the walk over output pixels from (row, column) on.

    Args:
        top: word where input row 0, column 0 lies (or would lie).
    """
    (sy, sx), (py, px), (dy, dx) = job.strides, job.pads, job.dilations
    width = job.size[1]
    iy, ix = row * sy - py, column * sx - px
    down, right = divmod(spec.array.rows * fold, width)

    def step(value: int) -> int:
        return value % ADDRESS_WORDS

    return {
        "dilation_y": dy,
        "dilation_x": dx,
        "tap_y": step(dy * place.row),
        "tap_x": step(dx * place.pixel),
        "height": place.source.height,
        "width": place.source.width,
        "iy": iy,
        "ix": ix,
        "base": step(top + iy * place.row + ix * place.pixel),
        "stride_y": sy,
        "stride_x": sx,
        "pixel_step": step(sx * place.pixel),
        "limit": width * sx - px,
        "span": width * sx,
        "wrap_step": step(sy * place.row - width * sx * place.pixel),
        "tile_y": down * sy,
        "tile_x": right * sx,
        "tile_step": step(down * sy * place.row + right * sx * place.pixel),
    }


def pixels(
    spec: CoprocessorSpec, place: Placement, fold: int, count: int, top: int
) -> dict[str, int]:
    """Fields of the walk over ``count`` pixels that lie one after the other from ``top`` on."""
    slots = spec.array.rows * fold
    return {
        "height": 1,
        "width": count,
        "base": top % ADDRESS_WORDS,
        "stride_x": 1,
        "pixel_step": place.pixel % ADDRESS_WORDS,
        "limit": FAR,
        "tile_x": slots,
        "tile_step": slots * place.pixel % ADDRESS_WORDS,
    }
