"""Proofs of the softmax unit's blocks.

The netlist's truth table is golden's for 2**t of every t, kept or not, for the reciprocal of every
divisor, all steps, and for every code of every format; golden's exponential and reciprocal are
proved within their errors exhaustively in ``tests/golden``. The sum: by induction over tiles
(SymbiYosys and z3) no carry ever leaves it in rows of up to ``max_length`` elements.
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
from opennpe.golden import formats
from opennpe.golden.softmax import SoftmaxSpec, exp2, logit, reciprocal
from opennpe.rtl.softmax_lane import Decode, Exp2, Logit, Scale
from opennpe.rtl.softmax_sum import Accumulate, Align, Maximum, Reciprocal, quotient_bits
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


def every(aig: Aig, tables: dict[str, int], size: int) -> list[int]:
    """The outputs' truth tables, integers of ``size`` bits, from those of the inputs."""
    full = (1 << size) - 1
    level = [0] * (aig.size + 1)
    for name, literal in aig.inputs.items():
        level[literal >> 1] = tables[name]

    def value(literal: int) -> int:
        return level[literal >> 1] ^ (full if literal & 1 else 0)

    for out, x, y in aig.gates:
        level[out >> 1] = value(x) & value(y)
    return [value(literal) for literal in aig.outputs]


def bits_of(name: str, values: NDArray[np.int64], width: int) -> dict[str, int]:
    """Truth tables of a word's bits; one bit has the word's name alone."""
    found = {}
    for bit in range(width):
        raw = np.packbits((values >> bit & 1).astype(np.uint8), bitorder="little")
        found[f"{name}[{bit}]" if width > 1 else name] = int.from_bytes(raw.tobytes(), "little")
    return found


def word_of(found: dict[str, int], name: str, width: int, size: int) -> NDArray[np.int64]:
    """Values of an output, from the truth tables of its bits."""
    values = np.zeros(size, dtype=np.int64)
    for bit in range(width):
        entry = found[f"{name}[{bit}]" if width > 1 else name]
        raw = np.frombuffer(entry.to_bytes(size // 8, "little"), dtype=np.uint8)
        values |= np.unpackbits(raw, bitorder="little").astype(np.int64) << bit
    return values


def signed(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Words as two's complement."""
    return np.where(values >> (width - 1), values - (1 << width), values)


def exponentials(spec: SoftmaxSpec, block: Exp2, folder: Path) -> bool:
    """Whether the gates of Exp2 are golden's for every t, kept and not."""
    aig, outputs = netlist(block, folder)
    step = min(1 << 16, 1 << spec.logit_bits)
    compared = 0
    for keep in (0, 1):
        for begin in range(0, 1 << spec.logit_bits, step):
            word = np.arange(begin, begin + step)
            given = {
                **bits_of("t", word, spec.logit_bits),
                **bits_of("keep", np.full_like(word, keep), 1),
            }
            found = dict(zip(outputs, every(aig, given, step), strict=True))
            t = signed(word, spec.logit_bits)
            m, n = exp2(spec, t) if keep else (np.zeros_like(t), np.full_like(t, spec.lowest))
            mantissa = word_of(found, "mantissa", spec.mantissa_bits + 1, step)
            exponent = word_of(found, "exponent", spec.integer_bits, step)
            if (mantissa != m).any() or (signed(exponent, spec.integer_bits) != n).any():
                return False
            compared += step
    assert compared == 2 << spec.logit_bits
    return True


def reciprocals(
    spec: SoftmaxSpec, block: Reciprocal, folder: Path, steps: int | None = None
) -> bool:
    """Whether the gates' division, all its steps, is golden's for every divisor."""
    aig, outputs = netlist(block, folder)
    places, size = spec.reciprocal_bits, 1 << spec.reciprocal_bits
    s = np.arange(size) + size
    remainder, quotient = np.full_like(s, size), np.zeros_like(s)
    widths = {"remainder": places + 1, "quotient": quotient_bits(spec)}
    for _ in range((spec.reciprocal_cycles if steps is None else steps) + 1):
        given = {
            **bits_of("divisor", s, places + 1),
            **bits_of("remainder", remainder, widths["remainder"]),
            **bits_of("quotient", quotient, widths["quotient"]),
        }
        found = dict(zip(outputs, every(aig, given, size), strict=True))
        rounded = word_of(found, "rounded", places + 2, size)
        remainder = word_of(found, "remainder_out", widths["remainder"], size)
        quotient = word_of(found, "quotient_out", widths["quotient"], size)
    return bool((rounded == reciprocal(spec, s)).all())


def decodes(block: Decode, folder: Path) -> int:
    """Codes of all formats for which the gates decode as golden; the rest of the slot is noise."""
    aig, outputs = netlist(block, folder)
    size, right = 1 << 16, 0
    word = np.arange(size)
    for index, name in enumerate(formats.ENGINE_FORMATS):
        given = {**bits_of("code", word, 16), **bits_of("format", np.full_like(word, index), 2)}
        found = dict(zip(outputs, every(aig, given, size), strict=True))
        significand = signed(word_of(found, "significand", 14, size), 14)
        scale = signed(word_of(found, "scale", 6, size), 6)
        nan = word_of(found, "nan", 1, size)
        fmt = formats.get(name)
        value = fmt.values[word & ((1 << fmt.bits) - 1)]
        leads = (significand == 0) | (np.abs(significand) >> 12 == 1)
        same = np.ldexp(significand.astype(float), scale - 12) == np.nan_to_num(value)
        right += int((same & leads & (nan == np.isnan(value))).sum())
    return right


def logits(spec: SoftmaxSpec, folder: Path, name: str, cases: NDArray[np.int64]) -> int:
    """How many t, of every code of a format times multipliers (K, 2), the gates give as golden."""
    decode, scale, to_grid = Decode(), Scale(spec), Logit(spec)
    size, right = 1 << 16, 0
    fmt = formats.get(name)
    each = size >> fmt.bits
    code = np.arange(size) & ((1 << fmt.bits) - 1)
    index = np.full_like(code, formats.ENGINE_FORMATS.index(name))
    nets = [netlist(block, folder) for block in (decode, scale, to_grid)]

    def step(which: int, given: dict[str, int]) -> dict[str, int]:
        aig, outputs = nets[which]
        return dict(zip(outputs, every(aig, given, size), strict=True))

    found = step(0, {**bits_of("code", code, 16), **bits_of("format", index, 2)})
    operand = {k: v for k, v in found.items() if not k.startswith("nan")}
    amount_bits = len(scale.amount)
    for begin in range(0, len(cases), each):
        part = np.resize(cases[begin : begin + each], (each, 2))
        mantissa, exponent = (np.repeat(part[:, i], 1 << fmt.bits) for i in range(2))
        found = step(
            1,
            {
                **operand,
                **bits_of("mantissa", mantissa, spec.multiplier_bits),
                **bits_of("exponent", exponent, 10),
            },
        )
        assert sum(k.startswith("amount") for k in found) == amount_bits
        t = signed(word_of(step(2, found), "t", spec.logit_bits, size), spec.logit_bits)
        want = np.concatenate([logit(spec, name, (int(k), int(e))) for k, e in part])
        right += int((t == want)[: len(cases[begin:]) << fmt.bits].sum())
    return right


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


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, reciprocal_bits=11, reciprocal_step=5)])
def test_every_reciprocal_is_golden(spec: SoftmaxSpec, tmp_path: Path) -> None:
    assert reciprocals(spec, Reciprocal(spec), tmp_path)


