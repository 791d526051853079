"""The simulator against golden, bit by bit: every layer kind, format, rule and layout."""

import dataclasses
import zlib

import numpy as np
import pytest
from opennpe.golden import catalog, formats, reference
from opennpe.golden.errors import FormatError
from opennpe.sim import elementwise, executor, integers, pooling, tables
from opennpe.sim.values import Value
from sim_cases import CASES, codes, tensors

pytestmark = pytest.mark.fast

SPECS = {"zero": catalog.EDGE_4X4, "minpos": catalog.STRICT_4X4}
MIXES = (
    *((name, name, name) for name in formats.ENGINE_FORMATS),
    ("fp4", "posit8", "posit16"),
    ("posit16", "posit4", "posit8"),
    ("posit8", "posit8", "fp4"),
    ("posit8", "posit16", "posit4"),
    ("posit4", "fp4", "posit16"),
)
OTHERS = (
    ("fp8_e4m3", "fp8_e5m2", "bf16"),
    ("int8", "int4", "int8"),
    ("bf16", "bf16", "bf16"),
    ("posit(12,2)", "fp6_e3m2", "posit(9,1)"),
)


def outcome(call):
    """Codes, or the kind of refusal."""
    try:
        return call()
    except FormatError as error:
        return type(error)


def compare(case, names, rule, wild, nan=False, seed=0):
    """Golden once, the simulator in both layouts and by one and three threads."""
    rng = np.random.default_rng(zlib.crc32(repr((case.name, names, seed)).encode()))
    spec = SPECS[rule]
    ins, out = tensors(case, names, rng)
    given = [codes(t, rng, wild, nan) for t in ins]
    expected = outcome(lambda: reference.evaluate_layer(spec, case.layer, ins, given, out))
    paths = set()
    for last, threads in ((False, 1), (True, 3)):
        values = [Value(first=x) for x in given]
        if last:
            values = [Value(last=v.last()) for v in values]
        got = outcome(lambda: executor._execute(spec, case.layer, values, ins, out, threads))  # noqa: B023
        if isinstance(expected, type):
            assert got is expected, f"golden refuses, the simulator gives {got}"
            continue
        assert not isinstance(got, type), f"golden gives codes, the simulator {got}"
        value, path = got
        paths.add(path)
        result = value.first()
        assert result.dtype == expected.dtype and result.shape == expected.shape
        wrong = np.argwhere(result != expected)
        assert not wrong.size, (
            f"{case.name} {names} {rule}, {'last' if last else 'first'}: at {tuple(wrong[0])} "
            f"golden {expected[tuple(wrong[0])]:x}, sim {result[tuple(wrong[0])]:x} ({path})"
        )
    return expected, paths


@pytest.mark.parametrize("rule", ["zero", "minpos"])
@pytest.mark.parametrize("names", MIXES, ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_layers_of_engine_formats(case, names, rule):
    _, paths = compare(case, names, rule, wild=0.3)
    assert "reference" not in paths, "an engine format took the slow path"


@pytest.mark.parametrize("names", OTHERS, ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_layers_of_other_formats(case, names):
    compare(case, names, "zero", wild=0.1)


@pytest.mark.parametrize("names", [MIXES[2], MIXES[3], MIXES[5], MIXES[6], OTHERS[0]], ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_nar_goes_where_golden_sends_it_or_is_refused(case, names):
    expected, _ = compare(case, names, "zero", wild=0.1, nan=True)
    missing = formats.get(names[2]).nan_code is None
    assert missing or not isinstance(expected, type)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("names", [MIXES[1], MIXES[3], MIXES[4]], ids="-".join)
def test_nothing_depends_on_where_the_work_is_cut(case, names, monkeypatch):
    """Shares of seven elements or rows, none of them worth a thread."""

    def slivers(count, threads, worth=0):
        return [(at, min(at + 7, count)) for at in range(0, count, 7)] or [(0, 0)]

    for module in (elementwise, pooling, tables, integers):
        monkeypatch.setattr(module, "spans", slivers)
    monkeypatch.setattr(pooling, "IMAGES", 1)
    compare(case, names, "zero", wild=0.3, seed=1)


@pytest.mark.parametrize("scale", [-9, 9, 40, -300])
@pytest.mark.parametrize("names", [MIXES[0], MIXES[2], MIXES[3], MIXES[4]], ids="-".join)
@pytest.mark.parametrize("name", ["add", "subtract-relu6", "add-clip", "mul-gate", "average"])
def test_distant_scales(name, names, scale):
    """Bits below the grid round on entry; far scales saturate or vanish, as golden has it."""
    case = next(c for c in CASES if c.name == name)
    rng = np.random.default_rng(abs(scale))
    ins, out = tensors(case, names, rng)
    ins[0] = dataclasses.replace(ins[0], scale=scale)
    given = [codes(t, rng, 0.3, False) for t in ins]
    for rule, spec in SPECS.items():
        expected = reference.evaluate_layer(spec, case.layer, ins, given, out)
        got, _ = executor._execute(spec, case.layer, [Value(first=x) for x in given], ins, out, 1)
        np.testing.assert_array_equal(got.first(), expected, err_msg=rule)


@pytest.mark.parametrize("names", [MIXES[3], MIXES[6], OTHERS[2]], ids="-".join)
@pytest.mark.parametrize(
    "name", ["add", "subtract-relu6", "mul", "average", "average-global", "resize-linear"]
)
def test_the_far_ends_of_a_format_meet(name, names):
    """Largest, smallest and one side by side: where sums need the most bits."""
    case = next(c for c in CASES if c.name == name)
    rng = np.random.default_rng(5)
    ins, out = tensors(case, names, rng)
    given = []
    for tensor in ins:
        fmt = formats.get(tensor.format)
        ends = fmt.encode([fmt.maxpos, -fmt.maxpos, fmt.minpos, -fmt.minpos, 0.0, 1.0, -1.5])
        given.append(rng.choice(ends, tensor.shape))
    for spec in SPECS.values():
        expected = reference.evaluate_layer(spec, case.layer, ins, given, out)
        got, _ = executor._execute(spec, case.layer, [Value(first=x) for x in given], ins, out, 1)
        np.testing.assert_array_equal(got.first(), expected)


def test_absurd_scales_take_golden_s_path():
    case = next(c for c in CASES if c.name == "add")
    rng = np.random.default_rng(0)
    ins, out = tensors(case, MIXES[2], rng)
    ins[0] = dataclasses.replace(ins[0], scale=900)
    given = [codes(t, rng, 0.0, False) for t in ins]
    values = [Value(first=x) for x in given]
    got, path = executor._execute(SPECS["zero"], case.layer, values, ins, out, 1)
    expected = reference.evaluate_layer(SPECS["zero"], case.layer, ins, given, out)
    assert path == "reference"
    np.testing.assert_array_equal(got.first(), expected)


def test_the_comparison_notices_one_wrong_bit(monkeypatch):
    def spoilt(table, codes_, threads=1):
        result = table[codes_].copy()
        result.reshape(-1)[3] ^= 1
        return result

    case = next(c for c in CASES if c.name == "relu")
    monkeypatch.setattr(elementwise, "gather", spoilt)
    with pytest.raises(AssertionError, match="relu .* golden"):
        compare(case, MIXES[2], "zero", wild=0.3)
