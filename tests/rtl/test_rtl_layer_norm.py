"""The normalisation unit's gates against golden: sums, codes, cycles, planted faults."""

from __future__ import annotations

import numpy as np
import pytest
from layer_norm_cases import FAULTS, differences, faulty_verilog, stimuli
from opennpe.golden import formats
from opennpe.golden import layer_norm as ln
from opennpe.golden.errors import DataError, ToolError
from opennpe.golden.layer_norm_spec import NormSpec
from opennpe.rtl.layer_norm_replay import Replayer, Row

SPEC = NormSpec()
SPECS = {
    "one lane": NormSpec(lanes=1),
    "two lanes": NormSpec(lanes=2),
    "sixteen lanes": NormSpec(lanes=16),
    "narrow": NormSpec(lanes=3, fraction_bits=6, integer_bits=8, length_bits=6, rsqrt_bits=15,
                       table_bits=4, seed_bits=6, middle_bits=10, digit_bits=4, epsilon_bits=8),
    "wide digits": NormSpec(lanes=2, fraction_bits=14, length_bits=10, digit_bits=16),
}  # fmt: skip


def sweep(spec: NormSpec, rows: int, longest: int, seed: int) -> int:
    """Replays the rows with pauses and without; returns how many."""
    cases = stimuli(spec, rows, longest, seed)
    unit = Replayer(spec)
    for idle_seed in (None, seed):
        found = differences(cases, unit.run([case.row for case in cases], idle_seed))
        assert not found, "\n".join(found[:5])
    return len(cases)


@pytest.mark.rtl
def test_gates_are_golden() -> None:
    assert sweep(SPEC, 3000, 400, 1) >= 3000


@pytest.mark.rtl
@pytest.mark.regress
def test_gates_are_golden_for_a_hundred_thousand_rows() -> None:
    total = sum(sweep(SPEC, 10_500, 300, seed) for seed in range(2, 12))
    assert total >= 100_000


@pytest.mark.rtl
@pytest.mark.regress
@pytest.mark.parametrize("name", SPECS)
def test_other_units_are_golden(name: str) -> None:
    spec = SPECS[name]
    assert sweep(spec, 2500, min(spec.max_length, 200), 3) >= 2500


@pytest.mark.rtl
def test_the_longest_row() -> None:
    fmt = formats.get("posit16")
    rng = np.random.default_rng(0)
    rows, wanted = [], []
    for codes in (
        np.full(SPEC.max_length, int(fmt.encode(fmt.maxpos))),
        np.tile([int(fmt.encode(fmt.maxpos)), int(fmt.encode(-fmt.maxpos))], SPEC.max_length // 2),
        fmt.encode(rng.normal(size=SPEC.max_length)),
    ):
        settings = ln.settings(SPEC, "posit16", len(codes))
        rows.append(Row(settings, codes.astype(np.uint16), np.ones(len(codes), dtype=bool)))
        wanted.append(ln.normalise(SPEC, codes, "posit16"))
    run = Replayer(SPEC).run(rows)
    assert all(np.array_equal(a, b) for a, b in zip(run.codes, wanted, strict=True))


@pytest.mark.rtl
@pytest.mark.parametrize("lanes", [4, pytest.param(2, marks=pytest.mark.regress)])
def test_cycles_are_the_specs(lanes: int) -> None:
    spec = NormSpec(lanes=lanes)
    rng = np.random.default_rng(lanes)
    settings = ln.settings(spec, "posit8", 5)
    lengths = [int(n) for n in rng.integers(1, 60, 200)]
    rows = [
        Row(settings, rng.integers(0, 256, n).astype(np.uint16), np.arange(n) < 5) for n in lengths
    ]
    run = Replayer(spec).run(rows)
    beats = np.array([-(-n // lanes) for n in lengths])
    last_one, first_two, last_two, first_result, last_result = run.times.T
    assert set(first_two - last_one) == {spec.turnaround}
    assert set(last_two - first_two - beats + 1) == {0}
    assert set(first_result - first_two) == set(last_result - last_two) == {spec.latency}
    # Rows follow each other without a gap, and a row's cycles are what the spec says.
    assert np.array_equal(last_two + 1, np.cumsum([spec.cycles(int(b)) for b in beats]))
    assert run.cycles == last_two[-1] + spec.latency + 1


@pytest.mark.rtl
@pytest.mark.regress
@pytest.mark.parametrize("what", FAULTS)
def test_planted_faults_are_caught(what: str) -> None:
    cases = stimuli(SPEC, 4000, 100, 5)
    unit = Replayer(SPEC, faulty_verilog(SPEC, FAULTS[what]))
    rows = [case.row for case in cases]
    assert any(differences(cases, unit.run(rows, seed)) for seed in (None, 1, 2)), what


@pytest.mark.rtl
def test_without_a_fault_nothing_is_caught() -> None:
    """The planted units are the unit but for their faults."""
    cases = stimuli(SPEC, 300, 100, 5)
    unit = Replayer(SPEC, faulty_verilog(SPEC, None))
    assert not differences(cases, unit.run([case.row for case in cases], 1))
    with pytest.raises(ValueError, match="exactly once"):
        faulty_verilog(SPEC, type(next(iter(FAULTS.values())))("layer_norm", "no such text", ""))


@pytest.mark.rtl
def test_the_harness_refuses_and_judges() -> None:
    with pytest.raises(DataError, match="at least one row"):
        Replayer(SPEC).run([])
    with pytest.raises(DataError, match="64 bits, got 126"):
        Replayer(NormSpec(fraction_bits=28, integer_bits=29))
    settings = ln.settings(SPEC, "posit8", 3)
    row = Row(settings, np.array([1, 2, 3], dtype=np.uint16), np.ones(3, dtype=bool))
    text = faulty_verilog(SPEC, None)
    mute = text.replace("assign elements__ready = ", "assign elements__ready = 1'b0 & ", 1)
    assert mute != text
    with pytest.raises(ToolError, match="fell silent"):
        Replayer(SPEC, mute).run([row])
