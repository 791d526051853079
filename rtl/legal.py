"""Which execs the unit refuses: what would never end, or has no meaning."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Value
from amaranth.utils import exact_log2
from opennpe.golden.commands import KINDS, ROW_KINDS, WIDEN
from opennpe.golden.formats import ENGINE_FORMATS
from opennpe.golden.microops import BLOCK_ROWS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl.microops import WIDEN_BITS, whole_records
from opennpe.rtl.operands import max_folds
from opennpe.rtl.results import code_lanes
from opennpe.rtl.rowwise import settings_of
from opennpe.rtl.sequence import by_lanes, lanes_of, of_kind

__all__ = ["illegal"]

COUNTS = ("blocks", "kernel_y", "kernel_x", "words", "last_words", "last_elements", "tiles",
          "lines")  # fmt: skip


def illegal(spec: CoprocessorSpec, given: Any) -> Value:
    """Whether an exec is an illegal command, as golden's machine has it."""
    zero = Cat(~given[name].any() for name in COUNTS).any()
    lanes, out_lanes = lanes_of(given.mode_a, given.mode_b), code_lanes(given.out)
    folds = 1 << given.fold
    uneven = lanes_of(given.mode_a, given.mode_a) != lanes_of(given.mode_b, given.mode_b)
    is_kind = {name: of_kind(spec, given.kind, name) for name in KINDS}
    known = Cat(is_kind.values()).any()
    by_rows = Cat(is_kind[name] for name in ROW_KINDS).any()
    whole = given.begin & given.finish
    plain = whole & ~given.fold.any() & ~given.table
    plain &= (given.kernel_y == 1) & (given.kernel_x == 1)
    one_word = (given.words == 1) & (given.last_words == 1)
    return (
        zero
        | uneven
        | ~known
        | (given.last_elements > lanes)
        | (folds > max_folds(spec))
        | (given.fold.any() & (lanes != out_lanes))
        | (given.table & (out_lanes == 1))
        | (is_kind["max"] & ~whole)
        | ((is_kind["sparse"] | is_kind["transpose"]) & (~plain | (lanes != out_lanes)))
        | (is_kind["transpose"] & ~_square(spec, given))
        | (is_kind["sparse"] & ~(one_word & _sparse(spec, given)))
        | (by_rows & ~(plain & one_word & _row(spec, given, lanes)))
        | (is_kind["softmax"] & ~settings_of(given, "softmax").multiplier[-1])
    )


def _square(spec: CoprocessorSpec, given: Any) -> Value:
    """Transpositions fill whole parts of a line with an element of all rows."""
    return Const(int(spec.array.rows == spec.array.columns), 1) & (given.tiles == 1)


def _sparse(spec: CoprocessorSpec, given: Any) -> Value:
    """Row blocks that share the rows, and records that there are."""
    fits = [spec.array.rows % rows == 0 for rows in BLOCK_ROWS]
    rows = Array([*(Const(int(fit), 1) for fit in fits), Const(0, 1)])[given.block_rows]
    among = given.lines & ((1 << given.block_rows) - 1)
    pairs = [WIDEN[i] if i < len(WIDEN) else ("", "") for i in range(1 << WIDEN_BITS)]
    modes = [
        Cat(Const(int(pair is None or pair[1] == name), 1) for name in ENGINE_FORMATS)
        for pair in pairs
    ]
    widens = Array(modes)[given.weight_widen].bit_select(given.mode_b, 1)
    there = given.inputs.any() & given.stream_lines.any()
    return rows & ~among.any() & widens & there & whole_records(spec, given)


def _row(spec: CoprocessorSpec, given: Any, lanes: Value) -> Value:
    """Rows as long as their lines hold and their unit takes, read twice."""
    columns = exact_log2(spec.line_words)
    whole = given.blocks << columns
    most = by_lanes(lanes, whole, whole << 1, whole << 2)
    units: dict[str, Any] = {"softmax": spec.softmax_unit, "norm": spec.norm_unit}
    limits = [given.inputs <= units[name].max_length for name in ROW_KINDS]
    kinds = [of_kind(spec, given.kind, name) for name in ROW_KINDS]
    short = Cat(a & b for a, b in zip(kinds, limits, strict=True)).any()
    return short & given.inputs.any() & (given.inputs <= most) & (given.tiles == 2)
