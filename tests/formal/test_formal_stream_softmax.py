"""Proofs of the softmax unit's blocks.

2**t: the netlist's truth table is golden's for every t, kept or not; golden's is proved monotone
and within its error exhaustively in ``tests/golden``. The sum: by induction over tiles (SymbiYosys
and z3) no carry ever leaves it in rows of up to ``max_length`` elements.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Cat, ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import wiring
from formal_aig import Aig
from formal_axi import check
from numpy.typing import NDArray
from opennpe.golden.softmax import SoftmaxSpec, exp2
from opennpe.rtl.softmax_lane import Exp2
from opennpe.rtl.softmax_sum import Accumulate, Align, Maximum
from opennpe.rtl.verilog import convert
from pyosys import libyosys

pytestmark = pytest.mark.rtl

SPEC = SoftmaxSpec()
SMALL = SoftmaxSpec(
    lanes=2, integer_bits=4, fraction_bits=4, table_bits=2, mantissa_bits=4, accumulator_bits=7,
    carry_bits=3, reciprocal_bits=4, multiplier_bits=4,
)  # fmt: skip
"""Sixteen exponents, rows of up to eight elements: small enough for an induction by bits."""


def netlist(block: wiring.Component, folder: Path) -> tuple[Aig, list[str]]:
    """A combinational block as and-inverter graph, and the names of its outputs' bits."""
    source, target = folder / "block.v", folder / "block.aag"
    source.write_text(convert(block, "block"))
    design = libyosys.Design()
    for command in (
        f"read_verilog {source}",
        "hierarchy -top block",
        "proc",
        "flatten",
        "opt -full",
        "techmap",
        "aigmap",
        f"write_aiger -ascii -symbols {target}",
    ):
        libyosys.run_pass(command, design)
    lines = target.read_text().splitlines()
    named = [line.split(" ", 1) for line in lines if line[:1] == "o" and line[1:2].isdigit()]
    return Aig.read(target), [name for _, name in sorted(named, key=lambda x: int(x[0][1:]))]


def every(aig: Aig, names: list[str], high: dict[str, int]) -> list[int]:
    """The outputs for all values of some inputs, others fixed: a truth table each, as an integer.

    Bit i of a table belongs to the values of ``names`` that make up i, the first name lowest.
    """
    size = 1 << len(names)
    full = (1 << size) - 1
    level = [0] * (aig.size + 1)
    for name, value in high.items():
        level[aig.inputs[name] >> 1] = full * value
    for bit, name in enumerate(names):
        # 2**bit ones over as many zeros, again and again.
        level[aig.inputs[name] >> 1] = full // ((1 << (1 << bit)) + 1) << (1 << bit)

    def value(literal: int) -> int:
        return level[literal >> 1] ^ (full if literal & 1 else 0)

    for out, x, y in aig.gates:
        level[out >> 1] = value(x) & value(y)
    return [value(literal) for literal in aig.outputs]