def test_a_step_too_few_is_found(tmp_path: Path) -> None:
    assert not reciprocals(SPEC, Reciprocal(SPEC), tmp_path, SPEC.reciprocal_cycles - 1)


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
def test_logits_of_every_code_are_golden(name: str, tmp_path: Path) -> None:
    """4- and 8-bit codes with every exponent, posit16 around where t neither vanishes nor clips."""
    rng = np.random.default_rng(1)
    low = 1 << (SPEC.multiplier_bits - 1)
    span = range(-60, 40, 9) if name == "posit16" else range(-512, 512)
    mantissas = [low, 2 * low - 1, *rng.integers(low, 2 * low, 2)]
    cases = np.array([(k, e) for k in mantissas for e in span])
    got = logits(SPEC, tmp_path, name, cases)
    assert got == len(cases) << formats.get(name).bits


def test_a_logit_of_another_rounding_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = logit

    def down(spec: SoftmaxSpec, name: str, factor: tuple[int, int]) -> NDArray[np.int64]:
        return right(replace(spec, fraction_bits=spec.fraction_bits + 1), name, factor) >> 1

    cases = np.array([(50000, -17)])
    exact = 1 << formats.get("posit8").bits
    assert logits(SPEC, tmp_path, "posit8", cases) == exact
    monkeypatch.setitem(logits.__globals__, "logit", down)
    assert logits(SPEC, tmp_path, "posit8", cases) < exact


def test_every_code_is_decoded(tmp_path: Path) -> None:
    assert decodes(Decode(), tmp_path) == 4 << 16


@pytest.mark.parametrize(
    "spec",
    [
        replace(SMALL, mode="exact"),
        replace(SMALL, mode="truncating"),
        replace(SPEC, mode="truncating"),
        pytest.param(SPEC, marks=pytest.mark.regress),
    ],
    ids=["small, exact", "small, truncating", "the default, truncating", "the default"],
)
def test_no_carry_leaves_the_sum(spec: SoftmaxSpec, tmp_path: Path) -> None:
    verdict = check(Sums(spec, spec.max_length), tmp_path, "prove", 2)
    assert (verdict.status, verdict.broken) == ("PASS", ()), verdict.log


@pytest.mark.parametrize("mode", ["exact", "truncating"])
def test_longer_rows_overflow(mode: Any, tmp_path: Path) -> None:
    """The limit is the limit: with more elements a carry is lost."""
    spec = replace(SMALL, mode=mode)
    verdict = check(Sums(spec, spec.max_length + spec.lanes), tmp_path, "bmc", 8)
    assert (verdict.status, verdict.broken) == ("FAIL", ("no carry is lost",)), verdict.log
