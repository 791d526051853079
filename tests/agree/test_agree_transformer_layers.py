"""The layers of transformers: the simulator against golden, bit by bit, on random cases."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from opennpe.golden import catalog, formats, reference, rotary, shapes
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, FormatError
from opennpe.golden.network import Tensor
from opennpe.sim import attention, executor
from opennpe.sim.values import Value
from sim_cases import codes

pytestmark = pytest.mark.fast

SPECS = {"zero": catalog.EDGE_4X4, "minpos": catalog.STRICT_4X4}
MIXES = (
    *((name, name) for name in formats.ENGINE_FORMATS),
    ("posit8", "posit16"),
    ("posit16", "posit8"),
    ("fp4", "posit8"),
    ("posit8", "posit4"),
)
OTHERS = (("fp8_e5m2", "bf16"), ("int8", "int4"), ("posit(12,2)", "fp6_e3m2"))


def _random(rng, shape, fmt="posit16"):
    return formats.get(fmt).encode(rng.normal(0, 1.2, shape), "zero")


def _rotary(rng, positions, width, **options):
    cos, sin = rotary.tables(positions, width, options.get("weight_format", "posit16"))
    return L.Rotary("layer", (), "y", cos, sin, **options)


def _gamma(rng, kind, count, beta=True, **options):
    return L.Normalise(
        "layer", (), "y", kind, 1e-5, _random(rng, count, options.get("weight_format", "posit16")),
        rng.normal(size=count) if beta else None, **options,
    )  # fmt: skip


CASES = {
    "rotary": (lambda r: _rotary(r, 9, 8), [(2, 3, 7, 8)]),
    "rotary-part": (lambda r: _rotary(r, 5, 4), [(1, 5, 10)]),
    "rotary-neighbours": (
        lambda r: _rotary(r, 6, 6, interleaved=True, weight_format="posit8"), [(2, 6, 8)],
    ),
    "rotary-at": (lambda r: _rotary(r, 12, 8), [(3, 4, 8), np.array([6])]),
    "rotary-rows": (lambda r: _rotary(r, 12, 8), [(3, 4, 8), np.array([[6, 0, 11, 3]])]),
    "norm": (lambda r: L.Normalise("layer", (), "y", "layer", 1e-5), [(2, 3, 24)]),
    "norm-affine": (lambda r: _gamma(r, "layer", 24), [(2, 3, 24)]),
    "norm-narrow": (
        lambda r: _gamma(r, "layer", 10, weight_format="posit8", weight_scale=-2,
                         inner_format="posit8", inner_scale=1), [(4, 10)],
    ),
    "rms": (lambda r: _gamma(r, "rms", 12, beta=False), [(1, 2, 12)]),
    "softmax": (lambda r: L.StreamSoftmax("layer", (), "y", 0.3), [(2, 3, 11)]),
    "softmax-mask": (
        lambda r: L.StreamSoftmax("layer", (), "y", 0.25),
        [(2, 3, 4, 5), np.array([[[[1, 0, 2, 1, 1]]], [[[0] * 5]]]), np.array([1, 1, 1, 1, 0])],
    ),
    "softmax-causal": (
        lambda r: L.StreamSoftmax("layer", (), "y", 1.0, True, 2), [(2, 3, 6)],
    ),
    "softmax-at": (
        lambda r: L.StreamSoftmax("layer", (), "y", 0.7, True, positioned=True),
        [(2, 2, 9), np.array([5])],
    ),
    "softmax-cut": (
        lambda r: L.StreamSoftmax("layer", (), "y", 0.5, unit=(("mode", "truncating"),)),
        [(3, 10)],
    ),
    "append": (lambda r: L.Append("layer", (), "y"), [(1, 2, 9, 4), (1, 2, 3, 4), np.array([5])]),
    "gather": (lambda r: L.Gather("layer", (), "y"), [(9, 4), np.array([[0, 8, 3], [3, 3, 1]])]),
    "select": (
        lambda r: L.Select("layer", (), "y"),
        [np.array([[1, 0, 0, 7], [0, 1, 1, 1]]), (3, 2, 4), (2, 1)],
    ),
    "mean": (lambda r: L.Reduce("layer", (), "y", "mean", (2,)), [(2, 3, 7)]),
    "mean-middle": (lambda r: L.Reduce("layer", (), "y", "mean", (1,)), [(2, 5, 3)]),
    "sum": (lambda r: L.Reduce("layer", (), "y", "sum", (0, 2)), [(3, 4, 6)]),
}  # fmt: skip
UNIT_ONLY = ("norm", "rms", "softmax")
"""Cases whose input a unit decodes: engine formats only."""


def made(name, pair, rng):
    """A case's layer, its tensors and codes."""
    build, operands = CASES[name]
    names = tuple("abc"[: len(operands)])
    layer = replace(build(rng), inputs=names)
    ins = []
    for label, operand in zip(names, operands, strict=True):
        if isinstance(operand, np.ndarray):
            ins.append(Tensor(label, operand.shape, "index"))
        else:
            ins.append(Tensor(label, operand, pair[0], int(rng.integers(-4, 5))))
    out = Tensor(
        "y", shapes.output_shape(layer, [t.shape for t in ins]), pair[1], int(rng.integers(-4, 5))
    )
    return layer, ins, out


