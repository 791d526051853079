"""Networks for co-processors that leave out kinds of execs: products run, the rest is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from attention_cases import AttentionBuilder
from host_cases import SPECS, random_network
from host_runs import check
from opennpe.golden import commands as C
from opennpe.golden.errors import (
    AccumulatorError,
    CompileError,
    DeviceError,
    FormatError,
    ProgramError,
)
from opennpe.golden.registers import capabilities
from opennpe.golden.spec import OPTIONAL_KINDS
from opennpe.host import backends
from opennpe.host.compile import compile
from sparse_cases import SparseBuilder, sparse_network

FULL = SPECS["4x4"]
PLAIN = replace(FULL, name="plain", kinds=())
SEEDS = 60
REFUSED = (CompileError, FormatError, AccumulatorError)
HAS = "which {} has no gates for: choose a spec that has them, such as STRICT_4X4"


def without(kind):
    return replace(FULL, name="less", kinds=tuple(k for k in OPTIONAL_KINDS if k != kind))


def network_of(kind):
    """A network that needs a kind of exec, its inputs, and the layer that needs it."""
    b = AttentionBuilder(np.random.default_rng(0), ("posit8",))
    x = b.tokens(8, 8)
    if kind == "transpose":
        keys = b.transpose(b.dense(x, 8), (0, 2, 1))
        y, layer = b.matmul(x, keys), "MatMul"
        y = b.matmul(y, b.dense(x, 8))
    else:
        y, layer = (b.softmax(x), "StreamSoftmax") if kind == "softmax" else (b.norm(x), "Normal")
    return b.network([x.name], [y.name]), {x.name: b.codes("posit8", x.shape)}, layer


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["softmax", "norm", "transpose"])
def test_a_layer_that_needs_a_kind_left_out_is_refused_in_one_line(kind):
    network, inputs, layer = network_of(kind)
    assert check(FULL, network, inputs)[kind]
    for own in (PLAIN, without(kind)):
        with pytest.raises(CompileError) as refused:
            compile(network, own)
        text = str(refused.value)
        assert f"({layer}" in text and text.startswith("layer '") and "\n" not in text
        assert text.endswith(f"it needs {kind}, {HAS.format(own.name)}")


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["softmax", "norm", "transpose"])
def test_what_needs_no_kind_left_out_runs(kind):
    """Each kind by itself: the others are there and used."""
    for other in ("softmax", "norm", "transpose"):
        network, inputs, _ = network_of(other)
        if other != kind:
            assert check(without(kind), network, inputs)[other]


def layers_in_rows():
    b = SparseBuilder(np.random.default_rng(1), ("posit8",))
    x = first = b.tensor((1, 30, 24))
    for _ in range(3):
        x = b.sparse(x, 24, 0.05)
    codes = b.codes("posit8", first.shape)
    return b.network([first.name], [x.name]), {first.name: codes}


@pytest.mark.fast
@pytest.mark.parametrize("sparse", ["auto", "cycles", "bytes"])
def test_sparse_layers_run_dense_where_there_are_no_gates(sparse):
    network, inputs = layers_in_rows()
    assert check(FULL, network, inputs, sparse)["sparse"] == 3
    for own in (PLAIN, without("sparse")):
        assert set(check(own, network, inputs, sparse)) <= set(C.SUM_KINDS)


@pytest.mark.fast
def test_sparse_is_refused_where_it_is_asked_for():
    network, _ = layers_in_rows()
    for own in (PLAIN, without("sparse")):
        with pytest.raises(CompileError) as refused:
            compile(network, own, sparse="always")
        assert str(refused.value).startswith("layer '")
        assert str(refused.value).endswith(
            f"cannot run sparse: it needs sparse, {HAS.format(own.name)}"
        )


@pytest.mark.fast
def test_sparse_without_transposition():
    """Layers in rows need none, nor does a choice that leaves others dense."""
    own = without("transpose")
    network, inputs = layers_in_rows()
    assert set(check(own, network, inputs, "always")) == {"sparse"}
    assert set(check(own, network, inputs, "bytes")) <= set(C.SUM_KINDS)
    for seed in range(12):
        network, inputs = sparse_network(seed)
        try:
            found = check(own, network, inputs, "auto")
        except REFUSED as error:
            assert "has no gates for" not in str(error), f"seed {seed}: {error}"
            continue
        assert not found["transpose"], seed


def test_random_networks_run_by_products_or_are_refused_for_a_kind():
    """What compiles equals golden and uses no kind left out; what does not lacks a kind."""
    seen = Counter()
    for seed in range(SEEDS):
        network, inputs = random_network(seed)
        try:
            found = check(PLAIN, network, inputs)
        except REFUSED as error:
            needed = "which plain has no gates for" in str(error)
            if needed:
                assert compile(network, FULL).size
            seen["lacking" if needed else "refused"] += 1
            continue
        assert set(found) <= set(C.SUM_KINDS), f"seed {seed}: {found}"
        seen["equal"] += 1
    assert seen["equal"] > SEEDS // 2 and seen["lacking"] > SEEDS // 12, seen
    assert seen["refused"] < SEEDS // 4, seen


@pytest.mark.fast
def test_a_device_that_lacks_kinds_is_no_device_for_the_program():
    network, _ = layers_in_rows()
    held = compile(network, FULL, sparse="never")
    backends.check_capabilities(capabilities(FULL).__getitem__, held)
    with pytest.raises((DeviceError, ProgramError), match="is for kinds dense depth max sparse"):
        backends.check_capabilities(capabilities(PLAIN).__getitem__, held)
    backends.check_capabilities(
        capabilities(PLAIN).__getitem__, compile(network, PLAIN, sparse="auto")
    )