def words(tables: list[int], size: int) -> NDArray[np.int64]:
    """Truth tables of an output's bits to its values."""
    found = np.zeros(size, dtype=np.int64)
    for bit, entry in enumerate(tables):
        raw = np.frombuffer(entry.to_bytes(size // 8, "little"), dtype=np.uint8)
        found |= np.unpackbits(raw, bitorder="little").astype(np.int64) << bit
    return found


def exponentials(spec: SoftmaxSpec, block: Exp2, folder: Path) -> bool:
    """Whether the gates of Exp2 are golden's for every t, kept and not."""
    aig, outputs = netlist(block, folder)
    p, bits = spec.mantissa_bits, spec.fraction_bits
    chunk = min(bits + 4, spec.logit_bits)
    names = [f"t[{i}]" for i in range(chunk)]
    compared = 0
    for keep in (0, 1):
        for above in range(1 << (spec.logit_bits - chunk)):
            fixed = {f"t[{chunk + i}]": above >> i & 1 for i in range(spec.logit_bits - chunk)}
            found = dict(zip(outputs, every(aig, names, {**fixed, "keep": keep}), strict=True))
            t = np.arange(1 << chunk) + (above << chunk)
            t = np.where(t >> (spec.logit_bits - 1), t - (1 << spec.logit_bits), t)
            m, n = exp2(spec, t) if keep else (np.zeros_like(t), np.full_like(t, spec.lowest))
            got = [
                words([found[f"{name}[{i}]"] for i in range(width)], len(t))
                for name, width in (("mantissa", p + 1), ("exponent", spec.integer_bits))
            ]
            if (got[0] != m).any() or (got[1] != n & ((1 << spec.integer_bits) - 1)).any():
                return False
            compared += len(t)
    assert compared == 2 << spec.logit_bits
    return True


class Sums(Elaboratable):
    """Maximum, align and accumulate around their registers; whatever elements, masked or not.

    ``capacity``: elements that a row may have.
    """

    def __init__(self, spec: SoftmaxSpec, capacity: int) -> None:
        self.spec, self.capacity = spec, capacity
        self.domain = ClockDomain("sync", reset_less=True)
        lanes = range(spec.lanes)
        self.mantissas = [Signal(spec.mantissa_bits + 1, name=f"mantissa{i}") for i in lanes]
        self.exponents = [Signal(spec.integer_bits, name=f"exponent{i}") for i in lanes]
        self.first = Signal(name="first")
        self.ports = [self.domain.clk, self.first, *self.mantissas, *self.exponents]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains += self.domain
        spec = self.spec
        m.submodules.maximum = maximum = Maximum(spec)
        m.submodules.align = align = Align(spec)
        m.submodules.accumulate = accumulate = Accumulate(spec)
        total = Signal(spec.total_bits)
        largest = Signal(maximum.largest.shape(), init=spec.lowest)
        count, before = Signal(range(self.capacity + 1)), Signal(range(self.capacity + 1))
        wide = Signal(spec.total_bits + 4)
        exact = spec.mode == "exact"
        moved = total if exact else total >> maximum.drop
        top = (2 << spec.mantissa_bits) - 1
        unit = spec.exponents - 1 if exact else spec.accumulator_bits - spec.mantissa_bits
        m.d.comb += [
            before.eq(self.first.replicate(len(count)).__invert__() & count),
            Assume(before + spec.lanes <= self.capacity),
            maximum.exponents.eq(Cat(*self.exponents)),
            maximum.largest.eq(
                Cat(
                    (self.first & (spec.lowest >> i & 1)) | (~self.first & largest[i])
                    for i in range(spec.integer_bits)
                ).as_signed()
            ),
            align.mantissas.eq(Cat(*self.mantissas)),
            align.amounts.eq(maximum.amounts),
            accumulate.total.eq(total),
            accumulate.first.eq(self.first),
            accumulate.drop.eq(maximum.drop),
            accumulate.tile.eq(align.tile),
            wide.eq((moved & (~self.first).replicate(spec.total_bits)) + align.tile),
            Assert(accumulate.result == wide, "no carry is lost"),
            # What the induction needs: the sum is at most so many of the largest element.
            Assert(total <= (count * top) << unit, "elements so far"),
        ]
        m.d.sync += [
            total.eq(accumulate.result),
            largest.eq(maximum.result),
            count.eq(before + spec.lanes),
        ]
        return m


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, fraction_bits=8, mantissa_bits=10)])
def test_exp2_is_golden_for_every_t(spec: SoftmaxSpec, tmp_path: Path) -> None:
    assert exponentials(spec, Exp2(spec), tmp_path)


def test_a_wrong_slope_is_found(tmp_path: Path) -> None:
    other = SoftmaxSpec()
    lines = other.table
    one_off = lines._replace(slope=lines.slope + (np.arange(32) == 31))
    block = Exp2(other)
    block.lines = one_off
    assert not exponentials(SPEC, block, tmp_path)


@pytest.mark.parametrize("mode", ["exact", "truncating"])
def test_no_carry_leaves_the_sum(mode: Any, tmp_path: Path) -> None:
    spec = replace(SMALL, mode=mode)
    verdict = check(Sums(spec, spec.max_length), tmp_path, "prove", 2)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


@pytest.mark.parametrize("mode", ["exact", "truncating"])
def test_longer_rows_overflow(mode: Any, tmp_path: Path) -> None:
    """The limit is the limit: with more elements a carry is lost."""
    spec = replace(SMALL, mode=mode)
    verdict = check(Sums(spec, spec.max_length + spec.lanes), tmp_path, "bmc", 8)
    assert (verdict.status, verdict.broken) == ("FAIL", ("no carry is lost",)), verdict.log
