"""The softmax unit, Verilated, against golden: codes, running sums, exponents, cycles.

``make regress`` drives 10^5 rows and more; ``make test`` a share of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from opennpe.golden import softmax
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.rtl import softmax as unit
from opennpe.rtl.verilog import convert
from stream_softmax_rows import (
    FIXED,
    FORMATS,
    TOP,
    Outcome,
    Rows,
    Settings,
    Unit,
    compare,
    expect,
    random_rows,
    random_settings,
)

pytestmark = pytest.mark.rtl

OUTS = (*FORMATS, *FIXED)
SPECS = {
    "exact": SoftmaxSpec(lanes=4, mode="exact", fixed=True),
    "truncating": SoftmaxSpec(lanes=4, mode="truncating", fixed=True),
}
OTHERS = {
    "one lane": SoftmaxSpec(lanes=1, mode="truncating"),
    "three lanes, coarse": SoftmaxSpec(
        lanes=3, mode="exact", integer_bits=6, fraction_bits=8, table_bits=3, mantissa_bits=10,
        carry_bits=6, reciprocal_bits=9, reciprocal_step=2, multiplier_bits=9, fixed=True,
    ),
    "fine, divisor longer than a mantissa": SoftmaxSpec(
        lanes=2, mode="exact", fraction_bits=16, table_bits=6, mantissa_bits=12,
        reciprocal_bits=18, reciprocal_step=4, multiplier_bits=4,
    ),
    "tight truncating": SoftmaxSpec(
        lanes=2, mode="truncating", integer_bits=5, fraction_bits=4, table_bits=4,
        mantissa_bits=6, accumulator_bits=6, carry_bits=7, reciprocal_bits=5, reciprocal_step=1,
        multiplier_bits=12,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def units() -> dict[str, Unit]:
    return {name: Unit(spec) for name, spec in SPECS.items()}


def campaign(built: Unit, rows: int, seed: int, longest: int = 48) -> int:
    """Random rows under random settings, with and without pauses; how many were compared."""
    spec, rng, done, run = built.spec, np.random.default_rng(seed), 0, 0
    outs = OUTS if spec.fixed else FORMATS
    longest = min(longest, spec.max_length)
    while done < rows:
        batches = [
            random_rows(spec, random_settings(spec, rng, outs), 60, longest, rng) for _ in range(5)
        ]
        compare(spec, batches, built.run(batches, None if run % 3 == 0 else seed + run))
        done, run = done + 300, run + 1
    return done


@pytest.mark.parametrize("mode", SPECS)
def test_rows_are_golden(units: dict[str, Unit], mode: str) -> None:
    assert campaign(units[mode], 6_000, 1) >= 6_000


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", SPECS)
def test_a_hundred_thousand_rows_are_golden(units: dict[str, Unit], mode: str) -> None:
    done = campaign(units[mode], 60_000, 2) + campaign(units[mode], 1_500, 3, longest=600)
    print(f"{done} rows, {mode}")
    assert done >= 61_000


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", OTHERS)
def test_other_choices_are_golden(name: str) -> None:
    assert campaign(Unit(OTHERS[name]), 3_000, 4) >= 3_000


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lanes", [2, 8, 16])
def test_as_many_lanes_as_an_array_has_columns(lanes: int) -> None:
    assert campaign(Unit(SoftmaxSpec(lanes=lanes)), 3_000, 5) >= 3_000


# -- what every row must show --------------------------------------------------------------------
def settings(out: str = "posit16") -> Settings:
    return Settings("posit16", out, 0, "zero", softmax.multiplier(1.0))


def plain(spec: SoftmaxSpec, beats: list[int], codes: int = 0x4000) -> Rows:
    start = np.concatenate([[0], np.cumsum(beats)]).astype(np.int64)
    shape = (int(start[-1]), spec.lanes)
    return Rows(settings(), np.full(shape, codes, np.uint16), np.ones(shape, bool), start)


@pytest.mark.parametrize("mode", SPECS)
def test_cycles_are_the_specs(units: dict[str, Unit], mode: str) -> None:
    """Beats a cycle, turnaround, latency, period: with nothing held back, by number of beats."""
    spec = units[mode].spec
    beats = [1, 1, 2, 5, 8, 1, 64, 3]
    got = units[mode].run([plain(spec, beats)])
    at = 0
    begins = []
    for count in beats:
        one, two = got.accepted[at : at + count].T
        assert (np.diff(one) == 1).all() and (np.diff(two) == 1).all()
        assert two[0] - one[-1] == spec.turnaround
        assert (got.offered[at : at + count] - two == spec.latency).all()
        begins.append(one[0])
        at += count
    periods = [spec.row_cycles(count * spec.lanes) for count in beats[:-1]]
    assert np.diff(begins).tolist() == periods
    assert spec.turnaround <= 12 and spec.latency == 6


@pytest.mark.parametrize("mode", SPECS)
def test_the_longest_row_fills_the_sum(units: dict[str, Unit], mode: str) -> None:
    """2**carry_bits of the largest element there is, which a bit less would not hold."""
    spec = units[mode].spec
    rows = plain(spec, [spec.max_length // spec.lanes, 1], codes=0x7FFF)
    got = units[mode].run([rows], pauses=9)
    compare(spec, [rows], got)
    top = int(got.totals[-2])
    assert top.bit_length() == spec.total_bits


def test_a_wrong_expectation_is_noticed(units: dict[str, Unit]) -> None:
    built = units["exact"]
    rng = np.random.default_rng(6)
    batch = random_rows(built.spec, settings(), 20, 30, rng)
    got = built.run([batch])
    compare(built.spec, [batch], got)
    for name in ("codes", "totals", "exponents", "divisors", "places"):
        array = getattr(got, name)
        place = tuple(int(rng.integers(n)) for n in array.shape)
        array[place] ^= 1
        with pytest.raises(AssertionError, match=rf"{name}\["):
            compare(built.spec, [batch], got)
        array[place] ^= 1
    with pytest.raises(AssertionError, match="no row was compared"):
        compare(built.spec, [], got)
    short = Outcome(**{**vars(got), "divisors": got.divisors[:-1]})
    with pytest.raises((AssertionError, ValueError)):
        compare(built.spec, [batch], short)
    assert len(expect(built.spec, batch).offered) == 0


# -- planted bugs --------------------------------------------------------------------------------
MUTANTS = {
    "halves of a logit go down": ("lane", "(shifted + 1) >> 1", "shifted >> 1"),
    "posit8 is given an exponent bit": ("lane", "Mux(half, tail[1:], tail[:-1])", "tail[:-1]"),
    "lines are cut, not rounded": ("lane", "slope * rest + lines.half", "slope * rest"),
    "masked elements count": ("", "block.keep.eq(lo.keep[lane])", "block.keep.eq(1)"),
    "bits below a rounding are lost": ("lane", "aligned[: -self.bits].any()", "0"),
    "ties of a fraction go up": ("lane", "| self.sticky | kept[0]", "| self.sticky | 1"),
    "the sum stays where it is": ("sum", "self.total >> self.drop", "self.total"),
    "a new row keeps the old sum": ("sum", "Mux(self.first, 0, moved)", "moved"),
    "a new row keeps the old exponent": ("", "Mux(x.first, spec.lowest, largest)", "largest"),
    "a new row keeps the old NaR": ("", "(nan & ~a.first)", "nan"),
    "a quotient is cut": ("sum", "(self.quotient + (1 << spare - 1)) >> spare",
                          "self.quotient >> spare"),
    "pass 2 comes a cycle early": ("", "self.spec.turnaround - 1", "self.spec.turnaround - 2"),
    "the pause runs on while all stands": ("", "m.Elif(self.move & waiting", "m.Elif(waiting"),
    "codes move while a result waits": ("", "m.If(self.move & n.valid)", "m.If(n.valid)"),
    "undivided results are doubled": ("", "Mux(self.deferred, -1,", "Mux(self.deferred, -2,"),
}  # fmt: skip
QUICK = ("pass 2 comes a cycle early", "a new row keeps the old exponent")
SMALL = replace(SPECS["truncating"], lanes=2)


def planted(part: str, old: str, new: str) -> ModuleType:
    """The unit's module with one text of it, or of one of its parts, exchanged."""
    folder = Path(unit.__file__).parent
    names = {"softmax", f"softmax_{part}" if part else "softmax"}
    modules = {}
    for name in names:
        source = (folder / f"{name}.py").read_text()
        if name == (f"softmax_{part}" if part else "softmax"):
            assert source.count(old) == 1, f"{source.count(old)} places read {old!r}"
            source = source.replace(old, new)
        modules[name] = ModuleType(f"opennpe.rtl.{name}")
        exec(compile(source, f"{name}.py", "exec"), modules[name].__dict__)
    using = modules.pop("softmax")
    for changed in modules.values():
        for name, thing in vars(changed).items():
            if getattr(thing, "__module__", "") == changed.__name__ and hasattr(using, name):
                setattr(using, name, thing)
    return using


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_change_the_verilog(name: str) -> None:
    assert convert(planted(*MUTANTS[name]).Softmax(SMALL), TOP) != convert(unit.Softmax(SMALL), TOP)


def assert_caught(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENNPE_CACHE", str(folder))
    built = Unit(SMALL, convert(planted(*MUTANTS[name]).Softmax(SMALL), TOP))
    with pytest.raises(AssertionError) as caught:
        campaign(built, 6_000, 7)
    print(f"{name}: {caught.value}")


@pytest.mark.parametrize("name", QUICK)
def test_planted_bugs_are_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_caught(name, tmp_path, monkeypatch)


@pytest.mark.regress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in QUICK])
def test_every_planted_bug_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_caught(name, tmp_path, monkeypatch)
