"""Attention layers, compiled and run by the machine without the host, equal golden."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from attention_cases import AttentionBuilder, attention_network
from host_builder import FORMATS, SPECS, spec
from host_runs import check, run
from opennpe.golden import commands as C
from opennpe.golden import hazards, program, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import (
    AccumulatorError,
    CompileError,
    DeviceError,
    FormatError,
    ProgramError,
)
from opennpe.golden.machine import Machine
from opennpe.golden.network import Tensor
from opennpe.host.compile import compile
from sparse_cases import SparseBuilder

CHUNK, CHUNKS = 24, 5
SQUARE = ("2x2", "4x4", "tiny")
REFUSED = (CompileError, FormatError, AccumulatorError)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_attention_equals_golden(chunk):
    seen, kinds = Counter(), Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        name = SQUARE[seed % (3 if seed % 4 == 0 else 2)]
        network, inputs = attention_network(seed)
        try:
            found = check(SPECS[name], network, inputs)
        except REFUSED:
            seen["refused"] += 1
            continue
        except AssertionError as error:
            raise AssertionError(f"seed {seed} on {name}: {error}") from error
        kinds += found
        seen["equal"] += 1
    assert seen["equal"] >= CHUNK * 3 // 4, seen
    assert {"dense", "transpose", "softmax", "norm", "depth"} <= set(kinds)


def layer(fmt, heads, size, count, causal=False, channels=9, seed=0, **options):
    b = AttentionBuilder(np.random.default_rng(seed), (fmt,))
    x = b.tokens(count, channels)
    y = b.attention(x, heads, size, causal, **options)
    return b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 3, 4])
@pytest.mark.parametrize("fmt", FORMATS)
def test_heads_of_sizes_that_fill_no_block(fmt, heads, causal):
    for size, count in ((5, 7), (8, 13)):
        network, inputs = layer(fmt, heads, size, count, causal, seed=heads)
        check(SPECS["4x4"], network, inputs)


@pytest.mark.parametrize("name", ["2x2", "4x4"])
def test_one_projection_for_queries_keys_and_values(name):
    network, inputs = layer("posit8", 3, 5, 9, joined=True)
    check(SPECS[name], network, inputs)


def test_keys_wider_and_narrower_than_queries():
    for formats_of in (("posit8", "posit16", "posit8"), ("posit16", "posit8", "posit4")):
        network, inputs = layer("posit16", 2, 6, 11, formats_of=formats_of)
        check(SPECS["4x4"], network, inputs)


def test_only_outputs_kept():
    network, inputs = layer("posit8", 2, 8, 10)
    check(SPECS["4x4"], network, inputs, keep=())


def test_grouped_queries_share_keys_and_values():
    """Queries (1, H, G, T, D) by keys (1, H, 1, D, T): nothing is copied."""
    b = AttentionBuilder(np.random.default_rng(3), ("posit8",))
    x = b.tokens(9, 10)
    q = b.transpose(b.reshape(b.dense(x, 24), (1, 9, 2, 3, 4)), (0, 2, 3, 1, 4))
    k, v = (
        b.transpose(b.reshape(b.dense(x, 8), (1, 9, 2, 1, 4)), (0, 2, 3, 1, 4)) for _ in range(2)
    )
    scores = b.matmul(q, b.transpose(k, (0, 1, 2, 4, 3)))
    found = b.matmul(b.softmax(scores, 0.5, True), v)
    y = b.reshape(b.transpose(found, (0, 3, 1, 2, 4)), (1, 9, 24))
    y = b.dense(y, 10)
    network, inputs = b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}
    assert check(SPECS["4x4"], network, inputs)["softmax"] == 6


@pytest.mark.parametrize("first", ["norm", "split"])
def test_queries_and_keys_normalised_a_head(first):
    """Before or after tokens and heads change places."""
    b = AttentionBuilder(np.random.default_rng(9), ("posit8",))
    x = b.tokens(7, 10)

    def normed(x):
        y = b.reshape(b.dense(x, 15), (1, 7, 3, 5))
        if first == "norm":
            return b.transpose(b.norm(y), (0, 2, 1, 3))
        return b.norm(b.transpose(y, (0, 2, 1, 3)))

    scores = b.matmul(normed(x), b.transpose(normed(x), (0, 1, 3, 2)))
    y = b.matmul(b.softmax(scores), b.split(b.dense(x, 15), 3))
    network, inputs = b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}
    assert check(SPECS["4x4"], network, inputs)["norm"] == 6


def test_sparse_projections_and_dense_ones_meet():
    """Channel-major queries, keys and values; those that need pixels are transposed."""
    b = SparseBuilder(np.random.default_rng(10), ("posit8",))
    x = b.tokens(19, 24)
    q, k, v = (b.split(b.sparse(x, 24, 0.2), 3) for _ in range(3))
    scores = b.matmul(q, b.transpose(k, (0, 1, 3, 2)))
    y = b.transpose(b.matmul(b.softmax(scores), v), (0, 2, 1, 3))
    y = b.sparse(b.reshape(y, (1, 19, 24)), 24, 0.2)
    network, inputs = b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}
    assert check(SPECS["4x4"], network, inputs, sparse="always")["sparse"] >= 4


def test_a_view_that_is_an_output_is_read_in_its_own_order():
    b = AttentionBuilder(np.random.default_rng(4), ("posit8",))
    x = b.tokens(7, 6)
    y = b.split(b.dense(x, 15), 3)
    network, inputs = b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}
    held, _, found = run(SPECS["4x4"], network, inputs, keep=())
    expected = reference.evaluate(SPECS["4x4"], network, inputs)[y.name]
    assert found[y.name].shape == (1, 3, 7, 5)
    assert np.array_equal(found[y.name], expected)
    assert held.symbol(y.name).axes


def test_a_program_with_turned_tensors_is_saved_and_read(tmp_path):
    network, _ = layer("posit8", 3, 5, 9)
    held = compile(network, SPECS["4x4"], "all")
    program.save(held, tmp_path / "p.npe")
    again = program.load(tmp_path / "p.npe")
    assert again.symbols == held.symbols
    assert {"softmax", "transpose"} <= {
        C.KINDS[c["kind"]] for _, c in again.commands if c.op == "exec"
    }


def test_vectors_and_matrices_without_a_batch():
    """Products (M, K) by (K, N) of two inputs, and of an input by a constant."""
    b = AttentionBuilder(np.random.default_rng(5), ("posit8",))
    x, y = b.tensor((5, 7)), b.tensor((7, 6))
    z = b.matmul(x, y, clip=(0.0, math.inf))
    constant = b.tensor((6, 3))
    b.constants[constant.name] = b.codes("posit8", (6, 3))
    out = b.matmul(z, constant)
    network = b.network([x.name, y.name], [out.name])
    inputs = {t.name: b.codes(t.format, t.shape) for t in (x, y)}
    check(SPECS["2x8"], network, inputs)


# -- what is refused -----------------------------------------------------------------------------
def test_arrays_that_cannot_transpose_say_so():
    network, _ = layer("posit8", 2, 4, 5)
    with pytest.raises(CompileError, match="it needs a transposition, .* this one has 3 by 4"):
        compile(network, SPECS["3x4"])


def changed(network, kind, **fields):
    layers = [replace(x, **fields) if isinstance(x, kind) else x for x in network.layers]
    return replace(network, layers=tuple(layers))


def masked(mask, given=False, causal=False):
    """A network whose softmax has a mask, and its input."""
    network, inputs = layer("posit8", 2, 4, 5, causal)
    tensors = {**network.tensors, "mask": Tensor("mask", np.shape(mask), "index")}
    (soft,) = (x for x in network.layers if isinstance(x, L.StreamSoftmax))
    if given:
        network = replace(network, tensors=tensors, inputs=(*network.inputs, "mask"))
    else:
        held = {"mask": np.array(mask, dtype=np.uint16)}
        network = replace(network, tensors=tensors, constants=held)
    fields = {"inputs": (soft.inputs[0], "mask")}
    return changed(network, L.StreamSoftmax, **fields), inputs


def test_masks_are_refused_by_name():
    ones = np.ones((1, 1, 1, 5), dtype=int)
    with pytest.raises(CompileError, match="StreamSoftmax.: the mask 'mask' is no constant"):
        compile(masked(ones, given=True)[0], SPECS["4x4"])
    with pytest.raises(CompileError, match="a mask with gaps"):
        compile(masked([1, 0, 1, 1, 0])[0], SPECS["4x4"])
    with pytest.raises(CompileError, match="a mask that is not every row's"):
        compile(masked(np.tril(np.ones((5, 5), dtype=int)))[0], SPECS["4x4"])
    with pytest.raises(CompileError, match="it is causal and keeps 3 of 5"):
        compile(masked([1, 1, 1, 0, 0], causal=True)[0], SPECS["4x4"])


@pytest.mark.parametrize("keep", [0, 1, 3, 5])
def test_sentences_shorter_than_their_tensor_keep_their_tokens(keep):
    network, inputs = masked([int(i < keep) for i in range(5)])
    check(SPECS["4x4"], network, inputs)


def test_a_position_that_is_no_constant_is_refused_one_that_is_is_folded():
    network, inputs = layer("posit8", 1, 4, 5, causal=True)
    tensors = {**network.tensors, "position": Tensor("position", (1,), "index")}
    (soft,) = (x for x in network.layers if isinstance(x, L.StreamSoftmax))
    fields = {"inputs": (soft.inputs[0], "position"), "positioned": True}
    free = replace(network, tensors=tensors, inputs=(*network.inputs, "position"))
    free = changed(free, L.StreamSoftmax, **fields)
    with pytest.raises(CompileError, match="the position 'position' is no constant"):
        compile(free, SPECS["4x4"])
    for at in (0, 2, 100):
        constants = {"position": np.array([at], dtype=np.uint16)}
        told = replace(network, tensors=tensors, constants=constants)
        check(SPECS["4x4"], changed(told, L.StreamSoftmax, **fields), inputs)


def test_rows_that_keep_nothing_are_zero():
    network, inputs = layer("posit8", 2, 4, 9, causal=True)
    for offset in (-100, -9, -4, -1, 0, 3, 70000):
        check(SPECS["4x4"], changed(network, L.StreamSoftmax, offset=offset), inputs)


def test_another_unit_than_the_co_processors_is_refused():
    network, _ = layer("posit8", 1, 4, 5)
    other = changed(network, L.StreamSoftmax, unit=(("mantissa_bits", 12),))
    with pytest.raises(CompileError, match=r"its unit is SoftmaxSpec\(.*mantissa_bits=12"):
        compile(other, SPECS["4x4"])


def test_rows_longer_than_the_unit_takes_are_refused():
    own = SPECS["4x4"]
    short = replace(own, softmax=replace(own.softmax, carry_bits=3))
    network, _ = layer("posit8", 1, 4, 9)
    network = changed(network, L.StreamSoftmax, unit=(("carry_bits", 3),))
    with pytest.raises(CompileError, match="rows of 9 elements: the unit takes 8"):
        compile(network, short)


# -- planted faults ------------------------------------------------------------------------------
def tampered(held, memory, number, field, value):
    """A program's memory with one field of one command changed, and the commands."""
    offset, command = held.commands[number]
    other = C.Command(command.op, {**command.values, field: value})
    data = np.frombuffer(C.encode(other), dtype=np.uint8)
    memory = memory.copy()
    memory[held.address + offset : held.address + offset + len(data)] = data
    return memory