def outcome(call):
    try:
        return call()
    except (FormatError, DataError) as error:
        return type(error)


def compare(name, pair, rule, wild, nan=False):
    rng = np.random.default_rng(zlib.crc32(repr((name, pair, rule)).encode()))
    layer, ins, out = made(name, pair, rng)
    given = [
        operand.astype(np.uint16) if isinstance(operand, np.ndarray) else codes(t, rng, wild, nan)
        for operand, t in zip(CASES[name][1], ins, strict=True)
    ]
    spec = SPECS[rule]
    expected = outcome(lambda: reference.evaluate_layer(spec, layer, ins, given, out))
    for threads in (1, 3):
        values = [Value(first=x) for x in given]
        got = outcome(lambda: executor._execute(spec, layer, values, ins, out, threads))  # noqa: B023
        if isinstance(expected, type):
            assert got is expected
            continue
        assert not isinstance(got, type), f"golden gives codes, the simulator {got}"
        result, path = got[0].first(), got[1]
        assert result.dtype == expected.dtype and result.shape == expected.shape
        wrong = np.argwhere(result != expected)
        assert not wrong.size, (
            f"{name} {pair} {rule}: at {tuple(wrong[0])} golden "
            f"{expected[tuple(wrong[0])]:x}, sim {result[tuple(wrong[0])]:x} ({path})"
        )
    return expected, None if isinstance(expected, type) else path


@pytest.mark.parametrize("rule", ["zero", "minpos"])
@pytest.mark.parametrize("pair", MIXES, ids="-".join)
@pytest.mark.parametrize("name", CASES)
def test_transformer_layers_of_engine_formats(name, pair, rule):
    _, path = compare(name, pair, rule, wild=0.0 if pair[0] == "posit16" else 0.3)
    assert path != "reference", "an engine format took the slow path"


@pytest.mark.parametrize("pair", (*MIXES, *OTHERS), ids="-".join)
@pytest.mark.parametrize("name", CASES)
def test_transformer_layers_with_nan_and_any_code(name, pair):
    if pair in OTHERS and name.startswith(UNIT_ONLY):
        pair = ("posit8", pair[1])
    compare(name, pair, "zero", wild=0.5, nan=True)


@pytest.mark.parametrize("name", ["rotary", "norm-affine", "gather", "append", "mean"])
def test_a_planted_fault_is_seen(name, monkeypatch):
    """One code changed by one in the simulator's handler."""
    kind = type(CASES[name][0](np.random.default_rng(0)))
    handler = executor._HANDLERS[kind]

    def off_by_one(*args):
        value, path = handler(*args)
        wrong = np.array(value.first())
        wrong.reshape(-1)[-1] ^= 1
        return Value(first=wrong), path

    monkeypatch.setitem(executor._HANDLERS, kind, off_by_one)
    with pytest.raises(AssertionError, match="golden"):
        compare(name, ("posit8", "posit8"), "zero", wild=0.2)


@pytest.mark.parametrize(
    ("layer", "shapes_in", "index", "message"),
    [
        (L.Gather("g", ("a", "b"), "y"), (4, 2), np.array([4]), "row 4 of a table with 4"),
        (_rotary(None, 3, 2), (2, 2), np.array([2]), "position 3 of tables with 3"),
    ],
)
def test_rows_that_are_not_there_are_refused(layer, shapes_in, index, message):
    layer = replace(layer, inputs=("a", "b"))
    ins = [Tensor("a", shapes_in, "posit8"), Tensor("b", index.shape, "index")]
    out = Tensor("y", shapes.output_shape(layer, [shapes_in, index.shape]), "posit8")
    given = [np.zeros(shapes_in, np.uint8), index.astype(np.uint16)]
    for run in (
        lambda: reference.evaluate_layer(catalog.EDGE_4X4, layer, ins, given, out),
        lambda: executor._execute(
            catalog.EDGE_4X4, layer, [Value(first=g) for g in given], ins, out, 1
        ),
    ):
        with pytest.raises(DataError, match=message):
            run()


def test_a_full_cache_is_refused():
    layer = L.Append("cache", ("a", "b", "p"), "y")
    ins = [Tensor("a", (1, 4, 2), "posit8"), Tensor("b", (1, 2, 2), "posit8")]
    ins.append(Tensor("p", (1,), "index"))
    given = [np.zeros(t.shape, np.uint8) for t in ins]
    given[2][:] = 3
    with pytest.raises(DataError, match="rows 3 to 4 of a cache of 4: it is full"):
        attention.append(
            catalog.EDGE_4X4, layer, ins, [Value(first=g) for g in given],
            replace(ins[0], name="y"), 1,
        )  # fmt: skip