@pytest.mark.parametrize(
    ("kind", "field", "change"),
    [
        ("softmax", "setting0", lambda v: v ^ 0x4000),
        ("softmax", "keep", lambda v: v - 1),
        ("softmax", "causal", lambda v: 1 - v),
        ("norm", "setting1", lambda v: v ^ 1 << 8),
        ("norm", "block_step", lambda v: v + 4),
        ("transpose", "out_tile", lambda v: v + 1),
        ("transpose", "block_step", lambda v: v + 4),
        ("dense", "weight_line", lambda v: v + 1),
    ],
)
def test_planted_faults_are_seen(kind, field, change):
    b = AttentionBuilder(np.random.default_rng(8), ("posit8",))
    x = b.tokens(11, 13)
    y = b.norm(b.add(b.attention(x, 2, 5, causal=True), x))
    network, inputs = b.network([x.name], [y.name]), {x.name: b.codes(x.format, x.shape)}
    own = SPECS["4x4"]
    expected = reference.evaluate(own, network, inputs)
    held = compile(network, own, "all")
    seen = 0
    for number, (_, command) in enumerate(held.commands):
        if command.op != "exec" or C.KINDS[command["kind"]] != kind:
            continue
        memory = tampered(held, held.memory(inputs), number, field, change(command[field]))
        try:
            Machine(own).run(memory, held.address, held.lines, held.window)
        except (DeviceError, ProgramError):
            seen += 1
            continue
        found = held.results(memory)
        seen += any(not np.array_equal(found[n], expected[n]) for n in found if n in expected)
    assert seen


def test_weights_loaded_before_they_are_stored_are_a_race():
    """The wait of a dynamic product's load for the store before it, left out."""
    network, inputs = layer("posit8", 2, 8, 12)
    own = SPECS["4x4"]
    _, commands, _ = run(own, network, inputs, keep=())
    weights = C.TARGETS.index("weights")
    caught = 0
    for number, command in enumerate(commands):
        if command.op == "load" and command["target"] == weights and command["wait_store"]:
            less = C.Command("load", {**command.values, "wait_store": command["wait_store"] - 1})
            try:
                hazards.check(own, [*commands[:number], less, *commands[number + 1 :]])
            except ProgramError as error:
                assert "reads outside that store" in str(error)
                caught += 1
    assert caught


def test_a_buffer_too_small_streams_attention():
    """Scores and weights that find no room go through the memory outside."""
    small = spec(4, 4, buffer_lines=256, operand_lines=128, weight_lines=128)
    network, inputs = layer("posit8", 4, 8, 21, channels=16)
    held = compile(network, small)
    assert held.of("stream")
    assert check(small, network, inputs)["softmax"] >= 4
